"""The fault proxy itself, between a plain stream client and an echo server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"<end>")
        await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server:
        async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
            yield proxy


@pytest.fixture
async def peer(proxy: FaultProxy) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    yield reader, writer
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_bytes_pass_unchanged_both_ways(proxy: FaultProxy, peer: Pair) -> None:
    reader, writer = peer
    data = bytes(range(256)) * 4096
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    assert proxy.to_server.forwarded_bytes == proxy.to_client.forwarded_bytes == 5 + len(data)


async def test_end_of_stream_passes_and_closes_the_link(proxy: FaultProxy, peer: Pair) -> None:
    reader, writer = peer
    writer.write_eof()
    assert await reader.read() == b"<end>"
    await eventually(lambda: proxy.open_links == 0)


async def test_cut_resets_the_connection_after_exactly_so_many_bytes(
    proxy: FaultProxy, peer: Pair
) -> None:
    reader, writer = peer
    proxy.to_client.cut_after(3)
    writer.write(b"abcdef")
    assert await reader.readexactly(3) == b"abc"
    with pytest.raises(ConnectionResetError):
        await reader.read(1)


async def test_cut_happens_once(proxy: FaultProxy, peer: Pair) -> None:
    proxy.to_server.cut_after(0)
    peer[1].write(b"lost")
    with pytest.raises(ConnectionResetError):
        await peer[0].read(1)
    assert proxy.to_server.forwarded_bytes == 5
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()
    await writer.wait_closed()


async def test_cut_all_resets_idle_connections(proxy: FaultProxy, peer: Pair) -> None:
    proxy.cut_all()
    with pytest.raises(ConnectionResetError):
        await peer[0].read(1)
    assert proxy.open_links == 0


async def test_blackhole_holds_bytes_until_it_is_lifted(proxy: FaultProxy, peer: Pair) -> None:
    reader, writer = peer
    proxy.blackhole()
    writer.write(b"later")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(5), 0.05)
    assert proxy.to_server.forwarded_bytes == 5
    proxy.blackhole(False)
    assert await reader.readexactly(5) == b"later"


async def test_delay_keeps_order_and_does_not_limit_the_rate(proxy: FaultProxy, peer: Pair) -> None:
    reader, writer = peer
    proxy.to_server.delay_s = 0.03
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for number in range(10):
        writer.write(b"%d" % number)
        await asyncio.sleep(0.001)
    assert await reader.readexactly(10) == b"0123456789"
    # One delay for all, not one for each: the bound leaves room for a busy machine.
    assert 0.03 <= loop.time() - started_s < 0.3


async def test_rate_limits_one_direction(proxy: FaultProxy, peer: Pair) -> None:
    reader, writer = peer
    proxy.to_client.rate_bytes_s = 100_000
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    writer.write(bytes(5_000))
    await reader.readexactly(5_000)
    assert loop.time() - started_s >= 0.039  # the last slice is read before its rest is over


async def test_half_closed_client_can_still_send(proxy: FaultProxy, peer: Pair) -> None:
    reader, writer = peer
    proxy.half_close("client")
    assert await reader.read(1) == b""
    writer.write(b"still here")
    await writer.drain()
    await eventually(lambda: proxy.to_server.forwarded_bytes == 15)
    assert proxy.to_client.forwarded_bytes == 5


async def test_half_closed_server_can_still_answer(proxy: FaultProxy, peer: Pair) -> None:
    proxy.half_close("server")
    assert await peer[0].readexactly(5) == b"<end>"


async def test_refuse_resets_new_connections_and_keeps_old_ones(
    proxy: FaultProxy, peer: Pair
) -> None:
    proxy.refuse()
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    assert proxy.refused == 1
    peer[1].write(b"fine")
    assert await peer[0].readexactly(4) == b"fine"


async def test_closed_listener_comes_back_on_the_same_port(proxy: FaultProxy, peer: Pair) -> None:
    port = proxy.port
    await proxy.listen(False)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, port)
    await proxy.listen()
    _, writer = await asyncio.open_connection(proxy.host, port)
    writer.close()
    await writer.wait_closed()


async def test_connection_to_a_dead_target_is_reset() -> None:
    placeholder = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = placeholder.sockets[0].getsockname()[1]
    placeholder.close()
    await placeholder.wait_closed()
    async with FaultProxy("127.0.0.1", port) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_leaving_the_proxy_ends_every_link(proxy: FaultProxy) -> None:
    async with FaultProxy(proxy.host, proxy.port) as outer:
        reader, writer = await asyncio.open_connection(outer.host, outer.port)
        writer.write(b"x")
        await reader.readexactly(1)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
