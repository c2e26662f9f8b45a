"""The process: how it starts, refuses to start, and stops."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.provider.server import ScriptedProvider
from clients.auth import Account
from clients.state import MemoryState
from protocol.codec import MSGPACK
from protocol.codes import AuthMethod, Caps, Code, ConvKind, EndReason
from protocol.envelopes import Bye, GoAway, Hello, Send, Sent, Welcome
from protocol.frames import PREFACE, FrameDecoder
from tests.e2e.harness import Process, answers, ask, command, expected, free_port, group, rows, talk
from tests.support.eventually import WAIT_S, eventually


class Wire:
    """A connection that only reads and writes frames: nothing is hidden, nothing repeated."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder(1 << 24)
        self.frames: list[Any] = []

    def send(self, *frames: Any) -> None:
        self._writer.write(b"".join(map(MSGPACK.encode, frames)))

    async def read(self) -> bool:
        """Read once; False at the end."""
        data = await asyncio.wait_for(self._reader.read(1 << 18), WAIT_S)
        self.frames += map(MSGPACK.decode_server, self._decoder.feed(data))
        return bool(data)

    async def until(self, kind: type[Any]) -> Any:
        """Return the first frame of this kind."""
        while not any(isinstance(frame, kind) for frame in self.frames):
            assert await self.read(), f"no {kind.__name__} in {self.frames}"
        return next(frame for frame in self.frames if isinstance(frame, kind))


@contextlib.asynccontextmanager
async def wired(server: Process, account: Account) -> AsyncIterator[Wire]:
    """A signed-in connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    wire = Wire(reader, writer)
    writer.write(PREFACE)
    device = MemoryState().load().device
    token = await account.token()
    caps = int(Caps.AI_DELTAS)
    wire.send(Hello(0, int(AuthMethod.JWT), token, device, "wire/py", caps, 30, 1 << 20, "en"))
    await wire.until(Welcome)
    try:
        yield wire
    finally:
        writer.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Process]:
    """A server of this test's own, with a scripted service; the test starts and stops it."""
    process = Process(tmp_path, provider_port=free_port())
    yield process
    process.kill()


@pytest.fixture
async def service(own: Process) -> AsyncIterator[ScriptedProvider]:
    """The scripted service that this test's own server asks."""
    provider = ScriptedProvider()
    provider.models = ["tokens=10000,rate=50", "tokens=3"]
    await provider.start(own.provider_port)
    yield provider
    await provider.aclose()


async def stop(server: Process) -> int:
    """Stop it as an operator would; return the exit code."""
    return await asyncio.to_thread(server.stop)


async def test_a_stop_answers_what_is_under_way_says_goodbye_and_ends_with_zero(
    own: Process, service: ScriptedProvider
) -> None:
    await asyncio.to_thread(own.start)
    account = await own.newcomer()
    async with own.online(account) as client:
        conv = await group(client)
        chat = await talk(client)
        sent = await ask(client, chat, "tokens=10000,rate=50")
        sid = sent.sid or 0
        await eventually(
            lambda: sid in client.streams.running and client.streams.running[sid].size()
        )
    texts = [f"last words {number}" for number in range(100)]
    async with wired(own, account) as wire:
        sends = [
            Send(number + 1, conv, number.to_bytes(16, "big"), 0, text)
            for number, text in enumerate(texts)
        ]
        wire.send(*sends)
        own.signal(signal.SIGTERM)
        while await wire.read():
            pass
        acknowledged = [frame for frame in wire.frames if isinstance(frame, Sent)]
        assert [frame.seq for frame in acknowledged] == list(range(1, len(texts) + 1))
        assert any(isinstance(frame, GoAway) for frame in wire.frames)
        last = wire.frames[-1]
        assert isinstance(last, Bye)
        assert last.code == Code.DRAINING
    assert await asyncio.to_thread(own.wait) == 0
    assert service.stats.streaming == 0, "the connection to the service is closed"

    await asyncio.to_thread(own.start)
    async with own.online(account) as client:
        page = await client.history(conv, limit=100)
        assert [row.text for row in page.msgs] == texts
        await client.history(chat)
        (row,) = answers(client, chat)
        assert row.text
        assert expected("tokens=10000").startswith(row.text)
        assert row.x is not None
        assert row.x.finish == EndReason.INTERRUPTED
        await ask(client, chat, "tokens=3", "and again?")
        await eventually(lambda: len(answers(client, chat)) == 2)
    assert await stop(own) == 0


async def test_people_wait_out_a_restart_and_lose_nothing(own: Process) -> None:
    await asyncio.to_thread(own.start)
    async with own.online() as client, own.online(door="ws") as friend:
        conv = await group(client, friend.user)
        await client.send(conv, "before")
        assert await stop(own) == 0
        waiting = [client.post(conv, f"meanwhile {number}") for number in range(5)]
        await asyncio.to_thread(own.start)
        await asyncio.gather(*(entry.acknowledged for entry in waiting))
        wanted = ["before", *(f"meanwhile {number}" for number in range(5))]
        await eventually(lambda: [row.text for row in rows(friend, conv)] == wanted)
    assert await stop(own) == 0


def serve(config: Path) -> tuple[int, list[str]]:
    """Start a server that cannot start; return its exit code and what it complained of."""
    done = command("serve", config=config)
    assert "Traceback" not in done.stderr
    return done.returncode, [
        line for line in done.stderr.splitlines() if line.startswith("parlance:")
    ]


def test_a_taken_port_is_said_in_one_line(server: Process, tmp_path: Path) -> None:
    other = Process(tmp_path)
    other.port = server.port
    code, lines = serve(other.write_config())
    assert code == 1
    (line,) = lines
    assert f"127.0.0.1:{server.port} is in use" in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[storage]\nurl = "sqlite:////proc/nowhere/chat.db"\n', "database"),
        ('[storage]\nurl = "mysql://nobody:wrong@127.0.0.1:1/none"\n', "database"),
        ('[storage]\nurl = "postgres://somewhere/db"\n', "storage.url"),
        ("[server2]\nport = 1\n", "server2"),
        ("[messages]\nrecal_window_s = 1\n", "recal_window_s"),
        ('[log]\nlevel = "loud"\n', "log.level"),
        ("[log\n", "parlance.toml"),
    ],
)
def test_what_prevents_a_start_is_said_in_one_line(tmp_path: Path, more: str, words: str) -> None:
    code, lines = serve(Process(tmp_path, more=more).write_config())
    assert code == 1
    (line,) = lines
    assert words in line
    assert "wrong" not in line, "no password in a message"


def test_an_open_port_without_tls_or_a_bad_certificate_prevents_the_start(tmp_path: Path) -> None:
    config = tmp_path / "parlance.toml"
    data = f'data_dir = "{tmp_path / "data"}"'
    config.write_text(f'[server]\nport = 0\nhost = "0.0.0.0"\n{data}\n')
    code, lines = serve(config)
    assert code == 1
    assert "allow_cleartext" in lines[0]
    pem = tmp_path / "cert.pem"
    pem.write_text("nothing")
    config.write_text(f'[server]\nport = 0\n{data}\ntls_cert = "{pem}"\ntls_key = "{pem}"\n')
    code, lines = serve(config)
    assert code == 1
    (line,) = lines
    assert line.startswith("parlance: server.tls_cert: ")
    checked = command("check-config", config=config)
    assert checked.returncode == 1
    assert "server.tls_cert" in checked.stderr


async def test_strangers_that_say_nothing_do_not_hold_up_the_stop(own: Process) -> None:
    await asyncio.to_thread(own.start)
    with contextlib.ExitStack() as stack:
        for first in (b"", b"G", b"\x8bPW", b"POST /api/v1/auth/login HTTP/1.1\r\nContent-Le"):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", own.port)))
            peer.sendall(first)
        began_s = asyncio.get_running_loop().time()
        assert await stop(own) == 0
        assert asyncio.get_running_loop().time() - began_s < 4


async def test_interrupting_from_the_keyboard_stops_in_order_too(own: Process) -> None:
    await asyncio.to_thread(own.start)
    async with own.online() as client:
        await client.create_conversation(ConvKind.GROUP, title="x")
    own.signal(signal.SIGINT)
    assert await asyncio.to_thread(own.wait) == 0
