"""Leaves a failing service alone for a while, so that turns go elsewhere at once.

Sources: M. Nygard, Release It!, "Circuit Breaker". Counts failures of the service only: a refused
key, a bad request and "too many requests" say nothing about its health.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

WINDOW_S = 10.0
MIN_FAILURES = 5
MIN_SHARE = 0.5
FIRST_OPEN_S = 5.0
MAX_OPEN_S = 60.0
MAX_CALLS = 1_000
"""Calls remembered within the window; more only make it shorter."""


class BreakerState(IntEnum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """One per address and model. Owned by the router.

    Opens at 5 failures that are half of the calls of the last 10 s, for 5 s; then one real
    request tries, and if it fails too the next span is twice as long, up to 60 s.
    """

    __slots__ = ("_calls", "_clock", "_failures", "_open_until", "_probing", "_span_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque(maxlen=MAX_CALLS)
        self._failures = 0
        self._open_until: float | None = None
        self._span_s = FIRST_OPEN_S
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._open_until else BreakerState.HALF_OPEN

    @property
    def opens_in_s(self) -> float:
        """Seconds until a request may try again; 0 while it is not open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    @property
    def allows(self) -> bool:
        """Whether a request may go there now; half open, only while no other one tries."""
        state = self.state
        return state is BreakerState.CLOSED or (
            state is BreakerState.HALF_OPEN and not self._probing
        )

    def begin(self) -> bool:
        """A request goes there (ask `allows` first); return whether it is the one that tries."""
        tries = self._open_until is not None
        self._probing = self._probing or tries
        return tries

    def end(self, tried: bool) -> None:
        """A request is over, perhaps without having told anything; `tried` is what `begin` said."""
        if tried:
            self._probing = False

    def note_answer(self) -> None:
        """The service began to answer: half open, that closes the breaker."""
        if self.state is BreakerState.HALF_OPEN:
            self._open_until = None
            self._span_s = FIRST_OPEN_S
            self._forget()

    def note_success(self) -> None:
        """A call came to its proper end."""
        self._note(True)

    def note_failure(self) -> None:
        """The service failed, or did not answer in time."""
        now = self._clock()
        if self.state is BreakerState.HALF_OPEN:
            self._span_s = min(MAX_OPEN_S, 2 * self._span_s)
            self._open_until = now + self._span_s
            return
        self._note(False)
        needed = max(MIN_FAILURES, MIN_SHARE * len(self._calls))
        if self._open_until is None and self._failures >= needed:
            self._open_until = now + self._span_s
            self._forget()

    def _note(self, well: bool) -> None:
        now = self._clock()
        if len(self._calls) == MAX_CALLS:
            self._drop()
        self._calls.append((now, well))
        self._failures += not well
        while self._calls[0][0] < now - WINDOW_S:
            self._drop()

    def _drop(self) -> None:
        self._failures -= not self._calls.popleft()[1]

    def _forget(self) -> None:
        self._calls.clear()
        self._failures = 0
