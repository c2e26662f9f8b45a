"""What may go to a model, and what may stand as its answer: who is asked, and what follows.

A check is a question with a short deadline. What happens when nobody answers it is the operator's
choice: with `fail_open` the text passes, otherwise it is held back. Checkers: moderators.py;
answers while they come: output_guard.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from enum import IntEnum, StrEnum
from typing import Protocol

from msgspec import Struct, field, structs

from ai_bridge.errors import ProviderFailure
from ai_bridge.fair_gate import FairGate, GateFull
from ai_bridge.stats import Histogram
from ai_bridge.types import ChatMessage, Role, TurnRequest

log = logging.getLogger("parlance.ai")

MAX_CHARS = 160_000
"""Of one text. A longer one is held back: nobody could tell in time what is in it."""
EARLIER_CHARS = 10_000
"""Of what was said since the last answer, before the question; the newest."""
MAX_REFUSED = 10_000
"""Refused questions that are remembered, by their digest; the oldest are forgotten."""
TIMEOUT_S = 1.5
AT_ONCE = 32
WAITING = 512
PAUSE_AFTER_FAILURES = 3
PAUSE_S = 10.0
BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 5.0)

UNCHECKED = "unchecked"
"""`Verdict.why` where nobody could tell."""
TOO_LONG = "too_long"


class Stage(StrEnum):
    INPUT = "input"
    """What a person asks, before a provider is asked."""
    OUTPUT = "output"
    """An answer, while it comes and when it is over."""


class Action(IntEnum):
    """What is to be done with a text, by rising severity."""

    ALLOW = 0
    FLAG = 1
    """Let it pass and tell the operator."""
    REPLACE = 2
    BLOCK = 3


class Verdict(Struct, frozen=True):
    """What is thought of a text.

    `text` stands in the place of one that is replaced. `why` is a short word for the log.
    """

    action: Action
    text: str = ""
    why: str = ""


ALLOWED = Verdict(Action.ALLOW)


class Subject(Struct, frozen=True):
    """Whose text it is."""

    turn: int = 0
    tenant: int = 0
    user: int = 0
    conv: int = 0
    persona: int = 0

    @classmethod
    def of(cls, request: TurnRequest) -> Subject:
        """Return whose question or answer a turn is."""
        return cls(request.turn_id, request.tenant, request.user, request.conv, request.persona.id)


class Checker(Protocol):
    """Judges texts of at most `MAX_CHARS` characters. Cancelling a check leaves nothing open."""

    async def check(self, stage: Stage, text: str, subject: Subject) -> Verdict:
        """Judge one text.

        Raises:
            ProviderFailure: it cannot tell now.
        """
        ...

    async def aclose(self) -> None: ...


class ModerationStats(Struct):
    """Totals since the start; `checked` by stage and verdict, `failed` by kind of failure."""

    checked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=lambda: Histogram(BOUNDS_S))


class Moderation:
    """Asks checkers about texts and draws one verdict. Owns the checkers.

    One that failed three times in a row is left alone for ten seconds.

    Args:
        checkers: asked in this order; the first that blocks decides.
        stages: those that are checked; at others every text passes.
        fail_open: what no checker can judge passes.
        timeout_s: for one text at one checker, the wait for a place included.
        at_once: texts that are checked at a time; `WAITING` more wait, tenants in turn, for
            others there is no verdict.
    """

    def __init__(
        self,
        checkers: Iterable[Checker],
        *,
        stages: Iterable[Stage] = Stage,
        fail_open: bool = True,
        timeout_s: float = TIMEOUT_S,
        at_once: int = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = ModerationStats()
        self.stages = frozenset(stages)
        self.gate = FairGate(at_once, WAITING)
        self._asked = [_Asked(checker) for checker in checkers]
        self._fail_open = fail_open
        self._timeout_s = timeout_s
        self._clock = clock
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    def refused(self, text: str) -> bool:
        """Tell whether this process has refused this question: no model may read it later."""
        return bool(self._refused) and _digest(text) in self._refused

    async def check(self, stage: Stage, text: str, subject: Subject) -> Verdict:
        """Judge a text. Never fails; cancelling it leaves nothing open."""
        if stage not in self.stages or not text.strip():
            return ALLOWED
        began = self._clock()
        verdict = await self._judge(stage, text, subject)
        self.stats.seconds.note(self._clock() - began)
        word = verdict.action.name.lower()
        self.stats.checked[f"{stage}_{word}"] += 1
        if verdict.action is not Action.ALLOW:
            log.info(
                "moderation.verdict",
                extra={"turn": subject.turn, "stage": str(stage), "verdict": word,
                       "why": verdict.why},
            )  # fmt: skip
        return verdict

    async def question(self, request: TurnRequest) -> TurnRequest | Verdict:
        """Judge what a turn asks; return the request to go on with, or why it must not.

        Also looks at what people said between the last answer and the question, which nobody has
        looked at yet: the model is not shown it if it is bad. Nor is it shown what was refused.
        """
        history = request.history
        if self._refused:
            history = _without(history, self.refused)
        first, last = _asked(history)
        if last < 0:
            return request
        subject, question = Subject.of(request), history[last]
        earlier = "\n".join(one.text for one in history[first:last])[-EARLIER_CHARS:]
        verdict, before = await asyncio.gather(
            self.check(Stage.INPUT, question.text, subject),
            self.check(Stage.INPUT, earlier, subject),
        )
        if verdict.action is Action.BLOCK:
            if verdict.why != UNCHECKED:
                self._remember(question.text)
            return verdict
        if verdict.action is Action.REPLACE:
            question = structs.replace(question, text=verdict.text)
        kept = history[: last if before.action < Action.REPLACE else first]
        return structs.replace(request, history=(*kept, question, *history[last + 1 :]))

    async def aclose(self) -> None:
        """Close the checkers' connections; checks must have ended."""
        for asked in self._asked:
            await asked.checker.aclose()

    def _remember(self, text: str) -> None:
        self._refused[_digest(text)] = None
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    async def _judge(self, stage: Stage, text: str, subject: Subject) -> Verdict:
        if len(text) > MAX_CHARS:
            return Verdict(Action.BLOCK, why=TOO_LONG)
        worst = ALLOWED
        for asked in self._asked:
            verdict = await self._ask(asked, stage, text, subject)
            if verdict.action is Action.BLOCK:
                return verdict
            if verdict.action is Action.REPLACE:
                text = verdict.text
            if verdict.action >= worst.action:
                worst = verdict
        return worst

    async def _ask(self, asked: _Asked, stage: Stage, text: str, subject: Subject) -> Verdict:
        if self._clock() < asked.paused_until:
            return self._unjudged("paused")
        try:
            place = self.gate.enter(subject.tenant, subject.user)
            async with asyncio.timeout(self._timeout_s), place:
                verdict = await asked.checker.check(stage, text, subject)
        except GateFull:
            return self._unjudged("busy")
        except TimeoutError:
            why = "late"
        except ProviderFailure as failure:
            why = failure.kind
        except Exception:
            log.exception("moderation.crashed", extra={"turn": subject.turn})
            why = "crashed"
        else:
            asked.failures = 0
            return verdict
        asked.failures += 1
        if asked.failures >= PAUSE_AFTER_FAILURES:
            asked.failures = 0
            asked.paused_until = self._clock() + PAUSE_S
            log.warning("moderation.paused", extra={"reason": why, "seconds": PAUSE_S})
        return self._unjudged(why)

    def _unjudged(self, why: str) -> Verdict:
        self.stats.failed[why] += 1
        return Verdict(Action.ALLOW if self._fail_open else Action.BLOCK, why=UNCHECKED)


class _Asked:
    """A checker and how it fares."""

    __slots__ = ("checker", "failures", "paused_until")

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.failures = 0
        self.paused_until = 0.0


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _without(
    history: tuple[ChatMessage, ...], refused: Callable[[str], bool]
) -> tuple[ChatMessage, ...]:
    """Leave out refused messages of people; the last one is the question and is looked at anew."""
    last = _asked(history)[1]
    return tuple(
        one
        for at, one in enumerate(history)
        if at == last or one.role is not Role.USER or not refused(one.text)
    )


def _asked(history: tuple[ChatMessage, ...]) -> tuple[int, int]:
    """Return where the last run of people's messages begins, and its last one; -1 if none is."""
    last = len(history) - 1
    while last >= 0 and history[last].role is not Role.USER:
        last -= 1
    first = max(last, 0)
    while first and history[first - 1].role is Role.USER:
        first -= 1
    return first, last
