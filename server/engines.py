"""Which engine answers whom: what people chose, kept in the store and given to the bridge.

Commands only write down what they ask for. Every server looks for that each few seconds (see
`server.ai_providers.AiRefresh`), asks the engine for its health, switches, and writes down what
came of it. A switch over HTTP goes the same way, at once.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from ai_bridge.bridge import Bridge
from ai_bridge.engines.registry import EngineRegistry, EngineRoute, EngineScope
from ai_bridge.errors import BridgeError
from server.metrics import Figure
from storage.engines import (
    ChoiceState,
    EngineChoice,
    ask_engine,
    engine_choice,
    engine_choices,
    settle_engine,
)

if TYPE_CHECKING:
    from storage.store import Store

log = logging.getLogger("parlance.ai")

REMEMBER_S: Final = 2.0
"""How long an answer about an engine's health holds, however often it is asked for."""
_UNDONE: Final = "Most answers failed soon after the switch, so it was undone."


class Engines:
    """Owns the choices of engines of this process; changes them one after another.

    Args:
        spawn: runs what nobody waits for.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        store: "Store",
        bridge: Bridge,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._bridge = bridge
        self._spawn = spawn
        self._clock = clock
        self._changing = asyncio.Lock()
        self._checking = asyncio.Lock()
        self._checked: dict[str, tuple[float, str]] = {}
        self._seen: dict[EngineScope, int] = {}

    @property
    def registry(self) -> EngineRegistry:
        """Return the engines of the bridge, which must have started."""
        return self._bridge.engines

    async def restore(self) -> None:
        """Take what answered before the restart, healthy or not. What waits is for `reload`."""
        registry = self.registry
        routes = []
        async for choice in self._stored():
            if choice.engine:
                routes.append(EngineRoute(_scope(choice), choice.engine))
            if choice.state is not ChoiceState.ASKED:
                self._seen[_scope(choice)] = choice.updated
        await registry.restore(routes)
        registry.rolled_back = self._rolled_back

    async def reload(self) -> None:
        """Do what was asked for in the store, and write down what came of it.

        Raises:
            StorageError: what is left is done by the next call.
        """
        async with self._changing:
            async for choice in self._stored():
                if self._seen.get(_scope(choice)) != choice.updated:
                    await self._settle(choice)

    async def switch(self, tenant: int, persona: int, engine: str) -> EngineChoice:
        """Let an engine answer in a scope, "" for the one of the wider scope; return what came.

        Raises:
            BridgeError: NOT_FOUND, no such engine.
            StorageError: nothing was changed, or what was will be tried again by `reload`.
        """
        self._require(engine)
        async with self._changing:
            asked = await self._store.change((), lambda tx: ask_engine(tx, tenant, persona, engine))
            return await self._settle(asked)

    async def complaint(self, engine: str) -> str:
        """Return why an engine would not answer, "" if it would; at most `REMEMBER_S` old.

        Raises:
            BridgeError: NOT_FOUND, no such engine.
        """
        self._require(engine)
        async with self._checking:
            known = self._checked.get(engine)
            if known is not None and self._clock() - known[0] < REMEMBER_S:
                return known[1]
            text = await self.registry.complaint_of(engine)
            self._checked[engine] = self._clock(), text
            return text

    def figures(self) -> Iterator[Figure]:
        """Yield the figures for the page."""
        registry = self.registry
        running = {one.name: one.running for one in registry.list_engines()}
        yield Figure("gauge", "ai_engine_running", "Answers being made.", running, "engine")
        stats = structs.asdict(registry.stats)
        yield Figure("counter", "ai_engine_changes", "Switches, by outcome.", stats, "outcome")

    # inside

    async def _stored(self) -> AsyncIterator[EngineChoice]:
        after = (-1, -1)
        while page := await self._store.read(engine_choices(after)):
            for choice in page:
                yield choice
            after = (page[-1].tenant, page[-1].persona)

    def _require(self, engine: str) -> None:
        if engine:
            self.registry.require(engine)

    async def _settle(self, choice: EngineChoice) -> EngineChoice:
        """Switch as a row says; if it waited, write down the outcome and return that."""
        waits = choice.state is ChoiceState.ASKED
        wanted = choice.asked if waits else choice.engine
        reason = await self._change(_scope(choice), wanted)
        if waits:
            choice = structs.replace(
                choice,
                engine=choice.engine if reason else wanted,
                state=ChoiceState.REFUSED if reason else ChoiceState.TAKEN,
                reason=reason,
            )
            await self._store.change((), lambda tx: settle_engine(tx, choice))
        self._seen[_scope(choice)] = choice.updated
        return choice

    async def _change(self, scope: EngineScope, engine: str) -> str:
        """Switch; return why not, "" if it was done."""
        registry = self.registry
        try:
            if not engine:
                await registry.clear(scope)
            elif registry.engine_at(scope) != engine:
                await registry.switch(engine, scope)
        except BridgeError as refusal:
            log.warning(
                "engine.refused",
                extra={
                    "engine": engine,
                    "tenant": scope.tenant,
                    "persona": scope.persona,
                    "reason": refusal.text,
                },
            )
            return refusal.text
        return ""

    def _rolled_back(self, scope: EngineScope) -> None:
        if not scope.conv:
            self._spawn(self._note_undone(scope))

    async def _note_undone(self, scope: EngineScope) -> None:
        """Write down that the bridge has undone a switch, else a restart would repeat it."""
        async with self._changing:
            choice = await self._store.read(engine_choice(scope.tenant, scope.persona))
            if choice is None or choice.state is ChoiceState.ASKED:
                return
            engine = self.registry.engine_at(scope)
            if scope == EngineScope() and engine == self.registry.default:
                engine = ""
            undone = structs.replace(
                choice, engine=engine, state=ChoiceState.UNDONE, reason=_UNDONE
            )
            await self._store.change((), lambda tx: settle_engine(tx, undone))


def _scope(choice: EngineChoice) -> EngineScope:
    return EngineScope(tenant=choice.tenant, persona=choice.persona)
