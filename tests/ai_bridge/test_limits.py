"""How much a slot takes and when it is left alone. Time is injected."""

from __future__ import annotations

import random

import pytest

from ai_bridge.breaker import Breaker, BreakerState
from ai_bridge.config import LimitKind, ProviderConfig
from ai_bridge.limits import (
    AimdLimit,
    Buckets,
    GradientLimit,
    Limit,
    RetryBudget,
    Storm,
    is_own_address,
    limit_for,
)
from ai_bridge.providers.headers import RateLimits
from tests.ai_bridge.fakes import Clock

# --- streams at a time ---------------------------------------------------------------------------


def test_a_shared_service_is_asked_for_more_until_it_refuses() -> None:
    limit = AimdLimit(800, Clock())
    assert limit.value == 16
    for _ in range(100):
        limit.note_answer(int(limit.value), 1.0)
    assert limit.value == 116  # as TCP starts: one more for each answer
    limit.note_overload(int(limit.value))
    assert limit.value == pytest.approx(81.2)
    limit.note_answer(81, 1.0)
    assert limit.value == pytest.approx(81.2 + 1 / 81.2)


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    limit = AimdLimit(800, Clock())
    limit.note_answer(12, 1.0)
    assert limit.value == 16
    limit.note_answer(13, 1.0)
    assert limit.value == 17


def test_refusals_of_one_second_cut_once() -> None:
    clock = Clock()
    limit = AimdLimit(800, clock)
    for _ in range(10):
        limit.note_overload(int(limit.value))
    assert limit.value == pytest.approx(11.2)
    clock.advance(1)
    limit.note_overload(int(limit.value))
    assert limit.value == pytest.approx(7.84)
    for _ in range(100):
        clock.advance(1)
        limit.note_overload(int(limit.value))
    assert limit.value == 1


def test_a_refusal_of_the_only_stream_says_nothing_about_their_number() -> None:
    limit = AimdLimit(800, Clock())
    limit.note_overload(1)
    assert limit.value == 16


def test_no_limit_passes_what_is_configured() -> None:
    limit = AimdLimit(20, Clock())
    for _ in range(100):
        limit.note_answer(20, 1.0)
    assert limit.value == 20
    assert AimdLimit(3, Clock()).value == 3


def test_an_own_machine_is_filled_until_its_queue_shows_in_the_first_text() -> None:
    limit = GradientLimit(256, Clock())
    assert limit.value == 4
    parallel = 12  # what the machine works on at a time; the rest waits in it
    for _ in range(400):
        running = int(limit.value)
        queued = max(0, running - parallel)
        limit.note_answer(running, 0.4 * (1 + 2 * queued))
    assert parallel <= limit.value <= 2 * parallel


def test_an_own_machine_that_recovers_is_used_again() -> None:
    limit = GradientLimit(256, Clock())
    for _ in range(50):
        limit.note_answer(int(limit.value), 1.0)
    high = limit.value
    for _ in range(15):
        limit.note_answer(int(limit.value), 10.0)
    low = limit.value
    assert low < 0.7 * high
    for _ in range(60):
        limit.note_answer(int(limit.value), 1.0)
    assert limit.value > low


def test_noise_below_half_a_second_is_no_queue() -> None:
    limit = GradientLimit(500, Clock())
    dice = random.Random(1)
    for _ in range(400):
        limit.note_answer(int(limit.value), dice.choice([0.01, 0.02, 0.3, 0.45]))
    assert limit.value > 300


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:11434/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000", True),
        ("http://10.1.2.3/v1", True),
        ("http://ollama:11434/v1", True),
        ("http://gpu.local/v1", True),
        ("https://api.openai.com/v1", False),
        ("https://8.8.8.8/v1", False),
        ("http://[broken", False),
        ("", False),
    ],
)
def test_an_own_machine_is_told_by_its_address(url: str, own: bool) -> None:
    assert is_own_address(url) is own


@pytest.mark.parametrize(
    ("kind", "url", "limit"),
    [
        ("auto", "https://api.example.com/v1", AimdLimit),
        ("auto", "http://192.168.1.9/v1", GradientLimit),
        ("gradient", "https://api.example.com/v1", GradientLimit),
        ("aimd", "http://127.0.0.1/v1", AimdLimit),
        ("fixed", "https://api.example.com/v1", Limit),
    ],
)
def test_the_kind_of_limit_is_configured_or_follows_the_address(
    kind: LimitKind, url: str, limit: type[Limit]
) -> None:
    config = ProviderConfig(name="x", base_url=url, limit=kind, max_streams=7)
    made = limit_for(config, 800, Clock())
    assert type(made) is limit
    assert made.most == 7


# --- the gate of a refused slot ------------------------------------------------------------------


def storm(clock: Clock, *, base_s: float = 0.5) -> Storm:
    return Storm(clock, base_s=base_s, most_s=8.0, dice=random.Random(3))


def test_a_refusal_closes_for_the_time_that_was_asked_and_a_longer_one_extends() -> None:
    clock = Clock()
    gate = storm(clock, base_s=0)
    gate.close(3.0)
    assert gate.closed_until == clock.now + 3
    gate.close(1.0)
    assert gate.closed_until == clock.now + 3
    gate.close(10.0)
    assert gate.closed_until == clock.now + 10
    assert gate.times == 1


def test_a_time_that_was_asked_is_kept_to_however_often() -> None:
    clock = Clock()
    gate = storm(clock)
    for _ in range(20):
        gate.close(2.0)
        assert 2.0 <= gate.closed_until - clock.now <= 2.5
        clock.now = gate.closed_until


def test_an_hour_is_the_longest_that_nobody_tries() -> None:
    clock = Clock()
    gate = storm(clock)
    gate.close(86_400.0)
    assert gate.closed_until - clock.now <= 3_600.5


def test_a_refusal_without_a_time_doubles_with_full_jitter_up_to_eight_seconds() -> None:
    clock = Clock()
    gate = storm(clock)
    spans = []
    for _ in range(60):
        gate.close(None)
        spans.append(gate.closed_until - clock.now)
        clock.now = gate.closed_until
    assert [span <= 0.5 * 2**n for n, span in enumerate(spans[:5])] == [True] * 5
    assert max(spans) <= 8.0
    assert max(spans[5:]) > 6
    assert min(spans[5:]) < 2  # full jitter


def test_refusals_of_what_was_sent_before_do_not_lengthen_the_wait() -> None:
    clock = Clock()
    gate = storm(clock)
    gate.close(None)
    until = gate.closed_until
    for _ in range(200):
        gate.close(None)
    assert gate.closed_until == until


def test_an_open_gate_lets_in_one_then_two_then_four() -> None:
    clock = Clock()
    gate = storm(clock)
    assert gate.width(10) == 10
    gate.close(1.0)
    clock.now = gate.closed_until
    widths = []
    for _ in range(5):
        widths.append(gate.width(10))
        gate.note_answer(10)
    assert widths == [1, 2, 4, 8, 10]
    assert not gate.passing


def test_what_answers_while_the_gate_is_closed_does_not_open_it() -> None:
    clock = Clock()
    gate = storm(clock)
    gate.close(1.0)
    gate.note_answer(10)
    clock.now = gate.closed_until
    assert gate.width(10) == 1


# --- figures from headers ------------------------------------------------------------------------


def test_what_the_headers_leave_is_counted_down_until_the_reset() -> None:
    clock = Clock()
    buckets = Buckets(clock)
    buckets.spend(1000)
    assert buckets.empty_until <= clock.now  # nothing is known yet
    buckets.note(RateLimits(requests_left=2, requests_reset_s=6.0))
    buckets.spend(10)
    assert buckets.empty_until <= clock.now
    buckets.spend(10)
    assert buckets.empty_until == clock.now + 6
    clock.advance(6)
    assert buckets.empty_until <= clock.now


def test_tokens_run_out_before_requests() -> None:
    clock = Clock()
    buckets = Buckets(clock)
    buckets.note(
        RateLimits(requests_left=50, requests_reset_s=1, tokens_left=4000, tokens_reset_s=9)
    )
    buckets.spend(2500)
    assert buckets.empty_until <= clock.now
    buckets.spend(2500)
    assert buckets.empty_until == clock.now + 9
    buckets.note(RateLimits(tokens_left=3000, tokens_reset_s=9))
    assert buckets.empty_until <= clock.now


def test_a_figure_without_a_reset_closes_nothing() -> None:
    clock = Clock()
    buckets = Buckets(clock)
    buckets.note(RateLimits(requests_left=1))
    buckets.spend(1)
    assert buckets.empty_until <= clock.now


# --- repeats -------------------------------------------------------------------------------------


def test_repeats_are_a_tenth_of_the_requests_and_a_reserve() -> None:
    budget = RetryBudget(Clock())
    granted = sum(budget.spend() for _ in range(100))
    assert granted == 20
    for _ in range(500):
        budget.note_request()
    assert sum(budget.spend() for _ in range(500)) == 50
    assert budget.refused == 80 + 450


def test_a_quiet_server_gets_its_reserve_back() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    while budget.spend():
        pass
    clock.advance(5)
    assert sum(budget.spend() for _ in range(50)) == 5
    clock.advance(1000)
    assert sum(budget.spend() for _ in range(50)) == 20


# --- the breaker ---------------------------------------------------------------------------------


def state_of(breaker: Breaker) -> BreakerState:
    return breaker.state


def lets_in(breaker: Breaker) -> bool:
    return breaker.allows


def test_five_failures_that_are_half_of_the_calls_open_it() -> None:
    breaker = Breaker(Clock())
    for _ in range(4):
        breaker.note_failure()
    assert lets_in(breaker)
    breaker.note_failure()
    assert state_of(breaker) is BreakerState.OPEN
    assert not lets_in(breaker)
    assert breaker.opens_in_s == 5


def test_failures_among_many_successes_do_not_open_it() -> None:
    breaker = Breaker(Clock())
    for _ in range(20):
        breaker.note_success()
    for _ in range(10):
        breaker.note_failure()
        breaker.note_success()
    assert state_of(breaker) is BreakerState.CLOSED


def test_failures_of_long_ago_do_not_count() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(20):
        breaker.note_failure()
        clock.advance(3)
    assert state_of(breaker) is BreakerState.CLOSED


def test_one_request_tries_and_its_failure_doubles_the_span_up_to_a_minute() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.note_failure()
    spans = []
    for _ in range(6):
        spans.append(breaker.opens_in_s)
        clock.advance(breaker.opens_in_s)
        assert state_of(breaker) is BreakerState.HALF_OPEN
        assert lets_in(breaker)
        tried = breaker.begin()
        assert not lets_in(breaker)  # one at a time
        breaker.note_failure()
        breaker.end(tried)
    assert spans == [5, 10, 20, 40, 60, 60]


def test_an_answer_closes_it_and_the_span_begins_anew() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(2):
        for _ in range(5):
            breaker.note_failure()
        assert breaker.opens_in_s == 5
        clock.advance(5)
        tried = breaker.begin()
        breaker.note_answer()
        breaker.end(tried)
        assert state_of(breaker) is BreakerState.CLOSED
    assert lets_in(breaker)


def test_a_trial_that_tells_nothing_leaves_the_next_one_to_try() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.note_failure()
    clock.advance(5)
    breaker.end(breaker.begin())
    assert state_of(breaker) is BreakerState.HALF_OPEN
    assert lets_in(breaker)
