"""/api/v1/admin/prices: what counts for each model.

Who may: see `server.http.admin_routes`. A change holds in this process when it is answered; other
processes take it within five seconds.
"""

from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta, Struct

from ai_bridge.prices import MAX_FILE_BYTES, Price, PriceEntry, PriceFile
from protocol.types import S256, Limit
from server.errors import invalid, not_found
from server.http.admin_routes import PATH, note, require_operator
from server.http.typed import Api, Call
from server.money_admin import PriceAdmin
from storage.rows import ApiKey

api = Api("admin")

Rate = Annotated[float, Meta(ge=0, le=1_000_000)]


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


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
