"""Decoding the OpenAI chat dialect, without I/O."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.backends import HttpBackend
from ai_bridge.config import ProviderConfig, Quirks
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.base import CallEnd, ModelCall, ToolDef
from ai_bridge.providers.calls import MAX_ARGS_CHARS, MAX_CALLS
from ai_bridge.providers.openai_chat import OpenAIChat
from ai_bridge.providers.think import ThinkSplitter
from ai_bridge.secrets import Secret
from ai_bridge.transport.aio import AioTransport
from ai_bridge.types import ChatMessage, Role
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason
from tests.ai_bridge.fakes import Sink, request


def dialect(**quirks: object) -> OpenAIChat:
    config = ProviderConfig(name="x", base_url="http://x/v1", quirks=Quirks(**quirks))  # type: ignore[arg-type]  # checked by Quirks
    return OpenAIChat(config)


def decode(*reads: bytes, **quirks: object) -> tuple[Sink, CallEnd]:
    sink = Sink()
    decoder = dialect(**quirks).decoder(sink)
    for read in reads:
        if decoder.feed(read):
            break
    return sink, decoder.eof()


def event(delta: object, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@given(st.text(max_size=60), st.integers(1, 7), st.booleans())
def test_text_survives_any_cut_of_bytes_and_of_characters(
    text: str, size: int, escaped: bool
) -> None:
    """Also characters whose two halves come in two deltas, as JSON escapes."""
    units = [text[at : at + size] for at in range(0, len(text), size)]
    if escaped:  # the UTF-16 units one by one
        raw = text.encode("utf-16-le", "surrogatepass")
        units = [
            raw[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(raw), 2)
        ]
    body = b"".join(event({"content": unit}) for unit in units) + DONE
    sink, end = decode(
        *(body[at : at + size] for at in range(0, len(body), size)), think_tags=False
    )
    assert sink.answer == text.encode("utf-8", "ignore").decode()
    assert end.finish is EndReason.STOP


@pytest.mark.parametrize(
    "chunk",
    [
        b'data: {"choices": null}\n\n',
        b'data: {"choices": []}\n\n',
        b'data: {"choices": [{}]}\n\n',
        b'data: {"choices": [{"delta": null}]}\n\n',
        b'data: {"choices": [{"delta": {"content": null}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [{"delta": []}]}\n\n',
        b'data: {"choices": "x", "usage": "y"}\n\n',
        b'data: {"id": "chatcmpl", "object": "chat.completion.chunk", "x": {"y": 1}}\n\n',
        b"data: ping\n\n",
        b"data:\n\n",
        b": comment\n\n",
    ],
)
def test_chunks_without_text_are_passed_over(chunk: bytes) -> None:
    sink, end = decode(event({"content": "a"}), chunk, event({"content": "b"}), DONE)
    assert sink.answer == "ab"
    assert end.finish is EndReason.STOP


def test_an_explicit_zero_is_a_figure() -> None:
    _, end = decode(
        event({"content": "a"}, "stop"),
        b'data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n',
        DONE,
    )
    assert end.usage is not None
    assert (end.usage.prompt, end.usage.completion) == (0, 0)


def test_no_usage_is_none() -> None:
    assert decode(event({"content": "a"}, "stop"))[1].usage is None


def test_the_last_usage_counts() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    later = {"prompt_tokens": 3, "completion_tokens": 2.0}
    _, end = decode(
        event({"content": "a"}, usage=usage), event({"content": "b"}, "stop", usage=later)
    )
    assert end.usage is not None
    assert end.usage.completion == 2


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_come_under_several_names(field: str) -> None:
    sink, _ = decode(event({field: "hm", "content": ""}), event({"content": "a"}), DONE)
    assert (sink.thoughts, sink.answer) == ("hm", "a")


def test_a_named_reasoning_field_is_the_only_one() -> None:
    sink, _ = decode(event({"reasoning": "x", "thinking": "y"}), DONE, reasoning_field="thinking")
    assert sink.thoughts == "y"


def test_a_refusal_is_shown() -> None:
    assert (
        decode(event({"refusal": "I would rather not."}), DONE)[0].answer == "I would rather not."
    )


@pytest.mark.parametrize(
    ("error", "code", "remedy"),
    [
        ({"code": "rate_limit_exceeded"}, Code.BUSY, Remedy.RETRY),
        ({"type": "insufficient_quota"}, Code.MODEL_UNAVAILABLE, Remedy.NEXT),
        ({"code": "context_length_exceeded"}, Code.CONTEXT_TOO_LONG, Remedy.SHRINK),
        ({"code": "content_filter"}, Code.REFUSED, Remedy.FAIL),
        ({"code": "invalid_api_key"}, Code.MODEL_UNAVAILABLE, Remedy.NEXT),
        ({"code": "model_not_found"}, Code.MODEL_UNAVAILABLE, Remedy.FAIL),
        ({"code": 502}, Code.MODEL_UNAVAILABLE, Remedy.RETRY),
        ({"code": 429}, Code.BUSY, Remedy.RETRY),
        ({"code": None, "type": None}, Code.MODEL_UNAVAILABLE, Remedy.RETRY),
        ("overloaded", Code.MODEL_UNAVAILABLE, Remedy.RETRY),
    ],
)
def test_an_error_within_the_stream_is_mapped_from_its_typed_fields(
    error: object, code: Code, remedy: Remedy
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        decode(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
    assert (caught.value.code, caught.value.remedy) == (code, remedy)


def test_an_error_body_with_status_200_is_an_error() -> None:
    with pytest.raises(ProviderFailure) as caught:
        decode(b'  {"error": {"code": "rate_limit_exceeded"}}')
    assert caught.value.code is Code.BUSY


@pytest.mark.parametrize("body", [b"<html>no</html>", b"{", b"[1,2", b'{"choices": [', b""])
def test_what_is_no_answer_is_a_failure(body: bytes) -> None:
    with pytest.raises(ProviderFailure):
        decode(body)


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_random_bytes_end_in_an_answer_or_a_failure(reads: list[bytes]) -> None:
    sink = Sink()
    decoder = dialect().decoder(sink)
    with contextlib.suppress(ProviderFailure):  # anything else is a bug
        for read in reads:
            decoder.feed(b'data: {"choices":' + read)
        decoder.eof()
    assert sink.answer.encode().decode() == sink.answer


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'[{"error": {"code": 429, "status": "X"}}]', "busy"),
        (b'{"error": "text"}', "busy"),
        (b"<html>", "busy"),
        (b'{"error": {"code": ["odd"], "type": {"a": 1}}}', "busy"),
    ],
)
def test_any_body_of_an_error_response_is_understood(body: bytes, words: str) -> None:
    assert words in dialect().classify(429, {}, body).text


def test_quirks_shape_the_request() -> None:
    quirks = {
        "include_usage": False,
        "max_tokens_field": "max_completion_tokens",
        "system_role": "developer",
        "sampling": False,
    }
    call = ModelCall(
        request=request(1, max_tokens=9, temperature=1.0, top_p=0.5),
        model="m",
        messages=(ChatMessage(Role.SYSTEM, "s"), ChatMessage(Role.USER, "u")),
    )
    built = dialect(**quirks).build(call, Secret())
    assert "authorization" not in built.headers
    assert json.loads(built.body) == {
        "model": "m",
        "messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "u"}],
        "stream": True,
        "max_completion_tokens": 9,
    }


# --- tool calls ----------------------------------------------------------------------------------

DELTAS: dict[str, list[dict[str, object]]] = {
    "by index": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y"'}},
        {"index": 0, "function": {"arguments": '{"x":1}'}},
        {"index": 1, "function": {"arguments": ":2}"}},
    ],
    "by id": [
        {"id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"id": "b", "function": {"name": "g", "arguments": '{"y"'}},
        {"id": "a", "function": {"arguments": ":1}"}},
        {"id": "b", "function": {"arguments": ":2}"}},
    ],
    "by position": [
        {"function": {"name": "f", "arguments": '{"x"'}},
        {"function": {"arguments": ":1}"}},
        {"function": {"name": "g", "arguments": '{"y"'}},
        {"function": {"arguments": ":2}"}},
    ],
    "id at first, position later": [
        {"id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"function": {"arguments": ":1}"}},
        {"id": "b", "function": {"name": "g", "arguments": '{"y":2}'}},
    ],
    "all numbered 0": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": '{"y":2}'}},
    ],
    "all numbered 0, without ids": [
        {"index": 0, "function": {"name": "f", "arguments": '{"x":1}'}},
        {"index": 0, "function": {"name": "g", "arguments": '{"y":2}'}},
    ],
    "the same id for both": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"index": 1, "id": "a", "function": {"name": "g", "arguments": '{"y":2}'}},
    ],
    "objects": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": {"y": 2}}},
    ],
    "a new id with every piece": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "id": "b", "function": {"arguments": ":1}"}},
        {"index": 1, "id": "c", "function": {"name": "g", "arguments": '{"y":2}'}},
    ],
    "ids and names with every piece": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y":2}'}},
    ],
}


@pytest.mark.parametrize("form", DELTAS)
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_calls_are_put_together_whatever_tells_them_apart(form: str, finish: str) -> None:
    events = [event({"tool_calls": [delta]}) for delta in DELTAS[form]]
    sink, end = decode(*events, event({}, finish), DONE)
    assert [(call.name, json.loads(call.args)) for call in sink.calls] == [
        ("f", {"x": 1}),
        ("g", {"y": 2}),
    ]
    assert len({call.id for call in sink.calls} - {""}) == 2
    assert end.finish is EndReason.STOP


def test_the_form_before_tools_is_understood() -> None:
    pieces = [{"name": "f", "arguments": ""}, {"arguments": '{"x"'}, {"arguments": ":1}"}]
    events = [event({"function_call": piece}) for piece in pieces]
    (call,) = decode(*events, event({}, "function_call"), DONE)[0].calls
    assert (call.name, call.args) == ("f", '{"x":1}')


@pytest.mark.parametrize("args", [None, "", "  ", {}])
def test_no_arguments_are_an_empty_object(args: object) -> None:
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": args}}]}
    assert decode(event(delta, "tool_calls"), DONE)[0].calls[0].args == "{}"


def test_arguments_that_are_no_json_are_passed_on_as_they_are() -> None:
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{x"}}]}
    assert decode(event(delta, "tool_calls"), DONE)[0].calls[0].args == "{x"


def test_a_call_that_was_cut_off_is_left_out() -> None:
    whole = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    cut = {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"x'}}
    sink, end = decode(event({"tool_calls": [whole, cut]}, "length"), DONE)
    assert [call.name for call in sink.calls] == ["f"]
    assert end.finish is EndReason.LENGTH


def test_an_answer_that_broke_off_calls_nothing() -> None:
    sink = Sink()
    decoder = dialect().decoder(sink)
    decoder.feed(event({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}))
    with pytest.raises(ProviderFailure):
        decoder.eof()
    assert not sink.calls


@pytest.mark.parametrize(
    "deltas",
    [
        [{"index": number, "function": {"name": "f"}} for number in range(MAX_CALLS + 1)],
        [{"index": 0, "function": {"name": "f", "arguments": "x" * (MAX_ARGS_CHARS + 1)}}],
        [{"index": 0, "function": {"name": "f", "arguments": {"x": "x" * MAX_ARGS_CHARS}}}],
    ],
)
def test_more_calls_than_anybody_could_mean_are_a_failure(deltas: list[object]) -> None:
    with pytest.raises(ProviderFailure) as caught:
        decode(event({"tool_calls": deltas}, "tool_calls"), DONE)
    assert caught.value.kind == "too_many_calls"


def test_made_up_ids_are_the_same_for_the_same_answer_and_differ_between_answers() -> None:
    delta = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}

    def made(answer: str) -> str:
        return decode(event(delta, "stop", id=answer), DONE)[0].calls[0].id

    assert made("chatcmpl-1") == made("chatcmpl-1") != made("chatcmpl-2")


def test_half_characters_in_arguments_meet_their_other_halves() -> None:
    halves = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":"\ud83d'}},
              {"index": 0, "function": {"arguments": '\ude00 \ud83d"}'}}]  # fmt: skip
    events = [event({"tool_calls": [half]}) for half in halves]
    (call,) = decode(*events, event({}, "stop"), DONE)[0].calls
    assert json.loads(call.args) == {"x": "😀 "}


@pytest.mark.parametrize("words", ["call_no_index", "call_no_index,call_no_id", "call_dict"])
@pytest.mark.parametrize("stream", [True, False])
async def test_odd_calls_over_a_real_socket(
    words: str, stream: bool, provider: ScriptedProvider
) -> None:
    config = ProviderConfig(name="x", base_url=provider.base_url)
    backend = HttpBackend(OpenAIChat(config), AioTransport(), Secret())
    sink = Sink()
    call = ModelCall(
        request=request(1),
        model=f'tool=weather,calls=2,args={{"city":"巴黎"}},{words}',
        messages=(ChatMessage(Role.USER, "Hello?"),),
        tools=(ToolDef("weather", "", {}),),
        stream=stream,
    )
    await backend.stream(call, sink)
    await backend.aclose()
    assert [json.loads(call.args) for call in sink.calls] == [{"city": "巴黎"}] * 2


# --- think tags ----------------------------------------------------------------------------------


def split(pieces: list[str]) -> tuple[str, str]:
    sink = Sink()
    splitter = ThinkSplitter(sink.text, sink.reasoning)
    for piece in pieces:
        splitter.feed(piece)
    splitter.eof()
    return sink.thoughts, sink.answer


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>a b</think>\n\nc", "a b", "c"),
        ("\n<think>\na</think>c", "a", "c"),
        ("<thinking>a</thinking>c", "a", "c"),
        ("<think></think>c", "", "c"),
        ("<think>a < b </thin</think>c", "a < b </thin", "c"),
        ("<think>never closed", "never closed", ""),
        ("use the <think> tag", "", "use the <think> tag"),
        ("<thin", "", "<thin"),
        ("<b>x</b>", "", "<b>x</b>"),
        ("  x", "", "  x"),
        ("", "", ""),
    ],
)
def test_a_leading_think_block_is_split_off_however_it_is_cut(
    text: str, thoughts: str, answer: str
) -> None:
    for size in (1, 2, 3, 5, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert split(pieces) == (thoughts, answer)


def test_a_secret_shows_nowhere() -> None:
    secret = Secret("sk-very-private")
    config = ProviderConfig(name="x", api_key=secret)
    for shown in (repr(secret), str(secret), f"{secret}", repr(config)):
        assert "private" not in shown
    assert secret.reveal() == "sk-very-private"
