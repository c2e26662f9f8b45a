"""Small pictures of people, personas and rooms. A picture never changes: its id is its version."""

from typing import Final

from aiohttp import web
from msgspec import Struct

from protocol.codes import Code
from server.auth import Claims
from server.errors import ServiceError, not_found
from server.http.bodies import read_body
from server.http.errors import HttpRefusal
from server.http.tags import HEADER as TAG_HEADER
from server.http.tags import has_already
from server.http.typed import Api, Call, Media
from storage.ids import new_id
from storage.people import MAX_AVATAR_BYTES, add_avatar, get_avatar

_YEAR_S: Final = 31_536_000


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


api = Api("avatars")
_ABOUT: Final = "PNG, JPEG, WebP or GIF of up to 256 KiB"
_PICTURE: Final = tuple(
    Media(kind, _ABOUT) for kind in ("image/png", "image/jpeg", "image/webp", "image/gif")
)


@api.route(
    "PUT",
    "/api/v1/avatars",
    "Upload a small picture",
    status=201,
    body=(Media("application/octet-stream", _ABOUT), *_PICTURE),
    repeatable=True,
)
async def _put(call: Call[Claims, None, None]) -> Stored:
    request, claims = call.request, call.who
    wait_s = call.core.uploads.admit(claims.user)
    if wait_s:
        raise ServiceError(Code.RATE, "too many uploads", None, int(wait_s * 1000) + 1)
    data = await read_body(request, MAX_AVATAR_BYTES)
    mime = image_type(data)
    if mime is None:
        raise HttpRefusal(415, "not a picture", "Send a PNG, JPEG, WebP or GIF of up to 256 KiB.")
    avatar = new_id()
    await call.core.store.change(
        [], lambda tx: add_avatar(tx, claims.tenant, claims.user, mime, data, avatar)
    )
    return Stored(avatar)


@api.route(
    "GET",
    r"/api/v1/avatars/{id:\d{1,16}}",
    "Get a picture",
    answers={200: _PICTURE, 304: None},
    headers=TAG_HEADER,
)
async def _get(call: Call[None, None, None]) -> web.Response:
    request, avatar_id = call.request, call.number("avatar")
    etag = f'"{avatar_id}"'
    if has_already(request, str(avatar_id)):
        return web.Response(status=304, headers=_cached(etag))
    avatar = await call.core.store.read(get_avatar(avatar_id))
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
    """Return the routes of this file."""
    return api.routes()
