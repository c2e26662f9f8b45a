"""The scripted provider fails on request, in each dialect's shape, and counts what happened."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from bench.provider.guide import SECTIONS, guide, words
from bench.provider.pace import Wheel
from bench.provider.reply import FAKE_KEY, FAKE_PROMPT
from bench.provider.script import Behaviour, answer_text, parse_model
from bench.provider.server import ScriptedProvider
from tests.ai_bridge.scripted import DIALECTS, ask, post, request, text_in
from tests.support.eventually import WAIT_S, eventually

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


# --- refusals ------------------------------------------------------------------------------------

STATUSES = {
    400: ("invalid_request_error", "INVALID_ARGUMENT"),
    401: ("authentication_error", "UNAUTHENTICATED"),
    402: ("billing_error", "FAILED_PRECONDITION"),
    403: ("permission_error", "PERMISSION_DENIED"),
    404: ("not_found_error", "NOT_FOUND"),
    408: ("timeout_error", "DEADLINE_EXCEEDED"),
    413: ("request_too_large", "INVALID_ARGUMENT"),
    429: ("rate_limit_error", "RESOURCE_EXHAUSTED"),
    500: ("api_error", "INTERNAL"),
    502: ("api_error", "INTERNAL"),
    503: ("api_error", "UNAVAILABLE"),
    529: ("overloaded_error", "INTERNAL"),
}


@every_dialect
@pytest.mark.parametrize("status", STATUSES)
async def test_a_refusal_has_its_dialects_shape_and_holds_secrets(
    dialect: str, status: int, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, f"status={status}")
    assert told.status == status
    error = told.json["error"]
    assert FAKE_KEY in error["message"]
    assert FAKE_PROMPT in error["message"]
    anthropic, gemini = STATUSES[status]
    if dialect == "anthropic":
        assert (told.json["type"], error["type"]) == ("error", anthropic)
    elif dialect == "gemini":
        assert (error["code"], error["status"]) == (status, gemini)
    else:
        assert set(error) == {"message", "type", "param", "code"}
    assert (provider.stats.refused, provider.stats.finished) == (1, 0)


async def test_no_credit_is_not_the_same_as_too_fast(provider: ScriptedProvider) -> None:
    openai = [(await ask(provider, "chat", f"status=429{more}")).json["error"]
              for more in ("", ",quota")]  # fmt: skip
    assert [error["code"] for error in openai] == ["rate_limit_exceeded", "insufficient_quota"]
    gemini = [(await ask(provider, "gemini", f"status=429{more}")).raw for more in ("", ",quota")]
    assert b"PerMinute" in gemini[0]
    assert b"PerDay" in gemini[1]
    anthropic = await ask(provider, "anthropic", "status=400,quota")
    assert "credit balance is too low" in anthropic.json["error"]["message"]
    assert (await ask(provider, "chat", "quota")).status == 429


@every_dialect
async def test_a_code_is_told_where_the_dialect_has_one(
    dialect: str, provider: ScriptedProvider
) -> None:
    error = (await ask(provider, dialect, "status=400,code=some_reason")).json["error"]
    if dialect == "anthropic":
        assert error["type"] == "some_reason"
    elif dialect == "gemini":
        assert error["details"][0]["reason"] == "some_reason"
    else:
        assert error["code"] == "some_reason"


@pytest.mark.parametrize(
    ("dialect", "sign"),
    [
        ("chat", "context_length_exceeded"),
        ("responses", "context_length_exceeded"),
        ("anthropic", "prompt is too long"),
        ("gemini", "exceeds the maximum number of tokens"),
    ],
)
async def test_too_long_is_told_as_each_dialect_tells_it(
    dialect: str, sign: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "status=400,code=context_length_exceeded")
    assert sign in told.raw.decode()
    assert "invalid" in told.raw.decode().lower()


async def test_bodies_of_errors_come_in_odd_forms(provider: ScriptedProvider) -> None:
    assert isinstance((await ask(provider, "gemini", "status=400,body=list")).json, list)
    told = await ask(provider, "chat", "status=500,body=text")
    assert isinstance(told.json["error"], str)
    told = await ask(provider, "chat", "status=502,body=html")
    assert told.headers["content-type"] == "text/html"
    assert told.raw.startswith(b"<html>")
    assert (await ask(provider, "chat", "status=503,body=empty")).raw == b""


@every_dialect
async def test_retry_headers_of_every_kind_are_sent(
    dialect: str, provider: ScriptedProvider
) -> None:
    now = time.time()
    told = await ask(provider, dialect, "status=429,retry_after=7,retry_after_ms=250")
    assert (told.headers["retry-after"], told.headers["retry-after-ms"]) == ("7", "250")
    told = await ask(provider, dialect, "status=503,retry_after=date+30")
    due = parsedate_to_datetime(told.headers["retry-after"]).timestamp()
    assert 28 < due - now < 60
    told = await ask(provider, dialect, "status=429,x-ratelimit-reset-tokens=6m0s,x-odd=12ms")
    assert (told.headers["x-ratelimit-reset-tokens"], told.headers["x-odd"]) == ("6m0s", "12ms")
    told = await ask(provider, dialect, "status=429,limits=anthropic")
    reset = told.headers["anthropic-ratelimit-requests-reset"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reset)
    assert datetime.fromisoformat(reset) > datetime.fromtimestamp(now, UTC)
    assert told.headers["anthropic-ratelimit-output-tokens-remaining"] == "0"


async def test_rate_limit_headers_come_with_answers_too(provider: ScriptedProvider) -> None:
    told = await ask(provider, "responses", "tokens=1,limits=azure")
    assert told.status == 200
    assert told.headers["x-ratelimit-remaining-requests"] == "-1"
    assert told.headers["x-ratelimit-reset-tokens"] == "0"
    told = await ask(provider, "chat", "tokens=1,limits=openai", stream=False)
    assert told.headers["x-ratelimit-reset-requests"] == "12ms"
    told = await ask(provider, "gemini", "status=429,retry_delay=34s")
    assert told.json["error"]["details"][-1]["retryDelay"] == "34s"
    told = await ask(provider, "chat", "status=429,limits=openrouter")
    assert int(told.headers["x-ratelimit-reset"]) > time.time() * 1000


@every_dialect
async def test_only_the_first_requests_fail(dialect: str, provider: ScriptedProvider) -> None:
    model = "failures=2,status=500,tokens=1,tool=weather"
    statuses = [(await ask(provider, dialect, model)).status for _ in range(4)]
    assert statuses == [500, 500, 200, 200]
    assert b"weather" in (await ask(provider, dialect, model)).raw


# --- faults of a stream --------------------------------------------------------------------------


@every_dialect
@pytest.mark.parametrize("fault", ["reset", "close"])
@pytest.mark.parametrize("rate", ["", ",rate=2000"])
async def test_a_connection_breaks_before_its_token(
    dialect: str, fault: str, rate: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, f"{fault}=3,tokens=9{rate}")
    assert told.cut
    assert text_in(dialect, told) == "word0 word1 word2 "


@every_dialect
@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_one_body_breaks_in_the_middle(
    dialect: str, fault: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, f"{fault}=3,tokens=9", stream=False)
    assert told.cut
    assert 0 < len(told.raw) < int(told.headers["content-length"])


@every_dialect
@pytest.mark.parametrize("model", ["reset=0", "silent", "stall=0", "stall=2", "head=60"])
async def test_a_client_may_leave_what_never_ends(
    dialect: str, model: str, provider: ScriptedProvider
) -> None:
    path, body = request(dialect, model)
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(read(session, provider.root_url + path, body))
        await provider.arrived.wait()
        if model == "reset=0":
            with pytest.raises(aiohttp.ClientError):
                await asked
        else:
            tokens = 2 if model == "stall=2" else 0
            await eventually(lambda: provider.stats.tokens == tokens)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
    await until(provider, lambda: provider.stats.aborted == 1)
    assert provider.stats.streaming == 0


async def read(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> bytes:
    async with session.post(url, json=body) as response:
        return await response.read()


async def until(provider: ScriptedProvider, reached: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not reached():
            provider.changed.clear()
            await provider.changed.wait()


@every_dialect
@pytest.mark.parametrize("code", ["", "rate_limit_exceeded"])
async def test_an_error_comes_within_the_stream(
    dialect: str, code: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, f"error=2,tokens=9,code={code}" if code else "error=2")
    assert told.status == 200
    assert not told.cut
    assert text_in(dialect, told) == "word0 word1 "
    name, data = told.events[-1]
    assert FAKE_KEY in json.dumps(data)
    if dialect == "responses":
        assert (name, data["type"], data["code"]) == ("error", "error", code or "server_error")
    elif dialect == "anthropic":
        assert (name, data["error"]["type"]) == ("error", code or "overloaded_error")
    elif dialect == "gemini":
        assert data["error"]["code"] == 529
    else:
        assert data["error"]["code"] == (code or None)


async def test_an_error_of_the_chat_dialect_may_name_a_status(provider: ScriptedProvider) -> None:
    told = await ask(provider, "chat", "error=0,code=502")
    assert told.data[-1]["error"]["code"] == 502


@every_dialect
async def test_an_error_may_come_as_a_body_with_200(
    dialect: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "error=0,json")
    assert (told.status, told.headers["content-type"]) == (200, "application/json")
    assert "error" in told.json


@every_dialect
async def test_garbage_comes_and_the_stream_goes_on(
    dialect: str, provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, "garbage=1,tokens=3")
    assert '{"choices": [{"delta":' in [data for _, data in told.events]
    assert text_in(dialect, told) == "word0 word1 word2 "
    body = await ask(provider, dialect, "garbage=0,json")
    with pytest.raises(ValueError):
        _ = body.json


@every_dialect
async def test_nothing_at_all_comes(dialect: str, provider: ScriptedProvider) -> None:
    told = await ask(provider, dialect, "empty")
    assert (told.status, told.raw, told.cut) == (200, b"", False)


@every_dialect
async def test_positions_count_through_arguments(dialect: str, provider: ScriptedProvider) -> None:
    whole = await ask(provider, dialect, "tool=weather,before=2")
    told = await ask(provider, dialect, "tool=weather,before=2,close=3,rate=2000")
    assert told.cut
    assert text_in(dialect, told) == "word0 word1 "
    assert len(told.raw) < len(whole.raw)


@every_dialect
@pytest.mark.parametrize(
    ("finish", "sign"),
    [
        ("length", ("length", "max_output_tokens", "max_tokens", "MAX_TOKENS")),
        ("content_filter", ("content_filter", "content_filter", "refusal", "SAFETY")),
        ("odd_word", ("odd_word", "completed", "odd_word", "odd_word")),
    ],
)
async def test_the_finish_is_told_in_the_dialects_words(
    dialect: str, finish: str, sign: tuple[str, ...], provider: ScriptedProvider
) -> None:
    told = await ask(provider, dialect, f"finish={finish},tokens=1")
    assert f'"{sign[DIALECTS.index(dialect)]}"' in told.raw.decode()


@every_dialect
async def test_the_filter_may_refuse_the_prompt(dialect: str, provider: ScriptedProvider) -> None:
    for stream in (True, False):
        told = await ask(provider, dialect, "blocked", stream=stream)
        sign = {"gemini": "blockReason", "anthropic": "refusal"}.get(dialect, "content_filter")
        assert sign in told.raw.decode()
        assert "word0" not in told.raw.decode()


# --- odd forms -----------------------------------------------------------------------------------


@every_dialect
async def test_the_last_events_may_be_missing(dialect: str, provider: ScriptedProvider) -> None:
    ends = {"chat": "[DONE]", "anthropic": "message_stop"}
    finishes = {
        "chat": '"finish_reason":"stop"',
        "responses": "response.completed",
        "anthropic": "end_turn",
        "gemini": "finishReason",
    }
    usages = {"gemini": "usageMetadata", "chat": '"total_tokens"', "responses": '"total_tokens"'}
    told = await ask(provider, dialect, "tokens=1")
    without = await ask(provider, dialect, "tokens=1,no_done,no_finish,no_usage")
    for sign in (ends.get(dialect), finishes[dialect], usages.get(dialect, "output_tokens")):
        if sign is not None:
            assert sign in told.raw.decode()
            assert sign not in without.raw.decode()
    assert text_in(dialect, without) == "word0 "


@every_dialect
async def test_the_frame_of_events_may_be_odd(dialect: str, provider: ScriptedProvider) -> None:
    crlf = await ask(provider, dialect, "crlf,tokens=2")
    assert crlf.raw.count(b"\n") == crlf.raw.count(b"\r\n")
    tight = await ask(provider, dialect, "no_space,tokens=2")
    assert b"data: " not in tight.raw
    assert text_in(dialect, crlf) == text_in(dialect, tight) == "word0 word1 "


async def test_chunks_without_choices(provider: ScriptedProvider) -> None:
    told = await ask(provider, "chat", "tokens=1,azure,null_choices")
    assert told.data[0]["choices"] == []
    assert "prompt_filter_results" in told.data[0]
    assert told.data[-1]["choices"] is None
    assert told.data[-1]["usage"]["completion_tokens"] == 1


@every_dialect
async def test_characters_are_cut_and_halved_and_lines_are_long(
    dialect: str, provider: ScriptedProvider
) -> None:
    model = "lang=zh,tokens=9,split=1,surrogate"
    told = await ask(provider, dialect, model)
    halves = text_in(dialect, told)
    joined = halves.encode("utf-16", "surrogatepass").decode("utf-16")
    assert joined == answer_text(parse_model(model))
    assert halves != joined
    told = await ask(provider, dialect, "huge=1000000,tokens=1")
    assert len(text_in(dialect, told)) == 1_000_006
    assert max(map(len, told.raw.split(b"\n"))) > 1_000_000


async def test_signs_of_life_come_while_nothing_else_does(provider: ScriptedProvider) -> None:
    told = await ask(provider, "chat", "tokens=1,first=0.06,comments=0.01")
    assert told.raw.startswith(b": keep-alive\n\n")
    assert text_in("chat", told) == "word0 "
    told = await ask(provider, "chat", "tokens=1,first=0.06,comments=0.01", stream=False)
    assert told.raw.startswith(b"\n\n")
    assert told.json["choices"][0]["message"]["content"] == "word0 "
    told = await ask(provider, "anthropic", "tokens=1,first=0.06,pings=0.01")
    assert told.events[0] == ("ping", {"type": "ping"})
    told = await ask(provider, "responses", "tokens=1,first=0.06,pings=0.01")
    assert told.events[0][0] == "keepalive"
    told = await ask(provider, "chat", "split=1,tokens=3,comments=0.001")
    assert text_in("chat", told) == "word0 word1 word2 "


@every_dialect
@pytest.mark.parametrize("stream", [True, False])
async def test_delays_are_kept(dialect: str, stream: bool, provider: ScriptedProvider) -> None:
    began = time.monotonic()
    told = await ask(provider, dialect, "head=0.02,first=0.02,tokens=4,rate=100", stream=stream)
    # Four tokens have three gaps in a stream, and its body waits at least as long.
    assert time.monotonic() - began >= 0.07
    assert told.status == 200


# --- pace ----------------------------------------------------------------------------------------


class Played:
    def __init__(self, wheel: Wheel, gap_s: float, count: int) -> None:
        self.wheel = wheel
        self.gap_s = gap_s
        self.times = [time.monotonic()]
        self.count = count
        self.done = asyncio.Event()
        self.due = self.times[0] + gap_s
        wheel.add(self.due, self)

    def play(self, now: float) -> None:
        assert now >= self.due, "never early"
        self.times.append(now)
        self.due += self.gap_s
        if len(self.times) > self.count:
            self.done.set()
        else:
            self.wheel.add(self.due, self)


async def test_one_wheel_plays_many_rates_none_early() -> None:
    wheel = Wheel()
    played = [Played(wheel, gap_s, 5) for gap_s in (0.0001, 0.001, 0.003, 0.01)]
    async with asyncio.timeout(WAIT_S):
        for one in played:
            await one.done.wait()
    assert all(len(one.times) == 6 for one in played)
    await asyncio.sleep(0.01)
    late = Played(wheel, 0.001, 1)  # it stood still, and starts again
    async with asyncio.timeout(WAIT_S):
        await late.done.wait()
    wheel.stop()


async def test_a_slow_reader_holds_its_stream_and_gets_all_of_it(
    provider: ScriptedProvider,
) -> None:
    path, body = request("chat", "tokens=40000,no_usage")
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port, limit=4096)
    head = f"POST {path} HTTP/1.1\r\ncontent-length: {len(payload)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + payload)
    await provider.arrived.wait()
    before = -1
    while provider.stats.events != before:  # until both buffers are full
        before = provider.stats.events
        await asyncio.sleep(0.05)
    assert 0 < provider.stats.events < 40_000
    got = await reader.read(-1)
    writer.close()
    assert got.count(b'"content":"word') == 40_000
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert provider.stats.finished == 1


# --- figures -------------------------------------------------------------------------------------


async def figures(provider: ScriptedProvider, path: str = "/stats") -> Any:
    async with aiohttp.ClientSession() as session, session.get(provider.root_url + path) as got:
        return await got.json()


async def test_the_figures_say_what_happened(provider: ScriptedProvider) -> None:
    await ask(provider, "chat", "tokens=3")
    await ask(provider, "anthropic", "status=500")
    await ask(provider, "gemini", "tokens=2", stream=False)
    told = await figures(provider)
    assert told["requests"] == 3
    assert (told["finished"], told["refused"], told["aborted"], told["streaming"]) == (2, 1, 0, 0)
    assert told["tokens"] == 3
    assert told["open_connections"] == 1  # the one that asks for them
    assert told["abort_lags_ms"] == []


async def test_streams_that_are_left_are_counted_with_what_came_too_late(
    provider: ScriptedProvider,
) -> None:
    path, body = request("chat", "rate=20,tokens=100000")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(leave_after(session, provider.root_url + path, body, 3))
    await until(provider, lambda: provider.stats.aborted == 20)
    told = await figures(provider)
    assert told["streaming"] == 0
    assert len(told["abort_lags_ms"]) == 20
    assert told["aborted_late_max"] <= 1
    assert told["aborted_late_tokens"] <= 20
    aborts = await figures(provider, "/aborts")
    assert all(one["tokens"] >= 3 for one in aborts)
    assert all(one["at_s"] <= time.monotonic() for one in aborts)


async def leave_after(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], tokens: int
) -> None:
    seen = 0
    async with session.post(url, json=body) as response:
        async for piece in response.content.iter_any():
            seen += piece.count(b'"content":"word')
            if seen >= tokens:
                return


async def test_tokens_that_nobody_took_are_late(provider: ScriptedProvider) -> None:
    """A client that stops reading and closes leaves what the kernel could not hand over."""
    path, body = request("chat", "tokens=100000,no_usage")
    payload = json.dumps(body).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", provider.port, limit=4096)
    writer.write(f"POST {path} HTTP/1.1\r\ncontent-length: {len(payload)}\r\n\r\n".encode())
    writer.write(payload)
    await provider.arrived.wait()
    before = -1
    while provider.stats.events != before:
        before = provider.stats.events
        await asyncio.sleep(0.05)
    writer.transport.abort()
    await until(provider, lambda: provider.stats.aborted == 1)
    assert provider.stats.aborted_late_tokens > 10
    assert provider.aborts[0].late_tokens == provider.stats.aborted_late_max


async def test_the_providers_own_faults_are_not_late(provider: ScriptedProvider) -> None:
    await ask(provider, "chat", "reset=3,rate=1000")
    await until(provider, lambda: provider.stats.aborted == 1)
    assert provider.stats.aborted_late_tokens == 0
    assert not provider.aborts


async def test_what_is_no_http_is_refused_and_closed(provider: ScriptedProvider) -> None:
    for nonsense in (b"hello\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(nonsense)
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 400")
        writer.close()
    told = await ask(provider, "chat", "tokens=1")
    assert told.status == 200


async def test_pipelined_requests_are_answered_in_order(provider: ScriptedProvider) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    for number in range(3):
        body = json.dumps({"model": f"tokens={number + 1},no_usage", "stream": True})
        close = "connection: close\r\n" if number == 2 else ""
        head = f"POST /v1/chat/completions HTTP/1.1\r\n{close}content-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
    answer = (await reader.read(-1)).decode()
    writer.close()
    assert re.findall(r'"content":"word(\d) ', answer) == ["0", "0", "1", "0", "1", "2"]
    assert answer.count("HTTP/1.1 200") == answer.count("[DONE]") == 3


# --- the language --------------------------------------------------------------------------------


def test_every_word_is_taught() -> None:
    taught = [name for section in SECTIONS for name in words(section)]
    assert sorted(taught) == sorted(Behaviour.__struct_fields__)
    text = guide()
    assert all(f"  {name}" in text for name in taught)


@pytest.mark.parametrize("model", ["tokens=many", "unknown", "gpt-4o", "rate=1,what=2"])
def test_a_word_that_nobody_knows_is_an_error(model: str) -> None:
    with pytest.raises(ValueError):
        parse_model(model)


def test_arguments_may_hold_commas() -> None:
    behaviour = parse_model('tool=a,args={"x":[1,2],"y":"z"},tokens=3')
    assert (behaviour.args, behaviour.tokens) == ('{"x":[1,2],"y":"z"}', 3)


async def test_the_models_of_a_path_are_unquoted(provider: ScriptedProvider) -> None:
    model = "tool=a,args=%7B%22x%22:1%7D"
    told = await post(provider, f"/v1beta/models/{model}:generateContent", json={"contents": []})
    assert told.json["candidates"][0]["content"]["parts"][0]["functionCall"]["args"] == {"x": 1}
