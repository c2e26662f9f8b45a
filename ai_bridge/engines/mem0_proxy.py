"""The engine whose memory is a mem0 server: answers as its inner engine does.

Before a turn it searches what is known of the person, after it the server learns from what the
person wrote; never from the answer, which would teach it its own inventions. The server is a
help, not a need: whatever it does, the turn goes on.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from ai_bridge.engines.base import Engine, EngineInfo, Job
from ai_bridge.engines.mem0 import Mem0Client, Origin
from ai_bridge.run import TurnRun
from ai_bridge.stats import SlotGauge
from ai_bridge.types import ModelInfo, Outcome, Priority, Recall, Role, TurnRequest
from protocol.codes import EndReason

MEM0_PROXY = EngineInfo("mem0_proxy", ("mem0", "tools", "personality"))


class Mem0Proxy:
    """An engine around another one, which it neither starts nor closes; nor the memory."""

    def __init__(self, inner: Engine, memory: Mem0Client) -> None:
        self.inner = inner
        self.memory = memory

    def check(self, request: TurnRequest) -> None:
        self.inner.check(request)

    def has_room(self, request: TurnRequest) -> bool:
        return self.inner.has_room(request)

    def is_closed(self, request: TurnRequest) -> bool:
        return self.inner.is_closed(request)

    def reserve(self, request: TurnRequest) -> Job:
        return _Mem0Job(self, self.inner.reserve(request))

    def recheck(self) -> None:
        self.inner.recheck()

    def slots(self) -> list[SlotGauge]:
        return self.inner.slots()

    def models(self) -> list[ModelInfo]:
        return self.inner.models()

    def health(self) -> dict[str, dict[str, Any]]:
        return self.inner.health()

    def info(self) -> EngineInfo:
        return MEM0_PROXY

    async def complaint(self) -> str:
        return await self.inner.complaint() or await self.memory.complaint()

    async def start(self) -> None:
        """Nothing to open: connections are made when a turn needs one."""

    async def aclose(self) -> None:
        """Nothing to close: the memory serves other engines, and what is erased later."""


class _Mem0Job:
    """One turn: what is known goes into its request, what was said to the server."""

    def __init__(self, engine: Mem0Proxy, job: Job) -> None:
        self._engine = engine
        self._job = job

    def release(self) -> None:
        self._job.release()

    async def run(self, run: TurnRun) -> Outcome:
        request = run.turn.request
        question = _question(request)
        if not question:
            return await self._job.run(run)
        memory = self._engine.memory
        user_id = mem0_user(request.tenant, request.user, request.persona.id)
        here = request.conv if request.recall is Recall.HERE else 0
        found: tuple[str, ...] = ()
        if request.recall is not Recall.NONE:
            found = await memory.search(user_id, question, only_conv=here)
        if found:
            known = (*request.memories, *found)
            run.turn.request = structs.replace(request, memories=known)
        outcome = await self._job.run(run)
        if outcome.reason in (EndReason.STOP, EndReason.LENGTH) and _may_learn(request):
            origin = Origin(request.conv, request.learn_seq, request.turn_id)
            memory.learn(user_id, question, origin)
        return outcome


def mem0_user(tenant: int, user: int, persona: int) -> str:
    """Return the name of a person and a persona at the server."""
    return f"t{tenant}-u{user}-p{persona}"


def _may_learn(request: TurnRequest) -> bool:
    """In a conversation only from what the person wrote there: that can be taken back."""
    return not request.conv or request.learn_seq > 0


def _question(request: TurnRequest) -> str:
    """Return what the person just wrote; nothing for work that no person asked for."""
    if request.priority is Priority.BACKGROUND or not request.history:
        return ""
    last = request.history[-1]
    return last.text if last.role is Role.USER else ""
