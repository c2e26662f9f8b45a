"""Summaries: kept per persona, and gone with any change of a message they tell of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protocol.codes import MsgKind
from storage.branches import add_sibling
from storage.conversations import drop_conversation
from storage.messages import edit_message, recall_message
from storage.ops import Op, Statement
from storage.summaries import (
    StoredSummary,
    conversation_rev,
    drop_summaries,
    get_summary,
    save_summary,
)
from storage.writes import Tx
from tests.storage.world import World

TEXT = "他们谈到了湖边的房子 🏠"


async def talk(world: World) -> tuple[int, int]:
    """Return (conversation, user) with a question and four answers."""
    user = await world.user()
    conv = await world.conv([user])
    for number in range(5):
        await world.send(conv, user, str(number))
    return conv, user


async def keep(world: World, conv: int, upto: int, rev: int = 0, persona: int = 7) -> bool:
    rev = rev or await world.store.read(conversation_rev(conv))
    summary = StoredSummary(conv, persona, 1, upto, TEXT)
    return await world.store.change([conv], lambda tx: save_summary(tx, summary, rev))


async def kept(world: World, conv: int, persona: int = 7) -> StoredSummary | None:
    return await world.store.read(get_summary(conv, persona))


async def test_a_summary_is_kept_and_replaced(world: World) -> None:
    conv, _ = await talk(world)
    assert await kept(world, conv) is None
    assert await keep(world, conv, 2)
    assert await keep(world, conv, 3)
    found = await kept(world, conv)
    assert found is not None
    assert (found.floor_seq, found.upto_seq, found.text) == (1, 3, TEXT)
    assert found.updated > 0
    assert await kept(world, conv, persona=8) is None


Change = Callable[[Tx, int, int], Op[Any]]


def edit(tx: Tx, conv: int, user: int) -> Op[Any]:
    return edit_message(tx, conv, 2, user, "changed", None, 0)


def recall(tx: Tx, conv: int, user: int) -> Op[Any]:
    return recall_message(tx, conv, 2, user, False, 0)


@pytest.mark.parametrize("change", [edit, recall])
async def test_a_changed_message_takes_the_summaries_along_that_tell_of_it(
    world: World, change: Change
) -> None:
    conv, user = await talk(world)
    await keep(world, conv, 3, persona=7)
    await keep(world, conv, 1, persona=8)
    await world.store.change([conv], lambda tx: change(tx, conv, user))
    assert await kept(world, conv, 7) is None
    assert await kept(world, conv, 8) is not None


@pytest.mark.parametrize("change", [edit, recall])
async def test_a_summary_of_a_message_that_changed_meanwhile_is_not_kept(
    world: World, change: Change
) -> None:
    conv, user = await talk(world)
    rev = await world.store.read(conversation_rev(conv))
    await world.store.change([conv], lambda tx: change(tx, conv, user))
    assert not await keep(world, conv, 3, rev)
    assert await kept(world, conv) is None
    assert await keep(world, conv, 1, rev)
    assert await keep(world, conv, 3)


async def test_another_choice_among_answers_takes_the_summary_along(world: World) -> None:
    conv, user = await talk(world)
    seqs = []
    for number in range(2):
        sending = await world.send(conv, user, f"answer {number}")
        seqs.append(sending.seq)
    await world.store.change([conv], lambda tx: _make_answers(conv, seqs))
    await keep(world, conv, seqs[1])
    await world.store.change([conv], lambda tx: add_sibling(tx, conv, *seqs))
    assert await kept(world, conv) is None


def _make_answers(conv: int, seqs: list[int]) -> Op[None]:
    for seq in seqs:
        yield Statement(
            "UPDATE message SET kind = ? WHERE conv = ? AND seq = ?",
            (int(MsgKind.AI_REPLY), conv, seq),
        )


async def test_a_deleted_conversation_has_no_summary_and_gets_none(world: World) -> None:
    conv, user = await talk(world)
    rev = await world.store.read(conversation_rev(conv))
    await keep(world, conv, 3)
    await world.store.change([conv, user], lambda tx: drop_conversation(tx, conv))
    assert await kept(world, conv) is None
    assert not await keep(world, conv, 3, rev)


async def test_all_summaries_of_a_conversation_can_be_dropped(world: World) -> None:
    conv, _ = await talk(world)
    await keep(world, conv, 3, persona=7)
    await keep(world, conv, 1, persona=8)
    await world.store.change([conv], lambda tx: drop_summaries(tx, conv))
    assert await kept(world, conv, 7) is None
    assert await kept(world, conv, 8) is None


async def test_an_unknown_conversation_has_no_revision(world: World) -> None:
    assert await world.store.read(conversation_rev(5)) == 0
