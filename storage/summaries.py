"""What came before the history that a model is shown, told in short: one text per conversation
and persona."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from storage.ops import Op, Statement
from storage.writes import Tx

_COLUMN_NAMES: Final = ("conv", "persona", "floor_seq", "upto_seq", "text", "updated")


class StoredSummary(Struct, frozen=True, gc=False):
    """It tells of the messages above `floor_seq` up to `upto_seq`; `text` may be empty."""

    conv: int
    persona: int
    floor_seq: int
    upto_seq: int
    text: str
    updated: int = 0


def get_summary(conv: int, persona: int, floor: int = 0) -> Op[StoredSummary | None]:
    """Return the summary of a conversation that is kept for a persona.

    None if there is none that somebody may be told who sees only what is above floor. The
    history shown beside it may begin behind its `upto_seq`.
    """
    rows = yield Statement(
        f"SELECT {', '.join(_COLUMN_NAMES)} FROM conv_summary"
        " WHERE conv = ? AND persona = ? AND floor_seq >= ?",
        (conv, persona, floor),
    )
    return StoredSummary(*rows[0]) if rows else None


def conversation_rev(conv: int) -> Op[int]:
    """Return the revision of a conversation's feed, 0 if there is none."""
    rows = yield Statement("SELECT rev FROM feed WHERE id = ?", (conv,))
    return int(rows[0][0]) if rows else 0


def save_summary(tx: Tx, summary: StoredSummary, rev: int) -> Op[bool]:
    """Keep a summary made of messages as they were at revision `rev` of the conversation.

    Return False, and keep nothing, if one of these messages has changed since (a recalled text
    must not live on) or the conversation was deleted. Declare the conversation's
    feed, which keeps such changes out meanwhile.
    """
    tx.head(summary.conv)
    changed = yield Statement(
        "SELECT seq FROM message_change WHERE conv = ? AND rev > ? AND seq <= ? LIMIT 1",
        (summary.conv, rev, summary.upto_seq),
    )
    gone = yield Statement(
        "SELECT id FROM conversation WHERE id = ? AND deleted > 0", (summary.conv,)
    )
    if changed or gone:
        return False
    row = (
        summary.conv,
        summary.persona,
        summary.floor_seq,
        summary.upto_seq,
        summary.text,
        tx.ts,
    )
    yield tx.dialect.upsert("conv_summary", _COLUMN_NAMES, [row], keys=2)
    return True


def drop_summaries(tx: Tx, conv: int, seq: int = 0) -> Op[None]:
    """Erase the summaries that tell of a message, or all of a conversation.

    For the transaction that changes the message or deletes the conversation.
    """
    yield Statement("DELETE FROM conv_summary WHERE conv = ? AND upto_seq >= ?", (conv, seq))
