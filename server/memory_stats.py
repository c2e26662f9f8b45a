"""Bounds of the memory service, and what it counts."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct, field, structs

from ai_bridge.memory.extract import REASONS
from ai_bridge.stats import Histogram
from server.metrics import Figure, Source, Spread

EXTRACT_BOUNDS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0)
SEARCH_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """Bounds and waits of learning and recalling.

    Attributes:
        messages: a pair (user, persona) is read after so many messages,
        idle_s: or when it has been silent for so long.
        pairs: pairs with unread messages that are kept in memory; those beyond are found again in
            the store once they are idle.
        notes: messages noted within one second that can be kept.
        running: pairs read at the same time.
        run_s: a reading that takes longer is given up and repeated.
        tries: failures of one portion of messages, after which it is passed over.
        cache_bytes: memories and vectors kept ready.
        query_s: how long an answer may wait for the vector of its question.
    """

    messages: int = 6
    idle_s: float = 600.0
    pairs: int = 10_000
    notes: int = 10_000
    running: int = 2
    run_s: float = 180.0
    tries: int = 5
    cache_bytes: int = 32 << 20
    query_s: float = 0.3


class MemoryStats(Struct):
    """Totals since the start.

    `rejected` counts facts by reason, `failed` readings by cause ("answer": no JSON, "ask": no
    answer, "store", "late"). `pair_hits`: the pair was in the cache; `query_hits`: the same
    question was as well. `lexical`: recalls that went by words only; `late`: those of them whose
    vector did not come in time. `unpaid`: vectors that no budget covered.
    """

    noted: int = 0
    notes_dropped: int = 0
    pairs_dropped: int = 0
    extractions: int = 0
    extract_seconds: Histogram = field(default_factory=lambda: Histogram(EXTRACT_BOUNDS_S))
    failed: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys(("answer", "ask", "store", "late"), 0))
    )
    passed_over: int = 0
    overtaken: int = 0
    added: int = 0
    replaced: int = 0
    merged: int = 0
    skipped: int = 0
    outdated: int = 0
    evicted: int = 0
    rejected: Counter[str] = field(
        default_factory=lambda: Counter(dict.fromkeys((*REASONS, "full"), 0))
    )
    recalls: int = 0
    recalled: int = 0
    search_seconds: Histogram = field(default_factory=lambda: Histogram(SEARCH_BOUNDS_S))
    pair_hits: int = 0
    pair_misses: int = 0
    pairs_evicted: int = 0
    query_hits: int = 0
    lexical: int = 0
    late: int = 0
    recall_failed: int = 0
    embed_failed: int = 0
    unpaid: int = 0
    reembedded: int = 0
    uses_dropped: int = 0


def memory_figures(stats: MemoryStats, now: Callable[[], Mapping[str, float]]) -> Source:
    """Return a source for the page of figures.

    Args:
        now: what there is at present, by name.
    """

    def figures() -> Iterator[Figure | Spread]:
        for name, value in structs.asdict(stats).items():
            if isinstance(value, Histogram):
                about = f"Memory: {name}."
                yield Spread(f"memory_{name}", about, value.bounds, value.counts, value.total)
                continue
            label = {"failed": "why", "rejected": "why"}.get(name, "")
            yield Figure("counter", f"memory_{name}", f"Memory: {name}.", value, label)
        for name, value in now().items():
            yield Figure("gauge", f"memory_{name}", f"Memory: {name} now.", value)

    return figures
