"""What personas remember: learning it behind the talk, and recalling it for an answer.

People see and change their memories through `server.memory_book`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from ai_bridge.memory.types import Embedder
from ai_bridge.types import TurnRequest
from server.memory_learner import Ask, Learner
from server.memory_pairs import Pairs
from server.memory_stats import MemoryLimits, MemoryStats, memory_figures
from server.memory_vectors import Payer, PayingEmbedder, Sleep, Unpaid, Vectors
from storage.errors import StorageError
from storage.ids import new_id as make_id
from storage.memories import Memory, PairState, set_vectors, touch_memories
from storage.memories import pair_memories as read_pair
from storage.store import Store

__all__ = ["Ask", "Memories", "MemoryLimits", "MemoryStats"]

log = logging.getLogger("parlance.memory")

MAX_USES: Final = 10_000
USES_S: Final = 5.0


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Memories:
    """Joins store, model and embedder. Owns the learner, the kept pairs, and their tasks.

    Args:
        ask: makes the model's answer for an extraction (Priority.BACKGROUND); None where there is
            no model that could: nothing is learnt then, and nothing put by for later.
        embedder: None to go by words alone.
        paid: an embedder that keeps accounts, in its place.
        clock: monotonic seconds; the one that `sweep` is called with.
    """

    def __init__(
        self,
        store: Store,
        ask: Ask | None,
        embedder: Embedder | None = None,
        *,
        paid: PayingEmbedder | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = _wall_ms,
        new_id: Callable[[], int] = make_id,
        sleep: Sleep = asyncio.sleep,
        limits: MemoryLimits | None = None,
    ) -> None:
        limits = limits or MemoryLimits()
        self._store = store
        self._now_ms = now_ms
        self.stats = MemoryStats()
        if paid is None and embedder is not None:
            paid = Unpaid(embedder)
        self._vectors = Vectors(paid, self.stats, clock=clock, sleep=sleep)
        self.pairs = Pairs(store, self._vectors, limits, self.stats)
        self._learns = ask is not None
        self.learner = Learner(
            store,
            ask or _no_model,
            self.pairs,
            self._vectors,
            clock=clock,
            now_ms=now_ms,
            new_id=new_id,
            limits=limits,
            stats=self.stats,
        )
        self.figures = memory_figures(self.stats, self._now)
        """Source for the page of figures."""
        self._uses: dict[int, int] = {}
        self._uses_at = 0.0
        self._upkeep: asyncio.Task[None] | None = None
        self._closed = False

    def note(self, conv: int, persona: int, user: int, seq: int) -> None:
        """Take note of a user's message to a persona, once it is committed. Never waits."""
        if self._learns:
            self.learner.note(conv, persona, user, seq)

    async def recall(
        self,
        user: int,
        persona: int,
        query: str,
        *,
        only_conv: int = 0,
        state: PairState | None = None,
    ) -> tuple[str, ...]:
        """Return what the persona should remember for this question, the best first.

        At most 8 texts and 400 tokens. Never fails: with the store or the embedder in trouble,
        the answer is made with less or without.

        Args:
            only_conv: where others read the answer, their conversation: only what was learnt in
                it is recalled, so that nothing said in private comes out.
            state: of the pair, as it was just read; None to have it read.
        """
        if not query:
            return ()
        self.stats.recalls += 1
        try:
            found = await self.pairs.search(user, persona, query, self._now_ms(), only_conv, state)
        except StorageError:
            self.stats.recall_failed += 1
            return ()
        self.stats.recalled += len(found)
        for memory in found:
            if memory.id in self._uses or len(self._uses) < MAX_USES:
                self._uses[memory.id] = self._uses.get(memory.id, 0) + 1
            else:
                self.stats.uses_dropped += 1
        return tuple(memory.text for memory in found)

    def sweep(self, now: float) -> None:
        """Do what is due. Called once a second."""
        if self._closed:
            return
        if self._learns:
            self.learner.sweep(now)
        if self._upkeep is not None and not self._upkeep.done():
            return
        if self._uses and now - self._uses_at >= USES_S:
            self._uses_at = now
            self._upkeep = asyncio.create_task(self._guarded(self._count_uses()))
        elif self.pairs.stale and self._vectors.available:
            self._upkeep = asyncio.create_task(self._guarded(self._embed_again()))

    async def aclose(self) -> None:
        """End all tasks; what was noted is kept in the store and read after the next start."""
        self._closed = True
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        await self.learner.aclose()
        await self._guarded(self._count_uses())

    def _now(self) -> dict[str, float]:
        return {
            "waiting": self.learner.waiting,
            "reading": self.learner.running,
            "pairs_kept": len(self.pairs),
            "bytes_kept": self.pairs.nbytes,
            "stale_pairs": len(self.pairs.stale),
        }

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StorageError as error:
            log.warning("memory.upkeep_failed", extra={"reason": type(error).__name__})

    async def _count_uses(self) -> None:
        uses, self._uses = list(self._uses.items()), {}
        if uses:
            await self._store.change((), lambda tx: touch_memories(tx, uses))

    async def _embed_again(self) -> None:
        """Give the memories of one pair vectors of the present model."""
        (user, persona), _ = self.pairs.stale.popitem(last=False)
        model = self._vectors.model
        _, rows = await self._store.read(read_pair(user, persona), snapshot=True)
        old: list[Memory] = [row.memory for row in rows if row.model != model]
        if not old:
            return
        # The operator chose another model: the tenant pays, no person's budget.
        payer = Payer(old[0].tenant, 0, persona)
        vectors = await self._vectors.batch([memory.text for memory in old], payer)
        if vectors is None:
            self.pairs.stale[user, persona] = None  # the embedder may be there again later
            return
        made = list(zip(old, vectors, strict=True))
        store = partial(set_vectors, user=user, persona=persona, model=model, vectors=made)
        await self._store.change([user], store)
        self.stats.reembedded += len(made)


async def _no_model(request: TurnRequest) -> str:
    raise LookupError("there is no model to ask")
