"""Where a price comes from, which one counts, and which files of prices are taken."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from ai_bridge import prices
from ai_bridge.prices import FREE, Price, PriceTable, price_name, read_price_file

ONE, TWO, THREE = Price(1.0), Price(2.0), Price(3.0)


def origin(table: PriceTable, model: str) -> str:
    entry = table.entry(model)
    return "" if entry is None else entry.origin


def test_a_command_comes_before_the_settings_these_before_an_import_and_that_before_the_file() -> (
    None
):
    imported = {"gpt-4o": (THREE, "2027-01-01"), "o3": (THREE, "2027-01-01")}
    table = PriceTable({"gpt-4o": TWO}, {"gpt-4o": ONE}, imported)
    assert (table.find("gpt-4o"), origin(table, "gpt-4o")) == (ONE, "command")
    table = PriceTable({"gpt-4o": TWO}, {}, imported)
    assert (table.find("gpt-4o"), origin(table, "gpt-4o")) == (TWO, "settings")
    assert (table.find("o3"), origin(table, "o3")) == (THREE, "imported file 2027-01-01")
    assert origin(table, "gpt-5") == f"file {table.version}"


def test_a_longer_name_comes_before_a_shorter_one_wherever_it_stands() -> None:
    table = PriceTable({"shop/gpt-4o": TWO}, {"gpt-4o": ONE})
    assert table.find("shop/gpt-4o") == TWO
    assert table.find("other/gpt-4o") == ONE
    assert origin(table, "shop/gpt-4o-mini") == f"file {table.version}"


def test_the_vendors_name_within_a_models_name_can_be_priced() -> None:
    table = PriceTable({}, {"acme/big-1": ONE, "big-1": TWO})
    assert table.find("router/acme/big-1") == ONE
    assert table.find("router/other/big-1") == TWO


def test_capitals_make_no_other_model() -> None:
    table = PriceTable({"My/Model": ONE}, {price_name(" GPT-4o "): FREE})
    assert table.find("my/MODEL") == ONE
    assert table.find("Gpt-4o-2024-11-20") == FREE


def test_every_price_is_listed_once_by_name() -> None:
    names = [entry.name for entry in PriceTable({"a": ONE}, {"a": TWO}).entries()]
    assert names == sorted(set(names))
    assert names[0] == "a"


def test_the_built_in_file_is_such_a_file() -> None:
    data = resources.files("ai_bridge").joinpath("prices.json").read_bytes()
    found = read_price_file(data)
    assert found.version == PriceTable().version
    assert found.models["gpt-4o"] == Price(2.5, 10.0, 1.25)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ({"models": {}}, "version"),
        ({"version": "", "models": {}}, "version"),
        ({"version": "1\n2", "models": {}}, "version"),
        ({"version": "1"}, "models"),
        ({"version": "1", "models": {}, "more": 1}, "more"),
        ({"version": "1", "models": {"m": {"in": 1, "per": 2}}}, "per"),
        ({"version": "1", "models": {"m": {"in": "1"}}}, "float"),
        ({"version": "1", "models": {"m": {"in": -1}}}, "0 to"),
        ({"version": "1", "models": {"m": {"out": 1e9}}}, "0 to"),
        ({"version": "1", "models": {"": {"in": 1}}}, "name"),
        ({"version": "1", "models": {"m" * 201: {"in": 1}}}, "name"),
        ({"version": "1", "models": {f"m{n}": {} for n in range(2001)}}, "2000"),
    ],
)
def test_a_file_that_is_no_list_of_prices_is_refused(file: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_price_file(json.dumps(file).encode())


def test_a_file_that_is_too_long_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"version":"1","models":{}}'
    assert read_price_file(data).models == {}
    monkeypatch.setattr(prices, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(ValueError, match="bytes"):
        read_price_file(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, 1_000_001])
def test_a_price_is_a_number_of_dollars(value: float) -> None:
    for given in ({"input": value}, {"output": value}, {"cached": value}, {"minute": value}):
        with pytest.raises(ValueError, match="dollars"):
            Price(**given)
