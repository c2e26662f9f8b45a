"""The protocol's ceiling: ping and pong on the whole server against a bare echo.

    python -m bench.pingpong [--rounds 5] [--seconds 3]

Rounds alternate between the two, so that both see the same machine; medians are compared. The
echo returns the same bytes that the pings have and does nothing else.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench import loadgen
from bench.processes import SERVER_CORE, can_pin
from bench.report import ROOT, Bar
from bench.scenario import Scenario, main, parser
from bench.shares import Shares

DEPTHS = (1, 32)
TARGET = {1: 60.0, 32: None}


@contextmanager
def echo_server() -> Iterator[tuple[int, int]]:
    """Run the bare echo on the server's core; yield its port and process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.echo_server"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        if can_pin():
            os.sched_setaffinity(process.pid, {SERVER_CORE})
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def measure(scenario: Scenario) -> None:
    args, report = scenario.args, scenario.report
    rates: dict[tuple[str, int], list[float]] = {}
    busy: dict[tuple[str, int], list[float]] = {}
    kinds = {"echo": 0, "TCP": 0, "WebSocket": args.connections}
    with (
        Bar(args.rounds * len(DEPTHS) * len(kinds) + 1) as bar,
        echo_server() as (echo_port, echo_pid),
    ):
        bar.step("starting")
        with scenario.server(args.connections + 1) as (server, seeded):
            tokens = server.place.tokens(seeded.users[: args.connections])
            for number in range(args.rounds):
                for depth in DEPTHS:
                    for kind, ws in kinds.items():
                        bar.step(f"round {number + 1}, {depth} in flight, {kind}")
                        shares = Shares(bar, echo_pid if kind == "echo" else server.pid)
                        result = loadgen.run(
                            "echo" if kind == "echo" else "ping",
                            echo_port if kind == "echo" else server.port,
                            tokens=tokens,
                            options={
                                "connections": args.connections,
                                "ws": ws,
                                "window": depth,
                                "duration": args.seconds,
                                "warmup": 0.5,
                            },
                            on_progress=shares.follow,
                        )
                        report.load(f"{kind} {depth} #{number + 1}", result)
                        rates.setdefault((kind, depth), []).append(result.rounds_per_s)
                        busy.setdefault((kind, depth), []).append(shares.server)
    for depth in DEPTHS:
        medians = {kind: statistics.median(rates[kind, depth]) for kind in kinds}
        for kind, rate in medians.items():
            report.add(f"{kind}, {depth} in flight", rate, "/s")
            share = statistics.median(busy[kind, depth])
            report.add(f"CPU of its server, {kind}, {depth} in flight", share * 100, "%")
        for kind in ("TCP", "WebSocket"):
            share = 100 * medians[kind] / medians["echo"]
            report.add(f"{kind} of echo, {depth} in flight", share, "%", TARGET[depth])


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--connections", type=int, default=100)
    words.add_argument("--rounds", type=int, default=5, help="of each kind (default 5)")
    words.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    raise SystemExit(main("pingpong", words.parse_args(), measure))
