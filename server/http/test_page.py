"""GET /test: a page to try personas on, and POST /test/api/chat, which it asks.

One page without anything from outside; only its own script and style run. The setting
`server.test_page` decides whether it is there at all. Who is not signed in is answered only from
this machine, under a name of this machine: a page elsewhere that a browser here is made to open
under a foreign name (DNS rebinding) gets nothing.
"""

import base64
import hashlib
from html import escape
from importlib.resources import files
from typing import Final

from aiohttp import web

from ai_bridge.http.hosts import is_local_name
from server.accounts import DEFAULT_TENANT
from server.config_check import is_loopback
from server.config_sections import ServerConfig
from server.http.callers import CALLERS, HttpCaller
from server.http.chat_routes import ERRORS, EVERYDAY, EXAMPLE, ChatBody, chat, chat_response
from server.http.context import is_local, parts_of
from server.http.openai_routes import ASKING, door
from server.http.openai_views import ChatAnswer, ChatRefusal
from server.http.typed import Api, Media

_FOLDER: Final = files("server.http")
_SCRIPT: Final = (_FOLDER / "test_page.js").read_text(encoding="utf-8")
_STYLE: Final = (_FOLDER / "test_page.css").read_text(encoding="utf-8")
_PAGE: Final = (_FOLDER / "test_page.html").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_POLICY: Final = (
    f"default-src 'none'; script-src '{_hash(_SCRIPT)}'; style-src '{_hash(_STYLE)}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

LOCAL: Final = HttpCaller(0, DEFAULT_TENANT)
"""Somebody at this machine who has not signed in: sees what all of the tenant may see."""


def is_offered(config: ServerConfig) -> bool:
    """Tell whether a server with these settings has the page."""
    if config.test_page == "auto":
        return is_loopback(config.host) and not config.tls_cert and not config.allow_cleartext
    return config.test_page == "on"


def _require_offered(request: web.Request) -> None:
    if not is_offered(parts_of(request).config.server):
        raise web.HTTPNotFound


async def _page(request: web.Request) -> web.Response:
    _require_offered(request)
    names = request.app[ASKING].names
    options = "".join(
        f'<option value="{escape(names.name_of(persona))}">{escape(persona.name or "")}</option>'
        for persona in sorted(names.everybodys(), key=lambda p: names.name_of(p) != EVERYDAY)
    )
    text = _PAGE.replace("/*style*/", _STYLE).replace("/*script*/", _SCRIPT)
    text = text.replace("<!--options-->", options)
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return web.Response(text=text, content_type="text/html", headers=headers)


@door(chat_response)
async def _chat(request: web.Request) -> web.StreamResponse:
    _require_offered(request)
    return await chat(request, await _caller(request))


async def _caller(request: web.Request) -> HttpCaller:
    signed = "Authorization" in request.headers or "X-API-Key" in request.headers
    here = is_local(request) and is_local_name(request.host)
    if not signed and here and request.content_type == "application/json":
        return LOCAL
    return await request.app[CALLERS].of(request)


api = Api("chat")
api.raw(
    "POST",
    "/test/api/chat",
    "What the page /test asks: as POST /api/v1/chat, from this machine also without a token",
    _chat,
    who=None,
    body=ChatBody,
    answers={200: (ChatAnswer, Media("text/event-stream")), 499: ChatRefusal},
    refusal=ChatRefusal,
    errors=(401, *ERRORS),
    example=EXAMPLE,
)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `openai_routes.install`."""
    return [web.get("/test", _page), *api.routes()]
