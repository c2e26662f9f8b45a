"""What the bridge counts, for the metrics page."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from msgspec import Struct, field

from ai_bridge.types import Outcome, UsageSource
from protocol.codes import Code, EndReason

WAIT_BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TTFT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
GAP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
NO_ENGINE = "none"
"""Label of turns that ended before an engine had them."""
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


class BridgeStats(Struct):
    """Counters since the start, histograms, and readings of the present.

    `*_ms_sum` over `*_count` gives means. Keys of the mappings come from closed sets.
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
    """By (engine, reason): both from closed sets."""
    queue_wait: Histogram = _histogram(WAIT_BOUNDS_S)
    ttft: Histogram = _histogram(TTFT_BOUNDS_S)
    token_gap: Histogram = _histogram(GAP_BOUNDS_S)
    cancel_to_close_ms: Histogram = _histogram(CLOSE_BOUNDS_MS)
    slots: Callable[[], Iterable[SlotGauge]] = _no_slots
    queue_depth: Callable[[], dict[str, int]] = _no_depth
    stream_limit: Callable[[], int] = _no_streams

    def note(self, outcome: Outcome, engine: str = NO_ENGINE) -> None:
        """Count an ended turn."""
        self.ended += 1
        key = engine, outcome.reason.name.lower()
        self.ended_by[key] = self.ended_by.get(key, 0) + 1
        name = _NAMES[outcome.reason]
        setattr(self, name, getattr(self, name) + 1)
        if outcome.ttft_ms >= 0:
            self.ttft_count += 1
            self.ttft_ms_sum += outcome.ttft_ms
            self.ttft.note(outcome.ttft_ms / 1000)
        self.duration_ms_sum += outcome.duration_ms
        self.prompt_tokens += outcome.usage.prompt
        self.completion_tokens += outcome.usage.completion
        self.estimated_usage += outcome.usage.source is UsageSource.ESTIMATED

    def note_retry(self, kind: str) -> None:
        """Count an attempt after a failed one."""
        self.retries += 1
        self.retries_by[kind] = self.retries_by.get(kind, 0) + 1

    def note_refusal(self, code: Code) -> None:
        """Count a turn that was not accepted, or sent away from the queue."""
        self.refused += 1
        name = code.name.lower()
        self.refused_by[name] = self.refused_by.get(name, 0) + 1

    def note_wait(self, seconds: float) -> None:
        """Count a turn that left the queue."""
        self.queue_wait_ms_sum += round(seconds * 1000)
        self.queue_wait.note(seconds)

    def as_dict(self) -> dict[str, int]:
        """Return the plain counters."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in values if isinstance(value, int)}


_NAMES = {reason: f"ended_{reason.name.lower()}" for reason in EndReason}
