"""aiohttp's server protocol with the deadlines and bounds that it lacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from ai_bridge.http.problems import Problem, openai_response

log = logging.getLogger("parlance.http")

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers together; each line is held to 8 KiB by the parser."""
MAX_LINE_BYTES: Final = 8190
MAX_HEADERS: Final = 64
LINGER_S: Final = 2.0
HEADER_S: Final = 5.0
KEEPALIVE_S: Final = 30.0
MAX_CONNECTIONS: Final = 2_048

_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n"
)
_FULL_BODY: Final = (
    b'{"error":{"message":"Too many connections are open. Ask again in a moment.",'
    b'"type":"server_error","param":null,"code":"overloaded"}}'
)


class GuardedHandler(RequestHandler):
    """One HTTP connection.

    Headers must be complete `header_s` after the connection is made, and after the first byte of
    each further request, and within `MAX_HEAD_BYTES`; aiohttp itself would wait for both without
    end. Requests in progress have their own bounds (`bodies`); between requests aiohttp's
    keep-alive applies.
    """

    __slots__ = ("_body", "_head_bytes", "_head_timer", "_header_s", "_open")

    def __init__(self, server: Any, *, header_s: float, **options: Any) -> None:
        bounds: dict[str, Any] = {
            "access_log": None,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_LINE_BYTES,
            "max_headers": MAX_HEADERS,
            "lingering_time": LINGER_S,
            # A few bytes could unpack into gigabytes; nobody has to send compressed bodies.
            "auto_decompress": False,
        }
        super().__init__(server, **bounds, **options)
        self._header_s = header_s
        self._open = False
        self._body: StreamReader = EMPTY_PAYLOAD
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        """The connection is there."""

    def closed(self) -> None:
        """It is gone; follows each `opened`, once."""

    def malformed(self, status: int) -> web.StreamResponse:
        """Return the answer to what the parser refuses."""
        return openai_response(Problem(status, "malformed request", code="malformed_request"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection; its first head is due."""
        super().connection_made(transport)
        self._open = True
        self.opened()
        self._head_grows(0)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The peer is gone."""
        if self._open:
            self._open = False
            self.closed()
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and watch how long a head takes to become a request."""
        before = self._request_count
        # Asked first as well: the bytes that end a body may come while aiohttp has taken the
        # request from its queue and not begun with it.
        in_body = not self._body.is_eof()
        super().data_received(data)
        if self._request_count != before:
            self._end_head()
            if self._messages:
                self._body = self._messages[-1][1]
        elif data and not in_body and not self._in_request():
            self._head_grows(len(data))

    def _in_request(self) -> bool:
        """Whether bytes belong to a known head; a body may outlast the answer to it."""
        return bool(self._request_in_progress or self._messages or not self._body.is_eof())

    def _head_grows(self, size: int) -> None:
        self._head_bytes += size
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._header_s, self._give_up)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up()

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        """Nothing is answered: whoever sends headers like that does not wait for an answer."""
        self._end_head()
        log.info("http.head_refused")
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refuses; what handlers raise never comes here."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        log.info("http.malformed", extra={"status": status, "kind": type(exc).__name__})
        response = self.malformed(status)
        response.force_close()
        return response


class Connections:
    """Makes the protocols of a server's connections, and bounds how many are open at a time.

    Attributes:
        open: connections that are open now.
        refused: connections that were one too many; they were told 503.
    """

    def __init__(
        self,
        most: int = MAX_CONNECTIONS,
        *,
        header_s: float = HEADER_S,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._most = most
        self._header_s = header_s
        self._keepalive_s = keepalive_s
        self.open = 0
        self.refused = 0

    def factory(self, server: web.Server | None) -> Callable[[], asyncio.Protocol]:
        """Return what makes a protocol of a runner's server for each connection."""

        def make() -> asyncio.Protocol:
            if self.open >= self._most:
                self.refused += 1
                return _Refusal()
            return _Counted(
                server,
                self,
                loop=asyncio.get_running_loop(),
                header_s=self._header_s,
                keepalive_timeout=self._keepalive_s,
            )

        return make


class _Counted(GuardedHandler):
    __slots__ = ("_connections",)

    def __init__(self, server: Any, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections

    def opened(self) -> None:
        self._connections.open += 1

    def closed(self) -> None:
        self._connections.open -= 1


class _Refusal(asyncio.Protocol):
    """Tells one connection too many to come again, and takes what it sends meanwhile.

    To close with bytes unread would reset the connection, and the answer could be lost.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        transport.write(_FULL % len(_FULL_BODY) + _FULL_BODY)
        transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._timer.cancel()
