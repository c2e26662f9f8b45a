"""Two hundred answers that the server's death cut off: all of them end, and everybody sees it."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
import uvloop

from bench.fixture import Place, ServerUnderTest, Setup, place, serving
from bench.seed import Group, Seeded, seed
from bench.smoke_check import read_store
from bench.streams import provider_running
from clients.client import Client
from clients.events import Link
from protocol.codes import ConvKind, EndReason, MsgKind
from protocol.rows import Msg
from tests.faults.test_interrupted import rows, signed_in
from tests.faults.test_kill import Store, needs
from tests.support.eventually import WAIT_S, eventually
from tests.support.servers import ServerUnavailable
from tests.support.turns import until_kept

TURNS = 200
WITHIN_S = 30
MODEL = "tokens=100000,rate=5"
AT_ONCE = 20
"""Questions at a time. A server whose event loop is late lets fewer answers run (`Admission`), and
as none of these ever ends, those who wait would wait for as long as the machine is busy."""
BEGUN_S = 120.0
"""For that many answers to begin on a busy machine."""

Talk = tuple[Client, int]


@contextmanager
def scripted(store: Store) -> Iterator[tuple[ServerUnderTest, Seeded, Place, int]]:
    """A server of its own process whose personas answer without end; yields also the provider."""
    with provider_running() as (_, port):
        provider = {
            "name": "scripted",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "models": [MODEL],
            "max_streams": TURNS * 2,
            "limit": "fixed",
        }
        ai = {"providers": [provider], "default_model": MODEL, "ttft_s": BEGUN_S, "gap_s": BEGUN_S}
        settings = {"ai": ai}
        groups = [Group((user,), ConvKind.AI) for user in range(TURNS)]
        try:
            with place(Setup(store, settings)) as where:
                seeded = seed(where.url, TURNS + 1, groups)
                with serving(where, seeded.users[-1]) as server:
                    yield server, seeded, where, port
        except ServerUnavailable as missing:
            pytest.skip(str(missing))


def streams_of(port: int, kind: str) -> int:
    """Ask the provider how many of its streams are `streaming` now or were `aborted`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", "/stats")
        return int(json.loads(connection.getresponse().read())[kind])
    finally:
        connection.close()


def has_text(client: Client) -> bool:
    return any(stream.size() for stream in client.streams.running.values())


def answers(talk: Talk) -> list[Msg]:
    return [row for row in rows(*talk) if row.kind == MsgKind.AI_REPLY]


async def begin(client: Client, conv: int) -> None:
    """Ask what is answered without end."""
    await client.watch([conv])
    await client.send(conv, "Tell me a long story.")


async def all_begin(talks: list[Talk]) -> None:
    """Ask, and return when all of these answers show text."""
    await asyncio.gather(*(begin(*talk) for talk in talks))
    await eventually(lambda: all(has_text(client) for client, _ in talks), BEGUN_S)


def check(talk: Talk) -> None:
    """The answer is there once, with the text so far, marked; nobody asked for it."""
    client = talk[0]
    (answer,) = answers(talk)
    assert answer.x is not None
    assert answer.x.finish == EndReason.INTERRUPTED
    assert answer.text.startswith("word0 word1 ")
    assert client.link is Link.ONLINE
    assert not client.streams.running


@pytest.mark.timeout(360)
@pytest.mark.parametrize(
    "store",
    [pytest.param("sqlite", marks=needs("sqlite")), pytest.param("mysql", marks=needs("mysql"))],
)
def test_two_hundred_killed_answers_are_final_and_shown_within_half_a_minute(store: Store) -> None:
    async def scene(
        server: ServerUnderTest, seeded: Seeded, where: Place, provider_port: int
    ) -> None:
        async with AsyncExitStack() as stack:
            talks: list[Talk] = []
            for user, conv in zip(seeded.users, seeded.convs, strict=False):
                talks.append(
                    (await stack.enter_async_context(signed_in(server, where, user)), conv)
                )
            for begun in range(0, TURNS, AT_ONCE):
                await all_begin(talks[begun : begun + AT_ONCE])
            assert await asyncio.to_thread(streams_of, provider_port, "streaming") == TURNS
            await until_kept(where.url, TURNS)
            await asyncio.to_thread(server.kill)
            server.start_again()
            await eventually(lambda: all(map(answers, talks)), WITHIN_S)
            for talk in talks:
                check(talk)
            # Nothing is asked a second time: the provider has no streams but those cut off.
            assert await asyncio.to_thread(streams_of, provider_port, "aborted") == TURNS
            assert await asyncio.to_thread(streams_of, provider_port, "streaming") == 0
            _, unfinished = await read_store(where.url, [])
            assert unfinished == 0

    with scripted(store) as (server, seeded, where, provider_port):
        uvloop.run(scene(server, seeded, where, provider_port))
