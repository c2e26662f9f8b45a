"""/api/v1/admin/budgets and /usage: what AI answers may cost a tenant, and what they used.

Who may: see `server.http.admin_routes`. A change holds in this process when it is answered; other
processes take it within five seconds.
"""

from datetime import date
from typing import Annotated, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct

from protocol.types import Limit, U
from server.errors import invalid
from server.http.admin_routes import PATH, Slug, TenantQuery, note, tenant_of
from server.http.typed import Api, Call
from server.http.usage_routes import EPOCH, Day, read_range
from server.money_admin import MAX_DOLLARS, BudgetAdmin
from server.user_admin import UserAdmin
from storage.rows import ApiKey
from storage.usage import BudgetRow, UsageRow

api = Api("admin")

Dollars = Annotated[float, Meta(ge=0, le=MAX_DOLLARS)]
MICRO: Final = 1_000_000


class BudgetView(Struct):
    """Dollars that may be spent; 0: without limit. `user` 0: the tenant as a whole."""

    user: int
    day: float
    month: float


class BudgetPage(Struct):
    """`cursor` asks for the next page, "" at the end."""

    budgets: list[BudgetView]
    cursor: str


class BudgetBody(Struct):
    """Dollars a day and a month; 0 for no limit. `user` 0: the tenant as a whole."""

    day: Dollars = 0.0
    month: Dollars = 0.0
    user: U = 0


class BudgetQuery(Struct):
    tenant: Slug = ""
    cursor: Annotated[str, Meta(max_length=16, pattern="^[0-9]*$")] = ""
    limit: Limit = 50


@api.route("GET", PATH + "/budgets", "List the budgets", scope="admin", errors=(404,))
async def _budgets(call: Call[ApiKey, BudgetQuery, None]) -> BudgetPage:
    asked = call.query
    after = int(asked.cursor) if asked.cursor else -1
    page = await BudgetAdmin(call.core.store, await tenant_of(call)).page(after, asked.limit)
    cursor = str(page[-1].user) if len(page) == asked.limit else ""
    return BudgetPage([_budget(row) for row in page], cursor)


@api.route(
    "PUT", PATH + "/budgets", "Set what answers may cost a tenant or one of its users",
    scope="admin", errors=(404,), example={"day": 5, "month": 100},
)  # fmt: skip
async def _set_budget(call: Call[ApiKey, TenantQuery, BudgetBody]) -> BudgetView:
    body, tenant = call.body, await tenant_of(call)
    if body.user:
        accounts = call.parts.accounts
        await UserAdmin(call.core.store, tenant, accounts.passwords).get(body.user)
    row = await BudgetAdmin(call.core.store, tenant).set(body.user, body.day, body.month)
    await call.parts.refresh()
    note(call, "budget.set", body.user or f"tenant {tenant}")
    return _budget(row)


def _budget(row: BudgetRow) -> BudgetView:
    return BudgetView(row.user, row.day_micro / MICRO, row.month_micro / MICRO)


class UsageQuery(Struct):
    """Days (UTC), both included, as 2026-01-31."""

    since: Day
    until: Day | Literal[""] = ""
    tenant: Slug = ""
    cursor: Annotated[str, Meta(max_length=400)] = ""
    limit: Limit = 100


class UsageView(Struct):
    """What one user used with one persona and model on one day."""

    day: str
    user: int
    persona: int
    model: str
    answers: int
    tokens_in: int
    tokens_out: int
    spent_micro: int


class UsagePage(Struct):
    """By day, user, persona and model; `cursor` asks for the next page, "" at the end."""

    usage: list[UsageView]
    cursor: str


@api.route(
    "GET", PATH + "/usage", "Tell what the answers of a tenant used", scope="admin", errors=(404,)
)
async def _usage(call: Call[ApiKey, UsageQuery, None]) -> UsagePage:
    asked = call.query
    first, last = read_range(call.core, asked.since, asked.until or None)
    tenant = await tenant_of(call)
    after = _row_of(tenant, asked.cursor) if asked.cursor else None
    page = await BudgetAdmin(call.core.store, tenant).used(
        (first - EPOCH).days, (last - EPOCH).days, after, asked.limit
    )
    cursor = ""
    if len(page) == asked.limit:
        end = page[-1]
        cursor = f"{end.day}.{end.user}.{end.persona}.{end.model}"
    return UsagePage([_used(row) for row in page], cursor)


def _row_of(tenant: int, cursor: str) -> UsageRow:
    parts = cursor.split(".", 3)
    if len(parts) != 4:
        raise invalid("cursor", "`cursor` is that of the page before.")
    try:
        day, user, persona = (int(part[:17]) for part in parts[:3])
    except ValueError:
        raise invalid("cursor", "`cursor` is that of the page before.") from None
    return UsageRow(tenant, min(day, 10**7), user, persona, parts[3], 0, 0, 0, 0)


def _used(row: UsageRow) -> UsageView:
    return UsageView(
        date.fromordinal(EPOCH.toordinal() + row.day).isoformat(),
        row.user,
        row.persona,
        row.model,
        row.turns,
        row.tokens_in,
        row.tokens_out,
        row.cost_micro,
    )


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
