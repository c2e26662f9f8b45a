"""/api/v1/conversations: making, listing and changing conversations, and who is in them."""

from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import ConvKind
from protocol.envelopes import (
    Changed,
    ConvChange,
    ConvCreate,
    ConvDrop,
    ConvGet,
    ConvInfo,
    ConvList,
    ConvPage,
    Mark,
    MemberAdd,
    MemberDrop,
    Members,
    MemberSet,
    MyChange,
)
from protocol.envelopes import MemberPage as MemberReply
from protocol.rows import Conv, ConvSet, Member, MyConv, MySet
from protocol.types import S128, Id, Limit, U
from server.http.serving import REPEAT_HEADER, admit, repeat_id, serve
from server.http.typed import Api, Call, Person

_PATH: Final = "/api/v1/conversations"
ONE: Final = _PATH + r"/{id:\d{1,16}}"
_MEMBER: Final = ONE + r"/members/{user:\d{1,16}}"


class CreateBody(Struct):
    """`kind`: 1 with a persona, 2 with one other person, 3 a group.

    Without `persona` a conversation of kind 1 is with the one that was chosen last.
    """

    title: S128 = ""
    kind: U = int(ConvKind.AI)
    persona: Id | None = None
    members: Annotated[list[Id], Meta(max_length=200)] = []
    set: ConvSet | None = None


class ConversationView(Struct):
    """A conversation, one's own view of it, and how many messages one has not read."""

    conversation: Conv
    my: MyConv
    unread: int


class ConversationInfo(Struct):
    """The same with its members, of which 200 at most are listed here."""

    conversation: Conv
    my: MyConv
    unread: int
    members: list[Member]


class ConversationPage(Struct):
    """Most recently active first; `cursor` asks for the next page, "" at the end."""

    conversations: list[ConversationView]
    cursor: str


class ListQuery(Struct):
    """`archived`: those that were put away, and one's own deleted ones."""

    archived: bool = False
    cursor: S128 = ""
    limit: Limit = 50


class PageQuery(Struct):
    cursor: S128 = ""
    limit: Limit = 50


class MemberPage(Struct):
    """`cursor` asks for the next page, "" at the end."""

    members: list[Member]
    cursor: str


class InviteBody(Struct):
    users: Annotated[list[Id], Meta(min_length=1, max_length=50)]


class RoleBody(Struct):
    """`role`: 1 a member, 2 an administrator; `mute_ms`: for how long from now, 0 not at all."""

    role: U
    mute_ms: U = 0


class ReadBody(Struct):
    """Numbers of the last message that was read, and that was received; they only grow."""

    read: U
    received: U = 0


class Revision(Struct):
    """The feed's number after a change; 0, nothing needed changing."""

    rev: int


api = Api("conversations")


@api.route("GET", _PATH, "List one's conversations", polled=True)
async def _list(call: Call[Person, ListQuery, None]) -> ConversationPage:
    asked = call.query
    page: ConvPage = await serve(call, ConvList(0, asked.archived, asked.cursor, asked.limit))
    mine = {my.conv: my for my in page.mine}
    views = [_view(row, mine[row.id]) for row in page.rows if row.id in mine]
    return ConversationPage(views, page.cursor)


@api.route("POST", _PATH, "Begin a conversation", status=201, errors=(404, 409, 410),
           headers=REPEAT_HEADER, example={"kind": 3, "title": "Supper"})  # fmt: skip
async def _create(call: Call[Person, None, CreateBody]) -> ConversationInfo:
    """Two people have one direct conversation: asking again gives the same."""
    body = call.body
    frame = ConvCreate(
        0, repeat_id(call), body.kind, body.title, body.members, body.persona, body.set
    )
    return _info(await serve(call, frame))


@api.route("GET", ONE, "Get a conversation with its members", polled=True)
async def _get(call: Call[Person, None, None]) -> ConversationInfo:
    return _info(await serve(call, ConvGet(0, conversation_of(call))))


@api.route(
    "PUT",
    ONE,
    "Change a conversation for everybody",
    errors=(409,),
    example={"title": "Supper on Friday"},
)
async def _change(call: Call[Person, None, ConvSet]) -> Revision:
    """Fields that are missing stay; 0, "" or an empty list clears one. `deleted` deletes it or
    brings it back; for a direct conversation that holds for oneself only."""
    return _revision(await serve(call, ConvChange(0, conversation_of(call), call.body)))


@api.route(
    "PUT",
    ONE + "/mine",
    "Change one's own view: archived, pinned, muted, remark, draft",
    example={"pinned": True},
)
async def _change_mine(call: Call[Person, None, MySet]) -> Revision:
    return _revision(await serve(call, MyChange(0, conversation_of(call), call.body)))


@api.route("POST", ONE + "/delete", "Delete as its owner, leave a group, or hide a direct one")
async def _delete(call: Call[Person, None, None]) -> Revision:
    """What an owner deleted can be restored. Erasing for good is the method DELETE."""
    return _revision(await serve(call, ConvDrop(0, conversation_of(call))))


@api.route("POST", ONE + "/restore", "Bring back what was deleted or hidden", errors=(409,))
async def _restore(call: Call[Person, None, None]) -> Revision:
    frame = ConvChange(0, conversation_of(call), ConvSet(deleted=False))
    return _revision(await serve(call, frame))


@api.route("POST", ONE + "/read", "Say how far one has read", example={"read": 1})
async def _read(call: Call[Person, None, ReadBody]) -> None:
    """Written within a second."""
    admit(call, Mark)
    entry = await call.core.directory.require(conversation_of(call), call.who)
    body = call.body
    call.core.marks.marked(entry.id, call.who.user, body.read, body.received or body.read)


@api.route("GET", ONE + "/members", "List the members", polled=True)
async def _members(call: Call[Person, PageQuery, None]) -> MemberPage:
    asked = call.query
    frame = Members(0, conversation_of(call), asked.cursor, asked.limit)
    page: MemberReply = await serve(call, frame)
    return MemberPage(page.items, page.cursor)


@api.route("POST", ONE + "/members", "Add people to a group", errors=(409,), example={"users": [1]})
async def _add(call: Call[Person, None, InviteBody]) -> Revision:
    return _revision(await serve(call, MemberAdd(0, conversation_of(call), call.body.users)))


@api.route(
    "PUT", _MEMBER, "Set a member's role and mute time", example={"role": 1, "mute_ms": 60_000}
)
async def _set_role(call: Call[Person, None, RoleBody]) -> Revision:
    conv, user = conversation_of(call), call.number("member", "user")
    return _revision(await serve(call, MemberSet(0, conv, user, call.body.role, call.body.mute_ms)))


@api.route("DELETE", _MEMBER, "Leave a group, or remove a member")
async def _remove(call: Call[Person, None, None]) -> Revision:
    conv, user = conversation_of(call), call.number("member", "user")
    return _revision(await serve(call, MemberDrop(0, conv, user)))


def conversation_of(call: Call[Any, Any, Any]) -> int:
    """Return the conversation that the path names."""
    return call.number("conversation")


def unread(row: Conv, my: MyConv) -> int:
    """Return how many messages the user has read nowhere yet."""
    return max(0, (row.last_seq or 0) - max(my.read or 0, my.min_seq or 0))


def _view(row: Conv, my: MyConv) -> ConversationView:
    return ConversationView(row, my, unread(row, my))


def _info(found: ConvInfo) -> ConversationInfo:
    return ConversationInfo(found.row, found.my, unread(found.row, found.my), found.members)


def _revision(changed: Changed) -> Revision:
    return Revision(changed.rev)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
