"""What tokens cost. The table is a versioned file, and no newer one is ever fetched by itself.

Money is counted in whole micro-dollars. A price of one dollar per million tokens is one
micro-dollar per token, so the figures of the vendors' price pages are used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

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


MAX_MODELS = 2_000
MAX_FILE_BYTES = 1 << 20
MAX_NAME_CHARS = 200


class PriceFile(Struct, forbid_unknown_fields=True):
    """Prices by model, in the form of prices.json; `version` is a date as a rule."""

    version: Annotated[str, Meta(min_length=1, max_length=64)]
    models: Annotated[dict[str, Price], Meta(max_length=MAX_MODELS)]
    note: Annotated[str, Meta(max_length=2_000)] = ""

    def __post_init__(self) -> None:
        if not self.version.isprintable():
            raise ValueError("the version is a word of one line, such as 2026-11-21")
        self.models = {price_name(name): price for name, price in self.models.items()}


def read_price_file(data: bytes) -> PriceFile:
    """Return the prices of a file.

    Raises:
        ValueError: it is too long or holds something else; the text says what and where.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"a file of prices has at most {MAX_FILE_BYTES} bytes")
    return msgspec.json.decode(data, type=PriceFile)


def price_name(model: str) -> str:
    """Return the name under which a model's price is kept: "model" or "provider/model".

    Raises:
        ValueError: nothing can be called so.
    """
    name = model.strip().lower()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise ValueError(f"a model's name has 1 to {MAX_NAME_CHARS} characters, all printable")
    return name


@cache
def _builtin() -> PriceFile:
    return read_price_file(resources.files("ai_bridge").joinpath("prices.json").read_bytes())


class PriceEntry(Struct, frozen=True):
    """A price and where it comes from: "command", "settings", or the version of a file."""

    name: str
    price: Price
    origin: str


class PriceTable:
    """Prices by model. It never changes: whoever began with one can end with it.

    Of the same name a command's price comes before the operator's settings, those before an
    imported file, and that before the file of this package.

    Args:
        own: prices of the settings.
        commanded: prices that were set by command.
        imported: a newer file, with the version for each price.

    Attributes:
        version: of the package's file.
    """

    def __init__(
        self,
        own: Mapping[str, Price] | None = None,
        commanded: Mapping[str, Price] | None = None,
        imported: Mapping[str, tuple[Price, str]] | None = None,
    ) -> None:
        file = _builtin()
        self.version = file.version
        self._entries: dict[str, PriceEntry] = {}
        self._put(file.models, f"file {file.version}")
        for model, (price, version) in (imported or {}).items():
            self._put({model: price}, f"imported file {version}")
        self._put(own or {}, "settings")
        self._put(commanded or {}, "command")

    def _put(self, prices: Mapping[str, Price], origin: str) -> None:
        for model, price in prices.items():
            name = model.strip().lower()
            self._entries[name] = PriceEntry(name, price, origin)

    def entries(self) -> list[PriceEntry]:
        """Return what counts for each name, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    def entry(self, model: str) -> PriceEntry | None:
        """Return what counts for a model, None if nobody told its price.

        The whole name comes first, "provider/model" before "model". A name that the table does
        not have counts as the longest one it begins with, at a border: "gpt-4o-2024-11-20" is
        "gpt-4o". What stands before a slash is the vendor's and is dropped for that.
        """
        entries = self._entries
        name = model.strip().lower()
        slash = "/"
        while slash and name not in entries:
            _vendor, slash, rest = name.partition("/")
            name = rest if slash else name
        while name not in entries:
            name, dash, _rest = name.rpartition("-")
            if not dash:
                return None
        return entries[name]

    def find(self, model: str) -> Price | None:
        """Return the price of a model, None if nobody told it; see `entry`."""
        entry = self.entry(model)
        return entry.price if entry is not None else None
