"""One transaction over a whole batch (docs/protocol.md §4, commit).

Heads are locked in ascending id, numbers are taken under that lock, all messages go in with one
statement, and one statement writes all heads back. The count of statements depends neither on
members nor, up to the engine's piece size, on rows.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from storage.dialect import Dialect
from storage.errors import (
    Duplicate,
    FailedAfterWrite,
    NotFound,
    OutcomeUnknown,
    StatementFailed,
    StorageError,
    StoreUnavailable,
)
from storage.messages import encode_ext
from storage.ops import Bulk, Op, Statement, in_list
from storage.turns import end_turns, insert_turns
from storage.writes import Append, Change, Tx

_COLUMNS: Final = ("conv", "seq", "rev", "ts", "sender", "kind", "text", "ext", "cid")
_FEED_COLUMNS: Final = ("id", "rev", "last_seq", "updated")
_ENGINE_ERRORS: Final = (Duplicate, StatementFailed, StoreUnavailable, OutcomeUnknown)
_MAX_CACHED_HEADS: Final = 200_000
"""About 40 MB; the cache starts again from nothing beyond it."""

Key = tuple[int, int, bytes]


class Found(NamedTuple):
    """A message that was stored before."""

    seq: int
    ts: int
    sid: int | None


class Committer:
    """Makes the transaction of a batch. Used by one batch at a time.

    Args:
        cache_heads: keep heads between batches. Only for an engine that can tell whether
            another connection has written since (SQLite's data_version).
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        cache_heads: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dialect = dialect
        self._clock = clock
        self._last_ts = 0
        self._cache: dict[int, list[int]] | None = {} if cache_heads else None
        self._data_version = -1
        force = " FORCE INDEX (PRIMARY)" if dialect.name == "mysql" else ""
        # Forced, because a scan (cheap while the table is small) would wait for strangers' locks.
        self._lock_sql = f"SELECT id, rev, last_seq FROM feed{force} WHERE id IN ("
        self._lock_tail = ") ORDER BY id" + dialect.for_update

    def commit(
        self, appends: Sequence[Append], changes: Sequence[Change[Any]], *, careful: bool
    ) -> Op[dict[int, list[int]]]:
        """Write a batch; results and failures are left in its writes.

        Not careful: messages are taken to be new, and a repeated one ends in Duplicate; then
        the batch must run again, careful. Returns the heads, for `remember` after the commit.
        """
        feeds = {append.conv for append in appends}
        for change in changes:
            feeds.update(change.feeds)
        heads = yield from self._lock(sorted(feeds))
        ts = self._last_ts = max(self._last_ts, int(self._clock() * 1000))
        tx = Tx(ts, self._dialect, heads)
        if appends:
            stored = (yield from self._find_stored(appends)) if careful else {}
            yield from self._insert(tx, appends, stored)
        for position, change in enumerate(changes):
            change.failure = None
            tx.begin(change.feeds)
            try:
                change.result = yield from _run_change(change.make(tx), tx, position)
            except FailedAfterWrite:
                raise
            except _ENGINE_ERRORS:
                raise
            except StorageError as error:
                change.failure = error
        if tx.dirty:
            rows = [(feed, *heads[feed], ts) for feed in sorted(tx.dirty)]
            yield self._dialect.upsert("feed", _FEED_COLUMNS, rows)
        return heads

    def remember(self, heads: dict[int, list[int]]) -> None:
        """Keep the heads of a committed batch."""
        if self._cache is not None:
            if len(self._cache) > _MAX_CACHED_HEADS:
                self._cache.clear()
            self._cache.update(heads)

    def forget(self) -> None:
        """Drop all kept heads, after a failure."""
        if self._cache is not None:
            self._cache.clear()

    def _lock(self, feeds: Sequence[int]) -> Op[dict[int, list[int]]]:
        heads: dict[int, list[int]] = {}
        cache = self._cache
        if cache is not None:
            version = (yield Statement("PRAGMA data_version"))[0][0]
            if version != self._data_version:
                cache.clear()
                self._data_version = version
            # Copies: a batch that is rolled back must leave no trace.
            heads = {feed: cache[feed].copy() for feed in feeds if feed in cache}
            feeds = [feed for feed in feeds if feed not in heads]
        if feeds:
            marks, args = in_list(feeds)
            rows = yield Statement(f"{self._lock_sql}{marks}{self._lock_tail}", args)
            heads.update((row[0], [row[1], row[2]]) for row in rows)
        return heads

    def _find_stored(self, appends: Sequence[Append]) -> Op[dict[Key, Found]]:
        rows = yield self._dialect.select(
            "m.conv, m.sender, m.cid, m.seq, m.ts",
            "message",
            ("cid", "conv", "sender"),
            {(a.cid, a.conv, a.sender) for a in appends},
        )
        if not rows:
            return {}
        turns = yield self._dialect.select(
            "m.conv, m.user, m.cid, m.id",
            "ai_turn",
            ("conv", "user", "cid"),
            (row[:3] for row in rows),
        )
        sids = {(row[0], row[1], bytes(row[2])): row[3] for row in turns}
        found = {}
        for conv, sender, cid, seq, ts in rows:
            key = (conv, sender, bytes(cid))
            found[key] = Found(seq, ts, sids.get(key))
        return found

    def _insert(self, tx: Tx, appends: Sequence[Append], stored: dict[Key, Found]) -> Op[None]:
        rows = []
        seen: dict[Key, Append] = {}
        new: list[Append] = []
        # The loop below runs per message: heads are used directly, not through Tx.
        heads, dirty, ts = tx._heads, tx.dirty, tx.ts
        for append in appends:
            key = (append.conv, append.sender, append.cid)
            head = heads.get(append.conv)
            append.failure = None
            if head is None:
                append.failure = NotFound("no such conversation")
                continue
            if (first := seen.get(key)) is not None:
                _repeat(append, first.seq, first.ts, first.sid)
                continue
            seen[key] = append
            if stored and (found := stored.get(key)) is not None:
                _repeat(append, *found)
                continue
            head[0] += 1
            head[1] += 1
            append.rev, append.seq = head
            append.ts = ts
            append.dup = False
            append.sid = append.new_turn.sid if append.new_turn is not None else None
            dirty.add(append.conv)
            new.append(append)
            rows.append(
                (
                    append.conv,
                    append.seq,
                    append.rev,
                    ts,
                    append.sender,
                    append.kind,
                    append.text,
                    None if append.x is None else encode_ext(append.x),
                    append.cid,
                )
            )
        if rows:
            yield self._dialect.insert("message", _COLUMNS, rows)
        yield from _write_turns(tx, new)


def _repeat(append: Append, seq: int, ts: int, sid: int | None) -> None:
    append.seq = seq
    append.rev = 0
    append.ts = ts
    append.dup = True
    append.sid = sid


def _write_turns(tx: Tx, appends: Iterable[Append]) -> Op[None]:
    starts = [(a.new_turn, a.conv, a.seq, a.cid) for a in appends if a.new_turn is not None]
    ends = [(a.end_turn, a.seq) for a in appends if a.end_turn is not None]
    if starts:
        yield from insert_turns(tx, starts)
    if ends:
        yield from end_turns(tx, ends)


def _run_change(op: Op[Any], tx: Tx, position: int) -> Op[Any]:
    """Run one change, noting whether it wrote: from then on its failure is the batch's."""
    wrote = False
    try:
        command = next(op)
        while True:
            wrote = wrote or isinstance(command, Bulk) or not command.sql.startswith("SELECT")
            try:
                rows = yield command
            except Exception as error:
                command = op.throw(error)
            else:
                command = op.send(rows)
    except StopIteration as end:
        return end.value
    except _ENGINE_ERRORS:
        raise
    except StorageError as error:
        if wrote or tx.touched:
            raise FailedAfterWrite(position, error) from error
        raise
