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

    __slots__ = ("_stats",)

    def __init__(self, server: Any, *, stats: Stats, **options: Any) -> None:
        super().__init__(server, **options)
        self._stats = stats

    def opened(self) -> None:
        self._stats.opened("http")

    def closed(self) -> None:
        self._stats.closed("http")

    def malformed(self, status: int) -> web.StreamResponse:
        request_id = make_request_id(None)
        code = Code.INTERNAL if status >= 500 else Code.MALFORMED
        response = error_response(status, code, "malformed request", "", request_id)
        seal(response, request_id)
        return response
