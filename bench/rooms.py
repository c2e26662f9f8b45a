"""Fan-out: many rooms with one sender each, and one room that is very large. Everything is durable.

    python -m bench.rooms [--store sqlite|mysql|mariadb] [--only many|large]

many: every room's sender sends the next message when the last one is acknowledged (`--window` of
them under way: a burst). large: one message at a time, the next one after the last member has it.
"""

from bench import loadgen
from bench.report import Bar
from bench.scenario import Scenario, main, parser
from bench.seed import Group
from bench.shares import Shares


def measure_many(scenario: Scenario, bar: Bar) -> None:
    args, report = scenario.args, scenario.report
    size, count = args.members, args.rooms
    clients = size * count
    groups = [Group(range(i * size, (i + 1) * size)) for i in range(count)]
    bar.step(f"seeding {count} rooms of {size}")
    with scenario.server(clients + 1, groups) as (server, seeded):
        tokens = server.place.tokens(seeded.users[:clients])
        for window, target in zip(args.window, (100_000, 300_000), strict=False):
            bar.step(f"{count} rooms of {size}, {window} under way each")
            shares = Shares(bar, server.pid, server.database_pid)
            result = loadgen.run(
                "send",
                server.port,
                tokens=tokens,
                rooms=[
                    loadgen.Room(conv, group.members)
                    for conv, group in zip(seeded.convs, groups, strict=True)
                ],
                options={
                    "connections": clients,
                    "ws": clients * args.ws_percent // 100,
                    "window": window,
                    "duration": args.seconds,
                    "warmup": 2,
                    "settle": 3,
                },
                on_progress=shares.follow,
            )
            name = f"{count} × {size}, window {window}"
            report.load(name, result)
            report.add(f"deliveries, {name}", result.delivered_per_s, "/s", target)
            report.add(f"acknowledged, {name}", result.acked_per_s, "/s")
            report.add(f"last member p50, {name}", result.last_member.p50_ms, "ms")
            report.add(f"last member p99, {name}", result.last_member.p99_ms, "ms")
            shares.add_to(report, name)
            report.add(f"CPU of the generator, {name}", result.generator_cpu * 100, "%")


def measure_large(scenario: Scenario, bar: Bar) -> None:
    args, report = scenario.args, scenario.report
    size = args.large
    bar.step(f"seeding one room of {size:,}")
    with scenario.server(size + 1, [Group(range(size))]) as (server, seeded):
        bar.step(f"one room of {size:,}")
        shares = Shares(bar, server.pid, server.database_pid)
        result = loadgen.run(
            "send",
            server.port,
            tokens=server.place.tokens(seeded.users[:size]),
            rooms=[loadgen.Room(seeded.convs[0], range(size))],
            options={
                "connections": size,
                "ws": size * args.ws_percent // 100,
                "until_last": True,
                "gap_ms": 100,
                "count": args.messages,
                "duration": 60,
                "settle": 3,
            },
            on_progress=shares.follow,
        )
    name = f"one room of {size:,}"
    report.load(name, result)
    shares.add_to(report, name)
    report.add(f"last member p50, {name}", result.last_member.p50_ms, "ms", 60, "less")
    report.add(f"last member max, {name}", result.last_member.max_ms, "ms")
    report.add(f"first acknowledgement p50, {name}", result.ack.p50_ms, "ms")


def measure(scenario: Scenario) -> None:
    parts = {"many": measure_many, "large": measure_large}
    with Bar(len(scenario.args.window) + 3) as bar:
        for name, part in parts.items():
            if scenario.args.only in (None, name):
                part(scenario, bar)


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--only", choices=("many", "large"))
    words.add_argument("--rooms", type=int, default=100)
    words.add_argument("--members", type=int, default=100, help="of each room")
    words.add_argument("--window", type=int, nargs="+", default=[1, 10], help="default: 1 10")
    words.add_argument("--large", type=int, default=5000, help="members of the large room")
    words.add_argument("--messages", type=int, default=30, help="into the large room")
    words.add_argument("--ws-percent", type=int, default=50, help="members on WebSocket")
    words.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    raise SystemExit(main("rooms", words.parse_args(), measure))
