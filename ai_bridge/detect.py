"""Finds AI services that a newcomer already has: a local Ollama, keys in the environment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

import aiohttp
import msgspec

from ai_bridge.config import BridgeConfig, ProviderConfig, Quirks
from ai_bridge.secrets import Secret

OLLAMA_URL = "http://127.0.0.1:11434"
DETECT_S = 0.3


class _Model(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Model] = []


async def detect_providers(
    env: Mapping[str, str] | None = None,
    *,
    ollama_url: str = OLLAMA_URL,
    timeout_s: float = DETECT_S,
) -> tuple[ProviderConfig, ...]:
    """Return what was found: services with a key first, then Ollama; empty: use the demo.

    Asks only the own machine, never the services themselves; ends within `timeout_s`.
    """
    found = _with_keys(os.environ if env is None else env)
    models = await _ollama_models(ollama_url, timeout_s)
    if models:
        found.append(
            ProviderConfig(
                name="ollama",
                base_url=f"{ollama_url}/v1",
                models=models,
                # A local model is loaded into memory at the first question.
                ttft_s=120.0,
                max_streams=4,
            )
        )
    return tuple(found)


async def with_detected(config: BridgeConfig) -> BridgeConfig:
    """Return the configuration with what was found, if it names no provider itself."""
    if config.providers:
        return config
    return msgspec.structs.replace(config, providers=await detect_providers())


def _with_keys(env: Mapping[str, str]) -> list[ProviderConfig]:
    found = []
    if key := env.get("OPENAI_API_KEY", "").strip():
        found.append(
            ProviderConfig(
                name="openai",
                base_url=(env.get("OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/"),
                api_key=Secret(key),
                models=("gpt-4o-mini", "gpt-4o"),
                quirks=Quirks(max_tokens_field="max_completion_tokens"),
                window_tokens=128_000,
            )
        )
    if key := env.get("DEEPSEEK_API_KEY", "").strip():
        found.append(
            ProviderConfig(
                name="deepseek",
                base_url="https://api.deepseek.com/v1",
                api_key=Secret(key),
                models=("deepseek-chat", "deepseek-reasoner"),
                window_tokens=64_000,
                ttft_s=90.0,
            )
        )
    return found


async def _ollama_models(url: str, timeout_s: float) -> tuple[str, ...]:
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(f"{url}/api/tags", allow_redirects=False) as response,
        ):
            if response.status != 200:
                return ()
            body = await response.read()
            tags = msgspec.json.decode(body, type=_Tags)
    except (TimeoutError, OSError, aiohttp.ClientError, msgspec.MsgspecError):
        return ()
    # Models that only embed text cannot talk.
    return tuple(model.name for model in tags.models if "embed" not in model.name)
