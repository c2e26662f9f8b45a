"""Many idle signed-in connections: what the process weighs, and whether all of them live.

    python -m bench.idle [--connections 10000] [--hold 20]

For TCP alone, WebSocket alone and half of each, a fresh server is started; its memory is taken
without connections, then with all of them open and quiet. At the end every one must answer a ping.
"""

import time

from bench import loadgen
from bench.fixture import ServerUnderTest
from bench.report import Bar
from bench.scenario import Scenario, main, parser

MIB = 1 << 20
SETTLE_S = 3.0
"""After the last sign-in, before anything is measured: devices are registered, queues drain."""


class Watcher:
    """Takes memory and processor time while the generator holds its connections."""

    def __init__(self, server: ServerUnderTest, bar: Bar, hold_s: float) -> None:
        self._server = server
        self._bar = bar
        self._hold_s = hold_s
        self._began: tuple[float, float] | None = None
        self.rss_bytes = 0
        self.cpu_share = 0.0

    def follow(self, progress: loadgen.Progress) -> None:
        self._bar.follow(progress)
        if progress.phase != "hold" or progress.elapsed_s < SETTLE_S:
            return
        now_s, cpu_s = time.monotonic(), self._server.cpu_s()
        if self._began is None:
            self._began = now_s, cpu_s
        elif now_s > self._began[0]:
            self.cpu_share = (cpu_s - self._began[1]) / (now_s - self._began[0])
        self.rss_bytes = self._server.rss_bytes()


def measure(scenario: Scenario) -> None:
    args, report = scenario.args, scenario.report
    half = args.connections // 2
    rounds = {
        "TCP": (half, 0, SETTLE_S + 2),
        "WebSocket": (half, half, SETTLE_S + 2),
        "mixed": (args.connections, half, SETTLE_S + args.hold),
    }
    with Bar(len(rounds) * 2) as bar:
        for name, (connections, ws, hold_s) in rounds.items():
            bar.step(f"{name}: seeding")
            with scenario.server(connections + 1) as (server, seeded):
                bar.step(f"{name}: {connections:,} connections")
                watcher = Watcher(server, bar, hold_s)
                result = loadgen.run(
                    "connect",
                    server.port,
                    tokens=server.place.tokens(seeded.users[:connections]),
                    options={
                        "connections": connections,
                        "ws": ws,
                        "hold": hold_s,
                        "connect_rate": args.rate,
                        "heartbeat": args.heartbeat,
                    },
                    on_progress=watcher.follow,
                )
            report.load(name, result)
            base = server.base_rss_bytes
            if name == "mixed":
                report.add("ready after start", server.ready_s, "s", 1, "less")
                report.add("memory without connections", base / MIB, "MiB", 100, "less")
                report.add("CPU while idle", watcher.cpu_share * 100, "% of a core", 5, "less")
                report.add("memory with all connections", watcher.rss_bytes / MIB, "MiB")
                report.add("sign-ins", result.connects_per_s, "/s")
                report.add("pings answered", result.check_pongs, "", connections)
            per_connection = (watcher.rss_bytes - base) / max(1, result.ready_at_end) / 1024
            report.add(f"memory per connection, {name}", per_connection, "KiB", 6, "less")


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--connections", type=int, default=10_000, help="mixed; half of it alone")
    words.add_argument("--hold", type=float, default=20.0, help="seconds of idling (default 20)")
    words.add_argument("--rate", type=float, default=0, help="sign-ins per second, 0: no limit")
    words.add_argument("--heartbeat", type=int, default=30, help="seconds between pings")
    raise SystemExit(main("idle", words.parse_args(), measure))
