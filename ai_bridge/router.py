"""Which slot answers: what a model's name means, who is asked first, and who waits for whom."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from ai_bridge.breaker import Breaker
from ai_bridge.config import BridgeConfig, Route
from ai_bridge.errors import BridgeError, ProviderFailure, Remedy
from ai_bridge.lease import Choice, SlotLease
from ai_bridge.slots import Service, Slot, broken_down, busy
from ai_bridge.stats import SlotGauge
from ai_bridge.types import ModelInfo, Priority
from protocol.codes import Code

DOWN_AFTER_FAILURES = 3
MAX_PLANS = 1_000
"""Model names whose slots are kept; idle ones go first (services that take any name)."""
MAX_STICKY = 10_000
"""Conversations whose last slot is remembered; the oldest go first."""


class Registry(Struct, frozen=True):
    """What the configuration offers; swapped as a whole."""

    services: tuple[Service, ...]
    routes: dict[str, Route]
    default_model: str
    config: BridgeConfig


def make_registry(services: Iterable[Service], config: BridgeConfig) -> Registry:
    """Join services and routes.

    Raises:
        ValueError: a route leads to a provider that is not configured, or nowhere.
    """
    services = tuple(services)
    names = {service.config.name for service in services}
    for route in config.routes:
        unknown = [target.provider for target in route.targets if target.provider not in names]
        if unknown or not route.targets:
            raise ValueError(f"the AI route {route.name!r} leads to no configured provider")
    default = config.default_model or next(
        (service.config.models[0] for service in services if service.config.models), ""
    )
    return Registry(services, {route.name: route for route in config.routes}, default, config)


class Router:
    """Owns slots, breakers and the turns that wait for one between two attempts.

    Args:
        clock: seconds; `sleep` waits for a closed slot to open.
        on_room: called when a turn may fit that did not fit before.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        dice: random.Random | None = None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._sleep = sleep
        self._dice = dice or random.Random()
        self._on_room = on_room
        self._plans: dict[tuple[str, str], tuple[Choice, ...]] = {}
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._sticky: OrderedDict[int, Slot] = OrderedDict()
        self._parked: dict[SlotLease, tuple[float, asyncio.Future[bool]]] = {}
        self._timers: dict[Slot, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._settling = False
        self._judging = False
        self._adopt(registry)

    # --- names -------------------------------------------------------------------------------

    @property
    def config(self) -> BridgeConfig:
        return self._registry.config

    @property
    def services(self) -> tuple[Service, ...]:
        return self._registry.services

    @property
    def slots(self) -> list[Slot]:
        """All slots that were needed so far."""
        return [slot for service in self.services for slot in service.slots.values()]

    def model_of(self, wanted: str | None, only: str = "") -> str:
        """Return the model or route that a turn means.

        Args:
            only: the one provider that may be asked, whose own name of the model is meant.

        Raises:
            BridgeError: MODEL_UNAVAILABLE, no provider has it.
        """
        model = wanted or self._registry.default_model
        known = self._pinned(model, only) if only else self._known(model)
        if not model or not known:
            raise BridgeError(
                Code.MODEL_UNAVAILABLE,
                "No configured AI provider offers this persona's model. "
                "Choose another model for the persona, or leave its model empty.",
            )
        return model

    def _known(self, model: str) -> bool:
        return model in self._registry.routes or bool(self._serving(model))

    def window_tokens(self, slot: Slot) -> int:
        return slot.config.window_tokens or self.config.window_tokens

    def models(self) -> list[ModelInfo]:
        """Return every name once, routes first; "*" for a provider that takes any name."""
        return self._models

    def offered(self) -> list[ModelInfo]:
        """Return every model of every provider, "*" for any name; routes with provider ""."""
        return self._offered

    def is_listed(self, provider: str, model: str) -> bool:
        """Tell whether a configuration or a provider's own list names this model."""
        return (provider, model) in self._listed

    def _list_named(self) -> frozenset[tuple[str, str]]:
        """Return (provider, model) of all that are named, not only asked for."""
        registry = self._registry
        named = {(one.config.name, model) for one in self.services for model in one.config.models}
        named |= {
            (target.provider, target.model)
            for route in registry.routes.values()
            for target in route.targets
        }
        default = registry.default_model
        return frozenset(named | {(one.config.name, name) for one, name in self._serving(default)})

    def _list_offered(self) -> list[ModelInfo]:
        routes = [
            structs.replace(info, provider="")
            for info in self._models
            if info.id in self._registry.routes
        ]
        default = self._registry.default_model
        return routes + [
            self._info(model, service, default)
            for service in self.services
            for model in service.config.models or ("*",)
        ]

    def _list_models(self) -> list[ModelInfo]:
        services = {service.config.name: service for service in self.services}
        default = self._registry.default_model
        found: dict[str, ModelInfo] = {}
        for route in self._registry.routes.values():
            service = services[route.targets[0].provider]
            found[route.name] = self._info(route.name, service, default)
        for service in self.services:
            for model in service.config.models or ("*",):
                found.setdefault(model, self._info(model, service, default))
        return list(found.values())

    def _info(self, model: str, service: Service, default: str) -> ModelInfo:
        return ModelInfo(
            id=model,
            provider=service.config.name,
            window_tokens=service.config.window_tokens or self.config.window_tokens,
            default=model == default,
            demo=service.config.kind == "demo",
        )

    # --- choosing ----------------------------------------------------------------------------

    def plan(self, wanted: str | None, only: str = "") -> tuple[Choice, ...]:
        """Return everything that can serve a model, in the order of the configuration.

        Args:
            only: see `model_of`.
        """
        model = wanted or self._registry.default_model
        plan = self._plans.get((model, only))
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._forget_idle()
            plan = self._plans[model, only] = tuple(self._choices(model, only))
        return plan

    def _choices(self, model: str, only: str) -> Iterable[Choice]:
        route = self._registry.routes.get(model) if not only else None
        if route is None:
            serving = self._pinned(model, only) if only else self._serving(model)
            for service, name in serving:
                for key in range(len(service.keys)):
                    yield Choice(self._slot(service, key, name), service.config.tier, 1.0)
            return
        services = {service.config.name: service for service in self.services}
        step, shared = 0, False
        for target in route.targets:
            step += not (shared and target.weight)
            shared = bool(target.weight)
            service = services[target.provider]
            for key in range(len(service.keys)):
                slot = self._slot(service, key, target.model)
                yield Choice(slot, step, target.weight or 1.0)

    def _serving(self, model: str) -> list[tuple[Service, str]]:
        """Return who has a model, and its name there.

        "name/model" picks one service, unless the whole is the listed name of a model: some
        services have such names.
        """
        name, _, rest = model.partition("/")
        if rest and not any(model in service.config.models for service in self.services):
            for service in self.services:
                if service.config.name == name and service.serves(rest):
                    return [(service, rest)]
        return [(service, model) for service in self.services if service.serves(model)]

    def _pinned(self, model: str, only: str) -> list[tuple[Service, str]]:
        return [
            (service, model)
            for service in self.services
            if service.config.name == only and service.serves(model)
        ]

    def _slot(self, service: Service, key: int, model: str) -> Slot:
        slot = service.slots.get((key, model))
        if slot is None:
            place = (service.config.base_url, model)
            breaker = self._breakers.get(place)
            if breaker is None:
                breaker = self._breakers[place] = Breaker(self._clock)
            slot = service.slots[key, model] = Slot(
                service, service.keys[key], model, breaker, self.config, clock=self._clock,
                dice=self._dice,
            )  # fmt: skip
        return slot

    def has_room(self, wanted: str | None, priority: Priority, only: str = "") -> bool:
        """Tell whether a turn should start: there is room, or nothing to wait for."""
        plan = self.plan(wanted, only)
        return any(choice.slot.has_room(priority) for choice in plan) or not self.hopeful(plan)

    def is_closed(self, wanted: str | None, only: str = "") -> bool:
        """Tell whether every slot of a model is closed, or opens again step by step."""
        now = self._clock()
        return all(
            choice.slot.storm.passing or choice.slot.closed_until > now
            for choice in self.plan(wanted, only)
        )

    def hopeful(self, choices: Sequence[Choice], until: float | None = None) -> bool:
        """Tell whether one of the slots may take a turn by `until` (None: the longest wait).

        A provider that gave a time is waited for longer than one that fails.
        """
        now = self._clock()
        limit_s = float("inf") if until is None else until - now
        busy_s = min(limit_s, self.config.reopen_s)
        failing_s = min(limit_s, self.config.queue_wait_s)
        return any(
            slot.out_of_use is None
            and slot.closed_until - now <= busy_s
            and slot.breaker.opens_in_s <= failing_s
            for slot in (choice.slot for choice in choices)
        )

    def why_down(self, choices: Sequence[Choice]) -> ProviderFailure:
        """Explain why none of the slots takes a turn, by what will pass soonest."""
        now = self._clock()
        slots = [choice.slot for choice in choices]
        if not slots:
            text = "No AI provider offers this model any more. Choose another model."
            return ProviderFailure("no_model", text, remedy=Remedy.FAIL)
        asked = [slot for slot in slots if slot.out_of_use is None]
        if asked:
            first = min(asked, key=lambda slot: slot.opens_at)
            wait_s = max(0.0, first.opens_at - now)
            failing = first.breaker.opens_in_s >= first.closed_until - now
            return broken_down(wait_s) if failing and wait_s > 0 else busy(wait_s)
        old = slots[0].out_of_use
        if old is None:
            return broken_down(0.0)
        return ProviderFailure(
            old.kind, old.text, remedy=old.remedy, code=old.code, status=old.status
        )

    def choose(self, choices: Sequence[Choice], priority: Priority, conv: int) -> Choice | None:
        """Return where a turn goes now, None if nobody has room.

        Lowest step first; in it the slot that answered this conversation before (its cache is
        warm and its voice is the same), else the less loaded of two taken at random.
        """
        free = [choice for choice in choices if choice.slot.has_room(priority)]
        if not free:
            return None
        step = min(choice.step for choice in free)
        free = [choice for choice in free if choice.step == step]
        known = self._sticky.get(conv) if conv else None
        for choice in free:
            if choice.slot is known:
                return choice
        if len(free) > 2:
            # In order, so that of two with equal load the first configured is taken.
            free = [free[at] for at in sorted(self._dice.sample(range(len(free)), 2))]
        return min(free, key=_load)

    def last_resort(self, choices: Sequence[Choice], priority: Priority) -> Slot | None:
        """Return a slot to try where every one is switched off: what is off may be mended."""
        slots = [choice.slot for choice in choices]
        if any(slot.out_of_use is None for slot in slots):
            return None
        fit = [slot for slot in slots if slot.has_place(priority)]
        return min(fit, key=lambda slot: slot.off_until, default=None)

    def stick(self, conv: int, slot: Slot) -> None:
        if conv:
            self._sticky[conv] = slot
            self._sticky.move_to_end(conv)
            if len(self._sticky) > MAX_STICKY:
                self._sticky.popitem(last=False)

    def reserve(
        self, wanted: str | None, *, priority: Priority = Priority.INTERACTIVE, conv: int = 0,
        tokens: int = 0, only: str = "",
    ) -> SlotLease:  # fmt: skip
        """Return a lease; it holds a place if one was free."""
        plan = self.plan(wanted, only)
        lease = SlotLease(self, plan, priority=priority, conv=conv, tokens=tokens)
        lease.move()
        return lease

    def _forget_idle(self) -> None:
        """Drop the slots of names that nobody uses now; they are made again when needed."""
        waiting = {choice.slot for lease in self._parked for choice in lease.choices}
        now = self._clock()
        for name, plan in list(self._plans.items()):
            slots = {choice.slot for choice in plan}
            idle = all(slot.running == 0 and slot.closed_until <= now for slot in slots)
            if idle and not slots & waiting:
                del self._plans[name]
        kept = {choice.slot for plan in self._plans.values() for choice in plan} | waiting
        for service in self.services:
            service.slots = {at: slot for at, slot in service.slots.items() if slot in kept}
        self._forget_unused()

    def _forget_unused(self) -> None:
        """Drop what was learnt about slots that are gone."""
        kept = set(self.slots)
        live = {id(slot.breaker) for slot in kept}
        self._breakers = {at: one for at, one in self._breakers.items() if id(one) in live}
        self._sticky = OrderedDict((c, slot) for c, slot in self._sticky.items() if slot in kept)

    # --- waiting -----------------------------------------------------------------------------

    async def park(self, lease: SlotLease, until: float) -> bool:
        """Wait for a place, oldest first; see `SlotLease.wait`."""
        if not self.hopeful(lease.left, until):
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._parked[lease] = (until, future)
        try:
            return await future
        except asyncio.CancelledError:
            lease.leave()
            raise
        finally:
            self._parked.pop(lease, None)

    def changed(self) -> None:
        """Something may fit now: see to it at the loop's next round, once."""
        if not self._settling:
            self._settling = True
            asyncio.get_running_loop().call_soon(self._settle)

    def recheck(self) -> None:
        """As `changed`, and those who wait in vain are told."""
        self._judging = True
        self.changed()

    def _settle(self) -> None:
        self._settling = False
        judging, self._judging = self._judging, False
        full: set[tuple[int, Priority]] = set()
        for lease, (until, future) in list(self._parked.items()):
            if future.done():
                continue
            kind = (id(lease.choices), lease.priority)
            if kind not in full:
                if lease.take():
                    future.set_result(True)
                    continue
                if not any(choice.slot.has_room(lease.priority) for choice in lease.choices):
                    full.add(kind)  # hundreds may wait for the same slots
            if judging and not self.hopeful(lease.left, until):
                future.set_result(False)
        self._on_room()

    def _closed(self, slot: Slot) -> None:
        """One timer per slot; it goes on when the time is extended meanwhile."""
        if slot not in self._timers:
            task = asyncio.get_running_loop().create_task(self._reopen(slot), name="slot-reopens")
            self._timers[slot] = task
        self.recheck()

    async def _reopen(self, slot: Slot) -> None:
        try:
            while (wait_s := slot.opens_at - self._clock()) > 0:
                await self._sleep(wait_s)
        finally:
            del self._timers[slot]
        self.changed()

    # --- change and end ----------------------------------------------------------------------

    def swap(self, registry: Registry) -> None:
        """Use another configuration from now on; leases end on the slots that they know."""
        gone = [service for service in self.services if service not in registry.services]
        self._registry = registry
        self._plans.clear()
        self._adopt(registry)
        self._forget_unused()
        for service in gone:
            service.retired = True
            self.let_go(service)
        self.recheck()

    def _adopt(self, registry: Registry) -> None:
        self._models = self._list_models()
        self._offered = self._list_offered()
        self._listed = self._list_named()
        for service in registry.services:
            service.on_change = self.changed
            service.on_closed = self._closed

    def let_go(self, service: Service) -> None:
        """Close a service that left the configuration once nobody uses it."""
        if service.retired and service.leases == 0:
            service.retired = False
            task = asyncio.get_running_loop().create_task(
                service.dialer.aclose(), name=f"close-{service.config.name}"
            )
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def health(self) -> dict[str, dict[str, Any]]:
        return {
            service.config.name: service.health(DOWN_AFTER_FAILURES) for service in self.services
        }

    def gauges(self) -> list[SlotGauge]:
        return [slot.gauge() for slot in self.slots]

    async def aclose(self) -> None:
        """Close all services; turns must have ended."""
        tasks = list(self._timers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
        for service in self.services:
            await service.dialer.aclose()


def _load(choice: Choice) -> float:
    return (choice.slot.running + 1) / (choice.slot.width * choice.weight)
