"""The bridge's own server against callers that are slow, silent, too many or no callers at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from aiohttp import web

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig
from ai_bridge.http import bodies
from ai_bridge.http.guard import MAX_HEAD_BYTES, Connections
from ai_bridge.http.settings import Keys
from ai_bridge.http.standalone import Standalone
from tests.support.eventually import eventually

WAIT_S = 5.0
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
QUESTION = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]}).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


class Gate(NamedTuple):
    """A running server and what it knows of its connections."""

    port: int
    connections: Connections


@asynccontextmanager
async def gate(connections: Connections) -> AsyncIterator[Gate]:
    bridge = Bridge(BridgeConfig(demo_words_per_s=0))
    await bridge.start()
    standalone = Standalone(bridge, {}, Keys(""), connections)
    runner = web.AppRunner(standalone.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    server = await asyncio.get_running_loop().create_server(
        connections.factory(runner.server), "127.0.0.1", 0
    )
    try:
        yield Gate(server.sockets[0].getsockname()[1], connections)
    finally:
        server.close()
        await bridge.aclose()
        await runner.cleanup()


async def knock(port: int, *pieces: bytes) -> tuple[bytes, asyncio.StreamWriter]:
    """Send pieces, each in a segment of its own; return the first line that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        if writer.is_closing():
            break
        writer.write(piece)
        await asyncio.sleep(0.01)
    try:
        line = await asyncio.wait_for(reader.readline(), WAIT_S)
    except OSError:  # reset, or the pipe is broken
        line = b""
    return line, writer


def drip(head: bytes) -> list[bytes]:
    return [head[at : at + 1] for at in range(20)]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([], id="silence"),
        pytest.param([HEALTH[:-2]], id="unfinished"),
        pytest.param(drip(HEALTH), id="drips"),
    ],
)
async def test_a_head_that_does_not_come_ends_the_connection(pieces: list[bytes]) -> None:
    async with gate(Connections(header_s=0.1)) as here:
        line, writer = await knock(here.port, *pieces)
        assert line == b""
        await eventually(lambda: here.connections.open == 0)
        writer.close()
        line, writer = await knock(here.port, HEALTH)
        assert b" 200 " in line
        writer.close()


async def test_a_head_without_end_ends_the_connection() -> None:
    async with gate(Connections()) as here:
        head = HEALTH[:-2] + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 4_000) for n in range(5))
        assert len(head) > MAX_HEAD_BYTES
        line, writer = await knock(here.port, head)
        assert line == b""
        writer.close()


async def test_a_second_request_has_its_own_deadline() -> None:
    async with gate(Connections(header_s=0.2)) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        for _ in range(2):
            writer.write(HEALTH)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
            assert b" 200 " in head
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
        writer.write(HEALTH[:10])
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        writer.close()


async def test_what_is_no_http_is_answered_in_the_vendors_shape() -> None:
    async with gate(Connections()) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(b"NONSENSE\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), WAIT_S)
        writer.close()
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == "malformed_request"


async def test_a_body_that_trickles_is_refused_and_one_in_two_pieces_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.2)
    async with gate(Connections()) as here:
        head = POST % len(QUESTION)
        line, writer = await knock(here.port, head + QUESTION[:9])
        assert b" 408 " in line
        writer.close()
        line, writer = await knock(here.port, head + QUESTION[:9], QUESTION[9:])
        assert b" 200 " in line
        writer.close()


async def test_connections_beyond_the_bound_are_told_so_and_those_within_go_on() -> None:
    async with gate(Connections(2)) as here:
        writers = []
        for expected in (b" 200 ", b" 200 ", b" 503 "):
            line, writer = await knock(here.port, HEALTH)
            assert expected in line
            writers.append(writer)
        assert (here.connections.open, here.connections.refused) == (2, 1)
        for writer in writers:
            writer.close()
        await eventually(lambda: here.connections.open == 0)
        line, writer = await knock(here.port, HEALTH)
        assert b" 200 " in line
        writer.close()
