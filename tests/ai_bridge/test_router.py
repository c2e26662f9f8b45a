"""Which slot is asked, and how a new configuration takes the place of the old one."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from ai_bridge.backends import build_services
from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig, Route, Target
from ai_bridge.errors import BridgeError, ProviderFailure
from ai_bridge.lease import SlotLease
from ai_bridge.providers.headers import RateLimits
from ai_bridge.router import MAX_PLANS, MAX_STICKY, Router, make_registry
from ai_bridge.secrets import Secret
from ai_bridge.types import Priority
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason
from tests.ai_bridge.conftest import MakeRig, provider_config
from tests.ai_bridge.fakes import Clock, answer


def service(name: str, **fields: Any) -> ProviderConfig:
    """Describe a provider that is never called; eight streams of each model."""
    fields = {"max_streams": 8, "limit": "fixed", "models": ("m",), **fields}
    return ProviderConfig(name=name, base_url=f"https://{name}.example.com/v1", **fields)


class Desk:
    """A router over providers that are never called."""

    def __init__(self, *providers: ProviderConfig, **settings: Any) -> None:
        self.clock = Clock()
        config = BridgeConfig(providers=providers, **settings)
        registry = make_registry(build_services(config, self.clock), config)
        self.router = Router(registry, clock=self.clock, dice=random.Random(5))

    def lease(self, model: str = "m", **fields: Any) -> SlotLease:
        return self.router.reserve(model, **fields)

    def names(self, count: int, model: str = "m") -> list[str]:
        """Take places that are kept; return where they are."""
        return [self.lease(model).slot.config.name for _ in range(count)]


async def test_a_lower_tier_is_filled_first() -> None:
    desk = Desk(service("spare", tier=1), service("main"))
    assert desk.names(10) == ["main"] * 8 + ["spare"] * 2


async def test_providers_of_one_tier_share_the_load() -> None:
    desk = Desk(service("a"), service("b"), service("c"))
    taken = Counter(desk.names(18))
    assert min(taken.values()) >= 4


async def test_the_wider_slot_takes_more() -> None:
    desk = Desk(service("small", max_streams=4), service("large", max_streams=12))
    assert Counter(desk.names(12)) == {"small": 3, "large": 9}


async def test_the_slot_of_the_conversation_is_asked_again() -> None:
    desk = Desk(service("a"), service("b"))
    desk.names(1)
    lease = desk.lease(conv=7)
    assert lease.slot.config.name == "b"
    lease.stick()
    lease.release()
    desk.names(1)
    assert desk.lease(conv=7).slot.config.name == "b"
    assert desk.lease(conv=8).slot.config.name == "a"


async def test_the_conversations_slot_does_not_beat_the_tier() -> None:
    desk = Desk(service("main"), service("spare", tier=1))
    full = [desk.lease() for _ in range(8)]
    lease = desk.lease(conv=7)
    assert lease.slot.config.name == "spare"
    lease.stick()
    lease.release()
    full[0].release()
    assert desk.lease(conv=7).slot.config.name == "main"


async def test_remembered_conversations_are_bounded() -> None:
    desk = Desk(service("a"))
    lease = desk.lease()
    for conv in range(1, MAX_STICKY + 100):
        desk.router.stick(conv, lease.slot)
    assert len(desk.router._sticky) == MAX_STICKY


async def test_a_full_house_gives_no_place_until_one_comes_back() -> None:
    desk = Desk(service("a", max_streams=1))
    first = desk.lease()
    second = desk.lease()
    assert not second.holds
    assert not desk.router.has_room("m", Priority.INTERACTIVE)
    first.release()
    assert await second.wait(desk.clock() + 10)
    assert second.slot.running == 1


async def test_those_who_wait_are_served_oldest_first() -> None:
    desk = Desk(service("a", max_streams=1))
    held = desk.lease()
    order: list[int] = []

    async def wait(number: int) -> None:
        lease = desk.lease()
        assert await lease.wait(desk.clock() + 10)
        order.append(number)
        lease.release()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(wait(number))
        await asyncio.sleep(0)
        held.release()
    assert order == [0, 1, 2, 3, 4]


async def test_a_slot_that_failed_in_one_call_may_be_tried_in_the_next() -> None:
    desk = Desk(service("a"), service("b"))
    lease = desk.lease()
    assert lease.move()
    assert lease.slot.config.name == "b"
    assert not lease.move()
    assert lease.take()
    lease.begin_call()
    names = {lease.slot.config.name}
    assert lease.move()
    assert names | {lease.slot.config.name} == {"a", "b"}


async def test_who_waits_in_vain_is_told() -> None:
    desk = Desk(service("a", max_streams=1), retry_base_s=0.0)
    held = desk.lease()
    waiting = [asyncio.create_task(desk.lease().wait(desk.clock() + 100)) for _ in range(3)]
    await asyncio.sleep(0)
    refused = ProviderFailure("rate_limited", "busy", code=Code.BUSY, retry_after_s=61.0)
    held.slot.note_failure(refused)
    assert await asyncio.gather(*waiting) == [False] * 3
    await desk.router.aclose()


# --- headers, refusals, keys ---------------------------------------------------------------------


async def test_a_slot_whose_headers_leave_nothing_rests_until_the_reset() -> None:
    desk = Desk(service("a"), service("b", tier=1))
    lease = desk.lease()
    lease.slot.buckets.note(RateLimits(requests_left=2, requests_reset_s=30))
    assert desk.names(3) == ["a", "a", "b"]
    desk.clock.advance(30)
    assert desk.names(1) == ["a"]
    await desk.router.aclose()


async def test_each_key_has_limits_of_its_own() -> None:
    keys = tuple(Secret(key) for key in ("one", "two", "three"))
    desk = Desk(service("a", api_keys=keys, max_streams=2))
    taken = Counter(desk.lease().slot.key.number for _ in range(6))
    assert taken == {0: 2, 1: 2, 2: 2}
    assert not desk.lease().holds


async def test_slots_of_many_names_are_bounded() -> None:
    desk = Desk(service("a", models=()))
    kept = desk.lease("kept")
    for number in range(2 * MAX_PLANS):
        desk.lease(f"model-{number}").release()
    assert len(desk.router.slots) <= MAX_PLANS
    assert kept.slot in desk.router.slots


# --- routes --------------------------------------------------------------------------------------


def route(*targets: Target) -> tuple[Route, ...]:
    return (Route(name="smart", targets=targets),)


async def test_a_route_leads_in_order() -> None:
    targets = (Target(provider="b", model="y"), Target(provider="a", model="x"))
    desk = Desk(service("a", models=("x",)), service("b", models=("y",)), routes=route(*targets))
    taken = [(lease.slot.config.name, lease.model) for lease in
             (desk.lease("smart") for _ in range(10))]  # fmt: skip
    assert taken == [("b", "y")] * 8 + [("a", "x")] * 2


async def test_weights_share_a_step_of_a_route() -> None:
    targets = (
        Target(provider="a", model="m", weight=3),
        Target(provider="b", model="m", weight=1),
        Target(provider="c", model="m"),
    )
    desk = Desk(service("a"), service("b"), service("c"), routes=route(*targets))
    assert Counter(desk.names(8, "smart")) == {"a": 6, "b": 2}


async def test_a_route_is_a_model_that_may_be_named() -> None:
    targets = (Target(provider="a", model="m"),)
    desk = Desk(service("a"), routes=route(*targets), default_model="smart")
    assert desk.router.model_of(None) == "smart"
    assert [(info.id, info.default) for info in desk.router.models()] == [
        ("smart", True),
        ("m", False),
    ]
    with pytest.raises(BridgeError):
        desk.router.model_of("clever")


async def test_a_name_and_a_model_pick_one_service() -> None:
    desk = Desk(service("a", models=("m", "b/m")), service("b"), service("any", models=(), tier=1))
    assert desk.names(1, "b/m") == ["a"]  # which lists it under this very name
    lease = desk.lease("a/m")
    assert (lease.slot.config.name, lease.model) == ("a", "m")
    lease = desk.lease("any/vendor/large")
    assert (lease.slot.config.name, lease.model) == ("any", "vendor/large")
    lease = desk.lease("vendor/large")
    assert (lease.slot.config.name, lease.model) == ("any", "vendor/large")


@pytest.mark.parametrize("targets", [(), (Target(provider="nobody", model="m"),)])
async def test_a_route_to_nowhere_is_refused(targets: tuple[Target, ...]) -> None:
    with pytest.raises(ValueError, match="smart"):
        Desk(service("a"), routes=route(*targets))


# --- why nobody answers --------------------------------------------------------------------------


async def test_the_reason_that_passes_soonest_is_told() -> None:
    desk = Desk(service("a"), service("b"))
    first, second = desk.lease(), desk.lease()
    refused = ProviderFailure("rate_limited", "busy", code=Code.BUSY, retry_after_s=200.0)
    first.slot.note_failure(refused)
    for _ in range(5):
        second.slot.note_failure(ProviderFailure("provider_error", "unwell", status=500))
    assert not desk.router.has_room("m", Priority.INTERACTIVE)  # it tries again in 5 seconds
    why = desk.router.why_down(first.choices)
    assert (why.kind, why.retry_after_s) == ("breaker_open", 5)
    refused = ProviderFailure("bad_key", "key", status=401)
    second.slot.note_failure(refused)
    assert desk.router.has_room("m", Priority.INTERACTIVE)  # to end at once
    why = desk.router.why_down(first.choices)
    assert why.code is Code.BUSY
    assert why.retry_after_s is not None
    assert 200 <= why.retry_after_s <= 201
    desk.clock.advance(100)
    first.slot.note_failure(refused)
    assert desk.router.why_down(first.choices).text == "key"
    await desk.router.aclose()


# --- a new configuration -------------------------------------------------------------------------


async def test_running_turns_end_on_the_provider_they_know(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="rate=100,tokens=20")
    await watcher.change()
    await rig.bridge.reload(BridgeConfig(providers=(provider_config("new", second_provider),)))
    _, later = rig.ask(model="tokens=1")
    assert (await later.end()).provider == "new"
    outcome = await watcher.end()
    assert (outcome.reason, outcome.provider) == (EndReason.STOP, "p0")
    assert answer(turn).endswith("word19 ")
    assert list(rig.bridge.health()) == ["new"]
    await closed_by(provider)


async def closed_by(provider: ScriptedProvider) -> None:
    """Wait until a provider that left the configuration has no connection any more."""
    while provider.stats.open_connections:
        provider.changed.clear()
        await provider.changed.wait()


async def test_a_provider_that_stays_keeps_connections_and_what_was_learnt(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    for _ in range(3):
        _, watcher = rig.ask(model="tokens=1")
        await watcher.end()
    connections = provider.stats.connections
    await rig.bridge.reload(
        BridgeConfig(
            providers=(provider_config("p0", provider), provider_config("p1", second_provider)),
            demo_words_per_s=0,
        )
    )
    _, watcher = rig.ask(model="tokens=1")
    await watcher.end()
    assert provider.stats.connections == connections + 1  # the one that asked for the models
    assert rig.bridge.health()["p0"]["calls_ok"] == 4


async def test_a_bad_configuration_changes_nothing(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    with pytest.raises(ValueError, match="base_url"):
        await rig.bridge.reload(BridgeConfig(providers=(ProviderConfig(name="x"),)))
    _, watcher = rig.ask(model="tokens=1")
    assert (await watcher.end()).reason is EndReason.STOP


async def test_a_waiting_turn_whose_model_is_gone_is_told(
    provider: ScriptedProvider, second_provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, user_running=1)
    first, _ = rig.ask(model="stall=1")
    _, waiting = rig.ask(model="tokens=1")
    new = provider_config("new", second_provider, models=("other",))
    await rig.bridge.reload(BridgeConfig(providers=(new,), user_running=1))
    rig.bridge.cancel(first.id)
    outcome = await waiting.end()
    assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.MODEL_UNAVAILABLE)
    assert "another model" in outcome.error


async def test_a_reload_before_the_start_is_a_mistake() -> None:
    with pytest.raises(RuntimeError):
        await Bridge().reload(BridgeConfig())
