"""Prices, budgets and what was used, as administrators handle them: by command and over HTTP."""

from typing import TYPE_CHECKING, Final

import msgspec

from ai_bridge.prices import Price, PriceEntry, PriceFile, price_name
from protocol.codes import Code
from server.ai_setup import MICRO, make_prices
from server.config_sections import AiConfig
from server.errors import ServiceError, invalid
from storage.errors import LimitReached
from storage.prices import MAX_PRICES, import_prices, list_prices, remove_price, set_price
from storage.usage import BudgetRow, UsageRow, budgets, set_budget, usage_page

if TYPE_CHECKING:
    from ai_bridge.prices import PriceTable
    from storage.store import Store

MAX_DOLLARS: Final = 1_000_000_000


class PriceAdmin:
    """Lists, sets and removes what models cost; a running server takes it within 5 seconds.

    Methods raise ServiceError with a text for the administrator, or StorageError.

    Args:
        ai: the prices of the settings.
    """

    def __init__(self, store: "Store", ai: AiConfig) -> None:
        self._store = store
        self._ai = ai

    async def table(self) -> "PriceTable":
        """Return what counts."""
        return make_prices(self._ai, await self._store.read(list_prices()))

    async def set(self, model: str, price: Price) -> str:
        """Set a price; return the name under which it is kept.

        Raises:
            ServiceError: INVALID, or SIZE_LIMIT, there are too many.
        """
        name = _name(model)
        stored = msgspec.json.encode(price).decode()
        try:
            await self._store.change((), lambda tx: set_price(tx, name, stored))
        except LimitReached:
            raise ServiceError(
                Code.SIZE_LIMIT,
                "too many prices",
                f"{MAX_PRICES} prices are set already; remove one, or import them as a file",
            ) from None
        return name

    async def remove(self, model: str) -> PriceEntry | None:
        """Remove a price that was set; return what counts instead, None: it is free now.

        Raises:
            NotFound: none was set for this model.
            ServiceError: INVALID, nothing can be called so.
        """
        name = _name(model)
        await self._store.change((), lambda tx: remove_price(tx, name))
        return (await self.table()).entry(name)

    async def take_in(self, file: PriceFile) -> int:
        """Put the prices of a file in place of those of the last one; return how many."""
        prices = {name: msgspec.json.encode(price).decode() for name, price in file.models.items()}
        await self._store.change((), lambda tx: import_prices(tx, file.version, prices))
        return len(prices)


def _name(model: str) -> str:
    try:
        return price_name(model)
    except ValueError as error:
        raise invalid("model", f"{error}.") from None


class BudgetAdmin:
    """Lists and sets what answers may cost in one tenant.

    A running server takes it within 5 seconds.
    """

    def __init__(self, store: "Store", tenant: int) -> None:
        self._store = store
        self._tenant = tenant

    async def page(self, after: int, limit: int) -> list[BudgetRow]:
        """Return rows by user, those after the user `after`; -1 for all, 0 is the tenant."""
        rows = await self._store.read(budgets((self._tenant, after), limit))
        return [row for row in rows if row.tenant == self._tenant]

    async def set(self, user: int, day: float, month: float) -> BudgetRow:
        """Set dollars a day and a month; 0: without limit. user 0: the tenant as a whole.

        Raises:
            ServiceError: INVALID.
        """
        if not (0 <= day <= MAX_DOLLARS and 0 <= month <= MAX_DOLLARS):
            raise invalid("budget", f"A budget is a number of dollars from 0 to {MAX_DOLLARS}.")
        row = BudgetRow(self._tenant, user, round(day * MICRO), round(month * MICRO))
        await self._store.change((), lambda tx: set_budget(tx, row))
        return row

    async def used(
        self, first: int, last: int, after: UsageRow | None, limit: int
    ) -> list[UsageRow]:
        """Return what was used on days since 1970, both included, by day, user, persona, model."""
        return await self._store.read(usage_page(self._tenant, first, last + 1, after, limit))
