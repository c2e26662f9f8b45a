"""One connection's way out: frames are gathered and written once per loop tick.

A syscall costs more than everything else that happens to a message, so nothing is written frame
by frame. The `Flusher` writes each outbox that has something, a slice of them per tick, so that
one message to a room of thousands does not hold the loop (docs/behavior.md, slow readers).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

log = logging.getLogger("parlance.outbox")

Join = Callable[[Sequence[bytes]], bytes]
"""Makes the bytes of one write out of whole encoded frames: depends on the transport."""

WRITE_HIGH_BYTES: Final = 64 * 1024
WRITE_LOW_BYTES: Final = 16 * 1024
SIGNAL_KEYS: Final = 256
SLICE_OUTBOXES: Final = 512
"""Outboxes written per tick: 512 writes hold the loop for about 3 ms."""


class OutboxLimits:
    """Water marks shared by all outboxes of a process.

    Attributes:
        soft_bytes: above this much backlog, queued feed pushes are dropped; `resync` follows.
        hard_bytes: above this much backlog the connection is closed as a slow consumer.
        stall_s: so long without any byte accepted by the peer, and it is closed as well.
        total_bytes: bound of all backlogs of the process; beyond it the largest is closed.
    """

    __slots__ = ("hard_bytes", "soft_bytes", "stall_s", "total_bytes")

    def __init__(self, soft_bytes: int, hard_bytes: int, stall_s: float, total_bytes: int) -> None:
        self.soft_bytes = soft_bytes
        self.hard_bytes = hard_bytes
        self.stall_s = stall_s
        self.total_bytes = total_bytes


class Flusher:
    """Owns the list of outboxes that have something to write, and those that cannot write.

    Attributes:
        frames_out, writes, bytes_out: totals of everything handed to the transports.
        dropped_frames, resyncs, slow_closed: what slow readers cost themselves.
        backlog_bytes: bytes held for readers that are behind, over all connections.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: OutboxLimits) -> None:
        self._loop = loop
        self.limits = limits
        self._dirty: list[Outbox] = []
        self._scheduled = False
        self.paused: dict[Outbox, tuple[float, int]] = {}
        self.backlog_bytes = 0
        self.frames_out = 0
        self.writes = 0
        self.bytes_out = 0
        self.dropped_frames = 0
        self.resyncs = 0
        self.slow_closed = 0

    def add(self, outbox: "Outbox") -> None:
        """Have outbox flushed at the end of this tick."""
        self._dirty.append(outbox)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        dirty = self._dirty
        if len(dirty) > SLICE_OUTBOXES:
            self._dirty = dirty[SLICE_OUTBOXES:]
            del dirty[SLICE_OUTBOXES:]
            self._loop.call_soon(self._flush)
        else:
            self._dirty = []
            self._scheduled = False
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception:
                # One broken transport must not keep the others' frames back.
                log.exception("outbox.write_failed")
                outbox.fail_slow("write failed")

    def sweep(self, now: float) -> None:
        """Close readers whose socket has taken nothing for `stall_s`. Called once a second."""
        for outbox, (since, size) in list(self.paused.items()):
            current = outbox.unsent_bytes
            if current < size:
                self.paused[outbox] = (now, current)
            elif now - since >= self.limits.stall_s:
                outbox.fail_slow("no progress")

    def shed(self) -> None:
        """Close the connection with the largest backlog when all together hold too much."""
        limit = self.limits.total_bytes
        while limit and self.backlog_bytes > limit and self.paused:
            max(self.paused, key=lambda outbox: outbox.backlog_bytes).fail_slow("memory")


class Outbox:
    """Frames on their way to one peer. Three classes of traffic, by what may be lost:

    * `reply`: answers. Never dropped; bounded by the hard mark.
    * `push`: feed pushes. Dropped above the soft mark, which the peer learns from `resync`.
    * `signal`: typing, presence, receipts. The last value per key, and only while there is
      little backlog.

    AI text is not queued here at all: streams ask `writable` and send what is new.

    Args:
        on_slow: called once when the peer is too slow; must abort the connection.
        resync: the encoded frame that tells the peer that pushes were dropped.
    """

    __slots__ = (
        "_backlog",
        "_flusher",
        "_frames",
        "_held",
        "_held_bytes",
        "_join",
        "_lost",
        "_on_slow",
        "_resync",
        "_signals",
        "_transport",
        "backlog_bytes",
        "closed",
        "corked",
        "_blocked",
        "_paused",
    )

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        join: Join,
        flusher: Flusher,
        on_slow: Callable[[str], None],
        resync: Callable[[], bytes],
    ) -> None:
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self._transport = transport
        self._join = join
        self._flusher = flusher
        self._on_slow = on_slow
        self._resync = resync
        self._frames: list[bytes] = []
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._backlog: list[tuple[bool, bytes]] | None = None
        self._signals: dict[object, bytes] | None = None
        self._lost = False
        self._paused = False
        self._blocked = False  # paused or closed: the cheap test of the hot path
        self.backlog_bytes = 0
        self.closed = False
        self.corked = False

    @property
    def writable(self) -> bool:
        """False while the peer does not read fast enough, or is gone."""
        return not self._blocked and self._held is None

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the transport has taken and the kernel has not.

        Our own backlog does not count: it grows while the peer reads what came before it.
        """
        return self._transport.get_write_buffer_size()

    def reply(self, frame: bytes) -> None:
        """Queue an answer."""
        if self._blocked:
            self._hold_back(False, frame)
            return
        frames = self._frames
        if not frames and not self.corked:
            self._flusher.add(self)
        frames.append(frame)

    def answer(self, frame: bytes) -> None:
        """Write an answer now, behind what waits already."""
        if self._frames or self._blocked:
            self.reply(frame)
            self.flush()
            return
        flusher = self._flusher
        data = self._join((frame,))
        flusher.frames_out += 1
        flusher.writes += 1
        flusher.bytes_out += len(data)
        self._transport.write(data)

    def push(self, frame: bytes) -> None:
        """Queue a feed push."""
        if self._blocked or self._held is not None:
            self._hold_push(frame)
            return
        frames = self._frames
        if not frames and not self.corked:
            self._flusher.add(self)
        frames.append(frame)

    def signal(self, key: object, frame: bytes) -> None:
        """Queue a passing signal; a later one with the same key replaces it while it waits."""
        if self.closed or self._held is not None:
            return
        if not self._paused:
            self.reply(frame)
        elif self.backlog_bytes <= WRITE_LOW_BYTES:
            signals = self._signals = self._signals or {}
            if key in signals or len(signals) < SIGNAL_KEYS:
                signals[key] = frame

    def hold_pushes(self) -> None:
        """Keep pushes back until `release_pushes`: the snapshot goes out first."""
        self._held = []

    def release_pushes(self) -> None:
        """Send what was held, in order, and go live."""
        held, self._held = self._held, None
        self._held_bytes = 0
        for frame in held or ():
            self.push(frame)
        if self._lost and not self._paused:
            self._tell_lost()

    def flush(self) -> None:
        """Write everything gathered, in one write."""
        frames = self._frames
        if not frames or self._blocked:
            return
        flusher = self._flusher
        flusher.frames_out += len(frames)
        data = self._join(frames)
        frames.clear()
        flusher.writes += 1
        flusher.bytes_out += len(data)
        self._transport.write(data)

    def pause(self, now: float) -> None:
        """The transport's buffer is above its high-water mark (`pause_writing`)."""
        if self.closed:
            return
        self._paused = self._blocked = True
        self._backlog = []
        if self._frames:
            frames = self._frames
            self._frames = []
            for frame in frames:
                self._hold_back(False, frame)
        self._flusher.paused[self] = (now, self.unsent_bytes)

    def resume(self) -> None:
        """The transport's buffer is below its low-water mark (`resume_writing`)."""
        if not self._paused or self.closed:
            return
        self._paused = self._blocked = False
        self._flusher.paused.pop(self, None)
        backlog, self._backlog = self._backlog or [], None
        self._account(-self.backlog_bytes)
        signals, self._signals = self._signals, None
        for _, frame in backlog:
            self.reply(frame)
        for frame in (signals or {}).values():
            self.reply(frame)
        if self._lost and self._held is None:
            self._tell_lost()

    def close(self) -> None:
        """Flush what can be flushed and drop the rest; nothing is queued afterwards."""
        if self.closed:
            return
        if not self._transport.is_closing():
            self.flush()
        self.closed = self._blocked = True
        self._frames = []
        self._backlog = self._held = self._signals = None
        self._account(-self.backlog_bytes)
        self._flusher.paused.pop(self, None)

    def fail_slow(self, reason: str) -> None:
        """Give up on a peer that does not read."""
        if not self.closed:
            self._flusher.slow_closed += 1
            self.close()
            self._on_slow(reason)

    def _tell_lost(self) -> None:
        self._lost = False
        self._flusher.resyncs += 1
        self.reply(self._resync())

    def _account(self, delta: int) -> None:
        self.backlog_bytes += delta
        self._flusher.backlog_bytes += delta

    def _hold_push(self, frame: bytes) -> None:
        if self.closed:
            return
        if self._held is None:
            self._hold_back(True, frame)
            return
        self._held.append(frame)
        self._held_bytes += len(frame)
        if self._held_bytes > self._flusher.limits.soft_bytes:
            self._flusher.dropped_frames += len(self._held)
            self._held.clear()
            self._held_bytes = 0
            self._lost = True

    def _hold_back(self, is_push: bool, frame: bytes) -> None:
        if self.closed or self._backlog is None:
            return
        limits = self._flusher.limits
        if is_push and (self._lost or self.backlog_bytes + len(frame) > limits.soft_bytes):
            self._drop_pushes()
            self._flusher.dropped_frames += 1
            return
        self._backlog.append((is_push, frame))
        self._account(len(frame))
        if self.backlog_bytes > limits.hard_bytes:
            self.fail_slow("backlog")
        elif limits.total_bytes and self._flusher.backlog_bytes > limits.total_bytes:
            self._flusher.shed()

    def _drop_pushes(self) -> None:
        """Forget all waiting pushes at once: one gap in the revisions costs as much as many."""
        if self._lost:
            return
        self._lost = True
        backlog = self._backlog or []
        kept = [item for item in backlog if not item[0]]
        self._flusher.dropped_frames += len(backlog) - len(kept)
        self._account(sum(len(frame) for _, frame in kept) - self.backlog_bytes)
        self._backlog = kept
