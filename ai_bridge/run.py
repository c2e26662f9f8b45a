"""A turn in the bridge's hands: where the engine's text goes and how it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ai_bridge.billing import Tab
from ai_bridge.errors import AnswerFull, ProviderFailure
from ai_bridge.moderation import UNCHECKED, Stage, Verdict
from ai_bridge.output_guard import OutputGuard
from ai_bridge.speaker import NamePrefix
from ai_bridge.stats import Estimate, Histogram
from ai_bridge.tokens import estimate_tokens
from ai_bridge.tools.events import ToolEvent
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, ToolCall, Usage, UsageSource
from ai_bridge.watchdog import (
    TAIL_CHARS,
    Deadlines,
    Watch,
    is_loop,
    looping,
    thought_too_long,
)
from protocol.codes import Code, EndReason, StreamPart, StreamState

log = logging.getLogger("parlance.ai")

_NEVER_ASKED = frozenset({"connect", "bad_request_head"})
"""Failures before a provider could take the request."""
_MODERATED = {
    Stage.INPUT: "Your message is against the rules of this server, so the AI was not asked. "
    "Ask in other words.",
    Stage.OUTPUT: "The answer was against the rules of this server and was taken back. "
    "Ask in other words.",
}
_UNCHECKED = {
    Stage.INPUT: "Your message could not be checked against the rules of this server, so the AI "
    "was not asked. Ask again in a moment; tell the operator if it stays.",
    Stage.OUTPUT: "The answer could not be checked against the rules of this server and was taken "
    "back. Ask again in a moment; tell the operator if it stays.",
}


class TurnWatcher(Protocol):
    """Follows a turn. Called on the event loop: be quick, do not wait.

    What a call raises is logged and counted; it never harms the turn.
    """

    def turn_started(self, turn: Turn) -> None:
        """The turn left the queue. Not called if it ends while queued."""

    def turn_changed(self, turn: Turn) -> None:
        """Text grew; at most once per read from the provider."""

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        """The turn is over; called exactly once, whatever happened."""


@runtime_checkable
class QueueWatcher(Protocol):
    """What a watcher may know besides, to show people their place in the queue."""

    def turn_queued(self, turn: Turn, place: int) -> None:
        """The turn waits at this place (1 is next); told when it changed, once a second at most.

        Places beyond the first few hundred are not told.
        """


class TurnRun:
    """One admitted or waiting turn. Owned by the bridge; the engine writes into it.

    Attributes:
        calls: tools that the model of the running attempt wants run.
        estimates: of prompts whose true length a provider told, one for each call.
        prompt_tokens: estimate that the engine leaves for accounting.
        stop_reason: why somebody stopped the turn from outside, None while nobody did.
        failure: the watchdog's verdict that interrupts the running attempt.
        guard: looks at the answer while it is made; None where nobody does.
        tab: what the turn costs; None where nobody counts.
        tool_events: what became of the tools so far.
        tainted: text from outside was read: nothing may be learnt from this turn.
        place: the place in the queue that the watcher was told, 0 for none.
        stopped_at: when somebody stopped the turn from outside.
    """

    __slots__ = (
        "_between",
        "_clock",
        "_counted_bytes",
        "_counted_calls",
        "_dirty",
        "_first_at",
        "_gaps",
        "_on_answer",
        "_prefix",
        "_spent",
        "_visible",
        "calls",
        "estimates",
        "failure",
        "guard",
        "model",
        "on_watcher_error",
        "place",
        "prompt_tokens",
        "provider",
        "queued_at",
        "stop_reason",
        "stopped_at",
        "tab",
        "tainted",
        "task",
        "tool_events",
        "turn",
        "watch",
        "watcher",
    )

    def __init__(
        self,
        turn: Turn,
        watcher: TurnWatcher,
        *,
        clock: Callable[[], float],
        deadlines: Deadlines,
        on_watcher_error: Callable[[], None],
        gaps: Histogram | None = None,
    ) -> None:
        now = clock()
        self.turn = turn
        self.watcher = watcher
        self.on_watcher_error = on_watcher_error
        self.watch = Watch(deadlines, now)
        self.queued_at = now
        self.task: asyncio.Task[None] | None = None
        self.stop_reason: EndReason | None = None
        self.failure: ProviderFailure | None = None
        self.provider = ""
        self.model = ""
        self.prompt_tokens = 0
        self.tab: Tab | None = None
        self.guard: OutputGuard | None = None
        self.calls: list[ToolCall] = []
        self.estimates: list[Estimate] = []
        self.tool_events: list[ToolEvent] = []
        self.tainted = False
        self.place = 0
        self.stopped_at: float | None = None
        self._clock = clock
        self._gaps = gaps
        self._on_answer: Callable[[float], None] | None = None
        self._prefix: NamePrefix | None = None
        self._visible = False
        self._between = ""
        self._spent: Usage | None = None
        self._counted_bytes = dict.fromkeys(StreamPart, 0)
        self._counted_calls = 0
        self._first_at: float | None = None
        self._dirty = False

    # --- the engine's side -------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When the whole turn must be over, by the bridge's clock."""
        return self.watch.started_at + self.watch.deadlines.total_s

    @property
    def visible(self) -> bool:
        """Whether a viewer has seen anything of this round: no retry and no failover any more."""
        return self._visible

    def begin_round(self) -> None:
        """Another call of the model follows in this turn, after its tools have run."""
        self._visible = False
        self._between = "\n\n" if self.turn.size() else ""

    def end_round(self, usage: Usage | None) -> Usage:
        """Add what a call of the model cost (None: estimate it); return the turn's sum so far."""
        if usage is None:
            usage = self._unreported()
        elif usage.source is UsageSource.PROVIDER and usage.prompt and self.prompt_tokens:
            told = Estimate(self.provider, self.model, self.prompt_tokens, usage.prompt)
            self.estimates.append(told)
        self._spent = usage if self._spent is None else _sum(self._spent, usage)
        self._counted_bytes = {part: self.turn.size(part) for part in StreamPart}
        self._counted_calls = len(self.calls)
        self.prompt_tokens = 0
        if self.tab is not None:
            self.tab.book(self.provider, self.model, usage)
        return self._spent

    def cover(self, provider: str, model: str, prompt_tokens: int) -> None:
        """Set aside what the next call can cost, and note what its prompt is estimated at.

        Raises:
            ProviderFailure: budget_exceeded; it must not be made.
        """
        if self.tab is not None:
            self.tab.cover(provider, model, prompt_tokens)
        self.prompt_tokens = prompt_tokens

    def lose_attempt(self, failure: ProviderFailure) -> None:
        """An attempt failed: count what the provider bills for it, as far as can be told.

        A refusal costs nothing. Who took the request is paid for the prompt and for what came.
        """
        if failure.status >= 400 or failure.kind in _NEVER_ASKED:
            self.prompt_tokens = 0
        else:
            self.end_round(None)

    def begin_attempt(
        self,
        provider: str,
        model: str,
        ttft_s: float,
        on_answer: Callable[[float], None] | None = None,
    ) -> None:
        """A provider is asked; `on_answer` is told the seconds to the first piece, once."""
        self.provider = provider
        self.model = model
        self.turn.attempt += 1
        self.calls.clear()
        self._counted_calls = 0
        request = self.turn.request
        self._prefix = NamePrefix(request.persona.name) if request.speakers else None
        self._on_answer = on_answer
        self.watch.begin_attempt(self._clock(), ttft_s)

    def end_attempt(self, *, answered: bool = False) -> None:
        """The attempt is over; `answered`: it came to its proper end, perhaps without a piece."""
        if answered:
            self._note_answer(self._clock())
            if self._prefix is not None:
                self._append(StreamPart.ANSWER, self._prefix.eof())
        self._on_answer = None
        self.watch.end_attempt()

    def take_failure(self) -> ProviderFailure | None:
        """Return the watchdog's verdict if it, and nobody else, cancelled the running attempt.

        Takes the cancellation back, so that the task goes on.
        """
        failure = self.failure
        if failure is None or self.stop_reason is not None or self.task is None:
            return None
        self.failure = None
        self.task.uncancel()
        return failure

    def text(self, piece: str) -> None:
        if self._prefix is not None:
            now = self._clock()
            if self.watch.content_at is None:
                self._note_answer(now)
            self.watch.content_at = now
            piece = self._prefix.feed(piece)
        if self._between and piece:
            piece = self._between + piece
            self._between = ""
        self._append(StreamPart.ANSWER, piece)

    def reasoning(self, piece: str) -> None:
        self._append(StreamPart.REASONING, piece)

    def tool_call(self, call: ToolCall) -> None:
        self.writing_call()
        self.calls.append(call)

    def writing_call(self) -> None:
        """The model is at work, although there is nothing to show yet: long arguments take time."""
        now = self._clock()
        self._note_answer(now)
        self.watch.content_at = now

    def tool_event(self, event: ToolEvent) -> None:
        """Tell who watches what a tool does. No text of the answer: a retry stays possible."""
        self.tool_events.append(event)
        self.turn.append(StreamPart.TOOLS, event.line())
        self._dirty = True
        self.flush()

    def flush(self) -> None:
        if self._dirty:
            self._dirty = False
            try:  # as `_tell`, without its lambda: this runs for every token
                self.watcher.turn_changed(self.turn)
            except Exception:
                self._note_broken_watcher("turn_changed")

    def _append(self, part: StreamPart, piece: str) -> None:
        if not piece:
            return
        now = self._clock()
        watch = self.watch
        if watch.content_at is None:
            self._note_answer(now)
        elif self._gaps is not None:
            self._gaps.note(now - watch.content_at)
        if self._first_at is None:
            self._first_at = now
        watch.content_at = now
        self._visible = True
        self._dirty = True
        if self.guard is not None:
            self.guard.grew(len(piece))
        if not self.turn.append(part, piece):
            self.flush()
            raise AnswerFull

    def _note_answer(self, now: float) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(now - self.watch.attempt_at)

    # --- the bridge's side -------------------------------------------------------------------

    def start(self) -> None:
        self.watch.started_at = self._clock()
        self.turn.state = StreamState.RUNNING
        self._tell("turn_started", lambda: self.watcher.turn_started(self.turn))

    def tell_place(self, place: int) -> None:
        """Tell a watcher that wants to know the place in the queue, if it changed."""
        if place == self.place:
            return
        self.place = place
        watcher = self.watcher
        if isinstance(watcher, QueueWatcher):
            self._tell("turn_queued", lambda: watcher.turn_queued(self.turn, place))

    def stop(self, reason: EndReason) -> None:
        """End the task as soon as the loop comes round; the first reason given stays."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self.stopped_at = self._clock()
            if self.task is not None:
                self.task.cancel()

    def inspect(self, now: float) -> None:
        """Interrupt the running attempt if a deadline passed or the text goes in circles."""
        if self.task is None or self.failure is not None or self.stop_reason is not None:
            return
        verdict = self.watch.verdict(now) or self._thought_verdict() or self._loop_verdict()
        if verdict is not None:
            self.failure = verdict
            self.task.cancel()

    def _thought_verdict(self) -> ProviderFailure | None:
        most = self.watch.deadlines.reasoning_tokens
        if not most or self.turn.size(StreamPart.ANSWER):
            return None
        # Four bytes are about a token: a word piece of Latin script, 1.3 Chinese characters.
        thought = self.turn.size(StreamPart.REASONING) // 4
        return thought_too_long(most) if thought > most else None

    def _loop_verdict(self) -> ProviderFailure | None:
        sizes = {part: self.turn.size(part) for part in (StreamPart.ANSWER, StreamPart.REASONING)}
        if sum(sizes.values()) - self.watch.seen_bytes < TAIL_CHARS // 8:
            return None
        self.watch.seen_bytes = sum(sizes.values())
        part = StreamPart.ANSWER if sizes[StreamPart.ANSWER] else StreamPart.REASONING
        tail = self.turn.text_from(part, sizes[part] - 3 * TAIL_CHARS)[1]
        return looping() if is_loop(tail[-TAIL_CHARS:]) else None

    def end(self, outcome: Outcome) -> None:
        """Set the final state and tell the watcher, once."""
        if self.turn.outcome is None:
            self.flush()
            self.turn.outcome = outcome
            self.turn.state = StreamState.DONE
            self._tell("turn_ended", lambda: self.watcher.turn_ended(self.turn, outcome))

    def _tell(self, call: str, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            self._note_broken_watcher(call)

    def _note_broken_watcher(self, call: str) -> None:
        self.on_watcher_error()
        log.exception("turn.watcher_failed", extra={"turn": self.turn.id, "call": call})

    # --- outcomes ----------------------------------------------------------------------------

    def outcome(
        self,
        reason: EndReason,
        *,
        code: Code | None = None,
        error: str = "",
        usage: Usage | None = None,
        retry_ms: int = -1,
    ) -> Outcome:
        """Make the outcome with the figures known here; usage is estimated if none is given."""
        started = self.watch.started_at
        running = self.turn.state is not StreamState.QUEUED
        first = self._first_at
        return Outcome(
            reason=reason,
            code=code,
            error=error,
            provider=self.provider,
            model=self.model,
            usage=usage if usage is not None else self._estimated_usage(),
            ttft_ms=-1 if first is None else round((first - started) * 1000),
            duration_ms=round((self._clock() - started) * 1000) if running else 0,
            attempts=self.turn.attempt,
            retry_ms=retry_ms,
        )

    def failed(self, failure: ProviderFailure) -> Outcome:
        """Make the outcome of a failure that nothing could remedy."""
        retry_ms = failure.code.default_retry_ms
        if failure.retry_after_s is not None:
            retry_ms = round(failure.retry_after_s * 1000)
        return self.outcome(
            EndReason.ERROR, code=failure.code, error=failure.text, retry_ms=retry_ms
        )

    def moderated(self, stage: Stage, verdict: Verdict, usage: Usage | None = None) -> Outcome:
        """Make the outcome of a turn whose question or answer must not stand."""
        if verdict.why == UNCHECKED:
            text, code = _UNCHECKED[stage], Code.MODEL_UNAVAILABLE
            return self.outcome(
                EndReason.FILTERED, code=code, error=text, usage=usage, retry_ms=5000
            )
        text = _MODERATED[stage]
        return self.outcome(EndReason.FILTERED, code=Code.REFUSED, error=text, usage=usage)

    def stopped(self) -> Outcome:
        """Make the outcome of a turn whose task was cancelled."""
        if self.stop_reason is None and self.failure is not None:
            return self.failed(self.failure)
        if self.stop_reason is EndReason.CANCELLED:
            return self.outcome(EndReason.CANCELLED)
        text = "The server was stopped while it answered. Ask again or let it continue."
        return self.outcome(EndReason.INTERRUPTED, code=Code.DRAINING, error=text, retry_ms=1000)

    def _estimated_usage(self) -> Usage:
        if self.turn.attempt == 0:
            return Usage()
        rest = self._unreported()
        return rest if self._spent is None else _sum(self._spent, rest)

    def _unreported(self) -> Usage:
        """Estimate what no provider has told yet."""
        parts = (StreamPart.ANSWER, StreamPart.REASONING)
        texts = [self.turn.text_from(part, self._counted_bytes[part])[1] for part in parts]
        texts += [call.name + call.args for call in self.calls[self._counted_calls :]]
        return Usage(prompt=self.prompt_tokens, completion=sum(map(estimate_tokens, texts)))


def _sum(left: Usage, right: Usage) -> Usage:
    """Add figures; they are the provider's own only if all are."""
    told = [one.source for one in (left, right) if one.prompt or one.completion]
    return Usage(
        prompt=left.prompt + right.prompt,
        completion=left.completion + right.completion,
        source=max(told, default=UsageSource.PROVIDER),
        cached=left.cached + right.cached,
        reasoning=left.reasoning + right.reasoning,
    )
