"""Figures for operators, in Prometheus' text format.

The hot path counts in plain integers; everything here happens when somebody asks. Labels come
from closed sets, and a set that grows nevertheless is cut at `MAX_SERIES` (docs/behavior.md).
"""

import asyncio
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ai_bridge.stats import BridgeStats
    from storage.batcher import Stats

MAX_SERIES: Final = 200
LAG_PERIOD_S: Final = 0.05
LAG_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LAG_FADE: Final = 0.8  # a pause of 1 s is forgotten (below 100 ms) after half a second


class Figure(NamedTuple):
    """One counter or gauge; with a label, value maps what the label says to a number.

    Several labels are a tuple, and so are the keys of the mapping then.
    """

    kind: Literal["counter", "gauge"]
    name: str
    about: str
    value: float | Mapping[str, float] | Mapping[tuple[str, ...], float]
    label: str | tuple[str, ...] = ""


class Spread(NamedTuple):
    """One histogram: how many values fell below each bound; the last count is above them all."""

    name: str
    about: str
    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


Source = Callable[[], Iterable[Figure | Spread]]
"""Called for each reading of the page, on the loop; must be quick."""


class CoreFigures(NamedTuple):
    """What the core counts; None is not shown. Mappings go from names of a closed set."""

    connections: Mapping[str, int] = {}
    sessions: int = 0
    strangers: int = 0
    strangers_refused: int = 0
    frames_in: Mapping[str, int] = {}
    frames_out: int = 0
    pushes: int = 0
    bytes_in: int | None = None
    bytes_out: int = 0
    writes: int = 0
    outbox_bytes: int = 0
    outbox_dropped: int = 0
    outbox_resyncs: int = 0
    slow_closed: int = 0
    errors: Mapping[int, int] = {}
    closes: Mapping[int, int] = {}
    turns_running: int = 0
    turns_queued: int = 0
    streams: int = 0
    stream_deltas: int = 0
    log_dropped: int | None = None
    messages: int = 0
    sign_ins: int = 0
    refused_rate: int = 0
    refused_http: int = 0
    idle_closed_http: int = 0
    marks_dropped: int = 0


def core_figures(read: Callable[[], CoreFigures]) -> Source:
    """Return a source for the core's figures."""

    def figures() -> Iterator[Figure]:
        core = read()
        yield Figure("gauge", "connections", "Open connections.", core.connections, "transport")
        yield Figure("gauge", "sessions", "Signed-in sessions.", core.sessions)
        yield Figure("gauge", "strangers", "Connections not signed in.", core.strangers)
        yield Figure("counter", "strangers_refused", "Refused at once.", core.strangers_refused)
        yield Figure("counter", "messages", "Messages stored and pushed.", core.messages)
        yield Figure("counter", "sign_ins", "Sessions that signed in.", core.sign_ins)
        yield Figure("counter", "refused_rate", "Requests over the rate.", core.refused_rate)
        yield Figure("counter", "http_refused", "HTTP connections refused.", core.refused_http)
        text = "Idle HTTP connections closed to make room for others."
        yield Figure("counter", "http_idle_closed", text, core.idle_closed_http)
        yield Figure("counter", "marks_dropped", "Read cursors not taken.", core.marks_dropped)
        yield Figure("counter", "frames_in", "Frames from clients.", core.frames_in, "type")
        yield Figure("counter", "frames_out", "Frames written to clients.", core.frames_out)
        yield Figure("counter", "pushes", "Deliveries of pushes to sessions.", core.pushes)
        if core.bytes_in is not None:
            yield Figure("counter", "bytes_in", "Bytes from clients.", core.bytes_in)
        yield Figure("counter", "bytes_out", "Bytes to clients.", core.bytes_out)
        yield Figure("counter", "writes", "Writes to sockets.", core.writes)
        yield Figure("gauge", "outbox_bytes", "Bytes waiting for readers.", core.outbox_bytes)
        yield Figure("counter", "outbox_dropped", "Pushes dropped.", core.outbox_dropped)
        yield Figure("counter", "outbox_resyncs", "Slow readers resynced.", core.outbox_resyncs)
        yield Figure("counter", "slow_closed", "Slow readers closed.", core.slow_closed)
        yield Figure("counter", "errors", "Errors told.", _texts(core.errors), "code")
        yield Figure("counter", "closes", "Connections ended.", _texts(core.closes), "code")
        yield Figure("gauge", "turns_running", "AI answers running.", core.turns_running)
        yield Figure("gauge", "turns_queued", "AI answers waiting.", core.turns_queued)
        yield Figure("gauge", "streams", "Streams open to watchers.", core.streams)
        yield Figure("counter", "stream_deltas", "Pieces streamed.", core.stream_deltas)
        if core.log_dropped is not None:
            yield Figure("counter", "log_dropped", "Log lines dropped.", core.log_dropped)

    return figures


def _texts(numbers: Mapping[int, int]) -> dict[str, float]:
    return {str(int(code)): count for code, count in numbers.items()}


def store_figures(stats: "Stats") -> Source:
    """Return a source for what the store counts."""
    from storage.batcher import COMMIT_BUCKETS_S

    def figures() -> Iterator[Figure | Spread]:
        yield Figure("counter", "store_batches", "Transactions committed.", stats.batches)
        yield Figure("counter", "store_rows", "Writes committed.", stats.rows)
        yield Figure("counter", "store_retries", "Batches tried again.", stats.retries)
        yield Figure("counter", "store_careful", "Batches with repeats.", stats.careful)
        yield Figure("counter", "store_bisects", "Batches cut to find a bad row.", stats.bisects)
        yield Figure("counter", "store_dead_letters", "Rows given up.", stats.dead)
        yield Figure("counter", "store_refused", "Writes refused, queue full.", stats.refused)
        yield Figure("gauge", "store_queue_rows", "Writes waiting.", stats.queued_rows)
        yield Figure("gauge", "store_queue_bytes", "Bytes waiting.", stats.queued_bytes)
        yield Spread(
            "store_commit_seconds",
            "Time of one transaction.",
            COMMIT_BUCKETS_S,
            stats.commit_buckets,
            stats.commit_seconds,
        )

    return figures


def bridge_figures(stats: "BridgeStats") -> Source:
    """Return a source for what the AI bridge counts."""

    def figures() -> Iterator[Figure | Spread]:
        for name, value in stats.as_dict().items():
            if not name.startswith("ended_"):
                yield Figure("counter", f"ai_{name}", f"AI bridge: {name}.", value)
        yield from _turn_figures(stats)
        yield Figure("counter", "ai_retry_causes", "Attempts again.", stats.retries_by, "reason")
        yield Figure("counter", "ai_refusals", "Turns refused.", stats.refused_by, "code")
        yield Figure("gauge", "ai_queue_depth", "Turns waiting.", stats.queue_depth(), "class")
        yield Figure("gauge", "ai_stream_limit", "Answers at a time.", stats.stream_limit())
        yield from _slot_figures(stats)
        for name, about, spread in (
            ("ai_queue_wait_seconds", "Wait before the start.", stats.queue_wait),
            ("ai_ttft_seconds", "From start to first text.", stats.ttft),
            ("ai_turn_seconds", "From start to end.", stats.turn_seconds),
            ("ai_token_gap_seconds", "Between pieces of text.", stats.token_gap),
            ("ai_cancel_to_close_ms", "From stop to closed.", stats.cancel_to_close_ms),
        ):
            yield Spread(name, about, spread.bounds, spread.counts, spread.total)

    return figures


def _turn_figures(stats: "BridgeStats") -> Iterator[Figure]:
    ends = ("engine", "provider", "model", "reason")
    yield Figure("counter", "ai_turns", "AI answers ended.", stats.ended_by, ends)
    yield Figure("counter", "ai_tokens", "Tokens used.", stats.tokens_by, ("kind", "source"))
    about = "Tokens of prompts as estimated, as told, and how far apart."
    sums = ("provider", "model", "tokens")
    yield Figure("counter", "ai_estimate_error", about, stats.estimates_by, sums)


def _slot_figures(stats: "BridgeStats") -> Iterator[Figure]:
    """A slot is a provider's key and model."""
    slots = list(stats.slots())
    for name, about, values in (
        ("ai_slot_limit", "Streams allowed.", {slot.name: slot.limit for slot in slots}),
        ("ai_slot_inflight", "Streams running.", {slot.name: slot.running for slot in slots}),
        ("ai_slot_closed", "1 while not asked.", {slot.name: int(slot.closed) for slot in slots}),
        ("ai_breaker_state", "0 closed, 2 open.", {slot.name: slot.breaker for slot in slots}),
    ):
        yield Figure("gauge", name, about, values, "slot")


class LoopLag:
    """How late the event loop runs its timers.

    Attributes:
        recent_ms: the worst of the last half second, fading.
        worst_ms: the worst since the sampler looked, which sets it back.
        counts, total_s: the histogram since the start, see `LAG_BOUNDS_S`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0
        self.recent_ms = 0.0
        self.worst_ms = 0.0
        self.counts = [0] * (len(LAG_BOUNDS_S) + 1)
        self.total_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to measure; until `close`."""
        self._loop = loop
        self._arm()

    def close(self) -> None:
        """Stop measuring."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop = None

    def note(self, lag_s: float) -> None:
        """Count one measurement."""
        lag_s = max(0.0, lag_s)
        self.recent_ms = max(lag_s * 1000, self.recent_ms * _LAG_FADE)
        self.worst_ms = max(self.worst_ms, self.recent_ms)
        self.total_s += lag_s
        for index, bound in enumerate(LAG_BOUNDS_S):
            if lag_s <= bound:
                self.counts[index] += 1
                return
        self.counts[-1] += 1

    def figures(self) -> Iterator[Figure | Spread]:
        """Source for the page."""
        yield Figure("gauge", "loop_lag_recent_seconds", "Worst of late.", self.recent_ms / 1000)
        yield Spread(
            "loop_lag_seconds", "Lateness of timers.", LAG_BOUNDS_S, self.counts, self.total_s
        )

    def _arm(self) -> None:
        if self._loop is not None:
            self._due = self._clock() + LAG_PERIOD_S
            self._handle = self._loop.call_later(LAG_PERIOD_S, self._tick)

    def _tick(self) -> None:
        self.note(self._clock() - self._due)
        self._arm()


class _Sources(Collector):
    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        for source in self._sources:
            for item in source():
                yield _spread(item) if isinstance(item, Spread) else _figure(item)

    def describe(self) -> Iterable[Metric]:
        return ()


class _Process(Collector):
    """Memory and CPU. The library's own collector also lists every open file: 10 ms at 10,000."""

    def collect(self) -> Iterable[Metric]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time used.", value=used.ru_utime + used.ru_stime
        )
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory.", value=rss_bytes())

    def describe(self) -> Iterable[Metric]:
        return ()


def rss_bytes() -> int:
    """Return the resident memory of this process; where /proc is missing, its highest so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _figure(figure: Figure) -> Metric:
    family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    metric = family(f"parlance_{figure.name}", figure.about, labels=_words(figure.label))
    if isinstance(figure.value, Mapping):
        for said, value in _bounded(figure.value).items():
            metric.add_metric(said, value)
    else:
        metric.add_metric([], figure.value)
    return metric


def _words(label: str | tuple[str, ...]) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (label,) if label else ()


def _bounded(
    values: Mapping[str, float] | Mapping[tuple[str, ...], float],
) -> dict[tuple[str, ...], float]:
    """Return the numbers by what the labels say; those beyond the bound are one."""
    items = [(_words(said), value) for said, value in values.items()]
    kept = dict(items[:MAX_SERIES])
    if rest := items[MAX_SERIES:]:
        other = ("other",) * len(rest[0][0])
        kept[other] = kept.get(other, 0) + sum(value for _, value in rest)
    return kept


def _spread(spread: Spread) -> Metric:
    sums = list(accumulate(spread.counts))
    bounds = [*(f"{bound:g}" for bound in spread.bounds), "+Inf"]
    metric = HistogramMetricFamily(f"parlance_{spread.name}", spread.about)
    metric.add_metric([], list(zip(bounds, sums, strict=True)), spread.total)
    return metric


class Metrics:
    """The page of figures.

    Args:
        sources: read in this order. Memory and CPU of the process are added.
    """

    content_type: Final = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, sources: Iterable[Source], version: str = "") -> None:
        build = [Figure("gauge", "build_info", "Version.", {version: 1}, "version")]
        self._registry = CollectorRegistry()
        self._registry.register(_Sources([*sources, lambda: build]))
        self._registry.register(_Process())

    def render(self) -> bytes:
        """Return the page; takes about a millisecond."""
        return generate_latest(self._registry)
