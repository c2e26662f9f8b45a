"""Prices that were set or imported by command. What they say is not storage's business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from storage.errors import LimitReached, NotFound
from storage.ops import Op, Statement
from storage.revisions import note_revision
from storage.writes import Tx

PRICES: Final = "prices"
"""Subject of storage.revisions."""
MAX_PRICES: Final = 2_000
"""Prices that can be set, and as many again that can be imported."""
_SET, _IMPORTED = 0, 1
_COLUMNS: Final = ("imported", "model", "price", "version", "updated")


class PriceRow(Struct, frozen=True):
    """One price, as JSON. `version`: of the file that it was imported with, "" if it was set."""

    model: str
    price: str
    version: str


def set_price(tx: Tx, model: str, price: str) -> Op[None]:
    """Set a model's price, or replace the one that was set.

    Raises:
        LimitReached: too many models have one.
    """
    rows = yield Statement(
        "SELECT model FROM ai_price WHERE imported = ? ORDER BY model LIMIT ?", (_SET, MAX_PRICES)
    )
    if len(rows) >= MAX_PRICES and (model,) not in map(tuple, rows):
        raise LimitReached("too many prices")
    yield tx.dialect.upsert("ai_price", _COLUMNS, [(_SET, model, price, "", tx.ts)], keys=2)
    yield from note_revision(tx, PRICES)


def remove_price(tx: Tx, model: str) -> Op[None]:
    """Remove a price that was set.

    Raises:
        NotFound: none was set for this model.
    """
    rows = yield Statement(
        "SELECT model FROM ai_price WHERE imported = ? AND model = ?" + tx.dialect.for_update,
        (_SET, model),
    )
    if not rows:
        raise NotFound("no such price")
    yield Statement("DELETE FROM ai_price WHERE imported = ? AND model = ?", (_SET, model))
    yield from note_revision(tx, PRICES)


def import_prices(tx: Tx, version: str, prices: Mapping[str, str]) -> Op[None]:
    """Put these in place of all that were imported before; those that were set stay.

    Raises:
        LimitReached: they are too many.
    """
    if len(prices) > MAX_PRICES:
        raise LimitReached("too many prices")
    yield Statement("DELETE FROM ai_price WHERE imported = ?", (_IMPORTED,))
    rows = [(_IMPORTED, model, price, version, tx.ts) for model, price in sorted(prices.items())]
    if rows:
        yield tx.dialect.upsert("ai_price", _COLUMNS, rows, keys=2)
    yield from note_revision(tx, PRICES)


def list_prices() -> Op[list[PriceRow]]:
    """Return all: those that were set, then the imported ones, by model."""
    rows = yield Statement(
        "SELECT model, price, version FROM ai_price ORDER BY imported, model LIMIT ?",
        (2 * MAX_PRICES,),
    )
    return [PriceRow(*row) for row in rows]
