"""What a client holds of one conversation: rows, each with the revision that it shows."""

from bisect import insort
from collections.abc import Iterable
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from protocol.codes import Role
from protocol.rows import Conv, Member, Msg, MyConv, Read

T = TypeVar("T")


class StampedRow(Struct, Generic[T], gc=False):
    """A row and the revision that last changed it."""

    rev: int
    row: T


class ConvView:
    """One conversation as far as it is loaded. Read it freely; only `Feeds` writes to it.

    Attributes:
        messages: by seq.
        seqs: of the messages held, ascending; older ones are loaded by pages of history.
        row, my: the conversation, and the user's own view of it; sparse until loaded.
        members: those who are in or were, by user.
        members_whole: False while the members from before the feed began are not loaded; then
            and in large groups, `get_conversation` or `members` brings them.
        begun_seq: messages up to this one were there before the feed began here; they are
            loaded by pages of history.
        reads: user -> (read, received), highest known.
        own_seq: the highest seq of the user's own messages that were held.
    """

    __slots__ = (
        "begun_seq",
        "conv",
        "members",
        "members_whole",
        "messages",
        "my",
        "my_rev",
        "own_seq",
        "reads",
        "row",
        "row_rev",
        "seqs",
    )

    def __init__(self, conv: int) -> None:
        self.conv = conv
        self.messages: dict[int, Msg] = {}
        self.seqs: list[int] = []
        self.row = Conv(id=conv)
        self.row_rev = -1
        self.my = MyConv(conv=conv)
        self.my_rev = -1
        self.own_seq = 0
        self.members: dict[int, StampedRow[Member]] = {}
        self.members_whole = False
        self.begun_seq = 0
        self.reads: dict[int, tuple[int, int]] = {}

    @property
    def left(self) -> bool:
        """True when the user left, was removed, or put the conversation away."""
        return bool(self.my.left) or self.role_gone

    @property
    def role_gone(self) -> bool:
        """True when the user is no member any more."""
        return self.my.role == Role.GONE

    @property
    def last_seq(self) -> int:
        """Highest seq known to exist."""
        return max(self.row.last_seq or 0, self.seqs[-1] if self.seqs else 0)

    @property
    def updated(self) -> int:
        """Time of the last activity known, in Unix milliseconds."""
        newest = self.messages[self.seqs[-1]].ts if self.seqs else 0
        return max(self.row.updated or 0, newest)

    @property
    def read(self) -> int:
        """Up to where the user has read, here or elsewhere; own messages count as read."""
        return max(self.my.read or 0, self.my.min_seq or 0, self.own_seq)

    @property
    def unread(self) -> int:
        """Messages that the user has read nowhere yet."""
        return max(0, self.last_seq - self.read)

    def whole_from(self) -> int:
        """Return the lowest seq from which nothing is missing up to the newest.

        0 when the newest is not held: an older one can be here alone because it was edited.
        """
        at = self.last_seq + 1
        for seq in reversed(self.seqs):
            if seq != at - 1:
                break
            at = seq
        return at if at <= self.last_seq else 0

    def put_message(self, msg: Msg) -> None:
        """Hold a message, in place of the one with the same seq."""
        if msg.seq not in self.messages:
            if self.seqs and msg.seq < self.seqs[-1]:
                insort(self.seqs, msg.seq)
            else:
                self.seqs.append(msg.seq)
        self.messages[msg.seq] = msg

    def put_row(self, row: Conv, rev: int) -> bool:
        """Take a row that shows revision `rev`; False when a newer one is held."""
        if rev < self.row_rev:
            return False
        if row.last_seq is None and self.row.last_seq is not None:
            row = replace(row, last_seq=self.row.last_seq)
        self.row, self.row_rev = row, rev
        return True

    def put_member(self, member: Member, rev: int) -> bool:
        """Take a member's row that shows revision `rev`; False when a newer one is held."""
        user = member.user or 0
        held = self.members.get(user)
        if held is not None and rev <= held.rev:
            return False
        self.members[user] = StampedRow(rev, member)
        return True

    def replace_members(self, members: Iterable[Member], rev: int) -> None:
        """Take everybody who is in at revision `rev`; who is not named has gone."""
        self.members = {user: row for user, row in self.members.items() if row.rev > rev}
        for member in members:
            self.put_member(member, rev)
        self.members_whole = True

    def present(self) -> list[Member]:
        """Return the members who are in, in the order of their ids."""
        rows = (self.members[user].row for user in sorted(self.members))
        return [row for row in rows if row.role != Role.GONE]

    def put_my(self, my: MyConv, rev: int) -> None:
        """Take the own view as of revision `rev` of the user's feed.

        0 is one that was read apart from the feed: it counts until the feed has told. It always
        comes whole: what is left out is not set any more.
        """
        if rev >= self.my_rev:
            self.my, self.my_rev = replace(my, conv=self.conv), rev

    def put_reads(self, reads: Iterable[Read]) -> None:
        """Take read cursors, which never go back."""
        for item in reads:
            read, recv = self.reads.get(item.user, (0, 0))
            self.reads[item.user] = (max(read, item.read), max(recv, item.recv))

    def forget_messages(self) -> None:
        """Drop the messages held."""
        self.messages.clear()
        self.seqs.clear()

    def forget_members(self) -> None:
        """Drop the members held; they are incomplete from here on."""
        self.members.clear()
        self.members_whole = False

    def forget_rows(self) -> None:
        """Drop everything held, as of a store that is no more."""
        self.forget_messages()
        self.forget_members()
        self.reads.clear()
        self.row, self.row_rev = Conv(id=self.conv), -1
        self.own_seq = 0
