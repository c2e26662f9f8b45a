"""Questions to a model that nobody waits for: recorded and paid for like all others."""

import asyncio
from typing import TYPE_CHECKING, Final

from ai_bridge.bridge import Bridge
from ai_bridge.errors import BridgeError
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, TurnRequest
from protocol.codes import Code, EndReason, StreamPart
from server.turn_records import TurnRecords
from server.turns import end_row

if TYPE_CHECKING:
    from server.core import Core

_GOOD: Final = (EndReason.STOP, EndReason.LENGTH)


class BackgroundAsk:
    """Asks the bridge and returns the text of the answer.

    Attributes:
        asked, failed: totals.
    """

    def __init__(self, core: "Core", bridge: Bridge, records: TurnRecords) -> None:
        self._core = core
        self._bridge = bridge
        self._records = records
        self.asked = 0
        self.failed = 0

    async def __call__(self, request: TurnRequest) -> str:
        """Return the answer's text. Cancelling it cancels the turn.

        Raises:
            BridgeError: there is no whole answer.
        """
        self.asked += 1
        watcher = _Watcher(self._records)
        new = self._core.turns.new(
            request.tenant, request.user, request.persona.id, sid=request.turn_id
        )
        try:
            turn = self._bridge.submit(request, watcher)
            self._records.begin(new)
            outcome = await watcher.ended
        except BridgeError:
            self.failed += 1
            raise
        except asyncio.CancelledError:
            self._bridge.cancel(request.turn_id)
            raise
        if outcome.reason not in _GOOD:
            self.failed += 1
            text = outcome.error or "There was no answer."
            raise BridgeError(outcome.code or Code.MODEL_UNAVAILABLE, text, outcome.retry_ms)
        return turn.text(StreamPart.ANSWER)


class _Watcher:
    def __init__(self, records: TurnRecords) -> None:
        self._records = records
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def turn_started(self, turn: Turn) -> None:
        """Nobody watches."""

    def turn_changed(self, turn: Turn) -> None:
        """Nobody watches."""

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        """Keep the record and wake who asked."""
        self._records.end(end_row(turn.id, outcome))
        if not self.ended.done():
            self.ended.set_result(outcome)
