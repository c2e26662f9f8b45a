"""The HTTP client of our own: its pool, its addresses, TLS, and its two slow clocks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ai_bridge.errors import ProviderFailure
from ai_bridge.transport import raw_h1
from ai_bridge.transport.raw_h1 import KEEP_ALIVE_S, READ_S, SWEEP_S, RawTransport
from ai_bridge.transport.resolve import MAX_NAMES, TTL_S, Address, Resolver
from tests.ai_bridge.fakes import Clock, Sink
from tests.ai_bridge.raw_server import CHUNKED, END, SAID, TEXT, RawServer, answering, chunk
from tests.ai_bridge.test_transport import ANSWER, Eager, call
from tests.server.test_tls import make_certificate
from tests.support.eventually import WAIT_S, eventually

HOME: Address = (socket.AF_INET, "127.0.0.1")
IDLE_SWEEPS = round(KEEP_ALIVE_S / SWEEP_S)
READ_SWEEPS = round(READ_S / SWEEP_S)


class Names:
    """A directory of names that counts its questions and answers when it is told."""

    def __init__(self, *addresses: Address) -> None:
        self.addresses = list(addresses)
        self.asked = 0
        self.known = asyncio.Event()
        self.known.set()

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        await self.known.wait()
        if not self.addresses:
            raise OSError("unknown name")
        return list(self.addresses)


@pytest.fixture
async def transport() -> AsyncIterator[RawTransport]:
    made = RawTransport()
    yield made
    await made.aclose()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def named(server: RawServer, host: str = "ai.example") -> str:
    return server.url.replace("127.0.0.1", host)


# --- pool ----------------------------------------------------------------------------------------


async def test_an_idle_connection_is_closed_after_its_time(transport: RawTransport) -> None:
    async with answering(ANSWER) as server:
        await call(transport, server.url)
        for _ in range(IDLE_SWEEPS):
            transport.pool.sweep()
        assert transport.pool.idle == 1
        transport.pool.sweep()
        assert (len(transport.pool), transport.pool.stats.expired) == (0, 1)
        await server.closed.wait()


async def test_use_gives_an_idle_connection_its_whole_time_again(transport: RawTransport) -> None:
    async with answering(ANSWER) as server:
        for _ in range(3):
            await call(transport, server.url)
            for _ in range(IDLE_SWEEPS):
                transport.pool.sweep()
        assert (server.accepted, transport.pool.stats.reused) == (1, 2)


@pytest.mark.parametrize("said", [b"", CHUNKED + chunk(TEXT)])
async def test_a_connection_that_went_silent_is_given_up(
    transport: RawTransport, said: bytes
) -> None:
    async with answering(said) as server:
        sink = Eager()
        task = asyncio.create_task(call(transport, server.url, sink))
        await (sink.news if said else server.arrived).wait()
        for _ in range(READ_SWEEPS):
            transport.pool.sweep()
        assert not task.done()
        transport.pool.sweep()
        with pytest.raises(ProviderFailure) as caught:
            await task
        assert caught.value.kind == ("disconnected" if said else "connect")
        await server.closed.wait()


async def test_no_more_idle_connections_are_kept_than_allowed(
    transport: RawTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_h1, "MAX_IDLE", 3)
    async with answering(ANSWER) as server:
        await asyncio.gather(*(call(transport, server.url) for _ in range(8)))
        assert transport.pool.idle == len(transport.pool) == 3
        assert transport.pool.stats.crowded == 5


async def test_the_sweep_stops_when_nothing_is_open(
    transport: RawTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_h1, "SWEEP_S", 0.001)
    async with answering(ANSWER) as server:
        await call(transport, server.url)
        await eventually(lambda: transport.pool._ticker is None)
        assert len(transport.pool) == 0
        await call(transport, server.url)
        assert transport.pool._ticker is not None


async def test_a_connection_that_speaks_unasked_is_closed(transport: RawTransport) -> None:
    async with answering(ANSWER) as server:
        await call(transport, server.url)
        (writer,) = server._writers
        writer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await eventually(lambda: not len(transport.pool))


async def test_connections_of_one_place_are_not_used_for_another(transport: RawTransport) -> None:
    async with answering(ANSWER) as one, answering(ANSWER) as other:
        for server in (one, other, one, other):
            await call(transport, server.url)
        assert (one.accepted, other.accepted) == (1, 1)


async def test_a_closed_transport_can_be_used_again(transport: RawTransport) -> None:
    async with answering(ANSWER) as server:
        await call(transport, server.url)
        await transport.aclose()
        assert len(transport.pool) == 0
        await call(transport, server.url)
        assert server.accepted == 2


# --- addresses -----------------------------------------------------------------------------------


async def test_many_calls_ask_for_a_name_once_until_it_is_old() -> None:
    clock, names = Clock(), Names(HOME)
    transport = RawTransport(resolver=Resolver(clock, names))
    async with answering(ANSWER) as server:
        await asyncio.gather(*(call(transport, named(server)) for _ in range(30)))
        assert (names.asked, server.accepted) == (1, 30)
        await transport.aclose()
        clock.advance(TTL_S - 1)
        await call(transport, named(server))
        assert names.asked == 1
        await transport.aclose()
        clock.advance(2)
        await call(transport, named(server))
        assert names.asked == 2
        await transport.aclose()


async def test_the_address_that_answers_is_found_and_remembered() -> None:
    dead = (socket.AF_INET, "127.0.0.9")
    resolver = Resolver(Clock(), Names(dead, HOME))
    transport = RawTransport(resolver=resolver)
    async with answering(ANSWER) as server:
        await call(transport, named(server))
        assert await resolver.addresses("ai.example", server.port) == [HOME, dead]
        await transport.aclose()


async def test_a_name_whose_addresses_all_fail_is_asked_for_again() -> None:
    names = Names(HOME)
    transport = RawTransport(resolver=Resolver(Clock(), names))
    for _ in range(2):
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, f"http://ai.example:{unused_port()}/v1")
        assert caught.value.kind == "connect"
    assert names.asked == 2


async def test_an_unknown_name_is_told_as_unreachable() -> None:
    transport = RawTransport(resolver=Resolver(Clock(), Names()))
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, "http://nowhere.example/v1")
    assert caught.value.kind == "connect"
    assert "nowhere" not in caught.value.text


async def test_names_are_remembered_up_to_a_bound() -> None:
    names = Names(HOME)
    resolver = Resolver(Clock(), names)
    for number in range(MAX_NAMES + 1):
        await resolver.addresses(f"host{number}", 443)
    await resolver.addresses("host1", 443)
    assert names.asked == MAX_NAMES + 1
    await resolver.addresses("host0", 443)
    assert names.asked == MAX_NAMES + 2


async def test_a_caller_that_leaves_does_not_take_the_name_from_the_others() -> None:
    names = Names(HOME)
    names.known.clear()
    transport = RawTransport(resolver=Resolver(Clock(), names))
    async with answering(ANSWER) as server:
        leaver, stayer = (
            asyncio.create_task(call(transport, named(server), sink)) for sink in (Sink(), Sink())
        )
        await eventually(lambda: names.asked)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        names.known.set()
        await stayer
        assert (names.asked, server.accepted) == (1, 1)
        await transport.aclose()


async def test_closing_gives_up_names_that_are_being_asked() -> None:
    names = Names(HOME)
    names.known.clear()
    transport = RawTransport(resolver=Resolver(Clock(), names))
    task = asyncio.create_task(call(transport, "http://ai.example/v1"))
    await eventually(lambda: names.asked)
    task.cancel()
    await transport.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side and the side of a client that trusts it."""
    cert, key = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


async def test_answers_come_over_tls_and_the_connection_is_kept(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    transport = RawTransport(certificate[1])
    async with answering(ANSWER, tls=certificate[0]) as server:
        for _ in range(3):
            sink = Sink()
            await call(transport, server.url, sink)
            assert sink.answer == SAID
        assert server.accepted == 1
        await transport.aclose()


async def test_an_unknown_certificate_is_refused(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext], transport: RawTransport
) -> None:
    async with answering(ANSWER, tls=certificate[0]) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, server.url)
        assert caught.value.kind == "connect"
        assert server.requests == []


async def test_cancelling_over_tls_closes_the_socket(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    transport = RawTransport(certificate[1])
    sink = Eager()
    async with answering(CHUNKED + chunk(TEXT), tls=certificate[0]) as server:
        task = asyncio.create_task(call(transport, server.url, sink))
        await sink.news.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(transport.pool) == 0
        await server.closed.wait()


class Deaf(asyncio.Protocol):
    """Takes connections and never says a word, so that a TLS handshake waits for ever."""

    def __init__(self) -> None:
        self.met = asyncio.Event()
        self.gone = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.met.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


@pytest.fixture
async def deaf() -> AsyncIterator[tuple[str, Deaf]]:
    protocol = Deaf()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", protocol
    server.close()
    await server.wait_closed()


async def test_cancelling_while_connecting_closes_the_socket(
    transport: RawTransport, deaf: tuple[str, Deaf]
) -> None:
    url, peer = deaf
    task = asyncio.create_task(call(transport, url))
    await peer.met.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(WAIT_S):
        await peer.gone.wait()
    assert len(transport.pool) == 0


async def test_a_connection_that_takes_too_long_is_given_up(
    transport: RawTransport, deaf: tuple[str, Deaf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_h1, "CONNECT_S", 0.05)
    url, peer = deaf
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, url)
    assert caught.value.kind == "connect"
    async with asyncio.timeout(WAIT_S):
        await peer.gone.wait()


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_end_its_line_is_refused_before_anything_is_sent(
    transport: RawTransport, value: str
) -> None:
    async with answering(ANSWER) as server:
        with pytest.raises(ProviderFailure) as caught:
            await call(transport, server.url, authorization=value)
        assert caught.value.kind == "bad_request_head"
        assert server.accepted == 0


async def test_headers_that_frame_the_message_are_ours(transport: RawTransport) -> None:
    foreign = {"Content-Length": "1", "HOST": "other", "Transfer-Encoding": "chunked"}
    async with answering(ANSWER) as server:
        await call(transport, server.url, None, b"{12}", None, **foreign)
        head = server.requests[0].lower()
    assert head.count(b"content-length:") == head.count(b"host:") == 1
    assert b"content-length: 4\r\n" in head
    assert b"transfer-encoding" not in head


@pytest.mark.parametrize("url", ["ftp://x/v1", "http:///v1", "nonsense", "http://x:99999/v1"])
async def test_an_address_that_is_none_is_refused(transport: RawTransport, url: str) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await call(transport, url)
    assert caught.value.kind == "bad_request_head"


async def test_an_address_cannot_smuggle_a_second_line(transport: RawTransport) -> None:
    async with answering(ANSWER) as server:
        await call(transport, server.url + "/a b\u00e9")
        assert server.requests[0].startswith(b"POST /v1/chat/completions/a%20b%C3%A9 HTTP/1.1\r\n")


async def test_a_large_request_goes_out_whole(transport: RawTransport) -> None:
    body = b"x" * 5_000_000
    async with answering(ANSWER) as server:
        await call(transport, server.url, body=body)
        assert server.requests[0].endswith(body)


async def test_after_the_answers_end_the_rest_is_waited_for_only_a_moment(
    transport: RawTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_h1, "REST_S", 0.01)
    async with answering(CHUNKED + chunk(TEXT) + chunk(END)) as server:
        sink = Sink()
        await call(transport, server.url, sink)
        assert sink.answer == SAID
        assert len(transport.pool) == 0
        await server.closed.wait()
