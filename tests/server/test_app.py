"""The whole process: one port for everything, and an orderly end."""

import asyncio
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from ai_bridge.secrets import Secret
from protocol.codes import Code, ConvKind, EndReason, Scope
from protocol.envelopes import (
    Bye,
    GoAway,
    History,
    MsgPush,
    PersonaList,
    Send,
    Sent,
    StreamDelta,
    WatchRequest,
    Welcome,
)
from protocol.frames import PREFACE
from server.app import App
from server.config_sections import (
    AiConfig,
    Config,
    LimitsConfig,
    ServerConfig,
    StorageConfig,
    WebSocketConfig,
)
from storage.errors import OpenFailed
from tests.server.harness import Server, cid, codes_of, serving, watching
from tests.server.model import Model
from tests.support.eventually import WAIT_S, eventually


def config_of(folder: Path, **sections: Any) -> Config:
    """Return the settings of a whole server on a port of its own."""
    server = ServerConfig(port=0, data_dir=str(folder), gc_freeze=False, drain_s=0.5)
    quiet = AiConfig(detect=False, demo_words_per_s=0)
    return Config(**({"server": server, "ai": quiet} | sections))


class Running(Server):
    """An application that has started; stopped at the end unless the test has done so."""

    def __init__(self, app: App) -> None:
        assert app.core is not None
        assert app._listener is not None
        super().__init__(app.core, app._listener, app.port)
        self.app = app
        self.stopped = False

    async def stop(self) -> None:
        """Stop it as SIGTERM does."""
        self.stopped = True
        await self.app.stop()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for peer in self._peers:
            await peer.close()
        if not self.stopped:
            await self.stop()


async def run(folder: Path, **sections: Any) -> Running:
    """Start an application."""
    app = App(config_of(folder, **sections))
    await app.start()
    return Running(app)


async def exchange(server: Server, data: bytes) -> bytes:
    """Send bytes on a fresh connection; return everything up to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), WAIT_S)
    finally:
        writer.close()


def get(path: str, *fields: str, close: bool = True) -> bytes:
    """Return a GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *fields]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all responses in a stream."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


# one port


async def test_every_door_is_on_the_one_port(tmp_path: Path) -> None:
    async with await run(tmp_path) as server:
        ann = await server.person("ann")
        for transport in ("tcp", "ws"):
            peer = await server.connect(ann, transport)
            page = await peer.ask(PersonaList, int(Scope.PUBLIC), "", 100)
            assert page.items
        assert (await exchange(server, get("/health/live"))).startswith(b"HTTP/1.1 200 ")


async def test_requests_in_one_write_are_answered_in_order(tmp_path: Path) -> None:
    async with await run(tmp_path) as server:
        both = await exchange(server, get("/health/live", close=False) + get("/nowhere"))
        assert statuses(both) == [200, 404]


async def test_the_first_bytes_may_come_one_by_one(tmp_path: Path) -> None:
    async with await run(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = get("/health/live")
        for at in range(12):
            writer.write(request[at : at + 1])
            await asyncio.sleep(0.001)
        writer.write(request[12:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("path", ["/ws/echo", "/wsx", "/ws/", "/WS"])
async def test_other_addresses_do_not_upgrade(tmp_path: Path, path: str) -> None:
    fields = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: pwp1.msgpack",
    ]
    async with await run(tmp_path) as server:
        answer = await exchange(server, get(path, *fields, close=False) + get("/nowhere"))
        assert answer.startswith(b"HTTP/1.1 4")
        assert b" 101 " not in answer


async def test_the_echo_is_there_when_it_is_switched_on(tmp_path: Path) -> None:
    async with await run(tmp_path, websocket=WebSocketConfig(echo=True)) as server:
        fields = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
        ]
        hello = b"\x81\x82\x00\x00\x00\x00hi\x88\x80\x00\x00\x00\x00"
        answer = await exchange(server, get("/ws/echo", *fields, close=False) + hello)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert answer.endswith(b"\x81\x02hi\x88\x02\x03\xe8")
        await eventually(lambda: server.core.strangers.open == 0)


# two parsers on one port never disagree


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nhello",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GARBAGE\r\n\r\n",
    ],
)
async def test_ambiguous_requests_are_refused_and_nothing_behind_them_is_served(
    tmp_path: Path, request_bytes: bytes
) -> None:
    async with await run(tmp_path) as server:
        answer = await exchange(server, request_bytes + get("/health/live"))
        assert [status // 100 for status in statuses(answer)] == [4], answer[:80]


async def test_a_connection_that_began_as_http_never_becomes_another(tmp_path: Path) -> None:
    async with await run(tmp_path) as server:
        answer = await exchange(server, get("/health/live", close=False) + PREFACE + bytes(40))
        assert statuses(answer)[-1] == 400
        assert PREFACE[:1] not in answer
        upgrade = get("/ws", "Upgrade: websocket", "Connection: Upgrade", close=False)
        answer = await exchange(server, get("/health/live", close=False) + upgrade + get("/x"))
        assert b" 101 " not in answer
        assert server.connections == 0


# the end


async def test_a_stop_asks_to_leave_and_finishes_what_was_begun(tmp_path: Path) -> None:
    server = await run(tmp_path)
    async with server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.connect(ann), await server.connect(bob, "ws")
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pb.settled()
        pa.send(*[Send(n, conv, cid(), 0, str(n)) for n in range(100, 120)])
        await pb.expect(MsgPush)
        await server.stop()
        frames = await pa.end()
        acked = [f.seq for f in frames if isinstance(f, Sent)]
        assert acked == list(range(1, 21))
        assert [f.code for f in frames if isinstance(f, GoAway)] == [Code.DRAINING]
        assert isinstance(frames[-1], Bye)
        assert (frames[-1].code, frames[-1].retry) == (Code.DRAINING, 0)
        assert codes_of(await pb.end()) == [Code.DRAINING]
        assert pb.close_code == 4000 + Code.DRAINING
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
    async with await run(tmp_path) as again:
        peer = await again.connect(ann)
        page = await peer.ask(History, conv, 0, True, 100)
        assert [m.seq for m in page.msgs] == list(range(1, 21))


async def test_an_answer_that_a_stop_cuts_short_is_kept_and_marked(tmp_path: Path) -> None:
    async with Model() as model:
        server = await run(tmp_path, ai=model.config())
        async with server:
            ann = await server.person("ann")
            persona = await server.persona(ann)
            peer = await server.connect(ann)
            conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
            await peer.ask(WatchRequest, watching(conv))
            await peer.send_text(conv, "Tell me everything")
            (await model.call()).say("It began ")
            await peer.expect(StreamDelta)
            await server.stop()
            ends = [f for f in await peer.end() if getattr(f, "reason", None) == 5]
            assert len(ends) == 1
        async with await run(tmp_path, ai=model.config()) as again:
            peer = await again.connect(ann)
            answer = (await peer.ask(History, conv, 0, True, 1)).msgs[0]
            assert answer.text == "It began "
            assert answer.x is not None
            assert answer.x.finish == EndReason.INTERRUPTED


async def test_an_answer_that_ends_in_time_is_finished(tmp_path: Path) -> None:
    async with Model() as model:
        server = await run(tmp_path, ai=model.config())
        async with server:
            ann = await server.person("ann")
            persona = await server.persona(ann)
            peer = await server.connect(ann)
            conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
            await peer.send_text(conv, "Quick!")
            call = await model.call()
            call.say("Al")
            stopping = asyncio.get_running_loop().create_task(server.stop())
            await peer.expect(GoAway)
            call.finish("most.")
            await stopping
            texts = [f.text for f in await peer.end() if isinstance(f, MsgPush)]
            assert texts == ["Almost."]


async def test_sign_ins_stay_valid_over_a_restart(tmp_path: Path) -> None:
    async with await run(tmp_path) as server:
        ann = await server.person("ann")
        token = server.token(ann)
    async with await run(tmp_path) as server:
        peer = await server.dial()
        peer.send(peer.hello(ann, secret=token))
        await peer.expect(Welcome)


async def test_an_application_that_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    storage = StorageConfig(url=Secret("sqlite:////dev/null/nowhere.db"))
    app = App(config_of(tmp_path, storage=storage))
    with pytest.raises(OpenFailed):
        await app.start()
    await app.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", app.port)


async def test_a_stop_does_not_wait_for_those_who_do_not_listen(tmp_path: Path) -> None:
    limits = LimitsConfig(outbox_stall_s=600)
    server = await run(tmp_path, limits=limits)
    async with server:
        people = await server.people("ann bob")
        for person, transport in zip(people, ("tcp", "ws"), strict=True):
            await server.connect(person, transport)
        await server.dial()
        await server.dial(preface=False)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await server.stop()
        assert loop.time() - started < 2


async def test_the_harness_is_the_application_without_its_clock(tmp_path: Path) -> None:
    """What tests run on must not drift from what is shipped."""
    async with serving(tmp_path / "a") as small, await run(tmp_path / "b") as whole:
        assert set(vars(small.core)) == set(vars(whole.core))
