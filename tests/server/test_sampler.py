"""Figures over time: right rates, times and means, in memory of a fixed size."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, PersonaSpec, TurnRequest, Usage, UsageSource
from protocol.codes import Code, ConvKind, EndReason
from protocol.envelopes import History, StreamEnd
from server.metrics import LoopLag
from server.sampler import (
    EVERY_S,
    RECENT,
    WINDOW,
    Levels,
    Point,
    Reading,
    Ring,
    Sampler,
    Totals,
    quantile_s,
    read_process,
    running_turns,
)
from server.stats import REQUEST_BOUNDS_S
from server.turn_requests import Wish
from tests.server.harness import serving
from tests.server.test_streams import ask, talk
from tests.support.eventually import eventually

NONE = (0,) * (len(REQUEST_BOUNDS_S) + 1)
WIDTH = len(Point._fields)


class Process:
    """Counters that a test moves, and the sampler that looks at them."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.time_ms = 1_800_000_000_000
        self.totals: dict[str, float] = {}
        self.levels: dict[str, float] = {}
        self.counts = list(NONE)
        self.sampler = Sampler(self.read, lambda: self.time_ms)

    def read(self) -> Reading:
        totals, levels = Totals(**self.totals), Levels(**self.levels)
        return Reading(self.at, self.time_ms, totals, levels, tuple(self.counts))

    def pass_s(self, seconds: float = 1.0, **more: float) -> Point:
        """Let time pass in which so much was counted; return what the sampler makes of it."""
        for name, value in more.items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.at += seconds
        self.time_ms += int(seconds * 1000)
        self.sampler.look()
        return self.sampler.point

    def requests(self, seconds: float, count: int = 1) -> None:
        """Note requests that took so long."""
        index = sum(bound < seconds for bound in REQUEST_BOUNDS_S)
        self.counts[index] += count
        self.totals["requests"] = self.totals.get("requests", 0) + count
        self.totals["request_s"] = self.totals.get("request_s", 0) + seconds * count

    def ring(self, name: str) -> list[Point]:
        ring = self.sampler.rings[name]
        return [Point._make(row) for row in ring.last(ring.capacity)]


def test_rates_are_of_the_time_that_passed_and_not_of_the_time_it_should_have_been() -> None:
    process = Process()
    assert process.pass_s(messages=10).messages_per_s == 10
    late = process.pass_s(2.5, messages=10, cpu_s=0.5)
    assert (late.messages_per_s, late.cpu_percent) == (4, 20)
    assert process.pass_s().messages_per_s == 0


def test_a_wall_clock_that_is_set_back_changes_no_rate() -> None:
    process = Process()
    process.time_ms -= 3_600_000
    assert process.pass_s(messages=7).messages_per_s == 7
    assert len(process.ring("1s")) == 1


def test_times_are_those_of_the_last_ten_seconds() -> None:
    process = Process()
    process.requests(0.0015, 98)
    process.requests(0.4, 2)
    point = process.pass_s()
    assert 1 < point.p50_ms < 2
    assert 200 < point.p99_ms <= 500
    assert point.mean_ms == pytest.approx((98 * 1.5 + 2 * 400) / 100)
    for _ in range(WINDOW - 1):
        assert process.pass_s().p99_ms == point.p99_ms
    assert process.pass_s().p99_ms == 0


def test_a_part_of_all_is_found_between_the_bounds() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert quantile_s(bounds, (0, 0, 0, 0), 0.5) == 0
    assert quantile_s(bounds, (10, 0, 0, 0), 0.5) == 0.5
    assert quantile_s(bounds, (0, 0, 10, 0), 0.5) == 3
    assert quantile_s(bounds, (5, 0, 5, 0), 0.95) == pytest.approx(3.8)
    assert quantile_s(bounds, (1, 0, 0, 99), 0.95) == 4, "above the last bound nothing is known"


def test_hit_rates_are_parts_of_what_was_asked() -> None:
    process = Process()
    assert process.pass_s().conversation_hit_rate == 0
    point = process.pass_s(conversations_found=3, conversations_asked=4)
    assert point.conversation_hit_rate == 0.75


def test_a_minute_has_the_mean_of_levels_the_worst_lag_and_the_sum_of_what_was_counted() -> None:
    process = Process()
    for second in range(60):
        process.levels = {"connections": second, "loop_lag_ms": 500.0 if second == 7 else 1.0}
        process.requests(0.1 if second < 59 else 3.0)
        process.pass_s(messages=second)
    (minute,) = process.ring("1m")
    assert minute.connections == pytest.approx(29.5)
    assert minute.loop_lag_ms == 500
    assert minute.messages_per_s == pytest.approx(29.5)
    assert minute.requests_per_s == pytest.approx(1)
    assert 50 < minute.p95_ms <= 100
    assert minute.p99_ms > 2000
    assert process.ring("1h") == []


def test_an_hour_is_made_of_its_seconds_also_when_they_come_late() -> None:
    process = Process()
    for _ in range(1200):
        process.pass_s(3.0, messages=6)
    (hour,) = process.ring("1h")
    assert hour.messages_per_s == pytest.approx(2)
    assert len(process.ring("1m")) == 60


def test_the_rings_take_the_same_memory_full_or_empty() -> None:
    process = Process()
    size = process.sampler.size_bytes
    assert size == (600 + 1440 + 720) * WIDTH * 8
    for _ in range(700):
        process.pass_s(messages=1)
    assert process.sampler.size_bytes == size
    points = process.ring("1s")
    assert len(points) == 600
    assert points[-1].time == process.time_ms / 1000
    assert points[0].time == points[-1].time - 599


def test_a_ring_gives_the_newest_points_oldest_first() -> None:
    ring = Ring(1, 3)
    assert ring.last(5) == []
    for number in range(5):
        ring.add(Point._make([number] * WIDTH))
    assert [row[0] for row in ring.last(2)] == [3, 4]
    assert [row[0] for row in ring.last(9)] == [2, 3, 4]


def test_one_that_fails_to_be_told_keeps_nobody_else_from_it() -> None:
    process = Process()
    told: list[int] = []

    def broken() -> None:
        raise RuntimeError

    process.sampler.told += [broken, lambda: told.append(process.sampler.looks)]
    process.pass_s()
    process.pass_s()
    assert told == [1, 2]


def test_only_the_last_answers_are_remembered_with_how_they_ended() -> None:
    process = Process()
    for number in range(RECENT + 5):
        persona = PersonaSpec(7, "小" * 500)
        request = TurnRequest(turn_id=number, tenant=3, user=1, conv=0, persona=persona, history=())
        outcome = Outcome(
            reason=EndReason.ERROR,
            code=Code.BUSY,
            provider="p",
            model="m",
            usage=Usage(5, 6, UsageSource.PROVIDER),
        )
        process.sampler.note_turn(Turn(request), outcome)
    recent = process.sampler.recent
    assert [one.sid for one in recent] == list(range(5, RECENT + 5))
    last = recent[-1]
    assert (last.tenant, last.status, last.code) == (3, "error", Code.BUSY)
    assert (last.model, last.tokens_in, last.tokens_out) == ("m", 5, 6)
    assert last.persona == "小" * 64


class Timers:
    """Stands for a loop: calls come when the test lets them."""

    def __init__(self) -> None:
        self.now = 50.0
        self.due: list[tuple[float, object]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: object) -> asyncio.TimerHandle:
        self.due.append((when, call))
        loop = asyncio.new_event_loop()
        handle = asyncio.TimerHandle(when, lambda: None, (), loop)
        loop.close()
        return handle


def test_what_was_missed_while_the_loop_stood_still_is_not_made_up_for() -> None:
    process, timers = Process(), Timers()
    process.sampler.start(timers)  # type: ignore[arg-type]
    dues = []
    for late in (0.0, 0.2, 4.0, 0.0):
        when, call = timers.due.pop()
        dues.append(when)
        timers.now = when + late
        process.at = timers.now
        call()  # type: ignore[operator]
    assert dues == [51.0, 52.0, 53.0, 57.0]
    assert process.sampler.looks == 4
    assert timers.due[0][0] - timers.now == EVERY_S


# in a server


async def test_messages_and_what_is_read_are_timed_over_sockets(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, ben = await server.people("ann ben")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.DIRECT, ben)).row.id or 0
        await server.idle()
        read = read_process(server.core, LoopLag())
        before = read()
        for _ in range(3):
            await peer.send_text(conv)
        await peer.ask(History, conv, 0, True, 10)
        await server.idle()
        after = read()
        assert after.totals.requests - before.totals.requests == 4
        assert after.totals.messages - before.totals.messages == 3
        assert sum(after.counts) == after.totals.requests
        assert after.levels.connections == after.levels.sessions == 1


def test_the_worst_lag_since_the_last_look_is_told_also_when_it_was_early() -> None:
    lag = LoopLag()
    lag.note(0.4)
    for _ in range(19):
        lag.note(0.0)
    assert lag.recent_ms < 10
    assert lag.worst_ms == 400


async def test_an_answer_whose_talk_is_still_being_read_is_listed_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        core, go_on = server.core, asyncio.Event()
        build = core.turns._requests.build

        async def slow(wish: Wish) -> TurnRequest:
            await go_on.wait()
            return await build(wish)

        monkeypatch.setattr(core.turns._requests, "build", slow)
        ann, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        await eventually(lambda: len(core.turns) == 1)
        (running,) = running_turns(core)
        assert (running.sid, running.state, running.conv) == (sid, "preparing", conv)
        assert (running.user, running.tenant, running.persona_name) == (ann.id, 1, "Ada")
        core.turns.cancel(sid)
        go_on.set()
        end = await peer.expect(StreamEnd)
        assert end.reason == EndReason.CANCELLED
        assert list(running_turns(core)) == []
