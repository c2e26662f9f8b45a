"""What answers used is summed once per turn, and read back by day, on every engine."""

from __future__ import annotations

from functools import partial

from storage.ids import new_id
from storage.rows import EndTurn, NewTurn, TurnStatus
from storage.turns import create_turn, end_turn, end_turns
from storage.usage import (
    DAY_MS,
    BudgetRow,
    DayUse,
    UsageRow,
    add_usage,
    budgets,
    set_budget,
    spent_by_users,
    usage_by_day,
    usage_page,
)
from storage.writes import Tx
from tests.storage.world import World, cid


async def begun(world: World, tenant: int, user: int, persona: int = 7) -> NewTurn:
    turn = NewTurn(new_id(), tenant, user, persona, 1, "node", 0, "")
    await world.store.change((), lambda tx: create_turn(tx, turn, new_id(), 1, cid()))
    return turn


def ended(turn: NewTurn, tokens: int, cost: int, model: str = "m") -> EndTurn:
    return EndTurn(
        sid=turn.sid,
        status=int(TurnStatus.DONE),
        reason=0,
        model=model,
        tokens_in=tokens,
        tokens_out=2 * tokens,
        cost_micro=cost,
    )


async def rows_of(world: World, tenant: int) -> list[UsageRow]:
    return await world.store.read(usage_page(tenant, 0, 1 << 30, None, 1000))


async def test_a_turn_is_counted_once_however_often_it_ends(world: World) -> None:
    tenant, user = new_id(), new_id()
    turn = await begun(world, tenant, user)
    for _ in range(2):
        await world.store.change((), lambda tx: end_turn(tx, ended(turn, 10, 5)))
    (row,) = await rows_of(world, tenant)
    assert (row.user, row.persona, row.model) == (user, 7, "m")
    assert (row.turns, row.tokens_in, row.tokens_out, row.cost_micro) == (1, 10, 20, 5)


async def test_turns_that_end_together_and_later_add_up(world: World) -> None:
    tenant = new_id()
    ann, bob = new_id(), new_id()
    turns = [await begun(world, tenant, user) for user in (ann, ann, bob)]
    await world.store.change(
        (), lambda tx: end_turns(tx, [(ended(turn, 1, 2), 0) for turn in turns])
    )
    late = await begun(world, tenant, ann)
    await world.store.change((), lambda tx: end_turn(tx, ended(late, 1, 2)))
    other = await begun(world, tenant, ann)
    await world.store.change((), lambda tx: end_turn(tx, ended(other, 1, 2, "another model")))
    nothing = await begun(world, tenant, bob)
    await world.store.change((), lambda tx: end_turn(tx, ended(nothing, 0, 0)))
    rows = await rows_of(world, tenant)
    assert {(row.user, row.model): row.turns for row in rows} == {
        (ann, "m"): 3,
        (ann, "another model"): 1,
        (bob, "m"): 1,
    }
    day = rows[0].day
    spent = await world.store.read(spent_by_users(tenant, day, day))
    assert sorted(spent) == sorted([(tenant, ann, 8, 8), (tenant, bob, 2, 2)])
    assert await world.store.read(usage_by_day(tenant, ann, day - 3, 31)) == [
        DayUse(day, 4, 4, 8, 8)
    ]
    assert await world.store.read(usage_by_day(tenant, ann, day + 1, 31)) == []
    assert await world.store.read(usage_by_day(new_id(), ann, day, 1)) == []


async def test_use_by_day_is_that_of_one_person_on_the_days_asked_for(world: World) -> None:
    tenant, user, other = new_id(), new_id(), new_id()
    rows = [
        UsageRow(tenant, day, who, 7, model, 1, 10, 20, day)
        for day in (100, 102, 131)
        for who in (user, other)
        for model in ("a", "b")
    ]
    await world.store.change((), lambda tx: add_usage(tx, rows))
    assert await world.store.read(usage_by_day(tenant, user, 100, 31)) == [
        DayUse(100, 2, 20, 40, 200),
        DayUse(102, 2, 20, 40, 204),
    ]


async def test_yesterday_counts_for_the_month_only(world: World) -> None:
    tenant, user = new_id(), new_id()
    days = []

    def write(tx: Tx):  # type: ignore[no-untyped-def]  # a generator of statements
        today = tx.ts // DAY_MS
        days.append(today)
        yield from add_usage(
            tx,
            [UsageRow(tenant, today - back, user, 1, "m", 1, 1, 1, 10) for back in range(3)],
        )

    await world.store.change((), write)
    today = days[-1]
    assert await world.store.read(spent_by_users(tenant, today - 1, today)) == [
        (tenant, user, 10, 20)
    ]


async def test_a_page_goes_on_after_its_last_row(world: World) -> None:
    tenant = new_id()
    wanted = [
        UsageRow(tenant, day, user, persona, model, 1, 2, 3, 4)
        for day in (5, 6)
        for user in (1, 2)
        for persona in (1, 2)
        for model in ("a", "b")
    ]
    await world.store.change((), lambda tx: add_usage(tx, reversed(wanted)))
    found: list[UsageRow] = []
    while page := await world.store.read(usage_page(tenant, 5, 7, found[-1] if found else None, 3)):
        found += page
    assert found == wanted
    assert len(await world.store.read(usage_page(tenant, 5, 6, None, 100))) == 8


async def test_budgets_are_set_changed_and_listed(world: World) -> None:
    tenant = new_id()
    for budget in (BudgetRow(tenant, 0, 5, 50), BudgetRow(tenant, 9, 1, 0)):
        await world.store.change((), partial(set_budget, budget=budget))
    await world.store.change((), lambda tx: set_budget(tx, BudgetRow(tenant, 0, 6, 60)))
    page = await world.store.read(budgets((tenant, -1), 10))
    assert page[:2] == [BudgetRow(tenant, 0, 6, 60), BudgetRow(tenant, 9, 1, 0)]
    assert (await world.store.read(budgets((tenant, 0), 1)))[0].user == 9
