"""Vectors for texts, or none: a slow or broken embedding service delays and spoils nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from ai_bridge.account import BudgetExceeded
from ai_bridge.memory.types import Embedder, Embedding
from ai_bridge.memory.vectors import pack
from server.memory_stats import MemoryStats

log = logging.getLogger("parlance.memory")

BATCH_S: Final = 30.0
MAX_BATCH: Final = 64
FAILURES: Final = 3
PAUSE_S: Final = 30.0
_PACKED_AT_ONCE: Final = 8

Sleep = Callable[[float], Awaitable[None]]


class Payer(NamedTuple):
    """On whose account a vector is made. User 0: the tenant's as a whole."""

    tenant: int
    user: int
    persona: int


class PayingEmbedder(Protocol):
    """An embedder (`ai_bridge.memory.types.Embedder`) that keeps accounts."""

    @property
    def model(self) -> str:
        """Name that changes whenever its vectors do, "" while it can make none."""
        ...

    async def embed_for(self, payer: Payer, texts: Sequence[str]) -> Sequence[Embedding]:
        """Return one vector for each text, all of one dimension. May raise anything."""
        ...


class Unpaid:
    """An embedder that costs nothing."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def model(self) -> str:
        return self._embedder.model

    async def embed_for(self, payer: Payer, texts: Sequence[str]) -> Sequence[Embedding]:
        """See `PayingEmbedder`."""
        return await self._embedder.embed(texts)


class Vectors:
    """Asks the embedder within a deadline; after three failures in a row it is left alone a while.

    Without an embedder there are no vectors, and memories are found by their words.
    """

    def __init__(
        self,
        embedder: PayingEmbedder | None,
        stats: MemoryStats,
        *,
        clock: Callable[[], float],
        sleep: Sleep,
    ) -> None:
        self._embedder = embedder
        self._stats = stats
        self._clock = clock
        self._sleep = sleep
        self._failures = 0
        self._closed_until = 0.0

    @property
    def model(self) -> str:
        """Whose vectors are compared now; "" for none."""
        return self._embedder.model if self._embedder is not None else ""

    @property
    def available(self) -> bool:
        """Whether asking makes sense at present."""
        return bool(self.model) and self._clock() >= self._closed_until

    async def one(self, text: str, deadline_s: float, payer: Payer) -> bytes | None:
        """Return the packed vector of a text, None when there is none in time."""
        found = await self._ask([text], deadline_s, payer)
        return found[0] if found else None

    async def batch(self, texts: Sequence[str], payer: Payer) -> list[bytes] | None:
        """Return the packed vectors of texts, None when they cannot be had now."""
        found: list[bytes] = []
        for start in range(0, len(texts), MAX_BATCH):
            piece = await self._ask(texts[start : start + MAX_BATCH], BATCH_S, payer)
            if piece is None:
                return None
            found += piece
        return found

    async def _ask(
        self, texts: Sequence[str], deadline_s: float, payer: Payer
    ) -> list[bytes] | None:
        embedder = self._embedder
        if embedder is None or not self.available:
            return None
        work = asyncio.ensure_future(_embed(embedder, payer, texts))
        timer = asyncio.ensure_future(_pause(self._sleep, deadline_s))
        work.add_done_callback(_look)
        try:
            await asyncio.wait((work, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            in_time = work.done()
            work.cancel()
        if not in_time:
            self._stats.late += 1
            self._failed("late")
            return None
        error = work.exception()
        if isinstance(error, BudgetExceeded):
            self._stats.unpaid += 1
            return None  # the account's fault, not the service's
        if error is not None:
            self._stats.embed_failed += 1
            self._failed(type(error).__name__)
            return None
        self._failures = 0
        return work.result()

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._failures = 0
            self._closed_until = self._clock() + PAUSE_S
            log.warning("memory.embedder_paused", extra={"reason": why, "seconds": PAUSE_S})


async def _embed(embedder: PayingEmbedder, payer: Payer, texts: Sequence[str]) -> list[bytes]:
    found = await embedder.embed_for(payer, texts)
    if len(found) != len(texts):
        raise ValueError("another number of vectors than of texts")
    packed = []
    for count, vector in enumerate(found, 1):
        packed.append(pack(vector))
        if count % _PACKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    if len({len(vector) for vector in packed}) > 1:
        raise ValueError("vectors of several dimensions")
    return packed


async def _pause(sleep: Sleep, seconds: float) -> None:
    await sleep(seconds)


def _look(work: "asyncio.Future[list[bytes]]") -> None:
    """Take note of how it ended, also when nobody waits any more."""
    if not work.cancelled():
        work.exception()
