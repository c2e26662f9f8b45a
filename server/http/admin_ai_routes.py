"""/api/v1/admin: what AI answers may cost and have cost, and the services that make them.

Who may: see `server.http.admin_routes`. A change holds in this process when it is answered; other
processes take it within five seconds.
"""

from datetime import date
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct, structs

from ai_bridge.prices import MAX_FILE_BYTES, Price, PriceEntry, PriceFile
from ai_bridge.secrets import Secret
from protocol.types import S256, S2000, Limit, U
from server.config_sections import ProviderConfig
from server.errors import invalid, not_found
from server.http.admin_routes import PATH, Slug, TenantQuery, note, require_operator, tenant_of
from server.http.context import note_wait
from server.http.typed import Api, Call
from server.http.usage_routes import EPOCH, Day, read_range
from server.money_admin import MAX_DOLLARS, BudgetAdmin, PriceAdmin
from server.provider_admin import (
    MAX_MODELS,
    ProviderAdmin,
    ProviderTest,
    ProviderView,
)
from server.user_admin import UserAdmin
from storage.rows import ApiKey
from storage.usage import BudgetRow, UsageRow

api = Api("admin")

Dollars = Annotated[float, Meta(ge=0, le=MAX_DOLLARS)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]
MICRO: Final = 1_000_000


# budgets and usage


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


# prices


class PriceView(Struct):
    """Dollars for a million tokens, and for a minute of a recording.

    `origin`: command (it was set), settings, or the file that it comes from.
    """

    model: str
    input: float
    output: float
    cached: float
    minute: float
    origin: str


class PricePage(Struct):
    """By model; `cursor` asks for the next page, "" at the end."""

    prices: list[PriceView]
    cursor: str


class PriceQuery(Struct):
    """`model`: only what counts for this one."""

    model: S256 = ""
    cursor: S256 = ""
    limit: Limit = 50


class PriceBody(Struct):
    """Rate for a million tokens; `minute`: for a minute of a recording. `cached` as `input`."""

    input: Rate = 0.0
    output: Rate = 0.0
    cached: Rate | None = None
    minute: Rate = 0.0


class Imported(Struct):
    """How many prices of a file count now."""

    imported: int
    version: str


class Remaining(Struct):
    """What counts instead, null: the model is free now."""

    price: PriceView | None


_PRICE: Final = PATH + "/prices/{model:.+}"


@api.route("GET", PATH + "/prices", "List what counts for each model", scope="admin")
async def _prices(call: Call[ApiKey, PriceQuery, None]) -> PricePage:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    asked = call.query
    table = await _price_admin(call).table()
    if asked.model:
        found = table.entry(asked.model)
        return PricePage([_price(found)] if found is not None else [], "")
    rest = sorted(
        (one for one in table.entries() if one.name > asked.cursor), key=lambda one: one.name
    )
    page = rest[: asked.limit]
    return PricePage(list(map(_price, page)), page[-1].name if len(rest) > len(page) else "")


@api.route(
    "PUT", PATH + "/prices", "Take prices from a file in place of the last one's", scope="admin",
    max_body=MAX_FILE_BYTES, errors=(409,),
    example={"version": "2026-12-01", "models": {"gpt-4o": {"in": 2.5, "out": 10}}},
)  # fmt: skip
async def _import_prices(call: Call[ApiKey, None, PriceFile]) -> Imported:
    """Those that were set stay. A file without models takes the last one back. Needs the scope
    `operator` as well."""
    require_operator(call.who)
    count = await _price_admin(call).take_in(call.body)
    await call.parts.refresh()
    note(call, "price.import", call.body.version)
    return Imported(count, call.body.version)


@api.route(
    "PUT", _PRICE, "Set what a model costs", scope="admin", errors=(409,),
    example={"input": 0.15, "output": 0.6},
)  # fmt: skip
async def _set_price(call: Call[ApiKey, None, PriceBody]) -> PriceView:
    """`model` or `provider/model`. Needs the scope `operator` as well."""
    require_operator(call.who)
    body = call.body
    try:
        price = Price(body.input, body.output, body.cached, body.minute)
    except ValueError as error:
        raise invalid("price", f"{error}.") from None
    admin = _price_admin(call)
    name = await admin.set(call.request.match_info["model"], price)
    await call.parts.refresh()
    note(call, "price.set", name)
    found = (await admin.table()).entry(name)
    if found is None:
        raise not_found("price")
    return _price(found)


@api.route("DELETE", _PRICE, "Remove a price that was set", scope="admin", errors=(400,))
async def _remove_price(call: Call[ApiKey, None, None]) -> Remaining:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    model = call.request.match_info["model"]
    left = await _price_admin(call).remove(model)
    await call.parts.refresh()
    note(call, "price.remove", model)
    return Remaining(_price(left) if left is not None else None)


def _price_admin(call: Call[ApiKey, Any, Any]) -> PriceAdmin:
    return PriceAdmin(call.core.store, call.parts.config.ai)


def _price(entry: PriceEntry) -> PriceView:
    price = entry.price
    cached = price.input if price.cached is None else price.cached
    return PriceView(entry.name, price.input, price.output, cached, price.minute, entry.origin)


# AI services


class ProviderBody(Struct):
    """A missing `key` keeps the one that is stored; "" is for none.

    `models`: those to offer; none, what the service lists. `max_streams`: answers at the same
    time. Services of a lower `tier` are asked first. `ttft_s`, `window_tokens`: 0 for the default.
    """

    kind: Literal["openai_chat", "openai_responses", "anthropic", "gemini", "demo"] = "openai_chat"
    base_url: S2000 = ""
    key: Annotated[str, Meta(max_length=4_000)] | None = None
    models: Annotated[list[S256], Meta(max_length=MAX_MODELS)] = []
    max_streams: Annotated[int, Meta(ge=1, le=10_000)] = 100
    tier: Annotated[int, Meta(ge=0, le=100)] = 0
    ttft_s: Annotated[float, Meta(ge=0, le=3_600)] = 0.0
    window_tokens: Annotated[int, Meta(ge=0, le=100_000_000)] = 0


class ProviderList(Struct):
    """All of them: those of the settings, then those of the database."""

    providers: list[ProviderView]


_PROVIDER: Final = PATH + "/providers/{name:[A-Za-z0-9_.-]{1,64}}"


@api.route("GET", PATH + "/providers", "List the AI services, never their keys", scope="admin")
async def _providers(call: Call[ApiKey, None, None]) -> ProviderList:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    return ProviderList(await _provider_admin(call).all())


@api.route("GET", _PROVIDER, "Tell of an AI service", scope="admin")
async def _provider(call: Call[ApiKey, None, None]) -> ProviderView:
    """Needs the scope `operator` as well."""
    require_operator(call.who)
    return await _provider_admin(call).get(call.request.match_info["name"])


@api.route(
    "PUT", _PROVIDER, "Add an AI service, or change it", scope="admin", errors=(409,),
    example={"base_url": "http://127.0.0.1:11434/v1", "models": ["qwen3:8b"]},
)  # fmt: skip
async def _save_provider(call: Call[ApiKey, None, ProviderBody]) -> ProviderView:
    """Answers that have begun end where they began. Needs the scope `operator` as well."""
    require_operator(call.who)
    body, name = call.body, call.request.match_info["name"]
    wanted = ProviderConfig(
        name=name,
        kind=body.kind,
        base_url=body.base_url,
        models=body.models,
        max_streams=body.max_streams,
        tier=body.tier,
        ttft_s=body.ttft_s,
        window_tokens=body.window_tokens,
    )
    key = None if body.key is None else Secret(body.key)
    saved = await _provider_admin(call).save(wanted, key)
    await call.parts.refresh()
    note(call, "provider.save", name)
    if call.core.bridge.provider(name) is None:
        text = "It is stored, but cannot be used: see provider.unusable in the server's log."
        return structs.replace(saved, complaint=text)
    return saved


@api.route("DELETE", _PROVIDER, "Remove an AI service; its key is wiped", scope="admin")
async def _remove_provider(call: Call[ApiKey, None, None]) -> None:
    """One of the settings file stays. Needs the scope `operator` as well."""
    require_operator(call.who)
    name = call.request.match_info["name"]
    await _provider_admin(call).remove(name)
    await call.parts.refresh()
    note(call, "provider.remove", name)


@api.route("POST", _PROVIDER + "/test", "Ask an AI service for its models", scope="admin")
async def _test_provider(call: Call[ApiKey, None, None]) -> ProviderTest:
    """Costs nothing there; ends within five seconds. Needs the scope `operator` as well."""
    require_operator(call.who)
    note_wait()
    return await _provider_admin(call).test(call.request.match_info["name"])


def _provider_admin(call: Call[ApiKey, Any, Any]) -> ProviderAdmin:
    parts = call.parts
    return ProviderAdmin(call.core.store, parts.vault, parts.config.ai)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
