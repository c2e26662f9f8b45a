"""Every fault of a provider leads to one outcome that says what to do."""

from __future__ import annotations

import asyncio

import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.types import UsageSource
from bench.provider.script import Behaviour, answer_text, parse_model
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamState
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Watcher, answer, request, thoughts


async def test_an_answer_streams_to_its_end(provider: ScriptedProvider, make_rig: MakeRig) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="fake")
    outcome = await watcher.end()
    assert outcome.reason is EndReason.STOP
    assert answer(turn) == answer_text(Behaviour())
    assert outcome.usage.source is UsageSource.PROVIDER
    assert (outcome.usage.prompt, outcome.usage.completion) == (7, 20)
    assert (outcome.provider, outcome.model, outcome.attempts) == ("p0", "fake", 1)
    assert turn.state is StreamState.DONE
    assert turn.outcome is outcome
    assert watcher.started == 1
    assert watcher.changes >= 1


@pytest.mark.parametrize(
    "model",
    [
        "no_done",
        "no_finish",
        "null_choices",
        "no_space",
        "no_usage",
        "json",
        "split=1,lang=zh,tokens=8",
        "split=3,lang=zh,tokens=30",
        "surrogate",
        "huge=3000000",
        "lang=zh,tokens=50,linger=30",
    ],
)
async def test_odd_streams_are_read_whole(
    model: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    behaviour = parse_model(model)
    turn, watcher = rig.ask(model=model)
    outcome = await watcher.end()
    expected = answer_text(behaviour)
    if len(expected) > 256 * 1024:  # the bound of a turn's text
        assert outcome.reason is EndReason.LENGTH
        assert turn.size() == 256 * 1024
    else:
        assert outcome.reason is EndReason.STOP
        assert answer(turn) == expected
    assert "\ufffd" not in answer(turn)


@pytest.mark.parametrize(
    "model", ["think=4,tokens=3", "think=4,tags,tokens=3", "think=4,tags,split=2,tokens=3"]
)
async def test_thoughts_are_kept_apart(
    model: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=model)
    assert (await watcher.end()).reason is EndReason.STOP
    assert answer(turn) == "word0 word1 word2 "
    assert thoughts(turn).strip() == "hmm0 hmm1 hmm2 hmm3"


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("length", EndReason.LENGTH),
        ("content_filter", EndReason.FILTERED),
        ("tool_calls", EndReason.STOP),
        ("eos", EndReason.STOP),
    ],
)
async def test_the_finish_reason_is_understood(
    finish: str, reason: EndReason, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    _, watcher = rig.ask(model=f"finish={finish}")
    outcome = await watcher.end()
    assert outcome.reason is reason
    assert (outcome.code is Code.REFUSED) == (reason is EndReason.FILTERED)


@pytest.mark.parametrize(
    ("model", "code", "calls"),
    [
        ("status=401", Code.MODEL_UNAVAILABLE, 1),
        ("status=403", Code.MODEL_UNAVAILABLE, 1),
        ("status=402", Code.MODEL_UNAVAILABLE, 1),
        ("status=404", Code.MODEL_UNAVAILABLE, 1),
        ("status=302", Code.MODEL_UNAVAILABLE, 1),
        ("status=400", Code.REFUSED, 1),
        ("status=422", Code.REFUSED, 1),
        ("status=400,code=content_filter", Code.REFUSED, 1),
        ("status=400,code=context_length_exceeded", Code.CONTEXT_TOO_LONG, 2),
        ("status=413", Code.CONTEXT_TOO_LONG, 2),
        ("status=429,code=insufficient_quota", Code.MODEL_UNAVAILABLE, 1),
        ("status=429,retry_after=3600", Code.BUSY, 1),
        ("status=429", Code.BUSY, 3),
        ("status=429,retry_after=1", Code.BUSY, 3),
        ("status=500", Code.MODEL_UNAVAILABLE, 3),
        ("status=503,retry_after_ms=20", Code.MODEL_UNAVAILABLE, 3),
        ("status=529", Code.MODEL_UNAVAILABLE, 3),
        ("reset=0", Code.MODEL_UNAVAILABLE, 3),
        ("close=0", Code.MODEL_UNAVAILABLE, 3),
        ("garbage=0", Code.MODEL_UNAVAILABLE, 3),
        ("error=0", Code.MODEL_UNAVAILABLE, 3),
        ("tokens=0,no_finish,no_done", Code.MODEL_UNAVAILABLE, 3),
        ("tokens=0", Code.MODEL_UNAVAILABLE, 1),
        ("huge=9000000", Code.MODEL_UNAVAILABLE, 1),
    ],
)
async def test_a_fault_before_the_first_text(
    model: str, code: Code, calls: int, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    if model.startswith("huge"):
        model += ",tokens=0"
    turn, watcher = rig.ask(model=model)
    outcome = await watcher.end()
    assert (outcome.reason, outcome.code) == (EndReason.ERROR, code)
    assert outcome.attempts == provider.stats.requests == calls
    # A provider that wants to be left alone is waited for after each refusal, the last one too.
    closes = code is Code.BUSY or "retry_after" in model
    assert len(rig.sleeps.pauses) == (calls if closes else calls - 1 if calls == 3 else 0)
    assert answer(turn) == ""
    assert outcome.ttft_ms == -1
    assert 20 < len(outcome.error) <= 500
    assert "secret" not in outcome.error
    assert "127.0.0.1" not in outcome.error


@pytest.mark.parametrize(
    "fault", ["reset=5", "close=5", "error=5", "garbage=5", "tokens=5,no_finish,no_done"]
)
async def test_a_fault_after_the_first_text_keeps_it_and_is_not_retried(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=f"rate=500,{fault}")
    outcome = await watcher.end()
    assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.MODEL_UNAVAILABLE)
    assert answer(turn) == "word0 word1 word2 word3 word4 "
    assert provider.stats.requests == 1
    assert outcome.usage.source is UsageSource.ESTIMATED
    assert outcome.usage.prompt > 0
    assert outcome.usage.completion > 0


@pytest.mark.parametrize("fault", ["status=500", "status=429", "reset=0", "close=0", "error=0"])
async def test_a_passing_fault_is_not_seen(
    fault: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model=f"tokens=3,failures=2,{fault}")
    outcome = await watcher.end()
    assert outcome.reason is EndReason.STOP
    assert outcome.attempts == 3
    assert answer(turn) == "word0 word1 word2 "


async def test_the_pause_before_a_retry_honours_the_provider(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, retry_base_s=0.0)
    _, watcher = rig.ask(model="status=429,retry_after=3")
    outcome = await watcher.end()
    assert rig.sleeps.pauses == [3.0, 3.0, 3.0]
    assert outcome.retry_ms == 3000
    assert "3 seconds" in outcome.error


async def test_the_next_provider_answers_when_the_first_cannot(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, second_provider)
    await provider.aclose()  # its port refuses from now on
    turn, watcher = rig.ask(model="tokens=2")
    outcome = await watcher.end()
    assert (outcome.reason, outcome.provider, outcome.attempts) == (EndReason.STOP, "p1", 2)
    assert answer(turn) == "word0 word1 "
    assert rig.sleeps.pauses == []
    assert rig.bridge.health()["p0"]["last_failure"] == "connect"
    assert rig.bridge.health()["p1"]["calls_ok"] == 1


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        ("status=401", (1, 1)),  # each once: a key does not get better
        ("status=500", (2, 2)),  # each once, then two repeats in turn
        ("status=400", (1, 0)),  # no provider will do better
    ],
)
async def test_failover_tries_each_provider_in_order(
    fault: str,
    calls: tuple[int, int],
    provider: ScriptedProvider,
    second_provider: ScriptedProvider,
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(provider, second_provider)
    _, watcher = rig.ask(model=fault)
    outcome = await watcher.end()
    assert outcome.reason is EndReason.ERROR
    assert (provider.stats.requests, second_provider.stats.requests) == calls


async def test_a_context_that_is_too_long_is_sent_once_more_with_less(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, window_tokens=2000, answer_tokens=100)
    _, watcher = rig.ask("long " * 3000, model="status=400,code=context_length_exceeded,failures=1")
    assert (await watcher.end()).reason is EndReason.STOP
    first, second = (len(str(sent.body["messages"])) for sent in provider.requests)
    assert second < first * 0.6


async def test_a_stale_connection_is_replaced_at_once(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    for _ in range(2):
        _, watcher = rig.ask(model="stale,tokens=2")
        outcome = await watcher.end()
        assert (outcome.reason, outcome.attempts) == (EndReason.STOP, 1)
    assert provider.stats.requests == 3
    assert rig.sleeps.pauses == []


async def test_a_connection_serves_the_next_call(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    before = provider.stats.connections
    for _ in range(5):
        _, watcher = rig.ask(model="tokens=3,split=7")
        assert (await watcher.end()).reason is EndReason.STOP
    assert provider.stats.connections - before == 1
    assert provider.stats.finished == 5


async def test_an_unreachable_provider_says_what_to_check(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    await provider.aclose()
    _, watcher = rig.ask(model="fake")
    outcome = await watcher.end()
    assert outcome.code is Code.MODEL_UNAVAILABLE
    assert "base_url" in outcome.error


async def test_the_request_carries_id_key_persona_and_wishes(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    _, watcher = rig.ask("How are you?", model="fake", temperature=0.5, top_p=0.9, max_tokens=77)
    await watcher.end()
    sent = provider.requests[-1]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["x-request-id"] == "req-1"
    assert sent.headers["authorization"] == "Bearer sk-test-key"
    assert sent.headers["accept-encoding"] == "identity"
    assert sent.body == {
        "model": "fake",
        "messages": [
            {"role": "system", "content": "You are Mira, a calm librarian."},
            {"role": "user", "content": "How are you?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 77,
        "temperature": 0.5,
        "top_p": 0.9,
    }


async def test_more_than_a_hundred_streams_run_side_by_side(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    """aiohttp's default limit of 100 connections would hold stream 101 silently."""
    rig = await make_rig(provider)
    asked = [rig.ask(user=user, model="stall=1")[1] for user in range(150)]
    await asyncio.gather(*(watcher.change() for watcher in asked))
    assert provider.stats.streaming == 150


async def test_a_broken_watcher_harms_nobody(
    provider: ScriptedProvider, make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Watcher):
        def turn_changed(self, turn: object) -> None:
            raise RuntimeError("oops")

    rig = await make_rig(provider)
    watcher = Broken()
    turn = rig.bridge.submit(request(50, model="tokens=2"), watcher)
    assert (await watcher.end()).reason is EndReason.STOP
    assert answer(turn) == "word0 word1 "
    assert rig.bridge.stats.watcher_errors >= 1


async def test_logs_hold_no_text_and_no_key(
    provider: ScriptedProvider, make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="parlance")
    rig = await make_rig(provider)
    for model in ("fake", "status=500", "reset=2,rate=500"):
        _, watcher = rig.ask("my-private-question", model=model)
        await watcher.end()
    told = " ".join(str(record.__dict__) for record in caplog.records)
    assert "turn.ended" in told
    for private in ("my-private-question", "sk-test-key", "word0", "librarian", "secret-text"):
        assert private not in told


async def test_a_provider_without_address_is_refused_at_start() -> None:
    bridge = Bridge(BridgeConfig(providers=(ProviderConfig(name="x"),)))
    with pytest.raises(ValueError, match="base_url"):
        await bridge.start()
