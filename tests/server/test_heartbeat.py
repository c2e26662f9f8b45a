"""The wheel of deadlines."""

import pytest

from server.heartbeat import Wheel


class Entry:
    """Something with deadlines: returns the next of `dues` at each check."""

    def __init__(self, *dues: float | None) -> None:
        self._dues = list(dues)
        self.checks: list[float] = []

    def check(self, now: float) -> float | None:
        self.checks.append(now)
        return self._dues.pop(0) if self._dues else None


@pytest.fixture
def wheel() -> Wheel:
    return Wheel(100.0)


def test_an_entry_is_checked_in_the_second_of_its_deadline_and_not_before(wheel: Wheel) -> None:
    entry = Entry()
    wheel.add(entry, 103.5)
    wheel.turn(103.9)
    assert entry.checks == []
    wheel.turn(104.0)
    assert entry.checks == [104.0]


def test_an_entry_without_a_next_deadline_leaves(wheel: Wheel) -> None:
    entry = Entry()
    wheel.add(entry, 101.0)
    wheel.turn(200.0)
    wheel.turn(300.0)
    assert len(entry.checks) == 1


def test_an_entry_moves_on_to_its_next_deadline(wheel: Wheel) -> None:
    entry = Entry(105.0, None)
    wheel.add(entry, 102.0)
    for now in range(101, 110):
        wheel.turn(float(now))
    assert entry.checks == [102.0, 105.0]


def test_a_deadline_in_the_past_comes_with_the_next_turn(wheel: Wheel) -> None:
    entry = Entry()
    wheel.add(entry, 3.0)
    wheel.turn(100.9)
    assert entry.checks == []
    wheel.turn(101.0)
    assert entry.checks == [101.0]


def test_a_late_turn_misses_nobody(wheel: Wheel) -> None:
    entries = [Entry() for _ in range(50)]
    for number, entry in enumerate(entries):
        wheel.add(entry, 101.0 + number)
    wheel.turn(200.0)
    assert all(entry.checks == [200.0] for entry in entries)


def test_a_deadline_that_is_always_due_does_not_hold_the_turn_up(wheel: Wheel) -> None:
    entry = Entry(*[0.0] * 1000)
    wheel.add(entry, 101.0)
    wheel.turn(110.0)
    assert len(entry.checks) <= 10


def test_an_entry_that_fails_takes_no_other_with_it(wheel: Wheel) -> None:
    class Broken(Entry):
        def check(self, now: float) -> float | None:
            raise RuntimeError("broken")

    entries = [Entry(), Broken(), Entry()]
    for entry in entries:
        wheel.add(entry, 101.0)
    wheel.turn(101.0)
    wheel.turn(102.0)
    assert [len(entry.checks) for entry in entries] == [1, 0, 1]
