"""What tokens cost. The table is a versioned file of this package and is never fetched.

Money is counted in whole micro-dollars. A price of one dollar per million tokens is one
micro-dollar per token, so the figures of the vendors' price pages are used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources

import msgspec
from msgspec import Struct, field

from ai_bridge.types import Usage


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars per million tokens. `cached` is for prompt tokens read from the vendor's cache.

    A missing `cached` means that they cost as much as others. `minute`: dollars per minute of a
    recording that is written down.
    """

    input: float = field(default=0.0, name="in")
    output: float = field(default=0.0, name="out")
    cached: float | None = None
    minute: float = 0.0

    def __post_init__(self) -> None:
        for value in (self.input, self.output, self.cached or 0.0, self.minute):
            if not 0 <= value <= 1_000_000:
                raise ValueError("a price is a number of dollars from 0 to 1,000,000")

    def cost_micro(self, usage: Usage) -> int:
        """Return what a call cost, rounded up."""
        cached = min(usage.cached, usage.prompt)
        rate = self.input if self.cached is None else self.cached
        total = (usage.prompt - cached) * self.input + cached * rate
        return math.ceil(round(total + usage.completion * self.output, 6))

    def seconds_micro(self, seconds: float) -> int:
        """Return what so many seconds of a recording cost, begun seconds counted whole."""
        return math.ceil(round(math.ceil(seconds) * self.minute * 1_000_000 / 60, 6))


FREE = Price()


class _File(Struct, forbid_unknown_fields=True):
    version: str
    note: str
    models: dict[str, Price]


@cache
def _builtin() -> _File:
    text = resources.files("ai_bridge").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(text, type=_File)


class PriceTable:
    """Prices by model; the operator's own come before the file's.

    Attributes:
        version: of the file.
    """

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        file = _builtin()
        self.version = file.version
        self._prices = file.models | dict(own or {})

    def find(self, model: str) -> Price | None:
        """Return the price of a model, None if nobody told it.

        A name that the table does not have counts as the longest one it begins with, at a border:
        "gpt-4o-2024-11-20" is "gpt-4o". What stands before a slash is the vendor's and is dropped.
        """
        name = model if model in self._prices else model.rpartition("/")[2].lower()
        while name not in self._prices:
            name, dash, _rest = name.rpartition("-")
            if not dash:
                return None
        return self._prices[name]
