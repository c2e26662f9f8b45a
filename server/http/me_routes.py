"""/api/v1/me, /api/v1/users: who one is, and who others are.

DELETE /api/v1/me and DELETE /api/v1/conversations/<id> erase for good. Both answer 202: it is
decided, and what is left to do goes on by itself.
"""

from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct, structs

from protocol.codes import ConvKind, Role
from protocol.envelopes import ProfileSet, UserFind, UserGet, Users
from protocol.rows import User
from protocol.types import S64, S128, S256, Limit, U
from server.accounts import not_permitted_to
from server.auth import Claims
from server.errors import not_found
from server.http.callers import HttpCaller
from server.http.context import address_of
from server.http.serving import serve
from server.http.typed import Api, Call, Person

Text = Annotated[str, Meta(max_length=1024)]


class EraseBody(Struct):
    """`password`: the account's, asked once more; accounts without one leave it out."""

    password: Text = ""


class Erasing(Struct):
    """What is being erased."""

    erasing: int


api = Api("people")


@api.route(
    "DELETE",
    "/api/v1/me",
    "Erase one's account for good",
    status=202,
    example={"password": "the password of the account"},
)
async def _erase_me(call: Call[Claims, None, EraseBody]) -> Erasing:
    parts, claims = call.parts, call.who
    await parts.accounts.confirm(claims, call.body.password, address_of(call.request))
    await parts.core.erasures.erase_user(claims.user)
    return Erasing(claims.user)


@api.route(
    "DELETE",
    r"/api/v1/conversations/{id:\d{1,16}}",
    "Erase one's own conversation with a persona for good",
    status=202,
)
async def _erase_conversation(call: Call[Claims, None, None]) -> Erasing:
    conv, claims, core = call.number("conversation"), call.who, call.core
    entry = await core.directory.require(conv, HttpCaller(claims.user, claims.tenant))
    mine = entry.members[claims.user]
    if entry.kind is not ConvKind.AI or mine.role < Role.OWNER:
        raise not_permitted_to(
            "erase it",
            "Only your own conversation with a persona can be erased whole. Leave or delete this"
            " one instead, and recall what you wrote.",
        )
    await core.erasures.erase_conversation(conv)
    return Erasing(conv)


class ProfileBody(Struct):
    """Fields that are missing stay; `persona` 0 takes the choice back."""

    nick: S64 | None = None
    bio: S256 | None = None
    avatar: U | None = None
    persona: U | None = None


class FindQuery(Struct):
    """`q`: how the name or nickname begins."""

    q: S128
    limit: Limit = 20


class People(Struct):
    users: list[User]


@api.route("GET", "/api/v1/me", "Tell who one is", polled=True)
async def _get_me(call: Call[Person, None, None]) -> User:
    return await _one(call, call.who.user)


@api.route(
    "PUT",
    "/api/v1/me",
    "Change one's profile, or choose a persona",
    errors=(404,),
    example={"nick": "小明"},
)
async def _change_me(call: Call[Person, None, ProfileBody]) -> User:
    await serve(call, ProfileSet(0, User(**structs.asdict(call.body))))
    return await _one(call, call.who.user)


@api.route("GET", "/api/v1/users", "Find people by how their names begin")
async def _find(call: Call[Person, FindQuery, None]) -> People:
    found: Users = await serve(call, UserFind(0, call.query.q, call.query.limit))
    return People(found.items)


@api.route("GET", r"/api/v1/users/{id:\d{1,16}}", "Tell who somebody is", polled=True)
async def _get_user(call: Call[Person, None, None]) -> User:
    return await _one(call, call.number("user"))


async def _one(call: Call[Person, Any, Any], user: int) -> User:
    found: Users = await serve(call, UserGet(0, [user]))
    if not found.items:
        raise not_found("user")
    return found.items[0]


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
