"""What the process remembers of conversations, so that a message needs no read before its commit.

The cache is written through: every change is applied to it in commit order, on the loop. Entries
come and go by use; a load that a change overtakes is repeated.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from protocol.codes import ConvKind, Role
from protocol.rows import Conv, Member
from server.errors import not_found
from storage.conversations import load_conversations
from storage.rows import ConvRecord, MemberRow

if TYPE_CHECKING:
    from server.router import Caller
    from storage.store import Store

LOAD_KEYS = 200
"""Conversations fetched by one read."""


class Conversation:
    """One conversation as the process knows it.

    Attributes:
        members: by user id; only those who are in it now (role above 0).
        floors: members who may not see messages up to a seq; empty for almost all conversations.
        hidden: members of a direct conversation who have put it away.
        tokens, tokens_at: allowance of messages per second.
    """

    __slots__ = (
        "floors",
        "hidden",
        "id",
        "kind",
        "members",
        "row",
        "tenant",
        "tokens",
        "tokens_at",
    )

    def __init__(self, record: ConvRecord) -> None:
        self.row: Conv = record.row
        self.id = record.row.id or 0
        self.kind = ConvKind(record.row.kind or 0)
        self.tenant = record.tenant
        self.members: dict[int, MemberRow] = {m.user: m for m in record.members if m.role}
        self.floors: dict[int, int] = {}
        self.hidden = {m.user for m in self.members.values() if m.left}
        for member in self.members.values():
            self._set_floor(member)
        self.tokens = -1.0
        self.tokens_at = 0.0

    def put_member(self, member: MemberRow) -> None:
        """Take a changed member row; role 0 removes it."""
        if member.role == Role.GONE:
            self.members.pop(member.user, None)
            self.floors.pop(member.user, None)
        else:
            self.members[member.user] = member
            self._set_floor(member)
        if member.left and member.role:
            self.hidden.add(member.user)
        else:
            self.hidden.discard(member.user)

    def advance(self, rev: int, seq: int = 0, ts: int = 0) -> None:
        """Note how far the feed has come, so that who gets the row knows where it stands."""
        row = self.row
        if rev > (row.rev or 0):
            row.rev = rev
        if seq > (row.last_seq or 0):
            row.last_seq = row.count = seq
            row.updated = ts

    def floor(self, user: int) -> int:
        """Return the seq up to which this member sees nothing."""
        return self.floors.get(user, 0)

    def may_send(self, rate: float, burst: float, now: float) -> bool:
        """Charge one message against the conversation's allowance."""
        if self.tokens < 0:
            self.tokens = burst
        else:
            self.tokens = min(burst, self.tokens + (now - self.tokens_at) * rate)
        self.tokens_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def _set_floor(self, member: MemberRow) -> None:
        floor = max(member.joined_seq, member.min_seq)
        if floor:
            self.floors[member.user] = floor
        else:
            self.floors.pop(member.user, None)


Found = Callable[[Conversation | None, Exception | None], None]


class Directory:
    """Owns the cache of conversations and loads what is missing, many ids to a read.

    Args:
        capacity: conversations kept; a large room counts by its members as well.
    """

    def __init__(self, store: "Store", spawn: Callable[..., object], capacity: int) -> None:
        self._store = store
        self._spawn = spawn
        self._capacity = capacity
        self._weight = 0
        self._entries: OrderedDict[int, Conversation] = OrderedDict()
        self._waiting: dict[int, list[Found]] = {}
        self._overtaken: set[int] = set()
        self._wanted: list[int] = []
        self.hits = 0
        self.misses = 0

    def get(self, conv: int) -> Conversation | None:
        """Return a remembered conversation."""
        entry = self._entries.get(conv)
        if entry is not None:
            self.hits += 1
            self._entries.move_to_end(conv)
        return entry

    def peek(self, conv: int) -> Conversation | None:
        """Return a remembered conversation without counting it as used."""
        return self._entries.get(conv)

    def find(self, conv: int, found: Found) -> None:
        """Call found with the conversation, or None, in the order of the calls of `find`."""
        waiting = self._waiting.get(conv)
        if waiting is not None:
            waiting.append(found)
            return
        self.misses += 1
        self._waiting[conv] = [found]
        self._wanted.append(conv)
        if len(self._wanted) == 1:
            self._spawn(self._load())

    async def require(self, conv: int, caller: "Caller") -> Conversation:
        """Return a conversation that caller is a member of.

        Raises:
            ServiceError: NOT_FOUND for unknown and forbidden alike.
        """
        entry = self.get(conv)
        if entry is None:
            entry = await self.fetch(conv)
        if entry is None or entry.tenant != caller.tenant or caller.user not in entry.members:
            raise not_found("conversation")
        return entry

    async def fetch(self, conv: int) -> Conversation | None:
        """Return a conversation whoever asks; None when there is none."""
        future: asyncio.Future[Conversation | None] = asyncio.get_running_loop().create_future()

        def found(entry: Conversation | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(entry)
            else:
                future.set_exception(error)

        self.find(conv, found)
        return await future

    def put(self, record: ConvRecord) -> Conversation:
        """Remember a conversation that was just created or read."""
        entry = Conversation(record)
        old = self._entries.pop(entry.id, None)
        self._weight += _weight(entry) - (_weight(old) if old else 0)
        self._entries[entry.id] = entry
        while self._weight > self._capacity and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._weight -= _weight(dropped)
        return entry

    def changed(self, conv: int) -> Conversation | None:
        """Return the entry a committed change must be applied to, if there is one.

        Call it for every change, before looking at the result: a load that is under way may have
        read the state from before, and is repeated.
        """
        if conv in self._waiting:
            self._overtaken.add(conv)
        return self._entries.get(conv)

    def forget(self, conv: int) -> Conversation | None:
        """Drop what is remembered, because it may be wrong; return it."""
        old = self.changed(conv)
        if old is not None:
            del self._entries[conv]
            self._weight -= _weight(old)
        return old

    def set_row(self, conv: int, row: Conv) -> None:
        """Apply a committed change of the conversation row."""
        entry = self.changed(conv)
        if entry is not None:
            entry.row = row

    def set_members(self, conv: int, members: Iterable[MemberRow]) -> None:
        """Apply committed changes of members."""
        entry = self.changed(conv)
        if entry is None:
            return
        self._weight -= _weight(entry)
        for member in members:
            entry.put_member(member)
        self._weight += _weight(entry)

    async def _load(self) -> None:
        await asyncio.sleep(0)  # lets the other wishes of this tick join
        while self._wanted:
            wanted = self._wanted[:LOAD_KEYS]
            try:
                records: Sequence[ConvRecord] = await self._store.read(load_conversations(wanted))
            except Exception as exc:
                del self._wanted[: len(wanted)]
                for conv in wanted:
                    self._overtaken.discard(conv)
                    self._answer(conv, None, exc)
                continue
            del self._wanted[: len(wanted)]
            by_id = {record.row.id: record for record in records}
            for conv in wanted:
                if conv in self._overtaken:
                    self._overtaken.discard(conv)
                    self._wanted.append(conv)
                    continue
                record = by_id.get(conv)
                self._answer(conv, None if record is None else self.put(record), None)

    def _answer(self, conv: int, entry: Conversation | None, error: Exception | None) -> None:
        for found in self._waiting.pop(conv, ()):
            found(entry, error)


def _weight(entry: Conversation) -> int:
    return 1 + len(entry.members) // 16


def member_row(member: Member, old: MemberRow | None = None) -> MemberRow:
    """Return the cached form of a member entity, keeping what the entity does not say."""
    return MemberRow(
        user=member.user or 0,
        role=int(member.role or 0),
        nick=member.nick or "",
        joined=member.joined or 0,
        joined_seq=old.joined_seq if old else 0,
        min_seq=old.min_seq if old else 0,
        mute_until=member.mute_until or 0,
        read=old.read if old else 0,
        recv=old.recv if old else 0,
        left=False,
        archived=old.archived if old else False,
    )
