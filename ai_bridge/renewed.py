"""A client of a service whose settings may change while the server runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure, Remedy


class Client(Protocol):
    """Owns connections to one service."""

    async def aclose(self) -> None: ...


C = TypeVar("C", bound=Client)


class _Held(Generic[C]):
    __slots__ = ("client", "config", "users")

    def __init__(self, config: ProviderConfig, client: C) -> None:
        self.config = config
        self.client = client
        self.users = 0


class Renewed(Generic[C]):
    """Owns the client of the settings that hold now; earlier ones close after their last call.

    Args:
        find: returns the present settings, None while there are none.
        make: makes a client for them; raises ValueError if they cannot serve.
    """

    def __init__(
        self, find: Callable[[], ProviderConfig | None], make: Callable[[ProviderConfig], C]
    ) -> None:
        self._find = find
        self._make = make
        self._held: _Held[C] | None = None
        self._old: list[_Held[C]] = []

    @property
    def present(self) -> C | None:
        """The client of now, None while the service is not configured or cannot serve."""
        held = self._current()
        return held.client if held is not None else None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[tuple[ProviderConfig, C]]:
        """Hold the present client, with its settings, for one call.

        Raises:
            ProviderFailure: there is none.
        """
        held = self._current()
        if held is None:
            raise ProviderFailure(
                "no_provider",
                "The AI service for this is not set up as it should. The operator has to check "
                "its name, address and kind in the settings.",
                remedy=Remedy.NEXT,
            )
        held.users += 1
        try:
            yield held.config, held.client
        finally:
            held.users -= 1
            await self._close_idle()

    async def aclose(self) -> None:
        """Close all connections; calls must have ended."""
        if self._held is not None:
            self._old.append(self._held)
            self._held = None
        await self._close_idle()

    def _current(self) -> _Held[C] | None:
        config = self._find()
        held = self._held
        if held is not None and held.config == config:
            return held
        if held is not None:
            self._old.append(held)
            self._held = None
        if config is not None:
            try:
                self._held = _Held(config, self._make(config))
            except ValueError:
                return None
        return self._held

    async def _close_idle(self) -> None:
        idle = [held for held in self._old if not held.users]
        self._old = [held for held in self._old if held.users]
        for held in idle:
            await held.client.aclose()
