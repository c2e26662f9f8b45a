"""A bound on work of one kind that runs and that waits."""

from __future__ import annotations

import asyncio
from types import TracebackType


class GateFull(Exception):
    """As many as may wait are waiting already."""


class Gate:
    """Lets `at_once` in; `waiting` more may wait, in order; the next is refused.

    Attributes:
        inside: who is in or waits.
        refused: how many were sent away.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self.inside = 0
        self.refused = 0

    async def __aenter__(self) -> None:
        if self.inside >= self._most:
            self.refused += 1
            raise GateFull
        self.inside += 1
        try:
            await self._places.acquire()
        except BaseException:
            self.inside -= 1
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.inside -= 1
        self._places.release()
