"""Reading and changing stored messages. Appending them is the committer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.codes import MsgKind
from protocol.rows import Msg, MsgX
from storage.errors import Gone, NotFound, NotPermitted, Stale, TooLate
from storage.memories import forget_message
from storage.ops import Op, Row, Statement, in_list
from storage.summaries import drop_summaries
from storage.writes import Tx

COLUMNS: Final = "seq, rev, ts, sender, kind, text, ext"

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(MsgX).decode


def encode_ext(x: MsgX) -> str | None:
    """Return the sparse part as stored: JSON, without `cid`, None when nothing is left."""
    if x.cid is not None:
        x = msgspec.structs.replace(x, cid=None)
    text = _encode(x).decode()
    return None if text == "{}" else text


def message_from(row: Row) -> Msg:
    """Build a message from `COLUMNS`."""
    seq, rev, ts, sender, kind, text, ext = row
    return Msg(seq, rev, ts, sender, kind, text, None if ext is None else _decode(ext))


def history(
    conv: int, anchor: int, back: bool, limit: int, floor: int
) -> Op[tuple[list[Msg], bool]]:
    """Return messages ascending, and whether there are more on that side.

    Back: those before anchor (0: the newest); else those after it. Only above floor.
    """
    if back:
        before = "AND seq < ? " if anchor else ""
        rows = yield Statement(
            f"SELECT {COLUMNS} FROM message WHERE conv = ? AND seq > ? {before}"
            "ORDER BY seq DESC LIMIT ?",
            (conv, floor, anchor, limit + 1) if anchor else (conv, floor, limit + 1),
        )
    else:
        rows = yield Statement(
            f"SELECT {COLUMNS} FROM message WHERE conv = ? AND seq > ? ORDER BY seq LIMIT ?",
            (conv, max(anchor, floor), limit + 1),
        )
    msgs = [message_from(row) for row in rows[:limit]]
    if back:
        msgs.reverse()
    return msgs, len(rows) > limit


def get_messages(conv: int, seqs: Sequence[int], floor: int) -> Op[list[Msg]]:
    """Return those of the named messages that exist above floor, ascending."""
    wanted = {seq for seq in seqs if seq > floor}
    if not wanted:
        return []
    marks, args = in_list(sorted(wanted))
    rows = yield Statement(
        f"SELECT {COLUMNS} FROM message WHERE conv = ? AND seq IN ({marks}) ORDER BY seq",
        (conv, *args),
    )
    return [message_from(row) for row in rows]


def edit_message(
    tx: Tx, conv: int, seq: int, by: int, text: str, x: MsgX | None, base: int
) -> Op[Msg]:
    """Replace the text of by's own message, and those fields of its sparse part that x sets.

    The same text again changes nothing: the row comes back with the rev it had. What was learnt
    from another text is forgotten.

    Raises:
        NotFound, NotPermitted (another's, or not text), Gone (recalled), Stale (base).
    """
    msg = yield from _locked_message(tx, conv, seq)
    if msg.sender != by or msg.kind not in (MsgKind.TEXT, MsgKind.AI_REPLY):
        raise NotPermitted("only own text can be edited")
    if msg.x is not None and msg.x.recalled is not None:
        raise Gone("the message was recalled")
    merged = _merge(msg.x, x)
    if msg.text == text and encode_ext(merged) == encode_ext(msg.x or MsgX()):
        return msg
    if base and msg.rev != base:
        raise Stale("the message has changed")
    merged.edited = tx.ts
    if msg.text != text:
        yield from forget_message(tx, conv, seq)
    return (yield from update_message(tx, conv, msg, text, merged))


def recall_message(
    tx: Tx, conv: int, seq: int, by: int, by_admin: bool, window_ms: int
) -> Op[tuple[Msg, bool]]:
    """Take a message back: its text, its sparse part and what was learnt from it go.

    Return it and whether that is new.

    Args:
        window_ms: how old an own message may be, 0 for any age. Administrators: any age.

    Raises:
        NotFound, NotPermitted (another's, without by_admin), TooLate.
    """
    msg = yield from _locked_message(tx, conv, seq)
    if msg.sender != by and not by_admin:
        raise NotPermitted("only own messages can be recalled")
    if msg.x is not None and msg.x.recalled is not None:
        return msg, False
    if window_ms and not by_admin and tx.ts - msg.ts > window_ms:
        raise TooLate("the message is too old to be recalled")
    yield from forget_message(tx, conv, seq)
    return (yield from update_message(tx, conv, msg, "", MsgX(recalled=by))), True


def _locked_message(tx: Tx, conv: int, seq: int) -> Op[Msg]:
    tx.head(conv)  # the lock on the head covers all rows of the conversation
    rows = yield Statement(f"SELECT {COLUMNS} FROM message WHERE conv = ? AND seq = ?", (conv, seq))
    if not rows:
        raise NotFound("no such message")
    return message_from(rows[0])


def update_message(tx: Tx, conv: int, msg: Msg, text: str, x: MsgX) -> Op[Msg]:
    """Store another text and sparse part of a message that was read under the head's lock.

    Summaries that tell of the message go: they are made again without its old text.
    """
    rev = tx.bump(conv)
    yield from drop_summaries(tx, conv, msg.seq)
    yield Statement(
        "UPDATE message SET rev = ?, text = ?, ext = ? WHERE conv = ? AND seq = ?",
        (rev, text, encode_ext(x), conv, msg.seq),
    )
    row = (conv, msg.seq, rev)
    yield tx.dialect.upsert("message_change", ("conv", "seq", "rev"), [row], keys=2)
    return Msg(msg.seq, rev, msg.ts, msg.sender, msg.kind, text, x)


def _merge(old: MsgX | None, new: MsgX | None) -> MsgX:
    merged = MsgX() if old is None else msgspec.structs.replace(old)
    if new is not None:
        for name in new.__struct_fields__:
            value = getattr(new, name)
            if value is not None and name not in ("cid", "edited", "recalled"):
                setattr(merged, name, value)
    return merged
