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


@pytest.mark.parametrize("settings", [{"limits.http_connections": 2}])
async def test_http_connections_beyond_the_bound_are_told_that_the_server_is_busy(
    site: Site,
) -> None:
    writers = []
    for expected in (b" 200 ", b" 200 ", b" 503 "):
        status, writer = await ask_for_health(site.port)
        writers.append(writer)
        assert expected in status
    assert site.core.stats.refused_http == 1
    for writer in writers:
        writer.close()
    await eventually(lambda: site.core.stats.connections["http"] == 0)
    status, writer = await ask_for_health(site.port)
    assert b" 200 " in status
    writer.close()
