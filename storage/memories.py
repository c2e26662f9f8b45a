"""What personas remember of users, how far conversations were read for it, and people's choice.

All changes of a user's memories declare that user's feed, which puts them in one order; what
changes a pair (user, persona) gives it a new `rev`, by which caches know that they are old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from protocol.codes import MsgKind
from protocol.rows import MsgX
from storage.errors import LimitReached, NotFound
from storage.ids import EPOCH_MS, id_time_ms, new_id
from storage.ops import Op, Row, Statement, in_list
from storage.writes import Tx

MAX_PER_PAIR: Final = 500
"""Memories of one user that one persona keeps, those that were replaced included."""

_READ_AT_ONCE: Final = 2_000
"""Message numbers of one conversation that one reading walks over."""
_CONVS_AT_ONCE: Final = 20
_ROWS: Final = 100_000
_ASKS: Final = 5_000
_ID_BITS: Final = 12

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
_INSERT: Final = (*_COLUMN_NAMES, "emb", "emb_model")
_SELECT: Final = f"SELECT {_COLUMNS} FROM ai_memory"
_MARK_INSERT: Final = (
    "user",
    "persona",
    "conv",
    "tenant",
    "upto_seq",
    "noted_seq",
    "pending_since",
)

_decode_ext: Final = msgspec.json.Decoder(MsgX).decode


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


class Noted(NamedTuple):
    """A user wrote to a persona: the first and last of the messages noted together."""

    user: int
    persona: int
    conv: int
    first_seq: int
    last_seq: int


class Span(NamedTuple):
    """A part of a conversation that was read: after `from_seq`, up to `upto_seq`."""

    conv: int
    from_seq: int
    upto_seq: int


class Written(NamedTuple):
    """A message that the user wrote; `rev` tells whether it has changed since."""

    conv: int
    seq: int
    rev: int
    text: str


class Unread(Struct, frozen=True):
    """What waits to be read for one pair; `more`: it is not all."""

    tenant: int
    spans: tuple[Span, ...]
    written: tuple[Written, ...]
    more: bool


class Learnt(Struct, frozen=True):
    """A fact to store, with the message it came from and the memories it takes the place of."""

    kind: str
    text: str
    source: Written
    quote: str
    vector: bytes = b""
    model: str = ""
    replaces: tuple[int, ...] = ()


class Learned(NamedTuple):
    """What storing facts did; `outdated`: their message was changed or taken back meanwhile."""

    added: int
    replaced: int
    evicted: int
    outdated: int
    full: int


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
    evicted = yield from _room(user, persona, 1)
    if evicted is None:
        raise LimitReached("all memories are pinned: unpin or erase one")
    yield from _drop(evicted)
    row = (made, tenant, user, persona, kind, text, 0, 0, "", int(pinned), tx.ts, tx.ts, 0, 0, 0)
    yield tx.dialect.insert("ai_memory", _INSERT, [(*row, b"", "")])
    yield from _touch_heads(tx, [(user, persona)])
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
    yield from _touch_heads(tx, [(user, old.persona)])
    return new


def erase_memory(tx: Tx, user: int, id: int) -> Op[None]:
    """Erase one memory and those it took the place of: nothing older comes back.

    Raises:
        NotFound: no such memory of this user.
    """
    found = yield from _own(user, [id])
    if not found:
        raise NotFound("no such memory")
    ids = [id]
    layer = [id]
    while layer:
        marks, args = in_list(layer)
        rows = yield Statement(
            f"SELECT id FROM ai_memory WHERE replaced_by IN ({marks}) LIMIT ?",
            (*args, MAX_PER_PAIR),
        )
        layer = [row[0] for row in rows if row[0] not in ids]
        ids += layer
    yield from _drop(ids)
    yield from _touch_heads(tx, [(user, found[0].persona)])


def erase_memories(tx: Tx, user: int, persona: int = 0) -> Op[int]:
    """Erase what a persona (0: everyone) remembers of user; return how many.

    What user wrote so far is not read any more either.
    """
    where, args = (" AND persona = ?", (persona,)) if persona else ("", ())
    rows = yield Statement(
        f"SELECT id, persona FROM ai_memory WHERE user = ?{where} LIMIT ?", (user, *args, _ROWS)
    )
    marks = yield from _skip_marks(user, persona)
    yield Statement(f"DELETE FROM ai_memory WHERE user = ?{where}", (user, *args))
    yield from _write_skips(tx, marks)
    yield from _touch_heads(tx, {(user, row[1]) for row in rows})
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

    For the transaction that recalls or edits the message.
    """
    rows = yield Statement(
        "SELECT id, user, persona, replaced_by FROM ai_memory WHERE conv = ? AND seq = ? LIMIT ?",
        (conv, seq, _ROWS),
    )
    return (yield from _forget(tx, rows))


def forget_conversation(tx: Tx, conv: int) -> Op[int]:
    """Erase what was learnt in a conversation, and how far it was read; return how much.

    For the transaction that deletes the conversation.
    """
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
    yield from _drop(list(heirs))
    for heir, ids in by_heir.items():
        marks, args = in_list(ids)
        yield Statement(
            f"UPDATE ai_memory SET replaced_by = ? WHERE replaced_by IN ({marks})", (heir, *args)
        )
    yield from _touch_heads(tx, {(row[1], row[2]) for row in rows})
    return len(rows)


# reading conversations


def note_messages(tx: Tx, notes: Sequence[Noted]) -> Op[set[int]]:
    """Note that users wrote; return those of them who want nothing to be remembered.

    The feeds of the users must be declared. A conversation is read from its first noted message
    on, never what was written before.
    """
    if not notes:
        return set()
    marks, args = in_list({note.user for note in notes})
    rows = yield Statement(
        f"SELECT user FROM ai_memory_setting WHERE user IN ({marks}) AND off = 1", args
    )
    off = {row[0] for row in rows}
    rows = yield Statement(f"SELECT id, tenant FROM user WHERE id IN ({marks})", args)
    tenants = {row[0]: row[1] for row in rows}
    rows = yield tx.dialect.select(
        "m.user, m.persona, m.conv, m.upto_seq, m.noted_seq, m.pending_since",
        "ai_memory_mark",
        ("user", "persona", "conv"),
        [note[:3] for note in notes],
    )
    known = {row[:3]: row[3:] for row in rows}
    written = []
    for note in notes:
        if note.user not in tenants:
            continue
        upto, noted, since = known.get(note[:3], (note.first_seq - 1, 0, 0))
        noted = max(noted, note.last_seq)
        if note.user in off:
            upto = noted
        since = (since or tx.ts) if noted > upto else 0
        written.append((*note[:3], tenants[note.user], upto, noted, since))
    if written:
        yield tx.dialect.upsert("ai_memory_mark", _MARK_INSERT, written, keys=3)
    return off


def pending_pairs(until_ms: int, limit: int) -> Op[list[tuple[int, int]]]:
    """Return pairs (user, persona) with messages unread since before a time, oldest first."""
    rows = yield Statement(
        "SELECT user, persona FROM ai_memory_mark WHERE pending_since > 0 AND pending_since <= ?"
        " ORDER BY pending_since LIMIT ?",
        (until_ms, limit),
    )
    return list(dict.fromkeys((row[0], row[1]) for row in rows))


def last_asks(window_ms: int) -> Op[list[Noted]]:
    """Return the questions of the last moments before the newest turn.

    Their notes may have been lost with the process; noting a message again changes nothing.
    """
    rows = yield Statement("SELECT MAX(id) FROM ai_turn")
    newest = rows[0][0] or 0
    since = max(0, id_time_ms(newest) - window_ms - EPOCH_MS) << _ID_BITS
    rows = yield Statement(
        "SELECT user, persona, conv, ask_seq FROM ai_turn WHERE id > ? AND ask_seq > 0"
        " ORDER BY id LIMIT ?",
        (since, _ASKS),
    )
    spans: dict[tuple[int, int, int], list[int]] = {}
    for user, persona, conv, seq in rows:
        spans.setdefault((user, persona, conv), []).append(seq)
    return [Noted(*key, min(seqs), max(seqs)) for key, seqs in spans.items()]


def unread_messages(user: int, persona: int, limit: int) -> Op[Unread]:
    """Return what user wrote to persona and nobody has read for memories yet.

    Only user's own text messages: nothing forwarded, nothing taken back. Run it with
    snapshot=True.
    """
    marks = yield Statement(
        "SELECT conv, tenant, upto_seq, noted_seq FROM ai_memory_mark"
        " WHERE user = ? AND persona = ? AND noted_seq > upto_seq ORDER BY conv LIMIT ?",
        (user, persona, _CONVS_AT_ONCE + 1),
    )
    spans: list[Span] = []
    written: list[Written] = []
    more = len(marks) > _CONVS_AT_ONCE
    for conv, _, upto, noted in marks[:_CONVS_AT_ONCE]:
        room = limit - len(written)
        if room <= 0:
            more = True
            break
        end = min(noted, upto + _READ_AT_ONCE)
        rows = yield Statement(
            "SELECT seq, rev, text, ext FROM message WHERE conv = ? AND seq > ? AND seq <= ?"
            " AND sender = ? AND kind = ? ORDER BY seq LIMIT ?",
            (conv, upto, end, user, int(MsgKind.TEXT), room + 1),
        )
        if len(rows) > room:
            rows = rows[:room]
            end = rows[-1][0]
        more = more or end < noted
        spans.append(Span(conv, upto, end))
        written += [Written(conv, *row[:3]) for row in rows if row[2] and _is_own(row[3])]
    return Unread(marks[0][1] if marks else 0, tuple(spans), tuple(written), more)


def learn(
    tx: Tx, tenant: int, user: int, persona: int, spans: Sequence[Span], facts: Sequence[Learnt]
) -> Op[Learned | None]:
    """Store facts and, with them, how far the conversations were read: both or neither.

    The change must declare the feeds of the user and of the conversations. None: somebody else
    read, erased or switched off meanwhile, and nothing was stored.
    """
    marks = yield from _same_marks(user, persona, spans)
    if marks is None or (yield from is_off(user)):
        return None
    current = yield from _current(tx, facts)
    live = yield from _live(user, persona)
    rows, heirs = _new_rows(tx, tenant, (user, persona), current, live)
    evicted: list[int] = []
    full = 0
    if rows:
        room = yield from _room(user, persona, len(rows), keep=set(heirs))
        if room is None:
            full, rows, heirs = len(rows), [], {}
        else:
            evicted = room
    yield from _drop(evicted)
    if rows:
        yield tx.dialect.insert("ai_memory", _INSERT, rows)
        if heirs:
            yield tx.dialect.update("ai_memory", ("id", "replaced_by"), list(heirs.items()))
        yield from _touch_heads(tx, [(user, persona)])
    columns = ("user", "persona", "conv", "upto_seq", "pending_since")
    read = [
        (user, persona, s.conv, s.upto_seq, tx.ts if marks[s.conv] > s.upto_seq else 0)
        for s in spans
    ]
    if read:
        yield tx.dialect.update("ai_memory_mark", columns, read, keys=3)
    return Learned(len(rows), len(heirs), len(evicted), len(facts) - len(current), full)


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
        yield from _touch_heads(tx, [(user, persona)])


# parts of the above


def _memory(row: Row) -> Memory:
    values = (*row[:9], bool(row[9]), *row[10:])
    return Memory(*values)


def _is_own(ext: str | None) -> bool:
    return ext is None or _decode_ext(ext).fwd_conv is None


def _own(user: int, ids: Sequence[int]) -> Op[list[Memory]]:
    marks, args = in_list(ids)
    rows = yield Statement(f"{_SELECT} WHERE id IN ({marks}) AND user = ?", (*args, user))
    return [_memory(row) for row in rows]


def _live(user: int, persona: int) -> Op[dict[int, tuple[bool, int]]]:
    """Return whether each memory that holds is pinned, and how often it was used."""
    rows = yield Statement(
        "SELECT id, pinned, uses FROM ai_memory"
        " WHERE user = ? AND persona = ? AND replaced_by = 0 LIMIT ?",
        (user, persona, MAX_PER_PAIR),
    )
    return {row[0]: (bool(row[1]), row[2]) for row in rows}


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


def _room(
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


def _drop(ids: Sequence[int]) -> Op[None]:
    if ids:
        marks, args = in_list(ids)
        yield Statement(f"DELETE FROM ai_memory WHERE id IN ({marks})", args)


def _touch_heads(tx: Tx, pairs: Iterable[tuple[int, int]]) -> Op[None]:
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


def _same_marks(user: int, persona: int, spans: Sequence[Span]) -> Op[dict[int, int] | None]:
    """Return how far each conversation is noted, None if one was read since."""
    if not spans:
        return {}
    marks, args = in_list(span.conv for span in spans)
    rows = yield Statement(
        "SELECT conv, upto_seq, noted_seq FROM ai_memory_mark"
        f" WHERE user = ? AND persona = ? AND conv IN ({marks})",
        (user, persona, *args),
    )
    upto = {row[0]: row[1] for row in rows}
    if any(upto.get(span.conv) != span.from_seq for span in spans):
        return None
    return {row[0]: row[2] for row in rows}


def _current(tx: Tx, facts: Sequence[Learnt]) -> Op[list[Learnt]]:
    """Return the facts whose message is still as it was read."""
    if not facts:
        return []
    keys = {(fact.source.conv, fact.source.seq) for fact in facts}
    rows = yield tx.dialect.select("m.conv, m.seq, m.rev", "message", ("conv", "seq"), keys)
    revs = {(row[0], row[1]): row[2] for row in rows}
    return [fact for fact in facts if revs.get(fact.source[:2]) == fact.source.rev]


def _new_rows(
    tx: Tx,
    tenant: int,
    pair: tuple[int, int],
    facts: Sequence[Learnt],
    live: dict[int, tuple[bool, int]],
) -> tuple[list[Row], dict[int, int]]:
    """Return the rows of facts, and which memory each replaced one gives way to.

    A successor takes over that it is pinned, and how often it was used.
    """
    rows: list[Row] = []
    heirs: dict[int, int] = {}
    for fact in facts:
        id = new_id()
        gone = [known for known in fact.replaces if known in live and known not in heirs]
        heirs.update((known, id) for known in gone)
        pinned = int(any(live[known][0] for known in gone))
        uses = max((live[known][1] for known in gone), default=0)
        source = fact.source
        rows.append(
            (
                *(id, tenant, *pair, fact.kind, fact.text, source.conv, source.seq, fact.quote),
                *(pinned, tx.ts, tx.ts, 0, uses, 0, fact.vector, fact.model),
            )
        )
    return rows, heirs
