"""Slowing down whoever guesses passwords or makes accounts by the hundred."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from server.config_check import is_loopback

_ENTRIES: Final = 20_000
_MAX_WAIT_S: Final = 60.0
_FORGET_S: Final = 900.0


class GuessDelay:
    """Per key: a few tries at once, then each wait is twice the last, up to a minute.

    A try counts when it begins, so that many at once gain nothing; `forgive` takes it back. A key
    is forgotten after 15 minutes without a try, or when 20,000 others were tried since.

    Args:
        free_tries: how many come without a wait.
        clock: seconds, monotonic.

    Attributes:
        refused: tries that were told to wait.
    """

    def __init__(
        self, free_tries: int, clock: Callable[[], float], entries: int = _ENTRIES
    ) -> None:
        self._free_tries = free_tries
        self._clock = clock
        self._entries = entries
        self._tries: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
        self.refused = 0

    def admit(self, key: Hashable) -> float:
        """Count one try under key and return 0, or return the seconds to wait first."""
        wait_s = self._wait_s(key)
        if wait_s > 0:
            self.refused += 1
            return wait_s
        count, _ = self._tries.pop(key, (0, 0.0))
        self._tries[key] = (count + 1, self._clock())
        while len(self._tries) > self._entries:
            self._tries.popitem(last=False)
        return 0.0

    def forgive(self, key: Hashable) -> None:
        """Forget the tries of key: the right password was given."""
        self._tries.pop(key, None)

    def _wait_s(self, key: Hashable) -> float:
        count, last = self._tries.get(key, (0, 0.0))
        now = self._clock()
        if count and now - last > _FORGET_S:
            del self._tries[key]
            return 0.0
        if count < self._free_tries:
            return 0.0
        pause_s = min(_MAX_WAIT_S, 2.0 ** min(count - self._free_tries, 16))
        return max(0.0, last + pause_s - now)


class Allowance:
    """Per key: a bucket of `burst` that fills again at `per_s`; the table is bounded."""

    def __init__(
        self, per_s: float, burst: float, clock: Callable[[], float], entries: int = _ENTRIES
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._entries = entries
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def admit(self, key: Hashable, cost: float = 1.0) -> float:
        """Take `cost`, or all of a smaller bucket, and return 0, or the seconds until it is there.

        A cost of 0 is always admitted.
        """
        cost = min(cost, self._burst)
        now = self._clock()
        level, at = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_s)
        wait_s = 0.0
        if level >= cost:
            level -= cost
        else:
            wait_s = (cost - level) / self._per_s
        self._buckets[key] = (level, now)
        while len(self._buckets) > self._entries:
            self._buckets.popitem(last=False)
        return wait_s


def address_key(address: str) -> str | None:
    """Return under which key an address is counted; None for this machine.

    A proxy in front of the server makes everybody look like this machine; one stranger would
    then lock out all. IPv6 addresses count by their /64, because a household has a whole one.
    """
    if not address or is_loopback(address):
        return None
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return address_key(str(parsed.ipv4_mapped))
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
