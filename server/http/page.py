"""The page at /: the web app."""

from aiohttp import web

from server.http import static
from server.http.errors import HttpRefusal


async def _page(request: web.Request) -> web.Response:
    return static.page(request, "index.html")


async def _upgrade_required(request: web.Request) -> web.Response:
    """A connection that already carried HTTP stays HTTP (docs/protocol.md §15)."""
    raise HttpRefusal(
        426,
        "upgrade required",
        "Open this address as a WebSocket, on a connection that carried nothing before.",
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.get("/", _page),
        web.get("/ws", _upgrade_required),
        web.get("/ws/echo", _upgrade_required),
    ]
