"""When to come back, when to ping: pure functions of injected time and chance."""

from __future__ import annotations

import random

from clients.outbox import make_cid
from clients.timing import Backoff, Heartbeat, Pulse, Timing


class Always(random.Random):
    """Chance that always gives the same number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


def test_waits_double_up_to_a_minute_with_full_jitter() -> None:
    longest = Backoff(Timing(), Always(1.0))
    assert [longest.wait_s(0) for _ in range(8)] == [3.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    shortest = Backoff(Timing(), Always(0.0))
    assert [shortest.wait_s(0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_only_a_steady_connection_begins_the_count_anew() -> None:
    backoff = Backoff(Timing(), Always(1.0))
    for _ in range(4):
        backoff.wait_s(0)
    backoff.connected(100)
    assert backoff.wait_s(159) == 16.0
    backoff.connected(200)
    assert backoff.wait_s(260) == 3.0


def test_bye_overrides_one_wait_and_spreads_the_crowd() -> None:
    backoff = Backoff(Timing(), Always(0.5))
    backoff.told(retry_ms=2_000, spread_ms=10_000)
    assert backoff.wait_s(0) == 7.0
    assert backoff.wait_s(0) == 1.0


def test_server_that_keeps_saying_now_is_not_asked_in_a_tight_loop() -> None:
    backoff = Backoff(Timing(), Always(1.0))
    waits = []
    for _ in range(4):
        backoff.told(0, 0)
        waits.append(backoff.wait_s(0))
    assert waits == [0.0, 2.0, 4.0, 8.0]


def test_first_ping_waits_a_fraction_and_later_ones_a_whole_interval_of_silence() -> None:
    beat = Heartbeat(30, 10, now=0, fraction=0.25)
    assert beat.check(7.4) is Pulse.NOTHING
    assert beat.check(7.5) is Pulse.PING
    beat.received()
    beat.sent(20)
    assert beat.due == 50
    assert beat.check(49) is Pulse.NOTHING
    assert beat.check(50) is Pulse.PING


def test_silence_after_a_ping_is_death_and_any_bytes_are_life() -> None:
    beat = Heartbeat(30, 10, now=0, fraction=0)
    assert beat.check(0) is Pulse.PING
    beat.received()
    assert beat.check(10) is Pulse.NOTHING
    assert beat.check(30) is Pulse.PING
    assert beat.check(39.9) is Pulse.NOTHING
    assert beat.check(40) is Pulse.DEAD


def test_cid_is_a_uuid_version_7_ordered_by_time() -> None:
    from uuid import RFC_4122, UUID

    early, late = make_cid(1_000), make_cid(2_000)
    assert early < late
    assert len({make_cid(1) for _ in range(100)}) == 100
    parsed = UUID(bytes=make_cid())
    assert (parsed.version, parsed.variant) == (7, RFC_4122)
