"""From a committed message to the outboxes of those who may see it."""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from protocol.codes import AiMode, ConvKind
from protocol.envelopes import Frame, MsgPush, Reply, Resync, Send, Sent, Skip
from protocol.rows import Msg, MsgX
from server.directory import Conversation
from server.router import Caller
from storage.batcher import Append
from storage.errors import StorageError
from storage.rows import NewTurn

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session
    from server.turn_requests import Extra

log = logging.getLogger("parlance.delivery")

RESYNC_FEEDS: Final = 256
"""Feeds that one `resync` can name; beyond it every feed is meant."""


class Sender(Caller, Protocol):
    """Who waits for the acknowledgement of a message: a session, or a request on another door."""

    def reply(self, frame: Reply) -> None:
        """The message is stored."""

    def fail(self, rid: int, exc: Exception) -> None:
        """It was not, or nobody knows."""

    def free_slot(self) -> None:
        """Called last, once, in either case."""


class PendingMessage(Append):
    """A message on its way through the batcher.

    Settled on the loop in commit order: first the acknowledgement, then the pushes.

    Args:
        session: the sender's session when it has one; it gets `sent` instead of the push.
        text, x: what is stored, cleaned and checked.
    """

    __slots__ = ("_calls", "_core", "_entry", "_extra", "_opt", "_rid", "_sender", "_session")

    def __init__(
        self,
        core: "Core",
        entry: Conversation,
        sender: Sender,
        session: "Session | None",
        f: Send,
        text: str,
        x: MsgX | None,
        turn: NewTurn | None,
        extra: "Extra",
    ) -> None:
        super().__init__(f.conv, sender.user, f.cid, f.kind, text, x, new_turn=turn)
        self._core = core
        self._entry = entry
        self._sender = sender
        self._session = session
        self._rid = f.rid
        self._opt = None if f.x is None else f.x.opt
        self._extra = extra
        self._calls = f.x is None or f.x.ai != AiMode.NONE

    def settle(self, error: StorageError | None) -> None:
        """Answer the sender, then tell everybody else."""
        try:
            if error is not None:
                self._sender.fail(self._rid, error)
            else:
                self._acknowledge()
                self._tell()
        finally:
            if self._session is not None:
                core = self._core
                core.stats.request_seconds.note(core.loop.time() - self.queued_at)
            self._sender.free_slot()

    def _acknowledge(self) -> None:
        dup = self.dup
        self._sender.reply(
            Sent(
                self._rid,
                self.conv,
                self.seq,
                0 if dup else self.rev,
                self.ts,
                dup,
                self.sid,
            )
        )

    def _tell(self) -> None:
        core = self._core
        entry = core.directory.peek(self.conv) or self._entry
        if self.dup:
            if self.new_turn is not None and self.sid == self.new_turn.sid:
                core.turns.begin(entry, self.new_turn, self.seq, self._opt, extra=self._extra)
            return
        publish_append(core, entry, self, self._session)
        core.marks.sent(self.conv, self.sender, self.seq)
        turn = self.new_turn
        if turn is not None:
            core.turns.begin(entry, turn, self.seq, self._opt, extra=self._extra)
            core.learn(self.conv, turn.persona, self.sender, self.seq)
        if self._calls and entry.kind is ConvKind.GROUP:
            ids = None if self.x is None else self.x.mentions
            begun = 0 if turn is None else turn.persona
            core.rooms.heard(entry, self.sender, self.seq, self.text, ids, begun, self._opt)
        if entry.kind is ConvKind.DIRECT and entry.hidden:
            core.unhide(entry)


class Announcement(Append):
    """A message that the server itself stores, such as a persona's greeting. Nobody waits for it.

    Its idempotency key follows from the conversation, so that it is said once.
    """

    __slots__ = ("_core", "_entry")

    def __init__(
        self, core: "Core", entry: Conversation, sender: int, kind: int, text: str
    ) -> None:
        cid = b"greeting" + entry.id.to_bytes(8, "big")
        super().__init__(entry.id, sender, cid, kind, text, MsgX(persona=sender))
        self._core = core
        self._entry = entry

    def settle(self, error: StorageError | None) -> None:
        """Push it to the members."""
        if error is not None:
            log.warning("announcement.lost", extra={"conv": self.conv, "reason": str(error)})
            return
        entry = self._core.directory.peek(self.conv) or self._entry
        if not self.dup:
            publish_append(self._core, entry, self, None)


def publish_append(
    core: "Core", entry: Conversation, message: Append, session: "Session | None"
) -> None:
    """Push a new message to every member; the sender's other devices learn its cid as well."""
    entry.advance(message.rev, message.seq, message.ts)
    users: Iterable[int] = entry.members
    own = core.hub.sessions_of(message.sender)
    if len(own) > (session is not None and session in own):
        x = MsgX() if message.x is None else message.x
        mine = _push_of(message, replace(x, cid=message.cid))
        core.hub.publish((message.sender,), mine, skip=session)
        users = [user for user in entry.members if user != message.sender]
    core.hub.publish(users, _push_of(message, message.x), skip=session)
    core.stats.messages += 1


def tell_unsure(core: "Core", feeds: set[int]) -> None:
    """Have everybody sync whom a change of these feeds may not have reached.

    The reply to its commit was lost: it was made twice, and the second time changed nothing.
    What is remembered of the conversations may be older than that, so it is read again.
    """
    log.warning("delivery.unsure", extra={"feeds": len(feeds)})
    core.spawn(_resync(core, feeds))


async def _resync(core: "Core", feeds: set[int]) -> None:
    """Users and conversations are told apart by who has sessions: their ids never meet."""
    untold = {feed: [0] for feed in feeds if core.hub.sessions_of(feed)}
    convs = sorted(feeds - untold.keys())
    old = [core.directory.forget(conv) for conv in convs]
    loads = (core.directory.fetch(conv) for conv in convs)
    found = await asyncio.gather(*loads, return_exceptions=True)
    for before, entry in zip(old, found, strict=True):
        known = before if isinstance(entry, BaseException) else entry
        if known is None:
            continue
        for user in known.members:
            untold.setdefault(user, []).append(known.id)
        for session in list(core.hub.watchers_of(known.id)):
            if session.user not in known.members:
                core.hub.watch(session, tuple(c for c in session.watched if c != known.id))
    for user, behind in untold.items():
        core.hub.publish((user,), Resync(behind if len(behind) <= RESYNC_FEEDS else []))


def publish_row(core: "Core", entry: Conversation, row: Msg) -> None:
    """Push a changed message; members who may not see it learn only that the revision moved."""
    push = MsgPush(entry.id, row.rev, row.seq, row.ts, row.sender, row.kind, row.text, row.x)
    publish_change(core, entry, push, row.rev, row.seq)


def publish_rows(core: "Core", entry: Conversation, rows: Iterable[Msg]) -> None:
    """Push messages that one commit changed, and note that the conversation has changed."""
    for row in rows:
        publish_row(core, core.directory.changed(entry.id) or entry, row)


def publish_change(
    core: "Core", entry: Conversation, push: Frame, rev: int, seq: int | None = None
) -> None:
    """Push an item of a conversation's feed; with seq, only to members who may see that message."""
    entry.advance(rev)
    if seq is None or not entry.floors:
        core.hub.publish(entry.members, push)
        return
    hidden = [user for user, floor in entry.floors.items() if seq <= floor]
    core.hub.publish([user for user in entry.members if user not in hidden], push)
    core.hub.publish(hidden, Skip(entry.id, rev))


def _push_of(message: Append, x: MsgX | None) -> MsgPush:
    return MsgPush(
        message.conv,
        message.rev,
        message.seq,
        message.ts,
        message.sender,
        message.kind,
        message.text,
        x,
    )
