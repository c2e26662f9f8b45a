"""The standard engine: context, then providers in order until one answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from msgspec import structs

from ai_bridge.admission import turn_cost
from ai_bridge.config import BridgeConfig
from ai_bridge.context import Context, build_context
from ai_bridge.engines.base import EngineInfo
from ai_bridge.errors import AnswerFull, ProviderFailure
from ai_bridge.lease import SlotLease
from ai_bridge.limits import RetryBudget
from ai_bridge.providers.base import CallEnd, ModelCall
from ai_bridge.retry import RetryPlan
from ai_bridge.router import Router
from ai_bridge.run import TurnRun
from ai_bridge.slots import Slot
from ai_bridge.stats import BridgeStats, SlotGauge
from ai_bridge.tokens import TokenRatios
from ai_bridge.tools.loop import ToolLoop
from ai_bridge.tools.registry import DIALECTS, ToolSet, definition_tokens
from ai_bridge.types import ChatMessage, ModelInfo, Outcome, Priority, TurnRequest
from ai_bridge.wishes import UNSUPPORTED, demands_of
from protocol.codes import Code, EndReason, StreamPart

log = logging.getLogger("parlance.ai")

CHAT_ENGINE = EngineInfo("chat_engine", ("memory", "tools", "personality"))


class ChatEngine:
    """Answers from persona prompt and history. Keeps no turns, only what was learnt of models."""

    def __init__(
        self,
        router: Router,
        *,
        stats: BridgeStats,
        tools: ToolLoop | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.router = router
        self.stats = stats
        self.tools = tools
        self.sleep = sleep
        self.budget = RetryBudget(clock)
        self.ratios = TokenRatios()

    def check(self, request: TurnRequest) -> None:
        self.router.model_of(request.params.model, request.params.provider)

    def has_room(self, request: TurnRequest) -> bool:
        params = request.params
        return self.router.has_room(params.model, request.priority, params.provider)

    def is_closed(self, request: TurnRequest) -> bool:
        return self.router.is_closed(request.params.model, request.params.provider)

    def reserve(self, request: TurnRequest) -> ChatJob:
        lease = self.router.reserve(
            request.params.model,
            priority=request.priority,
            conv=request.conv,
            tokens=turn_cost(request, self.router.config.answer_tokens),
            only=request.params.provider,
        )
        return ChatJob(self, lease, self.router.config)

    def recheck(self) -> None:
        self.router.recheck()

    def slots(self) -> list[SlotGauge]:
        return self.router.gauges()

    def models(self) -> list[ModelInfo]:
        return self.router.models()

    def health(self) -> dict[str, dict[str, Any]]:
        return self.router.health()

    def info(self) -> EngineInfo:
        return CHAT_ENGINE

    async def complaint(self) -> str:
        """Say what recent calls tell: asking a provider would cost money."""
        providers = self.health().values()
        if any(provider.get("ok", True) for provider in providers):
            return ""
        if not providers:
            return "It has no AI service. Add one: parlance provider add."
        return "None of its AI services answers at present. See /health for what each reports."

    async def start(self) -> None:
        """Nothing to open: connections are made when a turn needs one."""

    async def aclose(self) -> None:
        """Nothing to close: the bridge owns the router, which engines share."""


class ChatJob:
    """One turn of the chat engine: model calls, each with attempts along the slots of its lease."""

    def __init__(self, engine: ChatEngine, lease: SlotLease, config: BridgeConfig) -> None:
        self._engine = engine
        self._lease = lease
        self._config = config

    def release(self) -> None:
        self._lease.release()

    async def run(self, run: TurnRun) -> Outcome:
        try:
            end = await self._talk(run)
        except AnswerFull:
            return run.outcome(EndReason.LENGTH)
        except ProviderFailure as failure:
            return run.failed(failure)
        return _outcome(run, end)

    async def _talk(self, run: TurnRun) -> CallEnd:
        """Call the model, and between its calls run the tools that it asks for."""
        loop = self._engine.tools
        request = run.turn.request
        # Who brings tools of his own runs them, and gets no others beside them.
        own = request.caller_tools is not None
        if loop is not None and not own and request.priority is not Priority.BACKGROUND:
            tools = loop.tools_for(request)
            if tools:
                return await loop.run(run, tools, partial(self._attempt, run))
        end = await self._attempt(run)
        return CallEnd(end.finish, run.end_round(end.usage), end.response_id)

    async def _attempt(
        self, run: TurnRun, exchange: tuple[ChatMessage, ...] = (), tools: ToolSet | None = None
    ) -> CallEnd:
        """Make one model call: retry and change slots until something of it is visible.

        Args:
            exchange: what follows the question: calls of tools, and what those said.

        Raises:
            ProviderFailure: nothing helped; what came before stays in the turn.
            AnswerFull: see `CallSink`.
        """
        self._engine.budget.note_request()
        self._lease.begin_call()
        plan = self._plan()
        if not self._lease.holds and not await self._lease.wait(run.deadline):
            raise self._engine.router.why_down(self._lease.choices)
        told: ProviderFailure | None = None
        while True:
            try:
                return await self._ask(run, exchange, tools, shrink=plan.shrink)
            except ProviderFailure as failure:
                if told is None or failure.kind != UNSUPPORTED:
                    told = failure  # who was passed over is not why there is no answer
                if not await self._recover(run, plan, failure):
                    raise told from None

    def _plan(self) -> RetryPlan:
        config = self._config
        return RetryPlan(
            self._lease,
            self._engine.budget,
            max_retries=config.max_retries,
            base_s=config.retry_base_s,
            max_s=config.retry_max_s,
        )

    async def _recover(self, run: TurnRun, plan: RetryPlan, failure: ProviderFailure) -> bool:
        """Make ready for another attempt; False if this was the last."""
        failovers = plan.failovers
        pause_s = None if run.visible else plan.pause_after(failure)
        again = pause_s is not None
        if pause_s:
            await self._engine.sleep(pause_s)
        if again and not self._lease.holds:
            again = await self._lease.wait(run.deadline)
        log.info(
            "turn.attempt_failed",
            extra={
                "turn": run.turn.id,
                "request": run.turn.request.request_id,
                "provider": run.provider,
                "model": run.model,
                "attempt": run.turn.attempt,
                "kind": failure.kind,
                "status": failure.status,
                "again": again,
            },
        )
        if again:
            self._engine.stats.note_retry(failure.kind)
            self._engine.stats.failovers += plan.failovers - failovers
        self._engine.stats.retries_denied = self._engine.budget.refused
        return again

    async def _ask(
        self,
        run: TurnRun,
        exchange: tuple[ChatMessage, ...],
        tools: ToolSet | None,
        *,
        shrink: bool,
    ) -> CallEnd:
        """Call the lease's slot once."""
        slot = self._lease.slot
        request = run.turn.request
        demands = demands_of(request, slot.config, slot.model)
        offered = demands.tools
        tool_tokens = demands.tokens
        choice = demands.tool_choice
        if tools is not None:
            offered = tools.defs(DIALECTS[slot.config.kind])
            tool_tokens += definition_tokens(offered)
            choice = "none" if tools.closed else "auto"
        shown = request
        if exchange:
            shown = structs.replace(request, history=(*request.history, *exchange))
        context = self._context(shown, slot, tool_tokens, shrink=shrink)
        run.cover(slot.config.name, slot.model, context.tokens + tool_tokens)
        call = ModelCall(
            request=request,
            model=slot.model,
            messages=context.messages,
            tools=offered,
            tool_choice=choice,
            parallel_calls=demands.parallel_calls,
            format=demands.format,
        )
        run.begin_attempt(slot.config.name, slot.model, slot.config.ttft_s, slot.note_answer)
        answered = False
        try:
            end = await slot.backend.stream(call, run)
            answered = True
        except asyncio.CancelledError:
            failure = run.take_failure()
            if failure is None:
                raise
            slot.note_failure(failure)
            run.lose_attempt(failure)
            raise failure from None
        except ProviderFailure as failure:
            slot.note_failure(failure)
            run.lose_attempt(failure)
            raise
        except AnswerFull:
            slot.note_success()
            raise
        finally:
            run.end_attempt(answered=answered)
        slot.note_success()
        self._lease.stick()
        # What is estimated otherwise than by its text teaches nothing about texts.
        if not tool_tokens and not any(message.images for message in context.messages):
            self._learn(slot.model, context, end)
        return end

    def _learn(self, model: str, context: Context, end: CallEnd) -> None:
        if end.usage is not None:
            self._engine.ratios.learn(model, context.raw_tokens, end.usage.prompt)

    def _context(
        self, request: TurnRequest, slot: Slot, tool_tokens: int, *, shrink: bool
    ) -> Context:
        window = self._engine.router.window_tokens(slot)
        return build_context(
            request,
            window_tokens=window // 2 if shrink else window,
            answer_tokens=self._config.answer_tokens,
            history_messages=self._config.history_messages,
            rules=self._config.rules if _is_persona(request) else "",
            tool_tokens=tool_tokens,
            ratio=self._engine.ratios.get(slot.model),
        )


def _is_persona(request: TurnRequest) -> bool:
    """Tell whether a persona answers somebody: no bare model, and no work behind the scenes."""
    return request.persona.id != 0 and request.priority is not Priority.BACKGROUND


def _outcome(run: TurnRun, end: CallEnd) -> Outcome:
    """Explain a call that ended properly, also one that brought nothing to read."""
    if end.finish is EndReason.FILTERED:
        text = "The AI service's content filter stopped this answer. Ask in other words."
        return run.outcome(end.finish, code=Code.REFUSED, error=text, usage=end.usage)
    caller = run.turn.request.caller_tools
    if caller is not None and run.calls:
        calls = run.calls if caller.parallel else run.calls[:1]
        return structs.replace(run.outcome(end.finish, usage=end.usage), calls=tuple(calls))
    if end.finish is EndReason.STOP and run.turn.size(StreamPart.ANSWER) == 0:
        text = "The model answered with nothing. Ask again or choose another model."
        return run.outcome(
            EndReason.ERROR, code=Code.MODEL_UNAVAILABLE, error=text, usage=end.usage,
            retry_ms=1000,
        )  # fmt: skip
    return run.outcome(end.finish, usage=end.usage)
