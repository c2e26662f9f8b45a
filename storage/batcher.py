"""Group commit: while one batch commits, the next one fills (docs/behavior.md).

One runner task takes batches from a bounded queue in arrival order. An idle runner starts at the
end of the loop tick that brought the first write, so there is no delay to configure: under load
the commit's own latency gathers the batch.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from storage.committer import Committer
from storage.engine import Engine
from storage.errors import (
    Duplicate,
    FailedAfterWrite,
    OutcomeUnknown,
    Poison,
    StatementFailed,
    StorageError,
    StoreOverloaded,
    StoreUnavailable,
)
from storage.rows import StoreOptions
from storage.writes import Append, Change, Write

__all__ = ["Append", "Batcher", "Change", "Stats", "Write"]

_TRIES: Final = 3
"""How often a batch may fail for no transient reason before it is split."""

_FIRST_BACKOFF_S: Final = 0.02
_MAX_BACKOFF_S: Final = 2.0
_MIN_RETRY_MS: Final = 50
_MAX_RETRY_MS: Final = 30_000
_SETTLE_SLICE: Final = 128
"""Writes settled before the loop may do something else: each may encode and send a reply."""

COMMIT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

log: Final = logging.getLogger("parlance.storage")


class Stats:
    """Counters since the start, read by the metrics page; `queued_*` are levels."""

    __slots__ = (
        "batches",
        "rows",
        "retries",
        "careful",
        "bisects",
        "dead",
        "refused",
        "failed_settles",
        "queued_rows",
        "queued_bytes",
        "commit_buckets",
        "commit_seconds",
    )

    def __init__(self) -> None:
        self.batches = 0
        self.rows = 0
        self.retries = 0
        self.careful = 0
        self.bisects = 0
        self.dead = 0
        self.refused = 0
        self.failed_settles = 0
        self.queued_rows = 0
        self.queued_bytes = 0
        self.commit_buckets = [0] * (len(COMMIT_BUCKETS_S) + 1)
        """Commits per upper bound in `COMMIT_BUCKETS_S`, the last for slower ones; not summed."""
        self.commit_seconds = 0.0

    def count_commit(self, rows: int, seconds: float) -> None:
        self.batches += 1
        self.rows += rows
        self.commit_seconds += seconds
        slot = sum(seconds > bound for bound in COMMIT_BUCKETS_S)
        self.commit_buckets[slot] += 1


class Outcome(NamedTuple):
    write: Write
    error: StorageError | None


class Batcher:
    """Owns all writes between submit and settle.

    Args:
        bury: stores one poison write among the dead letters; must not raise.
        sleep: waits between retries, injectable.

    Attributes:
        on_unsure: called with feeds once their batch is settled, when the reply to one of its
            commits was lost: it ran again, and what it did the first time counts as a repeat.
    """

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        options: StoreOptions,
        bury: Callable[[Write, StorageError], Awaitable[None]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._committer = committer
        self._options = options
        self._bury = bury
        self._sleep = sleep
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Write] = deque()
        self._in_flight: list[Write] = []
        self._unsettled: deque[Outcome] = deque()
        self._in_doubt: set[int] = set()
        self._unsure: set[int] = set()
        self.on_unsure: Callable[[set[int]], None] = lambda feeds: None
        self._wake: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._rows_per_s = 0.0
        self._trouble = ""
        self.stats = Stats()
        self._runner = self._loop.create_task(self._run(), name="store-batcher")

    # submitting

    def submit(self, write: Write) -> None:
        """Queue one write; see Store.submit."""
        if self._closing:
            raise StoreUnavailable("the store is closing")
        if not isinstance(write, (Append, Change)):
            raise TypeError("a write is an Append or a Change")
        stats = self.stats
        if stats.queued_rows >= self._options.queue_rows or (
            stats.queued_rows and stats.queued_bytes + write.cost_bytes > self._options.queue_bytes
        ):
            stats.refused += 1
            raise StoreOverloaded("the write queue is full", self.retry_ms)
        stats.queued_rows += 1
        stats.queued_bytes += write.cost_bytes
        write.queued_at = self._loop.time()
        self._queue.append(write)
        self._idle.clear()
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    @property
    def retry_ms(self) -> int:
        """When half of what waits should be gone, by the measured rate."""
        if self._trouble or not self._rows_per_s:
            return random.randint(1_000, 3_000)
        wait_ms = self.stats.queued_rows / self._rows_per_s * 500
        return int(min(max(wait_ms, _MIN_RETRY_MS), _MAX_RETRY_MS))

    @property
    def trouble(self) -> str:
        """Why commits fail just now; empty when they do not."""
        return self._trouble

    @property
    def oldest_ms(self) -> int:
        """How long the oldest unsettled write has waited."""
        oldest = next(self._waiting(), None)
        return 0 if oldest is None else int((self._loop.time() - oldest.queued_at) * 1000)

    # closing

    async def close(self, deadline_s: float) -> list[Write]:
        """Refuse new writes, commit what the deadline allows; return the rest, settled.

        The rest may or may not be stored if a commit was under way.
        """
        self._closing = True
        try:
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("store.close_deadline", extra={"rows": self.stats.queued_rows})
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)
        while self._unsettled:
            self._settle(self._unsettled.popleft())
        left = list(self._waiting())
        tried = len(self._in_flight)
        for position, write in enumerate(left):
            error = OutcomeUnknown if position < tried else StoreUnavailable
            self._settle(Outcome(write, error("the store was closed")))
        self._queue.clear()
        self._in_flight = []
        return left

    def _waiting(self) -> Iterator[Write]:
        yield from self._in_flight
        yield from self._queue

    # running

    async def _run(self) -> None:
        while True:
            if not self._queue:
                await self._settle_all()
            if not self._queue:
                self._idle.set()
                self._wake = self._loop.create_future()
                await self._wake
                self._wake = None
            batch = self._take()
            self._in_flight = batch
            # The previous batch is settled while this one commits.
            commit = self._loop.create_task(self._commit(batch, _TRIES))
            try:
                await asyncio.sleep(0)
                await self._settle_all()
                outcomes = await commit
            except BaseException:
                commit.cancel()
                await asyncio.gather(commit, return_exceptions=True)
                raise
            self._in_flight = []
            self._unsettled.extend(outcomes)
            self._unsure |= self._in_doubt
            self._in_doubt.clear()

    def _take(self) -> list[Write]:
        """Return the next batch: at least one write, within the bounds of rows and bytes."""
        queue, batch, room = self._queue, [self._queue.popleft()], self._options.batch_bytes
        room -= batch[0].cost_bytes
        while queue and len(batch) < self._options.batch_rows:
            room -= queue[0].cost_bytes
            if room < 0:
                break
            batch.append(queue.popleft())
        return batch

    async def _commit(self, batch: Sequence[Write], tries: int) -> list[Outcome]:
        """Commit batch, whatever it takes; return all outcomes in commit order."""
        early: list[Outcome] = []
        rest = list(batch)
        careful = False
        failures = transient = 0
        while rest:
            appends = [write for write in rest if isinstance(write, Append)]
            changes = [write for write in rest if isinstance(write, Change)]
            try:
                await self._commit_once(appends, changes, careful)
            except FailedAfterWrite as error:
                change = changes[error.position]
                log.error("store.change_failed_late", extra={"change": _name(change)})
                early.append(Outcome(change, error.error))
                rest.remove(change)
                continue
            except Duplicate as error:
                if not careful:
                    self.stats.careful += 1
                    careful = True
                    continue
                last: StorageError = error
                failures += 1
            except OutcomeUnknown as error:
                self._in_doubt.update(_feeds_of(rest))
                last = error
                transient += 1
            except StoreUnavailable as error:
                last = error
                transient += 1
            except StorageError as error:
                last = error
                failures += 1
            except Exception as error:
                # A bug in a change; the traceback shows code, never data.
                log.exception("store.commit_failed")
                last = StatementFailed(type(error).__name__)
                failures += 1
            else:
                self._trouble = ""
                early += [Outcome(append, append.failure) for append in appends]
                return early + [Outcome(change, change.failure) for change in changes]
            careful = True
            self._committer.forget()
            if failures >= tries:
                return early + await self._split(rest, last)
            await self._back_off(last, failures + transient)
        return early

    async def _commit_once(
        self, appends: Sequence[Append], changes: Sequence[Change[Any]], careful: bool
    ) -> None:
        started = self._loop.time()
        heads = await self._engine.transact(
            lambda: self._committer.commit(appends, changes, careful=careful)
        )
        self._committer.remember(heads)
        rows, seconds = len(appends) + len(changes), self._loop.time() - started
        self.stats.count_commit(rows, seconds)
        rate = rows / max(seconds, 1e-6)
        self._rows_per_s += (rate - self._rows_per_s) * (0.1 if self._rows_per_s else 1.0)

    async def _split(self, batch: Sequence[Write], last: StorageError) -> list[Outcome]:
        """Halve a failing batch until the poison write stands alone; order is kept."""
        if len(batch) == 1:
            self.stats.dead += 1
            log.error("store.poison", extra={"write": _name(batch[0]), "reason": str(last)})
            await self._bury(batch[0], last)
            return [Outcome(batch[0], Poison("the write was refused and set aside"))]
        self.stats.bisects += 1
        middle = len(batch) // 2
        # Halves fail fast: the whole was already tried with pauses.
        outcomes = await self._commit(batch[:middle], 1)
        return outcomes + await self._commit(batch[middle:], 1)

    async def _back_off(self, error: StorageError, attempt: int) -> None:
        self.stats.retries += 1
        self._trouble = str(error)
        wait_s = min(_FIRST_BACKOFF_S * 2 ** min(attempt, 10), _MAX_BACKOFF_S)
        level = logging.WARNING if attempt in (1, 10) or attempt % 100 == 0 else logging.DEBUG
        log.log(level, "store.retry", extra={"attempt": attempt, "reason": str(error)})
        await self._sleep(random.uniform(wait_s / 2, wait_s))

    # settling

    async def _settle_all(self) -> None:
        unsettled = self._unsettled
        while unsettled:
            for _ in range(min(_SETTLE_SLICE, len(unsettled))):
                self._settle(unsettled.popleft())
            if unsettled:
                await asyncio.sleep(0)
        if self._unsure:
            self._tell_unsure()

    def _settle(self, outcome: Outcome) -> None:
        write, error = outcome
        self.stats.queued_rows -= 1
        self.stats.queued_bytes -= write.cost_bytes
        try:
            write.settle(error)
        except Exception:
            self.stats.failed_settles += 1
            log.exception("store.settle_failed", extra={"write": type(write).__name__})

    def _tell_unsure(self) -> None:
        feeds, self._unsure = self._unsure, set()
        try:
            self.on_unsure(feeds)
        except Exception:
            log.exception("store.unsure_untold", extra={"feeds": len(feeds)})


def _feeds_of(writes: Iterable[Write]) -> Iterator[int]:
    for write in writes:
        if isinstance(write, Append):
            yield write.conv
        elif isinstance(write, Change):
            yield from write.feeds


def _name(write: Write) -> str:
    if isinstance(write, Change):
        return f"change:{getattr(write.make, '__qualname__', 'unknown')}"
    return "append"
