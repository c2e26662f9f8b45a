"""/api/v1/memories: what personas remember of the person who asks. Nobody sees another's.

GET lists, POST adds, PUT and DELETE change and erase one by its id. DELETE on the list erases
all (`?all=1`) or those of one persona (`?persona=`). `/export` is everything as one JSON file,
`/settings` the choice whether anything is remembered at all.
"""

from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from ai_bridge.memory.types import MAX_TEXT_CHARS, Kind
from protocol.codes import Code
from protocol.types import U
from server.auth import Claims
from server.errors import ServiceError
from server.http.callers import HttpCaller
from server.http.openai_routes import dress_for
from server.http.typed import Api, Call, Media
from server.memory_book import MAX_PAGE, MemoryBook, MemoryPage, MemoryView

_PATH: Final = "/api/v1/memories"
_ONE: Final = _PATH + r"/{id:\d{1,16}}"

Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS * 4)]
Word = Annotated[str, Meta(max_length=16)]


class MemoryBody(Struct):
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


class ListQuery(Struct):
    """Without a persona, of all; `limit` counts up to 100."""

    persona: U = 0
    cursor: str = ""
    limit: U = MAX_PAGE


class EraseQuery(Struct):
    persona: U = 0
    all: str = ""


api = Api("memories")


def _book(call: Call[Any, Any, Any]) -> MemoryBook:
    return MemoryBook(call.core.store)


@api.route("GET", _PATH, "List what personas remember of you")
async def _list(call: Call[Claims, ListQuery, None]) -> MemoryPage:
    asked = call.query
    return await _book(call).page(call.who.user, asked.persona, asked.cursor, asked.limit)


@api.route(
    "POST",
    _PATH,
    "Tell a persona what to remember",
    status=201,
    errors=(404, 409),
    repeatable=True,
    example={"persona": 1, "text": "Likes green tea."},
)
async def _add(call: Call[Claims, None, MemoryBody]) -> MemoryView:
    claims, body = call.who, call.body
    call.core.personas.require(HttpCaller(claims.user, claims.tenant), body.persona)
    return await _book(call).add(
        claims.user, claims.tenant, body.persona, body.text, body.kind, body.pinned
    )


@api.route("PUT", _ONE, "Change a memory", errors=(409,), example={"pinned": True})
async def _change(call: Call[Claims, None, ChangeBody]) -> MemoryView:
    body = call.body
    return await _book(call).change(
        call.who.user, call.number("memory"), body.text, body.kind, body.pinned
    )


@api.route("DELETE", _ONE, "Erase a memory")
async def _erase(call: Call[Claims, None, None]) -> None:
    await _book(call).erase(call.who.user, call.number("memory"))


@api.route("DELETE", _PATH, "Erase all memories, or those of one persona")
async def _erase_many(call: Call[Claims, EraseQuery, None]) -> Erased:
    persona = call.query.persona
    if not persona and call.query.all != "1":
        raise ServiceError(
            Code.INVALID,
            "erase what",
            "Say which: ?persona=<id> erases what one persona remembers, ?all=1 everything.",
        )
    return Erased(await _book(call).erase_all(call.who.user, persona))


@api.route(
    "GET",
    _PATH + "/export",
    "Get all memories as one file",
    answers={200: Media("application/json", 'An object with the list "memories"')},
)
async def _export(call: Call[Claims, None, None]) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "application/json"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Disposition"] = 'attachment; filename="memories.json"'
    pages = _book(call).export(call.who.user)
    # The first page before the head: a store that cannot be read is an error, not half a file.
    page: list[MemoryView] = await anext(pages, [])
    dress_for(call.request)(response)
    await response.prepare(call.request)
    if call.request.method == "HEAD":
        return response
    await response.write(b'{"memories":[')
    between = b""
    while page:
        await response.write(between + b",".join(map(msgspec.json.encode, page)))
        between = b","
        page = await anext(pages, [])
    await response.write(b"]}")
    await response.write_eof()
    return response


@api.route("GET", _PATH + "/settings", "Tell whether anything is remembered")
async def _get_settings(call: Call[Claims, None, None]) -> Settings:
    return Settings(await _book(call).is_off(call.who.user))


@api.route(
    "PUT", _PATH + "/settings", "Choose whether anything is remembered", example={"off": False}
)
async def _put_settings(call: Call[Claims, None, Settings]) -> Settings:
    await _book(call).set_off(call.who.user, call.body.off)
    return call.body


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
