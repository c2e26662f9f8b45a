"""Stores on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from storage.rows import StoreOptions
from storage.store import Store
from tests.conftest import sqlite_url
from tests.storage.world import World


@pytest.fixture
async def store(store_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """A store on the round's engine; its database is shared by the module's tests."""
    opened = await Store.open(StoreOptions(url=store_url, dead_letter_dir=str(tmp_path)))
    yield opened
    await opened.close(5)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


@pytest.fixture
async def fresh_store(new_store_url: Callable[[], str], tmp_path: Path) -> AsyncIterator[Store]:
    """A store on an empty database of its own."""
    opened = await Store.open(StoreOptions(url=new_store_url(), dead_letter_dir=str(tmp_path)))
    yield opened
    await opened.close(5)


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Store]:
    """A SQLite store, for what does not depend on the engine."""
    opened = await Store.open(StoreOptions(url=sqlite_url(tmp_path)))
    yield opened
    await opened.close(5)
