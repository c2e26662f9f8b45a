"""What small calls used, gathered and written every few seconds: they leave no record each."""

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Final

from server.metrics import Figure
from storage.errors import StorageError
from storage.store import Store
from storage.usage import DAY_MS, UsageRow, add_usage

log = logging.getLogger("parlance.ai")

FLUSH_S: Final = 5.0
MAX_SUMS: Final = 10_000
"""Sums that wait for the store; beyond it they are put down to the tenant as a whole."""
_NOBODY: Final = 0

Key = tuple[int, int, int, int, str]
"""Tenant, day, user, persona, model."""


class UsageSums:
    """Owns the sums that are not written yet. A crash loses those of the last seconds.

    Attributes:
        merged: calls that were put down to their tenant because too many sums waited.
        lost: calls that found no room even so.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sums: dict[Key, list[int]] = {}
        self._flushed_at = 0.0
        self._writing: asyncio.Task[None] | None = None
        self.merged = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._sums)

    def add(
        self,
        now_ms: int,
        tenant: int,
        user: int,
        persona: int,
        model: str,
        tokens: int,
        cost_micro: int,
    ) -> None:
        """Add one call. Never waits."""
        key = (tenant, now_ms // DAY_MS, user, persona, model)
        if key not in self._sums and len(self._sums) >= MAX_SUMS:
            self.merged += 1
            key = (tenant, now_ms // DAY_MS, _NOBODY, 0, model)
            if key not in self._sums and len(self._sums) >= 2 * MAX_SUMS:
                self.lost += 1
                return
        self._put(key, [1, tokens, cost_micro])

    def sweep(self, now: float) -> None:
        """Write what is due. Called once a second."""
        due = now - self._flushed_at >= FLUSH_S
        if self._sums and due and (self._writing is None or self._writing.done()):
            self._flushed_at = now
            self._writing = asyncio.create_task(self._write())

    async def aclose(self) -> None:
        """Write all."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        yield Figure("gauge", "usage_sums", "Sums of small calls to be written.", len(self))
        yield Figure("counter", "usage_merged", "Calls put down to a tenant.", self.merged)
        yield Figure("counter", "usage_lost", "Calls whose use was not written.", self.lost)

    def _put(self, key: Key, more: list[int]) -> None:
        sums = self._sums.setdefault(key, [0, 0, 0])
        for at, number in enumerate(more):
            sums[at] += number

    async def _write(self) -> None:
        taken, self._sums = self._sums, {}
        if not taken:
            return
        rows = [
            UsageRow(*key, turns=calls, tokens_in=tokens, tokens_out=0, cost_micro=cost)
            for key, (calls, tokens, cost) in taken.items()
        ]
        try:
            await self._store.change((), partial(add_usage, rows=rows))
        except StorageError as error:
            log.warning("usage.not_written", extra={"reason": type(error).__name__})
            for key, sums in taken.items():
                self._put(key, sums)
