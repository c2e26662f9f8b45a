"""A real engine whose transactions fail when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from storage.batcher import Batcher
from storage.committer import Committer
from storage.errors import StorageError
from storage.migrate import load_migrations, prepare_schema
from storage.ops import Op
from storage.rows import StoreOptions
from storage.sqlite import SqliteEngine
from storage.store import Morgue, Store

T = TypeVar("T")


class FaultyEngine(SqliteEngine):
    """SQLite with faults.

    `before`: raised instead of the next transactions, one each.
    `after`: raised after the next transactions have committed, one each.
    `away`: while set, every transaction fails with it.
    `gate`: while cleared, transactions wait.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before: list[StorageError] = []
        self.after: list[StorageError] = []
        self.away: StorageError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.transactions = 0

    async def transact(self, make: Callable[[], Op[T]]) -> T:
        self.transactions += 1
        await self.gate.wait()
        if self.away is not None:
            raise self.away
        if self.before:
            raise self.before.pop(0)
        result = await super().transact(make)
        if self.after:
            raise self.after.pop(0)
        return result


class Naps:
    """Stands in for asyncio.sleep: remembers what was asked for and passes at once."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


async def open_faulty(
    folder: Path, options: StoreOptions | None = None
) -> tuple[Store, FaultyEngine, Naps]:
    """Open a store over a faulty engine, without going through Store.open."""
    engine = FaultyEngine(folder / "faulty.db")
    await engine.open()
    migrations = load_migrations("sqlite")
    epoch = await engine.transact(
        lambda: prepare_schema(engine.dialect, migrations, apply=True, now_ms=1)
    )
    naps = Naps()
    committer = Committer(engine.dialect, cache_heads=True)
    morgue = Morgue(engine, folder)
    batcher = Batcher(engine, committer, options or StoreOptions(url=""), morgue.bury, sleep=naps)
    return Store(engine, batcher, epoch, folder), engine, naps
