"""What every dialect must do: against recorded bodies, and over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.backends import HttpBackend, provider_of
from ai_bridge.config import ProviderConfig, ProviderKind
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.base import CallEnd, ModelCall, ToolDef, Transport
from ai_bridge.secrets import Secret
from ai_bridge.transport.aio import AioTransport
from ai_bridge.transport.raw_h1 import RawTransport
from ai_bridge.types import ChatMessage, Role, UsageSource
from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Sink, answer, request, thoughts
from tests.ai_bridge.samples import SAMPLES, Sample

KINDS: tuple[ProviderKind, ...] = ("openai_chat", "openai_responses", "anthropic", "gemini")
KEY = "sk-very-private"
WEATHER = ToolDef("weather", "Tells the weather.", {"type": "object", "properties": {}})


# --- recorded bodies -----------------------------------------------------------------------------


def decode(kind: str, *reads: bytes) -> tuple[Sink, CallEnd | ProviderFailure]:
    """Feed the reads as a transport does; a failure is returned, not raised."""
    sink = Sink()
    config = ProviderConfig(name="x", kind=kind, base_url="http://x/v1")  # type: ignore[arg-type]
    decoder = provider_of(config).decoder(sink)
    try:
        for read in reads:
            if decoder.feed(read):
                break
        return sink, decoder.eof()
    except ProviderFailure as failure:
        return sink, failure


def told(sink: Sink, end: CallEnd | ProviderFailure) -> dict[str, Any]:
    """Return all that a call brought, comparable."""
    found: dict[str, Any] = {"answer": sink.answer, "thoughts": sink.thoughts}
    found["calls"] = [(call.id, call.name, json.loads(call.args)) for call in sink.calls]
    if isinstance(end, ProviderFailure):
        return {**found, "failure": end.kind}
    usage = end.usage
    found["finish"] = end.finish.name
    found["id"] = end.response_id
    if usage is not None:
        assert usage.source is UsageSource.PROVIDER
        found["usage"] = (usage.prompt, usage.completion, usage.cached, usage.reasoning)
    return found


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: f"{one.kind}-{one.name}")
def test_a_recorded_answer_is_understood(sample: Sample) -> None:
    found = told(*decode(sample.kind, sample.body))
    expected = sample.expected
    assert found["answer"] == expected.answer
    assert found["thoughts"] == expected.thoughts
    assert [call[1:] for call in found["calls"]] == [tuple(call[1:]) for call in expected.calls]
    for call, (call_id, _, _) in zip(found["calls"], expected.calls, strict=True):
        assert call[0] == call_id if call_id else call[0].startswith("call_")
    assert found.get("failure", "") == expected.failure
    assert found.get("finish", "") == expected.finish
    assert found.get("usage") == expected.usage
    assert found.get("id", "") == expected.id


def test_every_dialect_is_shown_at_its_best_and_at_its_worst() -> None:
    for kind in KINDS:
        own = [sample.expected for sample in SAMPLES if sample.kind == kind]
        assert {"STOP", "LENGTH", "FILTERED"} <= {expected.finish for expected in own}
        assert {"truncated"} < {expected.failure for expected in own if expected.failure}
        assert any(len(expected.calls) > 1 for expected in own)
        assert any(expected.thoughts for expected in own)
        assert all(sample.source.startswith("https://") for sample in SAMPLES)


@given(st.data())
def test_any_cut_of_the_bytes_gives_the_same(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(SAMPLES))
    cuts = data.draw(st.lists(st.integers(0, len(sample.body)), max_size=40))
    at = [0, *sorted(cuts), len(sample.body)]
    reads = [sample.body[begin:end] for begin, end in pairwise(at)]
    assert told(*decode(sample.kind, *reads)) == told(*decode(sample.kind, sample.body))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: f"{one.kind}-{one.name}")
def test_byte_by_byte_gives_the_same(sample: Sample) -> None:
    reads = [sample.body[at : at + 1] for at in range(len(sample.body))]
    assert told(*decode(sample.kind, *reads)) == told(*decode(sample.kind, sample.body))


@given(st.sampled_from(SAMPLES), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damage_ends_in_an_answer_or_a_failure(sample: Sample, at: int, noise: bytes) -> None:
    at %= len(sample.body)
    sink, _ = decode(sample.kind, sample.body[:at] + noise + sample.body[at + len(noise) :])
    for text in (sink.answer, sink.thoughts):
        assert text.encode().decode() == text


WRAPPED: dict[ProviderKind, tuple[str, bytes]] = {
    "openai_chat": (
        '{"choices":[{"delta":{"content":%s}}]}',
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    ),
    "openai_responses": (
        '{"type":"response.output_text.delta","delta":%s}',
        b'data: {"type":"response.completed","response":{"status":"completed"}}\n\n',
    ),
    "anthropic": (
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}',
        b'data: {"type":"message_stop"}\n\n',
    ),
    "gemini": (
        '{"candidates":[{"content":{"parts":[{"text":%s}]}}]}',
        b'data: {"candidates":[{"finishReason":"STOP"}]}\n\n',
    ),
}
"""An event around a text, and the end, in their shortest form."""


@given(st.sampled_from(KINDS), st.text(max_size=40), st.integers(1, 9), st.booleans())
def test_text_survives_any_cut_of_bytes_and_of_characters(
    kind: ProviderKind, text: str, size: int, escaped: bool
) -> None:
    """Also characters whose two halves come in two events, as JSON escapes."""
    text = text.removeprefix("<") if text.lstrip().startswith("<") else text
    raw = text.encode("utf-16-le", "surrogatepass")
    units = [raw[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(raw), 2)]
    pieces = units if escaped else [text[at : at + size] for at in range(0, len(text), size)]
    event, end = WRAPPED[kind]
    body = (
        b"".join(
            b"data: "
            + (event % json.dumps(piece, ensure_ascii=escaped)).encode("utf-8", "ignore")
            + b"\n\n"
            for piece in pieces
        )
        + end
    )
    sink, ended = decode(kind, *(body[at : at + size] for at in range(0, len(body), size)))
    assert sink.answer == text.encode("utf-8", "ignore").decode()
    assert isinstance(ended, CallEnd)


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses", "anthropic"])
def test_what_follows_the_end_counts_no_more(kind: ProviderKind) -> None:
    event, end = WRAPPED[kind]
    body = end + b"data: [DONE]\n\ndata: " + (event % '"late"').encode() + b"\n\n"
    for reads in ([body], [body[at : at + 1] for at in range(len(body))]):
        assert decode(kind, *reads)[0].answer == ""


_ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_a_field_of_an_unexpected_type_harms_nobody(data: st.DataObject) -> None:
    """One value of a recorded answer, anywhere within it, becomes something else."""
    sample = data.draw(st.sampled_from([one for one in SAMPLES if one.name == "whole"]))
    body = json.loads(sample.body)
    holder: Any = body
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        place = data.draw(st.sampled_from(places))
        if not isinstance(holder[place], (dict, list)) or not holder[place]:
            break
        holder = holder[place]
    holder[place] = data.draw(_ODD)
    sink, _ = decode(sample.kind, json.dumps(body).encode())
    assert (
        sink.answer + sink.thoughts + "".join(call.args for call in sink.calls)
    ).encode() or True


# --- over real sockets ---------------------------------------------------------------------------


class Line:
    """One dialect over one transport, to a scripted provider."""

    def __init__(self, kind: ProviderKind, transport: Transport, provider: ScriptedProvider):
        base_url = provider.gemini_url if kind == "gemini" else provider.base_url
        self.kind = kind
        self.provider = provider
        self.heads: list[Any] = []
        config = ProviderConfig(name="x", kind=kind, base_url=base_url)
        self._backend = HttpBackend(provider_of(config), transport, Secret(KEY), self.heads.append)

    async def ask(self, model: str, *, stream: bool = True, **fields: Any) -> tuple[Sink, CallEnd]:
        sink = Sink()
        fields.setdefault("messages", (ChatMessage(Role.USER, "Hello?"),))
        call = ModelCall(request=request(1), model=model, stream=stream, **fields)
        return sink, await self._backend.stream(call, sink)

    async def fail(self, model: str, **fields: Any) -> ProviderFailure:
        with pytest.raises(ProviderFailure) as caught:
            await self.ask(model, **fields)
        return caught.value


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> ProviderKind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["aio", "raw"])
async def line(
    request: pytest.FixtureRequest, kind: ProviderKind, provider: ScriptedProvider
) -> AsyncIterator[Line]:
    transport: Transport = AioTransport() if request.param == "aio" else RawTransport()
    yield Line(kind, transport, provider)
    await transport.aclose()


@pytest.mark.parametrize(
    "model",
    [
        "fake",
        "lang=zh,tokens=12,split=1",
        "lang=zh,tokens=30,split=7",
        "surrogate,tokens=3",
        "tokens=0,huge=1000000",
        "crlf,no_space,tokens=4",
        "json,tokens=4,lang=zh",
    ],
)
async def test_an_answer_arrives_whole(line: Line, model: str) -> None:
    sink, end = await line.ask(model)
    assert sink.answer == answer_text(parse_model(model))
    assert end.finish is EndReason.STOP
    assert end.response_id


@pytest.mark.parametrize("stream", [True, False])
async def test_the_figures_are_told(line: Line, stream: bool) -> None:
    sink, end = await line.ask("tokens=5,think=3,prompt=50,cached=20", stream=stream)
    assert sink.thoughts == "hmm0 hmm1 hmm2 "
    assert end.usage is not None
    assert (end.usage.prompt, end.usage.completion, end.usage.cached) == (50, 8, 20)
    assert end.usage.source is UsageSource.PROVIDER
    assert end.usage.reasoning == (0 if line.kind == "anthropic" else 3)


async def test_an_answer_without_figures_is_an_answer(line: Line) -> None:
    assert (await line.ask("no_usage"))[1].usage is None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("words", ["", ",call_no_id", ",call_whole", ",before=3"])
async def test_tools_are_called_side_by_side(line: Line, stream: bool, words: str) -> None:
    model = f'tool=weather,calls=2,args={{"city":"巴黎","n":[1,2]}}{words}'
    sink, end = await line.ask(model, stream=stream, tools=(WEATHER,))
    assert [call.name for call in sink.calls] == ["weather", "weather"]
    assert [json.loads(call.args) for call in sink.calls] == [{"city": "巴黎", "n": [1, 2]}] * 2
    assert len({call.id for call in sink.calls}) == 2
    assert all(call.id for call in sink.calls)
    assert end.finish is EndReason.STOP


async def test_a_second_round_brings_the_results(line: Line) -> None:
    model = "tool=weather,tokens=2"
    first, _ = await line.ask(model, tools=(WEATHER,))
    (call,) = first.calls
    talk = (
        ChatMessage(Role.USER, "Hello?"),
        ChatMessage(Role.ASSISTANT, "", calls=(call,)),
        ChatMessage(Role.TOOL, "晴", name="weather", call_id=call.id),
    )
    second, _ = await line.ask(model, tools=(WEATHER,), messages=talk)
    assert not second.calls
    assert second.answer == "word0 word1 "
    assert "晴" in json.dumps(line.provider.requests[-1].body, ensure_ascii=False)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("finish", "reason"), [("length", EndReason.LENGTH), ("content_filter", EndReason.FILTERED)]
)
async def test_it_is_told_why_an_answer_ends(
    line: Line, finish: str, reason: EndReason, stream: bool
) -> None:
    sink, end = await line.ask(f"tokens=2,finish={finish}", stream=stream)
    assert sink.answer == "word0 word1 "
    assert end.finish is reason


async def test_a_question_that_the_filter_stops(line: Line) -> None:
    sink, end = await line.ask("blocked")
    assert sink.answer == ""
    assert end.finish is EndReason.FILTERED


@pytest.mark.parametrize(
    ("model", "kind_of_failure"),
    [
        ("no_finish,no_done", "truncated"),
        ("empty", "truncated"),
        ("error=3", "overloaded"),
        ("error=3,status=500", "provider_error"),
        ("error=3,status=429", "rate_limited"),
        ("reset=3", "disconnected"),
        ("close=3", "disconnected"),
    ],
)
async def test_what_goes_wrong_on_the_way_is_a_failure(
    line: Line, model: str, kind_of_failure: str
) -> None:
    failure = await line.fail(model)
    if line.kind.startswith("openai") and kind_of_failure == "overloaded":
        kind_of_failure = "provider_error"  # their errors carry no status, and 529 no name
    assert failure.kind == kind_of_failure
    assert KEY not in failure.text
    assert "secret" not in failure.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("model", "kind_of_failure", "remedy"),
    [
        ("status=400", "rejected", Remedy.FAIL),
        ("status=400,code=context_length_exceeded", "context_too_long", Remedy.SHRINK),
        ("status=400,code=content_filter", "filtered", Remedy.FAIL),
        ("status=401", "bad_key", Remedy.NEXT),
        ("status=402", "no_credit", Remedy.NEXT),
        ("status=403", "bad_key", Remedy.NEXT),
        ("status=404", "no_model", Remedy.FAIL),
        ("status=429", "rate_limited", Remedy.RETRY),
        ("status=429,quota", "no_credit", Remedy.NEXT),
        ("status=500", "provider_error", Remedy.RETRY),
        ("status=502", "provider_error", Remedy.RETRY),
        ("status=529", "overloaded", Remedy.RETRY),
        ("status=500,body=html", "provider_error", Remedy.RETRY),
        ("status=429,body=list", "rate_limited", Remedy.RETRY),
        ("status=429,body=text", "rate_limited", Remedy.RETRY),
        ("status=429,body=empty", "rate_limited", Remedy.RETRY),
    ],
)
async def test_a_refusal_is_explained_by_its_type(
    line: Line, model: str, kind_of_failure: str, remedy: Remedy, stream: bool
) -> None:
    failure = await line.fail(model, stream=stream)
    assert (failure.kind, failure.remedy) == (kind_of_failure, remedy)
    assert "secret" not in failure.text


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("retry_after=7", 7.0),
        ("retry_after_ms=250", 0.25),
        ("x-ratelimit-remaining-tokens=0,x-ratelimit-reset-tokens=6m0s", 360.0),
        ("", None),
    ],
)
async def test_a_service_that_is_busy_says_how_long(
    line: Line, words: str, wait_s: float | None
) -> None:
    assert (await line.fail(f"status=429,{words}")).retry_after_s == wait_s


async def test_the_key_is_in_one_header_and_nowhere_else(line: Line) -> None:
    await line.ask("fake")
    sent = line.provider.requests[-1]
    assert KEY not in sent.path
    assert KEY not in json.dumps(sent.body)
    assert sum(KEY in value for value in sent.headers.values()) == 1


async def test_the_head_of_every_answer_is_told(line: Line) -> None:
    await line.ask("fake,x-ratelimit-remaining-requests=9")
    await line.fail("status=429,x-ratelimit-remaining-requests=8")
    assert [head["x-ratelimit-remaining-requests"] for head in line.heads] == ["9", "8"]


async def test_a_turn_is_answered_through_every_dialect(
    kind: ProviderKind, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, provider={"kind": kind})
    turn, watcher = rig.ask(model="lang=zh,tokens=9,think=2")
    outcome = await watcher.end()
    assert outcome.reason is EndReason.STOP
    assert answer(turn) == answer_text(parse_model("lang=zh,tokens=9"))
    assert thoughts(turn) == "hmm0 hmm1 "
    assert outcome.usage.source is UsageSource.PROVIDER
