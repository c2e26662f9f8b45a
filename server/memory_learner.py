"""Reads what people wrote to personas, in the background, and stores what is worth remembering.

The store knows how far each conversation was read; facts and that position are stored in one
transaction. So a restart repeats nothing and skips nothing, and what is kept here are only the
triggers: a pair (user, persona) is read after some messages or some silence.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from ai_bridge.background import About
from ai_bridge.memory.extract import (
    MAX_MESSAGES,
    MAX_NEIGHBOURS,
    BadAnswer,
    extraction_request,
    fit_messages,
    parse_answer,
)
from ai_bridge.memory.merge import Decision, merge
from ai_bridge.memory.types import Fact, Memory
from ai_bridge.memory.vectors import Matrix
from ai_bridge.types import TurnRequest
from server.memory_pairs import Pair, Pairs
from server.memory_stats import MemoryLimits, MemoryStats
from server.memory_vectors import Payer, Vectors
from storage.errors import StorageError
from storage.memory_marks import (
    Learned,
    Learnt,
    Noted,
    Span,
    Unread,
    last_asks,
    learn,
    note_messages,
    pending_pairs,
    unread_messages,
)
from storage.store import Store

log = logging.getLogger("parlance.memory")

Ask = Callable[[TurnRequest], Awaitable[str]]
"""Make one answer and return its text; raises when there is none."""

Key = tuple[int, int]

SCAN_S: Final = 60.0
SCAN_PAIRS: Final = 200
LOST_MS: Final = 10_000
"""Notes of the last moments may be lost with a process; they are written every second."""
RETRY_S: Final = 30.0
MAX_RETRY_S: Final = 3_600.0
PROVIDER_DOWN: Final = 5
"""So many failed calls in a row are the provider's fault, whatever was asked."""


class Waiting:
    """A pair with unread messages: how many, since when it is silent, when to try (again)."""

    __slots__ = ("count", "failures", "last_at", "retry_at")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.failures = 0
        self.last_at = now
        self.retry_at = 0.0


class Learner:
    """Owns the notes of this second, the pairs that wait, and the tasks that read them."""

    def __init__(
        self,
        store: Store,
        ask: Ask,
        pairs: Pairs,
        vectors: Vectors,
        *,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        new_id: Callable[[], int],
        limits: MemoryLimits,
        stats: MemoryStats,
    ) -> None:
        self._store = store
        self._ask = ask
        self._pairs = pairs
        self._vectors = vectors
        self._clock = clock
        self._now_ms = now_ms
        self._new_id = new_id
        self._limits = limits
        self._stats = stats
        self._notes: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._writing: frozenset[Key] = frozenset()
        self._waiting: OrderedDict[Key, Waiting] = OrderedDict()
        self._running: dict[Key, tuple[asyncio.Task[None], float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scan_at: float | None = None
        self._failed_calls = 0
        self._paused_until = 0.0
        self._closed = False
        self.refused: Callable[[str], bool] = lambda text: False
        """Tells what moderation refused: no model reads it, so nothing is learnt from it."""

    @property
    def waiting(self) -> int:
        """Pairs with unread messages that are known here."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Pairs that are being read."""
        return len(self._running)

    def note(self, conv: int, persona: int, user: int, seq: int) -> None:
        """Take note that user wrote to persona; written within a second. Never waits."""
        note = (user, persona, conv)
        known = self._notes.get(note)
        if self._closed or (known is None and len(self._notes) >= self._limits.notes):
            self._stats.notes_dropped += 1
            return
        self._stats.noted += 1
        self._notes[note] = (min(known[0], seq), max(known[1], seq)) if known else (seq, seq)
        waiting = self._wait(note[:2])
        if waiting is None:
            self._stats.pairs_dropped += 1
            return
        waiting.count += 1
        waiting.last_at = self._clock()

    def sweep(self, now: float) -> None:
        """Write the notes and start what is due. Called once a second."""
        if self._closed:
            return
        for task, started in self._running.values():
            if now - started > self._limits.run_s:
                task.cancel()
        if self._notes and not self._writing:
            self._spawn(self._write_notes())
        if self._scan_at is None or now >= self._scan_at:
            first = self._scan_at is None
            self._scan_at = now + SCAN_S
            self._spawn(self._scan(first))
        self._start_due(now)

    async def aclose(self) -> None:
        """Write the notes; end what runs, it will be repeated."""
        self._closed = True
        tasks = [*self._tasks, *(task for task, _ in self._running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StorageError):
            await self._write_notes()

    # when

    def _wait(self, key: Key) -> Waiting | None:
        waiting = self._waiting.get(key)
        if waiting is None and len(self._waiting) < self._limits.pairs:
            waiting = self._waiting[key] = Waiting(self._clock())
        return waiting

    def _start_due(self, now: float) -> None:
        room = self._limits.running - len(self._running)
        if room <= 0 or now < self._paused_until:
            return
        unwritten = {note[:2] for note in self._notes} | self._writing
        due: list[Key] = []
        for key, waiting in self._waiting.items():
            if key in self._running or key in unwritten or now < waiting.retry_at:
                continue
            silent = now - waiting.last_at >= self._limits.idle_s
            if silent or waiting.count >= self._limits.messages:
                due.append(key)
                if len(due) == room:
                    break
        for key in due:
            self._waiting.move_to_end(key)
            work = self._run(key, self._waiting[key])
            self._running[key] = (asyncio.create_task(work), now)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("memory.task_crashed", exc_info=error)

    async def _write_notes(self) -> None:
        notes, self._notes = self._notes, {}
        if not notes:
            return
        self._writing = frozenset(note[:2] for note in notes)
        rows = [Noted(*note, *seqs) for note, seqs in notes.items()]
        users = sorted({row.user for row in rows})
        try:
            off = await self._store.change(users, lambda tx: note_messages(tx, rows))
        except BaseException as error:
            for note, (first, last) in notes.items():
                newer = self._notes.get(note, (first, last))
                self._notes[note] = (min(first, newer[0]), max(last, newer[1]))
            if not isinstance(error, StorageError):
                raise
            self._stats.failed["store"] += 1
            return
        finally:
            self._writing = frozenset()
        for key in [key for key in self._waiting if key[0] in off]:
            del self._waiting[key]

    async def _scan(self, first: bool) -> None:
        """Find pairs that wait in the store only: of an earlier process, or beyond the bounds."""
        idle_ms = int(self._limits.idle_s * 1000)
        try:
            if first:
                asks = await self._store.read(last_asks(LOST_MS))
                if asks:
                    users = sorted({ask.user for ask in asks})
                    await self._store.change(users, lambda tx: note_messages(tx, asks))
            until = self._now_ms() - idle_ms
            limit = SCAN_PAIRS + len(self._waiting)
            found = await self._store.read(pending_pairs(until, limit))
        except StorageError:
            self._stats.failed["store"] += 1
            return
        for key in found:
            if key not in self._waiting and (waiting := self._wait(key)) is not None:
                waiting.count = self._limits.messages

    # reading

    async def _run(self, key: Key, waiting: Waiting) -> None:
        """Read one portion of one pair; whatever happens, the next one can start."""
        counted = waiting.count
        started = self._clock()
        try:
            more = await self._read(key, waiting)
        except asyncio.CancelledError:
            if self._closed:
                raise
            self._try_again(waiting, "late")
        except BadAnswer:
            self._failed_calls = 0
            self._try_again(waiting, "answer")
        except StorageError:
            self._try_again(waiting, "store", counts=False)
        except Exception as error:
            self._call_failed(waiting, error)
        else:
            waiting.failures = 0
            waiting.count = self._limits.messages if more else max(0, waiting.count - counted)
            if not waiting.count:
                self._waiting.pop(key, None)
            self._stats.extract_seconds.note(self._clock() - started)
        finally:
            self._running.pop(key, None)

    async def _read(self, key: Key, waiting: Waiting) -> bool:
        """Return whether more waits to be read."""
        user, persona = key
        unread = await self._store.read(unread_messages(user, persona, MAX_MESSAGES), snapshot=True)
        unread = fitting_part(unread)
        if not unread.spans:
            return False
        facts: list[Learnt] = []
        if unread.written and waiting.failures >= self._limits.tries:
            self._stats.passed_over += 1
            log.warning("memory.passed_over", extra={"messages": len(unread.written)})
        elif unread.written:
            facts = await self._find_facts(key, unread)
        await self._store_facts(key, unread, facts)
        return unread.more

    async def _find_facts(self, key: Key, unread: Unread) -> list[Learnt]:
        user, persona = key
        pair = await self._pairs.get(user, persona)
        if pair is None:
            return []
        texts = ["" if self.refused(one.text) else one.text for one in unread.written]
        if not any(texts):
            return []
        payer = Payer(unread.tenant, user, persona)
        shown = await self._neighbours(pair, texts, payer)
        about = About(
            turn_id=self._new_id(),
            tenant=unread.tenant,
            user=user,
            conv=unread.written[0].conv,
            persona=persona,
        )
        answer = await self._ask(extraction_request(texts, shown, about))
        self._failed_calls = 0
        found = parse_answer(answer, texts, len(shown))
        self._stats.skipped += found.skipped
        self._stats.rejected.update(found.rejected)
        decisions = await self._decide(pair, shown, found.facts, payer)
        return [_learnt(one, unread, self._vectors.model) for one in decisions]

    async def _neighbours(self, pair: Pair, texts: Sequence[str], payer: Payer) -> list[Memory]:
        """Return the known memories nearest to what was written."""
        if len(pair.memories) <= MAX_NEIGHBOURS:
            return pair.memories
        joined = "\n".join(texts)
        nearness = pair.words.resemblances(joined)
        vectors = await self._vectors.batch([joined], payer) if pair.matrix.nbytes else None
        if vectors:
            cosines = await pair.matrix.cosines(vectors[0])
            nearness = [max(near, cos or 0.0) for near, cos in zip(nearness, cosines, strict=True)]
        order = sorted(range(len(nearness)), key=lambda i: -nearness[i])
        return [pair.memories[i] for i in order[:MAX_NEIGHBOURS]]

    async def _decide(
        self, pair: Pair, shown: Sequence[Memory], facts: Sequence[Fact], payer: Payer
    ) -> list[Decision]:
        if not facts:
            return []
        vectors = await self._vectors.batch([fact.text for fact in facts], payer)
        vectors = vectors or [b""] * len(facts)
        own = Matrix(vectors)
        cosines = [await pair.matrix.cosines(vector) for vector in vectors]
        among = [await own.cosines(vector) for vector in vectors]
        decisions, merged = merge(facts, vectors, cosines, among, pair.memories, shown)
        self._stats.merged += merged
        return decisions

    async def _store_facts(self, key: Key, unread: Unread, facts: Sequence[Learnt]) -> None:
        user, persona = key
        convs = [span.conv for span in unread.spans]
        learned: Learned | None = await self._store.change(
            [user, *convs],
            partial(
                learn,
                tenant=unread.tenant,
                user=user,
                persona=persona,
                spans=unread.spans,
                facts=facts,
            ),
        )
        if learned is None:
            self._stats.overtaken += 1
            return
        self._stats.extractions += 1
        self._stats.added += learned.added
        self._stats.replaced += learned.replaced
        self._stats.evicted += learned.evicted
        self._stats.outdated += learned.outdated
        self._stats.rejected["full"] += learned.full

    # failing

    def _try_again(self, waiting: Waiting, why: str, *, counts: bool = True) -> None:
        self._stats.failed[why] += 1
        if counts:
            waiting.failures += 1
        wait_s = min(MAX_RETRY_S, RETRY_S * 2.0 ** max(0, waiting.failures - 1))
        waiting.retry_at = self._clock() + wait_s
        log.warning("memory.reading_failed", extra={"reason": why, "wait_s": wait_s})

    def _call_failed(self, waiting: Waiting, error: Exception) -> None:
        """No answer: pause everything, so that a provider in trouble is not pressed.

        The pair is blamed only while others succeed: one that no provider will read must not
        be tried forever, and a provider that is down must not make us pass over messages.
        """
        self._failed_calls += 1
        pause_s = min(MAX_RETRY_S, 2.0**self._failed_calls)
        self._paused_until = self._clock() + pause_s
        log.warning("memory.no_answer", extra={"reason": type(error).__name__})
        self._try_again(waiting, "ask", counts=self._failed_calls < PROVIDER_DOWN)


def fitting_part(unread: Unread) -> Unread:
    """Return as much of it as one call takes."""
    count = fit_messages([message.text for message in unread.written])
    if count >= len(unread.written):
        return unread
    written = unread.written[:count]
    last = written[-1]
    spans: list[Span] = []
    for span in unread.spans:
        if span.conv == last.conv:
            spans.append(span._replace(upto_seq=last.seq))
            break
        spans.append(span)
    return replace(unread, spans=tuple(spans), written=written, more=True)


def _learnt(decision: Decision, unread: Unread, model: str) -> Learnt:
    fact = decision.fact
    return Learnt(
        kind=fact.kind.value,
        text=fact.text,
        source=unread.written[fact.message],
        quote=fact.quote,
        vector=decision.vector,
        model=model if decision.vector else "",
        replaces=decision.replaces,
    )
