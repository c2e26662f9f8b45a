"""When a client reconnects, pings and syncs (docs/protocol.md §6). No I/O, no clock of its own."""

import random
from enum import Enum, auto
from typing import Final

from msgspec import Struct


class Timing(Struct, frozen=True):
    """All spans of a client, in seconds. Tests shorten them; others have no reason to."""

    connect_s: float = 10.0
    welcome_s: float = 15.0
    heartbeat_s: float = 30.0
    pong_s: float = 10.0
    sync_every_s: float = 600.0
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    first_retry_s: float = 2.0
    steady_s: float = 60.0
    send_retry_s: float = 0.5
    send_retry_max_s: float = 30.0
    mark_s: float = 1.0
    leave_s: float = 5.0


DEFAULT: Final = Timing()


class Backoff:
    """How long to wait before the next attempt: full jitter, so that a crowd spreads out.

    Args:
        rng: gives uniform numbers in [0, 1) by `random()`.
    """

    def __init__(self, timing: Timing, rng: random.Random) -> None:
        self._timing = timing
        self._rng = rng
        self._attempt = 0
        self._connected_at: float | None = None
        self._override_s: float | None = None

    def connected(self, now: float) -> None:
        """The sign-in succeeded."""
        self._connected_at = now

    def told(self, retry_ms: int, spread_ms: int) -> None:
        """A `bye` or `goaway` said when to come back; that replaces the next own wait."""
        self._override_s = max(0, retry_ms) / 1000 + self._rng.random() * spread_ms / 1000

    def wait_s(self, now: float) -> float:
        """Return how long to wait now that the connection is lost or was refused."""
        timing = self._timing
        if self._connected_at is not None and now - self._connected_at >= timing.steady_s:
            self._attempt = 0
        self._connected_at = None
        attempt = self._attempt
        self._attempt += 1
        told_s, self._override_s = self._override_s, None
        # A server that keeps saying "now" while it fails must not be asked in a tight loop.
        if told_s is not None and (told_s > 0 or attempt == 0):
            return told_s
        ceiling_s = min(timing.backoff_max_s, timing.backoff_s * 2.0 ** min(attempt, 30))
        wait_s = self._rng.random() * ceiling_s
        if attempt == 0:
            wait_s += self._rng.random() * timing.first_retry_s
        return wait_s


class Pulse(Enum):
    """What a heartbeat asks for."""

    NOTHING = auto()
    PING = auto()
    DEAD = auto()


class Heartbeat:
    """When to ping, and when to take the connection for dead.

    Args:
        interval_s: silence of our own after which a ping is due.
        fraction: in [0, 1): the first ping waits this part of the interval.
    """

    __slots__ = ("_due", "_interval_s", "_pong_s", "_pong_due")

    def __init__(self, interval_s: float, pong_s: float, now: float, fraction: float) -> None:
        self._interval_s = interval_s
        self._pong_s = pong_s
        self._due = now + interval_s * fraction
        self._pong_due: float | None = None

    @property
    def due(self) -> float:
        """When `check` has something to do if nothing happens before."""
        return self._due if self._pong_due is None else min(self._due, self._pong_due)

    def sent(self, now: float) -> None:
        """Something was sent, which counts as a sign of life."""
        self._due = now + self._interval_s

    def received(self) -> None:
        """Bytes came from the server, whatever they were."""
        self._pong_due = None

    def check(self, now: float) -> Pulse:
        """Return what is due; after PING the caller sends one."""
        if self._pong_due is not None and now >= self._pong_due:
            return Pulse.DEAD
        if now < self._due:
            return Pulse.NOTHING
        self._due = now + self._interval_s
        if self._pong_due is None:
            self._pong_due = now + self._pong_s
        return Pulse.PING
