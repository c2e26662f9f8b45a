"""A crowd on a bad network, and whether everybody ends up seeing exactly what is stored.

    python -m bench.smoke [--store sqlite|mysql|mariadb] [--seconds 60] [--tcp 200 --ws 200 --js 50]

Clients of the Python SDK, and of the JavaScript SDK in Node, talk in rooms of 2 to 30, in direct
chats and with a persona of the demo provider; they edit and take back messages. A relay in between
cuts connections all the time. At the end every client's view is compared with the store, read
directly: no hole, no duplicate, no order difference, everything acknowledged stored exactly once,
everything sent acknowledged or refused.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

import uvloop

from bench.fixture import ServerUnderTest
from bench.relay import Relay
from bench.report import Bar, Report, console
from bench.scenario import EXIT_BROKEN, Scenario, main, parser
from bench.seed import Group, Seeded
from bench.smoke_check import Seen, Verdict, check_seen, check_stored, read_store
from bench.smoke_guest import TIMING, Guest
from bench.smoke_js import Invitation, NodeCrowd, NodeFailed, find_node
from clients.client import Client
from clients.errors import ClientError
from protocol.codes import ConvKind

QUIET_WITHIN_S: Final = 60.0
STABLE_S: Final = 1.5
FAST_DEMO_WORDS_PER_S: Final = 200.0


@dataclass
class Crowd:
    """Who is there and who talks where; numbers count users."""

    users: int
    groups: list[Group]
    devices: list[int]  # user of each client: some users are there twice


def make_crowd(count: int, rng: random.Random) -> Crowd:
    """Plan a crowd: one client in ten is the second device of somebody."""
    users = max(2, count - count // 10)
    groups = []
    for _ in range(users // 8):
        size = min(users, rng.choice((2, 3, 5, 8, 12, 20, 30)))
        groups.append(Group(rng.sample(range(users), size)))
    others = [(user, (user + rng.randrange(1, users)) % users) for user in range(users)]
    pairs = {(min(pair), max(pair)) for pair in others}
    groups += [Group(pair, ConvKind.DIRECT) for pair in sorted(pairs)]
    groups += [Group((user,), ConvKind.AI) for user in range(0, users, 4)]
    return Crowd(users, groups, [i % users for i in range(count)])


class Door(NamedTuple):
    """How a client comes in: which SDK it uses, and which transport."""

    scheme: str
    is_js: bool


class Party:
    """All guests behind one relay.

    Attributes:
        guests: those of the Python SDK.
        node: those of the JavaScript SDK, if there are any.
    """

    def __init__(self, server: ServerUnderTest, seeded: Seeded, crowd: Crowd, seed: int) -> None:
        self._server = server
        self._seeded = seeded
        self._crowd = crowd
        self._rng = random.Random(seed)
        self.relay = Relay(server.port)
        self.guests: list[Guest] = []
        self.node: NodeCrowd | None = None
        self._watchers: list[asyncio.Task[None]] = []

    async def open(self, tcp: int, ws: int, js: int = 0) -> None:
        """Sign everybody in, transports mixed; `js` more use the JavaScript SDK, half on each.

        Raises:
            NodeFailed: Node is not there or its clients cannot sign in.
        """
        await self.relay.start()
        tokens = self._server.place.tokens(self._seeded.users)
        convs: dict[int, list[int]] = {}
        for conv, group in zip(self._seeded.convs, self._crowd.groups, strict=True):
            for user in group.members:
                convs.setdefault(user, []).append(conv)
        doors = [Door("parlance", False)] * tcp + [Door("ws", False)] * ws
        doors += [Door("parlance", True)] * (js // 2) + [Door("ws", True)] * (js - js // 2)
        self._rng.shuffle(doors)
        for_node = []
        for door, user in zip(doors, self._crowd.devices, strict=True):
            if user not in convs:
                continue
            url = f"{door.scheme}://127.0.0.1:{self.relay.port}"
            seed = self._rng.getrandbits(32)
            one = Invitation(url, self._seeded.users[user], tokens[user], convs[user], seed)
            if door.is_js:
                for_node.append(one)
            else:
                self._invite(one)
        for guest in self.guests:
            await guest.client.start()
        await asyncio.gather(*(guest.client.wait_online(60) for guest in self.guests))
        if for_node:
            self.node = NodeCrowd(for_node)
            await self.node.open()

    def _invite(self, one: Invitation) -> None:
        async def source(_: bool) -> str:
            return one.token

        rng = random.Random(one.seed)
        client = Client(one.url, source, timing=TIMING, rng=rng, agent="smoke/bench")
        guest = Guest(client, one.user, one.convs, rng)
        self.guests.append(guest)
        self._watchers.append(asyncio.get_running_loop().create_task(guest.watch()))

    async def talk(self, seconds: float, rate: float, cuts_per_s: float) -> None:
        """Let them talk while the relay cuts; return when all have said their last word."""
        until_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._cut(until_s, cuts_per_s))
            for guest in self.guests:
                group.create_task(guest.talk(until_s, rate))
            if self.node is not None:
                group.create_task(self.node.talk(seconds, rate))

    async def _cut(self, until_s: float, cuts_per_s: float) -> None:
        while cuts_per_s > 0 and time.monotonic() < until_s:
            await asyncio.sleep(self._rng.expovariate(1.0) / cuts_per_s)
            self.relay.cut(1, self._rng)

    async def quiet(self) -> bool:
        """Wait until all messages are out and all members know the same; False if never."""
        deadline_s = time.monotonic() + QUIET_WITHIN_S
        stable_since_s = time.monotonic()
        last: object = None
        while time.monotonic() < deadline_s:
            state = await self._state()
            now_s = time.monotonic()
            if state is None or state != last:
                last, stable_since_s = state, now_s
            elif now_s - stable_since_s >= STABLE_S:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _state(self) -> dict[int, int] | None:
        """Return the revision of each conversation, None while clients differ or are busy."""
        states = [guest.state() for guest in self.guests]
        if self.node is not None and None not in states:
            states += await self.node.states()
        known: dict[int, int] = {}
        for state in states:
            if state is None or any(known.setdefault(c, rev) != rev for c, rev in state.items()):
                return None
        return known

    async def load_all(self) -> None:
        """Page back to the first message of every conversation, everywhere."""
        await asyncio.gather(*(guest.load_all() for guest in self.guests))
        if self.node is not None:
            await self.node.load_all()

    async def seen(self) -> list[tuple[str, Seen]]:
        """Return what every client saw and did, under a name."""
        seen = [(f"client {number}", guest.seen()) for number, guest in enumerate(self.guests)]
        if self.node is not None:
            reports = await self.node.reports()
            seen += [(f"JavaScript client {number}", one) for number, one in enumerate(reports)]
        return seen

    async def close(self) -> None:
        """Send everybody home."""
        if self.node is not None:
            await self.node.close()
        for guest in self.guests:
            await guest.client.close()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self.relay.stop()


async def run_party(scenario: Scenario, party: Party, bar: Bar) -> list[tuple[str, Seen]]:
    args, report = scenario.args, scenario.report
    js = f", {args.js} JavaScript" if args.js else ""
    bar.step(f"{args.tcp} TCP, {args.ws} WebSocket{js} clients sign in")
    await party.open(args.tcp, args.ws, args.js)
    bar.step(f"talking for {args.seconds:.0f} s, {args.cuts:.0f} cuts a second")
    await party.talk(args.seconds, args.rate, args.cuts)
    bar.step("waiting for silence")
    began_s = time.monotonic()
    if not await party.quiet():
        report.faults.append(f"clients still differ or are busy after {QUIET_WITHIN_S:.0f} s")
    report.add("until silence", time.monotonic() - began_s, "s")
    bar.step("loading history")
    try:
        await party.load_all()
    except (ClientError, NodeFailed) as error:
        report.faults.append(f"loading history: {error}")
    return await party.seen()


async def compare(
    seen: list[tuple[str, Seen]], url: str, convs: list[int], report: Report
) -> Verdict:
    stored, unfinished = await read_store(url, convs)
    verdict = Verdict()
    for conv, one in stored.items():
        check_stored(conv, one, verdict)
    rows = sum(check_seen(who, one, stored, verdict) for who, one in seen)
    if unfinished:
        verdict.differ("unfinished turns", f"{unfinished} in the store")
    report.add("messages stored", sum(len(one.rows) for one in stored.values()), "")
    report.add("acknowledged messages checked", sum(len(one.acks) for _, one in seen), "")
    report.add("rows of views compared", rows, "")
    return verdict


def measure(scenario: Scenario) -> None:
    args = scenario.args
    if args.js and find_node() is None:
        console.print("[yellow]node is not installed (apt: nodejs): no JavaScript clients[/]")
        scenario.report.note("node is not installed: no JavaScript clients took part")
        args.js = 0
    crowd = make_crowd(args.tcp + args.ws + args.js, random.Random(args.seed))
    ai = {"demo_words_per_s": FAST_DEMO_WORDS_PER_S}
    with Bar(7) as bar:
        bar.step(f"seeding {len(crowd.groups)} conversations")
        with scenario.server(crowd.users, crowd.groups, ai=ai) as (server, seeded):
            party = Party(server, seeded, crowd, args.seed)

            async def attend() -> None:
                try:
                    seen = await run_party(scenario, party, bar)
                finally:
                    await party.close()
                bar.step("comparing with the store")
                server.stop()
                verdict = await compare(seen, server.place.url, seeded.convs, scenario.report)
                _tell(scenario.report, [one for _, one in seen], party.relay.cuts, verdict)

            try:
                uvloop.run(attend())
            except* NodeFailed as failed:
                scenario.report.faults += [f"JavaScript clients: {e}" for e in failed.exceptions]


def _tell(report: Report, seen: list[Seen], cuts: int, verdict: Verdict) -> None:
    counts: Counter[str] = Counter()
    for one in seen:
        counts.update(one.counts)
    report.add("clients", len(seen), "")
    report.add("connections cut", cuts, "")
    report.add("sign-ins", sum(one.connects for one in seen), "")
    for name in sorted(counts):
        report.add(name, counts[name], "")
    if counts["out of order"]:
        report.faults.append(f"{counts['out of order']} messages appeared out of order")
    if counts["answers with holes"]:
        report.faults.append(f"{counts['answers with holes']} × text of an answer was left out")
    for name in counts:
        # Answers that cannot be had now are refused by design; so are changes of what is gone.
        if name.startswith("refused") and not name.startswith("refused 6"):
            report.faults.append(f"{counts[name]} messages {name}")
    report.faults += [f"{count:,} × {kind}" for kind, count in verdict.counts.items()]
    report.faults += verdict.examples[:30]
    report.raw["differences"] = verdict.counts


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--seconds", type=float, default=60.0, help="of talking (default 60)")
    words.add_argument("--tcp", type=int, default=200, help="native clients (default 200)")
    words.add_argument("--ws", type=int, default=200, help="WebSocket clients (default 200)")
    words.add_argument(
        "--js",
        type=int,
        default=50,
        help="clients of the JavaScript SDK, half TCP, half WebSocket (default 50)",
    )
    words.add_argument("--rate", type=float, default=0.7, help="messages per second and client")
    words.add_argument("--cuts", type=float, default=15.0, help="connections cut per second")
    words.add_argument("--seed", type=int, default=1, help="of everything that is random")
    status = main("smoke", words.parse_args(), measure)
    if status == EXIT_BROKEN:
        console.print("[bold red]FAIL[/] see the differences above")
    elif status == 0:
        console.print("[bold green]PASS[/] every client's view equals the store")
    raise SystemExit(status)
