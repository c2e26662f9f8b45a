"""Erasing users and conversations for good, in steps that can be taken again.

`begin_user` and `begin_conversation` decide it in one small change; from then on the row of the
erasure tells that it must be carried out, and how far that is. Every other operation here is one
step: it touches a bounded number of rows, and taken twice it changes nothing more. Ids stay valid:
a user remains as a nameless row that nobody can sign in with, a conversation as an empty one.
docs/behavior.md says what happens to each table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from msgspec import Struct

from protocol.codes import ConvKind, EndReason, Role, Scope
from protocol.rows import Conv, ConvSet, Member, Msg, MsgX
from storage.accounts import set_disabled
from storage.conv_rows import select_conversations, select_members
from storage.conversations import change_conversation
from storage.errors import NotFound
from storage.ids import new_id
from storage.mem0_erasures import Learner, note_learners
from storage.members import drop_member, set_member
from storage.memories import drop_memories, forget_conversation
from storage.messages import COLUMNS, encode_ext, message_from
from storage.ops import Op, Row, Statement, in_list
from storage.people import index_key
from storage.personas import get_personas
from storage.revisions import BUDGETS, note_revision
from storage.rows import DroppedMember, EndTurn, StoredPersona, TurnStatus
from storage.summaries import drop_summaries
from storage.turns import end_turns
from storage.writes import Tx

SUBJECT: Final = "erasures"
"""The subject of storage.revisions: somebody has begun an erasure."""

NAME: Final = "erased-"
"""What the names of erased users begin with."""
NICK: Final = "Erased account"
PERSONA_NAME: Final = "Erased persona"

DONE: Final = -1
"""`Erasure.seq`: the conversation is done."""

_ROWS: Final = 200
_SEQS: Final = 2_000
"""Message numbers that one look walks over."""


class Kind(IntEnum):
    USER = 1
    CONVERSATION = 2


class Erasure(Struct, frozen=True):
    """What is erased and how far that is; `finished` 0: not yet. Times are Unix milliseconds.

    `conv`, `seq`: of a user's conversations, those below `conv` are done; in `conv` the messages
    up to `seq`, or all of it (`DONE`).
    """

    kind: int
    target: int
    conv: int
    seq: int
    done: int
    total: int
    requested: int
    started: int
    finished: int


_COLUMNS: Final = Erasure.__struct_fields__
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM erasure"


class Place(NamedTuple):
    """A conversation that a user is or was in.

    `heir`: the person to whom it is left, 0 if there is none and all of it goes; `heir` is
    asked to own it if `owned`.
    """

    conv: int
    present: bool
    owned: bool
    heir: int


class Left(NamedTuple):
    """What leaving a conversation changed: members, the row, the leaver's view."""

    members: list[tuple[Member, int]]
    row: Conv | None
    rev: int


class Sent(NamedTuple):
    """Messages to take back, and how far was looked; `more`: there are others behind."""

    seqs: list[int]
    upto: int
    more: bool


# deciding and noting


def get_erasure(kind: int, target: int) -> Op[Erasure | None]:
    rows = yield Statement(f"{_SELECT} WHERE kind = ? AND target = ?", (kind, target))
    return Erasure(*rows[0]) if rows else None


def open_erasures(limit: int = 10) -> Op[list[Erasure]]:
    """Return erasures that are not finished, oldest first."""
    rows = yield Statement(f"{_SELECT} WHERE finished = 0 ORDER BY requested LIMIT ?", (limit,))
    return [Erasure(*row) for row in rows]


def begin_user(tx: Tx, user: int) -> Op[Erasure]:
    """Decide that a user is erased; return the erasure, again the first one.

    From this commit on nobody signs in as this user, every token is void, and nothing is learnt
    or recalled any more. The change must declare the user's feed.

    Raises:
        NotFound: no such user.
    """
    known = yield from get_erasure(Kind.USER, user)
    if known is not None:
        return known
    tx.head(user)
    if not (yield Statement("SELECT id FROM user WHERE id = ?", (user,))):
        raise NotFound("no such user")
    counted = yield Statement("SELECT COUNT(*) FROM member WHERE user = ?", (user,))
    yield from set_disabled(tx, user, True)
    yield Statement("DELETE FROM credential WHERE user = ?", (user,))
    columns = ("user", "off", "updated")
    yield tx.dialect.upsert("ai_memory_setting", columns, [(user, 1, tx.ts)])
    return (yield from _begin(tx, Kind.USER, user, counted[0][0]))


def begin_conversation(tx: Tx, conv: int) -> Op[Erasure]:
    """Decide that a conversation is erased; return the erasure, again the first one.

    Raises:
        NotFound: no such conversation.
    """
    known = yield from get_erasure(Kind.CONVERSATION, conv)
    if known is not None:
        return known
    rows = yield Statement(
        "SELECT f.last_seq FROM conversation AS c JOIN feed AS f ON f.id = c.id WHERE c.id = ?",
        (conv,),
    )
    if not rows:
        raise NotFound("no such conversation")
    return (yield from _begin(tx, Kind.CONVERSATION, conv, rows[0][0]))


def _begin(tx: Tx, kind: Kind, target: int, total: int) -> Op[Erasure]:
    made = Erasure(int(kind), target, 0, DONE, 0, total, tx.ts, 0, 0)
    row: Row = tuple(getattr(made, name) for name in _COLUMNS)
    yield tx.dialect.insert("erasure", _COLUMNS, [row])
    yield from note_revision(tx, SUBJECT)
    return made


def note_progress(tx: Tx, job: Erasure, conv: int, seq: int, done: int) -> Op[None]:
    """Keep how far an erasure is, and that somebody works on it."""
    yield Statement(
        "UPDATE erasure SET conv = ?, seq = ?, done = ?, started = ? WHERE kind = ? AND target = ?",
        (conv, seq, done, tx.ts, job.kind, job.target),
    )


def _finish(tx: Tx, kind: Kind, target: int) -> Op[None]:
    yield Statement(
        "UPDATE erasure SET finished = ?, done = total WHERE kind = ? AND target = ?",
        (tx.ts, int(kind), target),
    )


# a user's memories


def erase_user_memories(tx: Tx, user: int) -> Op[int]:
    """Erase a part of what personas know of user; return how many memories, 0 at the end.

    The choice that nothing is remembered stays: it keeps what is being read from coming back.
    """
    rows = yield Statement("SELECT id FROM ai_memory WHERE user = ? LIMIT ?", (user, _ROWS))
    yield from drop_memories([row[0] for row in rows])
    if not rows:
        yield Statement("DELETE FROM ai_memory_mark WHERE user = ?", (user,))
    yield Statement("DELETE FROM ai_memory_head WHERE user = ?", (user,))
    return len(rows)


# a user's conversations


def next_place(user: int, conv: int, since: int = 0) -> Op[Place | None]:
    """Return user's first conversation from the id conv on, left ones included.

    Args:
        since: only one in which something happened at this time or later.
    """
    rows = yield Statement(
        "SELECT m.conv, m.role, c.kind FROM member AS m JOIN conversation AS c ON c.id = m.conv"
        " JOIN feed AS f ON f.id = m.conv"
        " WHERE m.user = ? AND m.conv >= ? AND f.updated >= ? ORDER BY m.conv LIMIT 1",
        (user, conv, since),
    )
    if not rows:
        return None
    found, role, kind = rows[0]
    if kind == ConvKind.AI:
        return Place(found, bool(role), False, 0)
    rows = yield Statement(
        "SELECT m.user FROM member AS m LEFT JOIN erasure AS e ON e.kind = ? AND e.target = m.user"
        " WHERE m.conv = ? AND m.user <> ? AND m.role > 0 AND e.target IS NULL"
        " ORDER BY m.role DESC, m.joined, m.user LIMIT 1",
        (int(Kind.USER), found, user),
    )
    return Place(found, bool(role), role == Role.OWNER, rows[0][0] if rows else 0)


def leave_conversation(tx: Tx, place: Place, user: int) -> Op[Left]:
    """Take a user out of a conversation that others go on with; return what changed.

    In a direct conversation the nameless user stays, so that the other one can tell what it was.
    The change must declare the feeds of the conversation, the user and the heir.

    Raises:
        NotFound: the heir has left meanwhile: look again for another one.
    """
    tx.head(place.conv)
    found = yield from select_conversations([place.conv])
    mine = (yield from select_members(place.conv, [user])).get(user)
    if mine is None or place.conv not in found:
        return Left([], None, 0)
    members: list[tuple[Member, int]] = []
    row, rev = None, 0
    if mine.role == Role.OWNER and place.heir:
        members.append((yield from set_member(tx, place.conv, place.heir, Role.OWNER, None)))
        row, rev = yield from change_conversation(tx, place.conv, ConvSet(owner=place.heir))
    if mine.role and found[place.conv].row.kind != ConvKind.DIRECT:
        dropped = yield from drop_member(tx, place.conv, user)
        members.append((dropped.member, dropped.rev))
    yield Statement(
        "UPDATE member SET nick = '', remark = '', draft = '', read_seq = 0, recv_seq = 0,"
        " pinned = 0, archived = 0 WHERE conv = ? AND user = ?",
        (place.conv, user),
    )
    shown = found[place.conv].row.avatar
    if shown:
        # The room keeps its picture, whoever uploaded it.
        yield Statement("UPDATE avatar SET owner = 0 WHERE id = ? AND owner = ?", (shown, user))
    yield from drop_summaries(tx, place.conv)
    return Left(members, row, rev)


def sent_messages(conv: int, user: int, after: int) -> Op[Sent]:
    """Return which messages behind after are user's and not taken back yet."""
    rows = yield Statement("SELECT last_seq FROM feed WHERE id = ?", (conv,))
    last = rows[0][0] if rows else 0
    upto = min(last, after + _SEQS)
    rows = yield Statement(
        "SELECT seq, ext FROM message WHERE conv = ? AND seq > ? AND seq <= ? AND sender = ?"
        " ORDER BY seq LIMIT ?",
        (conv, after, upto, user, _ROWS),
    )
    if len(rows) == _ROWS:
        upto = rows[-1][0]
    return Sent([row[0] for row in rows if not _recalled(row[1])], upto, upto < last)


def _recalled(ext: str | None) -> bool:
    return ext is not None and json.loads(ext).get("recalled") is not None


def recall_sent(tx: Tx, conv: int, user: int, seqs: Sequence[int]) -> Op[list[Msg]]:
    """Take messages of user back as `recall_message` does; return those that were not yet.

    What was learnt from them is the user's and goes by itself. Declare the conversation's feed.
    """
    tx.head(conv)
    marks, args = in_list(seqs)
    rows = yield Statement(
        f"SELECT {COLUMNS} FROM message WHERE conv = ? AND seq IN ({marks}) ORDER BY seq",
        (conv, *args),
    )
    sent = [m for m in map(message_from, rows) if m.sender == user]
    old = [m for m in sent if m.x is None or m.x.recalled is None]
    if not old:
        return []
    x = MsgX(recalled=user)
    new = [Msg(m.seq, tx.bump(conv), m.ts, m.sender, m.kind, "", x) for m in old]
    yield from drop_summaries(tx, conv, new[0].seq)
    changed = [(conv, m.seq, m.rev, "", encode_ext(x)) for m in new]
    columns = ("conv", "seq", "rev", "text", "ext")
    yield tx.dialect.update("message", columns, changed, keys=2)
    moved = [(conv, m.seq, m.rev) for m in new]
    yield tx.dialect.upsert("message_change", ("conv", "seq", "rev"), moved, keys=2)
    return new


def running_turns(conv: int, user: int = 0) -> Op[list[int]]:
    """Return the unfinished answers of a conversation, or only those that user asked for."""
    where, args = (" AND user = ?", (user,)) if user else ("", ())
    rows = yield Statement(
        f"SELECT id FROM ai_turn WHERE conv = ?{where} AND status < ? ORDER BY id LIMIT ?",
        (conv, *args, int(TurnStatus.DONE), _ROWS),
    )
    return [row[0] for row in rows]


def end_running(tx: Tx, sids: Sequence[int]) -> Op[None]:
    """Give answers that nobody works on any more their final state: they are not asked again."""
    end = (int(TurnStatus.CANCELLED), int(EndReason.CANCELLED))
    yield from end_turns(tx, [(EndTurn(sid, *end), 0) for sid in sids])


def clear_turns(tx: Tx, conv: int, user: int) -> Op[int]:
    """Take the texts out of a part of the answers that user asked for; return how many had any."""
    rows = yield Statement(
        "SELECT id FROM ai_turn WHERE conv = ? AND user = ?"
        " AND (partial <> '' OR error_message <> '') LIMIT ?",
        (conv, user, _ROWS),
    )
    if rows:
        marks, args = in_list(row[0] for row in rows)
        yield Statement(
            f"UPDATE ai_turn SET partial = '', error_message = '' WHERE id IN ({marks})", args
        )
    return len(rows)


# a whole conversation


def close_conversation(tx: Tx, conv: int) -> Op[tuple[Conv | None, int]]:
    """Delete a conversation for its members and empty its row; return it and its rev.

    What was learnt in it goes, of whomever. Again: (None, 0).
    """
    tx.head(conv)
    found = yield from select_conversations([conv])
    if conv not in found:
        return None, 0
    yield from forget_conversation(tx, conv)
    yield from drop_summaries(tx, conv)
    yield Statement("DELETE FROM room WHERE conv = ?", (conv,))
    old = found[conv]
    if old.deleted and not old.row.title and not old.row.prompt and not old.row.notice:
        return None, 0
    rev = tx.bump(conv)
    yield Statement(
        "UPDATE conversation SET title = '', avatar = 0, notice = '', prompt = '', opt = NULL,"
        " direct_key = NULL, deleted = ?, updated = ?, rev = ? WHERE id = ?",
        (tx.ts, tx.ts, rev, conv),
    )
    row = (yield from select_conversations([conv]))[conv].row
    # The head is written at the end of the batch only.
    row.rev, row.updated = rev, tx.ts
    return row, rev


def present_members(conv: int) -> Op[list[int]]:
    """Return some of those who are in a conversation."""
    rows = yield Statement(
        "SELECT user FROM member WHERE conv = ? AND role > 0 ORDER BY user LIMIT ?", (conv, _ROWS)
    )
    return [row[0] for row in rows]


def drop_everybody(tx: Tx, conv: int, users: Sequence[int]) -> Op[list[DroppedMember]]:
    """Take members out of an erased conversation, with all that they kept about it.

    The change must declare the feeds of the users. They alone are told: nobody is left.
    """
    known = yield from select_members(conv, users)
    gone = [member for member in known.values() if member.role]
    for member in gone:
        member.role, member.my_rev = int(Role.GONE), tx.bump(member.user)
        member.nick = member.remark = member.draft = ""
    if gone:
        columns = ("conv", "user", "role", "nick", "remark", "draft", "my_rev")
        rows = [(conv, m.user, 0, "", "", "", m.my_rev) for m in gone]
        yield tx.dialect.update("member", columns, rows, keys=2)
    return [DroppedMember(m.member(), m.rev, m.mine(), m.my_rev) for m in gone]


def delete_messages(tx: Tx, conv: int) -> Op[int]:
    """Delete the oldest messages of a conversation; return how many, 0 at the end.

    Declare the conversation's feed: its numbers go on where they were.
    """
    tx.head(conv)
    rows = yield Statement(
        "SELECT seq FROM message WHERE conv = ? ORDER BY seq LIMIT ?", (conv, _ROWS)
    )
    if rows:
        upto = rows[-1][0]
        for table in ("message", "message_change"):
            yield Statement(f"DELETE FROM {table} WHERE conv = ? AND seq <= ?", (conv, upto))
    return len(rows)


def delete_turns(tx: Tx, conv: int) -> Op[int]:
    """Delete some records of a conversation's answers; return how many, 0 at the end.

    What they used stays in the sums of its day; what a mem0 server learnt by them becomes due.
    """
    rows = yield Statement(
        "SELECT id, tenant, user, persona FROM ai_turn WHERE conv = ? LIMIT ?", (conv, _ROWS)
    )
    if rows:
        yield from note_learners(tx, [Learner(*row[1:]) for row in rows], conv)
        marks, args = in_list(row[0] for row in rows)
        yield Statement(f"DELETE FROM ai_turn WHERE id IN ({marks})", args)
    return len(rows)


def empty_conversation(tx: Tx, conv: int) -> Op[None]:
    """Erase what may have come back while messages were still there: now none is."""
    tx.head(conv)
    yield from forget_conversation(tx, conv)
    yield from drop_summaries(tx, conv)
    yield Statement(
        "UPDATE member SET nick = '', remark = '', draft = '', read_seq = 0, recv_seq = 0"
        " WHERE conv = ?",
        (conv,),
    )


def finish_conversation(tx: Tx, conv: int) -> Op[None]:
    yield from _finish(tx, Kind.CONVERSATION, conv)


# the rest of a user


def erase_personas(tx: Tx, user: int, after: int) -> Op[tuple[list[StoredPersona], int]]:
    """Empty user's private personas behind an id; return what changed, and where to go on.

    0: there are no more. Those that others may use stay with the nameless user. The change must
    declare the user's feed.
    """
    rows = yield Statement(
        "SELECT id, scope, deleted, avatar FROM persona WHERE owner = ? AND id > ?"
        " ORDER BY id LIMIT ?",
        (user, after, _ROWS),
    )
    gone = [row[0] for row in rows if row[1] == Scope.PRIVATE or row[2]]
    for id in gone:
        yield Statement("DELETE FROM persona_card WHERE persona = ?", (id,))
        yield Statement(
            "UPDATE persona SET name = ?, name_key = ?, prompt = '', greeting = '', avatar = 0,"
            " tags = '[]', opt = NULL, scope = 0, rev = ?, updated = ?, deleted = ? WHERE id = ?",
            (PERSONA_NAME, index_key(PERSONA_NAME), tx.bump(user), tx.ts, tx.ts, id),
        )
    kept = [row[3] for row in rows if row[0] not in gone and row[3]]
    if kept:
        marks, args = in_list(kept)
        yield Statement(
            f"UPDATE avatar SET owner = 0 WHERE id IN ({marks}) AND owner = ?", (*args, user)
        )
    changed = yield from get_personas(gone)
    return changed, rows[-1][0] if len(rows) == _ROWS else 0


def erase_pictures(tx: Tx, user: int, after: int) -> Op[int]:
    """Delete user's pictures among the next ones; return the id to go on after, 0 at the end."""
    rows = yield Statement(
        "SELECT id, owner FROM avatar WHERE id > ? ORDER BY id LIMIT ?", (after, _SEQS)
    )
    own = [row[0] for row in rows if row[1] == user]
    if own:
        marks, args = in_list(own)
        yield Statement(f"DELETE FROM avatar WHERE id IN ({marks})", args)
    return rows[-1][0] if len(rows) == _SEQS else 0


def erase_dead_letters(tx: Tx, after: int) -> Op[int]:
    """Delete letters of erased users and conversations among the next ones; return as above."""
    rows = yield Statement(
        "SELECT id, payload FROM dead_letter WHERE id > ? ORDER BY id LIMIT ?", (after, _ROWS)
    )
    named = {row[0]: _named(row[1]) for row in rows}
    targets = set().union(*named.values())
    if targets:
        keys = [(int(kind), target) for target in sorted(targets) for kind in Kind]
        found = yield tx.dialect.select("m.target", "erasure", ("kind", "target"), keys)
        erased = {row[0] for row in found}
        own = [id for id, ids in named.items() if ids & erased]
        if own:
            marks, args = in_list(own)
            yield Statement(f"DELETE FROM dead_letter WHERE id IN ({marks})", args)
    return rows[-1][0] if len(rows) == _ROWS else 0


def _named(payload: str) -> set[int]:
    """Return the users and conversations that a letter names."""
    content = json.loads(payload)
    turn = content.get("new_turn") or {}
    named = {content.get("conv"), content.get("sender"), turn.get("user")}
    return {id for id in named if isinstance(id, int)}


def finish_user(tx: Tx, user: int) -> Op[None]:
    """Take the last rows and the name; the name is free from then on. Declare the user's feed."""
    rows = yield Statement("SELECT tenant FROM user WHERE id = ?", (user,))
    tenant = rows[0][0]
    for table in ("device", "device_family", "refresh_token", "credential", "ai_memory_mark"):
        yield Statement(f"DELETE FROM {table} WHERE user = ?", (user,))
    yield Statement("DELETE FROM budget WHERE tenant = ? AND user = ?", (tenant, user))
    yield from note_revision(tx, BUDGETS)
    name = f"{NAME}{user}"
    taken = yield Statement(
        "SELECT id FROM user WHERE tenant = ? AND name_key = ?", (tenant, index_key(name))
    )
    if taken and taken[0][0] != user:
        name = f"{name}-{new_id()}"
    yield Statement(
        "UPDATE user SET name = ?, name_key = ?, nick = ?, nick_key = ?, avatar = 0, bio = '',"
        " persona = 0, disabled = 1, rev = ? WHERE id = ?",
        (name, index_key(name), NICK, index_key(NICK), tx.bump(user), user),
    )
    yield from _finish(tx, Kind.USER, user)
