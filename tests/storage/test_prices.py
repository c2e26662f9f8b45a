"""Prices in the store: set, imported, removed, on every engine."""

from __future__ import annotations

import pytest

from storage import prices
from storage.errors import LimitReached, NotFound
from storage.prices import PRICES, PriceRow, import_prices, list_prices, remove_price, set_price
from storage.revisions import revisions
from storage.store import Store


async def put(store: Store, model: str, price: str) -> None:
    await store.change((), lambda tx: set_price(tx, model, price))


async def take(store: Store, version: str, found: dict[str, str]) -> None:
    await store.change((), lambda tx: import_prices(tx, version, found))


async def revision(store: Store) -> int:
    return (await store.read(revisions())).get(PRICES, 0)


async def test_a_price_is_set_replaced_and_removed_and_each_change_is_counted(
    fresh_store: Store,
) -> None:
    await put(fresh_store, "模型/m", '{"in":1}')
    await put(fresh_store, "a", '{"in":2}')
    await put(fresh_store, "模型/m", '{"in":3}')
    assert await fresh_store.read(list_prices()) == [
        PriceRow("a", '{"in":2}', ""),
        PriceRow("模型/m", '{"in":3}', ""),
    ]
    await fresh_store.change((), lambda tx: remove_price(tx, "a"))
    assert [row.model for row in await fresh_store.read(list_prices())] == ["模型/m"]
    assert await revision(fresh_store) == 4


async def test_a_price_that_was_not_set_cannot_be_removed(fresh_store: Store) -> None:
    await take(fresh_store, "1", {"a": "{}"})
    with pytest.raises(NotFound):
        await fresh_store.change((), lambda tx: remove_price(tx, "a"))
    assert await revision(fresh_store) == 1


async def test_an_import_takes_the_place_of_the_one_before_and_leaves_what_was_set(
    fresh_store: Store,
) -> None:
    await put(fresh_store, "a", "set")
    await take(fresh_store, "1", {"a": "old", "b": "old"})
    await take(fresh_store, "2", {"c": "new", "a": "new"})
    assert await fresh_store.read(list_prices()) == [
        PriceRow("a", "set", ""),
        PriceRow("a", "new", "2"),
        PriceRow("c", "new", "2"),
    ]
    await take(fresh_store, "3", {})
    assert await fresh_store.read(list_prices()) == [PriceRow("a", "set", "")]


async def test_prices_are_bounded_and_those_that_are_there_can_still_change(
    fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "MAX_PRICES", 2)
    await put(fresh_store, "a", "1")
    await put(fresh_store, "b", "1")
    with pytest.raises(LimitReached):
        await put(fresh_store, "c", "1")
    await put(fresh_store, "b", "2")
    await take(fresh_store, "1", {"c": "1", "d": "1"})
    with pytest.raises(LimitReached):
        await take(fresh_store, "2", {"e": "1", "f": "1", "g": "1"})
    assert [row.price for row in await fresh_store.read(list_prices())] == ["1", "2", "1", "1"]
