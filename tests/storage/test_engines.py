"""Choices of engines in the store: asked for, settled once, bounded, on every database."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from storage import engines
from storage.engines import (
    ENGINES,
    ChoiceState,
    EngineChoice,
    ask_engine,
    engine_choice,
    engine_choices,
    settle_engine,
    tenant_choices,
)
from storage.errors import LimitReached
from storage.revisions import revisions
from storage.store import Store


async def ask(store: Store, tenant: int, persona: int, engine: str) -> EngineChoice:
    return await store.change((), lambda tx: ask_engine(tx, tenant, persona, engine))


async def settle(
    store: Store, choice: EngineChoice, state: ChoiceState = ChoiceState.TAKEN, reason: str = ""
) -> None:
    engine = choice.asked if state is ChoiceState.TAKEN else choice.engine
    ended = replace(choice, engine=engine, state=state, reason=reason)
    await store.change((), lambda tx: settle_engine(tx, ended))


async def test_what_was_taken_stays_until_the_next_change_is_taken_too(fresh_store: Store) -> None:
    first = await ask(fresh_store, 7, 0, "a")
    assert await fresh_store.read(engine_choice(7, 0)) == first
    assert (first.engine, first.asked, first.state) == ("", "a", ChoiceState.ASKED)
    await settle(fresh_store, first)
    second = await ask(fresh_store, 7, 0, "b")
    assert (second.engine, second.asked) == ("a", "b")
    assert second.updated > first.updated
    await settle(fresh_store, second, ChoiceState.REFUSED, "它没有回答。")
    found = await fresh_store.read(engine_choice(7, 0))
    assert found is not None
    assert (found.engine, found.asked, found.reason) == ("a", "b", "它没有回答。")
    assert found.state is ChoiceState.REFUSED
    again = await ask(fresh_store, 7, 0, "b")
    assert (again.reason, again.state) == ("", ChoiceState.ASKED)


async def test_an_answer_to_an_older_request_changes_nothing(fresh_store: Store) -> None:
    first = await ask(fresh_store, 7, 5, "a")
    second = await ask(fresh_store, 7, 5, "b")
    await settle(fresh_store, first)
    assert await fresh_store.read(engine_choice(7, 5)) == second


async def test_servers_see_that_somebody_asked_and_not_that_they_answered(
    fresh_store: Store,
) -> None:
    asked = await ask(fresh_store, 0, 0, "a")
    rev = (await fresh_store.read(revisions()))[ENGINES]
    await settle(fresh_store, asked)
    assert (await fresh_store.read(revisions()))[ENGINES] == rev
    await ask(fresh_store, 0, 0, "a")
    assert (await fresh_store.read(revisions()))[ENGINES] > rev


async def test_all_are_read_in_pages_and_a_tenant_reads_its_own(fresh_store: Store) -> None:
    scopes = [(0, 0), (0, 9), (1, 0), (1, 4), (1, 5), (2, 0)]
    for tenant, persona in reversed(scopes):
        await ask(fresh_store, tenant, persona, "a")
    found: list[tuple[int, int]] = []
    after = (-1, -1)
    while page := await fresh_store.read(engine_choices(after, 2)):
        found += [(one.tenant, one.persona) for one in page]
        after = found[-1]
    assert found == scopes
    assert [one.persona for one in await fresh_store.read(tenant_choices(1))] == [0, 4, 5]
    assert await fresh_store.read(engine_choice(1, 9)) is None


async def test_a_tenant_has_so_many_choices_and_those_reset_make_room(
    fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "MAX_CHOICES", 3)
    for persona in range(3):
        await settle(fresh_store, await ask(fresh_store, 1, persona, "a"))
    with pytest.raises(LimitReached):
        await ask(fresh_store, 1, 3, "a")
    await ask(fresh_store, 2, 3, "a")
    reset = await ask(fresh_store, 1, 1, "")
    with pytest.raises(LimitReached):  # no server has looked at it yet
        await ask(fresh_store, 1, 3, "a")
    await settle(fresh_store, reset)
    await ask(fresh_store, 1, 3, "a")
    assert [one.persona for one in await fresh_store.read(tenant_choices(1))] == [0, 2, 3]
