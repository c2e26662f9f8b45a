"""Small pictures of people, personas and rooms. A picture never changes: its id is its version."""

from collections.abc import Callable
from typing import Final

from aiohttp import web
from msgspec import Struct

from protocol.codes import Code
from protocol.types import MAX_INT
from server.errors import ServiceError, not_found
from server.http.bodies import json_response, read_body
from server.http.context import parts_of, require_user
from server.http.errors import HttpRefusal
from server.throttle import Allowance
from storage.ids import new_id
from storage.people import MAX_AVATAR_BYTES, add_avatar, get_avatar

_YEAR_S: Final = 31_536_000
_UPLOADS: Final = (0.2, 10.0)  # per second and at once, of one user

UPLOADS: Final = web.AppKey("uploads", Allowance)


class Stored(Struct):
    """The answer to an upload."""

    id: int


def image_type(data: bytes) -> str | None:
    """Return what kind of picture data is by its first bytes; what the sender says is ignored."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


async def _put(request: web.Request) -> web.Response:
    claims = await require_user(request)
    wait_s = request.app[UPLOADS].admit(claims.user)
    if wait_s:
        raise ServiceError(Code.RATE, "too many uploads", None, int(wait_s * 1000) + 1)
    data = await read_body(request, MAX_AVATAR_BYTES)
    mime = image_type(data)
    if mime is None:
        raise HttpRefusal(415, "not a picture", "Send a PNG, JPEG, WebP or GIF of up to 256 KiB.")
    avatar = new_id()
    store = parts_of(request).core.store
    await store.change(
        [], lambda tx: add_avatar(tx, claims.tenant, claims.user, mime, data, avatar)
    )
    return json_response(Stored(avatar), status=201)


async def _get(request: web.Request) -> web.Response:
    avatar_id = int(request.match_info["id"])
    if not 0 < avatar_id <= MAX_INT:
        raise not_found("avatar")
    etag = f'"{avatar_id}"'
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=_cached(etag))
    avatar = await parts_of(request).core.store.read(get_avatar(avatar_id))
    if avatar is None:
        raise not_found("avatar")
    suffix = avatar.mime.partition("/")[2]
    headers = _cached(etag) | {
        "Content-Disposition": f'inline; filename="avatar.{suffix}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return web.Response(body=avatar.data, content_type=avatar.mime, headers=headers)


def _cached(etag: str) -> dict[str, str]:
    return {"Cache-Control": f"public, max-age={_YEAR_S}, immutable", "ETag": etag}


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `UPLOADS`."""
    return [
        web.put("/api/v1/avatars", _put),
        web.get(r"/api/v1/avatars/{id:\d{1,16}}", _get),
    ]


def make_uploads(clock: Callable[[], float]) -> Allowance:
    """Return the bound on uploads of one user."""
    return Allowance(*_UPLOADS, clock)
