"""A small world to test memory in: a store, a clock, a model that answers as told, an embedder."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from ai_bridge.memory.lexical import features
from ai_bridge.types import TurnRequest
from server.memories import Memories, MemoryLimits
from storage.memories import Memory, list_memories
from storage.store import Store
from tests.storage.world import World
from tests.support.eventually import eventually

ADA: Final = 7_000_001
BOB: Final = 7_000_002
START_MS: Final = 1_800_000_000_000


class Model:
    """Answers extraction requests with what was put in, else with what `reply` makes of it."""

    def __init__(self) -> None:
        self.requests: list[TurnRequest] = []
        self.answers: list[str | Exception] = []
        self.reply: Callable[[Any], list[dict[str, Any]]] = lambda data: []
        self.gate: asyncio.Event | None = None

    async def __call__(self, request: TurnRequest) -> str:
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return json.dumps({"facts": self.reply(data_of(request))}, ensure_ascii=False)

    @property
    def read(self) -> list[list[str]]:
        """The messages of each request so far."""
        return [[m["text"] for m in data_of(r)["messages"]] for r in self.requests]

    @property
    def messages(self) -> list[str]:
        """The same, without regard to requests."""
        return [text for texts in self.read for text in texts]


def data_of(request: TurnRequest) -> Any:
    """Return what an extraction request tells the model."""
    return json.loads(request.history[0].text.removeprefix("<data>\n").removesuffix("\n</data>"))


def word_for_word(data: Any) -> list[dict[str, Any]]:
    """Note every message as it stands."""
    return [
        {"op": "add", "kind": "other", "text": m["text"], "n": m["n"], "quote": m["text"]}
        for m in data["messages"]
    ]


class BagOfWords:
    """Vectors that are near when texts share words. Fails, waits or miscounts as told."""

    def __init__(self, model: str = "bag-1") -> None:
        self.model = model
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * 64
        vector[0] = 0.01
        for word in features(text):
            vector[zlib.crc32(f"{self.model}{word}".encode()) % 63 + 1] += 1.0
        return vector


class Clock:
    """Time that moves when told to; sleepers wake when it has passed them."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return START_MS + int(self.now * 1000)

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        sleeper = (self.now + seconds, event)
        self._sleepers.append(sleeper)
        try:
            await event.wait()
        finally:
            self._sleepers.remove(sleeper)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, event in self._sleepers:
            if until <= self.now:
                event.set()

    @property
    def sleepers(self) -> int:
        return len(self._sleepers)


class MemoryWorld(World):
    """A store with one memory service on it."""

    def __init__(self, store: Store, **limits: Any) -> None:
        super().__init__(store)
        self.clock = Clock()
        self.model = Model()
        self.model.reply = word_for_word
        self.embedder = BagOfWords()
        self.limits = MemoryLimits(**limits)
        self.memories = self.start()

    def start(self, **limits: Any) -> Memories:
        """Return a service as a new process has it."""
        return Memories(
            self.store,
            self.model,
            self.embedder,
            clock=self.clock,
            now_ms=self.clock.now_ms,
            sleep=self.clock.sleep,
            limits=MemoryLimits(**limits) if limits else self.limits,
        )

    async def say(self, conv: int, user: int, text: str, persona: int = ADA) -> int:
        """Send a message to persona, noted as the server notes it."""
        seq = (await self.send(conv, user, text)).seq
        self.memories.note(conv, persona, user, seq)
        return seq

    async def pass_time(self, seconds: float = 0.0) -> None:
        """Let time pass, and what is due happen."""
        self.clock.advance(seconds)
        for _ in range(4):  # notes, then what they make due; each sweep starts one step
            self.memories.sweep(self.clock.now)
            await self.settle()
            self.clock.advance(1.0)

    async def settle(self) -> None:
        """Wait until nothing moves, or everything that does waits for a gate."""
        learner = self.memories.learner
        await eventually(lambda: not learner._tasks and not self._upkeep_runs())
        if self.model.gate is None:
            await eventually(lambda: not learner.running)

    def _upkeep_runs(self) -> bool:
        upkeep = self.memories._upkeep
        return upkeep is not None and not upkeep.done() and self.embedder.gate is None

    async def teach(self, conv: int, user: int, *texts: str, persona: int = ADA) -> None:
        """Say texts and have them remembered word for word."""
        for text in texts:
            await self.say(conv, user, text, persona)
        await self.pass_time()
        await self.pass_time(self.limits.idle_s)

    async def known(self, user: int, persona: int = 0) -> list[str]:
        return [memory.text for memory in await self.rows(user, persona)]

    async def rows(self, user: int, persona: int = 0) -> list[Memory]:
        return await self.store.read(list_memories(user, persona, 0, 1_000))

    async def change(self, user: int, make: Any, **options: Any) -> Any:
        return await self.store.change([user], partial(make, user=user, **options))
