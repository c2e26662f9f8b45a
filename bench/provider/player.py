"""Plays one answer onto a connection: at its pace, with its faults, counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from bench.provider.faults import Fault, Step
from bench.provider.pace import Wheel
from bench.provider.reply import TOKEN
from bench.provider.script import Behaviour
from bench.provider.stats import Stats

COMMENT = b": keep-alive\n\n"
EMPTY_LINE = b"\n"
"""What DeepSeek sends while an answer without a stream takes its time."""


class Delivery(Struct, frozen=True):
    """What is played. A body that is not `chunked` announced its length in the head.

    `comment` and `ping` are the signs of life that the script's words of these names send; only
    a chunked body has room for them.
    """

    behaviour: Behaviour
    head: bytes
    steps: Iterator[Step]
    comment: bytes = COMMENT
    ping: bytes = b""
    chunked: bool = True
    delay_s: float = 0.0
    """Seconds before the head, beside the script's own."""


class Line(Protocol):
    """The connection as the player sees it."""

    def send(self, data: bytes) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
    def player_done(self) -> None: ...


class Player:
    """One answer on its way. Attributes: `tokens` and `last_bytes` for the record of an abort."""

    def __init__(self, line: Line, delivery: Delivery, stats: Stats, wheel: Wheel) -> None:
        behaviour = delivery.behaviour
        self.tokens = 0
        self.last_bytes = 1
        self._line = line
        self._delivery = delivery
        self._stats = stats
        self._wheel = wheel
        self._loop = asyncio.get_running_loop()
        self._steps = delivery.steps
        self._gap = 1 / behaviour.rate if behaviour.rate > 0 and delivery.chunked else 0.0
        self._cut = behaviour.split
        self._chunked = delivery.chunked
        self._pieces: deque[bytes] = deque()
        self._timer: asyncio.Handle | None = None
        self._signs: dict[bytes, asyncio.Handle] = {}
        self._waiting = False
        self._paused = False
        self._over = False
        self._due = 0.0

    def start(self) -> None:
        behaviour = self._delivery.behaviour
        self._stats.streaming += 1
        if behaviour.silent:
            return
        delay_s = behaviour.head + self._delivery.delay_s
        if delay_s > 0:
            self._timer = self._loop.call_later(delay_s, self._begin)
        else:
            self._begin()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if not self._over and not self._waiting:
            self._soon()

    def stop(self, *, aborted: bool) -> bool:
        """Count the stream as ended; nothing is sent any more. Return False if it was over."""
        if self._over:
            return False
        self._over = True
        for timer in (self._timer, *self._signs.values()):
            if timer is not None:
                timer.cancel()
        self._stats.streaming -= 1
        if aborted:
            self._stats.aborted += 1
        else:
            self._stats.finished += 1
        return True

    def play(self, now: float) -> None:
        """Send what is due now."""
        self._waiting = False
        while not (self._paused or self._over):
            if self._pieces:
                self._send_cut()
                return
            step = next(self._steps, None)
            if step is None:
                self._waiting = True
                linger_s = self._delivery.behaviour.linger
                self._timer = self._loop.call_later(linger_s, self._finish)
                return
            if isinstance(step, Fault):
                self._strike(step)
                return
            kind, data = step
            self._stats.events += 1
            if kind == TOKEN:
                self._stats.tokens += 1
                self.tokens += 1
            if self._cut:
                self._pieces.extend(_cut(data, self._cut))
                continue
            self._emit(data)
            if kind and self._gap:
                self._due += self._gap
                if self._due > now:
                    self._waiting = True
                    self._wheel.add(self._due, self)
                    return

    def _begin(self) -> None:
        behaviour = self._delivery.behaviour
        if behaviour.reset == 0:
            self._line.reset()
            return
        self._line.send(self._delivery.head)
        if behaviour.comments > 0 and self._chunked:
            self._repeat(behaviour.comments, self._delivery.comment)
        if behaviour.pings > 0 and self._delivery.ping:
            self._repeat(behaviour.pings, self._delivery.ping)
        self._due = time.monotonic() + behaviour.first
        self._waiting = True
        if behaviour.first > 0:
            self._timer = self._loop.call_later(behaviour.first, self._wake)
        else:
            self._soon()

    def _repeat(self, every_s: float, event: bytes) -> None:
        def send() -> None:
            if not self._pieces:  # never in the middle of a cut event
                self._emit(event)
            self._repeat(every_s, event)

        self._signs[event] = self._loop.call_later(every_s, send)

    def _soon(self) -> None:
        self._waiting = True
        self._timer = self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self.play(time.monotonic())

    def _send_cut(self) -> None:
        """Send one part of an event; the next goes in a turn of the loop of its own."""
        self._emit(self._pieces.popleft())
        self._soon()

    def _emit(self, data: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.last_bytes = len(data)
        self._line.send(data)

    def _strike(self, fault: Fault) -> None:
        if fault is Fault.RESET:
            # A turn later: a reset throws away what has not yet left.
            self._timer = self._loop.call_later(0.001, self._line.reset)
        elif fault is Fault.CLOSE:
            self._line.close()

    def _finish(self) -> None:
        if self._over:
            return
        if self._chunked:
            self._line.send(b"0\r\n\r\n")
        self.stop(aborted=False)
        self._line.player_done()


def _cut(event: bytes, size: int) -> list[bytes]:
    return [event[at : at + size] for at in range(0, len(event), size)]
