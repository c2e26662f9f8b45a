"""Figures: right names, summed histograms, bounded labels."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from server.metrics import (
    MAX_SERIES,
    CoreFigures,
    Figure,
    LoopLag,
    Metrics,
    Source,
    core_figures,
    store_figures,
)
from storage.batcher import Stats


def samples(*sources: Source) -> dict[tuple[str, str], float]:
    text = Metrics(sources, "1.2").render().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_gauges_and_labels_are_exported() -> None:
    core = CoreFigures(connections={"tcp": 2, "ws": 3}, frames_in={"Send": 9}, errors={300: 4})
    found = samples(core_figures(lambda: core))
    assert found["parlance_connections", "ws"] == 3
    assert found["parlance_frames_in_total", "Send"] == 9
    assert found["parlance_errors_total", "300"] == 4
    assert found["parlance_sessions", ""] == 0
    assert found["parlance_build_info", "1.2"] == 1
    assert found["process_resident_memory_bytes", ""] > 1e6
    assert found["process_cpu_seconds_total", ""] > 0
    assert ("parlance_bytes_in_total", "") not in found


def test_what_the_store_counts_is_a_summed_histogram() -> None:
    stats = Stats()
    for seconds in (0.0005, 0.002, 0.002, 9.0):
        stats.count_commit(10, seconds)
    found = samples(store_figures(stats))
    assert found["parlance_store_rows_total", ""] == 40
    assert found["parlance_store_commit_seconds_bucket", "0.001"] == 1
    assert found["parlance_store_commit_seconds_bucket", "0.0025"] == 3
    assert found["parlance_store_commit_seconds_bucket", "+Inf"] == 4
    assert found["parlance_store_commit_seconds_count", ""] == 4


def test_a_label_that_grows_is_cut() -> None:
    values = {f"name{number}": 1.0 for number in range(MAX_SERIES + 50)}
    found = samples(lambda: [Figure("gauge", "big", "Big.", values, "name")])
    shown = [key for key in found if key[0] == "parlance_big"]
    assert len(shown) == MAX_SERIES + 1
    assert found["parlance_big", "other"] == 50


def test_several_labels_are_cut_together() -> None:
    values: dict[tuple[str, ...], float] = {
        ("a", f"name{number}"): 1.0 for number in range(MAX_SERIES + 50)
    }
    page = Metrics([lambda: [Figure("counter", "big", "Big.", values, ("x", "y"))]]).render()
    lines = [line for line in page.decode().splitlines() if line.startswith("parlance_big_total{")]
    assert len(lines) == MAX_SERIES + 1
    assert 'parlance_big_total{x="a",y="name0"} 1.0' in lines
    assert 'parlance_big_total{x="other",y="other"} 50.0' in lines


def test_lag_is_the_worst_of_late_and_fades() -> None:
    lag = LoopLag()
    lag.note(1.0)
    assert lag.recent_ms == 1000
    for _ in range(11):
        lag.note(0.0)
    assert lag.recent_ms < 100
    lag.note(-1)
    found = samples(lag.figures)
    assert found["parlance_loop_lag_seconds_bucket", "0.001"] == 12
    assert found["parlance_loop_lag_seconds_bucket", "+Inf"] == 13


async def test_a_blocked_loop_is_noticed() -> None:
    now = [0.0]
    lag = LoopLag(clock=lambda: now[0])
    lag.start(asyncio.get_running_loop())
    now[0] = 0.35
    while not sum(lag.counts):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)
    lag.close()
    assert 299 < lag.recent_ms < 301
