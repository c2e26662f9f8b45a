"""What slow readers lose, and what they cost."""

import asyncio
from typing import Any, cast

import pytest

from server.outbox import SIGNAL_KEYS, SLICE_OUTBOXES, Flusher, Outbox, OutboxLimits

SOFT, HARD, STALL_S = 1000, 4000, 20.0
RESYNC = b"<resync>"


class Loop:
    """A loop whose ticks the test makes."""

    def __init__(self) -> None:
        self._soon: list[Any] = []

    def call_soon(self, work: Any) -> None:
        self._soon.append(work)

    def tick(self) -> None:
        due, self._soon = self._soon, []
        for work in due:
            work()

    def run(self) -> int:
        ticks = 0
        while self._soon:
            self.tick()
            ticks += 1
        return ticks


class Pipe:
    """A transport: keeps each write; `stuck` bytes stand for those the kernel has not taken."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.stuck = 0
        self.closing = False
        self.broken = False
        self.marks: tuple[int, int] | None = None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self.marks = (high, low)

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.writes.append(data)


class Wire:
    """An outbox between a test's loop and pipe."""

    def __init__(self, flusher: Flusher) -> None:
        self.pipe = Pipe()
        self.slow: list[str] = []
        transport = cast(asyncio.WriteTransport, self.pipe)
        self.out = Outbox(transport, b"".join, flusher, self.slow.append, lambda: RESYNC)

    @property
    def written(self) -> bytes:
        return b"".join(self.pipe.writes)


class Rig:
    """A flusher and its wires."""

    def __init__(self, total: int = 0) -> None:
        self.loop = Loop()
        limits = OutboxLimits(SOFT, HARD, STALL_S, total)
        self.flusher = Flusher(cast(asyncio.AbstractEventLoop, self.loop), limits)

    def wire(self) -> Wire:
        return Wire(self.flusher)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_all_frames_of_a_tick_are_one_write(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.reply(b"a")
    wire.out.push(b"b")
    wire.out.signal("key", b"c")
    assert wire.pipe.writes == []
    rig.loop.tick()
    assert wire.pipe.writes == [b"abc"]
    assert (rig.flusher.frames_out, rig.flusher.writes, rig.flusher.bytes_out) == (3, 1, 3)
    wire.out.push(b"d")
    rig.loop.tick()
    assert wire.pipe.writes == [b"abc", b"d"]


def test_a_corked_outbox_waits_for_its_own_flush(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.corked = True
    wire.out.reply(b"a")
    rig.loop.run()
    assert wire.pipe.writes == []
    wire.out.corked = False
    wire.out.flush()
    wire.out.flush()
    assert wire.pipe.writes == [b"a"]


def test_what_came_before_the_cork_goes_out_with_it_and_once(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.push(b"a")
    wire.out.corked = True
    wire.out.reply(b"b")
    wire.out.corked = False
    wire.out.flush()
    rig.loop.run()
    assert wire.pipe.writes == [b"ab"]


def test_an_answer_is_written_at_once_behind_what_waits(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.answer(b"a")
    assert wire.pipe.writes == [b"a"]
    assert (rig.flusher.frames_out, rig.flusher.writes, rig.flusher.bytes_out) == (1, 1, 1)
    wire.out.push(b"b")
    wire.out.answer(b"c")
    assert wire.pipe.writes == [b"a", b"bc"]
    rig.loop.run()
    assert wire.pipe.writes == [b"a", b"bc"]


def test_an_answer_to_a_reader_that_is_behind_waits_like_any_reply(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.pause(0.0)
    wire.out.answer(b"a")
    assert (wire.pipe.writes, wire.out.backlog_bytes) == ([], 1)
    wire.out.resume()
    rig.loop.run()
    assert wire.pipe.writes == [b"a"]
    wire.out.close()
    wire.out.answer(b"never")
    assert wire.pipe.writes == [b"a"]


def test_a_large_room_is_written_in_slices(rig: Rig) -> None:
    wires = [rig.wire() for _ in range(2 * SLICE_OUTBOXES + 1)]
    for wire in wires:
        wire.out.push(b"x")
    rig.loop.tick()
    assert sum(len(wire.pipe.writes) for wire in wires) == SLICE_OUTBOXES
    wires[-1].out.push(b"y")  # joins what still waits
    assert rig.loop.run() == 2
    assert {wire.written for wire in wires[:-1]} == {b"x"}
    assert wires[-1].pipe.writes == [b"xy"]


def test_a_paused_reader_gets_everything_in_order_when_it_is_back(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.pause(0.0)
    assert not wire.out.writable
    wire.out.push(b"1")
    wire.out.reply(b"2")
    wire.out.push(b"3")
    rig.loop.run()
    assert wire.pipe.writes == []
    assert rig.flusher.backlog_bytes == wire.out.backlog_bytes == 3
    wire.out.resume()
    wire.out.push(b"4")
    rig.loop.run()
    assert wire.pipe.writes == [b"1234"]
    assert rig.flusher.backlog_bytes == 0
    assert rig.flusher.paused == {}
    assert wire.out.writable


def test_above_the_soft_mark_pushes_are_dropped_and_answers_are_not(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.pause(0.0)
    wire.out.push(b"p" * 600)
    wire.out.reply(b"R" * 300)
    wire.out.push(b"q" * 600)  # too much: both pushes go
    wire.out.push(b"s")  # small, but behind a gap
    wire.out.reply(b"S")
    assert wire.out.backlog_bytes == 301
    assert rig.flusher.dropped_frames == 3
    wire.out.resume()
    rig.loop.run()
    assert wire.written == b"R" * 300 + b"S" + RESYNC
    assert rig.flusher.resyncs == 1
    wire.out.push(b"live")
    rig.loop.run()
    assert wire.written.endswith(RESYNC + b"live")


def test_a_second_time_slow_means_a_second_resync(rig: Rig) -> None:
    wire = rig.wire()
    for _ in range(2):
        wire.out.pause(0.0)
        wire.out.push(b"p" * (SOFT + 1))
        wire.out.resume()
        rig.loop.run()
    assert wire.written == RESYNC * 2
    assert rig.flusher.resyncs == 2


def test_above_the_hard_mark_the_reader_is_closed_once(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.pause(0.0)
    for _ in range(5):
        wire.out.reply(b"R" * 1000)
    assert wire.slow == ["backlog"]
    assert wire.out.closed
    assert rig.flusher.backlog_bytes == 0
    assert rig.flusher.paused == {}
    assert rig.flusher.slow_closed == 1
    wire.out.resume()
    wire.out.push(b"late")
    wire.out.reply(b"late")
    wire.out.signal("key", b"late")
    rig.loop.run()
    assert wire.pipe.writes == []


def test_a_reader_that_takes_nothing_is_closed_and_one_that_takes_a_little_is_not(
    rig: Rig,
) -> None:
    stuck, slow = rig.wire(), rig.wire()
    for wire in (stuck, slow):
        wire.pipe.stuck = 500
        wire.out.pause(100.0)
    rig.flusher.sweep(100.0 + STALL_S - 1)
    slow.pipe.stuck -= 1
    rig.flusher.sweep(100.0 + STALL_S)
    rig.flusher.sweep(100.0 + 2 * STALL_S - 1)
    assert stuck.slow == ["no progress"]
    assert slow.slow == []
    rig.flusher.sweep(100.0 + 2 * STALL_S)
    assert slow.slow == ["no progress"]


def test_a_reader_that_takes_bytes_while_more_arrives_makes_progress(rig: Rig) -> None:
    wire = rig.wire()
    wire.pipe.stuck = 500
    wire.out.pause(0.0)
    for second in range(1, 100):
        wire.pipe.stuck -= 5
        wire.out.reply(b"12345")
        rig.flusher.sweep(float(second))
    assert wire.slow == []


def test_pushes_that_race_with_the_snapshot_follow_it(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.hold_pushes()
    assert not wire.out.writable
    wire.out.push(b"<live>")
    wire.out.signal("key", b"<typing>")
    wire.out.reply(b"<welcome>")
    rig.loop.run()
    assert wire.written == b"<welcome>"
    wire.out.release_pushes()
    rig.loop.run()
    assert wire.written == b"<welcome><live>"


def test_too_much_held_back_becomes_a_resync(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.hold_pushes()
    for _ in range(3):
        wire.out.push(b"p" * (SOFT // 2))
    wire.out.reply(b"<welcome>")
    wire.out.release_pushes()
    rig.loop.run()
    assert wire.written == b"<welcome>" + RESYNC
    assert rig.flusher.dropped_frames == 3


def test_a_reader_that_is_slow_while_it_attaches_is_told_in_the_end(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.hold_pushes()
    wire.out.push(b"p" * (SOFT + 1))
    wire.out.pause(0.0)
    wire.out.reply(b"<welcome>")
    wire.out.release_pushes()
    wire.out.push(b"q")
    wire.out.resume()
    rig.loop.run()
    assert wire.written == b"<welcome>" + RESYNC


def test_only_the_last_signal_of_a_key_waits(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.pause(0.0)
    wire.out.signal("a", b"1")
    wire.out.signal("b", b"2")
    wire.out.signal("a", b"3")
    wire.out.resume()
    rig.loop.run()
    assert wire.written == b"32"


def test_signals_are_bounded_in_number_and_yield_to_a_backlog() -> None:
    rig = Rig()
    rig.flusher.limits = OutboxLimits(1 << 20, 1 << 21, STALL_S, 0)
    many, behind = rig.wire(), rig.wire()
    many.out.pause(0.0)
    for key in range(SIGNAL_KEYS + 10):
        many.out.signal(key, b"x")
    many.out.signal(0, b"y")
    many.out.resume()
    behind.out.pause(0.0)
    behind.out.push(b"p" * 20_000)
    behind.out.signal("a", b"lost")
    behind.out.resume()
    rig.loop.run()
    assert many.written == b"y" + b"x" * (SIGNAL_KEYS - 1)
    assert behind.written == b"p" * 20_000


def test_when_all_together_hold_too_much_the_largest_goes_first() -> None:
    rig = Rig(total=1500)
    small, large = rig.wire(), rig.wire()
    for wire in (small, large):
        wire.out.pause(0.0)
    small.out.reply(b"s" * 500)
    large.out.reply(b"l" * 900)
    assert large.slow == []
    small.out.reply(b"s" * 200)
    assert large.slow == ["memory"]
    assert small.slow == []
    assert rig.flusher.backlog_bytes == 700


def test_closing_flushes_what_can_still_go_out(rig: Rig) -> None:
    wire, gone = rig.wire(), rig.wire()
    wire.out.reply(b"bye")
    wire.out.close()
    gone.out.reply(b"bye")
    gone.pipe.closing = True
    gone.out.close()
    rig.loop.run()
    assert wire.pipe.writes == [b"bye"]
    assert gone.pipe.writes == []


def test_frames_gathered_before_the_transport_pauses_are_not_lost(rig: Rig) -> None:
    wire = rig.wire()
    wire.out.push(b"a")
    wire.out.pause(0.0)
    wire.out.push(b"b")
    rig.loop.run()
    assert wire.pipe.writes == []
    wire.out.resume()
    rig.loop.run()
    assert wire.written == b"ab"


def test_a_broken_transport_keeps_nobody_elses_frames_back(rig: Rig) -> None:
    before, broken, after = rig.wire(), rig.wire(), rig.wire()
    broken.pipe.broken = True
    for wire in (before, broken, after):
        wire.out.push(b"x")
    rig.loop.run()
    assert (before.written, after.written) == (b"x", b"x")
    assert broken.slow == ["write failed"]
    assert broken.out.closed
