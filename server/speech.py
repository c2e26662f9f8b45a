"""Recordings to text for people and programs: recorded and paid for like answers."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from ai_bridge.errors import BridgeError
from ai_bridge.speech import Speech as Desk
from ai_bridge.speech import SpeechConfig as DeskConfig
from ai_bridge.speech import Written
from ai_bridge.types import Outcome
from protocol.codes import Code, EndReason
from server.config_sections import SpeechConfig
from server.metrics import Figure
from server.turn_records import TurnRecords
from server.turns import end_row
from storage.rows import NewTurn

if TYPE_CHECKING:
    from server.core import Core


def desk_config(given: SpeechConfig) -> DeskConfig:
    """Return the settings as the bridge knows them."""
    return DeskConfig(**asdict(given))


class Speech:
    """Writes recordings down for whoever asks within the server.

    Attributes:
        desk: what does the work; bounds, prices and settings are its.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.desk = Desk(
            desk_config(core.config.ai.speech),
            core.bridge.provider,
            core.bridge.billing,
        )

    async def transcribe(
        self, tenant: int, user: int, data: bytes, *, language: str = "", prompt: str = ""
    ) -> Written:
        """Write one recording down, of any format that `ai_bridge.audio_length` knows.

        Once accepted it leaves a record of its own (`server.turn_records`), whatever comes of it.
        Cancelling it closes the connection to the service.

        Args:
            user: who pays, with the tenant; the number of an API key for programs.
            language, prompt: see `ai_bridge.speech.Speech.transcribe`.

        Raises:
            BridgeError: nothing was written down; the text says what to do.
            ServiceError: OVERLOADED, the store does not keep up with records.
        """
        self._core.records.admit()
        record = _Record(self._core.records, self._core.turns.new(tenant, user, 0))
        reason, code, text = EndReason.CANCELLED, None, ""
        try:
            written = await self.desk.transcribe(
                tenant, user, data, language=language, prompt=prompt, watcher=record
            )
            reason = EndReason.STOP
        except BridgeError as error:
            reason, code, text = EndReason.ERROR, error.code, error.text
            raise
        finally:
            record.end(reason, code, text)
        return written

    async def aclose(self) -> None:
        """End all work."""
        await self.desk.aclose()

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        stats, gate = self.desk.stats, self.desk.gate
        yield Figure("counter", "speech_asked", "Recordings to write down.", stats.asked)
        yield Figure("counter", "speech_written", "Recordings written down.", stats.written)
        yield Figure("counter", "speech_seconds", "Seconds of sound.", stats.seconds)
        yield Figure("counter", "speech_cost_micro", "Micro-dollars.", stats.cost_micro)
        yield Figure("counter", "speech_cancelled", "Left before the end.", stats.cancelled)
        yield Figure("counter", "speech_failed", "Not written down.", stats.failed, "why")
        yield Figure("counter", "speech_refused", "Found no place.", gate.refused)
        yield Figure("gauge", "speech_running", "Recordings under way.", gate.running)
        yield Figure("gauge", "speech_waiting", "Recordings that wait.", gate.waiting)
        yield Figure("gauge", "speech_held_bytes", "Bytes of recordings.", self.desk.held_bytes)


class _Record:
    """The record of one recording; none is made of what is not accepted."""

    def __init__(self, records: TurnRecords, new: NewTurn) -> None:
        self._records = records
        self._new = new
        self._begun_at: float | None = None
        self._service = ("", "")
        self._cost_micro = 0

    def begun(self, provider: str, model: str) -> None:
        self._begun_at = time.perf_counter()
        self._service = (provider, model)
        self._records.begin(self._new)

    def charged(self, cost_micro: int) -> None:
        self._cost_micro = cost_micro

    def end(self, reason: EndReason, code: Code | None, text: str) -> None:
        if self._begun_at is None:
            return
        provider, model = self._service
        outcome = Outcome(
            reason=reason,
            code=code,
            error=text,
            provider=provider,
            model=model,
            duration_ms=round((time.perf_counter() - self._begun_at) * 1000),
            cost_micro=self._cost_micro,
        )
        self._records.end(end_row(self._new.sid, outcome))
