"""Recordings to text for people and programs: recorded and paid for like answers."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from ai_bridge.errors import BridgeError
from ai_bridge.speech import Speech as Desk
from ai_bridge.speech import SpeechConfig as DeskConfig
from ai_bridge.speech import Written
from ai_bridge.types import Outcome
from protocol.codes import EndReason
from server.config_sections import SpeechConfig
from server.metrics import Figure
from server.turns import end_row

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

        It leaves a record of its own (`server.turn_records`), whatever comes of it. Cancelling it
        closes the connection to the service.

        Args:
            user: who pays, with the tenant; the number of an API key for programs.
            language, prompt: see `ai_bridge.speech.Speech.transcribe`.

        Raises:
            BridgeError: nothing was written down; the text says what to do.
            ServiceError: OVERLOADED, the store does not keep up with records.
        """
        records = self._core.records
        records.admit()
        new = self._core.turns.new(tenant, user, 0)
        records.begin(new)
        started = time.perf_counter()
        outcome = Outcome(reason=EndReason.CANCELLED)
        try:
            written = await self.desk.transcribe(
                tenant, user, data, language=language, prompt=prompt
            )
            outcome = Outcome(
                reason=EndReason.STOP,
                provider=written.provider,
                model=written.transcript.model,
                cost_micro=written.cost_micro,
            )
        except BridgeError as error:
            outcome = Outcome(reason=EndReason.ERROR, code=error.code, error=error.text)
            raise
        finally:
            duration_ms = round((time.perf_counter() - started) * 1000)
            records.end(end_row(new.sid, replace(outcome, duration_ms=duration_ms)))
        return written

    async def aclose(self) -> None:
        """End all work."""
        await self.desk.aclose()

    def figures(self) -> "Iterator[Figure]":
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
