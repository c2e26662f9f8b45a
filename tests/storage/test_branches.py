"""Answers beside each other: every engine keeps the same account of which one is chosen."""

from __future__ import annotations

import asyncio

import pytest

from protocol.codes import MsgKind
from protocol.rows import Msg, MsgX
from storage.branches import MAX_SIBLINGS, add_sibling, as_chosen, pick_sibling
from storage.errors import NotFound, NotPermitted
from storage.messages import recall_message
from tests.storage.world import Sending, World, cid


async def answers(world: World, count: int) -> tuple[int, int]:
    """Return (conversation, user) with a question and `count` answers behind it."""
    user = await world.user()
    conv = await world.conv([user])
    await world.send(conv, user, "a question")
    futures = []
    for number in range(count):
        kind, x = int(MsgKind.AI_REPLY), MsgX(persona=7)
        sending = Sending(conv, 7, cid(), kind, f"answer {number}", x)
        world.store.submit(sending)
        futures.append(sending.future)
    await asyncio.gather(*futures)
    return conv, user


async def add(world: World, conv: int, target: int, seq: int) -> list[Msg]:
    return await world.store.change([conv], lambda tx: add_sibling(tx, conv, target, seq))


async def off(world: World, conv: int) -> list[bool]:
    return [bool(m.x and m.x.off) for m in (await world.all_messages(conv))[1:]]


async def test_the_newest_answer_is_chosen_until_another_is_picked(world: World) -> None:
    conv, _ = await answers(world, 3)
    assert [m.seq for m in await add(world, conv, 2, 3)] == [2, 3]
    assert [m.seq for m in await add(world, conv, 3, 4)] == [2, 3, 4]
    assert await off(world, conv) == [True, True, False]
    changed = await world.store.change([conv], lambda tx: pick_sibling(tx, conv, 3))
    assert [(m.seq, bool(m.x and m.x.off)) for m in changed] == [(3, False), (4, True)]
    assert len({m.rev for m in changed}) == 2
    assert await off(world, conv) == [True, False, True]
    talk = as_chosen(await world.all_messages(conv))
    assert [m.text for m in talk] == ["a question", "answer 1"]


async def test_doing_it_again_changes_nothing(world: World) -> None:
    conv, _ = await answers(world, 2)
    await add(world, conv, 2, 3)
    assert await add(world, conv, 2, 3) == []
    assert await world.store.change([conv], lambda tx: pick_sibling(tx, conv, 3)) == []


async def test_a_recalled_answer_is_no_sibling_and_stays_empty(world: World) -> None:
    conv, user = await answers(world, 2)
    await add(world, conv, 2, 3)
    await world.store.change([conv], lambda tx: recall_message(tx, conv, 2, user, True, 0))
    with pytest.raises(NotPermitted):
        await world.store.change([conv], lambda tx: pick_sibling(tx, conv, 2))
    assert await add(world, conv, 2, 3) == []
    row = (await world.all_messages(conv))[1]
    assert (row.text, row.x) == ("", MsgX(recalled=user))


async def test_only_one_of_several_answers_can_be_picked(world: World) -> None:
    conv, _ = await answers(world, 1)
    for seq, error in ((1, NotPermitted), (2, NotPermitted), (9, NotFound)):
        with pytest.raises(error):
            await world.store.change([conv], lambda tx, s=seq: pick_sibling(tx, conv, s))  # type: ignore[misc]  # bound early


async def test_the_oldest_of_too_many_is_left_out(world: World) -> None:
    conv, _ = await answers(world, MAX_SIBLINGS + 1)
    for seq in range(3, MAX_SIBLINGS + 3):
        await add(world, conv, seq - 1, seq)
    last = (await world.all_messages(conv))[-1]
    assert last.x is not None
    assert last.x.alts == list(range(3, MAX_SIBLINGS + 3))


def test_a_chosen_answer_stands_in_the_place_of_the_first() -> None:
    def row(seq: int, x: MsgX | None = None) -> Msg:
        return Msg(seq, seq, 0, 1, 0, str(seq), x)

    alts = [2, 5]
    rows = [row(1), row(2, MsgX(alts=alts, off=True)), row(3), row(4), row(5, MsgX(alts=alts))]
    assert [m.seq for m in as_chosen(rows)] == [1, 5, 3, 4]
