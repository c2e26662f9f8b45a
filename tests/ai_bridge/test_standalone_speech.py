"""Recordings to text by the bridge alone: its door, its table in the file, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.http.settings import Keys, SettingsError, read_config, read_speech
from ai_bridge.http.standalone import Standalone
from ai_bridge.speech import SpeechConfig
from bench.provider.server import ScriptedProvider
from tests.ai_bridge.test_stt import wav
from tests.support.eventually import eventually

KEY = "a-key-of-sixteen-or-more"


class House(NamedTuple):
    """A running bridge and OpenAI's own client of it."""

    standalone: Standalone
    ai: AsyncOpenAI


@asynccontextmanager
async def house(service: ScriptedProvider, **speech: object) -> AsyncIterator[House]:
    service.models = []
    bridge = Bridge(
        BridgeConfig(providers=(ProviderConfig(name="scripted", base_url=service.base_url),))
    )
    await bridge.start()
    config = SpeechConfig(**speech)  # type: ignore[arg-type]
    standalone = Standalone(bridge, {}, Keys(KEY), speech=config)
    runner = web.AppRunner(standalone.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as ai:
        yield House(standalone, ai)
    await standalone.aclose()
    await bridge.aclose()
    await runner.cleanup()


async def test_the_openai_package_gets_the_words(provider: ScriptedProvider) -> None:
    provider.reply_with = lambda request: "今天天气很好"
    async with house(provider, provider="scripted", model="seconds=2") as home:
        done = await home.ai.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", wav(2)), response_format="verbose_json"
        )
        figures = await home.ai.get("/../metrics", cast_to=str)
    assert (done.text, done.duration) == ("今天天气很好", 2.0)
    assert "parlance_speech_written 1\n" in figures


async def test_errors_have_the_vendors_shape(provider: ScriptedProvider) -> None:
    recording = ("a.wav", wav(1))
    async with house(provider, provider="scripted", model="status=500") as home:
        create = home.ai.audio.transcriptions.create
        with pytest.raises(openai.NotFoundError):
            await create(model="gpt-9", file=recording)
        with pytest.raises(openai.BadRequestError):
            await create(model="whisper-1", file=("a.png", b"\x89PNG"))
        with pytest.raises(openai.InternalServerError) as failed:
            await create(model="whisper-1", file=recording)
        assert failed.value.code == "provider_down"
        stranger = home.ai.with_options(api_key="nobody")
        with pytest.raises(openai.AuthenticationError):
            await stranger.audio.transcriptions.create(model="whisper-1", file=recording)
    async with house(provider) as home:
        with pytest.raises(openai.NotFoundError) as missing:
            await home.ai.audio.transcriptions.create(model="whisper-1", file=recording)
        assert missing.value.code == "speech_not_configured"


async def test_who_hangs_up_ends_the_call(provider: ScriptedProvider) -> None:
    async with house(provider, provider="scripted", model="silent") as home:
        call = asyncio.create_task(
            home.ai.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(1)))
        )
        await eventually(lambda: provider.requests)
        call.cancel()
        await asyncio.wait([call])
        await eventually(lambda: not provider.stats.open_connections)


async def test_its_end_ends_what_is_under_way(provider: ScriptedProvider) -> None:
    async with house(provider, provider="scripted", model="silent") as home:
        call = asyncio.create_task(
            home.ai.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(1)))
        )
        await eventually(lambda: provider.requests)
        await home.standalone.aclose()
        with pytest.raises(openai.InternalServerError) as ended:
            await call
        assert ended.value.status_code == 503


async def test_no_form_of_any_length_is_kept_for_nothing(provider: ScriptedProvider) -> None:
    async with house(provider, provider="scripted", max_bytes=1000) as home:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            form = aiohttp.FormData({"model": "whisper-1"})
            form.add_field("file", bytes(200_000), filename="a.wav")
            url = f"{home.ai.base_url}audio/transcriptions"
            async with client.post(url, data=form) as response:
                assert response.status == 413
    assert not provider.requests


# the file


def test_the_file_has_a_table_for_speech(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        'default_model = "m"\n[speech]\nbase_url = "http://s/v1"\napi_key = "env:STT"\n'
        'model = "whisper-large-v3"\nmax_s = 60\n'
    )
    speech = read_speech(file, {"STT": "sk-1"})
    assert speech.on
    assert (speech.model, speech.max_s, speech.api_key.reveal()) == ("whisper-large-v3", 60, "sk-1")
    assert read_config(file, {}).default_model == "m"
    assert not read_speech(None).on


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[speech]\nmax_s = 601", "max_s"),
        ("[speech]\nmaximum = 1", "maximum"),
        ('[speech]\napi_key = "env:GONE"', "GONE"),
        ("speech = 1", "object"),
        ("speech", "bridge.toml"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=why):
        read_speech(file, {})
