"""Every fault of a provider against every way around it (REQUIREMENTS F15).

Whatever happens: at most one answer is seen, the turn ends once and stays ended, and the error
says what to do without quoting anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, Route, Target
from ai_bridge.secrets import Secret
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome
from bench.provider.script import Behaviour, Oddities
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamState
from tests.ai_bridge.conftest import MakeRig, Rig, provider_config
from tests.ai_bridge.fakes import Watcher, answer, request

AGAIN = (
    "status=500",
    "status=502",
    "status=408",
    "status=409",
    "status=503,retry_after=2",
    "status=503,retry_after_ms=20",
    "status=529",
    "status=429",
    "status=429,retry_after=1",
    "status=429,retry_after=date+2",
    "status=429,retry_after_ms=30",
    "status=429,retry_delay=3s",
    "status=429,x-ratelimit-reset-requests=6s",
    "status=429,limits=openai",
    "status=500,body=html",
    "reset=0",
    "close=0",
    "error=0",
    "garbage=0",
    "empty",
)
"""What may pass: another slot, else the same one again."""
SILENT = ("silent", "stall=0", "first=60", "head=60")
"""The same, found out by the clock."""
ELSEWHERE = ("status=401", "status=402", "status=403", "status=429,quota", "status=302")
"""What only another key or provider can mend."""
NEVER = (
    "status=400",
    "status=404",
    "status=422",
    "status=400,code=content_filter",
    "finish=content_filter,tokens=0",
    "blocked",
    "tokens=0",
)
"""What no provider will do better: no shopping for a laxer filter."""
SHORTER = ("status=400,code=context_length_exceeded", "status=413")
LATE = ("reset=3", "close=3", "error=3", "garbage=3", "tokens=3,no_finish,no_done")
"""After the first text: the partial answer stays, nobody else goes on with it."""

WELL = "tokens=3"
WHOLE = "word0 word1 word2 "


def test_every_fault_of_the_provider_is_met_here() -> None:
    met = ",".join((*AGAIN, *SILENT, *ELSEWHERE, *NEVER, *SHORTER, *LATE))
    faults = set(Behaviour.__struct_fields__) - set(Oddities.__struct_fields__)
    # `stale` is repeated below the retry (test_faults.py); headers are words with a dash.
    faults -= {"failures", "stale", "headers"}
    assert {fault for fault in faults if fault not in met} == set()


async def two(
    make_rig: MakeRig,
    first: ScriptedProvider,
    second: ScriptedProvider,
    models: tuple[str, str],
    *,
    shared: bool = False,
    windows: tuple[int, int] = (0, 0),
    **settings: Any,
) -> Rig:
    """Make a bridge with a route over two providers: of one step, or the second as fallback."""
    weight = 1.0 if shared else 0.0
    targets = tuple(
        Target(provider=f"p{number}", model=model, weight=weight)
        for number, model in enumerate(models)
    )
    rig: Rig = await make_rig(
        first,
        second,
        routes=(Route(name="smart", targets=targets),),
        each=tuple({"window_tokens": window} for window in windows),
        **settings,
    )
    return rig


class Standstill:
    """A sleep that never ends: no slot opens again."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.begun.set()
        await asyncio.Event().wait()


async def judged(rig: Rig, provider: ScriptedProvider, calls: int) -> None:
    """Let the time to the first text pass for so many calls of a provider, as they come."""
    for number in range(1, calls + 1):
        while provider.stats.requests < number:
            provider.arrived.clear()
            await provider.arrived.wait()
        rig.clock.advance(21)
        rig.bridge.sweep()


def check(rig: Rig, turn: Turn, outcome: Outcome) -> None:
    """What holds whatever happened."""
    assert turn.state is StreamState.DONE
    assert turn.outcome is outcome
    assert (rig.bridge.running, rig.bridge.queued) == (0, 0)
    assert all(state["running"] == 0 for state in rig.bridge.health().values())
    if outcome.reason is EndReason.STOP:
        assert answer(turn) == WHOLE
        assert (outcome.code, outcome.error) == (None, "")
        return
    assert outcome.reason in (EndReason.ERROR, EndReason.FILTERED)
    assert outcome.code is not None
    assert WHOLE.startswith(answer(turn))
    assert any(hint in outcome.error for hint in ("Ask", "ask", "Choose", "choose", "operator"))
    for quoted in ("secret", "sk-", "127.0.0.1", "http://", "word0", "librarian"):
        assert quoted not in outcome.error


# --- one provider --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [*AGAIN, *SHORTER])
async def test_a_fault_that_passes_is_not_seen(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=f"{WELL},failures=1,{fault}")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is EndReason.STOP
    assert provider.stats.requests == outcome.attempts == 2


@pytest.mark.parametrize("fault", SILENT)
async def test_silence_that_passes_is_not_seen(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=f"{WELL},failures=1,{fault}")
    await judged(rig, provider, 1)
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, outcome.attempts) == (EndReason.STOP, 2)


@pytest.mark.parametrize("fault", [*AGAIN, *ELSEWHERE, *NEVER, *SHORTER])
async def test_a_fault_that_stays_is_told(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=fault)
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is not EndReason.STOP
    calls = 3 if fault in AGAIN else 2 if fault in SHORTER else 1
    assert provider.stats.requests == outcome.attempts == calls


@pytest.mark.parametrize("fault", SILENT)
async def test_silence_that_stays_is_told(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=fault)
    await judged(rig, provider, 3)
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.code, outcome.attempts) == (Code.TIMEOUT, 3)


@pytest.mark.parametrize("fault", LATE)
async def test_a_fault_after_the_first_text_keeps_it(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=f"rate=500,{fault}")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is EndReason.ERROR
    assert answer(turn) == WHOLE
    assert provider.stats.requests == 1


# --- two providers -------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["one step", "fallback"])
@pytest.mark.parametrize("fault", [*AGAIN, *ELSEWHERE])
async def test_another_provider_answers_at_once(
    fault: str,
    shared: bool,
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await two(make_rig, provider, second_provider, (fault, WELL), shared=shared)
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, outcome.provider, outcome.model) == (EndReason.STOP, "p1", WELL)
    assert (provider.stats.requests, second_provider.stats.requests) == (1, 1)
    assert rig.bridge.stats.failovers == 1


@pytest.mark.parametrize("fault", SILENT)
async def test_another_provider_takes_over_from_a_silent_one(
    fault: str,
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await two(make_rig, provider, second_provider, (fault, WELL))
    turn, watcher = rig.ask(model="smart")
    await judged(rig, provider, 1)
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, outcome.provider) == (EndReason.STOP, "p1")


@pytest.mark.parametrize("fault", NEVER)
async def test_nobody_else_is_asked_what_this_one_rejects(
    fault: str,
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await two(make_rig, provider, second_provider, (fault, WELL))
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is not EndReason.STOP
    assert (provider.stats.requests, second_provider.stats.requests) == (1, 0)


@pytest.mark.parametrize("fault", SHORTER)
async def test_what_is_too_long_goes_to_a_larger_window(
    fault: str,
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await two(make_rig, provider, second_provider, (fault, WELL), windows=(16_000, 32_000))
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, outcome.provider) == (EndReason.STOP, "p1")
    assert (provider.stats.requests, second_provider.stats.requests) == (2, 1)


@pytest.mark.parametrize("fault", LATE)
async def test_nobody_goes_on_with_the_answer_of_another(
    fault: str,
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await two(make_rig, provider, second_provider, (f"rate=500,{fault}", WELL))
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, answer(turn)) == (EndReason.ERROR, WHOLE)
    assert second_provider.stats.requests == 0


@pytest.mark.parametrize("shared", [True, False], ids=["one step", "fallback"])
@pytest.mark.parametrize("fault", [*AGAIN, *ELSEWHERE])
async def test_when_all_fail_the_turn_ends(
    fault: str,
    shared: bool,
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await two(make_rig, provider, second_provider, (fault, fault), shared=shared)
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is EndReason.ERROR
    calls = provider.stats.requests + second_provider.stats.requests
    assert calls == outcome.attempts == (4 if fault in AGAIN else 2)


async def test_an_unreachable_provider_is_passed_over(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await two(make_rig, provider, second_provider, (WELL, WELL))
    await provider.aclose()
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, outcome.provider, outcome.attempts) == (EndReason.STOP, "p1", 2)


# --- several keys --------------------------------------------------------------------------------

KEYS = (Secret("sk-one"), Secret("sk-two"))


def keys_seen(provider: ScriptedProvider) -> list[str]:
    return [sent.headers["authorization"].removeprefix("Bearer ") for sent in provider.requests]


@pytest.mark.parametrize("fault", [*AGAIN, *ELSEWHERE])
async def test_the_next_key_answers(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, provider={"api_key": Secret(""), "api_keys": KEYS})
    turn, watcher = rig.ask(model=f"{WELL},failures=1,{fault}")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is EndReason.STOP
    if fault != "status=302":  # which is about the address, not about the key
        assert keys_seen(provider) == ["sk-one", "sk-two"]


@pytest.mark.parametrize("fault", ["status=401", "status=402", "status=429,quota"])
async def test_a_key_that_is_refused_is_not_used_for_ten_minutes(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await make_rig(provider, provider={"api_key": Secret(""), "api_keys": KEYS})
    for model in (f"{WELL},failures=1,{fault}", WELL, WELL):
        _, watcher = rig.ask(model=model)
        assert (await watcher.end()).reason is EndReason.STOP
    assert keys_seen(provider) == ["sk-one", "sk-two", "sk-two", "sk-two"]
    assert [record.message for record in caplog.records].count("provider.key_off") == 1
    rig.clock.advance(601)
    _, watcher = rig.ask(model=WELL, conv=2)
    await watcher.end()
    assert keys_seen(provider)[-1] == "sk-one"


async def test_a_key_without_the_right_to_one_model_serves_the_others(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    _, watcher = rig.ask(model="status=403")
    assert (await watcher.end()).reason is EndReason.ERROR
    _, watcher = rig.ask(model=WELL)
    assert (await watcher.end()).reason is EndReason.STOP


async def test_with_all_keys_refused_each_turn_tries_one_and_the_first_that_is_mended_stays(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, provider={"api_key": Secret(""), "api_keys": KEYS})
    for calls in (2, 1, 1):
        turn, watcher = rig.ask(model="status=401")
        outcome = await watcher.end()
        check(rig, turn, outcome)
        assert outcome.attempts == calls
        assert "api_key" in outcome.error
        rig.clock.advance(1)
    assert keys_seen(provider) == ["sk-one", "sk-two", "sk-one", "sk-two"]
    for _ in range(2):
        turn, watcher = rig.ask(model=WELL)
        outcome = await watcher.end()
        check(rig, turn, outcome)
        assert outcome.reason is EndReason.STOP
    assert keys_seen(provider)[-2:] == ["sk-one", "sk-one"]


# --- the breaker ---------------------------------------------------------------------------------


async def test_a_failing_provider_is_left_alone_and_one_turn_tries_again(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    """It is waited for while that takes ten seconds at most; then turns end at once."""
    rig = await make_rig(provider, max_retries=0, sleep=Standstill())
    model = f"{WELL},failures=7,status=500"
    for number in range(5):
        _, watcher = rig.ask(model=model, user=number)
        assert (await watcher.end()).attempts == 1
    for span_s in (5, 10):
        asked = provider.stats.requests
        _, watcher = rig.ask(model=model)
        rig.clock.advance(span_s - 0.1)
        rig.bridge.sweep()
        await asyncio.sleep(0)
        assert (provider.stats.requests, watcher.started) == (asked, 0)
        rig.clock.advance(0.1)
        rig.bridge.sweep()
        assert (await watcher.end()).attempts == 1
    turn, watcher = rig.ask(model=model)
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.code, outcome.attempts) == (Code.MODEL_UNAVAILABLE, 0)
    assert outcome.retry_ms == 20_000
    assert "20 seconds" in outcome.error
    rig.clock.advance(20)
    turn, watcher = rig.ask(model=model)
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.reason is EndReason.STOP
    assert rig.bridge.health()["p0"]["slots"][f"p0/{model}"]["breaker"] == "closed"


async def test_a_turn_waits_a_moment_for_a_failing_provider(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, max_retries=5)
    turn, watcher = rig.ask(model=f"{WELL},failures=5,status=500")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert (outcome.reason, outcome.attempts) == (EndReason.STOP, 6)
    assert sum(rig.sleeps.pauses) >= 5


async def test_a_fallback_answers_without_a_call_of_the_failing_one(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    models = ("status=500", WELL)
    rig = await two(make_rig, provider, second_provider, models, sleep=Standstill())
    for number in range(10):
        _, watcher = rig.ask(model="smart", conv=number)
        assert (await watcher.end()).reason is EndReason.STOP
    assert (provider.stats.requests, second_provider.stats.requests) == (5, 10)


@pytest.mark.parametrize("fault", ["status=400", "status=429", "status=404", "status=401"])
async def test_refusals_do_not_open_the_breaker(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    for _ in range(6):
        _, watcher = rig.ask(model=fault)
        await watcher.end()
    slot = rig.bridge.health()["p0"]["slots"][f"p0/{fault}"]
    assert slot["breaker"] == "closed"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["status=429,retry_after=7", "status=429"])
async def test_a_storm_of_refusals_costs_a_tenth_more_calls_at_most(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    """Each refused turn is answered later; nobody is sent away."""
    asked = 400
    rig = await make_rig(provider, provider={"limit": "aimd"}, queue=asked * 2, queue_wait_s=10_000)
    model = f"{WELL},failures=20,{fault}"
    waiting = [rig.ask(model=model, user=user, conv=user) for user in range(asked)]
    for turn, watcher in waiting:
        outcome = await watcher.end()
        assert outcome.reason is EndReason.STOP
        assert answer(turn) == WHOLE
    assert provider.stats.requests == asked + 20
    assert provider.stats.requests <= 1.1 * asked


async def test_a_provider_that_wants_an_hour_is_not_waited_for(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, sleep=Standstill())
    turns = [rig.ask(model="status=429,retry_after=3600", user=user) for user in range(30)]
    for _, watcher in turns:
        outcome = await watcher.end()
        assert outcome.code is Code.BUSY
        assert outcome.retry_ms >= 3_600_000
        assert "3600 seconds" in outcome.error
    assert provider.stats.requests <= 4  # what a machine of one's own gets at first


async def test_a_turn_waits_for_the_slot_that_opens_first(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    models = (f"{WELL},failures=1,status=429,retry_after=15",
              f"{WELL},failures=1,status=429,retry_after=9")  # fmt: skip
    rig = await two(make_rig, provider, second_provider, models, retry_base_s=0.0)
    started = rig.clock()
    turn, watcher = rig.ask(model="smart")
    outcome = await watcher.end()
    check(rig, turn, outcome)
    assert outcome.provider in ("p0", "p1")
    assert outcome.attempts == 3
    assert rig.sleeps.pauses[:2] == [15.0, 9.0]
    assert rig.clock() - started <= 24


async def test_a_refused_turn_is_answered_by_the_clock_on_the_wall(
    provider: ScriptedProvider,
) -> None:
    bridge = Bridge(BridgeConfig(providers=(provider_config("p0", provider),), retry_base_s=0.01))
    await bridge.start()
    watcher = Watcher()
    turn = bridge.submit(
        request(1, model=f"{WELL},failures=2,status=429,retry_after_ms=15"), watcher
    )
    outcome = await watcher.end()
    await bridge.aclose()
    assert (outcome.reason, outcome.attempts) == (EndReason.STOP, 3)
    assert answer(turn) == WHOLE


async def test_a_waiting_turn_can_be_cancelled(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    standstill = Standstill()
    rig = await make_rig(provider, sleep=standstill)
    turn, watcher = rig.ask(model="status=429,retry_after=5")
    await standstill.begun.wait()
    assert turn.outcome is None
    rig.bridge.cancel(turn.id)
    assert (await watcher.end()).reason is EndReason.CANCELLED
    assert provider.stats.requests == 1
