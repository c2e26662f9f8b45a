"""The engine with a mem0 server: what it asks for, what it learns, and that no turn needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from msgspec import structs

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig
from ai_bridge.engines import mem0 as mem0_module
from ai_bridge.engines.base import Engine
from ai_bridge.engines.chat_engine import ChatEngine
from ai_bridge.engines.mem0 import (
    MAX_CACHED_PEOPLE,
    PAUSE_S,
    Mem0Client,
    Mem0Config,
    Mem0Failure,
    Origin,
    Part,
)
from ai_bridge.engines.mem0_proxy import MEM0_PROXY, Mem0Proxy
from ai_bridge.secrets import Secret
from ai_bridge.types import ChatMessage, Priority, Recall, Role
from bench.provider.mem0 import FakeMem0
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from tests.ai_bridge.conftest import provider_config
from tests.ai_bridge.fakes import Clock, Sleeps, Watcher, request
from tests.support.eventually import WAIT_S

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
        self.memory = memory = Mem0Client(config, clock=self.clock)

        def make(chat: ChatEngine) -> Engine:
            return Mem0Proxy(chat, memory)

        self.bridge = Bridge(
            BridgeConfig(providers=(provider_config("p0", provider, models=("tokens=2",)),)),
            self.clock,
            sleep=Sleeps(self.clock),
            engines={MEM0_PROXY: make},
            default_engine=MEM0_PROXY.name,
            mem0=memory,
        )
        self._next = 0

    async def ask(self, text: str, **fields: Any) -> EndReason:
        self._next += 1
        watcher = Watcher()
        seq, recall = fields.pop("learn_seq", self._next), fields.pop("recall", Recall.ALL)
        asked = request(self._next, text, **fields)
        self.bridge.submit(structs.replace(asked, learn_seq=seq, recall=recall), watcher)
        return (await watcher.end()).reason

    @property
    def stats(self) -> dict[str, int]:
        stats = self.memory.stats
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


@pytest.mark.parametrize("api", APIS)
async def test_what_was_told_in_private_is_not_for_the_ears_of_a_room(
    api: Api, mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world(api=api)
    mem0.put(USER, "我在找新工作", {"conversation": 1})
    mem0.put(USER, "我住在上海", {"conversation": 2})
    mem0.put(USER, "不知道从哪里听说")
    await world.ask("我住在哪里?", conv=1)
    assert "我住在上海" in world.sent()
    await world.ask("我住在哪里?", conv=2, recall=Recall.HERE)
    assert "- 我住在上海" in world.sent()
    assert "工作" not in world.sent()
    assert "听说" not in world.sent()


async def test_nothing_is_looked_for_of_those_who_want_nothing_remembered(
    mem0: FakeMem0, make_world: Any
) -> None:
    mem0.put(USER, "我住在上海")
    world = await make_world()
    await world.ask("我住在哪里?", recall=Recall.NONE, learn_seq=0)
    assert "上海" not in world.sent()
    assert not mem0.calls


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
            "metadata": {"conversation": 1, "seq": 1, "turn": 1},
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
    assert await world.bridge.engines.complaint_of(MEM0_PROXY.name) != ""


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
    mem0.put("u", "likes tea")
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
    await mem0.until(lambda: bool(mem0.memories))
    memory = world.memory
    await asyncio.gather(*memory._adding)
    mem0.fault = "silent"
    memory.learn(USER, "two", Origin())
    memory.learn(USER, "three", Origin())
    assert world.stats["dropped"] == 1
    async with asyncio.timeout(WAIT_S):
        await world.bridge.aclose()


async def test_surrogate_halves_and_odd_answers_do_no_harm(mem0: FakeMem0) -> None:
    client = Mem0Client(Mem0Config(base_url=mem0.base_url, api_key=Secret("m0-key")))
    assert await client.search("u", "half \ud83d") == ()
    assert mem0_module._memories([{"memory": 5}, 7, {"memory": " "}, {"memory": "a"}]) == ("a",)
    assert mem0_module._memories([{"memory": "a", "metadata": 5}], only_conv=5) == ()
    assert mem0_module._memories("odd") == mem0_module._memories({"results": 5}) == ()
    await client.aclose()


# --- erasing ------------------------------------------------------------------------------------


@pytest.fixture
async def make_client(mem0: FakeMem0) -> AsyncIterator[Any]:
    clients: list[Mem0Client] = []

    def make(api: Api = "oss", **options: Any) -> Mem0Client:
        config = Mem0Config(
            base_url=mem0.base_url, api=api, api_key=Secret("m0-key"), erase_s=5.0, add_s=5.0
        )
        clients.append(Mem0Client(config, **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


def fill(mem0: FakeMem0, count: int, **metadata: Any) -> None:
    for number in range(count):
        mem0.put(USER, f"我说过 {number}", metadata)


@pytest.mark.parametrize("api", APIS)
async def test_all_of_a_person_is_erased_and_nobody_elses(
    api: Api, mem0: FakeMem0, make_client: Any
) -> None:
    fill(mem0, 3)
    mem0.put("t1-u11-p5", "somebody else")
    client = make_client(api)
    await client.erase(USER)
    assert mem0.memories == {"t1-u11-p5": ["somebody else"]}
    await client.erase(USER)  # again: nothing is left to do
    assert client.stats.erased == 2
    path = "/memories" if api == "oss" else "/v1/memories/"
    assert f"DELETE {path}?user_id={USER}" in mem0.calls


@pytest.mark.parametrize("api", APIS)
async def test_only_what_came_from_a_conversation_or_a_message_is_erased(
    api: Api, mem0: FakeMem0, make_client: Any
) -> None:
    for conv, seq, turn in ((1, 3, 10), (1, 4, 11), (2, 3, 12), (1, 3, 90)):
        mem0.put(USER, f"{conv}/{seq}/{turn}", {"conversation": conv, "seq": seq, "turn": turn})
    mem0.put(USER, "old", {"conversation": 1})  # before there were numbers
    mem0.put(USER, "told elsewhere")
    client = make_client(api)
    await client.erase(USER, Part(1, 3, upto=50))
    assert mem0.memories[USER] == ["1/4/11", "2/3/12", "1/3/90", "old", "told elsewhere"]
    await client.erase(USER, Part(1, 0, upto=50))
    assert mem0.memories[USER] == ["2/3/12", "1/3/90", "told elsewhere"]


@pytest.mark.parametrize("api", APIS)
async def test_all_that_was_learnt_so_far_is_erased_and_what_came_later_stays(
    api: Api, mem0: FakeMem0, make_client: Any
) -> None:
    for conv, turn in ((1, 10), (2, 50), (2, 51), (0, 20)):
        mem0.put(USER, f"{conv}/{turn}", {"conversation": conv, "seq": 1, "turn": turn})
    mem0.put(USER, "before there were numbers")
    client = make_client(api)
    for _ in range(2):
        await client.erase(USER, Part(0, 0, upto=50))
        assert mem0.memories == {USER: ["2/51"]}
    assert not any("?user_id=" in call and "DELETE" in call for call in mem0.calls)


async def test_what_is_older_than_all_that_a_full_list_shows_is_found(
    mem0: FakeMem0, make_client: Any
) -> None:
    mem0.is_old = True
    fill(mem0, 150, conversation=2, turn=51)
    fill(mem0, 3, conversation=1, turn=50)
    await make_client().erase(USER, Part(0, 0, upto=50))
    assert len(mem0.memories[USER]) == 150


@pytest.mark.parametrize("api", ["v1", "v2"])
async def test_all_pages_of_the_platform_are_walked(
    api: Api, mem0: FakeMem0, make_client: Any
) -> None:
    fill(mem0, 250, conversation=2)
    mem0.put(USER, "on the third page", {"conversation": 1})
    await make_client(api).erase(USER, Part(1, 0, upto=50))
    assert len(mem0.memories[USER]) == 250


async def test_servers_that_show_a_hundred_at_most_are_asked_until_nothing_is_left(
    mem0: FakeMem0, make_client: Any
) -> None:
    mem0.is_old = True
    fill(mem0, 150, conversation=2)
    fill(mem0, 30, conversation=1)  # behind what a list shows
    client = make_client()
    await client.erase(USER, Part(1, 0, upto=50))
    assert len(mem0.memories[USER]) == 150
    await client.erase(USER)
    assert not mem0.memories


async def test_a_key_that_may_not_delete_all_at_once_deletes_one_by_one(
    mem0: FakeMem0, make_client: Any
) -> None:
    mem0.is_admin = False
    fill(mem0, 3)
    await make_client().erase(USER)
    assert not mem0.memories


def test_what_a_server_shows_of_somebody_else_is_left_alone() -> None:
    answer = [{"id": "a", "user_id": "t1-u2-p5"}, {"id": "b"}, {"id": None}, "odd"]
    assert mem0_module._own(USER, answer) == {"b": {}}
    odd = {"conversation": "1", "seq": 3.0, "turn": "7"}  # as some vector stores keep numbers
    assert mem0_module._is_of(odd, Part(1, 3, upto=7))
    assert not mem0_module._is_of({"conversation": [1]}, Part(1, 0, upto=7))


@pytest.mark.parametrize("fault", ["error", "garbage", "huge"])
async def test_an_erasure_that_fails_says_so(
    fault: str, mem0: FakeMem0, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_module, "MAX_LIST_BYTES", 200_000)
    fill(mem0, 1)
    client = make_client()
    mem0.fault = fault
    with pytest.raises(Mem0Failure):
        await client.erase(USER)
    mem0.fault = ""
    await client.erase(USER)
    assert not mem0.memories


async def test_an_erasure_at_a_silent_server_ends_and_a_paused_one_is_not_asked(
    mem0: FakeMem0,
) -> None:
    clock = Clock()
    config = Mem0Config(base_url=mem0.base_url, api_key=Secret("m0-key"), erase_s=0.02)
    client = Mem0Client(config, clock=clock)
    mem0.fault = "silent"
    for _ in range(3):
        with pytest.raises(Mem0Failure):
            await client.erase(USER)
    asked = len(mem0.calls)
    with pytest.raises(Mem0Failure, match="paused"):
        await client.erase(USER)
    assert len(mem0.calls) == asked
    assert client.stats.skipped == 1
    await client.aclose()


async def test_what_never_goes_is_told_as_unfinished(mem0: FakeMem0, make_client: Any) -> None:
    fill(mem0, 1)
    mem0.kept[USER] = KeptAlways(mem0.kept[USER])
    for api in APIS:
        with pytest.raises(Mem0Failure, match="unfinished"):
            await make_client(api).erase(USER)


class KeptAlways(list[Any]):
    """Nothing can be taken out."""

    def __delitem__(self, _key: Any) -> None:
        """Keep it."""

    def remove(self, _value: Any) -> None:
        """Keep it."""


async def test_what_is_on_its_way_is_erased_as_well(mem0: FakeMem0, make_client: Any) -> None:
    client = make_client()
    mem0.hold = asyncio.Event()
    client.learn(USER, "我住在上海", Origin(1, 3, 10))
    await mem0.until(lambda: bool(mem0.asked("/memories")))
    erasing = asyncio.create_task(client.erase(USER))
    await asyncio.sleep(0)
    assert not any(call.startswith("DELETE") for call in mem0.calls)
    mem0.hold.set()
    await erasing
    assert client.stats.added == 1
    assert not mem0.memories


async def test_a_turn_that_ends_after_the_erasure_learns_nothing(
    provider: ScriptedProvider, mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world()
    memory = world.memory
    await memory.erase(USER, Part(7, 3, upto=2))
    await memory.erase(USER, Part(8, 0, upto=2))
    await world.ask("taken back", conv=7, learn_seq=3)
    await world.ask("its conversation is gone", conv=8)
    assert world.stats["withheld"] == 2
    await world.ask("said later", conv=7, learn_seq=3)  # the third turn: the text is another now
    await mem0.until(lambda: bool(mem0.memories))
    await memory.erase(USER)
    await world.ask("who is erased says nothing", conv=9)
    assert world.stats["withheld"] == 3
    assert not mem0.memories
    assert not memory._adding


async def test_a_turn_from_before_all_was_erased_learns_nothing_and_a_later_one_does(
    mem0: FakeMem0, make_client: Any
) -> None:
    client = make_client()
    await client.erase(USER, Part(0, 0, upto=50))
    client.learn(USER, "before", Origin(7, 3, 50))
    client.learn(USER, "before, by a program", Origin(turn=20))
    client.learn(USER, "after", Origin(7, 4, 51))
    await mem0.until(lambda: mem0.memories == {USER: ["after"]})
    assert client.stats.withheld == 2
    await client.erase(USER)
    await client.erase(USER, Part(0, 0, upto=50))  # who is erased stays so
    client.learn(USER, "never", Origin(7, 5, 90))
    assert client.stats.withheld == 3


async def test_a_search_that_overlaps_an_erasure_is_not_kept(
    mem0: FakeMem0, make_client: Any
) -> None:
    fill(mem0, 1)
    client = make_client()
    searching = asyncio.create_task(client.search(USER, "我说过什么?"))
    await mem0.until(lambda: bool(mem0.asked("/search")))
    await client.erase(USER)
    await searching
    assert await client.search(USER, "我说过什么?") == ()
    assert client.stats.cached == 0


async def test_the_erasures_kept_in_mind_are_bounded(
    mem0: FakeMem0, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_module, "MAX_ERASED", 2)
    client = make_client()
    for conv in (1, 2, 3):
        await client.erase(USER, Part(conv, 0, upto=9))
    assert list(client._erased) == [(USER, 2, 0), (USER, 3, 0)]


async def test_words_of_others_and_of_nobody_are_not_learnt(
    mem0: FakeMem0, make_world: Any
) -> None:
    world = await make_world()
    await world.ask("somebody else wrote this", learn_seq=0)
    assert not mem0.asked("/memories")
    await world.ask("by a program", conv=0, learn_seq=0)
    await mem0.until(lambda: bool(mem0.memories))
    assert mem0.memories == {USER: ["by a program"]}
