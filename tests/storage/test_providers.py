"""AI services in the store: added, replaced, removed with their keys, on every engine."""

from __future__ import annotations

import pytest

from storage.errors import NotFound
from storage.providers import (
    ProviderRow,
    drop_provider,
    providers,
    save_provider,
)
from storage.revisions import PROVIDERS, revisions
from storage.store import Store


async def save(store: Store, name: str, config: str = "{}", sealed: bytes = b"\x00\xff") -> None:
    await store.change((), lambda tx: save_provider(tx, ProviderRow(name, config, sealed)))


async def revision(store: Store) -> int:
    return (await store.read(revisions())).get(PROVIDERS, 0)


async def listed(store: Store) -> list[tuple[str, str, bytes]]:
    return [(row.name, row.config, row.sealed) for row in await store.read(providers())]


async def test_services_are_added_replaced_and_listed_by_name(fresh_store: Store) -> None:
    assert await revision(fresh_store) == 0
    await save(fresh_store, "two", '{"kind":"demo"}')
    await save(fresh_store, "one")
    first = await revision(fresh_store)
    await save(fresh_store, "two", '{"名":"新"}', b"other")
    assert await listed(fresh_store) == [
        ("one", "{}", b"\x00\xff"),
        ("two", '{"名":"新"}', b"other"),
    ]
    assert await revision(fresh_store) > first


async def test_a_removed_service_leaves_no_key_behind_and_changes_the_version(
    fresh_store: Store,
) -> None:
    await save(fresh_store, "gone", '{"base_url":"http://x"}')
    before = await revision(fresh_store)
    await fresh_store.change((), lambda tx: drop_provider(tx, "gone"))
    assert await listed(fresh_store) == []
    assert await revision(fresh_store) > before
    with pytest.raises(NotFound):
        await fresh_store.change((), lambda tx: drop_provider(tx, "gone"))
    await save(fresh_store, "gone", sealed=b"new")
    assert await listed(fresh_store) == [("gone", "{}", b"new")]
