"""HTTP connections are bounded, and those beyond the bound are told so."""

import asyncio

import pytest

from tests.server.http.conftest import Site
from tests.support.eventually import eventually


async def ask_for_health(port: int) -> tuple[bytes, asyncio.StreamWriter]:
    """Return the status line of one more connection, which stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
    return await reader.readline(), writer


async def half_a_request(port: int, size: int = 10) -> asyncio.StreamWriter:
    """Send all of a request but the end of its body; return once the server is reading it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /api/v1/auth/guest HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size
    )
    assert b" 100 " in await reader.readline()
    writer.write(b"{")
    return writer


@pytest.mark.parametrize("settings", [{"limits.http_connections": 2}])
async def test_http_connections_beyond_the_bound_are_told_that_the_server_is_busy(
    site: Site,
) -> None:
    writers = [await half_a_request(site.port) for _ in range(2)]
    status, writer = await ask_for_health(site.port)
    writers.append(writer)
    assert b" 503 " in status
    assert site.core.stats.refused_http == 1
    for writer in writers:
        writer.close()
    await eventually(lambda: site.core.stats.connections["http"] == 0)
    status, writer = await ask_for_health(site.port)
    assert b" 200 " in status
    writer.close()


@pytest.mark.parametrize("settings", [{"limits.http_connections": 3}])
async def test_the_connection_that_is_idle_longest_makes_room_for_a_new_one(site: Site) -> None:
    busy = await half_a_request(site.port)
    idle = []
    for _ in range(4):
        status, writer = await ask_for_health(site.port)
        assert b" 200 " in status
        idle.append(writer)
    stats = site.core.stats
    assert (stats.refused_http, stats.idle_closed_http) == (0, 2)
    await eventually(lambda: stats.connections["http"] == 3)
    for writer in (busy, *idle):
        writer.close()
    await eventually(lambda: stats.connections["http"] == 0)


@pytest.mark.parametrize("abort", [True, False])
async def test_who_leaves_in_the_middle_of_a_body_is_no_failure_of_the_server(
    site: Site, abort: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "parlance.http")
    for _ in range(3):
        writer = await half_a_request(site.port)
        if abort:
            writer.transport.abort()
        else:
            writer.close()
    stats = site.core.stats
    await eventually(lambda: stats.connections["http"] == 0)
    await eventually(lambda: sum(one.message == "http.request" for one in caplog.records) == 3)
    assert stats.http_failed == 0
    assert not [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
