"""Deadlines and loops of running answers, judged once a second for all of them.

A read timeout of the HTTP client is no watchdog: keep-alive comments reset it, for ten minutes
with some providers. Only text counts here.
"""

from __future__ import annotations

from msgspec import Struct

from ai_bridge.errors import ProviderFailure, Remedy
from protocol.codes import Code

MIN_LOOP_CHARS = 240
MIN_LOOP_REPEATS = 8
MAX_LOOP_PERIOD_CHARS = 200
TAIL_CHARS = MIN_LOOP_REPEATS * MAX_LOOP_PERIOD_CHARS


class Deadlines(Struct, frozen=True):
    """Spans in seconds: to the first text, between texts, of the whole turn.

    `reasoning_tokens`: thoughts before the first word of the answer, 0: no bound.
    """

    ttft_s: float
    gap_s: float
    total_s: float
    reasoning_tokens: int = 0


class Watch:
    """When things happened in one turn. Times come from the bridge's clock."""

    __slots__ = ("attempt_at", "content_at", "deadlines", "seen_bytes", "started_at", "ttft_s",
                 "watched")  # fmt: skip

    def __init__(self, deadlines: Deadlines, now: float) -> None:
        self.deadlines = deadlines
        self.ttft_s = deadlines.ttft_s
        self.started_at = now
        self.attempt_at = now
        self.content_at: float | None = None
        self.watched = False  # a call of a provider is running
        self.seen_bytes = 0  # size at the last search for loops

    def begin_attempt(self, now: float, ttft_s: float) -> None:
        self.ttft_s = ttft_s or self.deadlines.ttft_s
        self.attempt_at = now
        self.content_at = None  # of an earlier call, perhaps before a tool ran
        self.watched = True

    def end_attempt(self) -> None:
        self.watched = False

    def verdict(self, now: float) -> ProviderFailure | None:
        """Return what to end the attempt (or the turn) with, None while all is well."""
        limits = self.deadlines
        if now - self.started_at > limits.total_s:
            return _too_long(limits.total_s)
        if not self.watched:
            return None
        if self.content_at is None:
            return _late(self.ttft_s) if now - self.attempt_at > self.ttft_s else None
        if now - self.content_at > limits.gap_s:
            return _stalled(limits.gap_s)
        return None


def _too_long(total_s: float) -> ProviderFailure:
    text = f"The answer took longer than {total_s:g} seconds and was cut. Ask for a shorter one."
    return ProviderFailure("total_timeout", text, remedy=Remedy.FAIL, code=Code.TIMEOUT)


def _late(ttft_s: float) -> ProviderFailure:
    text = (
        f"The AI service did not begin to answer within {ttft_s:g} seconds. "
        "Ask again in a moment or choose another model."
    )
    return ProviderFailure("ttft_timeout", text, code=Code.TIMEOUT)


def _stalled(gap_s: float) -> ProviderFailure:
    text = (
        f"The AI service sent nothing more for {gap_s:g} seconds, so the answer stops here. "
        "Ask it to continue."
    )
    return ProviderFailure("stalled", text, code=Code.TIMEOUT)


def thought_too_long(most: int) -> ProviderFailure:
    """The model thinks and thinks and says nothing."""
    text = (
        f"The model thought for more than {most:,} tokens without beginning to answer and was "
        "stopped. Ask a simpler question or choose another model."
    )
    return ProviderFailure("reasoning_cap", text, remedy=Remedy.FAIL)


def looping() -> ProviderFailure:
    """The model repeats itself without end."""
    text = "The model kept repeating itself and was stopped. Ask again in other words."
    return ProviderFailure("repetition", text, remedy=Remedy.FAIL)


def is_loop(tail: str) -> bool:
    """Tell whether the text ends in one piece said over and over.

    At least 8 times and 240 characters; blank and ruled pieces (table lines) do not count.
    """
    probe = tail[-16:]
    found = tail.rfind(probe, 0, len(tail) - 1)
    if found < 0 or len(probe) < 16:
        return False
    period = len(tail) - len(probe) - found
    if period > MAX_LOOP_PERIOD_CHARS:
        return False
    piece = tail[-period:]
    if not any(char.isalnum() for char in piece):
        return False
    repeats = max(MIN_LOOP_REPEATS, -(-MIN_LOOP_CHARS // period))
    return tail.endswith(piece * repeats)
