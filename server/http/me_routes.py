"""DELETE /api/v1/me, DELETE /api/v1/conversations/<id>: erasing for good, asked for by people.

Both answer 202: it is decided, and what is left to do goes on by itself.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import ConvKind, Role
from protocol.types import MAX_INT
from server.accounts import not_permitted_to
from server.errors import not_found
from server.http.bodies import json_response, read_json
from server.http.callers import HttpCaller
from server.http.context import address_of, parts_of, require_user

Text = Annotated[str, Meta(max_length=1024)]


class EraseBody(Struct):
    """`password`: the account's, asked once more; accounts without one leave it out."""

    password: Text = ""


class Erasing(Struct):
    """What is being erased."""

    erasing: int


async def _erase_me(request: web.Request) -> web.Response:
    claims = await require_user(request)
    body = await read_json(request, EraseBody)
    parts = parts_of(request)
    await parts.accounts.confirm(claims, body.password, address_of(request))
    await parts.core.erasures.erase_user(claims.user)
    return json_response(Erasing(claims.user), status=202)


async def _erase_conversation(request: web.Request) -> web.Response:
    claims = await require_user(request)
    conv = int(request.match_info["id"])
    if not 0 < conv <= MAX_INT:
        raise not_found("conversation")
    core = parts_of(request).core
    entry = await core.directory.require(conv, HttpCaller(claims.user, claims.tenant))
    mine = entry.members[claims.user]
    if entry.kind is not ConvKind.AI or mine.role < Role.OWNER:
        raise not_permitted_to(
            "erase it",
            "Only your own conversation with a persona can be erased whole. Leave or delete this"
            " one instead, and recall what you wrote.",
        )
    await core.erasures.erase_conversation(conv)
    return json_response(Erasing(conv), status=202)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.delete("/api/v1/me", _erase_me),
        web.delete(r"/api/v1/conversations/{id:\d{1,16}}", _erase_conversation),
    ]
