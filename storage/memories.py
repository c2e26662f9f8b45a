"""What personas remember of users, and whether users want it.

All changes of a user's memories declare that user's feed, which puts them in one order; what
changes a pair (user, persona) gives it a new `rev`, by which caches know that they are old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from storage.errors import LimitReached, NotFound
from storage.ids import new_id
from storage.mem0_erasures import Learner, Source, note_so_far, note_source, note_sources
from storage.ops import Op, Row, Statement, in_list
from storage.writes import Tx

MAX_PER_PAIR: Final = 500
"""Memories of one user that one persona keeps, those that were replaced included."""

_ROWS: Final = 100_000

_COLUMN_NAMES: Final = (
    "id",
    "tenant",
    "user",
    "persona",
    "kind",
    "text",
    "conv",
    "seq",
    "quote",
    "pinned",
    "created",
    "updated",
    "last_used",
    "uses",
    "replaced_by",
)
_COLUMNS: Final = ", ".join(_COLUMN_NAMES)
MEMORY_INSERT: Final = (*_COLUMN_NAMES, "emb", "emb_model")
_SELECT: Final = f"SELECT {_COLUMNS} FROM ai_memory"


class Memory(Struct, frozen=True, gc=False):
    """One thing that a persona remembers of a user.

    `conv` and `seq` name the message it was learnt from, 0 when the user wrote it into the list.
    `replaced_by`: the memory that holds in its place, 0 while it holds itself.
    """

    id: int
    tenant: int
    user: int
    persona: int
    kind: str
    text: str
    conv: int
    seq: int
    quote: str
    pinned: bool
    created: int
    updated: int
    last_used: int
    uses: int
    replaced_by: int


class Embedded(NamedTuple):
    """A memory with its vector: float32, little endian; `model` "" means none yet."""

    memory: Memory
    vector: bytes
    model: str


class PairState(NamedTuple):
    """`rev` changes with every change of the pair's memories; `off`: the user wants none."""

    rev: int
    off: bool


# reading


def pair_state(user: int, persona: int) -> Op[PairState]:
    """Return the state of a pair with one statement."""
    rows = yield Statement(
        "SELECT (SELECT rev FROM ai_memory_head WHERE user = ? AND persona = ?),"
        " (SELECT off FROM ai_memory_setting WHERE user = ?)",
        (user, persona, user),
    )
    return PairState(rows[0][0] or 0, bool(rows[0][1]))


def pair_memories(user: int, persona: int) -> Op[tuple[PairState, list[Embedded]]]:
    """Return the memories of a pair that hold, with vectors. Run it with snapshot=True."""
    state = yield from pair_state(user, persona)
    rows = yield Statement(
        f"SELECT {_COLUMNS}, emb, emb_model FROM ai_memory"
        " WHERE user = ? AND persona = ? AND replaced_by = 0 ORDER BY id LIMIT ?",
        (user, persona, MAX_PER_PAIR),
    )
    return state, [Embedded(_memory(row[:-2]), bytes(row[-2]), row[-1]) for row in rows]


def list_memories(
    user: int, persona: int, after: int, limit: int, *, replaced: bool = False
) -> Op[list[Memory]]:
    """Return a page of what is remembered of user, by id; go on after the last one.

    Args:
        persona: 0 for those of all personas.
        replaced: also those that newer ones took the place of.
    """
    where, args = ("AND persona = ? ", [persona]) if persona else ("", [])
    if not replaced:
        where += "AND replaced_by = 0 "
    rows = yield Statement(
        f"{_SELECT} WHERE user = ? {where}AND id > ? ORDER BY id LIMIT ?",
        (user, *args, after, limit),
    )
    return [_memory(row) for row in rows]


def is_off(user: int) -> Op[bool]:
    """Tell whether user wants nothing to be remembered."""
    rows = yield Statement("SELECT off FROM ai_memory_setting WHERE user = ?", (user,))
    return bool(rows and rows[0][0])


# what people do with their memories


def add_memory(
    tx: Tx,
    tenant: int,
    user: int,
    persona: int,
    kind: str,
    text: str,
    *,
    pinned: bool = False,
    may_pin: Callable[[Sequence[str]], bool] | None = None,
    id: int | None = None,
) -> Op[Memory]:
    """Store what the user wants to be remembered; the same id again returns the first one.

    Args:
        may_pin: asked with the texts of all pinned memories of the pair, this one included.

    Raises:
        LimitReached: too much is pinned, or all memories of a full pair are.
    """
    made = new_id() if id is None else id
    known = yield from _own(user, [made])
    if known:
        return known[0]
    if pinned:
        yield from _check_pins(user, persona, made, text, may_pin)
    evicted = yield from make_room(user, persona, 1)
    if evicted is None:
        raise LimitReached("all memories are pinned: unpin or erase one")
    yield from drop_memories(evicted)
    row = (made, tenant, user, persona, kind, text, 0, 0, "", int(pinned), tx.ts, tx.ts, 0, 0, 0)
    yield tx.dialect.insert("ai_memory", MEMORY_INSERT, [(*row, b"", "")])
    yield from touch_pairs(tx, [(user, persona)])
    return _memory(row)


def change_memory(
    tx: Tx,
    user: int,
    id: int,
    *,
    text: str | None = None,
    kind: str | None = None,
    pinned: bool | None = None,
    may_pin: Callable[[Sequence[str]], bool] | None = None,
) -> Op[Memory]:
    """Change the given fields of user's own memory; a new text loses the vector of the old one.

    Raises:
        NotFound: no such memory of this user, or it was replaced.
        LimitReached: too much is pinned.
    """
    found = yield from _own(user, [id])
    if not found or found[0].replaced_by:
        raise NotFound("no such memory")
    old = found[0]
    wanted = {"text": text, "kind": kind, "pinned": pinned}
    changes: dict[str, Any] = {
        name: value
        for name, value in wanted.items()
        if value is not None and value != getattr(old, name)
    }
    if not changes:
        return old
    new = msgspec.structs.replace(old, updated=tx.ts, **changes)
    if new.pinned:
        yield from _check_pins(user, old.persona, id, new.text, may_pin)
    changes["updated"] = tx.ts
    if "text" in changes:
        changes |= {"emb": b"", "emb_model": ""}
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(f"UPDATE ai_memory SET {sets} WHERE id = ?", (*changes.values(), id))
    yield from touch_pairs(tx, [(user, old.persona)])
    return new


def erase_memory(tx: Tx, user: int, id: int) -> Op[None]:
    """Erase one memory and those it took the place of: nothing older comes back.

    What the persona learnt at a mem0 server from the same messages goes as well.

    Raises:
        NotFound: no such memory of this user.
    """
    found = yield from _own(user, [id])
    if not found:
        raise NotFound("no such memory")
    one = found[0]
    learnt = {id: (one.conv, one.seq)}
    layer = [id]
    while layer:
        marks, args = in_list(layer)
        rows = yield Statement(
            f"SELECT id, conv, seq FROM ai_memory WHERE replaced_by IN ({marks}) LIMIT ?",
            (*args, MAX_PER_PAIR),
        )
        layer = [row[0] for row in rows if row[0] not in learnt]
        learnt |= {row[0]: (row[1], row[2]) for row in rows}
    learner = Learner(one.tenant, user, one.persona)
    yield from note_sources(
        tx, {Source(learner, *place) for place in learnt.values() if all(place)}
    )
    yield from drop_memories(list(learnt))
    yield from touch_pairs(tx, [(user, one.persona)])


def erase_memories(tx: Tx, user: int, persona: int = 0) -> Op[int]:
    """Erase what a persona (0: everyone) remembers of user; return how many.

    What user wrote so far is not read any more either, and a mem0 server has to erase as much.
    """
    yield from note_so_far(tx, user, persona)
    where, args = (" AND persona = ?", (persona,)) if persona else ("", ())
    rows = yield Statement(
        f"SELECT id, persona FROM ai_memory WHERE user = ?{where} LIMIT ?", (user, *args, _ROWS)
    )
    marks = yield from _skip_marks(user, persona)
    yield Statement(f"DELETE FROM ai_memory WHERE user = ?{where}", (user, *args))
    yield from _write_skips(tx, marks)
    yield from touch_pairs(tx, {(user, row[1]) for row in rows})
    return len(rows)


def set_off(tx: Tx, user: int, off: bool) -> Op[None]:
    """Stop learning and recalling for user, or start again; what is stored stays.

    What user writes in between is never read.
    """
    if (yield from is_off(user)) == off:
        return
    marks = yield from _skip_marks(user, 0)
    columns = ("user", "off", "updated")
    yield tx.dialect.upsert("ai_memory_setting", columns, [(user, int(off), tx.ts)])
    yield from _write_skips(tx, marks)


# forgetting with the source


def forget_message(tx: Tx, conv: int, seq: int) -> Op[int]:
    """Erase what was learnt from a message; return how much. What it had replaced holds again.

    For the transaction that recalls or edits the message. A mem0 server has to be told, too.
    """
    yield from note_source(tx, conv, seq)
    rows = yield Statement(
        "SELECT id, user, persona, replaced_by FROM ai_memory WHERE conv = ? AND seq = ? LIMIT ?",
        (conv, seq, _ROWS),
    )
    return (yield from _forget(tx, rows))


def forget_conversation(tx: Tx, conv: int) -> Op[int]:
    """Erase what was learnt in a conversation, and how far it was read; return how much.

    For the transaction that deletes the conversation. A mem0 server has to be told, too.
    """
    yield from note_source(tx, conv)
    rows = yield Statement(
        "SELECT id, user, persona, replaced_by FROM ai_memory WHERE conv = ? LIMIT ?",
        (conv, _ROWS),
    )
    count = yield from _forget(tx, rows)
    yield Statement("DELETE FROM ai_memory_mark WHERE conv = ?", (conv,))
    return count


def forget_user(tx: Tx, user: int) -> Op[int]:
    """Erase everything about user's memories, the choice included; return how many there were.

    For the transaction that deletes the user.
    """
    rows = yield Statement("SELECT COUNT(*) FROM ai_memory WHERE user = ?", (user,))
    for name in ("ai_memory", "ai_memory_mark", "ai_memory_head", "ai_memory_setting"):
        yield Statement(f"DELETE FROM {name} WHERE user = ?", (user,))
    return int(rows[0][0])


def _forget(tx: Tx, rows: Sequence[Row]) -> Op[int]:
    """Delete memories; what they had replaced is linked to what replaced them, or holds again."""
    if not rows:
        return 0
    heirs = {row[0]: row[3] for row in rows}
    by_heir: dict[int, list[int]] = {}
    for id in heirs:
        heir = heirs[id]
        while heir in heirs:
            heir = heirs[heir]
        by_heir.setdefault(heir, []).append(id)
    yield from drop_memories(list(heirs))
    for heir, ids in by_heir.items():
        marks, args = in_list(ids)
        yield Statement(
            f"UPDATE ai_memory SET replaced_by = ? WHERE replaced_by IN ({marks})", (heir, *args)
        )
    yield from touch_pairs(tx, {(row[1], row[2]) for row in rows})
    return len(rows)


def touch_memories(tx: Tx, uses: Sequence[tuple[int, int]]) -> Op[None]:
    """Count that memories (each an id and how often) were shown to a model just now."""
    if not uses:
        return
    marks, args = in_list(id for id, _ in uses)
    rows = yield Statement(f"SELECT id, uses FROM ai_memory WHERE id IN ({marks})", args)
    known = {row[0]: row[1] for row in rows}
    used = [(id, known[id] + times, tx.ts) for id, times in uses if id in known]
    if used:
        yield tx.dialect.update("ai_memory", ("id", "uses", "last_used"), used)


def set_vectors(
    tx: Tx, user: int, persona: int, model: str, vectors: Sequence[tuple[Memory, bytes]]
) -> Op[None]:
    """Store vectors of memories; one whose text has changed since stays without."""
    if not vectors:
        return
    marks, args = in_list(memory.id for memory, _ in vectors)
    rows = yield Statement(f"SELECT id, text FROM ai_memory WHERE id IN ({marks})", args)
    texts = {row[0]: row[1] for row in rows}
    made = [(m.id, vector, model) for m, vector in vectors if texts.get(m.id) == m.text]
    if made:
        yield tx.dialect.update("ai_memory", ("id", "emb", "emb_model"), made)
        yield from touch_pairs(tx, [(user, persona)])


# parts of the above


def _memory(row: Row) -> Memory:
    values = (*row[:9], bool(row[9]), *row[10:])
    return Memory(*values)


def _own(user: int, ids: Sequence[int]) -> Op[list[Memory]]:
    marks, args = in_list(ids)
    rows = yield Statement(f"{_SELECT} WHERE id IN ({marks}) AND user = ?", (*args, user))
    return [_memory(row) for row in rows]


def _check_pins(
    user: int, persona: int, id: int, text: str, may_pin: Callable[[Sequence[str]], bool] | None
) -> Op[None]:
    rows = yield Statement(
        "SELECT id, text FROM ai_memory"
        " WHERE user = ? AND persona = ? AND pinned = 1 AND replaced_by = 0 LIMIT ?",
        (user, persona, MAX_PER_PAIR),
    )
    texts = [row[1] for row in rows if row[0] != id]
    if may_pin is not None and not may_pin([*texts, text]):
        raise LimitReached("too much is pinned: unpin another memory first")


def make_room(
    user: int, persona: int, count: int, keep: set[int] | None = None
) -> Op[list[int] | None]:
    """Return what must go so that count more fit: replaced ones, then the least useful.

    None: all that is left is pinned.
    """
    rows = yield Statement(
        "SELECT id, pinned, replaced_by, uses, last_used, created FROM ai_memory"
        " WHERE user = ? AND persona = ? ORDER BY id LIMIT ?",
        (user, persona, MAX_PER_PAIR * 2),
    )
    excess = len(rows) + count - MAX_PER_PAIR
    if excess <= 0:
        return []
    replaced = [row for row in rows if row[2]]
    rest = [row for row in rows if not row[2] and not row[1] and row[0] not in (keep or ())]
    replaced.sort(key=lambda row: row[5])
    rest.sort(key=lambda row: (row[3], max(row[4], row[5])))
    # What is about to be replaced goes last, before nothing but the pinned ones.
    last = [row for row in rows if not row[2] and row[0] in (keep or ())]
    candidates = [row[0] for row in (*replaced, *rest, *last)]
    return candidates[:excess] if len(candidates) >= excess else None


def drop_memories(ids: Sequence[int]) -> Op[None]:
    if ids:
        marks, args = in_list(ids)
        yield Statement(f"DELETE FROM ai_memory WHERE id IN ({marks})", args)


def touch_pairs(tx: Tx, pairs: Iterable[tuple[int, int]]) -> Op[None]:
    rows = [(user, persona, new_id()) for user, persona in sorted(pairs)]
    if rows:
        yield tx.dialect.upsert("ai_memory_head", ("user", "persona", "rev"), rows, keys=2)


def _skip_marks(user: int, persona: int) -> Op[list[Row]]:
    """Return marks moved to the end of their conversations."""
    where, args = (" AND persona = ?", (persona,)) if persona else ("", ())
    rows = yield Statement(
        "SELECT m.user, m.persona, m.conv, m.noted_seq, f.last_seq FROM ai_memory_mark AS m"
        f" JOIN feed AS f ON f.id = m.conv WHERE m.user = ?{where} LIMIT ?",
        (user, *args, _ROWS),
    )
    return [(*row[:3], max(row[3], row[4]), max(row[3], row[4]), 0) for row in rows]


def _write_skips(tx: Tx, rows: Sequence[Row]) -> Op[None]:
    columns = ("user", "persona", "conv", "upto_seq", "noted_seq", "pending_since")
    if rows:
        yield tx.dialect.update("ai_memory_mark", columns, rows, keys=3)
