"""/api/v1/turns: records of the AI answers that one asked for, and those under way.

Nobody sees another's records: what an answer cost is the business of who asked.
"""

from typing import Annotated, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct

from protocol.envelopes import Cancel
from protocol.types import Id, Limit, Ms
from server.errors import invalid, not_found
from server.http.conversation_routes import ONE, conversation_of
from server.http.serving import serve
from server.http.typed import Api, Call, Person
from server.http.views import TurnView, turn_view
from server.streams import Stream
from storage.rows import TurnStatus
from storage.turns import TurnFilter, get_turn, turns_asked_by

_PATH: Final = "/api/v1/turns"
_TURN: Final = _PATH + r"/{id:\d{1,16}}"
Status = Literal["queued", "running", "done", "cancelled", "failed", "interrupted"]


class TurnsQuery(Struct):
    """`since` and `until`: when it was asked for, in Unix milliseconds; until is not included."""

    conversation: Id | None = None
    status: Status | None = None
    since: Ms = 0
    until: Ms = 0
    cursor: Annotated[str, Meta(max_length=16, pattern="^[0-9]*$")] = ""
    limit: Limit = 50


class TurnPage(Struct):
    """Newest first; `cursor` asks for the next page, "" at the end."""

    turns: list[TurnView]
    cursor: str


class RunningView(Struct):
    """An answer under way to the message `question`; `place` in the queue, 0 when it runs."""

    turn: int
    question: int
    persona: int
    place: int
    text: str


class Running(Struct):
    turns: list[RunningView]


api = Api("turns")


@api.route("GET", _PATH, "List the AI answers that one asked for")
@api.route("GET", "/api/ai/records", "List the AI answers that one asked for")
async def _list(call: Call[Person, TurnsQuery, None]) -> TurnPage:
    asked = call.query
    if asked.until and asked.until <= asked.since:
        raise invalid("until", "`until` is after `since`.")
    status = None if asked.status is None else TurnStatus[asked.status.upper()]
    wanted = TurnFilter(asked.conversation, status, asked.since, asked.until)
    rows = await call.core.store.read(
        turns_asked_by(call.who.user, wanted, int(asked.cursor or 0), asked.limit + 1)
    )
    page = rows[: asked.limit]
    return TurnPage(list(map(turn_view, page)), str(page[-1].sid) if len(rows) > len(page) else "")


@api.route("GET", _TURN, "Get the record of one answer", polled=True)
async def _get(call: Call[Person, None, None]) -> TurnView:
    row = await call.core.store.read(get_turn(call.number("turn")))
    if row is None or (row.user, row.tenant) != (call.who.user, call.who.tenant):
        raise not_found("turn")
    return turn_view(row)


@api.route("POST", _TURN + "/cancel", "Stop an answer")
async def _cancel(call: Call[Person, None, None]) -> None:
    """What it said so far is kept. To stop one that has ended changes nothing."""
    await serve(call, Cancel(0, call.number("turn")))


@api.route("GET", ONE + "/turns", "List the answers under way in a conversation", polled=True)
async def _running(call: Call[Person, None, None]) -> Running:
    entry = await call.core.directory.require(conversation_of(call), call.who)
    return Running([_running_view(stream) for stream in call.core.streams.of(entry.id)])


def _running_view(stream: Stream) -> RunningView:
    text = "" if stream.turn is None else stream.turn.text()
    return RunningView(stream.sid, stream.ask, stream.persona, stream.place, text)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
