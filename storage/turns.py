"""AI turns: one record each, from the question to a final state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from storage.ops import Op, Row, Statement, in_list
from storage.rows import EndTurn, NewTurn, TurnCheckpoint, TurnRow, TurnStatus
from storage.usage import DAY_MS, UsageRow, add_usage
from storage.writes import Tx

_MAX_ERROR: Final = 500
_PIECE: Final = 256

_COLUMNS: Final = (
    "id",
    "tenant",
    "conv",
    "ask_seq",
    "user",
    "persona",
    "cid",
    "mode",
    "status",
    "reason",
    "lease_until",
    "node",
    "attempts",
    "provider",
    "model",
    "tokens_in",
    "tokens_out",
    "cost_micro",
    "usage_source",
    "ttft_ms",
    "duration_ms",
    "error_code",
    "error_message",
    "partial",
    "answer_seq",
    "created",
    "started",
    "finished",
)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM ai_turn"
_END_COLUMNS: Final = (
    "id",
    "status",
    "reason",
    "provider",
    "model",
    "tokens_in",
    "tokens_out",
    "cost_micro",
    "usage_source",
    "ttft_ms",
    "duration_ms",
    "error_code",
    "error_message",
    "partial",
    "answer_seq",
    "finished",
)
_NOT_FINAL: Final = f"AND t.status < {TurnStatus.DONE:d}"


def insert_turns(tx: Tx, turns: Sequence[tuple[NewTurn, int, int, bytes]]) -> Op[None]:
    """Store new turns, each with its conversation, the question's number and the cid."""
    rows = [_new_row(tx, turn, conv, ask_seq, cid) for turn, conv, ask_seq, cid in turns]
    yield tx.dialect.insert("ai_turn", _COLUMNS, rows)


def create_turn(
    tx: Tx, turn: NewTurn, conv: int, ask_seq: int, cid: bytes
) -> Op[tuple[TurnRow, bool]]:
    """Store a turn that no message starts (`gen`); return it and whether it is new.

    The same (conv, user, cid) gives the turn that was created first.
    """
    rows = yield Statement(
        f"{_SELECT} WHERE conv = ? AND user = ? AND cid = ?{tx.dialect.for_update}",
        (conv, turn.user, cid),
    )
    if rows:
        return _turn(rows[0]), False
    row = _new_row(tx, turn, conv, ask_seq, cid)
    yield tx.dialect.insert("ai_turn", _COLUMNS, [row])
    return _turn(row), True


def end_turn(tx: Tx, end: EndTurn) -> Op[None]:
    """Give a turn without an answer its final state; the first end wins."""
    yield from end_turns(tx, [(end, 0)])


def end_turns(tx: Tx, ends: Sequence[tuple[EndTurn, int]]) -> Op[None]:
    """Give turns their final state and the number of their answer; the first end wins.

    What they used is added to their day's sums in the same transaction, once. The text so far
    goes: an answer is kept as a message only, where it can be recalled.
    """
    yield from _add_usage(tx, [end for end, _ in ends])
    rows = [
        (
            end.sid,
            int(end.status),
            int(end.reason),
            end.provider,
            end.model,
            end.tokens_in,
            end.tokens_out,
            end.cost_micro,
            end.usage_source,
            end.ttft_ms,
            end.duration_ms,
            end.error_code,
            end.error_message[:_MAX_ERROR],
            "",
            answer_seq,
            tx.ts,
        )
        for end, answer_seq in ends
    ]
    yield tx.dialect.update("ai_turn", _END_COLUMNS, rows, where=_NOT_FINAL)


def _add_usage(tx: Tx, ends: Sequence[EndTurn]) -> Op[None]:
    used = {end.sid: end for end in ends if end.tokens_in or end.tokens_out or end.cost_micro}
    if not used:
        return
    marks, args = in_list(used)
    rows = yield Statement(
        "SELECT id, tenant, user, persona FROM ai_turn"
        f" WHERE id IN ({marks}) AND status < ?{tx.dialect.for_update}",
        (*args, int(TurnStatus.DONE)),
    )
    day = tx.ts // DAY_MS
    yield from add_usage(
        tx,
        [
            UsageRow(
                tenant,
                day,
                user,
                persona,
                end.model,
                1,
                end.tokens_in,
                end.tokens_out,
                end.cost_micro,
            )
            for sid, tenant, user, persona in rows
            for end in (used[sid],)
        ],
    )


def checkpoint_turns(tx: Tx, turns: Sequence[TurnCheckpoint]) -> Op[None]:
    """Renew leases and keep partial texts; final turns stay as they are.

    One statement for those with text and one for those without, whatever their number.
    """
    texts = []
    plain = []
    for sid, lease_until, partial, *so_far in turns:
        if partial is None:
            plain.append((sid, int(TurnStatus.RUNNING), lease_until, *so_far))
        else:
            texts.append((sid, int(TurnStatus.RUNNING), lease_until, *so_far, partial))
    columns = ("id", "status", "lease_until", *TurnCheckpoint._fields[3:])
    if texts:
        yield tx.dialect.update("ai_turn", (*columns, "partial"), texts, where=_NOT_FINAL)
    if plain:
        yield tx.dialect.update("ai_turn", columns, plain, where=_NOT_FINAL)


def claim_turn(tx: Tx, turn: TurnRow, node: str, lease_until: int) -> Op[bool]:
    """Take over an orphan for one more attempt; False if somebody was quicker."""
    rows = yield Statement(
        "SELECT lease_until, attempts FROM ai_turn"
        f" WHERE id = ? AND status < ?{tx.dialect.for_update}",
        (turn.sid, int(TurnStatus.DONE)),
    )
    if not rows or (rows[0][0], rows[0][1]) != (turn.lease_until, turn.attempts):
        return False
    yield Statement(
        "UPDATE ai_turn SET node = ?, lease_until = ?, attempts = ? WHERE id = ?",
        (node, lease_until, turn.attempts + 1, turn.sid),
    )
    return True


def orphan_turns(node: str, now_ms: int, limit: int) -> Op[list[TurnRow]]:
    """Return unfinished turns of node, or of anybody whose lease has lapsed."""
    found: dict[int, TurnRow] = {}
    for status in (TurnStatus.QUEUED, TurnStatus.RUNNING):
        # One status at a time walks the index by lease; unfinished turns are few.
        rows = yield Statement(
            f"{_SELECT} WHERE status = ? AND (lease_until < ? OR node = ?)"
            " ORDER BY lease_until, id LIMIT ?",
            (int(status), now_ms, node, limit),
        )
        found.update((row[0], _turn(row)) for row in rows)
    return sorted(found.values(), key=lambda turn: turn.sid)[:limit]


def get_turn(sid: int) -> Op[TurnRow | None]:
    rows = yield Statement(f"{_SELECT} WHERE id = ?", (sid,))
    return _turn(rows[0]) if rows else None


class TurnFilter(Struct, frozen=True):
    """Which turns are wanted: of a conversation (None: of any), with a status, made in a time.

    Attributes:
        since, until: Unix milliseconds; until is not included, 0 for no end.
    """

    conv: int | None = None
    status: TurnStatus | None = None
    since: int = 0
    until: int = 0


def turns_asked_by(user: int, wanted: TurnFilter, before: int, limit: int) -> Op[list[TurnRow]]:
    """Return turns that user asked for, newest first, with ids below `before` (0: from the newest).

    Of any conversation: those that user is or was a member of, and answers outside of all.
    """
    where, args = ["user = ?"], [user]
    if wanted.conv is None:
        # Walks the index (conv, user, cid): there is none by user alone.
        where.append("conv IN (SELECT conv FROM member WHERE user = ? UNION ALL SELECT 0)")
        args.append(user)
    else:
        where.append("conv = ?")
        args.append(wanted.conv)
    if wanted.status is not None:
        where.append("status = ?")
        args.append(int(wanted.status))
    for column, sign, value in (
        ("created", ">=", wanted.since),
        ("created", "<", wanted.until),
        ("id", "<", before),
    ):
        if value:
            where.append(f"{column} {sign} ?")
            args.append(value)
    rows = yield Statement(
        f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?", (*args, limit)
    )
    return [_turn(row) for row in rows]


def _new_row(tx: Tx, turn: NewTurn, conv: int, ask_seq: int, cid: bytes) -> Row:
    return (
        turn.sid,
        turn.tenant,
        conv,
        ask_seq,
        turn.user,
        turn.persona,
        cid,
        int(turn.mode),
        int(TurnStatus.QUEUED),
        0,
        turn.lease_until,
        turn.node,
        0,
        "",
        turn.model,
        *(0,) * 3,
        "",
        *(0,) * 2,
        *("",) * 3,
        0,
        tx.ts,
        0,
        0,
    )


def _turn(row: Row) -> TurnRow:
    values = (*row[:6], bytes(row[6]), *row[7:])
    return TurnRow(*values)
