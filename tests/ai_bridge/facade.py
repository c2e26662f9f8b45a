"""The bridge as a server of its own on a real socket, and OpenAI's own client of it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiohttp import web
from openai import AsyncOpenAI

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig, ProviderKind, Quirks
from ai_bridge.http.settings import Keys
from ai_bridge.http.standalone import Standalone
from bench.provider.server import ScriptedProvider

DIALECTS: Final[dict[str, ProviderKind]] = {
    "chat": "openai_chat",
    "responses": "openai_responses",
    "anthropic": "anthropic",
    "gemini": "gemini",
}
OPENAI: Final = Quirks(one_call=True, strict_tools=True)
"""What OpenAI's own services can do besides the plain dialect."""
PNG: Final = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(26)).decode()


class Facade(NamedTuple):
    """A running bridge, a client of it, and where both are."""

    url: str
    client: AsyncOpenAI
    bridge: Bridge


def dialects(provider: ScriptedProvider) -> tuple[ProviderConfig, ...]:
    """Describe the scripted service four times, once in each dialect, by the dialect's name."""
    return tuple(
        ProviderConfig(
            name=name,
            kind=kind,
            base_url=provider.gemini_url if kind == "gemini" else provider.base_url,
            quirks=OPENAI if name in ("chat", "responses") else Quirks(),
        )
        for name, kind in DIALECTS.items()
    )


@asynccontextmanager
async def serving(*providers: ProviderConfig, **settings: Any) -> AsyncIterator[Facade]:
    """Run a bridge with these providers, and a client that asks once only."""
    bridge = Bridge(BridgeConfig(providers=providers, demo_words_per_s=0, **settings))
    await bridge.start()
    runner = web.AppRunner(Standalone(bridge, {}, Keys("")).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=20) as client:
            yield Facade(url, client, bridge)
    finally:
        await bridge.aclose()
        await runner.cleanup()
