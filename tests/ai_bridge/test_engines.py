"""One contract for every engine, and the choice and change of engines while turns run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig
from ai_bridge.engines import registry as registry_module
from ai_bridge.engines.base import Engine, EngineInfo, Job
from ai_bridge.engines.chat_engine import CHAT_ENGINE, ChatEngine
from ai_bridge.engines.mem0 import Mem0Client, Mem0Config
from ai_bridge.engines.mem0_proxy import MEM0_PROXY, Mem0Proxy
from ai_bridge.engines.registry import (
    CLOSE_AFTER_S,
    MIN_TURNS,
    PROBATION_S,
    EngineRegistry,
    EngineRoute,
    EngineScope,
)
from ai_bridge.errors import BridgeError
from ai_bridge.run import TurnRun
from ai_bridge.stats import SlotGauge
from ai_bridge.tools.builtin import BUILTIN_NAMES, builtin_tools
from ai_bridge.tools.loop import ToolLoop
from ai_bridge.tools.registry import ToolRegistry
from ai_bridge.turn import Turn
from ai_bridge.types import ModelInfo, Outcome, TurnRequest
from ai_bridge.watchdog import Deadlines
from bench.provider.mem0 import FakeMem0
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamPart
from tests.ai_bridge.conftest import closed, provider_config
from tests.ai_bridge.fakes import Clock, Sleeps, Watcher, answer, request

# --- the contract, on a bridge with each engine -------------------------------------------------


class World:
    """A bridge whose default engine is the one under test."""

    def __init__(self, name: str, provider: ScriptedProvider, mem0: FakeMem0) -> None:
        self.provider = provider
        self.clock = Clock()
        tools = ToolRegistry(BUILTIN_NAMES)
        for spec in builtin_tools():
            tools.add(spec)
        self.tools = tools
        config = Mem0Config(base_url=mem0.base_url, search_s=5.0)
        memory = Mem0Client(config, clock=self.clock)

        def with_memory(chat: ChatEngine) -> Engine:
            return Mem0Proxy(chat, memory)

        self.bridge = Bridge(
            BridgeConfig(providers=(provider_config("p0", provider),)),
            self.clock,
            sleep=Sleeps(self.clock),
            tools=ToolLoop(tools),
            engines={MEM0_PROXY: with_memory},
            default_engine=name,
            mem0=memory,
        )
        self._next = 0

    def ask(self, text: str = "Hello?", **fields: Any) -> tuple[Any, Watcher]:
        self._next += 1
        watcher = Watcher()
        return self.bridge.submit(request(self._next, text, **fields), watcher), watcher


@pytest.fixture(params=["chat_engine", "mem0_proxy"])
async def world(
    request: pytest.FixtureRequest, provider: ScriptedProvider, mem0: FakeMem0
) -> AsyncIterator[World]:
    world = World(request.param, provider, mem0)
    before = asyncio.all_tasks()
    await world.bridge.start()
    yield world
    await world.bridge.aclose()
    await closed(provider)
    # The fake memory server's own tasks end with it.
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert all("aiohttp" in repr(task) for task in left)


async def test_an_engine_answers(world: World) -> None:
    turn, watcher = world.ask(model="tokens=3")
    outcome = await watcher.end()
    assert outcome.reason is EndReason.STOP
    assert answer(turn) == "word0 word1 word2 "
    assert (outcome.provider, outcome.attempts) == ("p0", 1)
    assert outcome.usage.completion == 3


async def test_an_engine_sends_persona_history_and_tools(world: World) -> None:
    await world.ask("你好", model="tokens=1")[1].end()
    body = world.provider.requests[-1].body
    assert body["messages"][0] == {"role": "system", "content": "You are Mira, a calm librarian."}
    assert body["messages"][-1] == {"role": "user", "content": "你好"}
    assert [tool["function"]["name"] for tool in body["tools"]] == list(BUILTIN_NAMES)


async def test_an_engine_runs_the_tools_that_the_model_asks_for(world: World) -> None:
    turn, watcher = world.ask(model="tool=calculate,args={\"expression\":\"6*7\"}")  # fmt: skip
    outcome = await watcher.end()
    assert outcome.reason is EndReason.STOP
    last = world.provider.requests[-1].body["messages"][-1]
    assert last["role"] == "tool"
    assert "42" in last["content"]
    assert turn.text(StreamPart.TOOLS).splitlines() == ["running calculate", "done calculate"]
    assert outcome.usage.prompt > 7  # both calls of the model


async def test_an_engine_reports_failures_as_outcomes(world: World) -> None:
    outcome = await world.ask(model="status=400")[1].end()
    assert outcome.reason is EndReason.ERROR
    assert outcome.error
    assert "secret-text" not in outcome.error


async def test_an_engine_ends_cleanly_when_cancelled(world: World) -> None:
    turn, watcher = world.ask(model="tokens=1000,rate=200")
    await watcher.change()
    assert world.bridge.cancel(turn.id)
    outcome = await watcher.end()
    assert outcome.reason is EndReason.CANCELLED
    assert answer(turn)
    assert world.bridge.running == 0


async def test_an_engine_refuses_a_model_that_nobody_has(
    world: World, provider: ScriptedProvider
) -> None:
    await world.bridge.reload(
        BridgeConfig(providers=(provider_config("p0", provider, models=("only",)),))
    )
    with pytest.raises(BridgeError) as refusal:
        world.ask(model="another")
    assert refusal.value.code is Code.MODEL_UNAVAILABLE


async def test_an_engine_tells_of_itself(world: World) -> None:
    engines = world.bridge.engines
    info = engines.info()
    assert info.name in ("chat_engine", "mem0_proxy")
    assert {"tools", "personality"} <= set(info.features)
    assert await engines.complaint_of(info.name) == ""
    assert world.bridge.health().keys() == {"p0"}
    status = {one.name: one for one in engines.list_engines()}
    assert status.keys() == {"chat_engine", "mem0_proxy"}
    assert status[info.name].scopes == ((EngineScope(), "all"),)


async def test_engines_switch_under_load_without_a_lost_turn(world: World) -> None:
    old = world.bridge.engines.info().name
    new = "mem0_proxy" if old == "chat_engine" else "chat_engine"
    running = [world.ask(model="tokens=20,rate=200", user=n) for n in range(20)]
    await running[0][1].change()
    await world.bridge.engines.switch(new)
    later = [world.ask(model="tokens=2", user=n) for n in range(20, 40)]
    for _turn, watcher in [*running, *later]:
        assert (await watcher.end()).reason is EndReason.STOP
    status = {one.name: one for one in world.bridge.engines.list_engines()}
    assert status[old].turns > 0  # the others waited, and began on the new one
    assert status[new].turns == 40 - status[old].turns
    assert status[old].failures == status[new].failures == 0
    assert status[old].running == status[new].running == 0
    assert status[old].scopes == ()


# --- the registry, on engines that do as they are told -------------------------------------------


class Puppet:
    """An engine whose turns end when told, as told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wrong: str | Exception = ""
        self.started = 0
        self.closed = 0
        self.rechecks = 0
        self.outcome = Outcome(reason=EndReason.STOP)
        self.may_end = asyncio.Event()
        self.may_end.set()

    def check(self, request: TurnRequest) -> None: ...

    def has_room(self, request: TurnRequest) -> bool:
        return True

    def is_closed(self, request: TurnRequest) -> bool:
        return False

    def reserve(self, request: TurnRequest) -> Job:
        return _PuppetJob(self)

    def recheck(self) -> None:
        self.rechecks += 1

    def slots(self) -> list[SlotGauge]:
        return [SlotGauge("shared", 1, 0, closed=False, breaker=0)]

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(id=self.name, provider="x", window_tokens=1)]

    def health(self) -> dict[str, dict[str, Any]]:
        return {self.name: {"ok": True}}

    def info(self) -> EngineInfo:
        return EngineInfo(self.name)

    async def complaint(self) -> str:
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return self.wrong

    async def start(self) -> None:
        self.started += 1

    async def aclose(self) -> None:
        self.closed += 1


class _PuppetJob:
    def __init__(self, engine: Puppet) -> None:
        self._engine = engine

    async def run(self, run: TurnRun) -> Outcome:
        await self._engine.may_end.wait()
        return self._engine.outcome

    def release(self) -> None: ...


class Stage:
    """A registry of puppets a, b and c; every making of one is kept."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.made: list[Puppet] = []
        self.wrong: dict[str, Any] = {}
        makers = {EngineInfo(name): self._maker(name) for name in "abc"}
        self.registry = EngineRegistry(makers, "a", clock=self.clock)

    def _maker(self, name: str) -> Any:
        def make() -> Engine:
            puppet = Puppet(name)
            puppet.wrong = self.wrong.get(name, "")
            self.made.append(puppet)
            return puppet

        return make

    def at(self, tenant: int = 0, persona: int = 0, conv: int = 0) -> str:
        return self.registry.resolve(tenant, persona, conv).info().name

    async def turn(self, conv: int = 1) -> Outcome:
        """Run one turn to its end."""
        asked = request(1, conv=conv)
        job = self.registry.reserve(asked)
        try:
            return await job.run(_run(asked))
        finally:
            job.release()
            job.release()  # harmless

    async def settled(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def state(self) -> list[tuple[str, int, int]]:
        return [(one.name, one.started, one.closed) for one in self.made]


def _run(asked: TurnRequest) -> TurnRun:
    return TurnRun(
        Turn(asked),
        Watcher(),
        clock=Clock(),
        deadlines=Deadlines(1, 1, 1),
        on_watcher_error=lambda: None,
    )


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.registry.start()
    yield stage
    await stage.registry.aclose()
    assert all(one.closed == 1 for one in stage.made)


async def test_the_most_specific_scope_wins(stage: Stage) -> None:
    registry = stage.registry
    assert stage.at(7, 5, 3) == "a"
    await registry.switch("b", EngineScope(tenant=7))
    assert (stage.at(7, 5, 3), stage.at(8, 5, 3), stage.at(7)) == ("b", "a", "b")
    await registry.switch("c", EngineScope(persona=5))
    assert (stage.at(7, 5, 3), stage.at(7, 6, 3)) == ("c", "b")
    await registry.switch("a", EngineScope(tenant=7, persona=5))
    assert (stage.at(7, 5, 3), stage.at(8, 5, 3)) == ("a", "c")
    await registry.switch("b", EngineScope(conv=3))
    assert (stage.at(7, 5, 3), stage.at(7, 5, 4)) == ("b", "a")
    await registry.clear(EngineScope(conv=3))
    assert stage.at(7, 5, 3) == "a"
    assert registry.engine_at(EngineScope(tenant=7)) == "b"
    assert registry.engine_at(EngineScope(tenant=8)) == ""


async def test_clearing_for_everybody_goes_back_to_the_engine_of_the_settings(
    stage: Stage,
) -> None:
    await stage.registry.clear(EngineScope())
    await stage.registry.switch("b")
    stage.wrong["a"] = "broken"
    with pytest.raises(BridgeError):
        await stage.registry.clear(EngineScope())
    assert stage.at() == "b"
    stage.wrong.clear()
    await stage.registry.clear(EngineScope())
    assert stage.at() == "a"


async def test_an_engine_not_in_use_is_tried_out_and_closed_again(stage: Stage) -> None:
    assert await stage.registry.complaint_of("a") == ""
    stage.wrong["b"] = "broken"
    assert await stage.registry.complaint_of("b") == "broken"
    await stage.settled()
    assert stage.state() == [("a", 1, 0), ("b", 1, 1)]
    with pytest.raises(BridgeError) as refusal:
        await stage.registry.complaint_of("nobody")
    assert refusal.value.code is Code.NOT_FOUND


async def test_an_engine_without_turns_closes_when_it_is_replaced(stage: Stage) -> None:
    await stage.registry.switch("b")
    await stage.settled()
    assert stage.state() == [("a", 1, 1), ("b", 1, 0)]
    await stage.registry.switch("a")
    await stage.settled()
    assert stage.state() == [("a", 1, 1), ("b", 1, 1), ("a", 1, 0)]
    assert stage.registry.stats.switches == 2


async def test_a_running_turn_ends_on_its_engine_which_then_closes(stage: Stage) -> None:
    (old,) = stage.made
    old.may_end.clear()
    turn = asyncio.ensure_future(stage.turn())
    await stage.settled()
    await stage.registry.switch("b")
    await stage.settled()
    assert old.closed == 0
    assert stage.registry.list_engines()[0].running == 1
    stage.registry.recheck()
    assert old.rechecks == 1
    old.may_end.set()
    assert (await turn).reason is EndReason.STOP
    await stage.settled()
    assert old.closed == 1


async def test_a_turn_that_takes_too_long_for_a_replaced_engine_is_interrupted(
    stage: Stage,
) -> None:
    (old,) = stage.made
    old.may_end.clear()
    asked = request(1)
    job = stage.registry.reserve(asked)
    run = _run(asked)
    run.task = asyncio.ensure_future(_until_stopped(job, run))
    await stage.settled()
    await stage.registry.switch("b")
    stage.clock.advance(CLOSE_AFTER_S)
    stage.registry.sweep()
    assert stage.registry.stats.interrupted == 0
    stage.clock.advance(1)
    stage.registry.sweep()
    stage.registry.sweep()
    assert run.stop_reason is EndReason.INTERRUPTED
    assert stage.registry.stats.interrupted == 1
    await run.task
    await stage.settled()
    assert old.closed == 1


async def _until_stopped(job: Job, run: TurnRun) -> None:
    try:
        await job.run(run)
    except asyncio.CancelledError:
        job.release()


@pytest.mark.parametrize(
    ("wrong", "said"), [("Its lamp is out.", "Its lamp is out."), (RuntimeError("secret"), "log")]
)
async def test_an_unhealthy_engine_is_not_chosen_and_says_why(
    stage: Stage, wrong: Any, said: str
) -> None:
    stage.wrong["b"] = wrong
    with pytest.raises(BridgeError) as refusal:
        await stage.registry.switch("b")
    assert refusal.value.code is Code.MODEL_UNAVAILABLE
    assert said in refusal.value.text
    assert "secret" not in refusal.value.text
    await stage.settled()
    assert stage.at() == "a"
    assert stage.state() == [("a", 1, 0), ("b", 1, 1)]
    assert stage.registry.stats.refused == 1


@pytest.mark.parametrize(
    ("name", "scope", "percent", "code"),
    [
        ("nobody", EngineScope(), 100, Code.NOT_FOUND),
        ("b", EngineScope(), 101, Code.INVALID),
        ("b", EngineScope(), -1, Code.INVALID),
        ("b", EngineScope(), float("nan"), Code.INVALID),
        ("b", EngineScope(tenant=1, conv=1), 100, Code.INVALID),
    ],
)
async def test_switches_that_make_no_sense_are_refused(
    stage: Stage, name: str, scope: EngineScope, percent: float, code: Code
) -> None:
    with pytest.raises(BridgeError) as refusal:
        await stage.registry.switch(name, scope, percent=percent)
    assert refusal.value.code is code
    assert len(stage.made) == 1


async def test_routes_are_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MAX_ROUTES", 2)
    await stage.registry.switch("b", EngineScope(tenant=1))
    with pytest.raises(BridgeError) as refusal:
        await stage.registry.switch("b", EngineScope(tenant=2))
    assert refusal.value.code is Code.SIZE_LIMIT
    await stage.registry.switch("c", EngineScope(tenant=1))


async def test_a_canary_gets_its_share_and_always_the_same_conversations(stage: Stage) -> None:
    await stage.registry.switch("b", percent=20)
    first = [stage.at(conv=conv) for conv in range(1, 2001)]
    assert 0.17 < first.count("b") / 2000 < 0.23
    assert first == [stage.at(conv=conv) for conv in range(1, 2001)]
    await stage.registry.switch("b", percent=50)
    wider = [stage.at(conv=conv) for conv in range(1, 2001)]
    assert all(two == "b" for one, two in zip(first, wider, strict=True) if one == "b")
    status = {one.name: one.scopes for one in stage.registry.list_engines()}
    assert status == {"a": ((EngineScope(), "all"),), "b": ((EngineScope(), "canary"),), "c": ()}
    await stage.registry.switch("b", percent=0)
    assert {stage.at(conv=conv) for conv in range(1, 100)} == {"a"}


async def test_a_canary_in_a_scope_without_a_route_stands_beside_the_wider_one(
    stage: Stage,
) -> None:
    await stage.registry.switch("b", EngineScope(tenant=7), percent=30)
    assert {stage.at(7, 1, conv) for conv in range(1, 100)} == {"a", "b"}
    assert {stage.at(8, 1, conv) for conv in range(1, 100)} == {"a"}


async def test_a_switch_after_which_most_turns_fail_is_undone(stage: Stage) -> None:
    undone: list[EngineScope] = []
    stage.registry.rolled_back = undone.append
    await stage.registry.switch("b")
    bad = stage.made[-1]
    bad.outcome = Outcome(reason=EndReason.ERROR, code=Code.MODEL_UNAVAILABLE)
    for _ in range(MIN_TURNS - 1):
        await stage.turn()
        stage.clock.advance(1)
    await stage.settled()
    assert stage.at() == "b"
    await stage.turn()
    await stage.settled()
    assert stage.at() == "a"
    assert stage.registry.stats.rollbacks == 1
    assert undone == [EngineScope()]
    assert bad.closed == 1
    # The old one is not on trial: its failures have other causes.
    stage.made[-1].outcome = bad.outcome
    for _ in range(MIN_TURNS * 2):
        await stage.turn()
    await stage.settled()
    assert stage.at() == "a"
    failures = {one.name: (one.turns, one.failures) for one in stage.registry.list_engines()}
    assert failures == {"a": (20, 20), "b": (10, 10), "c": (0, 0)}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(reason=EndReason.CANCELLED),
        Outcome(reason=EndReason.FILTERED, code=Code.REFUSED),
        Outcome(reason=EndReason.ERROR, code=Code.CONTEXT_TOO_LONG),
    ],
)
async def test_what_any_engine_would_fail_at_undoes_no_switch(
    stage: Stage, outcome: Outcome
) -> None:
    await stage.registry.switch("b")
    stage.made[-1].outcome = outcome
    for _ in range(MIN_TURNS * 2):
        await stage.turn()
    await stage.settled()
    assert stage.at() == "b"


async def test_failures_that_are_rare_old_or_late_undo_no_switch(stage: Stage) -> None:
    await stage.registry.switch("b")
    bad = stage.made[-1]
    failure = Outcome(reason=EndReason.ERROR, code=Code.INTERNAL)
    for number in range(40):  # every second one
        bad.outcome = failure if number % 2 else Outcome(reason=EndReason.STOP)
        await stage.turn()
    bad.outcome = failure
    stage.clock.advance(31)
    for _ in range(30):  # ten of them never fall into thirty seconds
        await stage.turn()
        stage.clock.advance(4)
    stage.clock.advance(PROBATION_S)
    for _ in range(30):
        await stage.turn()
    await stage.settled()
    assert stage.at() == "b"
    assert stage.registry.stats.rollbacks == 0


async def test_a_failing_canary_is_taken_away_and_the_others_count_not(stage: Stage) -> None:
    await stage.registry.switch("b", percent=50)
    bad = stage.made[-1]
    bad.outcome = Outcome(reason=EndReason.ERROR, code=Code.INTERNAL)
    for conv in range(1, 60):
        await stage.turn(conv)
    await stage.settled()
    assert {stage.at(conv=conv) for conv in range(1, 100)} == {"a"}
    assert stage.registry.stats.rollbacks == 1
    assert bad.closed == 1


async def test_choices_outlive_the_process(stage: Stage) -> None:
    await stage.registry.switch("b", EngineScope(tenant=7))
    await stage.registry.switch("c", EngineScope(persona=5), percent=30)
    stored = msgspec.json.decode(
        msgspec.json.encode(stage.registry.routes()), type=list[EngineRoute]
    )
    stored.append(EngineRoute(EngineScope(tenant=8), "gone"))
    other = Stage()
    other.wrong["b"] = "broken"  # nobody chooses anew: it stays what was chosen
    await other.registry.start()
    await other.registry.restore(stored)
    assert other.registry.routes() == stored[:-1]
    assert other.at(7, 1, 1) == "b"
    assert {other.at(1, 5, conv) for conv in range(1, 100)} == {"a", "c"}
    assert other.registry.stats.refused == 1
    await other.registry.aclose()


async def test_engines_share_slots_and_each_is_shown_once(stage: Stage) -> None:
    await stage.registry.switch("b", EngineScope(tenant=1))
    assert [gauge.name for gauge in stage.registry.slots()] == ["shared"]
    assert stage.registry.health().keys() == {"a", "b"}
    assert [model.id for model in stage.registry.models()] == ["a"]
    assert CHAT_ENGINE.name == "chat_engine"
