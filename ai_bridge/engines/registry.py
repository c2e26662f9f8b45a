"""Which engine makes which answer, and changing that while turns run.

The registry is an engine itself: the bridge hands it every turn, and it hands the turn to the
engine of the most specific scope. A turn ends on the engine on which it began.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any
from zlib import crc32

from msgspec import Struct

from ai_bridge.engines.base import Engine, EngineInfo, Job
from ai_bridge.errors import BridgeError
from ai_bridge.run import TurnRun
from ai_bridge.stats import SlotGauge
from ai_bridge.types import ModelInfo, Outcome, TurnRequest
from protocol.codes import Code, EndReason

log = logging.getLogger("parlance.ai")

MakeEngine = Callable[[], Engine]

CLOSE_AFTER_S = 60.0
"""A replaced engine's turns are interrupted then."""
HEALTH_S = 5.0
PROBATION_S = 600.0
"""How long after a switch failures can undo it; later ones have other causes."""
WINDOW_S = 30.0
MIN_TURNS = 10
MAX_FAILURE_RATE = 0.5
MAX_SAMPLES = 2_000
MAX_ROUTES = 10_000
MAX_CLOSING = 16

_NO_START = "This engine does not start, so the present one stays. Check its settings."
_UNKNOWN_HEALTH = "It could not be found out whether this engine works; the log says more."
_ASKED_TOO_MUCH = (Code.CONTEXT_TOO_LONG, Code.REFUSED, Code.INVALID)
"""Failures that any engine would have."""


class EngineScope(Struct, frozen=True, kw_only=True):
    """Whose turns; 0 stands for all. A conversation is named alone."""

    tenant: int = 0
    persona: int = 0
    conv: int = 0


_ALL = EngineScope()


class EngineStatus(Struct, frozen=True):
    """An engine as an operator sees it. `scopes`: where it answers ("canary": for a share)."""

    name: str
    features: tuple[str, ...]
    running: int
    scopes: tuple[tuple[EngineScope, str], ...]
    turns: int
    failures: int


class EngineRoute(Struct, frozen=True):
    """What was chosen for a scope, as it can be stored and restored."""

    scope: EngineScope
    engine: str
    canary: str = ""
    percent: float = 0.0


class EngineCounters(Struct):
    """Of all engines of one name since the start."""

    turns: int = 0
    failures: int = 0


class RegistryStats(Struct):
    switches: int = 0
    refused: int = 0
    rollbacks: int = 0
    interrupted: int = 0
    """Turns that a closing engine did not wait for."""


class EngineRegistry:
    """Owns the engines that are in use and those that are closing.

    Args:
        makers: how each engine is made; it is started before its first turn.
        default: name of the engine of all who have no other.

    Attributes:
        rolled_back: called on the loop with the scope of a switch that was undone.
    """

    def __init__(
        self,
        makers: Mapping[EngineInfo, MakeEngine],
        default: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = RegistryStats()
        self.rolled_back: Callable[[EngineScope], None] = lambda scope: None
        self._makers = {info.name: make for info, make in makers.items()}
        self._features = {info.name: info.features for info in makers}
        self._default = default
        self._clock = clock
        self._counters = {name: EngineCounters() for name in self._makers}
        self._live: dict[str, _Live] = {}
        self._closing: list[_Live] = []
        self._routes: Mapping[EngineScope, _Route] = MappingProxyType({})
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- choosing ----------------------------------------------------------------------------

    def resolve(self, tenant: int, persona: int, conv: int) -> Engine:
        """Return the engine of a turn: of its conversation, its persona, its tenant, or of all.

        A share of the conversations may go to a canary; one conversation always to the same.
        """
        return self._choose(tenant, persona, conv)[0].engine

    def _choose(self, tenant: int, persona: int, conv: int) -> tuple[_Live, _Trial | None]:
        routes = self._routes
        if len(routes) > 1:
            for scope in _scopes(tenant, persona, conv):
                if (route := routes.get(scope)) is not None:
                    return route.engine_of(conv)
        if (route := routes.get(_ALL)) is not None:
            return route.engine_of(conv)
        raise BridgeError(Code.DRAINING, "The server is restarting. Ask again in a moment.", 1000)

    def _for(self, request: TurnRequest) -> Engine:
        return self.resolve(request.tenant, request.persona.id, request.conv)

    # --- changing ----------------------------------------------------------------------------

    async def switch(
        self, name: str, scope: EngineScope | None = None, *, percent: float = 100.0
    ) -> None:
        """Let an engine answer in a scope from now on, or a share of its conversations.

        The engine is started and asked for its health first. Running turns end where they are. If
        most turns fail soon after, the switch is undone. A canary takes the place of an earlier
        one; `percent` 0 removes it.

        Raises:
            BridgeError: NOT_FOUND, no such engine; MODEL_UNAVAILABLE, it is not healthy; BUSY,
                engines of earlier switches still close; SIZE_LIMIT, too many routes; INVALID.
                Nothing was changed.
        """
        scope = scope or _ALL
        try:
            async with self._changing:
                self._check(name, scope, percent)
                old = self._routes.get(scope)
                if percent == 0.0:
                    self._put(scope, old and _Route(old.live))
                else:
                    self._put(scope, await self._changed(name, scope, old, percent))
        except BridgeError:
            self.stats.refused += 1
            raise
        except Exception:
            self.stats.refused += 1
            log.exception("engine.start_failed", extra={"engine": name})
            raise BridgeError(Code.MODEL_UNAVAILABLE, _NO_START, 5000) from None
        self.stats.switches += 1
        log.info("engine.switched", extra={"engine": name, "percent": percent})

    async def clear(self, scope: EngineScope) -> None:
        """Let a scope follow the next wider one again.

        For everybody that is the engine of the settings, which is switched to.

        Raises:
            BridgeError: the engine of the settings is not healthy (see `switch`).
        """
        if scope == _ALL:
            if self.engine_at(_ALL) != self._default:
                await self.switch(self._default)
            return
        async with self._changing:
            self._put(scope, None)

    def list_engines(self) -> list[EngineStatus]:
        """Return all engines that can be chosen, and where they answer."""
        return [self._status(name) for name in self._makers]

    @property
    def default(self) -> str:
        """Return the engine of the settings."""
        return self._default

    def require(self, name: str) -> None:
        """Refuse names that no engine has.

        Raises:
            BridgeError: NOT_FOUND.
        """
        if name not in self._makers:
            text = "There is no engine of this name. See: parlance engine list."
            raise BridgeError(Code.NOT_FOUND, text)

    def engine_at(self, scope: EngineScope) -> str:
        """Return the engine that was chosen for just this scope, "" for none."""
        route = self._routes.get(scope)
        return route.live.name if route is not None else ""

    async def complaint_of(self, name: str) -> str:
        """Return why this engine would not answer, "" if it would; one not in use is tried out.

        Raises:
            BridgeError: NOT_FOUND, no such engine.
        """
        self.require(name)
        live = self._live.get(name)
        if live is not None:
            return await _complaint(live.engine)
        live = _Live(name, self._makers[name]())
        try:
            await live.engine.start()
            return await _complaint(live.engine)
        except Exception:
            log.exception("engine.start_failed", extra={"engine": name})
            return _NO_START
        finally:
            self._begin_task(_close(live))

    def routes(self) -> list[EngineRoute]:
        """Return all choices, to be stored."""
        return [
            EngineRoute(
                scope, route.live.name, route.canary.name if route.canary else "", route.percent
            )
            for scope, route in self._routes.items()
        ]

    async def restore(self, routes: Iterable[EngineRoute]) -> None:
        """Take stored choices as they are, healthy or not; those that cannot be are left out."""
        for one in routes:
            try:
                async with self._changing:
                    for name in (one.engine, one.canary or one.engine):
                        self._check(name, one.scope, one.percent)
                    canary = await self._started(one.canary) if one.canary else None
                    live = await self._started(one.engine)
                    self._put(one.scope, _Route(live, canary, one.percent))
            except Exception:
                self.stats.refused += 1
                log.exception("engine.not_restored", extra={"engine": one.engine})

    def sweep(self) -> None:
        """Close replaced engines whose time is over; `recheck` calls it once a second."""
        now = self._clock()
        for live in list(self._closing):
            if now - live.replaced_at > CLOSE_AFTER_S:
                for run in list(live.runs):
                    if run.stop_reason is None:
                        self.stats.interrupted += 1
                        run.stop(EndReason.INTERRUPTED)
            self._close_if_idle(live)

    # --- the contract of an engine -----------------------------------------------------------

    def check(self, request: TurnRequest) -> None:
        self._for(request).check(request)

    def has_room(self, request: TurnRequest) -> bool:
        return self._for(request).has_room(request)

    def is_closed(self, request: TurnRequest) -> bool:
        return self._for(request).is_closed(request)

    def reserve(self, request: TurnRequest) -> CountedJob:
        live, trial = self._choose(request.tenant, request.persona.id, request.conv)
        job = live.engine.reserve(request)
        live.running += 1
        return CountedJob(self, live, trial, job)

    def recheck(self) -> None:
        self.sweep()
        for live in [*self._live.values(), *self._closing]:
            live.engine.recheck()

    def slots(self) -> list[SlotGauge]:
        """Return each slot once: engines may share the providers."""
        gauges = (gauge for live in self._live.values() for gauge in live.engine.slots())
        return list({gauge.name: gauge for gauge in gauges}.values())

    def models(self) -> list[ModelInfo]:
        route = self._routes.get(_ALL)
        return route.live.engine.models() if route is not None else []

    def health(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for live in self._live.values():
            found |= live.engine.health()
        return found

    def info(self) -> EngineInfo:
        """Return the default engine's."""
        return self._routes[_ALL].live.engine.info()

    async def start(self) -> None:
        """Start the default engine, healthy or not: without it there is none."""
        async with self._changing:
            live = await self._started(self._default)
            self._put(_ALL, _Route(live))

    async def aclose(self) -> None:
        """Close all engines; the turns must have ended."""
        async with self._changing:
            self._routes = MappingProxyType({})
            for live in [*self._live.values(), *self._closing]:
                self._begin_task(_close(live))
            self._live.clear()
            self._closing.clear()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside ------------------------------------------------------------------------------

    def _check(self, name: str, scope: EngineScope, percent: float) -> None:
        self.require(name)
        if not 0.0 <= percent <= 100.0 or (scope.conv and (scope.tenant or scope.persona)):
            raise BridgeError(Code.INVALID, "A share is 0 to 100; a conversation is named alone.")
        if len(self._closing) >= MAX_CLOSING:
            text = "Engines of earlier switches are still closing. Try again in a minute."
            raise BridgeError(Code.BUSY, text, 60_000)
        if scope not in self._routes and len(self._routes) >= MAX_ROUTES:
            raise BridgeError(Code.SIZE_LIMIT, "Too many engine choices. Remove some first.")

    async def _changed(
        self, name: str, scope: EngineScope, old: _Route | None, percent: float
    ) -> _Route:
        """Return the new route of a scope, on trial."""
        live = await self._healthy(name)
        # Without the trial of its own, else every switch would be remembered.
        before = _Route(old.live, old.canary, old.percent) if old is not None else None
        trial = _Trial(scope, before, self._clock())
        if percent == 100.0:
            return _Route(live, trial=trial)
        main = old.live if old else self._choose(scope.tenant, scope.persona, 0)[0]
        return _Route(main, live, percent, trial)

    async def _healthy(self, name: str) -> _Live:
        """Return the engine, started and healthy; one made for nothing is closed again."""
        known = name in self._live
        wrong = _UNKNOWN_HEALTH
        live = await self._started(name)
        try:
            wrong = await _complaint(live.engine)
        finally:
            if not known and wrong:
                del self._live[name]
                self._begin_task(_close(live))
        if wrong:
            raise BridgeError(Code.MODEL_UNAVAILABLE, f"{wrong} The present engine stays.", 5000)
        return live

    async def _started(self, name: str) -> _Live:
        live = self._live.get(name)
        if live is None:
            live = _Live(name, self._makers[name]())
            try:
                await live.engine.start()
            except BaseException:
                self._begin_task(_close(live))
                raise
            self._live[name] = live
        return live

    def _put(self, scope: EngineScope, route: _Route | None) -> None:
        """Swap the routes for a copy with this one; engines without a route begin to close."""
        routes = {key: value for key, value in self._routes.items() if key != scope}
        if route is not None:
            routes[scope] = route
        self._routes = MappingProxyType(routes)
        used = {live.name for one in routes.values() for live in one.lives()}
        for name in [name for name in self._live if name not in used]:
            live = self._live.pop(name)
            live.replaced_at = self._clock()
            self._closing.append(live)
            self._close_if_idle(live)

    def note(self, live: _Live, trial: _Trial | None, *, failed: bool) -> None:
        """Count an ended turn; too many failures on trial undo the switch."""
        counters = self._counters[live.name]
        counters.turns += 1
        counters.failures += failed
        if trial is not None and trial.note(self._clock(), failed=failed):
            self._begin_task(self._roll_back(trial))

    def turn_over(self, live: _Live) -> None:
        live.running -= 1
        self._close_if_idle(live)

    async def _roll_back(self, trial: _Trial) -> None:
        async with self._changing:
            route = self._routes.get(trial.scope)
            if route is None or route.trial is not trial:
                return  # somebody switched again meanwhile
            try:
                before = await self._restored(trial.before)
            except Exception:
                log.exception("engine.rollback_failed")
                return
            self._put(trial.scope, before)
        self.stats.rollbacks += 1
        log.error("engine.rolled_back", extra={"engine": route.live.name})
        self.rolled_back(trial.scope)

    async def _restored(self, route: _Route | None) -> _Route | None:
        """Return a route with engines that run: those it had may have closed."""
        if route is None:
            return None
        live = await self._started(route.live.name)
        canary = await self._started(route.canary.name) if route.canary is not None else None
        return _Route(live, canary, route.percent)

    def _close_if_idle(self, live: _Live) -> None:
        if live in self._closing and live.running == 0:
            self._closing.remove(live)
            self._begin_task(_close(live))

    def _begin_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _status(self, name: str) -> EngineStatus:
        live = self._live.get(name)
        scopes = [
            (scope, "canary" if route.canary is live else "all")
            for scope, route in self._routes.items()
            if live is not None and live in route.lives()
        ]
        running = sum(one.running for one in self._closing if one.name == name)
        counters = self._counters[name]
        return EngineStatus(
            name,
            self._features[name],
            running + (live.running if live is not None else 0),
            tuple(scopes),
            counters.turns,
            counters.failures,
        )


def _scopes(tenant: int, persona: int, conv: int) -> Iterator[EngineScope]:
    """Yield the scopes of a turn narrower than all, the most specific first."""
    if conv:
        yield EngineScope(conv=conv)
    if tenant and persona:
        yield EngineScope(tenant=tenant, persona=persona)
    if persona:
        yield EngineScope(persona=persona)
    if tenant:
        yield EngineScope(tenant=tenant)


class _Live:
    """One started engine."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.running = 0
        self.runs: set[TurnRun] = set()
        self.replaced_at = 0.0


class _Trial:
    """How the turns fare since a switch."""

    def __init__(self, scope: EngineScope, before: _Route | None, now: float) -> None:
        self.scope = scope
        self.before = before
        self._until = now + PROBATION_S
        self._turns: deque[tuple[float, bool]] = deque(maxlen=MAX_SAMPLES)
        self._over = False

    def note(self, now: float, *, failed: bool) -> bool:
        """Count a turn; True, once, when too many failed."""
        if self._over or now > self._until:
            return False
        self._turns.append((now, failed))
        while self._turns[0][0] < now - WINDOW_S:
            self._turns.popleft()
        failures = sum(failed for _, failed in self._turns)
        many = len(self._turns) >= MIN_TURNS
        self._over = many and failures > MAX_FAILURE_RATE * len(self._turns)
        return self._over


class _Route:
    """Where a scope's turns go. Immutable but for the trial's counts."""

    def __init__(
        self,
        live: _Live,
        canary: _Live | None = None,
        percent: float = 0.0,
        trial: _Trial | None = None,
    ) -> None:
        self.live = live
        self.canary = canary
        self.percent = percent
        self.trial = trial

    def lives(self) -> tuple[_Live, ...]:
        return (self.live,) if self.canary is None else (self.live, self.canary)

    def engine_of(self, conv: int) -> tuple[_Live, _Trial | None]:
        """Return the engine of a conversation, with the trial that it is part of."""
        if self.canary is None:
            return self.live, self.trial
        if crc32(conv.to_bytes(8, "little", signed=True)) % 10_000 < self.percent * 100:
            return self.canary, self.trial
        return self.live, None


class CountedJob:
    """A turn on its engine: keeps the engine open, and tells how it went."""

    def __init__(
        self, registry: EngineRegistry, live: _Live, trial: _Trial | None, job: Job
    ) -> None:
        self._registry = registry
        self._live = live
        self._trial = trial
        self._job = job
        self._released = False

    @property
    def engine(self) -> str:
        """Return the name of the engine."""
        return self._live.name

    async def run(self, run: TurnRun) -> Outcome:
        self._live.runs.add(run)
        try:
            outcome = await self._job.run(run)
        except Exception:
            self._registry.note(self._live, self._trial, failed=True)
            raise
        finally:
            self._live.runs.discard(run)
        failed = outcome.reason is EndReason.ERROR and outcome.code not in _ASKED_TOO_MUCH
        self._registry.note(self._live, self._trial, failed=failed)
        return outcome

    def release(self) -> None:
        self._job.release()
        if not self._released:
            self._released = True
            self._registry.turn_over(self._live)


async def _complaint(engine: Engine) -> str:
    try:
        async with asyncio.timeout(HEALTH_S):
            return await engine.complaint()
    except Exception:
        log.warning("engine.health_check_failed", exc_info=True)
        return _UNKNOWN_HEALTH


async def _close(live: _Live) -> None:
    try:
        await live.engine.aclose()
    except Exception:
        log.exception("engine.close_failed", extra={"engine": live.name})
