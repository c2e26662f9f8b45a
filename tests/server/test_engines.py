"""Engines chosen by people: kept, taken by a running server, refused with a reason, undone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from ai_bridge.engines.registry import EngineScope
from ai_bridge.errors import BridgeError
from bench.provider.mem0 import FakeMem0
from protocol.codes import Code
from server.ai_providers import AiRefresh
from server.config_sections import AiConfig
from server.engines import Engines
from storage import engines as stored
from storage.engines import ENGINES, ChoiceState, EngineChoice, ask_engine, engine_choice
from storage.errors import StoreUnavailable
from storage.revisions import revisions
from tests.server.harness import Server, serving

CHAT, MEM0 = "chat_engine", "mem0_proxy"
ALL = EngineScope()


def settings(mem0_url: str = "http://127.0.0.1:1") -> AiConfig:
    return AiConfig(detect=False, demo_words_per_s=0, mem0_url=mem0_url)


@contextlib.asynccontextmanager
async def started(folder: Path, ai: AiConfig) -> AsyncIterator[Server]:
    """A server that has taken what its store holds, as the application does."""
    async with serving(folder, ai=ai) as server:
        await server.core.engines.restore()
        await server.core.engines.reload()
        yield server


async def ask(server: Server, engine: str, tenant: int = 0, persona: int = 0) -> EngineChoice:
    """Do what a command does in another process."""
    return await server.store.change((), lambda tx: ask_engine(tx, tenant, persona, engine))


async def found(server: Server, tenant: int = 0, persona: int = 0) -> EngineChoice:
    choice = await server.store.read(engine_choice(tenant, persona))
    assert choice is not None
    return choice


def at(server: Server, tenant: int = 1, persona: int = 5) -> str:
    return server.core.bridge.engines.resolve(tenant, persona, 1).info().name


async def test_a_running_server_takes_what_a_command_asks_for(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        refresh = AiRefresh(server.store, await server.store.read(revisions()))
        refresh.add(ENGINES, server.core.engines.reload)
        await ask(server, MEM0, tenant=1)
        assert at(server) == CHAT
        assert await refresh.run() == [ENGINES]
        assert (at(server), at(server, tenant=2)) == (MEM0, CHAT)
        choice = await found(server, tenant=1)
        assert (choice.engine, choice.state) == (MEM0, ChoiceState.TAKEN)
        assert await refresh.run() == []
        await ask(server, CHAT, tenant=1, persona=5)
        await refresh.run()
        assert (at(server), at(server, persona=6)) == (CHAT, MEM0)
        await ask(server, "", tenant=1)
        await refresh.run()
        assert (await found(server, tenant=1)).engine == ""
        assert at(server, persona=6) == CHAT
        assert server.core.bridge.engines.stats.switches == 2


async def test_choices_hold_after_a_restart_also_if_the_engine_is_ill(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        await server.core.engines.switch(0, 0, MEM0)
        await server.core.engines.switch(1, 5, CHAT)
    async with started(tmp_path, settings()) as server:
        assert (at(server), at(server, persona=6), at(server, tenant=2)) == (CHAT, MEM0, MEM0)
        assert server.core.bridge.engines.stats.refused == 0


async def test_what_was_asked_for_while_no_server_ran_is_checked_at_the_start(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with started(tmp_path, settings()) as server:
        await ask(server, MEM0)
        await ask(server, MEM0, tenant=7)
    async with started(tmp_path, settings()) as server:
        assert (at(server), at(server, tenant=7)) == (CHAT, CHAT)
        choice = await found(server)
        assert (choice.engine, choice.state) == ("", ChoiceState.REFUSED)
        await ask(server, MEM0)
    async with started(tmp_path, settings(mem0.base_url)) as server:
        assert at(server) == MEM0
        assert (await found(server, tenant=7)).state is ChoiceState.REFUSED


async def test_an_engine_that_is_ill_is_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tmp_path, settings()) as server:
        choice = await server.core.engines.switch(0, 0, MEM0)
        assert choice.state is ChoiceState.REFUSED
        assert "mem0 server does not answer" in choice.reason
        assert "127.0.0.1" not in choice.reason
        assert await found(server) == choice
        assert at(server) == CHAT
        assert "engine.refused" in caplog.text
        figures = {one.name: one.value for one in server.core.engines.figures()}
        assert figures["ai_engine_changes"] == {
            "switches": 0, "refused": 1, "rollbacks": 0, "interrupted": 0,
        }  # fmt: skip
        assert figures["ai_engine_running"] == {CHAT: 0, MEM0: 0}


async def test_an_engine_that_nobody_has_is_not_even_written_down(tmp_path: Path) -> None:
    async with started(tmp_path, AiConfig(detect=False)) as server:
        for call in (
            server.core.engines.switch(0, 0, MEM0),
            server.core.engines.complaint("nobody"),
        ):
            with pytest.raises(BridgeError) as refusal:
                await call
            assert refusal.value.code is Code.NOT_FOUND
        assert await server.store.read(engine_choice(0, 0)) is None


async def test_an_engine_that_is_gone_from_the_settings_leaves_the_others_alone(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        await server.core.engines.switch(0, 0, MEM0)
        await server.core.engines.switch(3, 0, CHAT)
    async with started(tmp_path, AiConfig(detect=False)) as server:
        assert (at(server), at(server, tenant=3)) == (CHAT, CHAT)
        assert server.core.bridge.engines.engine_at(EngineScope(tenant=3)) == CHAT


async def test_a_reset_for_everybody_follows_the_settings_again(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        await server.core.engines.switch(0, 0, MEM0)
        await server.core.engines.switch(0, 0, "")
        assert at(server) == CHAT
        assert (await found(server)).engine == ""
    other = structs.replace(settings(mem0.base_url), engine=MEM0)
    async with started(tmp_path, other) as server:
        assert at(server) == MEM0


async def test_an_undone_switch_does_not_come_back_with_a_restart(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        engines, registry = server.core.engines, server.core.bridge.engines
        for scope in (ALL, EngineScope(tenant=1), EngineScope(tenant=2)):
            await engines.switch(scope.tenant, 0, MEM0)
        await ask(server, CHAT, tenant=2)  # newer than what is undone
        for scope in (ALL, EngineScope(tenant=1), EngineScope(tenant=2)):
            trial = registry._routes[scope].trial
            assert trial is not None
            await registry._roll_back(trial)
        registry.rolled_back(EngineScope(conv=9))  # nobody wrote that down
        await server.idle()
        for tenant in (0, 1):
            choice = await found(server, tenant)
            assert (choice.engine, choice.state) == ("", ChoiceState.UNDONE)
            assert "undone" in choice.reason
        assert (await found(server, 2)).state is ChoiceState.ASKED
    async with started(tmp_path, settings(mem0.base_url)) as server:
        assert at(server) == CHAT


async def test_a_store_that_fails_between_is_asked_again(
    tmp_path: Path, mem0: FakeMem0, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        await ask(server, MEM0)
        change, down = server.store.change, [True]

        async def broken(*args: object) -> object:
            if down:
                raise StoreUnavailable(str(down.pop()))
            return await change(*args)  # type: ignore[arg-type]  # passed on as they came

        monkeypatch.setattr(server.store, "change", broken)
        with pytest.raises(StoreUnavailable):
            await server.core.engines.reload()
        assert (await found(server)).state is ChoiceState.ASKED
        await server.core.engines.reload()
        assert (await found(server)).state is ChoiceState.TAKEN
        assert server.core.bridge.engines.stats.switches == 1


async def test_many_choices_are_read_in_pages(
    tmp_path: Path, mem0: FakeMem0, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = partial(stored.engine_choices, limit=2)
    monkeypatch.setattr("server.engines.engine_choices", pages)
    async with started(tmp_path, settings(mem0.base_url)) as server:
        for tenant in range(1, 6):
            await ask(server, MEM0, tenant)
        await server.core.engines.reload()
        assert {at(server, tenant) for tenant in range(1, 6)} == {MEM0}


async def test_health_is_asked_for_once_in_a_while_however_many_want_to_know(
    tmp_path: Path, mem0: FakeMem0, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, settings(mem0.base_url)) as server:
        core, now, asked = server.core, [0.0], []
        engines = Engines(server.store, core.bridge, core.spawn, clock=lambda: now[0])
        ask_registry = core.bridge.engines.complaint_of

        async def counted(name: str) -> str:
            asked.append(name)
            return await ask_registry(name)

        monkeypatch.setattr(core.bridge.engines, "complaint_of", counted)
        assert set(await asyncio.gather(*(engines.complaint(MEM0) for _ in range(5)))) == {""}
        assert await engines.complaint(CHAT) == ""
        assert asked == [MEM0, CHAT]
        await mem0.aclose()
        now[0] += 1.9
        assert await engines.complaint(MEM0) == ""
        now[0] += 0.2
        assert "does not answer" in await engines.complaint(MEM0)
