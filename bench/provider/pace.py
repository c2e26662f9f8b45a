"""One clock for all streams: a wheel of slots instead of a timer for each token."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

TICK_S = 0.002


class Paced(Protocol):
    def play(self, now: float) -> None:
        """Send what is due."""


class Wheel:
    """Calls each stream when its next token is due, never early and at most a tick late.

    Runs only while something waits. Holds one entry per waiting stream.
    """

    def __init__(self) -> None:
        self._slots: dict[int, list[Paced]] = {}
        self._turned = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due: float, stream: Paced) -> None:
        """Have `stream` played at `due` (time.monotonic)."""
        slot = int(due / TICK_S) + 1
        if self._timer is None:
            self._turned = int(time.monotonic() / TICK_S)
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._turn)
        # A slot that was turned already is never looked at again.
        self._slots.setdefault(max(slot, self._turned + 1), []).append(stream)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()

    def _turn(self) -> None:
        now = time.monotonic()
        due: list[Paced] = []
        until = int(now / TICK_S)
        for slot in range(self._turned + 1, until + 1):
            due += self._slots.pop(slot, ())
        self._turned = until
        # Before playing: an error in one stream must not stop the others for ever.
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._turn)
        for stream in due:
            stream.play(now)
        if not self._slots:
            self._timer.cancel()
            self._timer = None
