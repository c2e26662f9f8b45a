"""What the bridge counts."""

from __future__ import annotations

from ai_bridge.stats import BridgeStats, Histogram
from bench.provider.server import ScriptedProvider
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
    assert rig.bridge.stats.ended_by == {("none", "cancelled"): 1}


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
    assert {
        'parlance_ai_slot_limit{slot="p0/stall=1"} 9.0',
        'parlance_ai_turns_total{engine="chat_engine",reason="stop"} 2.0',
        'parlance_ai_turns_total{engine="chat_engine",reason="error"} 1.0',
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
