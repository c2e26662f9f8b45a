"""aiohttp's server protocol with the deadlines and bounds that it lacks."""

import asyncio
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from protocol.codes import Code
from server.http.errors import error_response
from server.http.middleware import make_request_id, seal
from server.stats import Stats

log = logging.getLogger("parlance.http")

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers together; each line is held to 8 KiB by the parser."""


class GuardedHandler(RequestHandler):
    """One HTTP connection.

    Headers must be complete `header_s` after their first byte and within `MAX_HEAD_BYTES`;
    aiohttp itself would wait for both without end. Requests in progress have their own bounds
    (`server.http.bodies`); between requests aiohttp's keep-alive applies.
    """

    __slots__ = ("_body", "_head_bytes", "_head_timer", "_header_s", "_open", "_stats")

    def __init__(self, *args: Any, header_s: float, stats: Stats, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_s = header_s
        self._stats = stats
        self._open = False
        self._body: StreamReader = EMPTY_PAYLOAD
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection; its first bytes follow at once."""
        super().connection_made(transport)
        self._open = True
        self._stats.opened("http")

    def connection_lost(self, exc: BaseException | None) -> None:
        """The peer is gone."""
        if self._open:
            self._open = False
            self._stats.closed("http")
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
        request_id = make_request_id(None)
        log.info("http.malformed", extra={"status": status, "kind": type(exc).__name__})
        code = Code.INTERNAL if status >= 500 else Code.MALFORMED
        response = error_response(status, code, "malformed request", "", request_id)
        seal(response, request_id)
        response.force_close()
        return response
