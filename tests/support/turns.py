"""What the store knows of the turns of a conversation."""

from __future__ import annotations

import asyncio

from storage.ops import Op, Statement
from storage.rows import TurnRow
from storage.store import Store, StoreOptions
from storage.turns import get_turn
from tests.support.eventually import WAIT_S

SOME_BYTES = 40
"""Of text: a few words."""


def turns_of(conv: int) -> Op[list[TurnRow]]:
    """Return the newest turns of a conversation (0: of none), newest first."""
    ids = yield Statement(
        "SELECT id FROM ai_turn WHERE conv = ? ORDER BY id DESC LIMIT 100", (conv,)
    )
    found = []
    for (sid,) in ids:
        turn = yield from get_turn(sid)
        assert turn is not None
        found.append(turn)
    return found


async def until_kept(url: str, turns: int) -> None:
    """Wait until some text of so many running answers is stored: what a crash leaves of them."""
    store = await Store.open(StoreOptions(url=url, migrate=False))
    try:
        async with asyncio.timeout(WAIT_S):
            while await store.read(_running_with_text()) < turns:  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.1)
    finally:
        await store.close(WAIT_S)


def _running_with_text() -> Op[int]:
    found = yield Statement(
        "SELECT COUNT(*) FROM ai_turn WHERE status < 2 AND LENGTH(partial) >= ?", (SOME_BYTES,)
    )
    return int(found[0][0])
