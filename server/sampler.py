"""The figures of this process over time: looked at once a second, however many people watch.

One look costs the same with ten connections and with ten thousand: everything is counted where it
happens, and here the counters are read. What was seen is kept in three rings of fixed size, in
memory only: a restart begins with empty ones.
"""

import asyncio
import logging
import resource
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from ai_bridge.turn import Turn
from ai_bridge.types import Outcome
from server.metrics import Figure, LoopLag, Spread, rss_bytes
from server.stats import REQUEST_BOUNDS_S
from storage.ids import id_time_ms

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.sampler")

EVERY_S: Final = 1.0
WINDOW: Final = 10
"""Points of the first ring that tell times and hit rates of so many seconds: one second alone says
little on a quiet server. Everything else tells of its own second."""
RECENT: Final = 50
RECENT_NAME_CHARS: Final = 64


class Totals(NamedTuple):
    """What was counted since the start. `requests` and `request_s`: on sockets and over HTTP."""

    messages: float = 0
    requests: float = 0
    request_s: float = 0
    errors: float = 0
    answers: float = 0
    answers_failed: float = 0
    tokens: float = 0
    pieces: float = 0
    bytes_out: float = 0
    cpu_s: float = 0
    conversations_found: float = 0
    conversations_asked: float = 0
    memories_found: float = 0
    memories_asked: float = 0


class Levels(NamedTuple):
    """How it is now."""

    connections: float = 0
    sessions: float = 0
    answers_running: float = 0
    answers_queued: float = 0
    store_queue: float = 0
    outbox_bytes: float = 0
    loop_lag_ms: float = 0
    rss_bytes: float = 0


class Reading(NamedTuple):
    """One look. `at`: monotonic seconds; `counts`: requests by `REQUEST_BOUNDS_S`."""

    at: float
    time_ms: int
    totals: Totals
    levels: Levels
    counts: tuple[int, ...]


class Point(NamedTuple):
    """What a second, a minute or an hour was like; `time` is its end, in Unix seconds.

    Rates are per second. `tokens_per_s` is counted when answers end, `pieces_per_s` while they are
    written (a piece is about a token with most services). `cpu_percent`: 100 is one core. Hit rates
    are parts of 1. Without requests the times are 0.
    """

    time: float
    connections: float
    sessions: float
    answers_running: float
    answers_queued: float
    store_queue: float
    outbox_bytes: float
    loop_lag_ms: float
    rss_bytes: float
    messages_per_s: float
    requests_per_s: float
    errors_per_s: float
    answers_per_s: float
    answers_failed_per_s: float
    tokens_per_s: float
    pieces_per_s: float
    bytes_out_per_s: float
    cpu_percent: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    conversation_hit_rate: float
    memory_hit_rate: float


FIGURES: Final = Point._fields[1:]
"""What a point tells; what rules can be made for."""
_MAX_OF: Final = tuple(Levels._fields.index(name) for name in ("loop_lag_ms", "rss_bytes"))


def quantile_s(bounds: Sequence[float], counts: Sequence[int], part: float) -> float:
    """Return the value that `part` of all are below, in the unit of the bounds; 0 for none.

    Between two bounds the values count as evenly spread. Above the last bound nothing is known:
    the last bound is returned.
    """
    rank = part * sum(counts)
    below = 0
    for index, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            low = bounds[index - 1] if index else 0.0
            return low + (bounds[index] - low) * (rank - below) / count
        below += count
    return bounds[-1] if counts[-1] else 0.0


def make_point(
    old: Reading, new: Reading, levels: Sequence[float], since: Reading | None = None
) -> Point:
    """Return what the time between two looks was like.

    Args:
        levels: of this time, in the order of `Levels`.
        since: an earlier look, from which on times and hit rates are told.
    """
    passed_s = max(new.at - old.at, 1e-6)
    rate = Totals(*((b - a) / passed_s for a, b in zip(old.totals, new.totals, strict=True)))
    base = since or old
    more = Totals(*(b - a for a, b in zip(base.totals, new.totals, strict=True)))
    counts = [b - a for a, b in zip(base.counts, new.counts, strict=True)]
    p50, p95, p99 = (quantile_s(REQUEST_BOUNDS_S, counts, part) for part in (0.5, 0.95, 0.99))
    values = (
        new.time_ms / 1000,
        *levels,
        rate.messages,
        rate.requests,
        rate.errors,
        rate.answers,
        rate.answers_failed,
        rate.tokens,
        rate.pieces,
        rate.bytes_out,
        rate.cpu_s * 100,
        _share(more.request_s, more.requests) * 1000,
        p50 * 1000,
        p95 * 1000,
        p99 * 1000,
        _share(more.conversations_found, more.conversations_asked),
        _share(more.memories_found, more.memories_asked),
    )
    return Point._make(values)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


class Ring:
    """The last points of one kind, in numbers of 8 bytes; the oldest make room for new ones.

    Attributes:
        added: how many there have ever been.
    """

    def __init__(self, seconds: int, capacity: int) -> None:
        self.seconds = seconds
        self.capacity = capacity
        self.added = 0
        self._width = len(Point._fields)
        self._numbers = array("d", bytes(8 * self._width * capacity))

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def size_bytes(self) -> int:
        """What it takes, full or empty."""
        return len(self._numbers) * self._numbers.itemsize

    def add(self, point: Point) -> None:
        """Keep one more."""
        at = self.added % self.capacity * self._width
        # Rounded once here: a whole ring is read at a time.
        self._numbers[at : at + self._width] = array("d", [round(value, 3) for value in point])
        self.added += 1

    def last(self, count: int) -> list[list[float]]:
        """Return the newest points, oldest first, in the order of `Point`."""
        count = min(count, len(self))
        return [self._row(number) for number in range(self.added - count, self.added)]

    def _row(self, number: int) -> list[float]:
        at = number % self.capacity * self._width
        return self._numbers[at : at + self._width].tolist()


class _Fold:
    """Makes one point of many looks: means of levels, but the worst of lag and memory."""

    def __init__(self, ring: Ring, first: Reading) -> None:
        self._ring = ring
        self._begin(first)

    def take(self, reading: Reading) -> None:
        self._looks += 1
        for index, value in enumerate(reading.levels):
            self._sums[index] += value
        for index in _MAX_OF:
            self._most[index] = max(self._most[index], reading.levels[index])
        # Half a look early is nearer than half a look late.
        if reading.at - self._first.at >= self._ring.seconds - EVERY_S / 2:
            levels = [total / self._looks for total in self._sums]
            for index in _MAX_OF:
                levels[index] = self._most[index]
            self._ring.add(make_point(self._first, reading, levels))
            self._begin(reading)

    def _begin(self, first: Reading) -> None:
        self._first = first
        self._looks = 0
        self._sums = [0.0] * len(Levels._fields)
        self._most = [0.0] * len(Levels._fields)


class EndedTurn(Struct, frozen=True):
    """An AI answer that is over. `at`: Unix milliseconds; `code`: why it failed, else 0."""

    sid: int
    tenant: int
    at: int
    status: str
    code: int
    persona: str
    provider: str
    model: str
    duration_ms: int
    ttft_ms: int
    tokens_in: int
    tokens_out: int


class Sampler:
    """Looks once a second and keeps what it saw.

    Attributes:
        looks: how often it looked.
        last: the newest look; point: what it says of the last second.
        rings: by name of their step.
        recent: AI answers that ended last, newest last.
        told: called after each look, on the loop; must be quick.

    Args:
        read: looks.
        now_ms: wall clock.
    """

    def __init__(self, read: Callable[[], Reading], now_ms: Callable[[], int]) -> None:
        self._read = read
        self._now_ms = now_ms
        self.looks = 0
        self.last = read()
        self.point = make_point(self.last, self.last, self.last.levels)
        self.rings = {"1s": Ring(1, 600), "1m": Ring(60, 1440), "1h": Ring(3600, 720)}
        self.recent: deque[EndedTurn] = deque(maxlen=RECENT)
        self.told: list[Callable[[], None]] = []
        self._window = deque([self.last], maxlen=WINDOW)
        self._folds = [_Fold(self.rings[name], self.last) for name in ("1m", "1h")]
        self._timer: asyncio.TimerHandle | None = None

    @property
    def size_bytes(self) -> int:
        """Memory of the rings."""
        return sum(ring.size_bytes for ring in self.rings.values())

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look once a second from now on, until `close`."""
        due = loop.time() + EVERY_S

        def tick() -> None:
            nonlocal due
            # What was missed while the loop stood still is not made up for.
            due = max(due + EVERY_S, loop.time())
            self._timer = loop.call_at(due, tick)
            self.look()

        self._timer = loop.call_at(due, tick)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Take one reading and tell those who want to know."""
        old, new = self.last, self._read()
        self.looks += 1
        self.last = new
        self.point = make_point(old, new, new.levels, self._window[0])
        self._window.append(new)
        self.rings["1s"].add(self.point)
        for fold in self._folds:
            fold.take(new)
        for tell in self.told:
            try:
                tell()
            except Exception:
                log.exception("sampler.tell_failed")

    def note_turn(self, turn: Turn, outcome: Outcome) -> None:
        """Remember an AI answer that has ended."""
        request, usage = turn.request, outcome.usage
        self.recent.append(
            EndedTurn(
                sid=turn.id,
                tenant=request.tenant,
                at=self._now_ms(),
                status=outcome.reason.name.lower(),
                code=int(outcome.code or 0),
                persona=request.persona.name[:RECENT_NAME_CHARS],
                provider=outcome.provider,
                model=outcome.model,
                duration_ms=outcome.duration_ms,
                ttft_ms=outcome.ttft_ms,
                tokens_in=usage.prompt,
                tokens_out=usage.completion,
            )
        )

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        yield Figure("counter", "samples", "Looks at the figures.", self.looks)
        yield Figure("gauge", "history_bytes", "Memory of the figures kept.", self.size_bytes)


class RunningTurn(Struct, frozen=True):
    """An AI answer that waits or runs. `tokens`: about four bytes of text each."""

    sid: int
    tenant: int
    conv: int
    user: int
    state: str
    age_ms: int
    persona: int
    persona_name: str
    provider: str
    model: str
    attempt: int
    tokens: int


def running_turns(core: "Core") -> Iterable[RunningTurn]:
    """Return every AI answer that waits or runs, oldest first."""
    found: dict[int, RunningTurn] = {}
    now_ms = core.now_ms()
    for turn, provider, model in core.bridge.turns():
        request = turn.request
        found[turn.id] = RunningTurn(
            sid=turn.id,
            tenant=request.tenant,
            conv=request.conv,
            user=request.user,
            state=turn.state.name.lower(),
            age_ms=max(0, now_ms - id_time_ms(turn.id)),
            persona=request.persona.id,
            persona_name=request.persona.name[:RECENT_NAME_CHARS],
            provider=provider,
            model=model,
            attempt=turn.attempt,
            tokens=sum(turn.sizes()[:2]) // 4,
        )
    for one in core.turns:
        new = one.new
        if new.sid in found or one.stream.turn is not None:
            continue  # the bridge has it, or had it: only its text is still to be stored
        row = core.personas.get(new.persona)
        found[new.sid] = RunningTurn(
            sid=new.sid,
            tenant=new.tenant,
            conv=one.entry.id,
            user=new.user,
            state="preparing",
            age_ms=max(0, now_ms - id_time_ms(new.sid)),
            persona=new.persona,
            persona_name=((row.name if row is not None else "") or "")[:RECENT_NAME_CHARS],
            provider="",
            model="",
            attempt=0,
            tokens=0,
        )
    return sorted(found.values(), key=lambda one: one.sid)


def read_process(core: "Core", lag: LoopLag) -> Callable[[], Reading]:
    """Return what looks at this process."""

    def read() -> Reading:
        stats = core.stats
        on_sockets, over_http = stats.request_seconds, stats.http_seconds
        counts = tuple(a + b for a, b in zip(on_sockets.counts, over_http.counts, strict=True))
        return Reading(
            core.clock(),
            core.now_ms(),
            _totals(core, sum(counts), on_sockets.total + over_http.total),
            _levels(core, lag),
            counts,
        )

    return read


def _totals(core: "Core", requests: int, request_s: float) -> Totals:
    stats, bridge, memories = core.stats, core.bridge.stats, core.memories.stats
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = core.directory.hits
    return Totals(
        messages=stats.messages,
        requests=requests,
        request_s=request_s,
        errors=sum(stats.errors.values()) + stats.http_failed,
        answers=bridge.ended,
        answers_failed=bridge.ended_error,
        tokens=bridge.completion_tokens,
        pieces=sum(bridge.token_gap.counts),
        bytes_out=core.flusher.bytes_out,
        cpu_s=used.ru_utime + used.ru_stime,
        conversations_found=found,
        conversations_asked=found + core.directory.misses,
        memories_found=memories.pair_hits,
        memories_asked=memories.pair_hits + memories.pair_misses,
    )


def _levels(core: "Core", lag: LoopLag) -> Levels:
    lag_ms, lag.worst_ms = lag.worst_ms, 0.0
    return Levels(
        connections=sum(core.stats.connections.values()),
        sessions=core.hub.size,
        answers_running=core.bridge.running,
        answers_queued=core.bridge.queued,
        store_queue=core.store.stats.queued_rows,
        outbox_bytes=core.flusher.backlog_bytes,
        loop_lag_ms=lag_ms,
        rss_bytes=rss_bytes(),
    )


def request_figures(core: "Core") -> Iterator[Figure | Spread]:
    """Yield the times of requests, for the metrics page."""
    stats = core.stats
    on_sockets, over_http = stats.request_seconds, stats.http_seconds
    bounds = REQUEST_BOUNDS_S
    about = "HTTP requests, but for a model's answers."
    yield Spread(
        "request_seconds", "Requests on sockets.", bounds, on_sockets.counts, on_sockets.total
    )
    yield Spread("http_seconds", about, bounds, over_http.counts, over_http.total)
    yield Figure("counter", "http_failed", "HTTP answers of 500 and more.", stats.http_failed)
    found = {"found": core.directory.hits, "missed": core.directory.misses}
    yield Figure("counter", "conversation_lookups", "In memory, or not.", found, "end")
