"""What is kept of running turns for the case that this process dies: a lease, text, what was used.

Each turn is kept when its text has grown by an eighth, and at least every five seconds: a long
text is not written whole every second for a few words more, and turns come in their own time
rather than all at once.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ai_bridge.bridge import Bridge
from ai_bridge.turn import Turn
from protocol.codes import StreamPart
from storage.errors import StorageError
from storage.rows import TurnCheckpoint
from storage.turns import checkpoint_turns

if TYPE_CHECKING:
    from server.core import Core
    from server.turns import Running

log = logging.getLogger("parlance.turns")

LEASE_MS: Final = 30_000
KEEP_S: Final = 5.0
"""At most so long without a checkpoint: six are missed before others think that nobody works."""
SLICE: Final = 16
"""Turns looked into before the event loop has its turn: it costs some 20 µs each."""


class Kept:
    """How much of one turn is stored.

    Attributes:
        bytes: of its answer.
        at: when that was, by the clock of the sweep.
    """

    __slots__ = ("at", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self.at = 0.0

    def is_due(self, turn: Turn | None, now: float) -> bool:
        """Tell whether it is time to keep more."""
        if now - self.at >= KEEP_S:
            return True
        size = 0 if turn is None else turn.size(StreamPart.ANSWER)
        return size > self.bytes and size * 8 >= self.bytes * 9

    def take(self, turn: Turn | None, now: float) -> str | None:
        """Return the text if there is more than is stored, else None; it counts as stored."""
        self.at = now
        size = 0 if turn is None else turn.size(StreamPart.ANSWER)
        if turn is None or size <= self.bytes:
            return None
        self.bytes = size
        return turn.text(StreamPart.ANSWER)


class Checkpoints:
    """Keeps the turns of this process. One write is under way at a time; none is queued.

    Args:
        running: the turns that live, by sid; it changes under us.
    """

    def __init__(self, core: "Core", bridge: Bridge, running: "Mapping[int, Running]") -> None:
        self._core = core
        self._bridge = bridge
        self._running = running
        self.writing = False

    def sweep(self, now: float) -> None:
        """Keep what is due. Called once a second."""
        if self.writing:
            return
        due = [one for one in self._running.values() if one.kept.is_due(one.stream.turn, now)]
        if due:
            self.writing = True
            self._core.spawn(self._keep(due, now))

    async def _keep(self, due: "list[Running]", now: float) -> None:
        lease_until = self._core.now_ms() + LEASE_MS
        rows: list[TurnCheckpoint] = []
        try:
            for number, one in enumerate(due, 1):
                text = one.kept.take(one.stream.turn, now)
                rows.append(turn_checkpoint(self._bridge, one.new.sid, lease_until, text))
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            await self._core.store.change((), lambda tx: checkpoint_turns(tx, rows))
        except StorageError as exc:
            log.warning("turns.checkpoint_failed", extra={"reason": str(exc)})
        finally:
            self.writing = False


def turn_checkpoint(
    bridge: Bridge, sid: int, lease_until: int, text: str | None = None
) -> TurnCheckpoint:
    """Return what is kept of a running turn."""
    so_far = bridge.so_far(sid)
    if so_far is None:
        return TurnCheckpoint(sid, lease_until, text)
    used = so_far.usage
    return TurnCheckpoint(
        sid,
        lease_until,
        text,
        so_far.provider,
        so_far.model,
        used.prompt,
        used.completion,
        so_far.cost_micro,
    )
