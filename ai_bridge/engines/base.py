"""The contract between the bridge and what makes the answers."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct

from ai_bridge.run import TurnRun
from ai_bridge.stats import SlotGauge
from ai_bridge.types import ModelInfo, Outcome, TurnRequest


class EngineInfo(Struct, frozen=True):
    """What an engine is. `features` are constant words: memory, tools, personality, mem0."""

    name: str
    features: tuple[str, ...] = ()


class Job(Protocol):
    """One turn with its reserved place at a provider."""

    async def run(self, run: TurnRun) -> Outcome:
        """Answer; report every failure as an Outcome.

        Cancelling it leaves no connection open and the text so far in the turn.
        """

    def release(self) -> None:
        """Give the place back, exactly when the turn ends; harmless when repeated."""


class Engine(Protocol):
    """Makes answers. Admission, cancelling, deadlines and watchers are the bridge's work."""

    def check(self, request: TurnRequest) -> None:
        """Refuse at once what can never be answered.

        Raises:
            BridgeError: for example MODEL_UNAVAILABLE for an unknown model.
        """

    def has_room(self, request: TurnRequest) -> bool:
        """Tell whether to start this turn: a place is free, or there is nothing to wait for."""

    def is_closed(self, request: TurnRequest) -> bool:
        """Tell whether all providers of this turn want to be left alone, or just open again."""

    def reserve(self, request: TurnRequest) -> Job:
        """Take that place; call it only when `has_room` just said yes."""

    def recheck(self) -> None:
        """See whether waiting turns fit by now; called once a second."""

    def slots(self) -> list[SlotGauge]: ...
    def models(self) -> list[ModelInfo]: ...
    def health(self) -> dict[str, dict[str, Any]]: ...
    def info(self) -> EngineInfo: ...

    async def complaint(self) -> str:
        """Return why turns would not be answered, "" if they would; may ask servers.

        The text is for an operator: it says what to do, and holds no address and no key.
        """

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...
