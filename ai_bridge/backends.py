"""Builds what answers calls from the configuration: provider times transport, or the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.providers.anthropic import Anthropic
from ai_bridge.providers.base import (
    Backend,
    CallEnd,
    CallSink,
    ModelCall,
    OnHead,
    Provider,
    Transport,
)
from ai_bridge.providers.demo import DEMO_MODEL, DemoBackend
from ai_bridge.providers.gemini import Gemini
from ai_bridge.providers.openai_chat import OpenAIChat
from ai_bridge.providers.openai_responses import OpenAIResponses
from ai_bridge.providers.services import base_url_of
from ai_bridge.secrets import Secret
from ai_bridge.slots import Service
from ai_bridge.transport.aio import READ_S, AioTransport
from ai_bridge.transport.raw_h1 import RawTransport

DEMO_PROVIDER = ProviderConfig(name="demo", kind="demo", models=(DEMO_MODEL,))

DIALECTS: dict[str, Callable[[ProviderConfig], Provider]] = {
    "openai_chat": OpenAIChat,
    "openai_responses": OpenAIResponses,
    "anthropic": Anthropic,
    "gemini": Gemini,
}


class HttpBackend:
    """A vendor reached over HTTP. Its connections are its own: one slow vendor blocks no other.

    Args:
        on_head: told the headers (lower case names) of every answer, also of refusals.
    """

    def __init__(
        self, provider: Provider, transport: Transport, key: Secret, on_head: OnHead | None = None
    ) -> None:
        self._provider = provider
        self._transport = transport
        self._key = key
        self._on_head = on_head

    async def stream(self, call: ModelCall, sink: CallSink) -> CallEnd:
        # The request is the transport's alone: held here, it would stay as long as the answer runs.
        return await self._transport.stream(
            self._provider.build(call, self._key),
            self._provider.decoder(sink),
            self._provider.classify,
            self._on_head,
        )

    async def aclose(self) -> None:
        await self._transport.aclose()


class HttpDialer:
    """Reaches one vendor: backends of all its keys share its connections."""

    def __init__(self, config: ProviderConfig) -> None:
        self._provider = provider_of(config)
        self._transport = transport_of(config)

    def backend(self, key: Secret, on_head: OnHead) -> Backend:
        return HttpBackend(self._provider, self._transport, key, on_head)

    async def aclose(self) -> None:
        """Close idle connections; calls in flight must have ended."""
        await self._transport.aclose()


class DemoDialer:
    """Reaches the built-in demo partner, which is always there."""

    def __init__(self, words_per_s: float) -> None:
        self._backend = DemoBackend(words_per_s=words_per_s)

    def backend(self, _key: Secret, _on_head: OnHead) -> Backend:
        return self._backend

    async def aclose(self) -> None:
        """Nothing is open."""


def dialer_of(provider: ProviderConfig, config: BridgeConfig) -> HttpDialer | DemoDialer:
    """Return the way to one configured service.

    Raises:
        ValueError: its address is missing or cannot be used.
    """
    if provider.kind == "demo":
        return DemoDialer(config.demo_words_per_s)
    return HttpDialer(provider)


def provider_of(config: ProviderConfig) -> Provider:
    """Return the dialect of a service, for its address.

    Raises:
        ValueError: its address is missing or cannot be used.
    """
    check_base_url(config)
    return DIALECTS[config.kind](config)


def check_base_url(config: ProviderConfig) -> None:
    """Refuse an address that no path can be appended to, or that could hold a key.

    Raises:
        ValueError: with what to correct; does not quote the address.
    """
    base_url = base_url_of(config)
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"AI provider {config.name!r} needs a base_url (http:// or https://)")
    address = urlsplit(base_url)
    if address.query or address.fragment or address.username or address.password:
        raise ValueError(
            f"the base_url of AI provider {config.name!r} holds more than host and path: "
            "keys belong into api_key or headers"
        )


def transport_of(config: ProviderConfig, read_s: float = READ_S) -> Transport:
    """Return the HTTP client that a service is configured with.

    Args:
        read_s: silence after which a connection counts as dead; for calls that are answered at
            their end, more than their deadline.
    """
    return RawTransport(read_s=read_s) if config.transport == "raw" else AioTransport(read_s)


def build_services(
    config: BridgeConfig, clock: Callable[[], float], *, known: Iterable[Service] = ()
) -> tuple[Service, ...]:
    """Return the configured services in order; the demo partner if there is none.

    Args:
        known: services that run already. One whose settings are the same is taken over with its
            connections and with what was learnt about it.

    Raises:
        ValueError: a provider without address, or two of one name.
    """
    providers = config.providers or (DEMO_PROVIDER,)
    if len({provider.name for provider in providers}) < len(providers):
        raise ValueError("two AI providers have the same name")
    kept = {service.config.name: service for service in known}
    services = []
    for provider in providers:
        service = kept.get(provider.name)
        if service is None or service.config != provider:
            service = Service(provider, dialer_of(provider, config), clock)
        services.append(service)
    return tuple(services)
