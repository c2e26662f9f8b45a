"""What happens around every HTTP request: its id, its log line, errors, headers, CORS."""

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from protocol.codes import Code
from protocol.handshake import OriginPolicy
from server.http.context import WAITS, parts_of
from server.http.errors import HttpRefusal, error_response, response_for
from server.logs import REQUEST_ID

log = logging.getLogger("parlance.http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_is_sane_id: Final = re.compile(r"[A-Za-z0-9._-]{8,64}").fullmatch
_QUIET: Final = ("/health", "/health/live", "/health/ready", "/metrics")
_METHODS: Final = "GET, POST, PUT, DELETE, OPTIONS"
_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, X-API-Key, X-Conversation-ID, "
    "X-Request-ID"
)
_EXPOSED: Final = "ETag, Retry-After, X-Request-ID"
_SECURITY: Final = {
    "Server": "parlance",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_OF_DOCUMENTS: Final = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class PartOfPage(web.Response):
    """A script or a style sheet, of which no document comes, in a frame or else.

    It goes without the headers that only documents obey, and without an id, as there is nothing in
    it to ask about: a hundred of these are in the app's first load.
    """


_ids: Final = random.Random()  # to be told apart is enough: nobody gains by guessing one


def make_request_id(given: str | None) -> str:
    """Return the caller's id when it is harmless, else a fresh one."""
    if given is not None and _is_sane_id(given):
        return given
    return f"{_ids.getrandbits(64):016x}"


def seal(response: web.StreamResponse, request_id: str) -> None:
    """Put the headers on that every answer of its kind has; what a route set itself stays."""
    headers = response.headers
    for name, value in _SECURITY.items():
        headers.setdefault(name, value)
    if isinstance(response, PartOfPage):
        return
    for name, value in _OF_DOCUMENTS.items():
        headers.setdefault(name, value)
    headers["X-Request-ID"] = request_id


@web.middleware
async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: give the request its id, answer every exception, write the log line."""
    request_id = make_request_id(request.headers.get("X-Request-ID"))
    token = REQUEST_ID.set(request_id)
    waits = WAITS.set(False)
    started = time.perf_counter()
    try:
        response = await _answer(request, handler, request_id)
        seconds = time.perf_counter() - started
        _count(request, response, seconds)
        _log_request(request, response.status, seconds)
        return response
    finally:
        REQUEST_ID.reset(token)
        WAITS.reset(waits)


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        response = await handler(request)
    except Exception as exc:
        known = response_for(exc, request_id, request.path)
        if known is None and isinstance(exc, ConnectionError) and request.transport is None:
            # It left in the middle of what it was sending: nobody reads this.
            known = error_response(400, Code.MALFORMED, "cut short", "", request_id)
        if known is None:
            log.exception("http.crashed", extra={"route": route_of(request)})
            known = error_response(500, Code.INTERNAL, "internal error", "", request_id)
        response = known
        add_cors(request, response)
    if not response.prepared:
        seal(response, request_id)
        # Over cleartext the header means nothing, and must not be sent (RFC 6797 §7.2).
        if request.app.get(_HSTS) and request.secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response


_HSTS: Final = web.AppKey("hsts", bool)


def set_hsts(app: web.Application, on: bool) -> None:
    """Tell browsers to come by TLS only; when the server itself speaks TLS."""
    app[_HSTS] = on


def _count(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    stats = parts_of(request).core.stats
    stats.http_failed += response.status >= 500
    if not WAITS.get() and response.status != 101:
        stats.http_seconds.note(seconds)


def route_of(request: web.Request) -> str:
    """Return the pattern of the route, never the path: a path may hold anything."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"


def _log_request(request: web.Request, status: int, seconds: float) -> None:
    route = route_of(request)
    level = logging.DEBUG if route in _QUIET and status < 500 else logging.INFO
    fields = {
        "method": request.method if len(request.method) <= 16 else "?",
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    log.log(logging.WARNING if status >= 500 else level, "http.request", extra=fields)


_own: Final = OriginPolicy()


def _is_own(request: web.Request) -> bool:
    origins = request.headers.getall("Origin", [])
    return _own.allows(origins, request.headers.get("Host", ""))


@web.middleware
async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer preflights; refuse changes that pages of other origins ask for."""
    if "Origin" not in request.headers:
        return await handler(request)
    allowed = _is_allowed(request)
    preflight = "Access-Control-Request-Method" in request.headers
    if request.method == "OPTIONS" and preflight and allowed:
        response: web.StreamResponse = web.Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = _METHODS
        response.headers["Access-Control-Allow-Headers"] = _HEADERS
        response.headers["Access-Control-Max-Age"] = "600"
    elif not allowed and request.method not in ("GET", "HEAD"):
        raise HttpRefusal(403, "origin refused", "Pages of this origin may not call the server.")
    else:
        response = await handler(request)
    add_cors(request, response)
    return response


def _is_allowed(request: web.Request) -> bool:
    origins = request.headers.getall("Origin", [])
    return parts_of(request).core.origins.allows(origins, request.headers.get("Host", ""))


def add_cors(request: web.Request, response: web.StreamResponse) -> None:
    """No cookies are ever used, so credentials are never allowed."""
    if "Origin" not in request.headers or response.prepared:
        return
    response.headers.add("Vary", "Origin")
    # Browsers ask for every module with an Origin, and their own page's needs no permission.
    if isinstance(response, PartOfPage) and _is_own(request):
        return
    if _is_allowed(request):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
