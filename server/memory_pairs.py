"""The memories of pairs (user, persona), ready to be searched.

The store tells with one small read whether what is kept here is still true, so a change by
anybody, in any process, is seen by the next question.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from ai_bridge.memory.lexical import WordIndex
from ai_bridge.memory.retrieve import fitting, rank
from ai_bridge.memory.types import Memory
from ai_bridge.memory.vectors import Matrix
from ai_bridge.scripts import normal
from server.memory_stats import MemoryLimits, MemoryStats
from server.memory_vectors import Payer, Vectors
from storage.memories import Embedded, PairState, pair_memories, pair_state
from storage.store import Store

MAX_QUERY_CHARS: Final = 1_000
MAX_QUERIES: Final = 16
"""Answered questions remembered with each pair."""

_MEMORY_BYTES: Final = 1_500
"""What a memory costs beside its vector, roughly: texts, features, Python objects."""
_PREPARED_AT_ONCE: Final = 32


class Pair:
    """What one persona remembers of one user, at revision `rev`."""

    __slots__ = (
        "matrix", "memories", "model", "nbytes", "queries", "rev", "stale", "tenant", "words",
    )  # fmt: skip

    def __init__(
        self, rev: int, tenant: int, memories: list[Memory], words: WordIndex, model: str
    ) -> None:
        self.rev = rev
        self.tenant = tenant
        self.model = model
        self.memories = memories
        self.words = words
        self.matrix = Matrix([m.vector if m.model == model else b"" for m in memories])
        self.stale = bool(model) and any(m.model != model for m in memories)
        self.queries: OrderedDict[tuple[str, int], tuple[Memory, ...]] = OrderedDict()
        self.nbytes = self.matrix.nbytes + len(memories) * _MEMORY_BYTES


class Pairs:
    """Owns the kept pairs; the ones used longest ago go first when they outgrow their bytes.

    Attributes:
        stale: pairs that were seen to hold vectors of another model, or none.
    """

    def __init__(
        self, store: Store, vectors: Vectors, limits: MemoryLimits, stats: MemoryStats
    ) -> None:
        self._store = store
        self._vectors = vectors
        self._limits = limits
        self._stats = stats
        self._kept: OrderedDict[tuple[int, int], Pair] = OrderedDict()
        self._bytes = 0
        self.stale: OrderedDict[tuple[int, int], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """What the kept pairs take, roughly."""
        return self._bytes

    async def get(self, user: int, persona: int, state: PairState | None = None) -> Pair | None:
        """Return a pair as it is now; None when the user wants nothing to be remembered.

        Args:
            state: the pair's, as it was just read; None to have it read.

        Raises:
            StorageError: the store cannot be read.
        """
        key = (user, persona)
        if state is None:
            state = await self._store.read(pair_state(user, persona))
        if state.off:
            self._drop(key)
            return None
        kept = self._kept.get(key)
        if kept is not None and kept.rev == state.rev and kept.model == self._vectors.model:
            self._kept.move_to_end(key)
            self._stats.pair_hits += 1
            return kept
        self._stats.pair_misses += 1
        now, rows = await self._store.read(pair_memories(user, persona), snapshot=True)
        if now.off:
            return None
        tenant = rows[0].memory.tenant if rows else 0
        pair = Pair(now.rev, tenant, *await _prepare(rows), self._vectors.model)
        self._keep(key, pair)
        return pair

    async def search(
        self,
        user: int,
        persona: int,
        text: str,
        now_ms: int,
        only_conv: int = 0,
        state: PairState | None = None,
    ) -> tuple[Memory, ...]:
        """Return what should be shown to a model that is asked this.

        Args:
            only_conv: consider only what was learnt in this conversation; 0 for everything.
            state: see `get`.

        Raises:
            StorageError: the store cannot be read.
        """
        pair = await self.get(user, persona, state)
        if pair is None or not pair.memories:
            return ()
        query = normal(text[:MAX_QUERY_CHARS])
        key = (query, only_conv)
        known = pair.queries.get(key)
        if known is not None:
            pair.queries.move_to_end(key)
            self._stats.query_hits += 1
            return known
        started = time.perf_counter()
        vector = None
        if pair.matrix.nbytes and query:
            payer = Payer(pair.tenant, user, persona)
            vector = await self._vectors.one(query, self._limits.query_s, payer)
        cosines: Sequence[float | None] = [None] * len(pair.memories)
        if vector is not None:
            cosines = await pair.matrix.cosines(vector)
        found = rank(pair.memories, cosines, pair.words.resemblances(query), now_ms)
        if only_conv:
            found = [one for one in found if one.memory.conv == only_conv]
        shown = tuple(fitting(found))
        self._stats.search_seconds.note(time.perf_counter() - started)
        self._stats.lexical += vector is None
        if vector is not None or not pair.matrix.nbytes:
            # An answer that a late vector made poorer is not kept.
            pair.queries[key] = shown
            while len(pair.queries) > MAX_QUERIES:
                pair.queries.popitem(last=False)
        return shown

    def forget_user(self, user: int) -> None:
        """Keep nothing of a user any more."""
        for key in [key for key in self._kept if key[0] == user]:
            self._drop(key)
        for key in [key for key in self.stale if key[0] == user]:
            del self.stale[key]

    def _keep(self, key: tuple[int, int], pair: Pair) -> None:
        self._drop(key)
        self._kept[key] = pair
        self._bytes += pair.nbytes
        while self._bytes > self._limits.cache_bytes and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))
            self._stats.pairs_evicted += 1
        if pair.stale and (key in self.stale or len(self.stale) < self._limits.pairs):
            self.stale[key] = None

    def _drop(self, key: tuple[int, int]) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old.nbytes


async def _prepare(rows: Sequence[Embedded]) -> tuple[list[Memory], WordIndex]:
    memories: list[Memory] = []
    words = WordIndex()
    for count, (row, vector, model) in enumerate(rows, 1):
        memories.append(
            Memory(
                id=row.id,
                text=row.text,
                conv=row.conv,
                kind=row.kind,
                pinned=row.pinned,
                created_ms=row.created,
                last_used_ms=row.last_used,
                uses=row.uses,
                vector=vector,
                model=model,
            )
        )
        words.add(row.text)
        if count % _PREPARED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return memories, words
