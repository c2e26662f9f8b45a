"""Ids rise, never repeat, and fit into 53 bits."""

from __future__ import annotations

from storage.ids import EPOCH_MS, IdGenerator, id_time_ms, new_id


def test_ids_rise_strictly_even_when_the_clock_stands_or_steps_back() -> None:
    now = [EPOCH_MS / 1000 + 86_400]
    make = IdGenerator(lambda: now[0])
    ids = [make() for _ in range(10_000)]
    now[0] -= 5
    ids += [make() for _ in range(100)]
    now[0] += 60
    ids += [make() for _ in range(100)]
    assert ids == sorted(set(ids))


def test_an_id_tells_when_it_was_made() -> None:
    make = IdGenerator(lambda: EPOCH_MS / 1000 + 1_000)
    assert id_time_ms(make()) == EPOCH_MS + 1_000_000


def test_ids_fit_until_2094() -> None:
    late = IdGenerator(lambda: EPOCH_MS / 1000 + (2**41 - 1) / 1000)
    assert late() < 2**53
    assert 0 < new_id() < 2**53


def test_two_generators_seldom_meet() -> None:
    now = lambda: EPOCH_MS / 1000 + 5  # noqa: E731 - a clock
    starts = {IdGenerator(now)() for _ in range(200)}
    assert len(starts) > 150
