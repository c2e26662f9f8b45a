"""What the bridge counts, for the metrics page."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from msgspec import Struct, field

from ai_bridge.types import Outcome, Usage, UsageSource
from protocol.codes import Code, EndReason

WAIT_BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TTFT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
GAP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
TURN_BOUNDS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
NO_ENGINE = "none"
"""Label of turns that ended before an engine had them, and of those that asked no provider."""
OTHER = "other"
"""Label of what is not told apart: models that only a caller named, and pairs beyond the bound."""
MAX_PLACES = 100
"""Pairs of provider and model that are told apart."""
CLOSE_BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)


class Histogram(Struct):
    """How many values were at most each bound; the last count is of those above them all."""

    bounds: tuple[float, ...]
    counts: list[int] = []
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def note(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Key = TypeVar("Key")


class Estimate(NamedTuple):
    """What a call's prompt was estimated at and what its provider told, in tokens."""

    provider: str
    model: str
    estimated: int
    told: int


def _histogram(bounds: tuple[float, ...]) -> Histogram:
    return field(default_factory=lambda: Histogram(bounds))


class SlotGauge(Struct, frozen=True):
    """A slot as it is now. `breaker`: 0 closed, 1 half open, 2 open; `name` says no secret."""

    name: str
    limit: int
    running: int
    closed: bool
    breaker: int


def _no_slots() -> Iterable[SlotGauge]:
    return ()


def _no_depth() -> dict[str, int]:
    return {}


def _no_streams() -> int:
    return 0


def _none_listed(provider: str, model: str) -> bool:
    return False


class BridgeStats(Struct):
    """Counters since the start, histograms, and readings of the present.

    `*_ms_sum` over `*_count` gives means. Keys of the mappings come from closed sets: a model that
    no configuration or list names (`is_listed`) is OTHER, and so are pairs beyond MAX_PLACES.
    """

    submitted: int = 0
    refused: int = 0
    started: int = 0
    ended: int = 0
    ended_stop: int = 0
    ended_length: int = 0
    ended_cancelled: int = 0
    ended_filtered: int = 0
    ended_error: int = 0
    ended_interrupted: int = 0
    retries: int = 0
    failovers: int = 0
    retries_denied: int = 0
    queue_wait_ms_sum: int = 0
    ttft_count: int = 0
    ttft_ms_sum: int = 0
    duration_ms_sum: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_usage: int = 0
    watcher_errors: int = 0
    retries_by: dict[str, int] = {}
    refused_by: dict[str, int] = {}
    ended_by: dict[tuple[str, ...], int] = {}
    """By (engine, provider, model, reason)."""
    tokens_by: dict[tuple[str, ...], int] = {}
    """By (kind, source); cached ones are a part of the prompt's, reasoning of the completion's."""
    estimates_by: dict[tuple[str, ...], int] = {}
    """By (provider, model, which): sums of tokens estimated, told, and of their differences."""
    queue_wait: Histogram = _histogram(WAIT_BOUNDS_S)
    ttft: Histogram = _histogram(TTFT_BOUNDS_S)
    token_gap: Histogram = _histogram(GAP_BOUNDS_S)
    turn_seconds: Histogram = _histogram(TURN_BOUNDS_S)
    cancel_to_close_ms: Histogram = _histogram(CLOSE_BOUNDS_MS)
    slots: Callable[[], Iterable[SlotGauge]] = _no_slots
    queue_depth: Callable[[], dict[str, int]] = _no_depth
    stream_limit: Callable[[], int] = _no_streams
    is_listed: Callable[[str, str], bool] = _none_listed
    places: set[tuple[str, str]] = set()
    """Pairs of provider and model that are told apart so far."""

    def note(
        self, outcome: Outcome, engine: str = NO_ENGINE, estimates: Iterable[Estimate] = ()
    ) -> None:
        """Count an ended turn."""
        self.ended += 1
        place = self._place(outcome.provider, outcome.model)
        _add(self.ended_by, (engine, *place, outcome.reason.name.lower()))
        self._note_tokens(outcome.usage)
        for estimate in estimates:
            self._note_estimate(estimate)
        name = _NAMES[outcome.reason]
        setattr(self, name, getattr(self, name) + 1)
        if outcome.ttft_ms >= 0:
            self.ttft_count += 1
            self.ttft_ms_sum += outcome.ttft_ms
            self.ttft.note(outcome.ttft_ms / 1000)
        self.duration_ms_sum += outcome.duration_ms
        if outcome.attempts:
            self.turn_seconds.note(outcome.duration_ms / 1000)
        self.prompt_tokens += outcome.usage.prompt
        self.completion_tokens += outcome.usage.completion
        self.estimated_usage += outcome.usage.source is UsageSource.ESTIMATED

    def _note_tokens(self, usage: Usage) -> None:
        source = usage.source.name.lower()
        for kind in ("prompt", "completion", "cached", "reasoning"):
            if tokens := getattr(usage, kind):
                _add(self.tokens_by, (kind, source), tokens)

    def _note_estimate(self, one: Estimate) -> None:
        place = self._place(one.provider, one.model)
        _add(self.estimates_by, (*place, "estimated"), one.estimated)
        _add(self.estimates_by, (*place, "told"), one.told)
        _add(self.estimates_by, (*place, "difference"), abs(one.estimated - one.told))

    def _place(self, provider: str, model: str) -> tuple[str, str]:
        """Return the labels of a provider and its model."""
        if not provider:
            return NO_ENGINE, NO_ENGINE
        place = provider, model if self.is_listed(provider, model) else OTHER
        if place not in self.places:
            if len(self.places) >= MAX_PLACES:
                return OTHER, OTHER
            self.places.add(place)
        return place

    def note_retry(self, kind: str) -> None:
        """Count an attempt after a failed one."""
        self.retries += 1
        _add(self.retries_by, kind)

    def note_refusal(self, code: Code) -> None:
        """Count a turn that was not accepted, or sent away from the queue."""
        self.refused += 1
        _add(self.refused_by, code.name.lower())

    def note_wait(self, seconds: float) -> None:
        """Count a turn that left the queue."""
        self.queue_wait_ms_sum += round(seconds * 1000)
        self.queue_wait.note(seconds)

    def as_dict(self) -> dict[str, int]:
        """Return the plain counters."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in values if isinstance(value, int)}


def _add(counts: dict[Key, int], key: Key, more: int = 1) -> None:
    counts[key] = counts.get(key, 0) + more


_NAMES = {reason: f"ended_{reason.name.lower()}" for reason in EndReason}
