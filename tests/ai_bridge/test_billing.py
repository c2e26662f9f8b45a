"""Turns and money: what is refused, what is booked, and that parallel turns cannot overrun."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_bridge.account import BudgetExceeded, Ledger, Limits
from ai_bridge.billing import Billing
from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.context import build_context
from ai_bridge.engines import chat_engine
from ai_bridge.errors import BridgeError, ProviderFailure
from ai_bridge.prices import Price, PriceTable
from ai_bridge.run import TurnRun
from ai_bridge.tokens import estimate_tokens
from ai_bridge.tools.builtin import builtin_tools
from ai_bridge.tools.loop import ToolLoop
from ai_bridge.tools.registry import ToolRegistry
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, ToolCall, UsageSource
from ai_bridge.watchdog import Deadlines
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason
from tests.ai_bridge.fakes import Clock, Sleeps, Watcher, answer, request

MODEL = "fake,tokens=5"
UNIT = 1_000_000 * 5
"""What one answer of five tokens costs at a million dollars per million tokens."""


def billing_of(limits: Limits) -> Billing:
    ledger = Ledger(now_ms=lambda: time.time_ns() // 1_000_000, clock=time.monotonic)
    ledger.set_limits(1, 0, limits)
    return Billing(
        ledger, PriceTable({MODEL: Price(0.0, 1_000_000.0), "fake,silent": Price(9.0, 9.0)})
    )


async def started(service: ScriptedProvider, billing: Billing, **options: int) -> Bridge:
    provider = ProviderConfig(name="p", base_url=service.base_url, models=(MODEL, "fake,silent"))
    config = BridgeConfig(providers=(provider,), user_running=2000, **options)  # type: ignore[arg-type]  # integers all
    bridge = Bridge(config, billing=billing)
    await bridge.start()
    return bridge


async def test_a_thousand_parallel_calls_spend_no_more_than_the_budget() -> None:
    """B7: a budget of a hundred units, each call one unit, a thousand calls at once."""
    service = ScriptedProvider()
    await service.start()
    billing = billing_of(Limits(day_micro=100 * UNIT))
    bridge = await started(service, billing, max_streams=400, queue=2000)
    watchers = []
    refused = 0
    for number in range(1000):
        watcher = Watcher()
        wish = request(number, user=number + 1, max_tokens=5)
        try:
            bridge.submit(wish, watcher)
        except BudgetExceeded as refusal:
            refused += refusal.code is Code.QUOTA
        else:
            watchers.append(watcher)
    outcomes = [await watcher.end() for watcher in watchers]
    assert (len(outcomes), refused) == (100, 900)
    assert {outcome.reason for outcome in outcomes} == {EndReason.STOP}
    assert sum(outcome.cost_micro for outcome in outcomes) == 100 * UNIT
    assert billing.ledger.spent(1, 0).day == 100 * UNIT
    assert service.stats.requests == 100
    await bridge.aclose()
    await service.aclose()


async def test_a_bounded_answer_is_held_to_the_length_that_was_paid_for() -> None:
    service = ScriptedProvider()
    await service.start()
    bridge = await started(service, billing_of(Limits(day_micro=1 << 50)), answer_tokens=77)
    watcher = Watcher()
    bridge.submit(request(1), watcher)
    outcome = await watcher.end()
    assert service.requests[-1].body["max_tokens"] == 77
    assert outcome.cost_micro == UNIT
    await bridge.aclose()
    await service.aclose()


async def test_what_was_set_aside_comes_back_when_nothing_was_used() -> None:
    service = ScriptedProvider()
    await service.start()
    billing = billing_of(Limits(day_micro=1 << 50))
    bridge = await started(service, billing, max_streams=1, queue=1)
    running, waiting = Watcher(), Watcher()
    bridge.submit(request(1, user=1, model="fake,silent"), running)
    bridge.submit(request(2, user=2), waiting)
    with pytest.raises(BridgeError, match="Too many people"):
        bridge.submit(request(3, user=3), Watcher())
    bridge.cancel(2)
    await waiting.end()
    bridge.cancel(1)
    await running.end()
    spent = billing.ledger.spent(1, 0)
    assert spent.reserved == 0
    await bridge.aclose()
    await service.aclose()


async def test_a_model_without_a_price_is_free_and_counted() -> None:
    service = ScriptedProvider()
    await service.start()
    billing = billing_of(Limits(day_micro=1))
    billing.prices = PriceTable()
    bridge = await started(service, billing)
    watcher = Watcher()
    bridge.submit(request(1), watcher)
    outcome = await watcher.end()
    assert (outcome.cost_micro, billing.unpriced) == (0, 1)
    assert service.requests[-1].body.get("max_tokens") is None
    await bridge.aclose()
    await service.aclose()


# --- more than one call in a turn ----------------------------------------------------------------

ROUNDS = 'tool=calculate,args={"expression":"$n+1"},rounds=3,tokens=5'
"""Three calls of a tool, four tokens each, then five tokens of text."""
ROUND_TOKENS, ANSWER_TOKENS = 4, 5
TURN_TOKENS = 3 * ROUND_TOKENS + ANSWER_TOKENS
TOKEN = 1_000_000
EARLY = 10
"""Turns that end before the others come."""


class PeakLedger(Ledger):
    """Remembers the most that was ever spent and set aside together."""

    peak = 0

    def note(self) -> None:
        spent = self.spent(1, 0)
        self.peak = max(self.peak, spent.day + spent.reserved)
        assert spent.reserved >= 0

    def extend(self, reservation: Any, amount_micro: int) -> None:
        super().extend(reservation, amount_micro)
        self.note()

    def book(self, reservation: Any, cost_micro: int) -> None:
        super().book(reservation, cost_micro)
        self.note()


def priced(limits: Limits, clock: Clock, price: Price, *models: str) -> Billing:
    ledger = PeakLedger(now_ms=lambda: 1_700_000_000_000, clock=clock)
    ledger.set_limits(1, 0, limits)
    return Billing(ledger, PriceTable(dict.fromkeys(models, price)))


@contextlib.asynccontextmanager
async def with_tools(
    billing: Billing, clock: Clock, *models: str, **options: Any
) -> AsyncIterator[tuple[ScriptedProvider, Bridge]]:
    """Run a service and a bridge whose turns may use a tool."""
    service = ScriptedProvider()
    await service.start()
    registry = ToolRegistry(("calculate",))
    for spec in builtin_tools():
        registry.add(spec)
    provider = ProviderConfig(name="p", base_url=service.base_url, models=models)
    config = BridgeConfig(providers=(provider,), user_running=2000, user_queued=2000, **options)
    bridge = Bridge(config, clock, sleep=Sleeps(clock), tools=ToolLoop(registry), billing=billing)
    try:
        await bridge.start()
        yield service, bridge
    finally:
        await bridge.aclose()
        await service.aclose()


async def test_a_thousand_parallel_turns_with_tools_spend_no_more_than_the_budget() -> None:
    """B7 with rounds: each turn makes four calls of the model, each paid for before it is made."""
    clock = Clock()
    budget = 100 * TURN_TOKENS * TOKEN
    billing = priced(Limits(day_micro=budget), clock, Price(0.0, 1_000_000.0), ROUNDS)
    async with with_tools(billing, clock, ROUNDS, max_streams=400, queue=2000) as (service, bridge):
        watchers = []
        for number in range(1000):
            watcher = Watcher()
            with contextlib.suppress(BudgetExceeded):
                bridge.submit(request(number, user=number % 7 + 1, max_tokens=5), watcher)
                watchers.append(watcher)
            if number < EARLY:
                await watcher.end()
        outcomes = [await watcher.end() for watcher in watchers]
        spent = billing.ledger.spent(1, 0)
        finished = [outcome for outcome in outcomes if outcome.reason is EndReason.STOP]
        broke = [outcome for outcome in outcomes if outcome.code is Code.QUOTA]
        assert len(finished) + len(broke) == len(outcomes)
        assert len(finished) >= EARLY  # the others took each other's money
        assert len(broke) > 100
        assert all(one.cost_micro == TOKEN * TURN_TOKENS for one in finished)
        assert all("budget" in one.error for one in broke)
        made = service.stats.requests - len(finished)
        assert spent.day == TOKEN * (made * ROUND_TOKENS + len(finished) * ANSWER_TOKENS)
        assert spent.day == sum(outcome.cost_micro for outcome in outcomes)
        assert spent.reserved == 0
        assert isinstance(billing.ledger, PeakLedger)
        assert spent.day <= billing.ledger.peak <= budget


async def test_a_turn_that_cannot_pay_its_next_round_ends_with_what_it_has() -> None:
    clock = Clock()
    model = f"{ROUNDS},before=2"
    limits = Limits(day_micro=12 * TOKEN)
    billing = priced(limits, clock, Price(0.0, 1_000_000.0), model)
    async with with_tools(billing, clock, model) as (service, bridge):
        watcher = Watcher()
        turn = bridge.submit(request(1, max_tokens=6), watcher)
        outcome = await watcher.end()
        # Two words and four pieces of arguments are six tokens; two such calls leave nothing.
        assert service.stats.requests == 2
        assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.QUOTA)
        assert "budget for AI answers today" in outcome.error
        assert answer(turn) == "word0 word1 \n\nword0 word1 "
        assert outcome.cost_micro == billing.ledger.spent(1, 0).day == 12 * TOKEN


async def test_prices_that_rise_while_a_turn_runs_are_for_the_next_one() -> None:
    clock = Clock()
    budget = 2 * TURN_TOKENS * TOKEN
    billing = priced(Limits(day_micro=budget), clock, Price(0.0, 1_000_000.0), ROUNDS)
    async with with_tools(billing, clock, ROUNDS) as (_service, bridge):
        first = Watcher()
        bridge.submit(request(1, max_tokens=5), first)
        billing.prices = PriceTable({ROUNDS: Price(1_000_000.0, 1_000_000.0)})
        outcome = await first.end()
        assert outcome.reason is EndReason.STOP
        assert outcome.cost_micro == billing.ledger.spent(1, 0).day == TURN_TOKENS * TOKEN
        assert isinstance(billing.ledger, PeakLedger)
        assert billing.ledger.peak <= budget
        with pytest.raises(BudgetExceeded):  # now the prompt has a price as well
            bridge.submit(request(2, max_tokens=5), Watcher())


async def test_a_user_and_the_tenant_are_held_to_their_budgets_at_once() -> None:
    clock = Clock()
    billing = priced(
        Limits(month_micro=50 * ANSWER_TOKENS * TOKEN), clock, Price(0.0, 1_000_000.0), MODEL
    )
    ledger = billing.ledger
    for user in range(1, 11):
        ledger.set_limits(1, user, Limits(day_micro=8 * ANSWER_TOKENS * TOKEN))
    async with with_tools(billing, clock, MODEL, queue=1000) as (_service, bridge):
        watchers, refusals = [], []
        for number in range(200):
            watcher = Watcher()
            try:
                bridge.submit(request(number, user=number % 10 + 1, max_tokens=5), watcher)
            except BudgetExceeded as refusal:
                refusals.append(refusal.text)
            else:
                watchers.append(watcher)
        for watcher in watchers:
            await watcher.end()
        assert ledger.spent(1, 0).month == 50 * ANSWER_TOKENS * TOKEN
        by_user = [ledger.spent(1, user).day for user in range(1, 11)]
        assert sum(by_user) == ledger.spent(1, 0).day
        assert max(by_user) <= 8 * ANSWER_TOKENS * TOKEN
        ledger.set_limits(1, 0, Limits())
        for number in range(200, 300):
            with contextlib.suppress(BudgetExceeded):
                watcher = Watcher()
                bridge.submit(request(number, user=1, max_tokens=5), watcher)
                watchers.append(watcher)
        for watcher in watchers:
            await watcher.end()
        assert ledger.spent(1, 1).day == 8 * ANSWER_TOKENS * TOKEN
        assert {text.split(" budget")[0] for text in refusals} == {"The operator's"}


# --- attempts that came to nothing ---------------------------------------------------------------


async def counted(model: str, *, max_tokens: int = 20) -> tuple[Outcome, int]:
    """Return how a turn ended, and what the account says."""
    clock = Clock()
    billing = priced(Limits(), clock, Price(1.0, 1.0), model)
    async with with_tools(billing, clock, model) as (_service, bridge):
        watcher = Watcher()
        bridge.submit(request(1, model=model, max_tokens=max_tokens), watcher)
        outcome = await watcher.end()
    spent = billing.ledger.spent(1, 0)
    assert spent.reserved == 0
    return outcome, spent.day


async def test_an_attempt_that_broke_before_its_text_is_counted_by_estimate() -> None:
    well, plain = await counted("tokens=5")
    assert (well.usage.source, plain) == (UsageSource.PROVIDER, 12)
    outcome, spent = await counted("tokens=5,failures=1,empty")
    assert (outcome.reason, outcome.attempts) == (EndReason.STOP, 2)
    assert outcome.usage.prompt > 7
    assert outcome.usage.completion == 5
    assert outcome.usage.source is UsageSource.ESTIMATED
    assert outcome.cost_micro == spent == outcome.usage.prompt + 5


async def test_an_attempt_that_stalled_after_a_call_of_a_tool_pays_for_its_arguments() -> None:
    run = TurnRun(
        Turn(request(1)),
        Watcher(),
        clock=Clock(),
        deadlines=Deadlines(20, 30, 300),
        on_watcher_error=lambda: None,
    )
    run.start()
    run.begin_attempt("p", "m", 5.0)
    run.cover("p", "m", 100)
    run.tool_call(ToolCall("c1", "calculate", '{"expression": "6*7"}'))
    run.end_attempt()
    run.lose_attempt(ProviderFailure("stalled", "Ask again.", code=Code.TIMEOUT))
    usage = run.outcome(EndReason.ERROR).usage
    assert usage.prompt == 100
    assert usage.completion == estimate_tokens('calculate{"expression": "6*7"}')


@pytest.mark.parametrize("fault", ["status=500", "status=429,retry_after_ms=1", "status=529"])
async def test_a_refused_attempt_costs_nothing(fault: str) -> None:
    outcome, spent = await counted(f"tokens=5,failures=1,{fault}")
    assert (outcome.attempts, outcome.usage.prompt, spent) == (2, 7, 12)


FATES = {
    "well": "tokens=5",
    "rounds": ROUNDS,
    "refused": "tokens=5,failures=1,status=503",
    "lost": "tokens=5,failures=1,empty",
    "cut": "tokens=5,reset=2",
    "broken": "status=500",
    "late": "fake,silent",
    "cancelled": "fake,silent,tokens=9",
    "crashed": "tokens=6",
}


def crashing(request: Any, **options: Any) -> Any:
    if request.params.model == FATES["crashed"]:
        raise RuntimeError("a bug")
    return real_context(request, **options)


real_context = build_context


async def live(fates: list[tuple[str, int]], budget: int) -> None:
    clock = Clock()
    billing = priced(Limits(day_micro=budget), clock, Price(1.0, 3.0), *FATES.values())
    ledger = billing.ledger
    ledger.set_limits(1, 2, Limits(day_micro=budget // 2))
    async with with_tools(billing, clock, *FATES.values(), retry_base_s=0.01) as (_service, bridge):
        ends: list[tuple[str, Watcher]] = []
        for number, (fate, user) in enumerate(fates):
            watcher = Watcher()
            wish = request(number, user=user, model=FATES[fate], max_tokens=5)
            with contextlib.suppress(BudgetExceeded):
                bridge.submit(wish, watcher)
                ends.append((fate, watcher))
        outcomes = [await watcher.end() for fate, watcher in ends if FATES[fate][:4] != "fake"]
        for number, (fate, _) in enumerate(fates):
            if fate == "cancelled":
                bridge.cancel(number)
        outcomes += [await watcher.end() for fate, watcher in ends if fate == "cancelled"]
        clock.advance(301)
        bridge.sweep()
        outcomes += [await watcher.end() for fate, watcher in ends if fate == "late"]
        tenant = ledger.spent(1, 0)
        assert tenant.day == sum(outcome.cost_micro for outcome in outcomes)
        assert isinstance(ledger, PeakLedger)
        assert ledger.peak <= budget
        for account in (0, 1, 2):
            assert ledger.spent(1, account).reserved == 0
        assert ledger.spent(1, 2).day <= budget // 2
        clock.advance(10_000)
        bridge.sweep()
        assert ledger.expired == 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(FATES)), st.integers(1, 2)), max_size=8),
    st.sampled_from([60, 200, 5000]),
)
def test_whatever_becomes_of_turns_nothing_stays_set_aside_and_the_budget_holds(
    fates: list[tuple[str, int]], budget: int
) -> None:
    with mock.patch.object(chat_engine, "build_context", crashing):
        asyncio.run(live(fates, budget))
