"""The engine with a mem0 server: what it asks for, what it learns, and that no turn needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from msgspec import structs

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig
from ai_bridge.engines import mem0_proxy as mem0_module
from ai_bridge.engines.base import Engine
from ai_bridge.engines.chat_engine import ChatEngine
from ai_bridge.engines.mem0_proxy import (
    MAX_CACHED_PEOPLE,
    MEM0_PROXY,
    PAUSE_S,
    Mem0Client,
    Mem0Config,
    Mem0Proxy,
)
from ai_bridge.secrets import Secret
from ai_bridge.types import ChatMessage, Priority, Role
from bench.provider.mem0 import FakeMem0
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from tests.ai_bridge.conftest import provider_config
from tests.ai_bridge.fakes import Clock, Sleeps, Watcher, request

Api = Literal["oss", "v1", "v2"]
APIS: tuple[Api, ...] = ("oss", "v1", "v2")
USER = "t1-u1-p5"


@pytest.fixture
async def mem0() -> AsyncIterator[FakeMem0]:
    mem0 = FakeMem0(key="m0-key")
    await mem0.start()
    yield mem0
    await mem0.aclose()


class World:
    """A bridge on the mem0 engine."""

    def __init__(self, provider: ScriptedProvider, mem0: FakeMem0, **fields: Any) -> None:
        self.clock = Clock()
        self.provider = provider
        settings = {"base_url": mem0.base_url, "api_key": Secret("m0-key"), "search_s": 5.0}
        config = Mem0Config(**{**settings, **fields})
        self.engine: Mem0Proxy | None = None

        def make(chat: ChatEngine) -> Engine:
            self.engine = Mem0Proxy(chat, config, clock=self.clock)
            return self.engine

        self.bridge = Bridge(
            BridgeConfig(providers=(provider_config("p0", provider, models=("tokens=2",)),)),
            self.clock,
            sleep=Sleeps(self.clock),
            engines={MEM0_PROXY: make},
            default_engine=MEM0_PROXY.name,
        )
        self._next = 0

    async def ask(self, text: str, **fields: Any) -> EndReason:
        self._next += 1
        watcher = Watcher()
        self.bridge.submit(request(self._next, text, **fields), watcher)
        return (await watcher.end()).reason

    @property
    def stats(self) -> dict[str, int]:
        assert self.engine is not None
        stats = self.engine.memory.stats
        values = {name: getattr(stats, name) for name in stats.__struct_fields__}
        return {name: value for name, value in values.items() if value}

    def sent(self) -> str:
        """Return all that the model was told last."""
        messages = self.provider.requests[-1].body["messages"]
        return "\n".join(str(message["content"]) for message in messages)


@pytest.fixture
async def make_world(provider: ScriptedProvider, mem0: FakeMem0) -> AsyncIterator[Any]:
    worlds: list[World] = []

    async def make(**fields: Any) -> World:
        world = World(provider, mem0, **fields)
        worlds.append(world)
        await world.bridge.start()
        return world

    yield make
    for world in worlds:
        await world.bridge.aclose()


@pytest.mark.parametrize("api", APIS)
async def test_what_a_person_said_is_known_in_the_next_turn(
    api: Api, mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world(api=api)
    assert await world.ask("我最喜欢的茶是龙井。") is EndReason.STOP
    await mem0.until(lambda: bool(mem0.memories))
    assert mem0.memories == {USER: ["我最喜欢的茶是龙井。"]}
    assert await world.ask("我喜欢什么茶?", conv=2) is EndReason.STOP
    assert "- 我最喜欢的茶是龙井。" in world.sent()
    assert await world.ask("我喜欢什么茶?", user=2) is EndReason.STOP
    assert "龙井" not in world.sent()  # somebody else


async def test_the_open_source_server_is_asked_as_documented(
    mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world()
    await world.ask("Hello?")
    await mem0.until(lambda: bool(mem0.memories))
    assert mem0.asked("/search") == [
        {"query": "Hello?", "top_k": 8, "user_id": USER, "filters": {"user_id": USER}}
    ]
    assert mem0.asked("/memories") == [
        {
            "messages": [{"role": "user", "content": "Hello?"}],
            "user_id": USER,
            "metadata": {"conversation": 1},
        }
    ]


async def test_the_platform_is_asked_as_documented(mem0: FakeMem0, make_world: Any) -> None:
    world = await make_world(api="v2")
    await world.ask("Hello?")
    await mem0.until(lambda: bool(mem0.memories))
    (search,) = mem0.asked("/v2/memories/search/")
    assert search == {"query": "Hello?", "top_k": 8, "filters": {"AND": [{"user_id": USER}]}}
    (add,) = mem0.asked("/v1/memories/")
    assert (add["version"], add["output_format"]) == ("v2", "v1.1")


@pytest.mark.parametrize("fault", ["error", "silent", "garbage", "huge"])
async def test_no_turn_fails_with_the_memory_server(
    fault: str, mem0: FakeMem0, make_world: Any
) -> None:
    mem0.fault = fault
    world = await make_world(search_s=0.05 if fault == "silent" else 5.0, add_s=0.05)
    assert await world.ask("Hello?") is EndReason.STOP
    await mem0.until(lambda: bool(mem0.asked("/memories")))
    assert "Hello?" in world.sent()


async def test_a_server_that_is_not_there_costs_no_turn(
    provider: ScriptedProvider, mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world(base_url="http://127.0.0.1:1")
    assert await world.ask("Hello?") is EndReason.STOP
    assert not await world.bridge.engines.health_check()


async def test_a_failing_server_is_left_alone_for_a_while(mem0: FakeMem0, make_world: Any) -> None:
    mem0.fault = "error"
    world = await make_world()
    for _ in range(3):
        await world.ask("Hello?")
        await asyncio.sleep(0)
    await mem0.until(lambda: len(mem0.requests) >= 3)
    asked = len(mem0.requests)
    mem0.fault = ""
    await world.ask("Hello?")
    assert len(mem0.requests) == asked
    assert world.stats["skipped"] > 0
    world.clock.advance(PAUSE_S + 1)
    await world.ask("Hello?")
    assert len(mem0.requests) > asked
    assert world.stats["searched"] == 1


async def test_the_same_question_is_asked_once_until_something_is_learnt(mem0: FakeMem0) -> None:
    clock = Clock()
    client = Mem0Client(Mem0Config(base_url=mem0.base_url, api_key=Secret("m0-key")), clock=clock)
    mem0.memories["u"] = ["likes tea"]
    assert await client.search("u", "tea?") == ("likes tea",)
    assert await client.search("u", " tea? ") == ("likes tea",)
    assert len(mem0.requests) == 1
    assert await client.add("u", "I like milk", {})
    assert await client.search("u", "tea?") == ("likes tea", "I like milk")
    clock.advance(61)
    await client.search("u", "tea?")
    assert len(mem0.asked("/search")) == 3
    assert client.stats.cached == 1
    for number in range(20):
        await client.search("u", f"tea {number}?")
    assert len(client._cache["u"]) == 8
    await client.aclose()


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch, mem0: FakeMem0) -> None:
    monkeypatch.setattr(mem0_module, "MAX_CACHED_PEOPLE", 3)
    client = Mem0Client(Mem0Config(base_url=mem0.base_url, api_key=Secret("m0-key")))
    for number in range(6):
        await client.search(f"u{number}", "tea?")
    assert list(client._cache) == ["u3", "u4", "u5"]
    assert MAX_CACHED_PEOPLE == 500
    await client.aclose()


async def test_a_wrong_key_and_an_unhealthy_server_are_noticed(mem0: FakeMem0) -> None:
    for api in APIS:
        config = Mem0Config(base_url=mem0.base_url, api=api, api_key=Secret("wrong"))
        client = Mem0Client(config)
        assert await client.search("u", "tea?") == ()
        assert not await client.add("u", "tea", {})
        assert client.stats.failed == 2
        assert "ai.mem0_key" in await client.complaint()
        await client.aclose()
        client = Mem0Client(
            Mem0Config(base_url=mem0.base_url + "/", api=api, api_key=Secret("m0-key"))
        )
        assert await client.complaint() == ""
        await client.aclose()


async def test_work_that_no_person_asked_for_is_neither_searched_for_nor_learnt(
    mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world()
    background = request(90, "Summarise this.")
    for fields in (
        {"priority": Priority.BACKGROUND},
        {"history": (ChatMessage(Role.USER, "x"), ChatMessage(Role.ASSISTANT, "y"))},
    ):
        watcher = Watcher()
        asked = structs.replace(background, turn_id=background.turn_id + len(str(fields)), **fields)
        world.bridge.submit(asked, watcher)
        await watcher.end()
    assert not mem0.requests


async def test_what_is_on_its_way_is_bounded_and_waited_for(
    mem0: FakeMem0, make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_module, "MAX_ADDING", 1)
    monkeypatch.setattr(mem0_module, "CLOSE_S", 0.01)
    world = await make_world()
    await world.ask("one")
    engine = world.engine
    await asyncio.gather(*engine._adding)
    mem0.fault = "silent"
    engine.learn(engine.memory.add(USER, "two", {}))
    engine.learn(engine.memory.add(USER, "three", {}))
    assert world.stats["dropped"] == 1
    async with asyncio.timeout(5):
        await world.bridge.aclose()


async def test_surrogate_halves_and_odd_answers_do_no_harm(mem0: FakeMem0) -> None:
    client = Mem0Client(Mem0Config(base_url=mem0.base_url, api_key=Secret("m0-key")))
    assert await client.search("u", "half \ud83d") == ()
    assert mem0_module._memories([{"memory": 5}, 7, {"memory": " "}, {"memory": "a"}]) == ("a",)
    assert mem0_module._memories("odd") == mem0_module._memories({"results": 5}) == ()
    await client.aclose()
