"""Searching one conversation: its messages are looked through, newest first.

No index: a request looks through a bounded number of messages and says where the next one goes on.
So it finds any piece of a text, in any language, and costs nothing while nobody searches. One
search runs at a time, so that however many are asked for, other reads find the database free.
"""

import asyncio
import contextlib
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from protocol.codes import Code
from protocol.envelopes import History
from protocol.rows import Msg
from protocol.types import MAX_LIMIT, Limit, U
from server.errors import ServiceError
from server.handlers.messages import PAGE_BYTES
from server.http.conversation_routes import ONE, conversation_of
from server.http.serving import admit
from server.http.typed import Api, Call, Person
from server.http.views import MessageView, message_view
from server.metrics import Figure
from storage.messages import history
from storage.ops import Op

MAX_MESSAGES: Final = 2_000
"""Messages that one request looks through."""
MAX_CHARS: Final = 1 << 20
"""Characters that it looks through, give or take one reading."""
READ_CHARS: Final = 128 * 1024
"""Characters that one reading is meant to bring; the first brings `FIRST_READ` messages."""
FIRST_READ: Final = 10
WAITING: Final = 64
"""Searches that wait in all."""
USER_AT_ONCE: Final = 4
"""Searches of one user, the one that runs included."""

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


class SearchGate:
    """Lets one search run at a time; the others wait in the order in which they came.

    Attributes:
        refused: searches that found no place.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._of_user: Counter[int] = Counter()
        self.refused = 0

    @contextlib.asynccontextmanager
    async def place(self, user: int) -> AsyncIterator[None]:
        """Wait for one's turn and hold it.

        Raises:
            ServiceError: RATE, the user's own searches are too many; OVERLOADED, all together.
        """
        if self._of_user[user] >= USER_AT_ONCE:
            self.refused += 1
            text = "Your earlier searches are still running. Wait a moment and ask again."
            raise ServiceError(Code.RATE, "too many searches", text, 1000)
        if self._of_user.total() > WAITING:
            self.refused += 1
            text = "Many people are searching. Wait a moment and ask again."
            raise ServiceError(Code.OVERLOADED, "too many searches", text, 2000)
        self._of_user[user] += 1
        try:
            async with self._turn:
                yield
        finally:
            self._of_user[user] -= 1
            if not self._of_user[user]:
                del self._of_user[user]

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        text = "Searches that run or wait."
        yield Figure("gauge", "searches", text, self._of_user.total())
        text = "Searches refused because too many were waiting."
        yield Figure("counter", "searches_refused", text, self.refused)


GATE: Final = web.AppKey("search_gate", SearchGate)

api = Api("messages")


@api.route("GET", ONE + "/search", "Search in a conversation")
async def _search(call: Call[Person, SearchQuery, None]) -> Found:
    """Finds what contains the text, capitals or not; the last page may be short of the limit."""
    admit(call, History)
    conv, asked = conversation_of(call), call.query
    entry = await call.core.directory.require(conv, call.who)
    floor = entry.floor(call.who.user)
    look = find(conv, _folded(asked.query.strip()), asked.before, asked.limit, floor)
    async with call.request.app[GATE].place(call.who.user):
        found, before = await call.core.store.read(look)
    return Found([message_view(conv, msg) for msg in found], before)


def find(conv: int, wanted: str, before: int, limit: int, floor: int) -> Op[tuple[list[Msg], int]]:
    """Return messages that contain a folded text, newest first, and where to go on (0: nowhere).

    Read in pieces that are the smaller the longer the messages are: on SQLite this runs in a
    thread of the store, on MySQL the loop looks through one piece at a time.
    """
    found: list[Msg] = []
    size = looked = chars = 0
    reading = min(FIRST_READ, MAX_LIMIT)
    while looked < MAX_MESSAGES and chars < MAX_CHARS:
        msgs, more = yield from history(conv, before, True, reading, floor)
        for msg in reversed(msgs):
            before = msg.seq
            looked += 1
            chars += len(msg.text)
            if wanted in _folded(msg.text):
                found.append(msg)
                size += len(msg.text.encode())
                if len(found) == limit or size > PAGE_BYTES:
                    return found, before if before > 1 else 0
        if not more or not msgs:
            return found, 0
        reading = max(1, min(MAX_LIMIT, READ_CHARS * looked // max(1, chars)))
    return found, before


def _folded(text: str) -> str:
    """As messages are stored, and without capitals."""
    return unicodedata.normalize("NFC", text).casefold()


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs a `SearchGate` first."""
    return api.routes()
