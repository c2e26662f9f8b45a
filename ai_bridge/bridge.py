"""The door of the bridge: turns in, watchers told, everything ended exactly once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from msgspec import structs

from ai_bridge.admission import DEFAULT_RETRY_MS, MAX_RANKED, Admission, busy
from ai_bridge.backends import build_services
from ai_bridge.billing import Billing, Tab
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.detect import with_detected, with_listed
from ai_bridge.engines.base import Engine, EngineInfo, Job
from ai_bridge.engines.chat_engine import CHAT_ENGINE, ChatEngine
from ai_bridge.engines.mem0 import Mem0Client
from ai_bridge.engines.registry import CountedJob, EngineRegistry
from ai_bridge.errors import BridgeError, ProviderFailure
from ai_bridge.moderation import Moderation, Stage, Verdict
from ai_bridge.output_guard import OutputGuard
from ai_bridge.router import Router, make_registry
from ai_bridge.run import TurnRun, TurnWatcher
from ai_bridge.slots import Service
from ai_bridge.stats import NO_ENGINE, BridgeStats, SlotGauge
from ai_bridge.tools.loop import ToolLoop
from ai_bridge.turn import Turn
from ai_bridge.types import ModelInfo, Outcome, Priority, TurnRequest
from ai_bridge.watchdog import Deadlines
from protocol.codes import Code, EndReason

log = logging.getLogger("parlance.ai")

SWEEP_S = 1.0
MAX_KEPT = 1_000
"""Ended turns that can still be read; the oldest go first."""
QUEUE_EXPIRY_S = 300.0


class Bridge:
    """Makes AI answers. Owns every turn, one task per running turn, and all provider connections.

    Use it on one event loop. Times are seconds of `clock`; `sleep` pauses before retries and until
    a provider may be asked again; `lag_ms` tells how late the event loop is. `tools` runs what
    models ask for; `engines` are others than the chat engine, each made around it. With `billing`
    a turn that the budget does not cover is refused. `moderation` looks at what people ask and at
    the answers. `mem0` is what engines share that keep memories at a mem0 server. The bridge closes
    both. `on_end` is called with every turn that has ended, on the loop; it must be quick.
    """

    def __init__(
        self,
        config: BridgeConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        lag_ms: Callable[[], float] = lambda: 0.0,
        tools: ToolLoop | None = None,
        engines: Mapping[EngineInfo, Callable[[ChatEngine], Engine]] | None = None,
        default_engine: str = CHAT_ENGINE.name,
        billing: Billing | None = None,
        moderation: Moderation | None = None,
        mem0: Mem0Client | None = None,
    ) -> None:
        self._config = config or BridgeConfig()
        self._tools = tools
        self._makers = dict(engines or {})
        self._default_engine = default_engine
        self.billing = billing
        self.moderation = moderation
        self.mem0 = mem0
        self._clock = clock
        self._sleep = sleep
        self._lag_ms = lag_ms
        self._admission = Admission(
            self._config, has_room=self._has_room, clock=clock, is_closed=self._is_closed
        )
        self._runs: dict[int, TurnRun] = {}
        self._jobs: dict[int, CountedJob] = {}
        self._kept: dict[int, tuple[float, Turn]] = {}
        self._engine: EngineRegistry | None = None
        self._router: Router | None = None
        self._waking: asyncio.Handle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._reloading = asyncio.Lock()
        self._idle = asyncio.Event()
        self._closing = False
        self.stats = BridgeStats(
            slots=self._gauges,
            queue_depth=self._admission.depth,
            stream_limit=lambda: int(self._admission.limit),
            is_listed=self._is_listed,
        )
        self.on_end: Callable[[Turn, Outcome], None] = lambda turn, outcome: None

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make ready for turns.

        Looks for local providers (300 ms at most) if so configured, and asks providers that name
        no models for their list (1 s at most).

        Raises:
            ValueError: a provider is not usable as configured; the text says why.
        """
        config = self._config = await _completed(self._config)
        registry = make_registry(build_services(config, self._clock), config)
        self._router = Router(
            registry, clock=self._clock, sleep=self._sleep, on_room=self._launch_waiting
        )
        chat = ChatEngine(
            self._router,
            stats=self.stats,
            tools=self._tools,
            clock=self._clock,
            sleep=self._sleep,
        )
        makers: dict[EngineInfo, Callable[[], Engine]] = {CHAT_ENGINE: lambda: chat}
        makers |= {info: partial(make, chat) for info, make in self._makers.items()}
        self._engine = EngineRegistry(makers, self._default_engine, clock=self._clock)
        await self._engine.start()
        self._ticker = asyncio.get_running_loop().call_later(SWEEP_S, self._tick)
        log.info("bridge.started", extra={"providers": _names(registry.services)})

    async def reload(self, config: BridgeConfig) -> None:
        """Use other settings, providers and routes from now on.

        Running turns end on the providers they know, which close after the last of them. A
        provider whose settings stay goes on with its connections and with what was learnt about
        it. Limits of turns hold for those that come.

        Raises:
            ValueError: a provider is not usable as configured; nothing was changed.
        """
        if self._router is None:
            raise RuntimeError("reload needs a started bridge")
        async with self._reloading:
            await self._reload(self._router, config)

    async def _reload(self, router: Router, config: BridgeConfig) -> None:
        config = await _completed(config)
        same = all(getattr(config, name) == getattr(self._config, name) for name in _SLOT_FIELDS)
        known = router.services if same else ()
        services = build_services(config, self._clock, known=known)
        router.swap(make_registry(services, config))
        self._config = config
        self._admission.reconfigure(config)
        log.info("bridge.reloaded", extra={"providers": _names(services)})

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Refuse new turns, end waiting ones, give running ones `grace_s`, then end them too.

        Ended this way their reason is INTERRUPTED. On return no task and no socket is left.
        Cancelling it skips the rest of the grace, not the ending.
        """
        self._closing = True
        for turn in self._admission.waiting():
            self._withdraw(self._runs[turn.id], EndReason.INTERRUPTED)
        try:
            async with asyncio.timeout(grace_s):
                await self._wait_idle()
        except TimeoutError:
            pass
        finally:
            for run in list(self._runs.values()):
                run.stop(EndReason.INTERRUPTED)
            await self._wait_idle()
            if self._ticker is not None:
                self._ticker.cancel()
            if self._engine is not None:
                await self._engine.aclose()
            if self._router is not None:
                await self._router.aclose()
            if self.mem0 is not None:
                await self.mem0.aclose()
            if self.moderation is not None:
                await self.moderation.aclose()

    async def _wait_idle(self) -> None:
        while self._runs:
            self._idle.clear()
            await self._idle.wait()

    # --- turns -------------------------------------------------------------------------------

    def submit(self, request: TurnRequest, watcher: TurnWatcher) -> Turn:
        """Accept a turn; it starts or waits. The watcher is called only after this returned.

        Raises:
            BridgeError: refused, and the watcher will never be called. BUSY (the queue is full),
                RATE (the user's share is), MODEL_UNAVAILABLE, DRAINING, IN_FLIGHT (known already).
        """
        self.stats.submitted += 1
        try:
            return self._accept(request, watcher)
        except BridgeError as refusal:
            self.stats.note_refusal(refusal.code)
            log.info(
                "turn.refused",
                extra={
                    "turn": request.turn_id,
                    "request": request.request_id,
                    "code": refusal.code.name.lower(),
                },
            )
            raise

    def _accept(self, request: TurnRequest, watcher: TurnWatcher) -> Turn:
        engine = self._engine
        if self._closing or engine is None:
            text = "The server is restarting. Ask again in a moment."
            raise BridgeError(Code.DRAINING, text, 1000)
        if self.get(request.turn_id) is not None:
            raise BridgeError(Code.IN_FLIGHT, "This answer is already being made.")
        engine.check(request)
        config = self._config
        request, tab = self._reserve(request)
        turn = Turn(request)
        try:
            starts = self._admission.offer(turn)
        except BridgeError:
            if tab is not None:
                tab.drop()
            raise
        run = TurnRun(
            turn,
            watcher,
            clock=self._clock,
            deadlines=Deadlines(
                config.ttft_s, config.gap_s, config.total_s, config.reasoning_tokens
            ),
            on_watcher_error=self._note_watcher_error,
            gaps=self.stats.token_gap,
        )
        run.tab = tab
        self._runs[turn.id] = run
        if starts:
            self._launch(engine, run)
        else:
            self._wake()
        return turn

    def _reserve(self, request: TurnRequest) -> tuple[TurnRequest, Tab | None]:
        """Set money aside; the answer is then held to the length that was paid for."""
        if self.billing is None or self._router is None:
            return request, None
        config = self._config
        params = request.params
        longest = params.max_tokens or config.answer_tokens
        choices = self._router.plan(params.model, params.provider)
        windows = [self._router.window_tokens(choice.slot) for choice in choices]
        tab = self.billing.open(
            request,
            [(choice.slot.config.name, choice.slot.model) for choice in choices],
            window_tokens=max(windows, default=config.window_tokens),
            answer_tokens=longest,
            total_s=config.total_s + QUEUE_EXPIRY_S,
        )
        if tab.set_aside_micro and params.max_tokens is None:
            params = structs.replace(params, max_tokens=longest)
            request = structs.replace(request, params=params)
        return request, tab

    def so_far(self, turn_id: int) -> Outcome | None:
        """Return what would be left of a running turn if its process died now, else None.

        Who answers, what that used and cost, by estimate.
        """
        run = self._runs.get(turn_id)
        if run is None or run.task is None:
            return None
        outcome = run.outcome(EndReason.INTERRUPTED)
        if run.tab is None:
            return outcome
        return structs.replace(outcome, cost_micro=run.tab.cost_so_far(outcome))

    def cancel(self, turn_id: int) -> bool:
        """Stop a turn; False if it is unknown or over.

        The upstream connection closes at the loop's next round, also before the first text; a
        waiting turn never starts. The watcher hears of it after this returned. Harmless when
        repeated.
        """
        run = self._runs.get(turn_id)
        if run is None:
            return False
        if run.task is None:
            self._withdraw(run, EndReason.CANCELLED)
        else:
            run.stop(EndReason.CANCELLED)
        return True

    def get(self, turn_id: int) -> Turn | None:
        """Return a waiting, running or recently ended turn."""
        run = self._runs.get(turn_id)
        if run is not None:
            return run.turn
        kept = self._kept.get(turn_id)
        return kept[1] if kept is not None else None

    def turns(self) -> Iterator[tuple[Turn, str, str]]:
        """Yield what waits and runs, each with the provider and model that it asks ("" before)."""
        for run in self._runs.values():
            yield run.turn, run.provider, run.model

    def refused(self, text: str) -> bool:
        """Tell whether moderation refused this question: no model may read it, for any purpose."""
        return self.moderation is not None and self.moderation.refused(text)

    # --- seeing inside -----------------------------------------------------------------------

    @property
    def running(self) -> int:
        return self._admission.running

    @property
    def queued(self) -> int:
        return self._admission.queued

    @property
    def tools(self) -> ToolLoop | None:
        """What runs the tools that models ask for, with their registry."""
        return self._tools

    @property
    def engines(self) -> EngineRegistry:
        """Where engines are listed and switched.

        Raises:
            RuntimeError: the bridge is not started.
        """
        if self._engine is None:
            raise RuntimeError("the bridge is not started")
        return self._engine

    def models(self) -> list[ModelInfo]:
        """Return the models that turns may name, the default one marked."""
        return self._engine.models() if self._engine is not None else []

    def offered(self) -> list[ModelInfo]:
        """Return every model of every provider ("*": any name), and routes with provider ""."""
        return self._router.offered() if self._router is not None else []

    def provider(self, name: str) -> ProviderConfig | None:
        """Return the settings that a provider has now, for what is no turn (speech, embeddings)."""
        services = self._router.services if self._router is not None else ()
        return next((one.config for one in services if one.config.name == name), None)

    def health(self) -> dict[str, dict[str, Any]]:
        """Return what recent calls tell about each provider; asks nobody."""
        return self._engine.health() if self._engine is not None else {}

    def sweep(self) -> None:
        """Judge all turns against the clock; runs once a second by itself."""
        now = self._clock()
        for run in list(self._runs.values()):
            if run.task is not None:
                run.inspect(now)
            elif now - run.queued_at > QUEUE_EXPIRY_S and run.stop_reason is None:
                self._withdraw(run, EndReason.ERROR)
        for turn in self._admission.sweep(self._lag_ms()):
            self._refuse_waiting(self._runs[turn.id])
        self._tell_places()
        self._forget_ended(now)
        if self.billing is not None:
            self.billing.ledger.sweep()
        if self._engine is not None:
            self._engine.recheck()

    def _forget_ended(self, now: float) -> None:
        while self._kept:
            first = next(iter(self._kept))
            if len(self._kept) <= MAX_KEPT and now - self._kept[first][0] <= self._config.keep_s:
                break
            del self._kept[first]

    def _tell_places(self) -> None:
        for place, turn in enumerate(islice(self._admission.in_order(), MAX_RANKED), 1):
            self._runs[turn.id].tell_place(place)

    # --- inside ------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(SWEEP_S, self._tick)
        self.sweep()

    def _has_room(self, turn: Turn) -> bool:
        return self._engine is not None and self._engine.has_room(turn.request)

    def _is_closed(self, turn: Turn) -> bool:
        return self._engine is not None and self._engine.is_closed(turn.request)

    def _is_listed(self, provider: str, model: str) -> bool:
        return self._router is not None and self._router.is_listed(provider, model)

    def _gauges(self) -> list[SlotGauge]:
        return self._engine.slots() if self._engine is not None else []

    def _wake(self) -> None:
        """Start what fits at the loop's next round."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_soon(self._launch_waiting)

    def _note_watcher_error(self) -> None:
        self.stats.watcher_errors += 1

    def _launch(self, engine: EngineRegistry, run: TurnRun) -> None:
        """Start the task of a turn that admission counts as running."""
        job = self._jobs[run.turn.id] = engine.reserve(run.turn.request)
        name = f"turn-{run.turn.id}"
        run.task = asyncio.get_running_loop().create_task(self._drive(run, job), name=name)
        run.task.add_done_callback(partial(self._task_done, run))

    async def _drive(self, run: TurnRun, job: Job) -> None:
        """Run one turn to its outcome. The only place where a turn's task lives."""
        run.start()
        self.stats.started += 1
        self.stats.note_wait(run.watch.started_at - run.queued_at)
        try:
            outcome = await self._refused(run) or await job.run(run)
        except asyncio.CancelledError:
            outcome = run.stopped()
        except Exception:
            log.exception("turn.crashed", extra={"turn": run.turn.id})
            text = "Something went wrong while answering. Ask again; tell the operator if it stays."
            outcome = run.outcome(EndReason.ERROR, code=Code.INTERNAL, error=text, retry_ms=1000)
        if run.guard is not None:
            verdict = await run.guard.finish()
            if verdict is not None:
                run.turn.retract()
                outcome = run.moderated(Stage.OUTPUT, verdict, outcome.usage)
        self._finish(run, outcome)

    async def _refused(self, run: TurnRun) -> Outcome | None:
        """Have the question looked at; return the outcome if nobody may be asked."""
        moderation, turn = self.moderation, run.turn
        if moderation is None or turn.request.priority is Priority.BACKGROUND:
            return None
        judged = await moderation.question(turn.request)
        if isinstance(judged, Verdict):
            return run.moderated(Stage.INPUT, judged)
        turn.request = judged
        if Stage.OUTPUT in moderation.stages:
            run.guard = OutputGuard(moderation, turn, partial(run.stop, EndReason.FILTERED))
        return None

    def _task_done(self, run: TurnRun, task: asyncio.Task[None]) -> None:
        """A task cancelled before its first step never ran `_drive`: end its turn here."""
        if run.turn.outcome is None:
            self._finish(run, run.stopped())
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("turn.task_failed", exc_info=error, extra={"turn": run.turn.id})

    def _withdraw(self, run: TurnRun, reason: EndReason) -> None:
        """End a waiting turn; its watcher is told at the loop's next round."""
        if run.stop_reason is None and self._admission.withdraw(run.turn):
            run.stop_reason = reason
            asyncio.get_running_loop().call_soon(self._finish, run, self._withdrawn(run))

    def _refuse_waiting(self, run: TurnRun) -> None:
        """Send away who waits too long in a queue that does not get shorter."""
        refusal = busy(DEFAULT_RETRY_MS)
        run.failure = ProviderFailure(
            "queue_stale", refusal.text, code=refusal.code, retry_after_s=DEFAULT_RETRY_MS / 1000
        )
        self.stats.note_refusal(refusal.code)
        self._withdraw(run, EndReason.ERROR)

    def _withdrawn(self, run: TurnRun) -> Outcome:
        if run.failure is not None:
            return run.failed(run.failure)
        if run.stop_reason is EndReason.ERROR:
            text = "Nobody was free to answer for a long time. Ask again in a moment."
            return run.outcome(EndReason.ERROR, code=Code.BUSY, error=text, retry_ms=5000)
        return run.stopped()

    def _finish(self, run: TurnRun, outcome: Outcome) -> None:
        turn = run.turn
        if turn.outcome is not None:
            return
        if run.tab is not None:
            outcome = run.tab.close(outcome)
        if run.stop_reason is EndReason.CANCELLED and run.stopped_at is not None:
            self.stats.cancel_to_close_ms.note((self._clock() - run.stopped_at) * 1000)
        run.end(outcome)
        del self._runs[turn.id]
        self._kept[turn.id] = (self._clock(), turn)
        job = self._jobs.pop(turn.id, None)
        engine = job.engine if job is not None else NO_ENGINE
        self.stats.note(outcome, engine, run.estimates)
        self._log_end(turn, outcome, engine)
        self.on_end(turn, outcome)
        # Kept for its answer; what was asked would weigh ten times as much.
        turn.request = structs.replace(
            turn.request, history=(), memories=(), summary="", caller_tools=None
        )
        if job is not None:
            job.release()
            self._admission.release(turn)
        self._launch_waiting()
        self._idle.set()

    def _launch_waiting(self) -> None:
        self._waking = None
        engine = self._engine
        while engine is not None and not self._closing:
            turn = self._admission.pop()
            if turn is None:
                break
            self._launch(engine, self._runs[turn.id])

    def _log_end(self, turn: Turn, outcome: Outcome, engine: str) -> None:
        log.info(
            "turn.ended",
            extra={
                "turn": turn.id,
                "request": turn.request.request_id,
                "reason": outcome.reason.name.lower(),
                "code": outcome.code.name.lower() if outcome.code is not None else "",
                "engine": engine,
                "provider": outcome.provider,
                "model": outcome.model,
                "attempts": outcome.attempts,
                "ttft_ms": outcome.ttft_ms,
                "duration_ms": outcome.duration_ms,
            },
        )


_SLOT_FIELDS = ("max_streams", "retry_base_s", "retry_max_s", "demo_words_per_s")
"""Settings of the bridge that slots are made with."""


async def _completed(config: BridgeConfig) -> BridgeConfig:
    """Return the configuration with what was found on this machine and what services list."""
    if config.detect:
        config = await with_detected(config)
    return await with_listed(config)


def _names(services: Iterable[Service]) -> list[str]:
    return [service.config.name for service in services]
