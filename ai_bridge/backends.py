"""Builds what answers calls from the configuration: provider times transport, or the demo."""

from __future__ import annotations

from collections.abc import Callable

from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.providers.base import Backend, CallEnd, CallSink, ModelCall, Provider, Transport
from ai_bridge.providers.demo import DEMO_MODEL, DemoBackend
from ai_bridge.providers.openai_chat import OpenAIChat
from ai_bridge.router import Slot
from ai_bridge.secrets import Secret
from ai_bridge.transport.aio import AioTransport
from ai_bridge.transport.raw_h1 import RawTransport

DEMO_PROVIDER = ProviderConfig(name="demo", kind="demo", models=(DEMO_MODEL,))


class HttpBackend:
    """A vendor reached over HTTP. Its connections are its own: one slow vendor blocks no other."""

    def __init__(self, provider: Provider, transport: Transport, key: Secret) -> None:
        self._provider = provider
        self._transport = transport
        self._key = key

    async def stream(self, call: ModelCall, sink: CallSink) -> CallEnd:
        request = self._provider.build(call, self._key)
        return await self._transport.stream(
            request, self._provider.decoder(sink), self._provider.classify
        )

    async def aclose(self) -> None:
        await self._transport.aclose()


def build_slots(config: BridgeConfig, clock: Callable[[], float]) -> list[Slot]:
    """Return one slot per provider in order; the demo partner if there is none.

    Raises:
        ValueError: a provider without address, or two of one name.
    """
    providers = config.providers or (DEMO_PROVIDER,)
    if len({provider.name for provider in providers}) < len(providers):
        raise ValueError("two AI providers have the same name")
    return [Slot(provider, _backend(provider, config), clock) for provider in providers]


def _backend(provider: ProviderConfig, config: BridgeConfig) -> Backend:
    if provider.kind == "demo":
        return DemoBackend(words_per_s=config.demo_words_per_s)
    if not provider.base_url.startswith(("http://", "https://")):
        raise ValueError(f"AI provider {provider.name!r} needs a base_url (http:// or https://)")
    transport = RawTransport() if provider.transport == "raw" else AioTransport()
    return HttpBackend(OpenAIChat(provider), transport, provider.api_key)
