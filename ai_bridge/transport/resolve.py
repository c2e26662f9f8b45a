"""Names to addresses, off the loop, with a memory.

Asked once for many calls that begin together. getaddrinfo tells no lifetime, so an answer is
used for five minutes; a name whose addresses all failed is asked for again at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

TTL_S = 300.0
MAX_NAMES = 64
"""Names remembered; the oldest goes first. A transport serves one provider, so one is usual."""

Address = tuple[int, str]
"""Address family, and the numeric address."""
LookUp = Callable[[str, int], Awaitable[list[Address]]]


async def look_up(host: str, port: int) -> list[Address]:
    """Ask the system, in a thread of the loop's.

    Raises:
        OSError: nobody knows the name.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, str(to[0])) for family, _, _, _, to in found))


class Resolver:
    """Remembers what names stand for. Owns the look-ups under way.

    Args:
        clock: seconds, any origin.
    """

    def __init__(self, clock: Callable[[], float], ask: LookUp = look_up) -> None:
        self._clock = clock
        self._ask = ask
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, the best first.

        Raises:
            OSError: nobody knows the name.
        """
        name = (host, port)
        known = self._known.get(name)
        if known is not None and self._clock() - known[0] < TTL_S:
            return known[1]
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.ensure_future(self._look_up(name))
        # One of several that wait may be cancelled; the others still want the answer.
        return await asyncio.shield(asking)

    async def _look_up(self, name: tuple[str, int]) -> list[Address]:
        try:
            addresses = await self._ask(*name)
        finally:
            del self._asking[name]
        self._known.pop(name, None)
        while len(self._known) >= MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[name] = (self._clock(), addresses)
        return addresses

    def prefer(self, host: str, port: int, address: Address) -> None:
        """Name this address first from now on: the ones before it did not answer."""
        known = self._known.get((host, port))
        if known is not None and address in known[1]:
            known[1].remove(address)
            known[1].insert(0, address)

    def forget(self, host: str, port: int) -> None:
        """None of its addresses answered: ask again next time."""
        self._known.pop((host, port), None)

    async def aclose(self) -> None:
        """Give up what is being asked."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
