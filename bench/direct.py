"""Durable direct messages: how many a second, how fast, and whether each arrives exactly once.

    python -m bench.direct [--store sqlite|mysql|mariadb] [--only capacity|latency]

capacity: pairs of clients, half of the clients on WebSocket; senders keep `--window` messages under
way and send the next one when one is acknowledged, which is after it was committed durably.
latency: the same pairs at a fixed rate while many more connections idle; the time counts from when
a message was due.
"""

from bench import loadgen
from bench.report import Bar
from bench.scenario import Scenario, main, parser
from bench.seed import Group, Seeded
from bench.shares import Shares
from protocol.codes import ConvKind


def pairs_of(clients: int) -> list[Group]:
    """Return direct conversations of neighbours."""
    return [Group((i, i + 1), ConvKind.DIRECT) for i in range(0, clients - 1, 2)]


def rooms_of(groups: list[Group], seeded: Seeded, both_ways: bool) -> list[loadgen.Room]:
    """Return the generator's plan for seeded pairs."""
    return [
        loadgen.Room(conv, group.members, 2 if both_ways else 1)
        for conv, group in zip(seeded.convs, groups, strict=True)
    ]


def measure_capacity(scenario: Scenario, bar: Bar) -> None:
    args, report = scenario.args, scenario.report
    groups = pairs_of(args.clients)
    best = 0.0
    bar.step(f"{args.store}: seeding")
    with scenario.server(args.clients + 1, groups) as (server, seeded):
        tokens = server.place.tokens(seeded.users[: args.clients])
        for window in args.window:
            bar.step(f"{args.store}: {window} under way each")
            shares = Shares(bar, server.pid, server.database_pid)
            result = loadgen.run(
                "send",
                server.port,
                tokens=tokens,
                rooms=rooms_of(groups, seeded, args.both_ways),
                options={
                    "connections": args.clients,
                    "ws": args.clients * args.ws_percent // 100,
                    "window": window,
                    "duration": args.seconds,
                    "warmup": 2,
                },
                on_progress=shares.follow,
            )
            name = f"window {window}"
            report.load(name, result)
            best = max(best, result.acked_per_s)
            report.add(f"acknowledged, {name}", result.acked_per_s, "/s")
            report.add(f"delivered, {name}", result.delivered_per_s, "/s")
            for kind, latency in (("ack", result.ack), ("delivery", result.delivery)):
                report.add(f"{kind} p50, {name}", latency.p50_ms, "ms")
                report.add(f"{kind} p99, {name}", latency.p99_ms, "ms")
            shares.add_to(report, name)
            report.add(f"CPU of the generator, {name}", result.generator_cpu * 100, "%")
    report.add("acknowledged, best", best, "/s", 20_000)


def measure_latency(scenario: Scenario, bar: Bar) -> None:
    args, report = scenario.args, scenario.report
    groups = pairs_of(args.clients)
    connections = args.clients + args.idle
    bar.step(f"{args.store}: seeding {connections:,} users")
    with scenario.server(connections + 1, groups) as (server, seeded):
        bar.step(f"{args.store}: {args.rate:,.0f}/s, {args.idle:,} idle")
        shares = Shares(bar, server.pid, server.database_pid)
        result = loadgen.run(
            "send",
            server.port,
            tokens=server.place.tokens(seeded.users[:connections]),
            rooms=rooms_of(groups, seeded, args.both_ways),
            options={
                "connections": connections,
                "ws": connections * args.ws_percent // 100,
                "window": 32,
                "send_rate": args.rate,
                "duration": args.seconds,
                "warmup": 2,
                "settle": 3,
                "heartbeat": 30,
            },
            on_progress=shares.follow,
        )
    name = f"at {args.rate:,.0f}/s"
    report.load(name, result)
    report.add(f"acknowledged {name}", result.acked_per_s, "/s", 0.99 * args.rate)
    report.add(f"connections open {name}", result.ready_at_end, "", connections)
    report.add(f"ack p50 {name}", result.ack.p50_ms, "ms")
    report.add(f"ack p99 {name}", result.ack.p99_ms, "ms", 50, "less")
    report.add(f"delivery p50 {name}", result.delivery.p50_ms, "ms")
    report.add(f"delivery p99 {name}", result.delivery.p99_ms, "ms", 50, "less")
    report.add(f"delivery max {name}", result.delivery.max_ms, "ms")
    shares.add_to(report, name)


def measure(scenario: Scenario) -> None:
    parts = {"capacity": measure_capacity, "latency": measure_latency}
    with Bar(len(scenario.args.window) + 3) as bar:
        for name, part in parts.items():
            if scenario.args.only in (None, name):
                part(scenario, bar)


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--only", choices=("capacity", "latency"))
    words.add_argument("--clients", type=int, default=1000, help="in pairs (default 1000)")
    words.add_argument("--window", type=int, nargs="+", default=[1, 8], help="default: 1 8")
    words.add_argument("--both-ways", action="store_true", help="both of a pair send")
    words.add_argument("--ws-percent", type=int, default=50, help="clients on WebSocket")
    words.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    words.add_argument("--rate", type=float, default=5000.0, help="of the latency part")
    words.add_argument("--idle", type=int, default=10_000, help="idle ones of the latency part")
    raise SystemExit(main("direct", words.parse_args(), measure))
