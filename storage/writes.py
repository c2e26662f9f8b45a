"""What is handed to the batcher, and the transaction that changes run in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from protocol.rows import MsgX
from storage.dialect import Dialect
from storage.errors import NotFound, StorageError
from storage.ops import Op
from storage.rows import EndTurn, Head, NewTurn

T = TypeVar("T")

_ROW_BYTES: Final = 200
"""What a message costs besides its text, roughly: columns, ids, quotes, Python objects."""

log: Final = logging.getLogger("parlance.storage")


class Tx:
    """One transaction, as changes see it: its time, and the heads of the feeds it has locked.

    Belongs to the committer; on SQLite it lives in the writer thread.
    """

    __slots__ = ("_declared", "_heads", "dialect", "dirty", "touched", "ts")

    def __init__(self, ts: int, dialect: Dialect, heads: dict[int, list[int]]) -> None:
        self.ts = ts
        """Time of the commit, Unix milliseconds; never runs back within one store."""
        self.dialect = dialect
        self._heads = heads
        self._declared: Iterable[int] = ()
        self.dirty: set[int] = set()
        self.touched = False
        """Whether the running change has changed a head."""

    def begin(self, declared: Iterable[int]) -> None:
        """Start the next change, which may touch these feeds."""
        self._declared = declared
        self.touched = False

    def head(self, feed: int) -> Head:
        """Return the feed's head, with what this transaction did to it so far.

        Raises:
            NotFound: there is no such feed.
        """
        rev, last_seq = self._head(feed)
        return Head(rev, last_seq)

    def bump(self, feed: int) -> int:
        """Count one more change of feed; return its revision.

        Raises:
            NotFound: there is no such feed.
        """
        head = self._head(feed)
        head[0] += 1
        self.dirty.add(feed)
        self.touched = True
        return head[0]

    def create(self, feed: int) -> None:
        """Start a feed at revision 0; it need not be declared. Its id must be new."""
        self._heads[feed] = [0, 0]
        self.dirty.add(feed)
        self.touched = True

    def exists(self, feed: int) -> bool:
        """Tell whether the batch has locked feed: its head is then newer than the row."""
        return feed in self._heads

    def declared(self, feed: int) -> bool:
        """Tell whether the running change may touch feed, and feed is there."""
        return feed in self._heads and feed in self._declared

    def _head(self, feed: int) -> list[int]:
        head = self._heads.get(feed)
        if head is not None:
            return head
        if feed in self._declared:
            raise NotFound("no such feed")
        raise LookupError("a change must declare the feeds it touches")


class Write:
    """One thing to make durable. Settled exactly once, on the loop."""

    __slots__ = ("cost_bytes", "queued_at")

    cost_bytes: int
    queued_at: float

    def settle(self, error: StorageError | None) -> None:
        """Called after the commit (None) or the final failure, in commit order.

        Must not raise; if it does, that is logged and the other writes are settled all the same.
        """
        raise NotImplementedError


class Append(Write):
    """One message. Many of them share each statement of a batch.

    The first write of (conv, sender, cid) wins; a repeat is answered with the first one's `seq`,
    `ts` and `sid`, `rev` 0 and `dup` True. Results may be read from `settle(None)` on. An append
    to a conversation without a feed fails with NotFound, alone.

    Args:
        cid: 16 bytes that name this message among those of its sender here.
        x: stored as is, without `cid`.
        new_turn: the AI turn that this message asks for, created in the same transaction.
        end_turn: the AI turn that this message answers, ended in the same transaction.
    """

    __slots__ = (
        "conv",
        "sender",
        "cid",
        "kind",
        "text",
        "x",
        "new_turn",
        "end_turn",
        "seq",
        "rev",
        "ts",
        "dup",
        "sid",
        "failure",
    )

    def __init__(
        self,
        conv: int,
        sender: int,
        cid: bytes,
        kind: int,
        text: str,
        x: MsgX | None = None,
        *,
        new_turn: NewTurn | None = None,
        end_turn: EndTurn | None = None,
    ) -> None:
        self.conv = conv
        self.sender = sender
        self.cid = cid
        self.kind = kind
        self.text = text
        self.x = x
        self.new_turn = new_turn
        self.end_turn = end_turn
        self.seq = 0
        self.rev = 0
        self.ts = 0
        self.dup = False
        self.sid: int | None = None
        self.failure: StorageError | None = None
        # A code point takes up to four bytes; whether any takes more than one is known for free.
        self.cost_bytes = _ROW_BYTES + len(text) * (1 if text.isascii() else 4)

    def settle(self, error: StorageError | None) -> None:
        """For subclasses; the plain class tells nobody."""


class Change(Write, Generic[T]):
    """Any other write: an operation inside the batch's transaction.

    Args:
        feeds: feeds (ids of conversations and users) whose heads the operation may touch.
            They are locked before it runs, over the whole batch in ascending order.
        make: makes the operation. It MUST check before it writes: a StorageError raised before
            its first write fails only this change. It may be called again after a failed or
            unknown commit, so it must give a sensible result when its effect is already there.
            On SQLite it runs in the writer thread: it must not touch what the loop owns.
        publish: called on the loop, in commit order, right before the future resolves.
    """

    __slots__ = ("feeds", "future", "make", "publish", "result", "failure")

    def __init__(
        self,
        feeds: Sequence[int],
        make: Callable[[Tx], Op[T]],
        publish: Callable[[T], None] | None = None,
        *,
        cost_bytes: int = 1_000,
    ) -> None:
        self.feeds = feeds
        self.make = make
        self.publish = publish
        self.cost_bytes = cost_bytes
        self.future: asyncio.Future[T] | None = None
        self.result: T | None = None
        self.failure: StorageError | None = None

    def settle(self, error: StorageError | None) -> None:
        """Publish, then resolve the future (a waiter that was cancelled changes nothing)."""
        future = self.future
        waiting = future is not None and not future.done()
        if error is not None:
            if waiting and future is not None:
                future.set_exception(error)
            return
        result: T = self.result  # type: ignore[assignment]  # set by the commit
        if self.publish is not None:
            try:
                self.publish(result)
            except Exception:
                log.exception("store.publish_failed")
        if waiting and future is not None:
            future.set_result(result)
