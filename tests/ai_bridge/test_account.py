"""Prices and budgets: what tokens cost, and that nobody spends more than is allowed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.account import (
    MAX_TENANTS,
    OTHER_TENANTS,
    BudgetExceeded,
    Ledger,
    Limits,
    Reservation,
)
from ai_bridge.prices import FREE, Price, PriceTable
from ai_bridge.types import Usage
from protocol.codes import Code

DAY_MS = 86_400_000
NOON = 1_700_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2


class Clock:
    """Both clocks of a ledger, moved by hand."""

    def __init__(self) -> None:
        self.ms = NOON
        self.s = 100.0

    def ledger(self, limits: Limits | None = None) -> Ledger:
        return Ledger(now_ms=lambda: self.ms, clock=lambda: self.s, user_limits=limits or Limits())


@pytest.fixture
def clock() -> Clock:
    return Clock()


# prices


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("anthropic/Claude-Sonnet-4-5-20250929", "claude-sonnet-4"),
        ("deepseek-chat", "deepseek-chat"),
        ("gpt", None),
        ("llama3.2", None),
        ("", None),
    ],
)
def test_a_dated_or_prefixed_name_has_the_price_of_its_model(model: str, known: str | None) -> None:
    table = PriceTable()
    assert table.find(model) == (table.find(known) if known else None)
    assert known is None or table.find(known) is not None


def test_own_prices_come_before_the_file() -> None:
    table = PriceTable({"gpt-4o": FREE, "my/model": Price(1.0, 2.0)})
    assert table.find("gpt-4o") == FREE
    assert table.find("my/model") == Price(1.0, 2.0)


@pytest.mark.parametrize(
    ("price", "usage", "micro"),
    [
        (Price(2.5, 10.0), Usage(1000, 100), 3500),
        (Price(2.5, 10.0, 1.25), Usage(1000, 100, cached=400), 3000),
        (Price(2.5, 10.0, 1.25), Usage(10, 0, cached=400), 13),
        (Price(0.15, 0.6), Usage(1, 1), 1),
        (Price(0.1, 0.0), Usage(30, 5), 3),
        (FREE, Usage(10**9, 10**9), 0),
        (Price(3.0, 15.0), Usage(), 0),
    ],
)
def test_a_call_costs_its_tokens_rounded_up(price: Price, usage: Usage, micro: int) -> None:
    assert price.cost_micro(usage) == micro


def test_a_price_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a price is"):
        Price(-1.0)


# budgets


def test_parallel_reservations_never_exceed_the_budget(clock: Clock) -> None:
    ledger = clock.ledger()
    ledger.set_limits(1, 0, Limits(day_micro=100))
    held = []
    for user in range(1, 1001):
        with contextlib.suppress(BudgetExceeded):
            held.append(ledger.reserve(1, user, 3, 60))
    assert len(held) == 33
    with pytest.raises(BudgetExceeded) as refused:
        ledger.reserve(1, 1, 3, 60)
    assert refused.value.code is Code.QUOTA
    assert 0 < refused.value.retry_ms <= DAY_MS
    assert ledger.refused == 968
    for reservation in held:
        ledger.settle(reservation, 2)
    assert (ledger.spent(1, 0).day, ledger.spent(1, 0).reserved) == (66, 0)
    assert ledger.reserve(1, 1, 34, 60).open


def test_what_a_turn_left_over_can_be_spent_by_the_next(clock: Clock) -> None:
    ledger = clock.ledger(Limits(day_micro=10))
    spent = 0
    while True:
        try:
            reservation = ledger.reserve(1, 5, 6, 60)
        except BudgetExceeded:
            break
        ledger.settle(reservation, 1)
        ledger.settle(reservation, 1)
        spent += 1
    assert spent == ledger.spent(1, 5).day == 5


def test_a_user_and_the_tenant_are_bounded_each_for_itself(clock: Clock) -> None:
    ledger = clock.ledger()
    ledger.set_limits(1, 5, Limits(day_micro=10))
    ledger.set_limits(1, 0, Limits(month_micro=25))
    ledger.reserve(1, 5, 10, 60)
    with pytest.raises(BudgetExceeded, match="Your budget for AI answers today"):
        ledger.reserve(1, 5, 1, 60)
    ledger.reserve(1, 6, 15, 60)
    with pytest.raises(BudgetExceeded, match="operator's budget for AI answers this month"):
        ledger.reserve(1, 6, 1, 60)
    ledger.reserve(2, 5, 10**9, 60)
    assert ledger.spent(1, 5).reserved == 10


def test_a_new_day_and_a_new_month_begin_at_nothing(clock: Clock) -> None:
    ledger = clock.ledger(Limits(day_micro=10, month_micro=15))
    ledger.load([(1, 5, 4, 12)])
    assert (ledger.spent(1, 5).day, ledger.spent(1, 0).month) == (4, 12)
    with pytest.raises(BudgetExceeded, match="this month"):
        ledger.reserve(1, 5, 4, 60)
    open_over_midnight = ledger.reserve(1, 5, 3, 60)
    clock.ms += DAY_MS
    assert ledger.spent(1, 5).day == 0
    assert ledger.spent(1, 5).month == 12
    ledger.settle(open_over_midnight, 2)
    assert ledger.spent(1, 5).day == 2
    clock.ms += 31 * DAY_MS
    assert (ledger.spent(1, 5).day, ledger.spent(1, 5).month) == (0, 0)


def test_what_nobody_settles_counts_in_full_after_its_deadline(clock: Clock) -> None:
    ledger = clock.ledger(Limits(day_micro=10))
    reservation = ledger.reserve(1, 5, 7, 300)
    clock.s += 359
    ledger.sweep()
    assert ledger.spent(1, 5).reserved == 7
    clock.s += 1
    ledger.sweep()
    assert (ledger.spent(1, 5).day, ledger.spent(1, 5).reserved, ledger.expired) == (7, 0, 1)
    ledger.settle(reservation, 1)
    assert ledger.spent(1, 5).day == 7


def test_costs_are_kept_by_tenant_and_beyond_a_bound_together(clock: Clock) -> None:
    ledger = clock.ledger()
    for tenant in (*range(1, MAX_TENANTS + 11), 1):
        reservation = ledger.reserve(tenant, 7, 5, 1)
        ledger.book(reservation, 2)
        ledger.settle(reservation, 1)
        ledger.settle(reservation, 9)
    assert len(ledger.cost_by) == MAX_TENANTS + 1
    assert ledger.cost_by[1] == 6
    assert ledger.cost_by[MAX_TENANTS] == 3
    assert ledger.cost_by[OTHER_TENANTS] == 30


def test_what_costs_nothing_takes_no_place_among_the_tenants(clock: Clock) -> None:
    ledger = clock.ledger()
    ledger.settle(ledger.reserve(1, 7, 5, 1), 0)
    assert ledger.cost_by == {}


def test_taking_limits_away_lets_everything_through(clock: Clock) -> None:
    ledger = clock.ledger()
    ledger.set_limits(1, 5, Limits(day_micro=1))
    ledger.set_limits(1, 5, Limits())
    assert ledger.reserve(1, 5, 10**12, 60).open


def test_a_reservation_grows_as_far_as_the_budget_lets_it(clock: Clock) -> None:
    ledger = clock.ledger(Limits(day_micro=20))
    ledger.set_limits(1, 0, Limits(day_micro=30))
    held = ledger.reserve(1, 5, 8, 60)
    other = ledger.reserve(1, 6, 15, 60)
    ledger.book(held, 6)
    assert (ledger.spent(1, 5).day, ledger.spent(1, 5).reserved, held.amount_micro) == (6, 2, 2)
    ledger.extend(held, 2)
    ledger.extend(held, 9)
    assert ledger.spent(1, 0).reserved == 24
    with pytest.raises(BudgetExceeded, match="operator's"):
        ledger.extend(held, 10)
    ledger.settle(other, 1)
    ledger.extend(held, 14)
    with pytest.raises(BudgetExceeded, match="Your"):
        ledger.extend(held, 15)
    ledger.settle(held, 3)
    assert (ledger.spent(1, 5).day, ledger.spent(1, 0).day) == (9, 10)
    assert ledger.spent(1, 0).reserved == 0
    assert ledger.refused == 2


def test_a_turn_that_outlived_its_reservation_may_ask_nobody_and_counts_once(clock: Clock) -> None:
    ledger = clock.ledger(Limits(day_micro=20))
    held = ledger.reserve(1, 5, 7, 10)
    clock.s += 70
    ledger.sweep()
    with pytest.raises(BudgetExceeded, match="longer than"):
        ledger.extend(held, 1)
    ledger.book(held, 5)
    ledger.settle(held, 5)
    assert (ledger.spent(1, 5).day, ledger.spent(1, 5).reserved) == (7, 0)


def test_who_has_spent_four_fifths_is_told_of_once_in_each_span(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = clock.ledger()
    ledger.set_limits(1, 5, Limits(day_micro=10, month_micro=20))
    ledger.set_limits(1, 0, Limits(day_micro=100))

    def spend(micro: int) -> list[str]:
        caplog.clear()
        ledger.settle(ledger.reserve(1, 5, micro, 60), micro)
        return [vars(record)["span"] for record in caplog.records]

    with caplog.at_level("WARNING", "parlance.ai"):
        assert spend(7) == []
        assert spend(1) == ["day"]
        assert spend(1) == []
        clock.ms += DAY_MS
        assert spend(7) == ["month"]
        assert spend(3) == ["day"]
    assert ledger.warned == 3


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(0, 50),
            st.integers(0, 50),
            st.sampled_from(["reserve", "extend", "book", "settle"]),
        ),
        max_size=60,
    )
)
def test_whatever_is_reserved_extended_and_settled_the_limit_holds(
    moves: list[tuple[int, int, int, str]],
) -> None:
    ledger = Clock().ledger(Limits(day_micro=40))
    ledger.set_limits(1, 0, Limits(day_micro=90))
    held: list[Reservation] = []
    for user, amount, part, move in moves:
        with contextlib.suppress(BudgetExceeded):
            if move == "reserve" or not held:
                held.append(ledger.reserve(1, user, amount, 60))
            elif move == "extend":
                ledger.extend(held[part % len(held)], amount)
            elif move == "book":
                one = held[part % len(held)]
                ledger.book(one, min(part, one.amount_micro))
            else:
                reservation = held.pop(part % len(held))
                ledger.settle(reservation, min(part, reservation.amount_micro))
        for account, limit in ((0, 90), (1, 40), (2, 40), (3, 40)):
            spent = ledger.spent(1, account)
            assert 0 <= spent.day + spent.reserved <= limit
            assert spent.reserved == sum(r.amount_micro for r in held if account in (0, r.user))
