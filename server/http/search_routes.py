"""Searching one conversation: its messages are looked through, newest first.

No index: a request looks through a bounded number of messages and says where the next one goes on.
So it finds any piece of a text, in any language, and costs nothing while nobody searches.
"""

import unicodedata
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.envelopes import History
from protocol.types import MAX_LIMIT, Limit, U
from server.handlers.messages import read_history
from server.http.conversation_routes import ONE, conversation_of
from server.http.serving import admit
from server.http.typed import Api, Call, Person
from server.http.views import MessageView, message_view

MAX_PAGES: Final = 20
"""Pages of the history that one request looks through."""

SearchText = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\S", title="SearchText")]


class SearchQuery(Struct):
    """`before`: only messages below this number; 0: all."""

    query: SearchText
    before: U = 0
    limit: Limit = 20


class Found(Struct):
    """Newest first. `before`: ask again with it for what is older; 0: that is all."""

    messages: list[MessageView]
    before: int


api = Api("messages")


@api.route("GET", ONE + "/search", "Search in a conversation")
async def _search(call: Call[Person, SearchQuery, None]) -> Found:
    """Finds what contains the text, capitals or not; the last page may be short of the limit."""
    admit(call, History)
    conv, asked = conversation_of(call), call.query
    wanted = _folded(asked.query.strip())
    found: list[MessageView] = []
    before = asked.before
    for _ in range(MAX_PAGES):
        page = await read_history(call.core, call.who, History(0, conv, before, True, MAX_LIMIT))
        for msg in reversed(page.msgs):
            if wanted in _folded(msg.text):
                found.append(message_view(conv, msg))
                if len(found) == asked.limit:
                    return Found(found, msg.seq if msg.seq > 1 else 0)
        if not page.more or not page.msgs:
            return Found(found, 0)
        before = page.msgs[0].seq
    return Found(found, before)


def _folded(text: str) -> str:
    """As messages are stored, and without capitals."""
    return unicodedata.normalize("NFC", text).casefold()


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
