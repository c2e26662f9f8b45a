"""The standard engine: context, then providers in order until one answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ai_bridge.config import BridgeConfig
from ai_bridge.context import Context, build_context
from ai_bridge.errors import AnswerFull, ProviderFailure
from ai_bridge.providers.base import CallEnd, ModelCall
from ai_bridge.retry import RetryPlan
from ai_bridge.router import Router, Slot, SlotLease
from ai_bridge.run import TurnRun
from ai_bridge.stats import BridgeStats
from ai_bridge.types import ModelInfo, Outcome, TurnRequest
from protocol.codes import Code, EndReason, StreamPart

log = logging.getLogger("parlance.ai")


class ChatEngine:
    """Answers from persona prompt and history. Holds no state between turns."""

    def __init__(
        self,
        config: BridgeConfig,
        router: Router,
        *,
        stats: BridgeStats,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self.router = router
        self.stats = stats
        self.sleep = sleep

    def check(self, request: TurnRequest) -> None:
        self.router.model_of(request.params.model)

    def has_room(self, request: TurnRequest) -> bool:
        return self.router.has_room(request.params.model)

    def reserve(self, request: TurnRequest) -> ChatJob:
        return ChatJob(self, self.router.reserve(request.params.model))

    def models(self) -> list[ModelInfo]:
        return self.router.models()

    def health(self) -> dict[str, dict[str, Any]]:
        return {slot.config.name: slot.health() for slot in self.router.slots}

    async def start(self) -> None:
        """Nothing to open: connections are made when a turn needs one."""

    async def aclose(self) -> None:
        for slot in self.router.slots:
            await slot.backend.aclose()


class ChatJob:
    """One turn of the chat engine: attempts along the candidates of its lease."""

    def __init__(self, engine: ChatEngine, lease: SlotLease) -> None:
        self._engine = engine
        self._lease = lease

    def release(self) -> None:
        self._lease.release()

    async def run(self, run: TurnRun) -> Outcome:
        config = self._engine.config
        plan = RetryPlan(
            self._lease,
            max_retries=config.max_retries,
            base_s=config.retry_base_s,
            max_s=config.retry_max_s,
        )
        while True:
            try:
                end = await self._attempt(run, shrink=plan.shrink)
            except AnswerFull:
                return run.outcome(EndReason.LENGTH)
            except ProviderFailure as failure:
                pause_s = self._recover(run, plan, failure)
                if pause_s is None:
                    return run.failed(failure)
                if pause_s > 0:
                    await self._engine.sleep(pause_s)
            else:
                return _outcome(run, end)

    def _recover(self, run: TurnRun, plan: RetryPlan, failure: ProviderFailure) -> float | None:
        """Return the pause before the next attempt, None if this was the last."""
        pause_s = None if run.visible else plan.pause_after(failure)
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
                "again": pause_s is not None,
            },
        )
        if pause_s is not None:
            self._engine.stats.retries += 1
        return pause_s

    async def _attempt(self, run: TurnRun, *, shrink: bool) -> CallEnd:
        """Call the lease's slot once."""
        lease = self._lease
        slot = lease.slot
        context = self._context(run.turn.request, slot, shrink=shrink)
        run.prompt_tokens = context.tokens
        call = ModelCall(request=run.turn.request, model=lease.model, messages=context.messages)
        run.begin_attempt(slot.config.name, lease.model, slot.config.ttft_s)
        try:
            end = await slot.backend.stream(call, run)
        except asyncio.CancelledError:
            failure = run.take_failure()
            if failure is None:
                raise
            slot.note_failure(failure)
            raise failure from None
        except ProviderFailure as failure:
            slot.note_failure(failure)
            raise
        finally:
            run.end_attempt()
        slot.note_success()
        return end

    def _context(self, request: TurnRequest, slot: Slot, *, shrink: bool) -> Context:
        window = self._engine.router.window_tokens(slot)
        return build_context(
            request,
            window_tokens=window // 2 if shrink else window,
            answer_tokens=self._engine.config.answer_tokens,
            history_messages=self._engine.config.history_messages,
        )


def _outcome(run: TurnRun, end: CallEnd) -> Outcome:
    """Explain a call that ended properly, also one that brought nothing to read."""
    if end.finish is EndReason.FILTERED:
        text = "The AI service's content filter stopped this answer. Ask in other words."
        return run.outcome(end.finish, code=Code.REFUSED, error=text, usage=end.usage)
    if end.finish is EndReason.STOP and run.turn.size(StreamPart.ANSWER) == 0:
        text = "The model answered with nothing. Ask again or choose another model."
        return run.outcome(
            EndReason.ERROR, code=Code.MODEL_UNAVAILABLE, error=text, usage=end.usage,
            retry_ms=1000,
        )  # fmt: skip
    return run.outcome(end.finish, usage=end.usage)
