"""What the bridge counts."""

from __future__ import annotations

from ai_bridge.config import Route, Target
from ai_bridge.stats import MAX_PLACES, BridgeStats, Estimate, Histogram
from ai_bridge.types import Outcome, Usage, UsageSource
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from server.metrics import Metrics, bridge_figures
from tests.ai_bridge.conftest import MakeRig


def test_a_value_is_counted_below_the_bound_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.note(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 12.0


def test_histograms_of_two_bridges_are_apart() -> None:
    first, second = BridgeStats(), BridgeStats()
    first.ttft.note(1.0)
    first.note_retry("connect")
    assert sum(second.ttft.counts) == 0
    assert second.retries_by == {}


async def test_a_turn_that_no_engine_had_counts_for_none(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, user_running=1)
    rig.ask(model="stall=1")
    turn, watcher = rig.ask(model="stall=1")
    rig.bridge.cancel(turn.id)
    await watcher.end()
    assert rig.bridge.stats.ended_by == {("none", "none", "none", "cancelled"): 1}


async def test_the_page_shows_slots_waits_and_causes(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, user_running=1, provider={"limit": "fixed", "max_streams": 9})
    for model in ("rate=500,tokens=6", "status=500,failures=1,tokens=2", "status=403"):
        _, watcher = rig.ask(model=model)
        await watcher.end()
    rig.ask(model="stall=1", user=2)
    rig.ask(model="stall=1", user=2)
    page = Metrics([bridge_figures(rig.bridge.stats)]).render().decode()
    lines = set(page.splitlines())
    here = 'engine="chat_engine",model="other",provider="p0"'
    assert {
        'parlance_ai_slot_limit{slot="p0/stall=1"} 9.0',
        f'parlance_ai_turns_total{{{here},reason="stop"}} 2.0',
        f'parlance_ai_turns_total{{{here},reason="error"}} 1.0',
        'parlance_ai_tokens_total{kind="prompt",source="provider"} 14.0',
        'parlance_ai_estimate_error_total{model="other",provider="p0",tokens="told"} 14.0',
        "parlance_ai_turn_seconds_count 3.0",
        'parlance_ai_slot_inflight{slot="p0/stall=1"} 1.0',
        'parlance_ai_slot_closed{slot="p0/status=403"} 1.0',
        'parlance_ai_breaker_state{slot="p0/status=403"} 0.0',
        'parlance_ai_retry_causes_total{reason="provider_error"} 1.0',
        'parlance_ai_queue_depth{class="interactive"} 1.0',
        "parlance_ai_stream_limit 800.0",
        "parlance_ai_queue_wait_seconds_count 3.0",
        "parlance_ai_ttft_seconds_count 2.0",
    } <= lines
    assert "sk-" not in page
    gaps = sum(rig.bridge.stats.token_gap.counts)
    assert gaps == 5 + 1


def outcome(provider: str, model: str, usage: Usage | None = None) -> Outcome:
    return Outcome(reason=EndReason.STOP, provider=provider, model=model, usage=usage or Usage())


async def test_models_are_told_apart_that_a_configuration_names_and_no_others(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    """Who asks with a model's own name could fill the page otherwise."""
    named, routed = "tokens=1", "tokens=2"
    rig = await make_rig(
        provider,
        second_provider,
        each=({"models": (named,)}, {}),
        routes=(Route(name="fast", targets=(Target(provider="p1", model=routed),)),),
        default_model="p1/tokens=3",
    )
    for model in (named, "fast", None, "p1/tokens=4", "p1/tokens=5"):
        _, watcher = rig.ask(model=model)
        await watcher.end()
    assert {key[1:3]: count for key, count in rig.bridge.stats.ended_by.items()} == {
        ("p0", named): 1,
        ("p1", routed): 1,
        ("p1", "tokens=3"): 1,
        ("p1", "other"): 2,
    }


def test_pairs_of_provider_and_model_are_bounded_and_the_first_stay() -> None:
    stats = BridgeStats(is_listed=lambda provider, model: True)
    for number in range(MAX_PLACES + 50):
        stats.note(outcome("p", f"m{number}"), "e")
    stats.note(outcome("p", "m0"), "e")
    assert len(stats.ended_by) == MAX_PLACES + 1
    assert stats.ended_by["e", "other", "other", "stop"] == 50
    assert stats.ended_by["e", "p", "m0", "stop"] == 2


def test_tokens_are_counted_by_kind_and_by_who_told_them() -> None:
    stats = BridgeStats()
    told = Usage(10, 5, UsageSource.PROVIDER, cached=4, reasoning=2)
    for usage in (told, told, Usage(7, 3), Usage()):
        stats.note(outcome("p", "m", usage))
    assert stats.tokens_by == {
        ("prompt", "provider"): 20,
        ("completion", "provider"): 10,
        ("cached", "provider"): 8,
        ("reasoning", "provider"): 4,
        ("prompt", "estimated"): 7,
        ("completion", "estimated"): 3,
    }


def test_estimates_too_high_and_too_low_do_not_cancel_each_other_out() -> None:
    stats = BridgeStats(is_listed=lambda provider, model: True)
    calls = [Estimate("p", "m", 120, 100), Estimate("p", "m", 80, 100)]
    stats.note(outcome("p", "m"), "e", calls)
    assert stats.estimates_by == {
        ("p", "m", "estimated"): 200,
        ("p", "m", "told"): 200,
        ("p", "m", "difference"): 40,
    }


async def test_a_prompt_whose_length_nobody_told_says_nothing_of_the_estimate(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    for model in ("tokens=2,no_usage=1", "tokens=2,prompt=1000"):
        _, watcher = rig.ask(model=model)
        await watcher.end()
    found = rig.bridge.stats.estimates_by
    assert found["p0", "other", "told"] == 1000
    estimated = found["p0", "other", "estimated"]
    assert 0 < estimated < 1000
    assert found["p0", "other", "difference"] == 1000 - estimated
