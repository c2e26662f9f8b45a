"""Members: who they are, what each keeps for themselves, how far each has read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from protocol.codes import Role
from protocol.rows import Member, MyConv, MySet
from storage.conv_rows import (
    MEMBER_COLUMNS,
    MEMBER_INSERT,
    StoredMember,
    fresh_member,
    parse_cursor,
    select_conversations,
    select_members,
)
from storage.errors import LimitReached, NotFound
from storage.ops import Op, Row, Statement, in_list
from storage.rows import AddedMember, DroppedMember, MarkRow
from storage.writes import Tx

HIDE_HISTORY: Final = 1
"""Bit of Conv.flags: newcomers see only what comes after them."""


def member_page(conv: int, cursor: str, limit: int) -> Op[tuple[list[Member], str]]:
    """Return a page of present members by user id, and the next cursor."""
    after = parse_cursor(cursor)[1] if cursor else 0
    rows = yield Statement(
        f"SELECT {MEMBER_COLUMNS} FROM member AS m"
        " WHERE m.conv = ? AND m.user > ? AND m.role > 0 ORDER BY m.user LIMIT ?",
        (conv, after, limit + 1),
    )
    members = [StoredMember(row) for row in rows[:limit]]
    following = f"0:{members[-1].user}" if len(rows) > limit else ""
    return [member.member() for member in members], following


# the view of one member


def change_mine(tx: Tx, conv: int, user: int, given: MySet) -> Op[tuple[MyConv, int]]:
    """Apply a change to user's own view; return it and the rev of user's feed, 0 if none.

    Raises:
        NotFound: user is not a member.
    """
    member = yield from _present_member(conv, user)
    columns = {
        "my_mute_until": given.mute_until,
        "pinned": given.pinned,
        "archived": given.archived,
        "remark": given.remark,
        "draft": given.draft,
    }
    changes = {
        name: int(value) if isinstance(value, bool) else value
        for name, value in columns.items()
        if value is not None and value != getattr(member, name)
    }
    return (yield from _update_mine(tx, member, changes))


def hide_member(tx: Tx, conv: int, user: int, left: bool) -> Op[tuple[MyConv, int]]:
    """Take a conversation out of user's list, or back into it; like `change_mine`."""
    member = yield from _present_member(conv, user)
    changes = {} if bool(member.hidden) == left else {"hidden": int(left)}
    return (yield from _update_mine(tx, member, changes))


def _update_mine(tx: Tx, member: StoredMember, changes: dict[str, Any]) -> Op[tuple[MyConv, int]]:
    if not changes:
        return member.mine(), 0
    rev = tx.bump(member.user)
    changes["my_rev"] = rev
    for name, value in changes.items():
        setattr(member, name, value)
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(
        f"UPDATE member SET {sets} WHERE conv = ? AND user = ?",
        (*changes.values(), member.conv, member.user),
    )
    return member.mine(), rev


def _present_member(conv: int, user: int) -> Op[StoredMember]:
    member = (yield from select_members(conv, [user])).get(user)
    if member is None or not member.role:
        raise NotFound("not a member")
    return member


# what all see


def add_members(tx: Tx, conv: int, users: Sequence[int], max_members: int) -> Op[list[AddedMember]]:
    """Add members, each with a revision of its own; present members are skipped.

    The change must declare conv and all users. Newcomers see the whole history unless the
    conversation hides it (`HIDE_HISTORY`).

    Raises:
        NotFound: no such conversation or user.
        LimitReached: more than max_members would be present; nobody was added.
    """
    last_seq = tx.head(conv).last_seq
    found = yield from select_conversations([conv])
    if not found:
        raise NotFound("no such conversation")
    known = yield from select_members(conv, users)
    wanted = [user for user in dict.fromkeys(users) if user not in known or not known[user].role]
    if not wanted:
        return []
    counted = yield Statement("SELECT COUNT(*) FROM member WHERE conv = ? AND role > 0", (conv,))
    if counted[0][0] + len(wanted) > max_members:
        raise LimitReached("the conversation is full")
    for user in wanted:
        tx.head(user)
    hides = (found[conv].row.flags or 0) & HIDE_HISTORY
    members = [
        fresh_member(tx, conv, user, int(Role.MEMBER), last_seq if hides else 0, tx.bump(conv))
        for user in wanted
    ]
    for member in members:
        if member.user in known and not hides:
            old = known[member.user]
            member.min_seq, member.read, member.recv = old.min_seq, old.read, old.recv
    rows = [member.insert_row() for member in members]
    yield tx.dialect.upsert("member", MEMBER_INSERT, rows, keys=2)
    return [AddedMember(m.member(), m.rev, m.mine(), m.my_rev) for m in members]


def drop_member(tx: Tx, conv: int, user: int) -> Op[DroppedMember]:
    """Remove a member; the change must declare conv and user. Again: revs 0.

    Raises:
        NotFound: user never was a member.
    """
    member = (yield from select_members(conv, [user])).get(user)
    if member is None:
        raise NotFound("not a member")
    if not member.role:
        return DroppedMember(member.member(), 0, member.mine(), 0)
    member.role = 0
    member.rev, member.my_rev = tx.bump(conv), tx.bump(user)
    yield Statement(
        "UPDATE member SET role = 0, rev = ?, my_rev = ? WHERE conv = ? AND user = ?",
        (member.rev, member.my_rev, conv, user),
    )
    return DroppedMember(member.member(), member.rev, member.mine(), member.my_rev)


def set_member(
    tx: Tx, conv: int, user: int, role: int | None, mute_until: int | None
) -> Op[tuple[Member, int]]:
    """Change what others see of a member; return it and the rev, 0 if nothing changed.

    If user's own feed is declared and the role changes, that feed is bumped as well.

    Raises:
        NotFound: not a member.
    """
    member = yield from _present_member(conv, user)
    changes: dict[str, int] = {}
    if role is not None and role != member.role:
        changes["role"] = member.role = role
        if tx.declared(user):
            changes["my_rev"] = tx.bump(user)
    if mute_until is not None and mute_until != member.mute_until:
        changes["mute_until"] = member.mute_until = mute_until
    if not changes:
        return member.member(), 0
    changes["rev"] = rev = tx.bump(conv)
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(
        f"UPDATE member SET {sets} WHERE conv = ? AND user = ?", (*changes.values(), conv, user)
    )
    return member.member(), rev


# marks


def write_marks(tx: Tx, marks: Sequence[MarkRow]) -> Op[list[tuple[int, MyConv, int]]]:
    """Raise read and received marks; the highest wins.

    Return (user, view, rev of the user's feed) of those that changed aloud.

    The change must declare the users of all marks that are not silent. Marks never pass the
    last message; unknown members are left out.
    """
    wanted: dict[tuple[int, int], MarkRow] = {}
    for mark in marks:
        key = (mark.conv, mark.user)
        if (old := wanted.get(key)) is not None:
            mark = MarkRow(
                *key,
                max(old.read, mark.read),
                max(old.recv, mark.recv),
                old.silent and mark.silent,
            )
        wanted[key] = mark
    if not wanted:
        return []
    members = yield from _members_for_marks(tx, wanted)
    rows: list[Row] = []
    told: list[tuple[int, MyConv, int]] = []
    for key in sorted(wanted):
        if (entry := members.get(key)) is None:
            continue
        mark, (member, last_seq) = wanted[key], entry
        read = max(member.read, min(mark.read, last_seq))
        recv = max(member.recv, min(max(mark.recv, read), last_seq))
        if (read, recv) == (member.read, member.recv):
            continue
        member.read, member.recv = read, recv
        if not mark.silent:
            member.my_rev = tx.bump(mark.user)
            told.append((mark.user, member.mine(), member.my_rev))
        rows.append((*key, read, recv, member.my_rev))
    if rows:
        columns = ("conv", "user", "read_seq", "recv_seq", "my_rev")
        yield tx.dialect.update("member", columns, rows, keys=2)
    return told


def _members_for_marks(
    tx: Tx, keys: Iterable[tuple[int, int]]
) -> Op[dict[tuple[int, int], tuple[StoredMember, int]]]:
    select = tx.dialect.select(MEMBER_COLUMNS, "member", ("conv", "user"), keys)
    rows = yield Statement(f"{select.sql} AND m.role > 0{tx.dialect.for_update}", select.args)
    members = {(row[0], row[1]): StoredMember(row) for row in rows}
    # Messages of this very batch count, but heads are written at its end.
    convs = {conv for conv, _ in members}
    last_seqs = {conv: tx.head(conv).last_seq for conv in convs if tx.exists(conv)}
    if missing := sorted(convs - last_seqs.keys()):
        marks, args = in_list(missing)
        rows = yield Statement(f"SELECT id, last_seq FROM feed WHERE id IN ({marks})", args)
        last_seqs.update((row[0], row[1]) for row in rows)
    return {key: (member, last_seqs[key[0]]) for key, member in members.items()}
