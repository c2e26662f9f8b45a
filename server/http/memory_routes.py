"""/api/v1/memories: what personas remember of the person who asks. Nobody sees another's.

GET lists, POST adds, PUT and DELETE change and erase one by its id. DELETE on the list erases
all (`?all=1`) or those of one persona (`?persona=`). `/export` is everything as one JSON file,
`/settings` the choice whether anything is remembered at all.
"""

from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from ai_bridge.memory.types import MAX_TEXT_CHARS, Kind
from protocol.codes import Code
from protocol.types import MAX_INT
from server.auth import Claims
from server.errors import ServiceError, invalid, not_found
from server.http.bodies import json_response, read_json
from server.http.callers import HttpCaller
from server.http.context import parts_of, require_user
from server.memory_book import MAX_PAGE, MemoryBook, MemoryView

_PATH: Final = "/api/v1/memories"
_ONE: Final = _PATH + r"/{id:\d{1,16}}"

Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS * 4)]
Word = Annotated[str, Meta(max_length=16)]


class AddBody(Struct):
    persona: int
    text: Text
    kind: Word = Kind.OTHER.value
    pinned: bool = False


class ChangeBody(Struct):
    """Fields that are missing stay as they are."""

    text: Text | None = None
    kind: Word | None = None
    pinned: bool | None = None


class Settings(Struct):
    """`off`: nothing is learnt and nothing recalled."""

    off: bool


class Erased(Struct):
    """How many memories are gone."""

    erased: int


def _book(request: web.Request) -> MemoryBook:
    return MemoryBook(parts_of(request).core.store)


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:17]) <= MAX_INT):
        raise invalid(what, f"{what} is a number.")
    return int(text)


def _id_of(request: web.Request) -> int:
    given = int(request.match_info["id"])
    if not 0 < given <= MAX_INT:
        raise not_found("memory")
    return given


async def _list(request: web.Request) -> web.Response:
    claims = await require_user(request)
    asked = request.query
    persona = _number(asked.get("persona", "0"), "persona")
    limit = _number(asked.get("limit", str(MAX_PAGE)), "limit")
    return json_response(
        await _book(request).page(claims.user, persona, asked.get("cursor", ""), limit)
    )


async def _add(request: web.Request) -> web.Response:
    claims = await require_user(request)
    body = await read_json(request, AddBody)
    _require_persona(request, claims, body.persona)
    made = await _book(request).add(
        claims.user, claims.tenant, body.persona, body.text, body.kind, body.pinned
    )
    return json_response(made, status=201)


def _require_persona(request: web.Request, claims: Claims, persona: int) -> None:
    personas = parts_of(request).core.personas
    personas.require(HttpCaller(claims.user, claims.tenant), persona)


async def _change(request: web.Request) -> web.Response:
    claims = await require_user(request)
    body = await read_json(request, ChangeBody)
    changed = await _book(request).change(
        claims.user, _id_of(request), body.text, body.kind, body.pinned
    )
    return json_response(changed)


async def _erase(request: web.Request) -> web.Response:
    claims = await require_user(request)
    await _book(request).erase(claims.user, _id_of(request))
    return web.Response(status=204)


async def _erase_many(request: web.Request) -> web.Response:
    claims = await require_user(request)
    persona = _number(request.query.get("persona", "0"), "persona")
    if not persona and request.query.get("all") != "1":
        raise ServiceError(
            Code.INVALID,
            "erase what",
            "Say which: ?persona=<id> erases what one persona remembers, ?all=1 everything.",
        )
    return json_response(Erased(await _book(request).erase_all(claims.user, persona)))


async def _export(request: web.Request) -> web.StreamResponse:
    claims = await require_user(request)
    response = web.StreamResponse()
    response.content_type = "application/json"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Disposition"] = 'attachment; filename="memories.json"'
    pages = _book(request).export(claims.user)
    # The first page before the head: a store that cannot be read is an error, not half a file.
    page: list[MemoryView] = await anext(pages, [])
    await response.prepare(request)
    await response.write(b'{"memories":[')
    between = b""
    while page:
        await response.write(between + b",".join(map(msgspec.json.encode, page)))
        between = b","
        page = await anext(pages, [])
    await response.write(b"]}")
    await response.write_eof()
    return response


async def _get_settings(request: web.Request) -> web.Response:
    claims = await require_user(request)
    return json_response(Settings(await _book(request).is_off(claims.user)))


async def _put_settings(request: web.Request) -> web.Response:
    claims = await require_user(request)
    body = await read_json(request, Settings)
    await _book(request).set_off(claims.user, body.off)
    return json_response(body)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.get(_PATH, _list),
        web.post(_PATH, _add),
        web.delete(_PATH, _erase_many),
        web.get(_PATH + "/export", _export),
        web.get(_PATH + "/settings", _get_settings),
        web.put(_PATH + "/settings", _put_settings),
        web.put(_ONE, _change),
        web.delete(_ONE, _erase),
    ]
