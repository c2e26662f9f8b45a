"""Erasing at a mem0 server: what the store says is due, with retries, over restarts.

Each erasure is looked at twice. The second look, ten minutes later, is for what the server learnt
behind its answer: it may still have been at work on a message when the first look found nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from ai_bridge.engines.mem0 import Mem0Client, Mem0Failure, Part
from ai_bridge.engines.mem0_proxy import mem0_user
from server.metrics import Figure
from storage.errors import StorageError
from storage.ids import last_id_at
from storage.mem0_erasures import (
    SO_FAR,
    Mem0Erasure,
    Walk,
    count_mem0_erasures,
    drop_mem0_erasure,
    due_mem0_erasures,
    put_off_mem0_erasure,
    set_noting,
    spread,
    spread_user,
)
from storage.store import Store

log = logging.getLogger("parlance.erasure")

LOOK_EVERY_S: Final = 5.0
AGAIN_MS: Final = 600_000
FIRST_RETRY_MS: Final = 10_000
LAST_RETRY_MS: Final = 3_600_000
LOOKS: Final = 2
_AT_ONCE: Final = 50


class Mem0Erasures:
    """Owns the task that works off what is due, one erasure after another.

    What fails is tried again after ten seconds, then after twice the wait each time, at most an
    hour, without end: a figure says how many are left (`mem0_erasures_waiting`). Without a mem0
    server it does nothing, and what is due stays for a server that has one.

    Args:
        now_ms: Unix milliseconds.
    """

    def __init__(
        self, store: Store, memory: Mem0Client | None, *, now_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._memory = memory
        self._now_ms = now_ms
        self.done = 0
        self.failed = 0
        self._waiting = 0
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Have the store note erasures, if there is a server to carry them out.

        Raises:
            StorageError: it does as it did before.
        """
        await self._store.change((), partial(set_noting, on=self._memory is not None))

    def sweep(self, now: float) -> None:
        """Look for what is due, every five seconds. Called once a second."""
        if self._memory is None or self._memory.paused or now < self._not_before:
            return
        if self._task is None or self._task.done():
            self._not_before = now + LOOK_EVERY_S
            self._task = asyncio.create_task(self._work(self._memory))

    async def aclose(self) -> None:
        """Stop where it is; what is not done stays due."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        ended = {"done": self.done, "failed": self.failed}
        about = "Erasures at the mem0 server that were tried."
        yield Figure("counter", "mem0_erasures", about, ended, "end")
        about = "Erasures at the mem0 server that are not done for good, at most 1,000."
        yield Figure("gauge", "mem0_erasures_waiting", about, self._waiting)

    async def _work(self, memory: Mem0Client) -> None:
        try:
            await self._work_off(memory)
            self._waiting = await self._store.read(count_mem0_erasures())
        except StorageError:
            log.warning("mem0_erasure.store_failed", exc_info=True)

    async def _work_off(self, memory: Mem0Client) -> None:
        try:
            while found := await self._store.read(due_mem0_erasures(self._now_ms(), _AT_ONCE)):
                for one in found:
                    await self._carry_out(memory, one)
        except Mem0Failure:
            pass  # the others would fail as well

    async def _carry_out(self, memory: Mem0Client, one: Mem0Erasure) -> None:
        """Do one and keep what came of it.

        Raises:
            Mem0Failure: it is put off.
        """
        if not one.user:
            await self._spread(one)
            return
        if one.persona == SO_FAR:
            await self._spread_user(one)
            return
        user_id = mem0_user(one.tenant, one.user, one.persona)
        try:
            await memory.erase(user_id, _part(one))
        except Exception as error:
            # Also what nobody thought of: it must not stand before the others for ever.
            self.failed += 1
            known = isinstance(error, Mem0Failure)
            kind = str(error) if known else "crashed"
            extra = {"kind": kind, "user": one.user}
            log.warning("mem0_erasure.failed", exc_info=not known, extra=extra)
            wait_ms = min(FIRST_RETRY_MS << min(one.failures, 16), LAST_RETRY_MS)
            await self._put_off(one, wait_ms, one.looks, one.failures + 1)
            raise Mem0Failure(kind) from None
        if one.looks + 1 < LOOKS:
            await self._put_off(one, AGAIN_MS, one.looks + 1, 0)
            return
        await self._store.change((), partial(drop_mem0_erasure, one=one))
        self.done += 1
        log.info("mem0_erasure.done", extra={"user": one.user, "conv": one.conv})

    async def _spread(self, one: Mem0Erasure) -> None:
        after: int | bytes = b"" if one.seq else 0
        while True:
            after = await self._store.change((), partial(spread, one=one, after=after))
            if not after:
                return

    async def _spread_user(self, one: Mem0Erasure) -> None:
        walk: Walk | None = Walk()
        while walk is not None:
            walk = await self._store.change((), partial(spread_user, one=one, walk=walk))

    async def _put_off(self, one: Mem0Erasure, wait_ms: int, looks: int, failures: int) -> None:
        step = partial(
            put_off_mem0_erasure,
            one=one,
            due=self._now_ms() + wait_ms,
            looks=looks,
            failures=failures,
        )
        await self._store.change((), step)


def _part(one: Mem0Erasure) -> Part | None:
    """Return what goes, None for all of the user."""
    if not one.conv:
        return None
    conv = 0 if one.conv == SO_FAR else one.conv
    return Part(conv, one.seq, last_id_at(one.requested))
