"""The record of every answer that no conversation keeps: from admission to a final state.

Rows of `ai_turn` with `conv` 0. They go to the store in batches: while one commits, the next
fills. An answer does not wait for its record; what a crash leaves unfinished is ended by the next
start like every turn (`server.turns.Turns.recover`), and what had not reached the store yet, a
few milliseconds' worth, is lost with it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from protocol.codes import Code
from server.checkpoints import KEEP_S, LEASE_MS, turn_checkpoint
from server.errors import ServiceError
from server.turns import WRITE_AGAIN_S
from storage.errors import StorageError
from storage.ops import Op
from storage.rows import EndTurn, NewTurn, TurnCheckpoint
from storage.turns import checkpoint_turns, end_turns, get_turn, insert_turns
from storage.writes import Tx

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.http")

MAX_WAITING: Final = 20_000
"""Records that wait for the store; beyond it new requests are refused."""
BATCH: Final = 500
NO_CONVERSATION: Final = 0


def record_cid(sid: int) -> bytes:
    """Return the idempotency key of a record."""
    return b"http\0\0\0\0" + sid.to_bytes(8, "big")


class TurnRecords:
    """Owns the records of answers without a conversation.

    Attributes:
        lost: records that the store refused for good.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._new: list[NewTurn] = []
        self._ends: list[EndTurn] = []
        self._running: set[int] = set()
        self._writing: asyncio.Task[None] | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self.lost = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._ends)

    def begin(self, turn: NewTurn) -> None:
        """Note a turn that the bridge has taken."""
        self._running.add(turn.sid)
        self._new.append(turn)
        self._write()
        if self._renewal is None:
            self._renewal = self._core.loop.call_later(KEEP_S, self._renew)

    def admit(self) -> None:
        """Refuse before anything is begun when the store does not keep up.

        Raises:
            ServiceError: OVERLOADED.
        """
        if len(self) >= MAX_WAITING:
            raise ServiceError(Code.OVERLOADED, "too many records wait", "Try again soon.", 1000)

    def end(self, turn: EndTurn) -> None:
        """Note how a turn ended."""
        self._running.discard(turn.sid)
        self._ends.append(turn)
        self._write()

    def _write(self) -> None:
        if self._writing is None:
            self._writing = self._core.spawn(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._new or self._ends:
                new, self._new = self._new[:BATCH], self._new[BATCH:]
                ends: list[EndTurn] = []
                if not self._new:  # no end may overtake its beginning
                    ends, self._ends = self._ends[:BATCH], self._ends[BATCH:]
                await self._commit(_writer(new, ends), len(new) + len(ends))
        finally:
            self._writing = None

    async def _commit(self, make: Callable[[Tx], Op[None]], rows: int) -> None:
        """Write, however long the store has no room; `MAX_WAITING` bounds what gathers."""
        while True:
            try:
                await self._core.store.change((), make)
                return
            except StorageError as exc:
                if exc.code != Code.OVERLOADED:
                    self.lost += rows
                    log.error("turn_records.lost", extra={"rows": rows, "reason": str(exc)})
                    return
            await asyncio.sleep(WRITE_AGAIN_S)

    def _renew(self) -> None:
        """Tell other processes that somebody still works on these turns."""
        self._renewal = None
        if not self._running:
            return
        self._renewal = self._core.loop.call_later(KEEP_S, self._renew)
        until = self._core.now_ms() + LEASE_MS
        self._core.spawn(
            self._keep([turn_checkpoint(self._core.bridge, sid, until) for sid in self._running])
        )

    async def _keep(self, rows: list[TurnCheckpoint]) -> None:
        try:
            await self._core.store.change((), lambda tx: checkpoint_turns(tx, rows))
        except StorageError as exc:
            log.warning("turn_records.renewal_failed", extra={"reason": str(exc)})


def _writer(new: list[NewTurn], ends: list[EndTurn]) -> Callable[[Tx], Op[None]]:
    """Return what writes both; run again, it finds what the first time left."""
    tries = 0

    def make(tx: Tx) -> Op[None]:
        nonlocal tries
        tries += 1
        rows = new
        if tries > 1 and new:
            rows = []
            for turn in new:
                if (yield from get_turn(turn.sid)) is None:
                    rows.append(turn)
        if rows:
            yield from insert_turns(
                tx, [(turn, NO_CONVERSATION, 0, record_cid(turn.sid)) for turn in rows]
            )
        if ends:
            yield from end_turns(tx, [(end, 0) for end in ends])

    return make
