"""DELETE /api/v1/me, DELETE /api/v1/conversations/<id>: erasing for good, asked for by people.

Both answer 202: it is decided, and what is left to do goes on by itself.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import ConvKind, Role
from server.accounts import not_permitted_to
from server.auth import Claims
from server.http.callers import HttpCaller
from server.http.context import address_of
from server.http.typed import Api, Call

Text = Annotated[str, Meta(max_length=1024)]


class EraseBody(Struct):
    """`password`: the account's, asked once more; accounts without one leave it out."""

    password: Text = ""


class Erasing(Struct):
    """What is being erased."""

    erasing: int


api = Api("me")


@api.route("DELETE", "/api/v1/me", "Erase one's account for good", status=202)
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


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
