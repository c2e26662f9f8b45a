"""The figures over time, the AI answers and the alerts, for a dashboard.

For API keys with the scope `dashboard`. Figures are of the process as a whole and name nobody.
Answers (running ones, and the last that ended) are those of the key's tenant; a key with the scope
`operator` as well sees those of all tenants. What a key sees, it may cancel.

`/ws/dashboard` takes the key from a header or, as browsers can set none, as its first message:
`{"key": "pk_..."}`. It then sends one text message a second.
"""

import asyncio
import contextlib
import logging
from typing import Annotated, Final

import msgspec
from aiohttp import WSMsgType, web
from msgspec import Meta, Struct

from protocol.codes import WEBSOCKET_CLOSE_BASE, Code
from protocol.types import MAX_INT
from server.errors import ServiceError, explain, not_found
from server.http.context import bearer_of, parts_of
from server.http.dashboard import DASHBOARD, EVERYBODY, Points, Realtime, Viewer
from server.http.errors import HttpRefusal
from server.http.typed import Api, Call
from server.sampler import EndedTurn, RunningTurn, running_turns
from storage.errors import StorageError
from storage.rows import ApiKey

log = logging.getLogger("parlance.dashboard")

api: Final = Api("dashboard")

KEY_WITHIN_S: Final = 5.0
KEY_AGAIN_S: Final = 10.0
"""How long a viewer stays whose key was revoked."""
MAX_MESSAGE_BYTES: Final = 1024
MAX_MESSAGES: Final = 16
"""Messages that a viewer may send; nothing is read of them."""
PAGE: Final = 100
_PATH: Final = "/api/v1/dashboard"


class HistoryQuery(Struct):
    """`1s`: ten minutes, `1m`: a day, `1h`: thirty days."""

    bucket: str = "1s"


class TurnsQuery(Struct):
    after: Annotated[int, Meta(ge=0, le=MAX_INT)] = 0


class LatestTurns(Struct):
    """Answers that wait or run, oldest first, and (on the first page) the last that ended.

    `cursor`, given back as `after`, goes on; 0 at the end. `operator`: they are of all tenants.
    """

    running: list[RunningTurn]
    recent: list[EndedTurn]
    cursor: int
    operator: bool


class Cancelled(Struct):
    sid: int
    cancelled: bool = True


class _FirstMessage(Struct):
    key: str


@api.route(
    "GET", "/v1/dashboard/realtime", "Tell how the server is now",
    scope="dashboard", answers={200: Realtime},
)  # fmt: skip
async def _realtime(call: Call[ApiKey, None, None]) -> web.Response:
    return _json(call.request.app[DASHBOARD].body(_tenant_of(call.who)))


@api.route(
    "GET", _PATH + "/history", "Tell how the server was",
    scope="dashboard", answers={200: Points},
)  # fmt: skip
async def _history(call: Call[ApiKey, HistoryQuery, None]) -> web.Response:
    return _json(call.request.app[DASHBOARD].history(call.query.bucket))


@api.route(
    "GET", _PATH + "/turns", "List AI answers that run, and the last ones", scope="dashboard"
)
async def _turns(call: Call[ApiKey, TurnsQuery, None]) -> LatestTurns:
    tenant, after = _tenant_of(call.who), call.query.after
    found = [one for one in _seen(call.request, tenant) if one.sid > after]
    recent = [] if after else call.request.app[DASHBOARD].recent(tenant)
    cursor = found[PAGE - 1].sid if len(found) > PAGE else 0
    return LatestTurns(found[:PAGE], recent, cursor, tenant == EVERYBODY)


@api.route(
    "POST", _PATH + r"/turns/{sid:\d{1,16}}/cancel", "Cancel an AI answer",
    scope="dashboard", errors=(404,),
)  # fmt: skip
async def _cancel(call: Call[ApiKey, None, None]) -> Cancelled:
    """What it said so far is kept, as if the person had stopped it."""
    sid = call.number("answer", "sid")
    # What runs in another tenant looks like what never ran.
    if not any(one.sid == sid for one in _seen(call.request, _tenant_of(call.who))):
        raise not_found("answer")
    call.core.turns.cancel(sid)
    log.info("turn.cancelled_by_key", extra={"sid": sid, "key": call.who.id})
    return Cancelled(sid)


def _seen(request: web.Request, tenant: int) -> list[RunningTurn]:
    running = running_turns(parts_of(request).core)
    return [one for one in running if tenant in (EVERYBODY, one.tenant)]


def _tenant_of(key: ApiKey) -> int:
    """Return whose answers a key may see."""
    return EVERYBODY if "operator" in key.scopes else key.tenant


def _json(body: bytes) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=body, content_type="application/json", headers=headers)


# the WebSocket


async def _watch(request: web.Request) -> web.StreamResponse:
    """Serve one viewer to its end."""
    _check_upgrade(request)
    text = ""
    if "X-API-Key" in request.headers or "Authorization" in request.headers:
        text = bearer_of(request)
        await parts_of(request).accounts.api_keys.require(text, "dashboard")
    ws = web.WebSocketResponse(
        compress=False, max_msg_size=MAX_MESSAGE_BYTES, heartbeat=30.0, timeout=1.0
    )
    await ws.prepare(request)
    transport = request.transport
    if transport is None:
        return ws
    try:
        text = text or await _first_message(ws)
        key = await parts_of(request).accounts.api_keys.require(text, "dashboard")
        with request.app[DASHBOARD].watched_by(Viewer(ws, transport, _tenant_of(key))):
            await _until_gone(request, ws, text)
    except (ServiceError, StorageError) as error:
        failure = explain(error)
        code = failure.code if failure is not None else Code.INTERNAL
        reason = failure.reason if failure is not None else "internal error"
        await ws.close(code=WEBSOCKET_CLOSE_BASE + int(code), message=reason.encode()[:100])
    return ws


def _check_upgrade(request: web.Request) -> None:
    """Refuse what is no WebSocket, and pages of other origins (RFC 6455 §10.2)."""
    origins = request.headers.getall("Origin", [])
    host = request.headers.get("Host", "")
    if origins and not parts_of(request).core.origins.allows(origins, host):
        raise HttpRefusal(403, "origin refused", "Pages of this origin may not call the server.")
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise HttpRefusal(426, "upgrade required", "Open this address as a WebSocket.")


async def _first_message(ws: web.WebSocketResponse) -> str:
    """Return the key that a browser sends.

    Raises:
        ServiceError: BAD_CREDENTIALS, none came in time.
    """
    try:
        message = await ws.receive(timeout=KEY_WITHIN_S)
        if message.type is WSMsgType.TEXT:
            return msgspec.json.decode(message.data, type=_FirstMessage).key
    except (TimeoutError, msgspec.DecodeError):
        pass
    raise ServiceError(Code.BAD_CREDENTIALS, "no key")


async def _until_gone(request: web.Request, ws: web.WebSocketResponse, text: str) -> None:
    """Wait for the viewer's end, and see now and then that its key is still good.

    Raises:
        ServiceError: it is not, or the viewer talks too much.
    """
    keys = parts_of(request).accounts.api_keys
    loop = asyncio.get_running_loop()
    check_at = loop.time() + KEY_AGAIN_S
    for _ in range(MAX_MESSAGES):
        while True:
            try:
                message = await ws.receive(timeout=max(0.01, check_at - loop.time()))
                break
            except TimeoutError:
                check_at = loop.time() + KEY_AGAIN_S
                with contextlib.suppress(StorageError):  # a store that is away revokes nothing
                    await keys.require(text, "dashboard")
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return
    raise ServiceError(Code.RATE, "too many messages")


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `dashboard.install` first."""
    return [*api.routes(), web.get("/ws/dashboard", _watch)]
