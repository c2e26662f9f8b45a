"""What a mem0 server still has to erase: noted with what decides it, worked off by a server.

What people wrote is learnt there under the person and the persona, with the conversation and the
message. What is taken back is noted in its own transaction: a message or conversation alone, of
what a person wants forgotten the person; `spread` and `spread_user` then name the pairs, from the
records of the turns. Nothing is noted while no server with a mem0 server runs (`set_noting`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from storage.ops import Op, Row, Statement
from storage.writes import Tx

_SETTING: Final = "mem0"
_TURNS: Final = 2_000
"""Records of turns that one step walks over."""
_MAX_COUNTED: Final = 1_000

SO_FAR: Final = -1
"""As `conv`: whatever was learnt so far, wherever; as `persona`: all, still to be named."""


class Learner(NamedTuple):
    """A person and a persona that may have learnt from them."""

    tenant: int
    user: int
    persona: int


class Source(NamedTuple):
    """What was learnt of somebody in a conversation, or from one message of it; see Mem0Erasure."""

    learner: Learner
    conv: int
    seq: int


class Walk(NamedTuple):
    """How far naming the personas of a user is: in this conversation, behind this question."""

    conv: int = 0
    after: bytes = b""


class Mem0Erasure(Struct, frozen=True):
    """One erasure that is due. Times are Unix milliseconds.

    `user` 0 or `persona` SO_FAR: not spread yet. `conv` 0: all of the user, also what comes later;
    SO_FAR: all so far; `seq` 0: all of the conversation. What was learnt after `requested` stays,
    unless all of the user goes.
    """

    user: int
    persona: int
    conv: int
    seq: int
    tenant: int
    requested: int
    due: int
    looks: int
    failures: int


_COLUMNS: Final = Mem0Erasure.__struct_fields__
_KEYS: Final = ("user", "persona", "conv", "seq")
_KEY: Final = "user = ? AND persona = ? AND conv = ? AND seq = ? AND requested = ?"


# noting


def set_noting(tx: Tx, on: bool) -> Op[None]:
    """Note erasures from now on, or no longer; those that were noted stay."""
    if (yield from is_noting()) == on:
        return
    if on:
        yield tx.dialect.upsert("setting", ("name", "value"), [(_SETTING, "1")])
    else:
        yield Statement("DELETE FROM setting WHERE name = ?", (_SETTING,))


def is_noting() -> Op[bool]:
    """Tell whether anything is noted at all."""
    rows = yield Statement("SELECT value FROM setting WHERE name = ?", (_SETTING,))
    return bool(rows)


def note_source(tx: Tx, conv: int, seq: int = 0) -> Op[None]:
    """Note that what was learnt from a message, or in all of a conversation, is to go."""
    if (yield from is_noting()):
        yield from _note(tx, [Source(Learner(0, 0, 0), conv, seq)], tx.ts, tx.ts)


def note_learners(tx: Tx, learners: Iterable[Learner], conv: int = 0) -> Op[None]:
    """Note that what was learnt of these people is to go: in one conversation, 0 for all of it."""
    yield from note_sources(tx, {Source(one, conv, 0) for one in learners if one.user})


def note_sources(tx: Tx, sources: Collection[Source]) -> Op[None]:
    """Note that what was learnt of people from these messages or conversations is to go."""
    if sources and (yield from is_noting()):
        yield from _note(tx, sources, tx.ts, tx.ts)


def note_so_far(tx: Tx, user: int, persona: int = 0) -> Op[None]:
    """Note that what a persona (0: every one) has learnt of a user so far is to go.

    A persona that never was is not noted, so there are at most as many notes as personas.
    """
    found = yield Statement("SELECT tenant FROM user WHERE id = ?", (user,))
    if found and persona:
        known = yield Statement("SELECT id FROM persona WHERE id = ?", (persona,))
        found = found if known else []
    sources = [Source(Learner(row[0], user, persona or SO_FAR), SO_FAR, 0) for row in found]
    yield from note_sources(tx, sources)


def _note(tx: Tx, sources: Collection[Source], requested: int, due: int) -> Op[None]:
    made = [(one.user, one.persona, conv, seq, one.tenant) for one, conv, seq in sources]
    columns = f"{', '.join(f'm.{name}' for name in _KEYS)}, m.requested"
    found = yield tx.dialect.select(columns, "mem0_erasure", _KEYS, [row[:4] for row in made])
    known = {tuple(row[:4]): row[4] for row in found}
    rows = [(*row, max(requested, known.get(row[:4], 0)), due, 0, 0) for row in made]
    yield tx.dialect.upsert("mem0_erasure", _COLUMNS, rows, keys=len(_KEYS))


# naming the pairs


def note_user(tx: Tx, user: int, conv: int, after: bytes) -> Op[bytes]:
    """Note all that is known of a user by the personas that were asked in a conversation, in part.

    conv 0: by programs. Return where to go on, b"" at the end.
    """
    learners, following = yield from _asked_by(user, conv, after)
    yield from note_learners(tx, learners)
    return following


def spread(tx: Tx, one: Mem0Erasure, after: int | bytes) -> Op[int | bytes]:
    """Note for each pair what is due for a message or a conversation, in part.

    Return where to go on, 0 or b"" at the end; then `one` is gone, unless it was noted again.

    Args:
        after: 0 at the beginning of a conversation, b"" of a message.
    """
    learners: set[Learner]
    following: int | bytes
    if isinstance(after, bytes):
        rows = yield Statement(
            "SELECT sender FROM message WHERE conv = ? AND seq = ?", (one.conv, one.seq)
        )
        sender = rows[0][0] if rows else 0
        learners, following = yield from _asked_by(sender, one.conv, after)
    else:
        learners, following = yield from _asked_in(one.conv, after)
    if learners:
        sources = [Source(learner, one.conv, one.seq) for learner in learners]
        yield from _note(tx, sources, one.requested, one.due)
    if not following:
        yield from drop_mem0_erasure(tx, one)
    return following


def spread_user(tx: Tx, one: Mem0Erasure, walk: Walk) -> Op[Walk | None]:
    """Note for each persona that a user asked what is due for all of them, in part.

    Begin with Walk(): what was asked by programs, in no conversation. Return where to go on, None
    at the end; then `one` is gone, unless it was noted again.
    """
    learners, after = yield from _asked_by(one.user, walk.conv, walk.after)
    if learners:
        sources = [Source(learner, one.conv, one.seq) for learner in learners]
        yield from _note(tx, sources, one.requested, one.due)
    if after:
        return Walk(walk.conv, after)
    rows = yield Statement(
        "SELECT conv FROM member WHERE user = ? AND conv > ? ORDER BY conv LIMIT 1",
        (one.user, walk.conv),
    )
    if rows:
        return Walk(rows[0][0])
    yield from drop_mem0_erasure(tx, one)
    return None


def _asked_by(user: int, conv: int, after: bytes) -> Op[tuple[set[Learner], bytes]]:
    rows = yield Statement(
        "SELECT tenant, persona, cid FROM ai_turn WHERE conv = ? AND user = ? AND cid > ?"
        " ORDER BY cid LIMIT ?",
        (conv, user, after, _TURNS),
    )
    learners = {Learner(row[0], user, row[1]) for row in rows}
    return learners, bytes(rows[-1][2]) if len(rows) == _TURNS else b""


def _asked_in(conv: int, after: int) -> Op[tuple[set[Learner], int]]:
    rows = yield Statement(
        "SELECT id, tenant, user, persona FROM ai_turn WHERE conv = ? AND id > ?"
        " ORDER BY id LIMIT ?",
        (conv, after, _TURNS),
    )
    learners = {Learner(*row[1:]) for row in rows if row[2]}
    return learners, rows[-1][0] if len(rows) == _TURNS else 0


# working them off


def due_mem0_erasures(now_ms: int, limit: int) -> Op[list[Mem0Erasure]]:
    """Return erasures whose time has come, the longest waiting first."""
    rows = yield Statement(
        f"SELECT {', '.join(_COLUMNS)} FROM mem0_erasure WHERE due <= ? ORDER BY due LIMIT ?",
        (now_ms, limit),
    )
    return [Mem0Erasure(*row) for row in rows]


def count_mem0_erasures() -> Op[int]:
    """Return how many are not done for good, at most 1,000."""
    rows = yield Statement(
        "SELECT due FROM mem0_erasure WHERE due > ? ORDER BY due LIMIT ?", (0, _MAX_COUNTED)
    )
    return len(rows)


def put_off_mem0_erasure(tx: Tx, one: Mem0Erasure, due: int, looks: int, failures: int) -> Op[None]:
    """Have it looked at again, unless it was noted again meanwhile: that is due at once."""
    yield Statement(
        f"UPDATE mem0_erasure SET due = ?, looks = ?, failures = ? WHERE {_KEY}",
        (due, looks, failures, *_key(one)),
    )


def drop_mem0_erasure(tx: Tx, one: Mem0Erasure) -> Op[None]:
    """It is done for good, unless it was noted again meanwhile."""
    yield Statement(f"DELETE FROM mem0_erasure WHERE {_KEY}", _key(one))


def _key(one: Mem0Erasure) -> Row:
    return one.user, one.persona, one.conv, one.seq, one.requested
