"""Which conversations are still to be read for memories, and how far they were.

A mark for each (user, persona, conversation) tells what was read, and what was noted since. Facts
and marks change in one transaction, so no message is read for good twice, and none is skipped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from protocol.codes import MsgKind
from protocol.rows import MsgX
from storage.ids import EPOCH_MS, id_time_ms, new_id
from storage.memories import (
    MAX_PER_PAIR,
    MEMORY_INSERT,
    drop_memories,
    is_off,
    make_room,
    touch_pairs,
)
from storage.ops import Op, Row, Statement, in_list
from storage.writes import Tx

_READ_AT_ONCE: Final = 2_000
"""Message numbers of one conversation that one reading walks over."""
_CONVS_AT_ONCE: Final = 20
_ASKS: Final = 5_000
_ID_BITS: Final = 12
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

    Only user's own text messages: nothing forwarded, nothing taken back, nothing of a deleted
    conversation. Run it with snapshot=True.
    """
    marks = yield Statement(
        "SELECT conv, tenant, upto_seq, noted_seq FROM ai_memory_mark"
        " WHERE user = ? AND persona = ? AND noted_seq > upto_seq ORDER BY conv LIMIT ?",
        (user, persona, _CONVS_AT_ONCE + 1),
    )
    gone = yield from _deleted({row[0] for row in marks})
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
        if conv not in gone:
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
        room = yield from make_room(user, persona, len(rows), keep=set(heirs))
        if room is None:
            full, rows, heirs = len(rows), [], {}
        else:
            evicted = room
    yield from drop_memories(evicted)
    if rows:
        yield tx.dialect.insert("ai_memory", MEMORY_INSERT, rows)
        if heirs:
            yield tx.dialect.update("ai_memory", ("id", "replaced_by"), list(heirs.items()))
        yield from touch_pairs(tx, [(user, persona)])
    columns = ("user", "persona", "conv", "upto_seq", "pending_since")
    read = [
        (user, persona, s.conv, s.upto_seq, tx.ts if marks[s.conv] > s.upto_seq else 0)
        for s in spans
    ]
    if read:
        yield tx.dialect.update("ai_memory_mark", columns, read, keys=3)
    return Learned(len(rows), len(heirs), len(evicted), len(facts) - len(current), full)


# parts of the above


def _is_own(ext: str | None) -> bool:
    return ext is None or _decode_ext(ext).fwd_conv is None


def _live(user: int, persona: int) -> Op[dict[int, tuple[bool, int]]]:
    """Return whether each memory that holds is pinned, and how often it was used."""
    rows = yield Statement(
        "SELECT id, pinned, uses FROM ai_memory"
        " WHERE user = ? AND persona = ? AND replaced_by = 0 LIMIT ?",
        (user, persona, MAX_PER_PAIR),
    )
    return {row[0]: (bool(row[1]), row[2]) for row in rows}


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
    """Return the facts whose message is still as it was read, and where it was."""
    if not facts:
        return []
    keys = {(fact.source.conv, fact.source.seq) for fact in facts}
    rows = yield tx.dialect.select("m.conv, m.seq, m.rev", "message", ("conv", "seq"), keys)
    revs = {(row[0], row[1]): row[2] for row in rows}
    gone = yield from _deleted({fact.source.conv for fact in facts})
    return [
        fact
        for fact in facts
        if revs.get(fact.source[:2]) == fact.source.rev and fact.source.conv not in gone
    ]


def _deleted(convs: Collection[int]) -> Op[set[int]]:
    """Return those of the conversations that are deleted: nothing is learnt from them."""
    if not convs:
        return set()
    marks, args = in_list(sorted(convs))
    rows = yield Statement(
        f"SELECT id FROM conversation WHERE id IN ({marks}) AND deleted > 0", args
    )
    return {row[0] for row in rows}


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
