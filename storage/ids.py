"""Ids of everything that storage names: time-ordered integers within 53 bits."""

import os
import time
from collections.abc import Callable
from itertools import chain
from typing import Final

EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z; 41 bits of milliseconds last until 2094."""

_LOW_BITS: Final = 12
_NOISE_MASK: Final = (1 << (_LOW_BITS - 1)) - 1
_NOISE_BYTES: Final = 2048


class IdGenerator:
    """Makes ids of 41 bits of time and 12 bits that start anywhere within the millisecond.

    Ids of one generator rise strictly and never repeat, also when the clock steps back or more
    than 4,096 are made in one millisecond (they then borrow from the next). Ids of two processes
    can meet only within one millisecond; primary keys catch that.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0
        # Fetched by the thousand: one at a time, the system call costs more than the id.
        self._noise = chain.from_iterable(iter(_random_shorts, None))

    def __call__(self) -> int:
        now_ms = int(self._clock() * 1000) - EPOCH_MS
        # The start leaves the upper half of the range to ids of the same millisecond.
        candidate = (now_ms << _LOW_BITS) | (next(self._noise) & _NOISE_MASK)
        later = candidate >> _LOW_BITS > self._last >> _LOW_BITS
        self._last = candidate if later else self._last + 1
        return self._last


def _random_shorts() -> memoryview:
    return memoryview(os.urandom(_NOISE_BYTES)).cast("H")


new_id: Final = IdGenerator()
"""The generator of this process; one number space for users, conversations, turns, personas."""


def id_time_ms(value: int) -> int:
    """Return when an id was made, in Unix milliseconds."""
    return (value >> _LOW_BITS) + EPOCH_MS


def last_id_at(time_ms: int) -> int:
    """Return the highest id that a millisecond can have, in Unix time."""
    return ((time_ms - EPOCH_MS) << _LOW_BITS) | ((1 << _LOW_BITS) - 1)
