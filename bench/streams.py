"""AI answers by the thousand: how many one core relays, how late they come and what a token costs.

    python -m bench.streams [--only relay first sse whole] [--transport raw aio]

The server has one core; the scripted provider and the generator share the other. Each token says
when the provider wrote it, so its age on arrival is known. All parts ask again when an answer ends.

relay: people on framed TCP follow answers; how many of the tokens due arrive, how old, at what
memory. first: the time from a question to its first token, the durable storing of the question and
the provider's own time included. sse: the answers of `relay` as streamed chat completions over
HTTP. whole: chat completions in one piece, as many as can be.
"""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench import loadgen
from bench.fixture import ServerFailed, ServerUnderTest
from bench.processes import OTHER_CORE, can_pin, cpu_s, pin
from bench.report import ROOT, Bar
from bench.scenario import Scenario, main, parser
from bench.seed import Group, Seeded
from bench.shares import Shares
from protocol.codes import ConvKind
from server.streams import TICK_S

MIB: Final = 1 << 20
PARTS: Final = ("relay", "first", "sse", "whole")
TICK_MS: Final = TICK_S * 1000


@dataclass(frozen=True)
class Load:
    """What is asked of the server in one run; `tokens` and `rate` (per second) are an answer's."""

    part: str
    mode: str
    streams: int
    tokens: int
    rate: float

    @property
    def model(self) -> str:
        """The provider's model that answers so."""
        if self.mode == "whole":
            return f"tokens={self.tokens}"
        return f"stamp,tokens={self.tokens},rate={self.rate:g}"


class Watcher:
    """Takes the shares of the processors and the server's memory while the generator measures."""

    def __init__(self, bar: Bar, server: ServerUnderTest, provider_pid: int) -> None:
        self.shares = Shares(bar, server.pid, server.database_pid)
        self._server = server
        self._provider_pid = provider_pid
        self._began: tuple[float, float] | None = None
        self.rss_bytes = 0
        self.provider = 0.0

    def follow(self, progress: loadgen.Progress) -> None:
        self.shares.follow(progress)
        if progress.phase != "measure":
            return
        self.rss_bytes = max(self.rss_bytes, self._server.rss_bytes())
        now_s, used_s = time.monotonic(), cpu_s(self._provider_pid)
        if self._began is None:
            self._began = now_s, used_s
        elif now_s > self._began[0]:
            self.provider = (used_s - self._began[1]) / (now_s - self._began[0])


@contextmanager
def provider_running() -> Iterator[tuple[int, int]]:
    """Run the scripted provider on the generator's core; yield its process id and port."""
    command = [sys.executable, "-m", "bench.provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if ":" not in line:
                raise ServerFailed("the scripted provider did not start")
            if can_pin():
                pin(process.pid, OTHER_CORE)
            yield process.pid, int(line.split("/v1")[0].rpartition(":")[2])
        finally:
            process.terminate()


def ai_settings(load: Load, transport: str, port: int) -> dict[str, object]:
    """Return the `[ai]` section: one provider, and no limit that this load would meet."""
    provider = {
        "name": "scripted",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "models": [load.model],
        "transport": transport,
        "max_streams": 10_000,
    }
    return {
        "detect": False,
        "providers": [provider],
        "default_model": load.model,
        "max_streams": 10_000,
        "queue": 10_000,
    }


def persona_name(port: int, token: str) -> str:
    """Return how HTTP clients name a persona that answers with the default model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {token}"})
        listed = json.loads(connection.getresponse().read())
        return str(listed["data"][0]["id"])
    except (OSError, ValueError, LookupError) as error:
        raise ServerFailed(f"/v1/models does not answer as expected: {error!r}") from None
    finally:
        connection.close()


def run(
    scenario: Scenario, bar: Bar, load: Load, transport: str
) -> tuple[loadgen.Result, Watcher, ServerUnderTest]:
    """Put one load on a fresh server and report what it costs."""
    args, report = scenario.args, scenario.report
    name = f"{load.part}, {transport}"
    groups = [Group((user,), ConvKind.AI) for user in range(load.streams)]
    bar.step(f"{name}: seeding")
    with (
        provider_running() as (provider_pid, port),
        scenario.server(
            load.streams + 1, groups, ai=ai_settings(load, transport, port)
        ) as (server, seeded),
    ):  # fmt: skip
        bar.step(f"{name}: {load.streams:,} at a time")
        watcher = Watcher(bar, server, provider_pid)
        result = _generate(args.seconds, args.spread, server, seeded, load, watcher)
    report.load(name, result)
    watcher.shares.add_to(report, name)
    report.add(f"CPU of the provider, {name}", watcher.provider * 100, "%")
    report.add(f"CPU of the generator, {name}", result.generator_cpu * 100, "%")
    return result, watcher, server


def _generate(
    seconds: float,
    spread_s: float,
    server: ServerUnderTest,
    seeded: Seeded,
    load: Load,
    watcher: Watcher,
) -> loadgen.Result:
    tokens = server.place.tokens(seeded.users[: load.streams])
    options: dict[str, object] = {
        "connections": load.streams,
        "duration": seconds,
        "warmup": spread_s + 2,
        "spread": spread_s,
    }
    rooms = []
    if load.mode == "answer":
        rooms = [loadgen.Room(conv, [user]) for user, conv in enumerate(seeded.convs)]
    else:
        options["model"] = persona_name(server.port, tokens[0])
    if load.mode != "whole":
        options["answer_tokens"] = load.tokens
    return loadgen.run(
        load.mode,
        server.port,
        tokens=tokens,
        rooms=rooms,
        options=options,
        on_progress=watcher.follow,
    )


def measure_streams(scenario: Scenario, bar: Bar, transport: str, part: str, mode: str) -> None:
    args, report = scenario.args, scenario.report
    load = Load(part, mode, args.streams, round(args.rate * args.answer_s), args.rate)
    result, watcher, server = run(scenario, bar, load, transport)
    name = f"{part}, {transport}"
    due_per_s = load.streams * load.rate
    is_relay = part == "relay"
    report.add(f"answers at a time, {name}", result.open_answers, "")
    report.add(f"tokens, {name}", result.tokens_per_s, "/s")
    share = result.tokens_per_s / due_per_s * 100
    report.add(f"delivered of those due, {name}", share, "%", 99 if is_relay else None)
    age = result.token_age
    report.add(f"age of a token p50, {name}", age.p50_ms, "ms")
    report.add(f"age of a token p99, {name}", age.p99_ms, "ms")
    beyond_ms = max(0.0, age.p99_ms - TICK_MS)
    report.add(
        f"age p99 beyond the tick, {name}", beyond_ms, "ms", 100 if is_relay else None, "less"
    )
    if result.tokens_per_s:
        cost_us = watcher.shares.server * 1e6 / result.tokens_per_s
        report.add(f"server CPU per token, {name}", cost_us, "µs")
    report.add(f"new answers, {name}", result.answers_per_s, "/s")
    report.add(f"memory, {name}", watcher.rss_bytes / MIB, "MiB", 200 if is_relay else None, "less")
    report.add(f"memory without load, {name}", server.base_rss_bytes / MIB, "MiB")


def measure_first(scenario: Scenario, bar: Bar, transport: str) -> None:
    args, report = scenario.args, scenario.report
    load = Load("first", "answer", args.first_streams, round(args.rate * 5), args.rate)
    result, _, _ = run(scenario, bar, load, transport)
    name = f"first, {transport}"
    report.add(f"answers at a time, {name}", result.open_answers, "")
    report.add(f"new answers, {name}", result.answers_per_s, "/s")
    first, part = result.first_token, result.first_token_age
    report.add(f"question to first token p50, {name}", first.p50_ms, "ms")
    p95_ms = first.p95_ms
    report.add(f"question to first token p95, {name}", p95_ms, "ms", 10, "less")
    report.add(f"of it from the provider's write p95, {name}", part.p95_ms, "ms")


def measure_whole(scenario: Scenario, bar: Bar, transport: str) -> None:
    report = scenario.report
    load = Load("whole", "whole", scenario.args.callers, 20, 0)
    result, watcher, _ = run(scenario, bar, load, transport)
    name = f"whole, {transport}"
    report.add(f"requests, {name}", result.rounds_per_s, "/s", 2_500)
    report.add(f"time of a request p50, {name}", result.round_trip.p50_ms, "ms")
    report.add(f"time of a request p99, {name}", result.round_trip.p99_ms, "ms")
    if result.rounds_per_s:
        cost_us = watcher.shares.server * 1e6 / result.rounds_per_s
        report.add(f"server CPU per request, {name}", cost_us, "µs")


def measure(scenario: Scenario) -> None:
    args = scenario.args
    with Bar(len(args.only) * len(args.transport) * 2) as bar:
        for part in args.only:
            for transport in args.transport:
                if part == "first":
                    measure_first(scenario, bar, transport)
                elif part == "whole":
                    measure_whole(scenario, bar, transport)
                else:
                    mode = "answer" if part == "relay" else "sse"
                    measure_streams(scenario, bar, transport, part, mode)


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    words.add_argument("--transport", nargs="+", choices=("raw", "aio"), default=["raw"])
    words.add_argument("--streams", type=int, default=1000, help="of relay and sse, at a time")
    words.add_argument("--first-streams", type=int, default=500, help="of first, at a time")
    words.add_argument("--callers", type=int, default=64, help="of whole, at a time")
    words.add_argument("--rate", type=float, default=30.0, help="tokens per second of an answer")
    words.add_argument("--answer-s", type=float, default=20.0, help="length of an answer")
    words.add_argument("--spread", type=float, default=5.0, help="seconds to begin all answers in")
    words.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    raise SystemExit(main("streams", words.parse_args(), measure))
