"""Bounds on what strangers and signed-in users may cost."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

_TABLE_ENTRIES: Final = 100_000


class StrangerLimit:
    """Counts sockets that are not signed in yet, in all and per address.

    Of IPv6 the first 64 bits count: one home or machine has all the addresses behind them.

    Attributes:
        refused: sockets closed at once because a bound was reached.
    """

    def __init__(self, per_address: int, total: int) -> None:
        self._per_address = per_address
        self._total = total
        self._counts: dict[str | int, int] = {}
        self.open = 0
        self.refused = 0

    def enter(self, address: str) -> bool:
        """Count one more; False when it must be refused."""
        source = _source_of(address)
        count = self._counts.get(source, 0)
        if self.open >= self._total or count >= self._per_address:
            self.refused += 1
            return False
        self._counts[source] = count + 1
        self.open += 1
        return True

    def leave(self, address: str) -> None:
        """The socket signed in or went away. Call exactly once per successful `enter`."""
        self.open -= 1
        source = _source_of(address)
        count = self._counts[source] - 1
        if count:
            self._counts[source] = count
        else:
            del self._counts[source]


def _source_of(address: str) -> str | int:
    if ":" not in address:
        return address
    ip = IPv6Address(address)
    # An IPv4 peer of a socket that takes both: all of them share these 64 bits.
    return address if ip.ipv4_mapped is not None else int(ip) >> 64


class WindowLimit:
    """At most `limit` events per key in a fixed window; the table of keys is bounded.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._windows: OrderedDict[object, tuple[float, int]] = OrderedDict()

    def allow(self, key: object) -> bool:
        """Count one event of key; False when it is one too many."""
        now = self._clock()
        start, count = self._windows.get(key, (now, 0))
        if now - start >= self._window_s:
            start, count = now, 0
        self._windows[key] = (start, count + 1)
        self._windows.move_to_end(key)
        if len(self._windows) > _TABLE_ENTRIES:
            self._windows.popitem(last=False)
        return count < self._limit


class HandshakeGate:
    """Lets sign-ins through at a steady rate, so that a reconnect storm does not stall others.

    Waiting sign-ins are bounded; beyond the bound the caller refuses with a time to spread over.

    Attributes:
        refused: sign-ins turned away because too many were waiting.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, per_s: float, waiting: int) -> None:
        self._loop = loop
        self._per_s = per_s
        self._max_waiting = waiting
        self._waiting: deque[Callable[[], None]] = deque()
        self._tokens = per_s
        self._at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.refused = 0

    @property
    def spread_ms(self) -> int:
        """Over how long those turned away should spread their next try."""
        return int(1000 * (1 + len(self._waiting) / self._per_s))

    def enter(self, start: Callable[[], None]) -> bool:
        """Call start now or in its turn; False when too many wait already."""
        if len(self._waiting) >= self._max_waiting:
            self.refused += 1
            return False
        self._waiting.append(start)
        if self._timer is None:
            self._pump()
        return True

    def close(self) -> None:
        """Forget those who wait."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pump(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._tokens = min(self._per_s, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        while self._waiting and self._tokens >= 1:
            self._tokens -= 1
            self._waiting.popleft()()
        if self._waiting:
            self._timer = self._loop.call_later(max(0.002, 1 / self._per_s), self._pump)
