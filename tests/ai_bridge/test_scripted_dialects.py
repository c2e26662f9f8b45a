"""The scripted provider's answers have each vendor's documented shape."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import aiohttp
import pytest

from bench.provider.embeddings import vector
from bench.provider.reply import Said
from bench.provider.script import DEFAULT_ARGS, Behaviour, answer_text, parse_model
from bench.provider.server import Request, ScriptedProvider
from tests.ai_bridge.scripted import DIALECTS, HELLO, Told, ask, parts_in, post, text_in

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
THINKING = "tokens=3,think=2,cached=4,prompt=9"


# --- text, thoughts, usage -----------------------------------------------------------------------


@every_dialect
@pytest.mark.parametrize("model", ["fake", "lang=zh,tokens=8", "tokens=4,rate=2000", "loop"])
async def test_the_deltas_make_the_answer(
    dialect: str, model: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, model)
    assert told.status == 200
    assert told.headers["content-type"] == "text/event-stream"
    assert text_in(dialect, told) == answer_text(parse_model(model))
    assert provider.stats.finished == 1
    assert provider.stats.tokens == parse_model(model).tokens
    (request,) = provider.requests
    assert (request.kind, request.model, request.question) == (dialect, model, HELLO)


async def test_chat_sends_role_thoughts_text_finish_usage_and_done(
    provider: ScriptedProvider,
) -> None:
    told = await ask(provider, "chat", THINKING)
    assert told.events[-1] == ("", "[DONE]")
    first, *_, usage = told.data
    assert {one["object"] for one in told.data} == {"chat.completion.chunk"}
    assert {one["id"] for one in told.data} == {first["id"]}
    deltas = [one["choices"][0]["delta"] for one in told.data if one["choices"]]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "hmm0 "},
        {"reasoning_content": "hmm1 "},
        *({"content": f"word{number} "} for number in range(3)),
        {},
    ]
    finishes = [one["choices"][0]["finish_reason"] for one in told.data if one["choices"]]
    assert finishes == [None] * 6 + ["stop"]
    assert usage["choices"] == []
    figures = usage["usage"]
    assert (figures["prompt_tokens"], figures["completion_tokens"]) == (9, 5)
    assert figures["total_tokens"] == 14
    assert figures["prompt_tokens_details"]["cached_tokens"] == 4
    assert figures["completion_tokens_details"]["reasoning_tokens"] == 2


async def test_responses_send_typed_events_in_order(provider: ScriptedProvider) -> None:
    told = await ask(provider, "responses", THINKING)
    names = [name for name, _ in told.events]
    assert names == [data["type"] for data in told.data]
    assert [data["sequence_number"] for data in told.data] == list(range(len(names)))
    assert names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        *["response.reasoning_summary_text.delta"] * 2,
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    ended = told.data[-1]["response"]
    assert ended["status"] == "completed"
    assert [item["type"] for item in ended["output"]] == ["reasoning", "message"]
    assert ended["output"][1]["content"][0]["text"] == "word0 word1 word2 "
    assert ended["usage"]["input_tokens_details"] == {"cached_tokens": 4}
    assert ended["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert (ended["usage"]["input_tokens"], ended["usage"]["output_tokens"]) == (9, 5)


async def test_responses_may_show_raw_thoughts(provider: ScriptedProvider) -> None:
    told = await ask(provider, "responses", "tokens=1,think=2,think_field=raw")
    raw = [one["delta"] for one in told.data if one["type"] == "response.reasoning_text.delta"]
    assert raw == ["hmm0 ", "hmm1 "]


@pytest.mark.parametrize(
    ("finish", "event", "reason"),
    [
        ("length", "response.incomplete", "max_output_tokens"),
        ("content_filter", "response.incomplete", "content_filter"),
        ("failed", "response.failed", None),
    ],
)
async def test_responses_end_in_other_ways(
    finish: str, event: str, reason: str | None, provider: ScriptedProvider
) -> None:
    told = await ask(provider, "responses", f"tokens=1,finish={finish}")
    name, data = told.events[-1]
    assert name == event
    ended = data["response"]
    assert ended["status"] == event.removeprefix("response.")
    assert (ended["incomplete_details"] or {}).get("reason") == reason
    assert (ended["error"] is not None) == (finish == "failed")


async def test_anthropic_sends_blocks_between_start_and_stop(provider: ScriptedProvider) -> None:
    told = await ask(provider, "anthropic", THINKING)
    names = [name for name, _ in told.events]
    assert names == [data["type"] for data in told.data]
    block = ["content_block_start", "ping", "content_block_delta", "content_block_delta"]
    end = ["content_block_delta", "content_block_stop"]
    assert names == ["message_start", *block, *end, *block, *end, "message_delta", "message_stop"]
    start = told.data[0]["message"]
    assert start["usage"]["input_tokens"] == 5  # without the cached ones
    assert start["usage"]["cache_read_input_tokens"] == 4
    deltas = [data["delta"] for data in told.data if data["type"] == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == [
        *["thinking_delta"] * 2,
        "signature_delta",
        *["text_delta"] * 3,
    ]
    assert told.data[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert told.data[-2]["usage"] == {"output_tokens": 5}


async def test_gemini_sends_whole_responses_and_no_last_event(provider: ScriptedProvider) -> None:
    told = await ask(provider, "gemini", THINKING)
    assert told.raw.endswith(b"}\r\n\r\n")
    parts = parts_in(told)
    assert parts == [
        {"text": "hmm0 ", "thought": True},
        {"text": "hmm1 ", "thought": True},
        *({"text": f"word{number} "} for number in range(3)),
        {"text": ""},
    ]
    assert ["finishReason" in data["candidates"][0] for data in told.data] == [False] * 5 + [True]
    usage = told.data[-1]["usageMetadata"]
    assert usage["promptTokenCount"] == 9
    assert usage["candidatesTokenCount"] == 3
    assert usage["thoughtsTokenCount"] == 2
    assert usage["cachedContentTokenCount"] == 4
    assert usage["totalTokenCount"] == 14


@every_dialect
@pytest.mark.parametrize("wish", ["asked", "json"])
async def test_one_body_says_the_same_as_the_stream(
    dialect: str, wish: str, provider: ScriptedProvider
) -> None:
    model = f"{THINKING},json" if wish == "json" else THINKING
    told = await ask(provider, dialect, model, stream=wish == "json")
    assert told.headers["content-type"] == "application/json"
    body = told.json
    text = "word0 word1 word2 "
    if dialect == "chat":
        message = body["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == (text, "hmm0 hmm1 ")
        assert body["usage"]["completion_tokens"] == 5
    elif dialect == "responses":
        reasoning, message = body["output"]
        assert reasoning["summary"][0]["text"] == "hmm0 hmm1 "
        assert message["content"][0]["text"] == text
        assert body["usage"]["total_tokens"] == 14
    elif dialect == "anthropic":
        thinking, said = body["content"]
        assert (thinking["thinking"], said["text"]) == ("hmm0 hmm1 ", text)
        assert body["usage"]["cache_read_input_tokens"] == 4
        assert body["stop_reason"] == "end_turn"
    else:
        thought, part = body["candidates"][0]["content"]["parts"]
        assert (thought["thought"], part["text"]) == (True, text)
        assert body["candidates"][0]["finishReason"] == "STOP"


async def test_gemini_without_sse_sends_a_list(provider: ScriptedProvider) -> None:
    told = await post(
        provider, "/v1beta/models/tokens=2:streamGenerateContent", json={"contents": []}
    )
    (one,) = told.json
    assert one["candidates"][0]["content"]["parts"] == [{"text": "word0 word1 "}]


@every_dialect
async def test_thoughts_may_stand_in_tags_in_the_text(
    dialect: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "tokens=1,think=2,tags")
    assert text_in(dialect, told) == "<think>\nhmm0 hmm1 </think>\n\nword0 "


# --- tools ---------------------------------------------------------------------------------------


def calls_in(dialect: str, told: Told) -> list[tuple[str, str]]:
    """Return names and arguments of the calls of a stream."""
    found: dict[Any, list[str]] = {}
    if dialect == "chat":
        for data in told.data:
            for choice in data["choices"]:
                for delta in choice["delta"].get("tool_calls", []):
                    call = found.setdefault(delta["index"], ["", ""])
                    call[0] += delta["function"].get("name", "")
                    call[1] += delta["function"]["arguments"]
    elif dialect == "responses":
        items = [one for one in told.data if one["type"] == "response.output_item.added"]
        found = {one["item"]["id"]: [one["item"]["name"], ""] for one in items}
        for one in told.data:
            if one["type"] == "response.function_call_arguments.delta":
                found[one["item_id"]][1] += one["delta"]
    elif dialect == "anthropic":
        for one in told.data:
            if one["type"] == "content_block_start":
                found[one["index"]] = [one["content_block"]["name"], ""]
            elif one["type"] == "content_block_delta":
                found[one["index"]][1] += one["delta"]["partial_json"]
    else:
        calls = [part["functionCall"] for part in parts_in(told) if "functionCall" in part]
        found = {
            at: [one["name"], json.dumps(one["args"], ensure_ascii=False, separators=(",", ":"))]
            for at, one in enumerate(calls)
        }
    return [(name, args) for name, args in found.values()]


@every_dialect
async def test_a_tool_is_called_until_its_result_is_there(
    dialect: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "tool=weather,calls=2,tokens=2")
    assert calls_in(dialect, told) == [("weather", DEFAULT_ARGS)] * 2
    assert text_in(dialect, told) == ""
    told = await ask(provider, dialect, "tool=weather,calls=2,tokens=2", result=True)
    assert text_in(dialect, told) == "word0 word1 "
    told = await ask(provider, dialect, "tool=weather,rounds=2", result=True)
    assert calls_in(dialect, told) == [("weather", DEFAULT_ARGS)]
    told = await ask(provider, dialect, 'tool=weather,rounds=-1,args={"n":[$n,2]}', result=True)
    assert calls_in(dialect, told) == [("weather", '{"n":[2,2]}')]


@every_dialect
async def test_the_first_tool_offered_is_called_when_none_is_named(
    dialect: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "tool", offer=True)
    assert [name for name, _ in calls_in(dialect, told)] == ["weather"]
    assert text_in(dialect, await ask(provider, dialect, "tool,tokens=1")) == "word0 "


@every_dialect
async def test_text_may_come_before_a_call(dialect: str, provider: ScriptedProvider) -> None:
    told = await ask(provider, dialect, "tool=weather,before=2")
    assert text_in(dialect, told) == "word0 word1 "
    assert b"weather" in told.raw


async def test_each_dialect_ends_a_call_in_its_way(provider: ScriptedProvider) -> None:
    chat = await ask(provider, "chat", "tool=weather,no_usage")
    assert chat.data[-1]["choices"][0]["finish_reason"] == "tool_calls"
    anthropic = await ask(provider, "anthropic", "tool=weather")
    assert anthropic.data[-2]["delta"]["stop_reason"] == "tool_use"
    responses = await ask(provider, "responses", "tool=weather")
    (item,) = responses.data[-1]["response"]["output"]
    assert (item["type"], item["arguments"]) == ("function_call", DEFAULT_ARGS)
    gemini = await ask(provider, "gemini", "tool=weather")
    assert gemini.data[-1]["candidates"][0]["finishReason"] == "STOP"


def chat_call_deltas(told: Told) -> list[dict[str, Any]]:
    choices = [choice for data in told.data for choice in data["choices"]]
    return [delta for one in choices for delta in one["delta"].get("tool_calls", [])]


async def test_odd_calls_of_the_chat_dialect(provider: ScriptedProvider) -> None:
    told = await ask(provider, "chat", "tool=weather,call_no_index")
    assert not any("index" in delta for delta in chat_call_deltas(told))
    told = await ask(provider, "chat", "tool=weather,call_no_id")
    assert not any("id" in delta for delta in chat_call_deltas(told))
    told = await ask(provider, "chat", "tool=weather,call_dict")
    (delta,) = chat_call_deltas(told)
    assert delta["function"]["arguments"] == json.loads(DEFAULT_ARGS)
    told = await ask(provider, "chat", "tool=weather,call_whole,finish=stop,no_usage")
    (delta,) = chat_call_deltas(told)
    assert delta["function"]["arguments"] == DEFAULT_ARGS
    assert told.data[-1]["choices"][0]["finish_reason"] == "stop"


@every_dialect
async def test_arguments_that_are_no_json_are_passed_on(
    dialect: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "tool=weather,args=oops")
    if dialect == "gemini":  # the service itself would not send them
        assert told.data[-1]["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
    else:
        assert calls_in(dialect, told) == [("weather", "oops")]


@every_dialect
async def test_one_body_brings_the_calls_too(dialect: str, provider: ScriptedProvider) -> None:
    body = (await ask(provider, dialect, "tool=weather", stream=False)).json
    args: Any
    if dialect == "chat":
        (call,) = body["choices"][0]["message"]["tool_calls"]
        assert body["choices"][0]["message"]["content"] is None
        args = json.loads(call["function"]["arguments"])
    elif dialect == "responses":
        args = json.loads(body["output"][0]["arguments"])
    elif dialect == "anthropic":
        args = body["content"][0]["input"]
    else:
        args = body["candidates"][0]["content"]["parts"][0]["functionCall"]["args"]
    assert args == json.loads(DEFAULT_ARGS)


# --- answers that a test writes ------------------------------------------------------------------


@every_dialect
@pytest.mark.parametrize("stream", [True, False])
async def test_a_test_may_write_the_answers(
    dialect: str, stream: bool, provider: ScriptedProvider
) -> None:
    text = '  {"facts": ["她喜欢下雨天"]}\n\nand "more" '
    provider.replies.append(text)
    provider.reply_with = lambda request: f"second to {request.question}"
    first = await ask(provider, dialect, "gpt-9", stream=stream)
    second = await ask(provider, dialect, "gpt-9", stream=stream)
    if stream:
        assert text_in(dialect, first) == text
        assert text_in(dialect, second) == f"second to {HELLO}"
    else:
        assert json.dumps(text, ensure_ascii=False)[1:-1] in first.raw.decode()
        assert f"second to {HELLO}" in second.raw.decode()
    assert not provider.replies


@every_dialect
async def test_a_test_may_write_thoughts_and_calls(
    dialect: str, provider: ScriptedProvider
) -> None:
    said = Said(text="I look.", thoughts="let me see", calls=(("weather", '{"a":1}'),))
    provider.replies.append(said)
    told = await ask(provider, dialect, "fake")
    assert text_in(dialect, told) == "I look."
    assert b"weather" in told.raw
    assert b'"see"' in told.raw


async def test_a_refusal_leaves_the_written_answer_for_the_next_try(
    provider: ScriptedProvider,
) -> None:
    provider.replies.append("at last")
    model = "status=503,failures=1"
    assert (await ask(provider, "chat", model)).status == 503
    assert text_in("chat", await ask(provider, "chat", model)) == "at last"


async def test_faults_and_pace_of_the_name_hold_for_written_answers(
    provider: ScriptedProvider,
) -> None:
    provider.replies.append("this text is cut off here")
    told = await ask(provider, "chat", "close=2,rate=1000")
    assert told.cut
    assert text_in("chat", told) == "this text "


async def test_the_writer_may_leave_it_to_the_name(provider: ScriptedProvider) -> None:
    def write(request: Request) -> str | None:
        return "mine" if request.model == "gpt-9" else None

    provider.reply_with = write
    assert text_in("chat", await ask(provider, "chat", "gpt-9")) == "mine"
    assert text_in("chat", await ask(provider, "chat", "tokens=1")) == "word0 "
    assert (await ask(provider, "chat", "gpt-9 or so, status=x")).status == 400


# --- the other doors -----------------------------------------------------------------------------


async def test_embeddings_have_the_size_and_form_that_is_asked_for(
    provider: ScriptedProvider,
) -> None:
    told = await post(
        provider, "/v1/embeddings", json={"model": "dim=32", "input": ["a b", "你好世界"]}
    )
    data = told.json["data"]
    assert [one["index"] for one in data] == [0, 1]
    assert all(len(one["embedding"]) == 32 for one in data)
    assert told.json["usage"]["prompt_tokens"] == 5
    asked = {"model": "fake", "input": "a b", "dimensions": 8, "encoding_format": "base64"}
    told = await post(provider, "/v1/embeddings", json=asked)
    packed = base64.b64decode(told.json["data"][0]["embedding"])
    assert struct.unpack("<8f", packed) == pytest.approx(vector("a b", 8), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("she likes rain in the evening", "in the evening she likes snow", "the train is late"),
        ("她喜欢下雨天的晚上", "她很喜欢下雨天", "火车晚点了三个小时"),
    ],
)
def test_similar_texts_have_similar_vectors(text: str, near: str, far: str) -> None:
    def cosine(one: str, other: str) -> float:
        return sum(a * b for a, b in zip(vector(one, 256), vector(other, 256), strict=True))

    assert math.isclose(cosine(text, text), 1)
    assert cosine(text, near) > 0.4 > cosine(text, far) + 0.1


async def test_a_transcript_tells_what_was_sent(provider: ScriptedProvider) -> None:
    def form(**fields: str) -> aiohttp.FormData:
        data = aiohttp.FormData(fields)
        data.add_field("file", b"\r\n--sound", filename="语音.ogg", content_type="audio/ogg")
        return data

    path = "/v1/audio/transcriptions"
    told = await post(provider, path, data=form(model="seconds=5", language="zh"))
    assert told.json["text"] == "语音.ogg, 9 bytes, language zh"
    assert provider.requests[-1].body["file"]["type"] == "audio/ogg"
    wanted = {"model": "seconds=5", "response_format": "verbose_json"}
    told = await post(provider, path, data=form(**wanted))
    assert told.json["duration"] == 5
    told = await post(provider, path, data=form(model="fake", response_format="text"))
    assert told.raw.decode().startswith("语音.ogg, 9 bytes")
    provider.reply_with = lambda request: "hello there"
    told = await post(provider, path, data=form(model="fake"))
    assert told.json["text"] == "hello there"
    assert (await post(provider, path, data=form(model="status=413"))).status == 413


async def get(provider: ScriptedProvider, path: str, **headers: str) -> Any:
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(provider.root_url + path) as response:
            return await response.json()


async def test_models_are_listed_for_whoever_asks(provider: ScriptedProvider) -> None:
    provider.models = ["one", "two"]
    openai = await get(provider, "/v1/models")
    assert [one["id"] for one in openai["data"]] == ["one", "two"]
    headers = {"anthropic-version": "2023-06-01"}
    anthropic = await get(provider, "/v1/models", **headers)
    assert [one["type"] for one in anthropic["data"]] == ["model", "model"]
    assert (anthropic["first_id"], anthropic["has_more"]) == ("one", False)
    gemini = await get(provider, "/v1beta/models?pageSize=10")
    assert [one["name"] for one in gemini["models"]] == ["models/one", "models/two"]


async def test_what_cannot_be_answered_is_refused_with_a_reason(
    provider: ScriptedProvider,
) -> None:
    assert (await post(provider, "/v1/nothing", json={"model": "fake"})).status == 404
    assert (await post(provider, "/v1/chat/completions", data=b"{oops")).status == 400
    assert (await post(provider, "/v1/chat/completions", json=[1])).status == 400
    told = await ask(provider, "anthropic", "unknown_word=3")
    assert told.json["type"] == "error"
    assert "unknown_word" in told.json["error"]["message"]


async def test_a_chunked_request_is_read(provider: ScriptedProvider) -> None:
    async def pieces() -> Any:
        yield b'{"model": "tokens=1", "stream": false,'
        yield b'"messages": []}'

    told = await post(provider, "/v1/chat/completions", data=pieces())
    assert told.json["choices"][0]["message"]["content"] == "word0 "


def test_the_ordinary_answer_is_the_plain_name() -> None:
    assert parse_model("fake") == parse_model("") == Behaviour()
