"""Conversations and their members. Whatever members see of each other belongs to the
conversation's feed, what only one member sees to that user's own feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from protocol.codes import ConvKind, Role
from protocol.rows import Conv, ConvSet, GenOpt, Member, MyConv, MySet
from storage.errors import Exists, Invalid, LimitReached, NotFound
from storage.ops import Op, Row, Statement, in_list
from storage.rows import (
    AddedMember,
    ConvRecord,
    CreatedConversation,
    DroppedMember,
    MarkRow,
    MemberRow,
    NewConversation,
)
from storage.writes import Tx

HIDE_HISTORY: Final = 1
"""Bit of Conv.flags: newcomers see only what comes after them."""

MAX_ROWS: Final = 100_000
"""Bound of reads that must be complete, such as all members of one conversation."""

CONV_COLUMNS: Final = (
    "c.id, c.kind, c.title, c.avatar, c.persona, c.owner, c.notice, c.prompt, c.opt, c.flags,"
    " c.first_seq, c.created, c.deleted, c.rev, c.tenant, c.creator, f.rev, f.last_seq, f.updated"
)
CONV_TABLES: Final = "conversation AS c JOIN feed AS f ON f.id = c.id"
MEMBER_COLUMNS: Final = (
    "m.conv, m.user, m.role, m.nick, m.joined, m.joined_seq, m.min_seq, m.mute_until,"
    " m.read_seq, m.recv_seq, m.hidden, m.archived, m.my_mute_until, m.pinned, m.remark, m.draft,"
    " m.rev, m.my_rev"
)
_MEMBER_INSERT: Final = (
    "conv",
    "user",
    "role",
    "nick",
    "joined",
    "joined_seq",
    "min_seq",
    "mute_until",
    "my_mute_until",
    "read_seq",
    "recv_seq",
    "pinned",
    "archived",
    "hidden",
    "remark",
    "draft",
    "rev",
    "my_rev",
)
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
_decode_opt: Final = msgspec.json.Decoder(GenOpt).decode


class StoredConv:
    """One row of `CONV_COLUMNS`."""

    __slots__ = ("creator", "deleted", "row", "row_rev", "tenant")

    def __init__(self, row: Row) -> None:
        opt, deleted = row[8], row[12]
        self.row = Conv(
            id=row[0],
            kind=row[1],
            title=row[2] or None,
            avatar=row[3] or None,
            persona=row[4] or None,
            owner=row[5] or None,
            notice=row[6] or None,
            prompt=row[7] or None,
            opt=None if opt is None else _decode_opt(opt),
            flags=row[9] or None,
            first_seq=row[10],
            created=row[11],
            deleted=True if deleted else None,
            rev=row[16],
            last_seq=row[17],
            count=row[17],
            updated=row[18],
        )
        self.deleted: int = deleted
        self.row_rev: int = row[13]
        self.tenant: int = row[14]
        self.creator: int = row[15]


class StoredMember:
    """One row of `MEMBER_COLUMNS`, and the views that the wire has of it."""

    __slots__ = (
        "conv",
        "user",
        "role",
        "nick",
        "joined",
        "joined_seq",
        "min_seq",
        "mute_until",
        "read",
        "recv",
        "hidden",
        "archived",
        "my_mute_until",
        "pinned",
        "remark",
        "draft",
        "rev",
        "my_rev",
    )

    conv: int
    user: int
    role: int
    nick: str
    joined: int
    joined_seq: int
    min_seq: int
    mute_until: int
    read: int
    recv: int
    hidden: int
    archived: int
    my_mute_until: int
    pinned: int
    remark: str
    draft: str
    rev: int
    my_rev: int

    def __init__(self, row: Row) -> None:
        for name, value in zip(self.__slots__, row, strict=True):
            setattr(self, name, value)

    @property
    def floor(self) -> int:
        return max(self.joined_seq, self.min_seq)

    def member(self) -> Member:
        return Member(
            user=self.user,
            role=self.role,
            nick=self.nick or None,
            joined=self.joined,
            mute_until=self.mute_until or None,
        )

    def mine(self) -> MyConv:
        return MyConv(
            conv=self.conv,
            role=self.role,
            read=self.read,
            recv=self.recv,
            min_seq=self.min_seq or None,
            joined_seq=self.joined_seq or None,
            mute_until=self.my_mute_until or None,
            pinned=True if self.pinned else None,
            archived=True if self.archived else None,
            left=True if self.hidden or not self.role else None,
            remark=self.remark or None,
            draft=self.draft or None,
        )

    def record(self) -> MemberRow:
        return MemberRow(
            user=self.user,
            role=self.role,
            nick=self.nick,
            joined=self.joined,
            joined_seq=self.joined_seq,
            min_seq=self.min_seq,
            mute_until=self.mute_until,
            read=self.read,
            recv=self.recv,
            left=bool(self.hidden),
            archived=bool(self.archived),
        )

    def insert_row(self) -> Row:
        """Return the values of `_MEMBER_INSERT`."""
        return (
            self.conv,
            self.user,
            self.role,
            self.nick,
            self.joined,
            self.joined_seq,
            self.min_seq,
            self.mute_until,
            self.my_mute_until,
            self.read,
            self.recv,
            self.pinned,
            self.archived,
            self.hidden,
            self.remark,
            self.draft,
            self.rev,
            self.my_rev,
        )


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


def select_conversations(ids: Iterable[int]) -> Op[dict[int, StoredConv]]:
    """Return those of the conversations that exist, in the order asked; ids must not be empty."""
    wanted = list(ids)
    marks, args = in_list(wanted)
    rows = yield Statement(
        f"SELECT {CONV_COLUMNS} FROM {CONV_TABLES} WHERE c.id IN ({marks})", args
    )
    found = {row[0]: StoredConv(row) for row in rows}
    return {conv: found[conv] for conv in wanted if conv in found}


def select_members(conv: int, users: Iterable[int]) -> Op[dict[int, StoredMember]]:
    """Return the rows of these users, also of those who left; users must not be empty."""
    marks, args = in_list(users)
    rows = yield Statement(
        f"SELECT {MEMBER_COLUMNS} FROM member AS m WHERE m.conv = ? AND m.user IN ({marks})",
        (conv, *args),
    )
    return {row[1]: StoredMember(row) for row in rows}


def select_mine(user: int, convs: Iterable[int]) -> Op[dict[int, StoredMember]]:
    """Return user's rows in these conversations, also in those left; convs must not be empty."""
    marks, args = in_list(convs)
    rows = yield Statement(
        f"SELECT {MEMBER_COLUMNS} FROM member AS m WHERE m.conv IN ({marks}) AND m.user = ?",
        (*args, user),
    )
    return {row[0]: StoredMember(row) for row in rows}


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
        updated, last = _parse_cursor(cursor)
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


def member_page(conv: int, cursor: str, limit: int) -> Op[tuple[list[Member], str]]:
    """Return a page of present members by user id, and the next cursor."""
    after = _parse_cursor(cursor)[1] if cursor else 0
    rows = yield Statement(
        f"SELECT {MEMBER_COLUMNS} FROM member AS m"
        " WHERE m.conv = ? AND m.user > ? AND m.role > 0 ORDER BY m.user LIMIT ?",
        (conv, after, limit + 1),
    )
    members = [StoredMember(row) for row in rows[:limit]]
    following = f"0:{members[-1].user}" if len(rows) > limit else ""
    return [member.member() for member in members], following


def _parse_cursor(cursor: str) -> tuple[int, int]:
    first, _, second = cursor.partition(":")
    try:
        return int(first), int(second)
    except ValueError:
        raise Invalid("not a cursor of this list") from None


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
    members = [_new_member(tx, new, user, rev) for user in users]
    yield tx.dialect.insert("member", _MEMBER_INSERT, [m.insert_row() for m in members])
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
    return StoredConv((*values, rev, 0, tx.ts)).row


def _new_member(tx: Tx, new: NewConversation, user: int, rev: int) -> StoredMember:
    role = Role.OWNER if user == _owner(new) else Role.MEMBER
    return _fresh_member(tx, new.id, user, int(role), 0, rev)


def _fresh_member(
    tx: Tx, conv: int, user: int, role: int, joined_seq: int, rev: int
) -> StoredMember:
    marks = (joined_seq, joined_seq)
    nothing = (0, 0, 0, 0, "", "")
    return StoredMember(
        (conv, user, role, "", tx.ts, joined_seq, 0, 0, *marks, *nothing, rev, tx.bump(user))
    )


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
    if not changes:
        return stored.row, 0
    rev = tx.bump(conv)
    changes |= {"rev": rev, "updated": tx.ts}
    sets = ", ".join(f"{name} = ?" for name in changes)
    yield Statement(f"UPDATE conversation SET {sets} WHERE id = ?", (*changes.values(), conv))
    if new_owner:
        yield from _hand_over(tx, members, new_owner, rev)
    row = (yield from select_conversations([conv]))[conv].row
    # The head is written at the end of the batch only.
    row.rev, row.updated = rev, tx.ts
    row.last_seq = row.count = tx.head(conv).last_seq
    return row, rev


def drop_conversation(tx: Tx, conv: int) -> Op[tuple[Conv, int]]:
    """Mark a conversation as deleted; `change_conversation` with deleted=False restores it."""
    return (yield from change_conversation(tx, conv, ConvSet(deleted=True)))


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


# members


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
        _fresh_member(tx, conv, user, int(Role.MEMBER), last_seq if hides else 0, tx.bump(conv))
        for user in wanted
    ]
    for member in members:
        if member.user in known and not hides:
            old = known[member.user]
            member.min_seq, member.read, member.recv = old.min_seq, old.read, old.recv
    rows = [member.insert_row() for member in members]
    yield tx.dialect.upsert("member", _MEMBER_INSERT, rows, keys=2)
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
