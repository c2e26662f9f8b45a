"""Rows of conversations and of their members, and the views that the wire has of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from protocol.rows import Conv, GenOpt, Member, MyConv
from storage.errors import Invalid
from storage.ops import Op, Row, Statement, in_list
from storage.rows import MemberRow
from storage.writes import Tx

CONV_COLUMNS: Final = (
    "c.id, c.kind, c.title, c.avatar, c.persona, c.owner, c.notice, c.prompt, c.opt, c.flags,"
    " c.first_seq, c.created, c.deleted, c.rev, c.tenant, c.creator, f.rev, f.last_seq, f.updated,"
    " r.personas, r.talk"
)
CONV_TABLES: Final = (
    "conversation AS c JOIN feed AS f ON f.id = c.id LEFT JOIN room AS r ON r.conv = c.id"
)
MEMBER_COLUMNS: Final = (
    "m.conv, m.user, m.role, m.nick, m.joined, m.joined_seq, m.min_seq, m.mute_until,"
    " m.read_seq, m.recv_seq, m.hidden, m.archived, m.my_mute_until, m.pinned, m.remark, m.draft,"
    " m.rev, m.my_rev"
)
MEMBER_INSERT: Final = (
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

_decode_opt: Final = msgspec.json.Decoder(GenOpt).decode


def _ids(text: str | None) -> list[int] | None:
    return [int(part) for part in text.split(",")] if text else None


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
            personas=_ids(row[19]),
            talk=row[20] or None,
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
        """Return the values of `MEMBER_INSERT`."""
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


def fresh_member(
    tx: Tx, conv: int, user: int, role: int, joined_seq: int, rev: int
) -> StoredMember:
    marks = (joined_seq, joined_seq)
    nothing = (0, 0, 0, 0, "", "")
    return StoredMember(
        (conv, user, role, "", tx.ts, joined_seq, 0, 0, *marks, *nothing, rev, tx.bump(user))
    )


def parse_cursor(cursor: str) -> tuple[int, int]:
    first, _, second = cursor.partition(":")
    try:
        return int(first), int(second)
    except ValueError:
        raise Invalid("not a cursor of this list") from None
