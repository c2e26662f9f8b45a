"""The bridge as a server of its own: its doors, its keys, its settings, its command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.http.settings import Keys, SettingsError, read_config, read_personas
from ai_bridge.http.standalone import Standalone
from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from tests.support.eventually import WAIT_S, eventually

ROOT = Path(__file__).parent.parent.parent
KEY = "a-key-of-sixteen-or-more"
ADA = {"id": "ada", "name": "Ada", "prompt": "You are Ada.", "temperature": 0.3, "tags": ["x"]}


class House(NamedTuple):
    """A running bridge and a client of it."""

    url: str
    client: aiohttp.ClientSession
    provider: ScriptedProvider
    bridge: Bridge

    async def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        async with self.client.request(
            method, self.url + path, json=body, headers=headers or None
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text


async def run(provider: ScriptedProvider, tmp_path: Path, keys: str) -> AsyncIterator[House]:
    (tmp_path / "ada.json").write_text(json.dumps(ADA))
    config = BridgeConfig(
        providers=(ProviderConfig(name="scripted", base_url=provider.base_url),),
        default_model="tokens=5",
    )
    bridge = Bridge(config)
    await bridge.start()
    application = Standalone(bridge, read_personas(tmp_path), Keys(keys)).application()
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    headers = {"Authorization": f"Bearer {KEY}"} if keys else {}
    async with aiohttp.ClientSession(headers=headers) as client:
        yield House(f"http://127.0.0.1:{runner.addresses[0][1]}", client, provider, bridge)
    await bridge.aclose()
    await runner.cleanup()


@pytest.fixture
async def house(provider: ScriptedProvider, tmp_path: Path) -> AsyncIterator[House]:
    async for house in run(provider, tmp_path, KEY):
        yield house


@pytest.fixture
async def open_house(provider: ScriptedProvider, tmp_path: Path) -> AsyncIterator[House]:
    async for house in run(provider, tmp_path, ""):
        yield house


def talk(model: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "你好"}]
    return {"model": model, "messages": messages, **more}


async def test_a_persona_of_the_folder_answers(house: House) -> None:
    status, body = await house.ask("POST", "/v1/chat/completions", talk("ada", stop="x"))
    assert status == 200
    assert body["choices"][0]["message"]["content"] == answer_text(parse_model("tokens=5"))
    sent = house.provider.requests[-1].body
    assert sent["messages"][0]["content"] == "You are Ada.\n\nRhyme."
    assert (sent["temperature"], sent["stop"]) == (0.3, ["x"])


@pytest.mark.parametrize("name", ["tokens=2", "scripted/tokens=2"])
async def test_a_model_answers_with_its_provider_in_front_or_without(
    house: House, name: str
) -> None:
    status, body = await house.ask("POST", "/v1/chat/completions", talk(name, stream=True))
    assert status == 200
    assert body.count('"content":"word') >= 1
    assert body.endswith("data: [DONE]\n\n")
    assert house.provider.requests[-1].body["model"] == "tokens=2"


async def test_what_goes_wrong_has_the_vendors_shape(house: House) -> None:
    for body, status, code in (
        (talk("nobody/x", n=2), 400, "unsupported_parameter"),
        (talk("status=500"), 502, "provider_down"),
        (talk("ada", metadata={"conversation_id": "1"}), 400, "unsupported_parameter"),
        ([], 400, "invalid_request"),
    ):
        found, answer = await house.ask("POST", "/v1/chat/completions", body)
        assert (found, answer["error"]["code"]) == (status, code)


async def test_models_are_listed(house: House) -> None:
    status, body = await house.ask("GET", "/v1/models")
    assert status == 200
    assert "ada" in {row["id"] for row in body["data"]}
    assert (await house.ask("GET", "/v1/models/ada"))[0] == 200
    assert (await house.ask("GET", "/v1/models/nobody/at/all"))[0] == 404


async def test_health_and_figures_tell_how_it_is(house: House) -> None:
    await house.ask("POST", "/v1/chat/completions", talk("ada"))
    status, health = await house.ask("GET", "/health")
    assert (status, health["status"], health["providers"]) == (200, "ok", {"scripted": "ok"})
    _, figures = await house.ask("GET", "/metrics")
    assert re.search(r"^parlance_ai_submitted 1$", figures, re.M)
    assert "parlance_ai_turns_running 0" in figures


async def test_a_wrong_key_opens_nothing_but_health(house: House) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/ada"),
        ("GET", "/metrics"),
    ):
        status, body = await house.ask(method, path, talk("ada"), Authorization="Bearer wrong")
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert (await house.ask("GET", "/health", Authorization="Bearer wrong"))[0] == 200
    assert house.provider.stats.requests == 0


async def test_without_keys_only_programs_of_this_machine_are_served(open_house: House) -> None:
    assert (await open_house.ask("GET", "/v1/models"))[0] == 200
    for name, value in (("Host", "evil.example"), ("Origin", "http://127.0.0.1")):
        status, _ = await open_house.ask(
            "POST", "/v1/chat/completions", talk("ada"), **{name: value}
        )
        assert status == 403
    assert open_house.provider.stats.requests == 0


async def test_a_client_that_leaves_stops_the_answer(house: House) -> None:
    body = talk("tokens=10000,rate=50", stream=True)
    async with house.client.post(house.url + "/v1/chat/completions", json=body) as response:
        await response.content.readany()
        response.close()
    await eventually(lambda: house.provider.stats.aborted == 1)
    await eventually(lambda: house.bridge.running == 0)


# settings


def test_a_file_names_providers_and_takes_keys_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        'max_streams = 9\n[[providers]]\nname = "one"\nbase_url = "http://127.0.0.1:1/v1"\n'
        'api_key = "env:ONE_KEY"\nmodels = ["m"]\n[providers.quirks]\nmax_stop = 2\n'
    )
    config = read_config(file, {"ONE_KEY": "sk-1"})
    (provider,) = config.providers
    assert (config.max_streams, provider.models, provider.quirks.max_stop) == (9, ("m",), 2)
    assert provider.api_key.reveal() == "sk-1"
    assert read_config(None, {}).detect


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("providers = 3", "array"),
        ("max_streems = 3", "max_streems"),
        ('[[providers]]\nname = "x"\napi_key = "env:GONE"', "GONE"),
        ("[", "Invalid"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=why):
        read_config(file, {})
    with pytest.raises(SettingsError, match="cannot be read"):
        read_config(tmp_path / "gone.toml", {})


@pytest.mark.parametrize(
    "files",
    [
        {"a.json": "{"},
        {"a.json": json.dumps(ADA | {"id": "no spaces"})},
        {"a.json": json.dumps(ADA), "b.json": json.dumps(ADA)},
        {"a.json": json.dumps(ADA | {"temperature": 9})},
    ],
)
def test_wrong_personas_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError):
        read_personas(tmp_path)


def test_short_keys_are_refused_and_keys_are_told_apart() -> None:
    with pytest.raises(SettingsError, match="16 characters"):
        Keys("short")
    keys = Keys(f" {KEY}-one , {KEY}-two ")
    assert [keys.number_of(key) for key in (f"{KEY}-one", f"{KEY}-two", KEY, "")] == [1, 2, 0, 0]


# the command


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ai_bridge", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PARLANCE_BRIDGE_KEYS": ""} | env,
        timeout=30,
        check=False,
    )


def test_help_teaches() -> None:
    done = command("--help")
    assert done.returncode == 0
    for word in ("/v1/chat/completions", "curl", "PARLANCE_BRIDGE_KEYS", "[[providers]]"):
        assert word in done.stdout


def test_other_machines_are_not_served_without_keys() -> None:
    done = command("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "PARLANCE_BRIDGE_KEYS" in done.stderr


async def test_the_command_serves_and_stops_in_order(
    provider: ScriptedProvider, tmp_path: Path
) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        f'default_model = "tokens=2"\n[[providers]]\nname = "one"\nbase_url = "{provider.base_url}"'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ai_bridge", "--port", "0", "--config", str(file),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=os.environ | {"PARLANCE_BRIDGE_KEYS": KEY},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), WAIT_S)).decode()
        url = line.split()[-1]
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client:
            async with client.post(f"{url}/chat/completions", json=talk("tokens=2")) as response:
                answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == "word0 word1 "
    finally:
        process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
