"""GET /api/v1/usage: what the caller's own AI answers used. Nobody sees another's.

Without a query: today and this month (UTC), and what may be spent in them. With `?since=` and
`until=` (dates, both included): the days in between on which anything was used, 31 at most in
one answer; `cursor` of the answer, given back, goes on where it ended. An API key is told its own.
"""

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct

from protocol.rows import Use
from server.errors import invalid
from server.http.callers import HttpCaller
from server.http.typed import Api, Call
from server.own_use import read_use
from storage.usage import DayUse, usage_by_day

if TYPE_CHECKING:
    from server.core import Core

PAGE_DAYS: Final = 31
MAX_DAYS: Final = 366
EPOCH: Final = date(1970, 1, 1)


class SpanBody(Struct):
    """Tokens and micro-dollars of a day or month; `limit_micro` 0: nothing bounds it."""

    tokens_in: int
    tokens_out: int
    spent_micro: int
    limit_micro: int
    resets: int


class UsageBody(Struct):
    today: SpanBody
    month: SpanBody


class DayBody(Struct):
    """One UTC day with its date."""

    day: str
    answers: int
    tokens_in: int
    tokens_out: int
    spent_micro: int


class DaysBody(Struct):
    """A page of days; `cursor` is empty at the end."""

    days: list[DayBody]
    cursor: str


Day = Annotated[str, Meta(extra_json_schema={"format": "date"}, max_length=10)]


class UsageQuery(Struct):
    """Dates, both included; without `since`, today and this month."""

    since: Day | None = None
    until: Day | None = None
    cursor: Day | Literal[""] = ""


api = Api("usage")


@api.route("GET", "/api/v1/usage", "Tell what one's AI answers used")
async def _usage(call: Call[HttpCaller, UsageQuery, None]) -> UsageBody | DaysBody:
    caller, core, asked = call.who, call.core, call.query
    if asked.since is None:
        today, month = await read_use(core, caller)
        return UsageBody(_span(today), _span(month))
    first, last = read_range(core, asked.since, asked.until)
    if asked.cursor:
        first = max(first, _date(asked.cursor, "cursor"))
    count = max(0, min(PAGE_DAYS, (last - first).days + 1))
    days: list[DayUse] = []
    if count:
        number = (first - EPOCH).days
        days = await core.store.read(usage_by_day(caller.tenant, caller.user, number, count))
    following = first + timedelta(days=count)
    cursor = following.isoformat() if following <= last else ""
    return DaysBody(list(map(_day, days)), cursor)


def read_range(core: "Core", since: str, until: str | None) -> tuple[date, date]:
    """Return the first and the last day of a request; without the second until today (UTC).

    Raises:
        ServiceError: INVALID, they are no days, or too many.
    """
    now = datetime.fromtimestamp(core.now_ms() / 1000, UTC).date()
    first = _date(since, "since")
    last = _date(now.isoformat() if until is None else until, "until")
    if not timedelta() <= last - first < timedelta(days=MAX_DAYS):
        raise invalid("range", f"`until` is not before `since`, and at most {MAX_DAYS} days on.")
    return first, last


def _date(text: str, what: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise invalid(what, f"`{what}` is a date such as 2026-01-31.") from None
    if not 1970 <= found.year <= 9000:
        raise invalid(what, f"`{what}` is a date from 1970 on.")
    return found


def _span(use: Use) -> SpanBody:
    return SpanBody(use.used_in, use.used_out, use.spent, use.quota, use.resets)


def _day(use: DayUse) -> DayBody:
    day = (EPOCH + timedelta(days=use.day)).isoformat()
    return DayBody(day, use.turns, use.tokens_in, use.tokens_out, use.cost_micro)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
