"""What the JSON door does with a message: the services of every other door, one after another."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from protocol.codes import Code, ConvKind, MsgKind, Scope
from protocol.envelopes import (
    ConvCreate,
    ConvList,
    History,
    PersonaDrop,
    PersonaList,
    PersonaSave,
    ProfileSet,
    Send,
)
from protocol.rows import Conv, Persona, SendX, User
from protocol.states import State
from server.directory import Conversation
from server.errors import ServiceError, invalid
from server.handlers import conversations, messages, people, personas
from server.http.avatars import image_type
from server.json_door_codec import (
    DoorAnswer,
    DoorCodec,
    HistoryResponse,
    PersonaListed,
    Talk,
    Translator,
    encode_answer,
    line_of,
    persona_line,
    text_id,
)
from server.json_door_frames import (
    DoorChat,
    DoorHistory,
    DoorPersonaCreate,
    DoorPersonaDelete,
    DoorPersonaList,
    DoorPersonaSelect,
    id_of,
    picture_of,
)
from storage.people import MAX_AVATAR_BYTES, add_avatar

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

WATCHED: Final = 16
TALKS: Final = 64
"""Personas whose conversation one connection remembers."""
PAGE: Final = 100
LOOKED_AT: Final = 3
"""Pages of conversations that are searched for the newest one with a persona."""
SHOWN_TALKS: Final = 20
NO_PICTURE: Final = (
    "The avatar was left out: send a PNG, JPEG, WebP or GIF of up to 256 KiB in base64."
)

Work = Callable[["Session", Any], Awaitable[None]]


class JsonDoor:
    """Handles what only this door says, and holds what its connections share.

    Making one adds its messages to the router's table; no other door can decode them.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.translator = Translator(core)
        core.router.direct(DoorChat, self._chat, 1)
        self._serve(DoorPersonaCreate, self._create, 5)
        self._serve(DoorPersonaSelect, self._select, 2)
        self._serve(DoorPersonaDelete, self._delete, 2)
        self._serve(DoorPersonaList, self._list, 2)
        self._serve(DoorHistory, self._history, 2)

    def _serve(self, kind: type[Any], work: Work, weight: float) -> None:
        def start(core: "Core", session: "Session", f: Any) -> None:
            session.hold_slot()
            core.spawn(session.serve(f.rid, work(session, f)))

        self._core.router.direct(kind, start, weight)

    # talking

    def _chat(self, core: "Core", session: "Session", f: DoorChat) -> None:
        """Find the conversation, then send as every other door does."""
        session.hold_slot()
        core.spawn(self._send(session, f))

    async def _send(self, session: "Session", f: DoorChat) -> None:
        try:
            async with _codec(session).turn:  # what one connection says keeps its order
                entry, persona = await self._place(session, f)
                self._follow(session, entry.id)
                text = f.content or f.message or f.text
                x = SendX(persona=persona) if persona else None
                send = Send(f.rid, entry.id, f.cid, int(MsgKind.TEXT), text, x)
                messages.submit(self._core, entry, session, session, send)
        except Exception as exc:
            session.fail(f.rid, exc)
            session.free_slot()

    async def _place(self, session: "Session", f: DoorChat) -> tuple[Conversation, int]:
        """Return where a message goes, and who is to answer if that has to be said."""
        directory = self._core.directory
        conv = id_of(f.conversation_id, "conversation")
        persona = id_of(f.persona_id, "persona")
        if conv:
            return await directory.require(conv, session), persona
        if not (f.content or f.message or f.text).strip():
            raise invalid("empty message", 'Say something in "content".')
        persona = persona or await self._chosen(session)
        self._core.personas.require(session, persona)
        talks = _codec(session).talks
        known = talks.get(persona)
        entry = None if known is None else directory.get(known)
        if entry is None or entry.row.deleted or session.user not in entry.members:
            conv = await self._newest(session, persona) or await self._begin(session, persona)
            entry = await directory.require(conv, session)
            if len(talks) >= TALKS:
                talks.clear()
            talks[persona] = conv
        return entry, 0

    async def _chosen(self, session: "Session") -> int:
        """Return the persona that somebody has chosen, or else the first of the list."""
        chosen = self._core.personas.choice(session.user)
        if chosen and self._core.personas.may_use(session, chosen):
            return chosen
        for scope in (Scope.PUBLIC, Scope.TENANT, Scope.PRIVATE):
            page = await personas.list_page(self._core, session, PersonaList(0, int(scope), "", 1))
            if page.items:
                return page.items[0].id or 0
        raise invalid("persona", "There is no persona yet. Send persona_create first.")

    async def _newest(self, session: "Session", persona: int) -> int:
        for row in await self._talks(session, persona):
            if row.kind == ConvKind.AI:
                return row.id or 0
        return 0

    async def _talks(self, session: "Session", persona: int) -> list[Conv]:
        """Return conversations, newest first; those with a persona unless it is 0."""
        found: list[Conv] = []
        cursor = ""
        for _ in range(LOOKED_AT):
            ask = ConvList(0, False, cursor, PAGE if persona else SHOWN_TALKS)
            page = await conversations.list_page(self._core, session, ask)
            found += [row for row in page.rows if persona in (0, row.persona)]
            cursor = page.cursor
            if not cursor or found:
                break
        return found[:SHOWN_TALKS]

    async def _begin(self, session: "Session", persona: int) -> int:
        ask = ConvCreate(0, DoorChat().cid, int(ConvKind.AI), "", [], persona)
        made = await conversations.create(self._core, session, ask)
        return made.row.id or 0

    def _follow(self, session: "Session", conv: int) -> None:
        """Have the answers of a conversation come as they grow; the last 16 are followed."""
        if conv in session.watched or session.state is State.CLOSED:
            return
        self._core.hub.watch(session, (*session.watched[1 - WATCHED :], conv))
        self._core.streams.follow(session)

    async def _history(self, session: "Session", f: DoorHistory) -> None:
        conv = id_of(f.conversation_id, "conversation")
        talks: list[Conv] | None = None
        if not conv:
            talks = await self._talks(session, id_of(f.persona_id, "persona"))
            conv = (talks[0].id or 0) if talks else 0
        answer = HistoryResponse(None, [], False, request_id=f.rid)
        if talks is not None:
            answer.conversations = [_talk(row) for row in talks]
        if conv:
            ask = History(0, conv, id_of(f.before, "message"), True, f.limit)
            page = await messages.read_history(self._core, session, ask)
            answer.conversation_id = str(conv)
            answer.messages = [line_of(msg) for msg in page.msgs]
            answer.has_more = page.more
        _say(session, answer)
        if conv:
            self._follow(session, conv)

    # personas

    async def _create(self, session: "Session", f: DoorPersonaCreate) -> None:
        config = f.persona_config
        avatar = await self._store_picture(session, config.avatar) if config.avatar else 0
        given = Persona(name=config.name, prompt=config.prompt, avatar=avatar)
        made = await personas.save(self._core, session, PersonaSave(0, f.cid, given))
        note = NO_PICTURE if config.avatar and not avatar else None
        await self._tell(session, f.rid, persona=made.p.id or 0, note=note)

    async def _store_picture(self, session: "Session", avatar: str) -> int:
        """Keep a picture and return its id, 0 if it is none."""
        data = picture_of(avatar)
        mime = image_type(data) if data is not None else None
        if data is None or mime is None or len(data) > MAX_AVATAR_BYTES:
            return 0
        wait_s = self._core.uploads.admit(session.user)
        if wait_s:
            raise ServiceError(Code.RATE, "too many uploads", None, int(wait_s * 1000) + 1)
        tenant, user, id = session.tenant, session.user, self._core.new_id()
        return await self._core.store.change(
            [], lambda tx: add_avatar(tx, tenant, user, mime, data, id)
        )

    async def _select(self, session: "Session", f: DoorPersonaSelect) -> None:
        persona = id_of(f.persona_id, "persona")
        if not persona:
            raise invalid("persona", "Say which one in persona_id.")
        await people.set_own(self._core, session, ProfileSet(0, User(persona=persona)))
        await self._tell(session, f.rid, persona=persona)

    async def _delete(self, session: "Session", f: DoorPersonaDelete) -> None:
        persona = id_of(f.persona_id, "persona")
        await personas.drop(self._core, session, PersonaDrop(0, persona))
        await self._tell(session, f.rid, persona=persona)

    async def _list(self, session: "Session", f: DoorPersonaList) -> None:
        await self._tell(session, f.rid, cursor=f.cursor)

    async def _tell(
        self,
        session: "Session",
        rid: int,
        persona: int = 0,
        cursor: str = "",
        note: str | None = None,
    ) -> None:
        """Send a page of the personas that somebody may use: own ones, shared ones, public ones."""
        rows, following = await self._page(session, cursor)
        answer = PersonaListed([persona_line(row) for row in rows], note=note, request_id=rid)
        answer.selected_persona_id = text_id(self._core.personas.choice(session.user))
        answer.persona_id = text_id(persona)
        answer.cursor = following or None
        _say(session, answer)

    async def _page(self, session: "Session", cursor: str) -> tuple[list[Persona], str]:
        """Return a page over all scopes, and where the next one begins: "scope:id"."""
        scope, _, after = cursor.partition(":")
        rows: list[Persona] = []
        size = 0
        for level in Scope:
            if scope.isdecimal() and level < int(scope):
                continue
            ask = PersonaList(0, int(level), after, PAGE)
            page = await personas.list_page(self._core, session, ask)
            after = ""
            # One's own that are shared have been listed among one's own.
            rows += [p for p in page.items if not level or p.owner != session.user]
            size += sum(len(p.prompt or "") for p in page.items)
            if page.cursor:
                return rows, f"{int(level)}:{page.cursor}"
            if level is not Scope.PUBLIC and (len(rows) >= PAGE or size > personas.PAGE_BYTES // 4):
                return rows, f"{int(level) + 1}:"
        return rows, ""


def _talk(row: Conv) -> Talk:
    return Talk(str(row.id), row.title or "", text_id(row.persona), row.updated)


def _codec(session: "Session") -> DoorCodec:
    codec = session.codec
    assert isinstance(codec, DoorCodec)
    return codec


def _say(session: "Session", answer: DoorAnswer) -> None:
    session.outbox.reply(encode_answer(answer))
