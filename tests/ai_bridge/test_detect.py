"""Looking for AI services that are already there, without ever holding up the start."""

from __future__ import annotations

import asyncio
import time

import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig, ProviderKind
from ai_bridge.detect import detect_providers, with_detected, with_listed
from ai_bridge.secrets import Secret
from bench.provider.server import ScriptedProvider
from tests.ai_bridge.raw_server import answering, sized

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


async def test_nothing_there_means_no_provider() -> None:
    assert await detect_providers({}, ollama_url=NOWHERE) == ()


async def test_keys_in_the_environment_are_found_and_stay_secret() -> None:
    env = {"OPENAI_API_KEY": " sk-one ", "DEEPSEEK_API_KEY": "sk-two", "OTHER": "x"}
    openai, deepseek = await detect_providers(env, ollama_url=NOWHERE)
    assert (openai.name, openai.api_key.reveal()) == ("openai", "sk-one")
    assert openai.base_url == "https://api.openai.com/v1"
    assert (deepseek.name, deepseek.models[0]) == ("deepseek", "deepseek-chat")
    assert "sk-" not in repr((openai, deepseek))


async def test_keys_of_vendors_with_a_dialect_of_their_own_are_found() -> None:
    env = {"ANTHROPIC_API_KEY": "k1", "GOOGLE_API_KEY": "k2"}
    anthropic, gemini = await detect_providers(env, ollama_url=NOWHERE)
    assert (anthropic.kind, anthropic.api_key.reveal()) == ("anthropic", "k1")
    assert (gemini.kind, gemini.api_key.reveal()) == ("gemini", "k2")


async def test_another_address_for_openai_is_respected() -> None:
    env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://gateway.internal/v1/"}
    (found,) = await detect_providers(env, ollama_url=NOWHERE)
    assert found.base_url == "http://gateway.internal/v1"


async def test_an_ollama_is_found_with_its_talking_models(provider: ScriptedProvider) -> None:
    provider.tags = ["llama3.2:3b", "nomic-embed-text", "qwen3:8b"]
    url = f"http://127.0.0.1:{provider.port}"
    (found,) = await detect_providers({}, ollama_url=url)
    assert (found.name, found.base_url) == ("ollama", f"{url}/v1")
    assert found.models == ("llama3.2:3b", "qwen3:8b")


async def test_an_ollama_without_models_does_not_count(provider: ScriptedProvider) -> None:
    assert await detect_providers({}, ollama_url=f"http://127.0.0.1:{provider.port}") == ()


async def test_a_silent_listener_holds_nobody_up() -> None:
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = time.monotonic()
    assert await detect_providers({}, ollama_url=f"http://127.0.0.1:{port}", timeout_s=0.1) == ()
    assert time.monotonic() - began < 0.3
    for writer in held:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_what_is_configured_is_never_overridden() -> None:
    config = BridgeConfig(providers=(ProviderConfig(name="own", base_url="http://x"),), detect=True)
    assert await with_detected(config) is config


async def test_a_provider_that_names_no_models_is_asked_for_them(
    provider: ScriptedProvider,
) -> None:
    provider.models = ["fake", "text-embedding-9"]
    own = ProviderConfig(name="own", base_url=provider.base_url)
    gone = ProviderConfig(name="gone", base_url=NOWHERE)
    named = ProviderConfig(name="named", base_url=NOWHERE, models=("m",))
    config = await with_listed(BridgeConfig(providers=(own, gone, named)))
    assert [one.models for one in config.providers] == [("fake",), (), ("m",)]


@pytest.mark.parametrize("kind", ["openai_responses", "anthropic", "gemini"])
async def test_every_dialect_lists_its_models(
    kind: ProviderKind, provider: ScriptedProvider
) -> None:
    provider.models = ["fake", "text-embedding-9", "tokens=3"]
    base_url = provider.gemini_url if kind == "gemini" else provider.base_url
    own = ProviderConfig(name="own", kind=kind, base_url=base_url, api_key=Secret("k"))
    config = await with_listed(BridgeConfig(providers=(own,)))
    assert config.providers[0].models == ("fake", "tokens=3")


async def test_a_list_that_nobody_can_read_is_none(provider: ScriptedProvider) -> None:
    for body in (b"\x80{", b'{"data": [{"id": 5}]}', b"[]", b""):
        async with answering(sized(body)) as server:
            url = f"http://127.0.0.1:{server.port}/v1"
            config = await with_listed(
                BridgeConfig(providers=(ProviderConfig(name="own", base_url=url),))
            )
            assert config.providers[0].models == ()


async def test_a_provider_that_takes_any_model_is_shown_as_a_star() -> None:
    gone = ProviderConfig(name="gone", base_url=NOWHERE)
    bridge = Bridge(BridgeConfig(providers=(gone,), default_model="some-model"))
    await bridge.start()
    assert [model.id for model in bridge.models()] == ["*"]
    await bridge.aclose()


async def test_with_nothing_found_the_demo_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> tuple[ProviderConfig, ...]:
        return ()

    monkeypatch.setattr("ai_bridge.detect.detect_providers", nothing)
    bridge = Bridge(BridgeConfig(detect=True))
    await bridge.start()
    (model,) = bridge.models()
    assert (model.id, model.demo, model.default) == ("demo", True, True)
    await bridge.aclose()
