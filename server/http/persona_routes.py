"""/api/v1/personas: list, make, change, remove; as character cards: POST a file, GET it back."""

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct, structs

from protocol.codes import Code
from protocol.envelopes import (
    PersonaDrop,
    PersonaGet,
    PersonaInfo,
    PersonaList,
    PersonaPush,
    PersonaSave,
)
from protocol.rows import GenOpt, Persona
from protocol.types import S32, S64, S128, S2000, S16000, Limit, U
from server.auth import Claims
from server.card_errors import CardError
from server.card_parts import parts_of
from server.cards import (
    MAX_FILE_BYTES,
    Card,
    CardFile,
    card_of,
    card_picture,
    edited,
    parse_card,
    read_card_file,
)
from server.errors import ServiceError, invalid, not_found
from server.http.avatars import image_type
from server.http.bodies import read_body
from server.http.context import HttpParts
from server.http.serving import REPEAT_HEADER, repeat_id, serve
from server.http.typed import Api, Call, Media, Person, Reply
from server.throttle import Allowance
from storage.ids import new_id
from storage.ops import Op
from storage.people import get_avatar
from storage.persona_cards import MAX_PICTURE_BYTES, add_card_picture, get_card, save_card
from storage.personas import get_personas, save_persona
from storage.writes import Tx

_IMPORTS: Final = (0.2, 10.0)  # per second and at once, of one user
_AT_ONCE: Final = 4
"""Files that are held in memory at the same time."""


class CardGate:
    """Bounds how many cards are taken in: of one user over time, and of all at once.

    Attributes:
        refused: files that found no place.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._allowance = Allowance(*_IMPORTS, clock)
        self._open = 0
        self.refused = 0

    def enter(self, user: int) -> None:
        """Take a place; `leave` gives it back.

        Raises:
            ServiceError: RATE or OVERLOADED.
        """
        wait_s = self._allowance.admit(user)
        if wait_s:
            self.refused += 1
            raise ServiceError(Code.RATE, "too many imports", None, int(wait_s * 1000) + 1)
        if self._open >= _AT_ONCE:
            self.refused += 1
            raise ServiceError(Code.OVERLOADED, "too many imports at once", None, 2000)
        self._open += 1

    def leave(self) -> None:
        self._open -= 1


GATE: Final = web.AppKey("cards", CardGate)
api = Api("personas")
_PATH: Final = "/api/v1/personas"
_ONE: Final = _PATH + r"/{id:\d{1,16}}"
_CARD: Final = "A V1, V2 or V3 card as PNG, JSON or CHARX"


class ImportedPersona(Struct):
    """The answer to an import. `picture` 0: the card had none that can be kept.

    `lore` counts the entries of its lorebook, `skipped_keys` those of their keys that are
    patterns, which are never run.
    """

    id: int
    name: str
    version: Literal[1, 2, 3]
    picture: int
    greetings: int
    lore: int
    skipped_keys: int


@api.route(
    "POST",
    "/api/v1/personas/import",
    "Make a persona from a character card",
    body=tuple(Media(kind, _CARD) for kind in ("application/octet-stream", "image/png", "*/*")),
    answers={200: ImportedPersona, 201: ImportedPersona},
)
async def _import(call: Call[Claims, None, None]) -> Reply[ImportedPersona]:
    """200: this very file made the persona before, and it is still there."""
    claims = call.who
    gate = call.request.app[GATE]
    gate.enter(claims.user)
    try:
        data = await read_body(call.request, MAX_FILE_BYTES)
        file, answer = await asyncio.to_thread(_read, data)
        saved, new = await _save(call.parts, claims.tenant, claims.user, file, data)
    except CardError as error:
        raise invalid("not a usable card", f"{error}. Send a V1, V2 or V3 card.") from None
    finally:
        gate.leave()
    answer.id, answer.name, answer.picture = saved.id or 0, saved.name or "", saved.avatar or 0
    return Reply(answer, 201 if new else 200)


def _read(data: bytes) -> tuple[CardFile, ImportedPersona]:
    file = read_card_file(data)
    parts = parts_of(file.card)
    version: Literal[1, 2, 3] = 3 if file.card.version == 3 else 2 if file.card.version == 2 else 1
    lore = len(parts.lore) if parts.lore is not None else 0
    return file, ImportedPersona(0, "", version, 0, len(parts.greetings), lore, parts.skipped_keys)


async def _save(
    parts: HttpParts, tenant: int, owner: int, file: CardFile, data: bytes
) -> tuple[Persona, bool]:
    """Make the persona, unless this very file made one of this owner that is still there."""
    core = parts.core
    given, text, picture = file.card.row(), file.card.dump(), _keepable(file.picture)
    if picture is not None:
        given.avatar = new_id()
    cid = blake2b(data, digest_size=16).digest()

    def make(tx: Tx) -> Op[tuple[Persona, int]]:
        saved, rev = yield from save_persona(tx, tenant, owner, None, cid, given)
        if rev and saved.id:
            yield from save_card(tx, saved.id, text)
            if picture is not None and saved.avatar:
                yield from add_card_picture(tx, tenant, owner, *picture, saved.avatar)
        return saved, rev

    def publish(result: tuple[Persona, int]) -> None:
        saved, rev = result
        core.personas.put(tenant, saved)
        if rev:
            core.hub.publish((owner,), PersonaPush(rev, saved))

    saved, rev = await core.store.change((owner,), make, publish=publish)
    if saved.deleted:
        cid = new_id().to_bytes(16, "big")
        saved, rev = await core.store.change((owner,), make, publish=publish)
    return saved, rev > 0


def _keepable(picture: bytes | None) -> tuple[str, bytes] | None:
    """Return kind and bytes of a picture that can be kept."""
    if picture is None or len(picture) > MAX_PICTURE_BYTES:
        return None
    mime = image_type(picture)
    return (mime, picture) if mime is not None else None


class CardQuery(Struct):
    """`png`: a picture with the card inside."""

    format: Literal["json", "png"] = "json"


@api.route(
    "GET",
    r"/api/v1/personas/{id:\d{1,16}}/card",
    "Get one's own persona as a character card",
    answers={200: (Media("application/json"), Media("image/png"))},
)
async def _export(call: Call[Claims, CardQuery, None]) -> web.Response:
    kind, core, persona = call.query.format, call.core, call.number("persona")
    found = await core.store.read(get_personas([persona]))
    if not found or found[0].row.owner != call.who.user or found[0].row.deleted:
        raise not_found("persona")
    row = found[0].row
    text = await core.store.read(get_card(persona))
    picture = await core.store.read(get_avatar(row.avatar)) if row.avatar else None
    body = await asyncio.to_thread(_write, row, text, picture.data if picture else None, kind)
    return web.Response(
        body=body,
        content_type="application/json" if kind == "json" else "image/png",
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="persona-{persona}.{kind}"',
        },
    )


def _write(row: Persona, text: str | None, picture: bytes | None, kind: str) -> bytes:
    card: Card = edited(parse_card(text), row) if text is not None else card_of(row)
    return card.dump().encode() if kind == "json" else card_picture(card, picture)


class PersonaBody(Struct):
    """In a change, fields that are missing stay. `scope`: 0 for oneself, 1 for the tenant."""

    name: S64 | None = None
    prompt: S16000 | None = None
    greeting: S2000 | None = None
    avatar: U | None = None
    tags: Annotated[list[S32], Meta(max_length=16)] | None = None
    opt: GenOpt | None = None
    scope: U | None = None


class ListQuery(Struct):
    """`scope` 0: one's own, 1: those of the tenant, 2: those that come with the server."""

    scope: U = 0
    cursor: S128 = ""
    limit: Limit = 50


class PersonaPage(Struct):
    """`cursor` asks for the next page, "" at the end."""

    personas: list[Persona]
    cursor: str


@api.route("GET", _PATH, "List the personas that one may use", polled=True)
async def _list(call: Call[Person, ListQuery, None]) -> PersonaPage:
    asked = call.query
    page = await serve(call, PersonaList(0, asked.scope, asked.cursor, asked.limit))
    return PersonaPage(page.items, page.cursor)


@api.route(
    "POST",
    _PATH,
    "Make a persona",
    status=201,
    headers=REPEAT_HEADER,
    example={"name": "小狐", "prompt": "Answer in one sentence."},
)
async def _create(call: Call[Person, None, PersonaBody]) -> Persona:
    return await _save_given(call, Persona(**structs.asdict(call.body)))


@api.route("GET", _ONE, "Get a persona", polled=True)
async def _get(call: Call[Person, None, None]) -> Persona:
    found: PersonaInfo = await serve(call, PersonaGet(0, call.number("persona")))
    return found.p


@api.route("PUT", _ONE, "Change one's own persona", errors=(409,), example={"greeting": "你好！"})
async def _change(call: Call[Person, None, PersonaBody]) -> Persona:
    given = Persona(id=call.number("persona"), **structs.asdict(call.body))
    return await _save_given(call, given)


async def _save_given(call: Call[Person, None, PersonaBody], given: Persona) -> Persona:
    saved: PersonaInfo = await serve(call, PersonaSave(0, repeat_id(call), given))
    return saved.p


@api.route("DELETE", _ONE, "Remove one's own persona")
async def _drop(call: Call[Person, None, None]) -> None:
    """What it said stays readable."""
    await serve(call, PersonaDrop(0, call.number("persona")))


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `GATE`."""
    return api.routes()
