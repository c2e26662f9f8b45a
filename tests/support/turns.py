"""What the store knows of the turns of a conversation."""

from __future__ import annotations

from storage.ops import Op, Statement
from storage.rows import TurnRow
from storage.turns import get_turn


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
