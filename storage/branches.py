"""Answers to one question that exist beside each other: made by asking again, one of them chosen.

Each of them lists all (`MsgX.alts`, oldest first); those not chosen are `off`. The model is shown
the chosen one, where the first of them stands.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from protocol.codes import MsgKind
from protocol.rows import Msg, MsgX
from storage.errors import NotFound, NotPermitted
from storage.messages import get_messages, update_message
from storage.ops import Op
from storage.writes import Tx

MAX_SIBLINGS: Final = 16


def add_sibling(tx: Tx, conv: int, target: int, seq: int) -> Op[list[Msg]]:
    """Make the answer `seq` a sibling of `target` and the chosen one; return the changed rows.

    Recalled siblings stay as they are. Again: nothing changes.
    """
    tx.head(conv)
    first = _answers((yield from get_messages(conv, [target], 0)))
    if not first:
        return []
    known = (first[0].x.alts if first[0].x is not None else None) or [target]
    alts = [*known, seq] if seq not in known else known
    return (yield from _choose(tx, conv, alts[-MAX_SIBLINGS:], seq))


def pick_sibling(tx: Tx, conv: int, seq: int) -> Op[list[Msg]]:
    """Choose one of several answers; return the changed rows.

    Raises:
        NotFound: there is no such message.
        NotPermitted: it is no answer that has siblings.
    """
    tx.head(conv)
    rows = yield from get_messages(conv, [seq], 0)
    if not rows:
        raise NotFound("no such message")
    x = rows[0].x
    if not _answers(rows) or x is None or not x.alts:
        raise NotPermitted("only one of several answers can be picked")
    return (yield from _choose(tx, conv, x.alts, seq))


def _choose(tx: Tx, conv: int, alts: list[int], chosen: int) -> Op[list[Msg]]:
    changed: list[Msg] = []
    for msg in _answers((yield from get_messages(conv, alts, 0))):
        old = msg.x or MsgX()
        new = replace(old, alts=alts, off=None if msg.seq == chosen else True)
        if new != old:
            changed.append((yield from update_message(tx, conv, msg, msg.text, new)))
    return changed


def _answers(rows: list[Msg]) -> list[Msg]:
    return [
        row
        for row in rows
        if row.kind == MsgKind.AI_REPLY and (row.x is None or row.x.recalled is None)
    ]


def as_chosen(rows: list[Msg]) -> list[Msg]:
    """Return the messages as a talk: of siblings the chosen one, in the place of the first."""
    chosen = [row for row in rows if row.x is None or not row.x.off]
    chosen.sort(key=lambda row: row.x.alts[0] if row.x is not None and row.x.alts else row.seq)
    return chosen
