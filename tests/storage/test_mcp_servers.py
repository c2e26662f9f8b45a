"""Lists and approvals of MCP servers in the store, on every engine."""

from __future__ import annotations

from storage.mcp_servers import (
    MAX_PROBLEM_CHARS,
    MCP,
    McpRow,
    ask_for_lists,
    mcp_server,
    note_problem,
    note_tools,
    pin_tools,
)
from storage.revisions import revisions
from storage.store import Store


async def known(store: Store, name: str) -> McpRow:
    return await store.read(mcp_server(name))


async def test_the_first_list_is_approved_as_told_and_later_ones_are_not(
    fresh_store: Store,
) -> None:
    store = fresh_store
    assert await known(store, "天气") == McpRow("天气")
    first = {"雨": "a" * 64}
    row = await store.change((), lambda tx: note_tools(tx, "天气", '["雨"]', first))
    assert (row.pins, row.seen, row.problem) == (first, '["雨"]', "")
    row = await store.change((), lambda tx: note_tools(tx, "天气", '["雨2"]', {"雨": "b"}))
    assert (row.pins, row.seen) == (first, '["雨2"]')
    assert await known(store, "天气") == row
    assert row.updated > 0
    assert await store.read(revisions()) == {}, "what a server says is no change by a person"


async def test_an_empty_first_list_is_a_first_list(fresh_store: Store) -> None:
    await fresh_store.change((), lambda tx: note_tools(tx, "s", "[]", {}))
    row = await fresh_store.change((), lambda tx: note_tools(tx, "s", "[1]", {"a": "x"}))
    assert row.pins == {}


async def test_a_problem_keeps_the_list_and_goes_with_the_next_one(fresh_store: Store) -> None:
    store = fresh_store
    await store.change((), lambda tx: note_problem(tx, "s", "connect"))
    assert (await known(store, "s")).pins is None, "nobody has seen a list yet"
    await store.change((), lambda tx: note_tools(tx, "s", "[1]", {"a": "x"}))
    await store.change((), lambda tx: note_problem(tx, "s", "é" * 500))
    row = await known(store, "s")
    assert (row.pins, row.seen) == ({"a": "x"}, "[1]")
    assert row.problem == "é" * MAX_PROBLEM_CHARS
    await store.change((), lambda tx: note_tools(tx, "s", "[2]", {}))
    assert (await known(store, "s")).problem == ""


async def test_an_approval_joins_those_before_and_tells_running_servers(
    fresh_store: Store,
) -> None:
    store = fresh_store
    await store.change((), lambda tx: note_tools(tx, "s", "[]", {"a": "x", "b": "y"}))
    await store.change((), lambda tx: pin_tools(tx, "s", {"b": "z", "c": "q"}))
    assert (await known(store, "s")).pins == {"a": "x", "b": "z", "c": "q"}
    assert await store.read(revisions()) == {MCP: 1}
    await store.change((), ask_for_lists)
    assert await store.read(revisions()) == {MCP: 2}


async def test_servers_do_not_mix(fresh_store: Store) -> None:
    for name in ("two", "one"):
        await fresh_store.change((), lambda tx, name=name: note_tools(tx, name, name, {}))  # type: ignore[misc]
    for name in ("one", "two"):
        row = await known(fresh_store, name)
        assert (row.name, row.seen) == (name, name)


async def test_a_long_list_fits(fresh_store: Store) -> None:
    seen = "长" * 600_000
    await fresh_store.change((), lambda tx: note_tools(tx, "s", seen, {}))
    assert (await known(fresh_store, "s")).seen == seen
