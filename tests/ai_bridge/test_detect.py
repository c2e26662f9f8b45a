"""Looking for AI services that are already there, without ever holding up the start."""

from __future__ import annotations

import asyncio
import time

import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.detect import detect_providers, with_detected, with_listed
from bench.provider.server import ScriptedProvider

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
