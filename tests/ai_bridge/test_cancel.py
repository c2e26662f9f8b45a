"""Stopping turns: by people, by deadlines, by the end of the process."""

from __future__ import annotations

import asyncio

import pytest

from ai_bridge.errors import BridgeError
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamPart, StreamState
from tests.ai_bridge.conftest import MakeRig, closed
from tests.ai_bridge.fakes import answer


async def test_cancel_closes_the_upstream_connection(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="rate=200,tokens=10000")
    await watcher.change(3)
    sent = provider.stats.events
    assert rig.bridge.cancel(turn.id)
    outcome = await watcher.end()
    await closed(provider)
    assert (outcome.reason, outcome.code) == (EndReason.CANCELLED, None)
    assert provider.stats.aborted == 1
    assert provider.stats.events - sent <= 1
    assert answer(turn).startswith("word0 word1 word2 ")
    assert outcome.usage.completion > 0


@pytest.mark.parametrize("model", ["silent", "stall=0", "first=60", "first=60,comments=0.01"])
async def test_cancel_works_before_the_first_text(
    model: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=model)
    await provider.arrived.wait()
    assert rig.bridge.cancel(turn.id)
    outcome = await watcher.end()
    await closed(provider)
    assert outcome.reason is EndReason.CANCELLED
    assert outcome.ttft_ms == -1
    assert provider.stats.aborted == 1


async def test_cancel_before_the_task_ran_ends_the_turn(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    """A task that is cancelled before its first step never runs a line of its coroutine."""
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="fake")
    assert rig.bridge.cancel(turn.id)
    assert watcher.outcomes == []  # told later, not from within the call
    assert (await watcher.end()).reason is EndReason.CANCELLED
    assert provider.stats.requests == 0


async def test_a_waiting_turn_is_cancelled_without_a_call(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, user_running=1)
    first, _ = rig.ask(model="stall=1")
    second, watcher = rig.ask(model="fake")
    assert second.state is StreamState.QUEUED
    assert rig.bridge.cancel(second.id)
    assert watcher.outcomes == []
    assert (await watcher.end()).reason is EndReason.CANCELLED
    assert watcher.started == 0
    assert rig.bridge.cancel(second.id) is False
    assert first.state is not StreamState.DONE


async def test_cancel_of_an_unknown_or_ended_turn_says_no(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="fake")
    await watcher.end()
    assert rig.bridge.cancel(turn.id) is False
    assert rig.bridge.cancel(4711) is False
    assert len(watcher.outcomes) == 1


@pytest.mark.parametrize("transport", ["aio", "raw"])
async def test_two_hundred_cancelled_streams_are_all_closed_upstream(
    transport: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    """B3: the provider counts each of them aborted, at most one token after the cancel."""
    rig = await make_rig(provider, provider={"transport": transport})
    asked = [rig.ask(user=user, model="rate=2,tokens=10000") for user in range(200)]
    await asyncio.gather(*(watcher.change() for _, watcher in asked))
    sent = provider.stats.events
    for turn, _ in asked:
        rig.bridge.cancel(turn.id)
    outcomes = await asyncio.gather(*(watcher.end() for _, watcher in asked))
    await closed(provider)
    assert {outcome.reason for outcome in outcomes} == {EndReason.CANCELLED}
    assert provider.stats.aborted == 200
    assert provider.stats.events - sent <= 200
    assert provider.stats.aborted_late_max <= 1
    assert sum(rig.bridge.stats.cancel_to_close_ms.counts) == 200
    assert all(state["running"] == 0 for state in rig.bridge.health().values())


async def test_a_failure_loses_against_a_cancel(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="silent")
    await provider.arrived.wait()
    rig.clock.advance(21)
    rig.bridge.sweep()
    rig.bridge.cancel(turn.id)
    assert (await watcher.end()).reason is EndReason.CANCELLED


# --- deadlines -----------------------------------------------------------------------------------


async def test_no_first_text_in_time_is_tried_again_and_then_told(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="silent")
    for attempt in (1, 2, 3):
        provider.arrived.clear()
        if provider.stats.requests < attempt:
            await provider.arrived.wait()
        rig.clock.advance(19)
        rig.bridge.sweep()
        assert turn.outcome is None
        rig.clock.advance(2)
        rig.bridge.sweep()
    outcome = await watcher.end()
    assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.TIMEOUT)
    assert outcome.attempts == 3
    assert "20 seconds" in outcome.error


async def test_each_provider_has_its_own_time_to_the_first_text(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, second_provider, each=({"ttft_s": 90}, {}), max_retries=0)
    turn, watcher = rig.ask(model="silent")
    await provider.arrived.wait()
    rig.clock.advance(89)
    rig.bridge.sweep()
    assert second_provider.stats.requests == 0
    rig.clock.advance(2)
    rig.bridge.sweep()
    await second_provider.arrived.wait()
    rig.clock.advance(21)
    rig.bridge.sweep()
    outcome = await watcher.end()
    assert (outcome.code, outcome.provider) == (Code.TIMEOUT, "p1")
    assert turn.attempt == 2


async def test_another_provider_takes_over_from_a_silent_one(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, second_provider)
    turn, watcher = rig.ask(model="silent,failures=1,tokens=2")
    second_provider.tries["silent,failures=1,tokens=2"] = 1  # the second is well
    await provider.arrived.wait()
    rig.clock.advance(21)
    rig.bridge.sweep()
    outcome = await watcher.end()
    assert (outcome.reason, outcome.provider) == (EndReason.STOP, "p1")
    assert answer(turn) == "word0 word1 "
    await closed(provider)
    assert provider.stats.aborted == 1


@pytest.mark.parametrize("model", ["stall=3", "stall=3,comments=0.005"])
async def test_silence_within_an_answer_ends_it_despite_comments(
    model: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=model)
    await watcher.change()
    rig.clock.advance(29)
    rig.bridge.sweep()
    assert turn.outcome is None
    rig.clock.advance(2)
    rig.bridge.sweep()
    outcome = await watcher.end()
    assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.TIMEOUT)
    assert answer(turn) == "word0 word1 word2 "
    assert outcome.attempts == 1


async def test_the_whole_answer_has_a_deadline(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="rate=500,tokens=100000")
    seen = 0
    for _ in range(11):
        seen += 1
        await watcher.change(seen := watcher.changes + 1)
        rig.clock.advance(29)
        rig.bridge.sweep()
    outcome = await watcher.end()
    assert outcome.code is Code.TIMEOUT
    assert "300 seconds" in outcome.error
    assert answer(turn)


async def test_a_model_that_repeats_itself_is_stopped(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="loop,stall=200,tokens=300")
    while turn.size() < 1000:
        await watcher.change(watcher.changes + 1)
    rig.bridge.sweep()
    outcome = await watcher.end()
    assert outcome.reason is EndReason.ERROR
    assert "repeating" in outcome.error


async def test_a_model_that_only_thinks_is_stopped(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, reasoning_tokens=100)
    turn, watcher = rig.ask(model="think=400,stall=0")
    while turn.size(StreamPart.REASONING) <= 400:
        await watcher.change(watcher.changes + 1)
    rig.bridge.sweep()
    outcome = await watcher.end()
    assert outcome.reason is EndReason.ERROR
    assert "100 tokens" in outcome.error
    assert provider.stats.requests == 1


async def test_a_turn_does_not_wait_for_ever(provider: ScriptedProvider, make_rig: MakeRig) -> None:
    rig = await make_rig(provider, user_running=1, total_s=10_000, gap_s=10_000)
    rig.ask(model="stall=1")
    _, waiting = rig.ask(model="fake")
    rig.clock.advance(301)
    rig.bridge.sweep()
    outcome = await waiting.end()
    assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.BUSY)


async def test_the_sweep_runs_by_itself(
    provider: ScriptedProvider, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai_bridge.bridge.SWEEP_S", 0.02)
    rig = await make_rig(provider, max_retries=0)
    _, watcher = rig.ask(model="silent")
    await provider.arrived.wait()
    rig.clock.advance(21)
    assert (await watcher.end()).code is Code.TIMEOUT


# --- the end of the process ----------------------------------------------------------------------


async def test_shutdown_ends_every_turn_once(provider: ScriptedProvider, make_rig: MakeRig) -> None:
    rig = await make_rig(provider, user_running=2, user_queued=4)
    asked = [rig.ask(model="stall=2") for _ in range(6)]
    await asked[0][1].change()
    await rig.bridge.aclose()
    for number, (turn, watcher) in enumerate(asked):
        outcome = await watcher.end()
        assert (outcome.reason, outcome.code) == (EndReason.INTERRUPTED, Code.DRAINING)
        assert turn.state is StreamState.DONE
        assert watcher.started == (1 if number < 2 else 0)
    assert answer(asked[0][0]) == "word0 word1 "
    with pytest.raises(BridgeError) as refusal:
        rig.ask(model="fake")
    assert refusal.value.code is Code.DRAINING


async def test_shutdown_lets_answers_finish_within_the_grace(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="rate=200,tokens=10")
    await watcher.change()
    await rig.bridge.aclose(grace_s=5)
    assert watcher.outcomes[0].reason is EndReason.STOP
    assert turn.size(StreamPart.ANSWER) == 60


async def test_a_cancelled_shutdown_still_ends_every_turn(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    _, watcher = rig.ask(model="stall=1")
    await watcher.change()
    closing = asyncio.create_task(rig.bridge.aclose(grace_s=60))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert watcher.outcomes[0].reason is EndReason.INTERRUPTED
