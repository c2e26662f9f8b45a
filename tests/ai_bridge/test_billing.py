"""Turns and money: what is refused, what is booked, and that parallel turns cannot overrun."""

from __future__ import annotations

import time

import pytest

from ai_bridge.account import BudgetExceeded, Ledger, Limits
from ai_bridge.billing import Billing
from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.errors import BridgeError
from ai_bridge.prices import Price, PriceTable
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason
from tests.ai_bridge.fakes import Watcher, request

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
