"""Bounds on strangers, windows of events and the pace of sign-ins, with time given."""

import asyncio
from typing import Any, cast

import pytest

from server import limits
from server.limits import HandshakeGate, StrangerLimit, WindowLimit


class Clock:
    """Time that the test sets; timers that the test fires."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Any]] = []

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, work: Any) -> "Timer":
        self.timers.append((self.now + delay_s, work))
        return Timer(self)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((at for at, _ in self.timers if at <= end)):
            self.now = max(self.now, due[0])
            ready = [work for at, work in self.timers if at <= self.now]
            self.timers = [(at, work) for at, work in self.timers if at > self.now]
            for work in ready:
                work()
        self.now = end


class Timer:
    """What `call_later` returns."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def cancel(self) -> None:
        self._clock.timers.clear()


def test_strangers_are_bounded_per_address_and_in_all() -> None:
    strangers = StrangerLimit(per_address=2, total=3)
    assert [strangers.enter("a") for _ in range(3)] == [True, True, False]
    assert [strangers.enter("b") for _ in range(2)] == [True, False]
    assert (strangers.open, strangers.refused) == (3, 2)
    strangers.leave("a")
    assert strangers.enter("b")
    for address in ("a", "b", "b"):
        strangers.leave(address)
    assert strangers.open == 0
    assert [strangers.enter("a") for _ in range(3)] == [True, True, False]


def test_strangers_of_one_ipv6_network_count_together() -> None:
    strangers = StrangerLimit(per_address=2, total=100)
    assert strangers.enter("2001:db8:0:1::1")
    assert strangers.enter("2001:db8::1:ffff:0:0:2")
    assert not strangers.enter("2001:db8:0:1::3")
    assert strangers.enter("2001:db8:0:2::1"), "another network"
    for n in range(3):
        assert strangers.enter(f"::ffff:192.0.2.{n}"), "IPv4 in another spelling"
    assert strangers.enter("fe80::1%eth0")
    strangers.leave("2001:db8::1:ffff:0:0:2")
    assert strangers.enter("2001:db8:0:1::3")


def test_a_window_counts_each_key_by_itself_and_starts_anew() -> None:
    clock = Clock()
    window = WindowLimit(2, 60.0, clock)
    assert [window.allow("ann") for _ in range(3)] == [True, True, False]
    assert window.allow("bob")
    clock.advance(59.9)
    assert not window.allow("ann")
    clock.advance(0.1)
    assert window.allow("ann")


def test_the_table_of_windows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_TABLE_ENTRIES", 3)
    window = WindowLimit(1, 60.0, Clock())
    for key in range(4):
        assert window.allow(key)
    assert not window.allow(3)
    assert window.allow(0), "the one that was idle longest is forgotten"


def gate(clock: Clock, per_s: float, waiting: int) -> HandshakeGate:
    return HandshakeGate(cast(asyncio.AbstractEventLoop, clock), per_s, waiting)


def test_sign_ins_pass_at_a_steady_rate_in_their_order() -> None:
    clock = Clock()
    door = gate(clock, per_s=10, waiting=100)
    passed: list[int] = []
    for number in range(25):
        assert door.enter(lambda number=number: passed.append(number))  # type: ignore[misc]  # bound early
    assert passed == list(range(10))
    clock.advance(0.5)
    assert 14 <= len(passed) <= 16
    clock.advance(2.0)
    assert passed == list(range(25))


def test_too_many_waiting_sign_ins_are_turned_away_with_a_time_to_spread_over() -> None:
    clock = Clock()
    door = gate(clock, per_s=1, waiting=3)
    passed: list[int] = []
    taken = [door.enter(lambda: passed.append(1)) for _ in range(6)]
    assert taken == [True, True, True, True, False, False]
    assert door.refused == 2
    assert door.spread_ms == 4000
    clock.advance(1.0)
    assert door.enter(lambda: passed.append(2))


def test_a_closed_gate_forgets_who_waits() -> None:
    clock = Clock()
    door = gate(clock, per_s=1, waiting=3)
    passed: list[int] = []
    for number in range(3):
        door.enter(lambda number=number: passed.append(number))  # type: ignore[misc]  # bound early
    door.close()
    clock.advance(10.0)
    assert passed == [0]
