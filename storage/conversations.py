"""Conversations: list, create, change, drop. Whatever members see of each other belongs to the
conversation's feed, what only one member sees to that user's own feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from protocol.codes import ConvKind, Role
from protocol.rows import Conv, ConvSet, GenOpt, MyConv
from storage.conv_rows import (
    MEMBER_COLUMNS,
    MEMBER_INSERT,
    StoredConv,
    StoredMember,
    fresh_member,
    parse_cursor,
    select_conversations,
    select_members,
    select_mine,
)
from storage.errors import Exists, Invalid, NotFound
from storage.memories import forget_conversation
from storage.ops import Op, Row, Statement, in_list
from storage.rows import ConvRecord, CreatedConversation, MemberRow, NewConversation
from storage.summaries import drop_summaries
from storage.writes import Tx

MAX_ROWS: Final = 100_000
"""Bound of reads that must be complete, such as all members of one conversation."""

_CONV_INSERT: Final = (
    "id",
    "tenant",
    "kind",
    "title",
    "avatar",
    "persona",
    "owner",
    "creator",
    "cid",
    "direct_key",
    "notice",
    "prompt",
    "opt",
    "flags",
    "first_seq",
    "rev",
    "created",
    "updated",
    "deleted",
)

_encode: Final = msgspec.json.Encoder().encode


# reading


def load_conversations(ids: Sequence[int]) -> Op[list[ConvRecord]]:
    """Return those of the conversations that exist, deleted ones included, with their members."""
    if not ids:
        return []
    convs = yield from select_conversations(ids)
    marks, args = in_list(ids)
    rows = yield Statement(
        f"SELECT {MEMBER_COLUMNS} FROM member AS m WHERE m.conv IN ({marks}) AND m.role > 0"
        " ORDER BY m.conv, m.user LIMIT ?",
        (*args, MAX_ROWS),
    )
    members: dict[int, list[MemberRow]] = {}
    for row in rows:
        members.setdefault(row[0], []).append(StoredMember(row).record())
    return [
        ConvRecord(conv.row, conv.tenant, conv.creator, members.get(conv_id, []))
        for conv_id, conv in convs.items()
    ]


def list_conversations(
    user: int, archived: bool, cursor: str, limit: int
) -> Op[tuple[list[Conv], list[MyConv], str]]:
    """Return a page of user's conversations, newest activity first, and the next cursor.

    Archived also lists deleted ones that user owns.

    Raises:
        Invalid: the cursor is not one of ours.
    """
    if archived:
        wanted = "((m.archived = 1 AND c.deleted = 0) OR (c.deleted > 0 AND c.owner = m.user))"
    else:
        wanted = "m.archived = 0 AND c.deleted = 0"
    args: list[Any] = [user]
    after = ""
    if cursor:
        updated, last = parse_cursor(cursor)
        after = "AND (f.updated < ? OR (f.updated = ? AND f.id < ?)) "
        args += [updated, updated, last]
    rows = yield Statement(
        "SELECT f.id, f.updated FROM member AS m JOIN conversation AS c ON c.id = m.conv"
        " JOIN feed AS f ON f.id = m.conv"
        f" WHERE m.user = ? AND m.role > 0 AND m.hidden = 0 AND {wanted} {after}"
        "ORDER BY f.updated DESC, f.id DESC LIMIT ?",
        (*args, limit + 1),
    )
    page = rows[:limit]
    if not page:
        return [], [], ""
    ids = [row[0] for row in page]
    convs = yield from select_conversations(ids)
    mine = yield from select_mine(user, ids)
    following = f"{page[-1][1]}:{page[-1][0]}" if len(rows) > limit else ""
    return (
        [convs[conv].row for conv in ids if conv in convs],
        [mine[conv].mine() for conv in ids if conv in mine],
        following,
    )


def get_conversation(conv: int, user: int) -> Op[tuple[Conv, MyConv] | None]:
    """Return a conversation as a present member sees it, also when it is deleted; else None."""
    mine = yield from select_members(conv, [user])
    if not mine or not mine[user].role:
        return None
    convs = yield from select_conversations([conv])
    return (convs[conv].row, mine[user].mine()) if convs else None


# creating


def direct_key(tenant: int, users: Iterable[int]) -> str:
    """Return what makes a direct conversation unique."""
    low, high = sorted(users)
    return f"{tenant}:{low}:{high}"


def create_conversation(tx: Tx, new: NewConversation) -> Op[CreatedConversation]:
    """Create a conversation, or return the one that this (tenant, creator, cid) or pair made.

    The change must declare the feeds of the creator and of all members. The creator becomes
    owner, except in a direct conversation, which nobody owns.

    Raises:
        Invalid: a direct conversation without exactly two members.
        NotFound: a member does not exist.
    """
    users = list(dict.fromkeys((new.creator, *new.members)))
    key = None
    if new.kind == ConvKind.DIRECT:
        if len(users) != 2:
            raise Invalid("a direct conversation has two members")
        key = direct_key(new.tenant, users)
    existing = yield from _find_existing(new, key)
    if existing:
        return (yield from _return_existing(tx, existing, new.creator))
    for user in users:
        tx.head(user)
    tx.create(new.id)
    rev = tx.bump(new.id)
    yield tx.dialect.insert("conversation", _CONV_INSERT, [_new_row(tx, new, key, rev)])
    if new.set is not None:
        yield from _save_room(tx, new.id, Conv(), new.set)
    members = [_new_member(tx, new, user, rev) for user in users]
    yield tx.dialect.insert("member", MEMBER_INSERT, [m.insert_row() for m in members])
    record = ConvRecord(
        _new_conv(tx, new, rev), new.tenant, new.creator, [m.record() for m in members]
    )
    return CreatedConversation(record, {m.user: (m.mine(), m.my_rev) for m in members}, False)


def _find_existing(new: NewConversation, key: str | None) -> Op[int]:
    rows = yield Statement(
        "SELECT id FROM conversation WHERE tenant = ? AND creator = ? AND cid = ?",
        (new.tenant, new.creator, new.cid),
    )
    if not rows and key is not None:
        rows = yield Statement("SELECT id FROM conversation WHERE direct_key = ?", (key,))
    return rows[0][0] if rows else 0


def _return_existing(tx: Tx, conv: int, creator: int) -> Op[CreatedConversation]:
    record = (yield from load_conversations([conv]))[0]
    mine = (yield from select_members(conv, [creator])).get(creator)
    my: dict[int, tuple[MyConv, int]] = {}
    if mine is not None:
        rev = 0
        if mine.hidden and mine.role:
            rev = tx.bump(creator)
            mine.hidden = 0
            yield Statement(
                "UPDATE member SET hidden = 0, my_rev = ? WHERE conv = ? AND user = ?",
                (rev, conv, creator),
            )
        my[creator] = (mine.mine(), rev)
    return CreatedConversation(record, my, True)


def _owner(new: NewConversation) -> int:
    return 0 if new.kind == ConvKind.DIRECT else new.creator


def _new_row(tx: Tx, new: NewConversation, key: str | None, rev: int) -> Row:
    given = new.set or ConvSet()
    return (
        new.id,
        new.tenant,
        new.kind,
        given.title or new.title,
        given.avatar or 0,
        given.persona or new.persona or 0,
        _owner(new),
        new.creator,
        new.cid,
        key,
        given.notice or "",
        given.prompt or "",
        _opt_text(given.opt),
        given.flags or 0,
        1,
        rev,
        tx.ts,
        tx.ts,
        0,
    )


def _new_conv(tx: Tx, new: NewConversation, rev: int) -> Conv:
    row = _new_row(tx, new, None, rev)
    # The same order as CONV_COLUMNS.
    values = (*row[:1], *row[2:7], *row[10:15], tx.ts, 0, rev, new.tenant, new.creator)
    given = new.set or ConvSet()
    return StoredConv((*values, rev, 0, tx.ts, _joined(given.personas), given.talk or 0)).row


def _new_member(tx: Tx, new: NewConversation, user: int, rev: int) -> StoredMember:
    role = Role.OWNER if user == _owner(new) else Role.MEMBER
    return fresh_member(tx, new.id, user, int(role), 0, rev)


def _opt_text(opt: GenOpt | None) -> str | None:
    if opt is None:
        return None
    text = _encode(opt).decode()
    return None if text == "{}" else text


# changing


def change_conversation(tx: Tx, conv: int, given: ConvSet) -> Op[tuple[Conv, int]]:
    """Apply a change to the row; return it and its rev, 0 if nothing changed.

    A new owner must be a member and the former one becomes an administrator; both member rows
    take the same rev. If the feeds of both users are declared, they are bumped as well.

    Raises:
        NotFound: no such conversation, or the new owner is not a member.
        Exists: a deleted direct conversation cannot come back beside a newer one.
    """
    tx.head(conv)
    found = yield from select_conversations([conv])
    if not found:
        raise NotFound("no such conversation")
    stored = found[conv]
    changes = _changed_columns(tx, stored, given)
    if "deleted" in changes and stored.row.kind == ConvKind.DIRECT:
        changes["direct_key"] = yield from _changed_direct_key(stored, bool(changes["deleted"]))
    new_owner = changes.get("owner")
    members: dict[int, StoredMember] = {}
    if new_owner:
        members = yield from select_members(conv, {new_owner, stored.row.owner or new_owner})
        if new_owner not in members or not members[new_owner].role:
            raise NotFound("the new owner is not a member")
    changes_room = yield from _save_room(tx, conv, stored.row, given)
    if not changes and not changes_room:
        return stored.row, 0
    rev = tx.bump(conv)
    changes |= {"rev": rev, "updated": tx.ts}
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(f"UPDATE conversation SET {sets} WHERE id = ?", (*changes.values(), conv))
    if new_owner:
        yield from _hand_over(tx, members, new_owner, rev)
    if changes.get("deleted"):
        yield from forget_conversation(tx, conv)
        yield from drop_summaries(tx, conv)
    row = (yield from select_conversations([conv]))[conv].row
    # The head is written at the end of the batch only.
    row.rev, row.updated = rev, tx.ts
    row.last_seq = row.count = tx.head(conv).last_seq
    return row, rev


def drop_conversation(tx: Tx, conv: int) -> Op[tuple[Conv, int]]:
    """Mark a conversation as deleted; `change_conversation` with deleted=False restores it.

    What personas learnt in it is forgotten for good, and so are its summaries.
    """
    return (yield from change_conversation(tx, conv, ConvSet(deleted=True)))


def _save_room(tx: Tx, conv: int, row: Conv, given: ConvSet) -> Op[bool]:
    """Store which personas a group has and how they talk; return whether that is new."""
    personas = row.personas if given.personas is None else given.personas
    talk = (row.talk if given.talk is None else given.talk) or 0
    if (personas or []) == (row.personas or []) and talk == (row.talk or 0):
        return False
    yield tx.dialect.upsert("room", ("conv", "personas", "talk"), [(conv, _joined(personas), talk)])
    return True


def _joined(personas: list[int] | None) -> str:
    return ",".join(map(str, personas or ()))


def _changed_columns(tx: Tx, stored: StoredConv, given: ConvSet) -> dict[str, Any]:
    row = stored.row
    changes: dict[str, Any] = {}
    for name in ("title", "avatar", "persona", "notice", "prompt", "flags", "owner"):
        value = getattr(given, name)
        if value is not None and value != (getattr(row, name) or type(value)()):
            changes[name] = value
    if given.opt is not None and _opt_text(given.opt) != _opt_text(row.opt):
        changes["opt"] = _opt_text(given.opt)
    if given.deleted is not None and given.deleted != bool(stored.deleted):
        changes["deleted"] = tx.ts if given.deleted else 0
    return changes


def _changed_direct_key(stored: StoredConv, deleted: bool) -> Op[str | None]:
    if deleted:
        return None  # the pair may start anew
    rows = yield Statement(
        "SELECT user FROM member WHERE conv = ? ORDER BY user LIMIT 2", (stored.row.id,)
    )
    key = direct_key(stored.tenant, (row[0] for row in rows))
    if (yield Statement("SELECT id FROM conversation WHERE direct_key = ?", (key,))):
        raise Exists("the pair has a newer conversation")
    return key


def _hand_over(tx: Tx, members: dict[int, StoredMember], new_owner: int, rev: int) -> Op[None]:
    rows = []
    for user, member in members.items():
        role = Role.OWNER if user == new_owner else Role.ADMIN
        my_rev = tx.bump(user) if tx.declared(user) else member.my_rev
        rows.append((member.conv, user, int(role), rev, my_rev))
    yield tx.dialect.update("member", ("conv", "user", "role", "rev", "my_rev"), rows, keys=2)
