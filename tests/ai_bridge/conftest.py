"""A scripted provider on a real socket, and bridges that must leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.secrets import Secret
from bench.provider.server import ScriptedProvider
from tests.ai_bridge.fakes import Clock, Sleeps, Watcher, request
from tests.support.eventually import WAIT_S


@pytest.fixture
async def second_provider() -> AsyncIterator[ScriptedProvider]:
    provider = ScriptedProvider()
    provider.models = []
    await provider.start()
    yield provider
    await provider.aclose()


class Rig:
    """A started bridge on scripted providers, its clock and its pauses."""

    def __init__(self, bridge: Bridge, clock: Clock, sleeps: Sleeps) -> None:
        self.bridge = bridge
        self.clock = clock
        self.sleeps = sleeps
        self.watchers: list[Watcher] = []
        self._next = 1

    def ask(self, text: str = "Hello?", **fields: Any) -> tuple[Any, Watcher]:
        """Submit a turn; return it with its watcher."""
        watcher = Watcher()
        turn = self.bridge.submit(request(self._next, text, **fields), watcher)
        self.watchers.append(watcher)
        self._next += 1
        return turn, watcher


MakeRig = Callable[..., Any]


@pytest.fixture
async def make_rig() -> AsyncIterator[MakeRig]:
    """Start bridges; at the end close them and check that every turn ended once and for all."""
    before = asyncio.all_tasks()
    rigs: list[tuple[Rig, tuple[ScriptedProvider, ...]]] = []

    async def make(*providers: ScriptedProvider, **settings: Any) -> Rig:
        """`provider`: settings of all providers; `each`: of each of them."""
        sleep = settings.pop("sleep", None)
        extra = settings.pop("provider", {})
        each = settings.pop("each", ({},) * len(providers))
        configs = tuple(
            provider_config(f"p{number}", one, **{**extra, **own})
            for number, (one, own) in enumerate(zip(providers, each, strict=True))
        )
        clock = Clock()
        sleeps = Sleeps(clock)
        config = BridgeConfig(providers=configs, demo_words_per_s=0, **settings)
        bridge = Bridge(config, clock, sleep=sleep or sleeps)
        await bridge.start()
        rig = Rig(bridge, clock, sleeps)
        rigs.append((rig, providers))
        return rig

    yield make
    for rig, providers in rigs:
        await rig.bridge.aclose()
        assert all(len(watcher.outcomes) == 1 for watcher in rig.watchers)
        assert rig.bridge.running == 0
        assert rig.bridge.queued == 0
        for provider in providers:
            await closed(provider)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def closed(provider: ScriptedProvider) -> None:
    """Wait until the provider sees no connection any more."""
    async with asyncio.timeout(WAIT_S):
        while provider.stats.open_connections:
            provider.changed.clear()
            await provider.changed.wait()


def provider_config(name: str, provider: ScriptedProvider, **fields: Any) -> ProviderConfig:
    """Describe a scripted provider that takes any model."""
    fields.setdefault("api_key", Secret("sk-test-key"))
    return ProviderConfig(name=name, base_url=provider.base_url, **fields)
