"""Watchers, clocks and requests for tests of the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ai_bridge.turn import Turn
from ai_bridge.types import (
    ChatMessage,
    GenParams,
    Outcome,
    PersonaSpec,
    Priority,
    Role,
    ToolCall,
    TurnRequest,
)
from protocol.codes import StreamPart
from tests.support.eventually import WAIT_S

PERSONA = PersonaSpec(5, "Mira", "You are Mira, a calm librarian.")


class Clock:
    """Time that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Sleeps:
    """Takes the place of asyncio.sleep: notes the pause, moves the clock past it and goes on."""

    def __init__(self, clock: Clock) -> None:
        self.pauses: list[float] = []
        self._clock = clock

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._clock.advance(seconds)
        await asyncio.sleep(0)


class Watcher:
    """Notes what it is told and wakes who waits for it."""

    def __init__(self) -> None:
        self.started = 0
        self.changes = 0
        self.outcomes: list[Outcome] = []
        self._news = asyncio.Event()

    def turn_started(self, turn: Turn) -> None:
        self.started += 1
        self._news.set()

    def turn_changed(self, turn: Turn) -> None:
        self.changes += 1
        self._news.set()

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._news.set()

    async def end(self) -> Outcome:
        """Wait for the outcome; fail if there is more than one."""
        await self._until(lambda: bool(self.outcomes))
        assert len(self.outcomes) == 1
        return self.outcomes[0]

    async def change(self, at_least: int = 1) -> None:
        """Wait until text has come."""
        await self._until(lambda: self.changes >= at_least)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so; looks after whatever the bridge tells."""
        await self._until(is_so)

    async def _until(self, is_so: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self._news.clear()
                await self._news.wait()


def request(
    turn_id: int,
    text: str = "Hello?",
    *,
    user: int = 1,
    tenant: int = 1,
    conv: int = 1,
    model: str | None = None,
    priority: Priority = Priority.INTERACTIVE,
    **params: Any,
) -> TurnRequest:
    """Make a request with one question."""
    return TurnRequest(
        turn_id=turn_id,
        tenant=tenant,
        user=user,
        conv=conv,
        persona=PERSONA,
        history=(ChatMessage(Role.USER, text),),
        params=GenParams(model=model, **params),
        request_id=f"req-{turn_id}",
        priority=priority,
    )


def answer(turn: Turn) -> str:
    return turn.text(StreamPart.ANSWER)


def thoughts(turn: Turn) -> str:
    return turn.text(StreamPart.REASONING)


class Sink:
    """Collects an answer."""

    def __init__(self) -> None:
        self.answer = ""
        self.thoughts = ""
        self.calls: list[ToolCall] = []
        self.flushes = 0
        self.writing = 0

    def text(self, piece: str) -> None:
        assert piece
        self.answer += piece

    def reasoning(self, piece: str) -> None:
        assert piece
        self.thoughts += piece

    def tool_call(self, call: ToolCall) -> None:
        self.calls.append(call)

    def writing_call(self) -> None:
        self.writing += 1

    def flush(self) -> None:
        self.flushes += 1
