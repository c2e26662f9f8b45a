"""Messages on their way to the server, until it has acknowledged them. No I/O."""

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from clients.errors import OutboxFull, ServerError
from clients.timing import Timing
from protocol.envelopes import Sent
from protocol.rows import SendX

UNSENT_MAX: Final = 1000


class Unsent(Struct):
    """One message of the outbox as it is kept in the state file."""

    conv: int
    cid: bytes
    kind: int
    text: str
    x: SendX | None = None
    created: int = 0


class Outgoing:
    """A message handed to the client, to be followed until the server has it.

    Attributes:
        unsent: what is sent, with the cid that it keeps for ever.
        acknowledged: resolves with `Sent`, or fails with `ServerError` when refused for good.
            Cancelling it changes nothing: the message stays on its way.
    """

    __slots__ = ("acknowledged", "in_flight", "not_before", "saved", "tries", "unsent")

    def __init__(self, unsent: Unsent, saved: bool, future: "asyncio.Future[Sent]") -> None:
        self.unsent = unsent
        self.acknowledged = future
        self.saved = saved
        self.in_flight = False
        self.tries = 0
        self.not_before = 0.0


def make_cid(now_ms: int | None = None) -> bytes:
    """Return a fresh UUIDv7 (RFC 9562 §5.7): ordered by time, unique everywhere."""
    stamp = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    octets = bytearray(stamp.to_bytes(6, "big") + os.urandom(10))
    octets[6] = 0x70 | octets[6] & 0x0F
    octets[8] = 0x80 | octets[8] & 0x3F
    return bytes(octets)


class Outbox:
    """Unsent messages per conversation, in the order in which they were handed over.

    One message of a conversation is on the wire at a time, so that no retry can overtake
    another. What `ready` returned stays in flight until `settled` or `put_off`.
    """

    def __init__(self, timing: Timing, rng: random.Random) -> None:
        self._timing = timing
        self._rng = rng
        self._queues: dict[int, deque[Outgoing]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def entries(self) -> list[Outgoing]:
        """Return everything unsent, oldest first per conversation."""
        return [entry for queue in self._queues.values() for entry in queue]

    def of(self, conv: int) -> list[Outgoing]:
        """Return what is unsent in one conversation."""
        return list(self._queues.get(conv, ()))

    def add(self, entry: Outgoing) -> None:
        """Append a message.

        Raises:
            OutboxFull: `UNSENT_MAX` messages wait already.
        """
        if self._count >= UNSENT_MAX:
            raise OutboxFull("too many unsent messages: wait until the server is back")
        self._queues.setdefault(entry.unsent.conv, deque()).append(entry)
        self._count += 1

    def ready(self, now: float) -> list[Outgoing]:
        """Return the messages to send now, at most one per conversation, as in flight."""
        ready = []
        for queue in self._queues.values():
            first = queue[0]
            if not first.in_flight and first.saved and first.not_before <= now:
                first.in_flight = True
                ready.append(first)
        return ready

    def due(self) -> float | None:
        """Return when `ready` has something again because a wait ends."""
        waits = [
            queue[0].not_before
            for queue in self._queues.values()
            if queue[0].saved and not queue[0].in_flight
        ]
        return min(waits, default=None)

    def settled(self, entry: Outgoing, sent: Sent) -> None:
        """The server has it."""
        self._remove(entry)
        if not entry.acknowledged.done():
            entry.acknowledged.set_result(sent)

    def refused(self, entry: Outgoing, error: ServerError) -> None:
        """The server will never take it."""
        self._remove(entry)
        if not entry.acknowledged.done():
            entry.acknowledged.set_exception(error)
            # Whoever awaits it gets it; nobody has to.
            entry.acknowledged.exception()

    def put_off(self, entry: Outgoing, retry_ms: int, now: float) -> None:
        """Try again later, at the earliest after retry_ms."""
        timing = self._timing
        ceiling_s = min(timing.send_retry_max_s, timing.send_retry_s * 2.0 ** min(entry.tries, 20))
        entry.tries += 1
        entry.in_flight = False
        entry.not_before = now + max(0, retry_ms) / 1000 + self._rng.random() * ceiling_s

    def connection_lost(self) -> None:
        """Nothing is in flight any more; everything is sent again on the next connection."""
        for queue in self._queues.values():
            queue[0].in_flight = False
            queue[0].not_before = 0.0

    def fail_all(self, error: Exception) -> None:
        """The client stops: wake whoever waits. The messages stay for the next start."""
        for entry in self.entries():
            if not entry.acknowledged.done():
                entry.acknowledged.set_exception(error)
                entry.acknowledged.exception()

    def restore(self, unsent: Iterable[Unsent], make: Callable[[Unsent], Outgoing]) -> None:
        """Take over what an earlier run left unsent."""
        for item in unsent:
            self.add(make(item))

    def _remove(self, entry: Outgoing) -> None:
        queue = self._queues.get(entry.unsent.conv)
        if queue is None or entry not in queue:
            return
        queue.remove(entry)
        self._count -= 1
        if not queue:
            del self._queues[entry.unsent.conv]
