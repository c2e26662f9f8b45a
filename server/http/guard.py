"""HTTP connections of the server: counted, and answered in its own shape."""

from typing import Any

from aiohttp import web

from ai_bridge.http.guard import GuardedHandler
from protocol.codes import Code
from server.http.errors import error_response
from server.http.middleware import make_request_id, seal
from server.stats import Stats


class ServerHandler(GuardedHandler):
    """One HTTP connection of the port that all doors share."""

    __slots__ = ("_others", "_stats")

    def __init__(self, server: Any, *, stats: Stats, others: "Crowd", **options: Any) -> None:
        super().__init__(server, **options)
        self._stats = stats
        self._others = others

    def opened(self) -> None:
        self._stats.opened("http")

    def closed(self) -> None:
        self._stats.closed("http")
        self._others.left(self)

    def data_received(self, data: bytes) -> None:
        """Note that it is in use."""
        self._others.heard(self)
        super().data_received(data)

    @property
    def is_idle(self) -> bool:
        """Whether no request is complete that is not answered."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def end(self) -> None:
        """Close it; what was answered still arrives."""
        if self.transport is not None:
            self.transport.close()

    def malformed(self, status: int) -> web.StreamResponse:
        request_id = make_request_id(None)
        code = Code.INTERNAL if status >= 500 else Code.MALFORMED
        response = error_response(status, code, "malformed request", "", request_id)
        seal(response, request_id)
        return response


class Crowd:
    """The HTTP connections that are open, the one that was heard of longest ago first."""

    def __init__(self) -> None:
        self._open: dict[ServerHandler, None] = {}

    def heard(self, one: ServerHandler) -> None:
        """Something came on this connection."""
        self._open.pop(one, None)
        self._open[one] = None

    def left(self, one: ServerHandler) -> None:
        """It is closed."""
        self._open.pop(one, None)

    def make_room(self) -> bool:
        """Close the connection that was idle longest; False when all are in use."""
        for one in self._open:
            if one.is_idle:
                del self._open[one]
                one.end()
                return True
        return False
