"""Work on the store that is due again and again, beside the loop that drives the deadlines."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from storage.errors import StorageError

log: Final = logging.getLogger("parlance.app")

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Upkeep:
    """One such work, never begun a second time while it runs.

    It has a task of its own because a database that hangs would hold up the deadlines of all
    connections. A store that is away is tried again when the work is due the next time.

    Args:
        spawn: makes the task and owns it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        every_s: float,
        work: Callable[[], Awaitable[object]],
        spawn: Spawn,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._every_s = every_s
        self._work = work
        self._spawn = spawn
        self._clock = clock
        self._begun = clock()
        self._task: asyncio.Task[Any] | None = None

    def look(self) -> None:
        """Begin the work if it is due; called about once a second."""
        now = self._clock()
        if now - self._begun < self._every_s or (self._task and not self._task.done()):
            return
        self._begun = now
        self._task = self._spawn(self._run())

    async def _run(self) -> None:
        try:
            await self._work()
        except StorageError as error:
            log.warning("upkeep.failed", extra={"work": self._name, "reason": str(error)})
