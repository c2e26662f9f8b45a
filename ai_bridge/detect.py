"""Finds AI services that a newcomer already has, and the models that a service offers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

import aiohttp
import msgspec

from ai_bridge.config import BridgeConfig, ProviderConfig, Quirks
from ai_bridge.providers import anthropic, gemini, openai_chat
from ai_bridge.providers.lenient import UNREADABLE
from ai_bridge.providers.request import own_headers
from ai_bridge.providers.services import base_url_of
from ai_bridge.secrets import Secret

OLLAMA_URL = "http://127.0.0.1:11434"
DETECT_S = 0.3
LIST_S = 1.0
MAX_LISTED = 200

log = logging.getLogger("parlance.ai")

_SILENT = ("embed", "whisper", "transcribe", "tts", "dall-e", "gpt-image", "imagen", "veo-",
           "moderation", "rerank", "bge-")  # fmt: skip


class _Model(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Model] = []


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    """What OpenAI, Anthropic and all who imitate OpenAI list."""

    data: list[_Listed] = []


class _GeminiModel(msgspec.Struct, rename="camel"):
    name: str
    supported_generation_methods: list[str] = []


class _GeminiList(msgspec.Struct):
    models: list[_GeminiModel] = []


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


async def with_listed(config: BridgeConfig, *, timeout_s: float = LIST_S) -> BridgeConfig:
    """Fill in the models of providers that name none, asking all of them at once.

    A provider that does not tell within `timeout_s` stays as it is and accepts any model name.
    """
    listed = await asyncio.gather(
        *(_listed_models(provider, timeout_s) for provider in config.providers)
    )
    providers = tuple(
        msgspec.structs.replace(provider, models=models or provider.models)
        for provider, models in zip(config.providers, listed, strict=True)
    )
    return msgspec.structs.replace(config, providers=providers)


async def _listed_models(provider: ProviderConfig, timeout_s: float) -> tuple[str, ...]:
    if provider.models or provider.kind == "demo":
        return ()
    url, headers = _list_request(provider)
    names = _names(provider.kind, await _get(url, headers, timeout_s) or b"{}")
    if not names:
        log.warning("provider.models_unknown", extra={"provider": provider.name})
    return tuple(name for name in names if _can_talk(name))[:MAX_LISTED]


def _list_request(provider: ProviderConfig) -> tuple[str, dict[str, str]]:
    """Return where a service lists its models, and the headers with its key."""
    url = f"{base_url_of(provider)}/models"
    key = provider.api_key
    if provider.kind == "anthropic":
        return f"{url}?limit=1000", {**own_headers(provider), **anthropic.key_headers(key)}
    if provider.kind == "gemini":
        return f"{url}?pageSize=1000", {**own_headers(provider), **gemini.key_headers(key)}
    return url, {**own_headers(provider), **openai_chat.bearer(key)}


def _names(kind: str, body: bytes) -> list[str]:
    """Return the names in a list of models, none if it cannot be read."""
    try:
        if kind != "gemini":
            return [model.id for model in msgspec.json.decode(body, type=_List).data]
        listed = msgspec.json.decode(body, type=_GeminiList).models
    except UNREADABLE:
        return []
    return [
        model.name.removeprefix("models/")
        for model in listed
        if "generateContent" in model.supported_generation_methods
    ]


def _can_talk(model: str) -> bool:
    """Leave out models that embed, transcribe, speak or draw."""
    return not any(word in model for word in _SILENT)


async def _get(url: str, headers: dict[str, str], timeout_s: float) -> bytes | None:
    """Return the body of a 200, None for anything else."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            return await response.read() if response.status == 200 else None
    except (TimeoutError, OSError, aiohttp.ClientError, ValueError):
        return None


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
    if key := env.get("ANTHROPIC_API_KEY", "").strip():
        found.append(
            ProviderConfig(
                name="anthropic",
                kind="anthropic",
                api_key=Secret(key),
                models=("claude-sonnet-4-5", "claude-haiku-4-5"),
                window_tokens=200_000,
            )
        )
    if key := (env.get("GEMINI_API_KEY") or env.get("GOOGLE_API_KEY") or "").strip():
        found.append(
            ProviderConfig(
                name="gemini",
                kind="gemini",
                api_key=Secret(key),
                models=("gemini-2.5-flash", "gemini-2.5-pro"),
                window_tokens=1_000_000,
                ttft_s=90.0,
            )
        )
    return found


async def _ollama_models(url: str, timeout_s: float) -> tuple[str, ...]:
    body = await _get(f"{url}/api/tags", {}, timeout_s)
    try:
        tags = msgspec.json.decode(body or b"{}", type=_Tags)
    except UNREADABLE:
        return ()
    return tuple(model.name for model in tags.models if _can_talk(model.name))
