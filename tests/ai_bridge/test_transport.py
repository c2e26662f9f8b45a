"""What every transport must do, with well-meaning services and with hostile ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from ai_bridge.config import ProviderConfig, Quirks
from ai_bridge.errors import AnswerFull, ProviderFailure
from ai_bridge.providers.base import CallEnd, HttpRequest, Transport
from ai_bridge.providers.openai_chat import OpenAIChat
from ai_bridge.transport.aio import AioTransport
from ai_bridge.transport.raw_h1 import RawTransport
from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from tests.ai_bridge.conftest import closed
from tests.ai_bridge.fakes import Sink
from tests.ai_bridge.raw_server import CHUNKED, END, HEAD, SAID, TEXT, answering, chunk, sized
from tests.support.eventually import WAIT_S

DIALECT = OpenAIChat(ProviderConfig(name="x", base_url="http://x", quirks=Quirks(think_tags=False)))
ANSWER = CHUNKED + chunk(TEXT) + chunk(END) + b"0\r\n\r\n"


class Eager(Sink):
    """A sink that tells when text has come."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def flush(self) -> None:
        super().flush()
        if self.answer:
            self.news.set()


class Full(Sink):
    def text(self, piece: str) -> None:
        raise AnswerFull


@pytest.fixture(params=["aio", "raw"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    """The transports; at the end they leave no task behind."""
    before = asyncio.all_tasks()
    made: Transport = AioTransport() if request.param == "aio" else RawTransport()
    yield made
    await made.aclose()
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def call(
    transport: Transport,
    url: str,
    sink: Sink | None = None,
    body: bytes = b"{}",
    heads: list[Mapping[str, str]] | None = None,
    **headers: str,
) -> CallEnd:
    """Make one call of the OpenAI dialect."""
    request = HttpRequest(url, {"content-type": "application/json", **headers}, body)
    decoder = DIALECT.decoder(sink or Sink())
    on_head = None if heads is None else heads.append
    async with asyncio.timeout(WAIT_S):
        return await transport.stream(request, decoder, DIALECT.classify, on_head)


def asking(provider: ScriptedProvider) -> str:
    return provider.base_url + "/chat/completions"


def for_model(model: str) -> bytes:
    return b'{"model": "%b", "stream": true}' % model.encode()


# --- services as they are ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        "fake",
        "tokens=500",
        "no_done",
        "no_usage",
        "json",
        "lang=zh,tokens=30,split=1",
        "lang=zh,tokens=30,split=7",
        "surrogate",
        "huge=1000000",
        "comments=0.001,first=0.01,tokens=2",
        "tokens=3,rate=1000",
    ],
)
async def test_answers_are_read_whole(
    transport: Transport, provider: ScriptedProvider, model: str
) -> None:
    sink = Sink()
    end = await call(transport, asking(provider), sink, for_model(model))
    assert end.finish is EndReason.STOP
    assert sink.answer == answer_text(parse_model(model))


@pytest.mark.parametrize("model", ["reset=0", "reset=2", "close=0", "close=2", "garbage=1"])
async def test_an_answer_that_breaks_off_is_a_failure(
    transport: Transport, provider: ScriptedProvider, model: str
) -> None:
    sink = Sink()
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, asking(provider), sink, for_model(model + ",tokens=9,rate=500"))
    assert caught.value.kind in ("disconnected", "malformed")
    assert answer_text(parse_model("tokens=9")).startswith(sink.answer)
    await closed(provider)


async def test_a_connection_serves_call_after_call(
    transport: Transport, provider: ScriptedProvider
) -> None:
    for model in ("tokens=3", "json", "tokens=40,split=9", "fake"):
        await call(transport, asking(provider), body=for_model(model))
    assert provider.stats.connections == 1


async def test_calls_at_the_same_time_have_connections_of_their_own(
    transport: Transport, provider: ScriptedProvider
) -> None:
    sinks = [Sink() for _ in range(150)]
    body = for_model("tokens=4,rate=100")
    await asyncio.gather(*(call(transport, asking(provider), sink, body) for sink in sinks))
    assert {sink.answer for sink in sinks} == {answer_text(parse_model("tokens=4"))}
    assert provider.stats.connections == 150
    await asyncio.gather(*(call(transport, asking(provider), body=body) for _ in range(150)))
    assert provider.stats.connections == 150


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_an_error_status_is_explained_by_its_body_and_headers(
    transport: Transport, provider: ScriptedProvider, status: int
) -> None:
    heads: list[Mapping[str, str]] = []
    body = for_model(f"status={status},retry_after=7")
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, asking(provider), body=body, heads=heads)
    assert caught.value.status == status
    assert (caught.value.kind == "rate_limited") == (status == 429)
    assert heads[0]["retry-after"] == "7"


async def test_an_error_body_without_end_is_cut_and_its_status_told(transport: Transport) -> None:
    head = b"HTTP/1.1 503 Busy\r\ncontent-length: 10000000\r\n\r\n"
    async with answering(head + b"x" * 200_000) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, server.url)
        assert caught.value.status == 503
        await server.closed.wait()


async def test_the_head_of_every_answer_is_told_before_its_text(transport: Transport) -> None:
    sink = Sink()
    seen: list[tuple[Mapping[str, str], str]] = []
    head = HEAD + b"X-RateLimit-Remaining: 12\r\n"
    async with answering(sized(TEXT + END, head)) as server:
        request = HttpRequest(server.url, {}, b"{}")
        await transport.stream(
            request,
            DIALECT.decoder(sink),
            DIALECT.classify,
            lambda headers: seen.append((dict(headers), sink.answer)),
        )
    ((headers, answer),) = seen
    assert headers["x-ratelimit-remaining"] == "12"
    assert answer == ""
    assert sink.answer == SAID


async def test_the_request_is_written_as_asked(transport: Transport) -> None:
    async with answering(ANSWER) as server:
        await call(transport, server.url + "?a=1&b=%20", body="{'你'}".encode(), authorization="k")
    lines = server.requests[0].decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions?a=1&b=%20 HTTP/1.1"
    fields = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in lines[1:]}
    assert fields["host"] == f"127.0.0.1:{server.port}"
    assert fields["accept-encoding"] == "identity"
    assert fields["authorization"] == "k"
    assert lines[-1] == "{'你'}"


async def test_a_redirect_is_not_followed(transport: Transport) -> None:
    head = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with answering(head) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, server.url)
        assert caught.value.kind == "redirected"
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"connection: close\r\n\r\n" + TEXT + END + b"<hang up>", id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + TEXT + END + b"<hang up>", id="1.0"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER, id="100"),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ANSWER,
            id="103",
        ),
        pytest.param(sized(TEXT + END), id="sized"),
        pytest.param(CHUNKED + chunk(TEXT + END) + b"0\r\nx-sum: 1\r\n\r\n", id="trailer"),
        pytest.param(CHUNKED + b"".join(chunk(TEXT[i : i + 1]) for i in range(len(TEXT)))
                     + chunk(END) + b"0\r\n\r\n", id="tiny chunks"),
    ],
)  # fmt: skip
async def test_every_way_to_frame_an_answer_is_read(transport: Transport, answer: bytes) -> None:
    async with answering(answer) as server:
        for _ in range(2):
            sink = Sink()
            end = await call(transport, server.url, sink)
            assert (end.finish, sink.answer) == (EndReason.STOP, SAID)


# --- connections that were kept ------------------------------------------------------------------


async def test_a_kept_connection_that_died_is_replaced_without_a_word(
    transport: Transport,
) -> None:
    async with answering(ANSWER, None, ANSWER) as server:
        await call(transport, server.url)
        sink = Sink()
        await call(transport, server.url, sink)
        assert sink.answer == SAID
        assert (len(server.requests), server.accepted) == (3, 2)


async def test_a_new_connection_that_says_nothing_is_not_tried_again(transport: Transport) -> None:
    async with answering(None) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, server.url)
        assert caught.value.kind == "disconnected"
        assert len(server.requests) == 1


async def test_an_idle_connection_that_the_service_closes_is_not_used(
    transport: Transport,
) -> None:
    async with answering(ANSWER) as server:
        await call(transport, server.url)
        server.hang_up()
        await server.closed.wait()
        await call(transport, server.url)
        assert (len(server.requests), server.accepted) == (2, 2)


async def test_a_service_that_does_not_end_its_answer_costs_only_the_connection(
    transport: Transport,
) -> None:
    async with answering(CHUNKED + chunk(TEXT) + chunk(END)) as server:
        sink = Sink()
        await call(transport, server.url, sink)
        assert sink.answer == SAID
        async with asyncio.timeout(WAIT_S):
            await server.closed.wait()


# --- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["silent", "stall=0", "rate=100,tokens=10000"])
async def test_cancelling_closes_the_socket(
    transport: Transport, provider: ScriptedProvider, model: str
) -> None:
    sink = Eager()
    task = asyncio.create_task(call(transport, asking(provider), sink, for_model(model)))
    await provider.arrived.wait()
    if "rate" in model:
        await asyncio.wait_for(sink.news.wait(), WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await closed(provider)
    assert provider.stats.aborted == 1


async def test_a_full_answer_closes_the_socket(
    transport: Transport, provider: ScriptedProvider
) -> None:
    with pytest.raises(AnswerFull):
        await call(transport, asking(provider), Full(), for_model("rate=100,tokens=10000"))
    await closed(provider)
    assert provider.stats.aborted == 1


async def test_what_is_too_large_is_refused_and_the_socket_closed(
    transport: Transport, provider: ScriptedProvider
) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, asking(provider), body=for_model("huge=9000000,tokens=0"))
    assert caught.value.kind == "event_too_large"
    await closed(provider)


async def test_nobody_listening_is_told_as_unreachable(
    transport: Transport, provider: ScriptedProvider
) -> None:
    url = asking(provider)
    await provider.aclose()
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, url)
    assert caught.value.kind == "connect"
    assert "base_url" in caught.value.text


# --- hostile services ----------------------------------------------------------------------------

HOSTILE = {
    "no http": b"220 mail.example.org ESMTP\r\n",
    "garbage": bytes(range(256)) * 8,
    "status line without number": b"HTTP/1.1 OK\r\n\r\n",
    "head without end": HEAD + b"x-filler: " + b"y" * 300_000,
    "many headers": HEAD + b"x: y\r\n" * 60_000 + b"content-length: 0\r\n\r\n",
    "endless status line": b"HTTP/1.1 200 " + b"O" * 300_000,
    "header without colon": HEAD + b"novalue\r\n\r\n",
    "negative length": HEAD + b"content-length: -5\r\n\r\nxxxxx",
    "two lengths": HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nxxxxxx<hang up>",
    "bad chunk size": CHUNKED + b"zz\r\nxx\r\n",
    "chunk without end": CHUNKED + b"5\r\nabcdefgh\r\n",
    "endless chunk size": CHUNKED + b"0" * 300_000,
    "endless chunk extension": CHUNKED + b"5;" + b"a" * 300_000,
    "ends within a chunk": CHUNKED + b"ffff\r\n" + TEXT + b"<hang up>",
    "ends before its length": HEAD + b"content-length: 9999\r\n\r\n" + TEXT + b"<hang up>",
    "switches protocols": b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nxxx",
    "compressed all the same": HEAD + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    "ends in the head": HEAD + b"<hang up>",
    "is silent": b"<hang up>",
    "too many hints": b"HTTP/1.1 103 Hint\r\nx: " + b"y" * 90 + b"\r\n\r\n",
}
HOSTILE["too many hints"] *= 5_000
BOUNDED_BY_RAW = {
    "head without end",
    "endless chunk extension",
    "endless chunk size",
    "endless status line",
    "many headers",
    "switches protocols",
    "too many hints",
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_answer_is_one_failure_and_a_closed_socket(
    transport: Transport, case: str
) -> None:
    if isinstance(transport, AioTransport) and case in BOUNDED_BY_RAW:
        pytest.skip("aiohttp has bounds of its own, and others")
    async with answering(HOSTILE[case]) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, server.url)
        assert caught.value.kind in ("disconnected", "malformed", "truncated")
        async with asyncio.timeout(WAIT_S):
            await server.closed.wait()


async def test_a_second_answer_to_one_request_is_never_taken_for_the_next_ones(
    transport: Transport,
) -> None:
    planted = sized(TEXT.replace(b"\xe4\xbd\xa0", b"\xe4\xbb\x96") + END)
    async with answering(sized(TEXT + END) + planted, sized(TEXT + END)) as server:
        for _ in range(3):
            sink = Sink()
            await call(transport, server.url, sink)
            assert sink.answer == SAID
