"""Read cursors: gathered for a second, highest value wins, written together."""

import logging
from typing import TYPE_CHECKING, Final

from protocol.codes import Caps
from protocol.envelopes import MyConvPush, Receipt
from protocol.rows import MyConv, Read
from storage.errors import StorageError
from storage.members import write_marks
from storage.rows import MarkRow

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.marks")

RECEIPT_MEMBERS: Final = 50
MAX_DIRTY: Final = 20_000
"""Cursors gathered; beyond it they are written at once instead of after a second."""


class Marks:
    """Owns the read cursors that are not written yet.

    A cursor that is lost in a crash is sent again by its client, which sees a lower value in its
    next sync: so nothing waits for these writes.

    Attributes:
        dropped: cursors not taken because the store did not answer and too many waited.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._dirty: dict[tuple[int, int], MarkRow] = {}
        self._sent: dict[tuple[int, int], int] = {}
        self._writing = False
        self.dropped = 0

    def sent(self, conv: int, user: int, seq: int) -> None:
        """A message of one's own counts as read; clients know that without being told."""
        if len(self._sent) < MAX_DIRTY or (conv, user) in self._sent:
            self._sent[conv, user] = seq
        else:
            self.dropped += 1

    def marked(self, conv: int, user: int, read: int, recv: int) -> None:
        """A client says how far its user has read, and its device received."""
        key = (conv, user)
        mark = self._dirty.get(key)
        if mark is None and len(self._dirty) >= 2 * MAX_DIRTY:
            self.dropped += 1
            return
        if mark is not None:
            read, recv = max(mark.read, read), max(mark.recv, recv)
        self._dirty[key] = MarkRow(conv, user, read, recv, False)
        if len(self._dirty) >= MAX_DIRTY:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered. Called once a second."""
        if self._writing or not (self._dirty or self._sent):
            return
        self._writing = True
        marks = list(self._dirty.values())
        marks += [MarkRow(conv, user, seq, 0, True) for (conv, user), seq in self._sent.items()]
        self._dirty, self._sent = {}, {}
        self._core.spawn(self._write(marks))

    async def _write(self, marks: list[MarkRow]) -> None:
        users = sorted({mark.user for mark in marks if not mark.silent})
        try:
            await self._core.store.change(users, lambda tx: write_marks(tx, marks), self._publish)
        except StorageError as exc:
            log.warning("marks.lost", extra={"marks": len(marks), "reason": str(exc)})
        finally:
            self._writing = False

    def _publish(self, changed: list[tuple[int, MyConv, int]]) -> None:
        hub, directory = self._core.hub, self._core.directory
        receipts: dict[int, list[Read]] = {}
        for user, my, rev in changed:
            hub.publish((user,), MyConvPush(rev, my))
            if my.conv:
                receipts.setdefault(my.conv, []).append(Read(user, my.read or 0, my.recv or 0))
        for conv, reads in receipts.items():
            entry = directory.peek(conv)
            if entry is not None and len(entry.members) <= RECEIPT_MEMBERS:
                receivers = [s for user in entry.members for s in hub.sessions_of(user)]
                hub.signal(receivers, ("read", conv), Receipt(conv, reads), Caps.RECEIPTS)
