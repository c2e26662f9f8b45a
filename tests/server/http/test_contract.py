"""What every answer has: the error shape, the request id, headers, bounds, deadlines."""

import asyncio
import gzip
import json
import logging
from typing import Any

import pytest

from ai_bridge.http.guard import MAX_HEAD_BYTES
from protocol.codes import Code
from server.logs import REQUEST_ID
from tests.server.http.conftest import Site
from tests.support.eventually import WAIT_S

JSON = {"Content-Type": "application/json"}
ALLOWED = ("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "If-None-Match")


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nope", {}, 404, Code.NOT_FOUND),
        ("DELETE", "/", {}, 405, Code.UNKNOWN_TYPE),
        ("GET", "/api/v1/auth/login", {}, 405, Code.UNKNOWN_TYPE),
        ("POST", "/api/v1/auth/login", {"data": "{}"}, 415, Code.MALFORMED),
        ("POST", "/api/v1/auth/login", {"data": "{", "headers": JSON}, 400, Code.MALFORMED),
        ("POST", "/api/v1/auth/login", {"data": b"\xff", "headers": JSON}, 400, Code.MALFORMED),
        ("POST", "/api/v1/auth/login", {"data": "[]", "headers": JSON}, 400, Code.INVALID),
        (
            "POST",
            "/api/v1/auth/login",
            {"data": "[" * 60_000, "headers": JSON},
            400,
            Code.INVALID,
        ),
        (
            "POST",
            "/api/v1/auth/login",
            {"data": "x" * 70_000, "headers": JSON},
            413,
            Code.TOO_LARGE,
        ),
        ("PUT", "/api/v1/avatars", {"data": b"x"}, 401, Code.BAD_CREDENTIALS),
        ("GET", "/api/v1/avatars/1", {}, 404, Code.NOT_FOUND),
        ("GET", "/api/v1/avatars/x", {}, 404, Code.NOT_FOUND),
    ],
)
async def test_every_refusal_has_one_shape(
    site: Site, method: str, path: str, options: dict[str, Any], status: int, code: Code
) -> None:
    answer = await site.ask(method, path, **options)
    assert answer.status == status
    assert set(answer.error) == {"code", "reason", "message", "request_id"}
    assert answer.error["code"] == code
    assert answer.error["message"]
    assert answer.error["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "parlance"
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nope", 404), ("DELETE", "/v1/models", 405), ("POST", "/v1/models", 403)],
)
async def test_below_v1_every_refusal_has_the_shape_that_openais_clients_read(
    site: Site, method: str, path: str, status: int
) -> None:
    headers = {"Origin": "https://elsewhere.example"} if status == 403 else {}
    answer = await site.ask(method, path, headers=headers)
    assert answer.status == status
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["message"]
    assert answer.headers["X-Request-ID"]
    assert (status == 405) is ("Allow" in answer.headers)


async def test_what_is_got_can_be_asked_for_by_head(site: Site) -> None:
    token = (await site.register())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/health", "/health/live", "/api/v1/me", "/api/v1/memories/export", "/v1/models"):
        found = await site.ask("GET", path, headers=headers)
        head = await site.ask("HEAD", path, headers=headers)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Type"] == found.headers["Content-Type"]


@pytest.mark.parametrize("path", ["/ws", "/ws/echo"])
async def test_a_connection_that_carried_http_does_not_become_a_websocket(
    site: Site, path: str
) -> None:
    reader, writer = await raw(
        site,
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    text = await asyncio.wait_for(_read_end(reader), WAIT_S)
    writer.close()
    assert b"HTTP/1.1 426" in text
    assert b"Upgrade: websocket" in text
    assert b"HTTP/1.1 101" not in text
    assert text.count(b'{"status":"live"}') == 2


async def test_a_crash_tells_nothing_but_the_request_id(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(*_: object) -> None:
        raise KeyError("geheim")

    monkeypatch.setattr(site.accounts, "guest", crash)
    answer = await site.auth("guest")
    assert (answer.status, answer.error["code"]) == (500, Code.INTERNAL)
    assert b"geheim" not in answer.body
    assert "http.crashed" in [record.message for record in caplog.records]


@pytest.mark.parametrize("given", ["trace-0123456789", "A.b_c-12345"])
async def test_a_sane_request_id_is_kept(site: Site, given: str) -> None:
    answer = await site.ask("GET", "/health/live", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["short", "x" * 65, "<script>alert</script>", "a b c d e f"])
async def test_other_request_ids_are_replaced(site: Site, given: str) -> None:
    answer = await site.ask("GET", "/health/live", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] != given


async def test_the_request_id_reaches_the_work(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def look(*_: object) -> None:
        seen.append(REQUEST_ID.get())

    monkeypatch.setattr(site.accounts, "logout", look)
    caplog.set_level(logging.INFO, "parlance.http")
    body = {"refresh_token": "x"}
    headers = {"X-Request-ID": "trace-0123456789"}
    await site.ask("POST", "/api/v1/auth/logout?token=geheim", json=body, headers=headers)
    assert seen == ["trace-0123456789"]
    (line,) = [record for record in caplog.records if record.message == "http.request"]
    assert line.__dict__["route"] == "/api/v1/auth/logout"
    assert "geheim" not in str(line.__dict__)


# origins


@pytest.mark.parametrize("settings", [{"websocket.origins": "same-origin,https://a.example"}])
async def test_an_allowed_origin_passes_preflight_and_another_does_not(site: Site) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    answer = await site.ask("OPTIONS", "/api/v1/auth/login", headers=asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert set(ALLOWED) <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert "Access-Control-Allow-Credentials" not in answer.headers
    asked["Origin"] = "https://b.example"
    answer = await site.ask("OPTIONS", "/api/v1/auth/login", headers=asked)
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_pages_of_this_server_may_call_it_and_others_may_not_change_things(
    site: Site,
) -> None:
    answer = await site.ask("POST", "/api/v1/auth/guest", json={}, headers={"Origin": site.url})
    assert answer.status == 201
    assert answer.headers["Access-Control-Allow-Origin"] == site.url
    shown = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"ETag", "Retry-After", "X-Request-ID"} <= set(shown)
    for origin in ("https://evil.example", "null"):
        answer = await site.ask("POST", "/api/v1/auth/guest", json={}, headers={"Origin": origin})
        assert answer.status == 403
        answer = await site.ask("GET", "/health/live", headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in answer.headers


# raw connections


async def raw(site: Site, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    return reader, writer


async def test_what_is_not_http_gets_the_error_shape_too(site: Site) -> None:
    reader, writer = await raw(site, b"GET / HTTP/1.1\r\nBroken\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == Code.MALFORMED


async def test_a_request_may_come_in_pieces_and_many_on_one_connection(site: Site) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await raw(site, one[:3], one[3:20], one[20:] + one + one[:5])
    writer.write(one[5:-2] + b"Connection: close\r\n\r\n")
    assert (await reader.read()).count(b'{"status":"live"}') == 3
    writer.close()


@pytest.mark.parametrize("settings", [{"limits.http_header_s": 0.05}])
async def test_headers_that_trickle_end_the_connection(site: Site) -> None:
    reader, writer = await raw(site, b"GET / HTTP/1.1\r\nHost: x\r\n")
    assert await asyncio.wait_for(_read_end(reader), WAIT_S) == b""
    writer.close()
    # Also on a connection that was good before.
    good = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await raw(site, good, b"GET / HT")
    assert b"live" in await asyncio.wait_for(_read_end(reader), WAIT_S)
    writer.close()


async def _read_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_endless_headers_end_the_connection(site: Site) -> None:
    reader, writer = await raw(site, b"GET / HTTP/1.1\r\n")
    line = b"X: " + b"y" * 1000 + b"\r\n"
    sent = 0
    try:
        while sent < 4 * MAX_HEAD_BYTES:
            writer.write(line)
            await writer.drain()
            sent += len(line)
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    assert b"200 OK" not in await asyncio.wait_for(_read_end(reader), WAIT_S)
    writer.close()


async def test_a_body_in_chunks_is_bounded(site: Site) -> None:
    head = (
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    reader, writer = await raw(site, head, chunk, chunk, chunk, chunk, chunk, b"0\r\n\r\n")
    answer = await asyncio.wait_for(_read_end(reader), WAIT_S)
    assert answer.startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_body_that_trickles_is_refused_in_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.bodies.BODY_S", 0.05)
    head = (
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 20\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await raw(site, head, b'{"name":')
    answer = await asyncio.wait_for(_read_end(reader), WAIT_S)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == Code.TIMEOUT


@pytest.mark.parametrize("coding", ["gzip", "br", "nonsense"])
async def test_a_packed_body_is_refused_as_such(site: Site, coding: str) -> None:
    headers = JSON | {"Content-Encoding": coding}
    body = gzip.compress(b" " * 10_000_000) if coding == "gzip" else b"{}"
    answer = await site.ask("POST", "/api/v1/auth/guest", data=body, headers=headers)
    assert (answer.status, answer.error["code"]) == (415, Code.MALFORMED)
    assert "Content-Encoding" in answer.error["message"]
    headers["Content-Encoding"] = "identity"
    answer = await site.ask("POST", "/api/v1/auth/guest", data=b"{}", headers=headers)
    assert answer.status == 201


async def test_http_connections_are_counted(site: Site) -> None:
    before = site.core.stats.connections["http"]
    reader, writer = await raw(site, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()
    assert site.core.stats.connections["http"] == before + 1
    writer.close()
    while site.core.stats.connections["http"] > before:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)
    assert site.core.strangers.open == 0
