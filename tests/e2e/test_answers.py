"""Answers of an OpenAI-compatible service, from the question to the stored row."""

import asyncio
import contextlib
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.provider.server import ScriptedProvider
from clients.client import Client
from clients.events import StreamEnded, StreamText
from protocol.codes import Code, ConvKind, EndReason, Scope
from protocol.envelopes import StreamEnd
from tests.e2e.harness import (
    DOORS,
    Process,
    answers,
    ask,
    ended,
    expected,
    first,
    free_port,
    talk,
)
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy


@pytest.mark.parametrize("door", DOORS)
async def test_a_question_is_acknowledged_long_before_the_first_word(
    server: Process, provider: ScriptedProvider, door: str
) -> None:
    script = "tokens=30,rate=200,first=2"
    async with server.online(door=door) as client:
        conv = await talk(client)
        loop = asyncio.get_running_loop()
        with client.events() as events:
            asked_s = loop.time()
            sent = await ask(client, conv, script)
            assert provider.stats.tokens == 0, "nothing was said yet"
            assert sent.seq
            assert sent.sid
            began = await first(events, StreamText, sid=sent.sid)
            assert loop.time() - asked_s >= 2
            assert began.off == 0
            end = await ended(events, sent.sid)
        assert end.reason is EndReason.STOP
        assert end.text == expected(script)
        await eventually(lambda: answers(client, conv))
        (row,) = answers(client, conv)
        assert row.text == expected(script)
        assert row.x is not None
        assert row.x.usage == [7, 30]
    (request,) = provider.requests
    assert request.headers["authorization"] == "Bearer sk-secret-of-the-test"
    assert request.body["messages"][-1]["content"] == "tell me"


def watch_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[StreamEnd]:
    """Return a list that takes every end of a stream as it came over the wire."""
    found: list[StreamEnd] = []
    take = client.streams.end

    def spy(frame: StreamEnd) -> Any:
        found.append(frame)
        return take(frame)

    monkeypatch.setattr(client.streams, "end", spy)
    return found


@pytest.mark.parametrize("door", DOORS)
async def test_an_answer_goes_on_after_a_cut_and_on_a_second_device(
    server: Process, provider: ScriptedProvider, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "tokens=160,rate=40,lang=zh"
    account = await server.newcomer()
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(FaultProxy("127.0.0.1", server.port))
        here = await stack.enter_async_context(server.online(account, door, port=relay.port))
        ends = watch_ends(here, monkeypatch)
        conv = await talk(here)
        sent = await ask(here, conv, script)
        sid = sent.sid or 0
        await eventually(lambda: sid in here.streams.running and here.streams.running[sid].size())
        for _ in range(2):
            grown = here.streams.running[sid].size()
            relay.cut_all()
            await eventually(lambda g=grown: here.streams.running[sid].size() > g)  # type: ignore[misc]
        there = await stack.enter_async_context(server.online(account, "ws"))
        other_ends = watch_ends(there, monkeypatch)
        await there.watch([conv])
        for client in (here, there):
            await eventually(lambda c=client: answers(c, conv))  # type: ignore[misc]
        assert here.connects == 3
        page = await there.history(conv)
        stored = next(row for row in page.msgs if row.x is not None and row.x.sid == sid)
        assert stored.text == expected(script)
        for client, seen in ((here, ends), (there, other_ends)):
            (row,) = answers(client, conv)
            assert row.text == stored.text
            assert row.seq == stored.seq
            (end,) = seen
            assert end.crc == zlib.crc32(stored.text.encode())
            assert end.total == len(stored.text.encode())
    assert provider.stats.requests == 1


class Chat(NamedTuple):
    client: Client
    conv: int
    script: str
    text: str


async def chats(stack: AsyncExitStack, server: Process, people: int, each: int) -> list[Chat]:
    """Open conversations, each with an answer of its own length."""
    clients = await asyncio.gather(
        *(stack.enter_async_context(server.online(door=DOORS[n % 3])) for n in range(people))
    )
    page = await clients[0].persona_page(Scope.PUBLIC)
    opened: list[Chat] = []
    for number in range(people * each):
        client = clients[number % people]
        info = await client.create_conversation(ConvKind.AI, persona=page.items[0].id)
        conv = info.row.id or 0
        opened.append(Chat(client, conv, f"tokens={10 + number},rate=400", f"question {number}"))
    return opened


async def test_two_hundred_answers_at_once_never_mix(
    server: Process, provider: ScriptedProvider
) -> None:
    provider.requests = deque(maxlen=300)
    async with AsyncExitStack() as stack:
        opened = await chats(stack, server, people=20, each=10)
        for client in {id(chat.client): chat.client for chat in opened}.values():
            await client.watch([chat.conv for chat in opened if chat.client is client])
        await asyncio.gather(*(ask(c.client, c.conv, c.script, c.text) for c in opened))
        await eventually(lambda: all(answers(c.client, c.conv) for c in opened))
        for chat in opened:
            (row,) = answers(chat.client, chat.conv)
            assert row.text == expected(chat.script)
    assert provider.stats.requests == len(opened)
    by_text = {chat.text: chat.script for chat in opened}
    for request in provider.requests:
        spoken = [m["content"] for m in request.body["messages"] if m["role"] == "user"]
        assert len(spoken) == 1, "nobody else's question"
        assert request.body["model"] == by_text.pop(spoken[0])
    assert not by_text


FAILURES = {
    "status=401": (Code.MODEL_UNAVAILABLE, "check the provider's api_key"),
    "status=402": (Code.MODEL_UNAVAILABLE, "no credit"),
    "status=404": (Code.MODEL_UNAVAILABLE, "does not know this model"),
    "status=429,retry_after=30": (Code.BUSY, "Ask again in 30 seconds"),
    "status=500": (Code.MODEL_UNAVAILABLE, "has a problem (status 500)"),
    "status=400,code=context_length_exceeded": (Code.CONTEXT_TOO_LONG, "new conversation"),
    "status=400,code=content_filter": (Code.REFUSED, "other words"),
    "reset=0": (Code.MODEL_UNAVAILABLE, "AI service"),
    "reset=5,rate=100": (Code.MODEL_UNAVAILABLE, "AI service"),
    "garbage=5,rate=100": (Code.MODEL_UNAVAILABLE, "cannot be read"),
}
SILENCES = {
    "silent": (Code.TIMEOUT, "did not begin to answer within 3 seconds"),
    "stall=5,rate=100": (Code.TIMEOUT, "sent nothing more for 3 seconds"),
}


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Process]:
    """A server that does not wait long for its AI service."""
    process = Process(tmp_path, provider_port=free_port())
    process.patience_s = 3
    process.start()
    yield process
    assert process.stop() == 0


async def test_whatever_is_wrong_with_the_service_the_person_is_told_what_to_do(
    server: Process, provider: ScriptedProvider
) -> None:
    await each_is_told(server, FAILURES)


async def test_a_service_that_falls_silent_is_given_up_and_the_person_is_told(
    hasty: Process,
) -> None:
    provider = ScriptedProvider()
    await provider.start(hasty.provider_port)
    try:
        await each_is_told(hasty, SILENCES)
    finally:
        await provider.aclose()


async def each_is_told(server: Process, failures: Mapping[str, tuple[Code, str]]) -> None:
    """Ask for each failure at once, and compare what the person hears with what is expected."""
    async with server.online() as client:
        convs = [await talk(client) for _ in failures]
        await client.watch(convs)

        async def fail(script: str, conv: int) -> StreamEnded:
            with client.events() as events:
                sent = await ask(client, conv, script)
                end = await ended(events, sent.sid)
            if end.seq:
                await eventually(lambda: answers(client, conv))
                assert answers(client, conv)[0].text == "word0 word1 word2 word3 word4 "
            else:
                assert not answers(client, conv)
            return end

        found = await asyncio.gather(*map(fail, failures, convs))
    for script, end in zip(failures, found, strict=True):
        code, advice = failures[script]
        assert (end.reason in (EndReason.ERROR, EndReason.FILTERED), end.code) == (True, code), (
            script,
            end,
        )
        assert advice in end.detail, (script, end)
        assert "secret" not in end.detail, "texts of services are not passed on"
        partial = script.endswith("rate=100")
        assert bool(end.seq) is partial, (script, end)


async def test_a_service_that_is_not_there_is_told_and_comes_back_by_itself(
    server: Process, provider: ScriptedProvider
) -> None:
    async with server.online() as client:
        conv = await talk(client)
        await provider.aclose()
        with client.events() as events:
            sent = await ask(client, conv, "tokens=3")
            end = await ended(events, sent.sid)
            assert end.code == Code.MODEL_UNAVAILABLE
            assert end.detail
            await provider.start(server.provider_port)
            sent = await ask(client, conv, "tokens=3", "and now?")
            end = await ended(events, sent.sid)
            assert end.reason is EndReason.STOP
    assert [m["content"] for m in provider.requests[-1].body["messages"] if m["role"] == "user"][
        -1
    ] == "and now?"


@contextlib.asynccontextmanager
async def answering(server: Process, script: str) -> AsyncIterator[tuple[Client, int, int]]:
    """A client with an answer on its way: client, conversation, sid."""
    async with server.online() as client:
        conv = await talk(client)
        sent = await ask(client, conv, script)
        sid = sent.sid or 0
        await eventually(
            lambda: sid in client.streams.running and client.streams.running[sid].size()
        )
        yield client, conv, sid


async def test_cancelling_closes_the_connection_to_the_service_at_once(
    server: Process, provider: ScriptedProvider
) -> None:
    async with answering(server, "tokens=10000,rate=50") as (client, conv, sid):
        assert provider.stats.streaming == 1
        with client.events() as events:
            await client.cancel(sid)
            end = await ended(events, sid)
        assert end.reason is EndReason.CANCELLED
        await eventually(lambda: provider.stats.streaming == 0)
        assert provider.stats.aborted == 1
        await eventually(lambda: answers(client, conv))
        (row,) = answers(client, conv)
        assert expected("tokens=10000").startswith(row.text)
        assert row.x is not None
        assert row.x.finish == EndReason.CANCELLED
        await client.cancel(sid)


async def test_a_lost_person_cancels_nothing(server: Process, provider: ScriptedProvider) -> None:
    script = "tokens=60,rate=100"
    account = await server.newcomer()
    async with server.online(account) as client:
        conv = await talk(client)
        await ask(client, conv, script)
        await eventually(lambda: provider.stats.streaming)
    await eventually(lambda: provider.stats.finished)
    assert provider.stats.aborted == 0
    async with server.online(account) as client:
        await client.history(conv)
        # The service has finished before the answer is stored.
        await eventually(lambda: answers(client, conv))
        (row,) = answers(client, conv)
        assert row.text == expected(script)
