"""A crowd on a bad network, and whether everybody ends up seeing exactly what is stored.

    python -m bench.smoke [--store sqlite|mysql|mariadb] [--seconds 60] [--tcp 200 --ws 200]

Clients of the Python SDK talk in rooms of 2 to 30, in direct chats and with a persona of the demo
provider; they edit and take back messages. A relay in between cuts connections all the time. At
the end every client's view is compared with the store, read directly: no hole, no duplicate, no
order difference, everything acknowledged stored exactly once.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import uvloop

import clients.events as ev
from bench.fixture import ServerUnderTest
from bench.relay import Relay
from bench.report import Bar, console
from bench.scenario import EXIT_BROKEN, Scenario, main, parser
from bench.seed import Group, Seeded
from bench.smoke_check import Ack, Verdict, check_acks, check_stored, check_view, read_store
from clients.client import Client
from clients.errors import ClientError, ServerError
from clients.outbox import Outgoing
from clients.timing import Timing
from protocol.codes import ConvKind

TIMING: Final = Timing(backoff_s=0.3, backoff_max_s=3.0, first_retry_s=0.5)
QUIET_WITHIN_S: Final = 60.0
STABLE_S: Final = 1.5
FAST_DEMO_WORDS_PER_S: Final = 200.0
SAYINGS: Final = ("hello", "how are you?", "今天怎么样？", "what do you think about tea", "🙂 ok")


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


@dataclass
class Guest:
    """One client, and what it saw and did."""

    client: Client
    user: int
    convs: list[int]
    rng: random.Random
    acks: list[Ack] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    newest: dict[int, int] = field(default_factory=dict)
    posted: list[Outgoing] = field(default_factory=list)
    loading_history: bool = False

    async def watch(self) -> None:
        """Check the order in which messages appear; count what happens."""
        with self.client.events() as events:
            async for event in events:
                if isinstance(event, ev.MessageAdded):
                    self._note(event)
                elif isinstance(event, ev.ConvReset):
                    self.newest.pop(event.conv, None)
                    self.counts["resets"] += 1
                elif isinstance(event, ev.StreamEnded):
                    self.counts["answers seen"] += 1
                elif isinstance(event, ev.Lagged):
                    self.counts["lagged"] += 1

    def _note(self, event: ev.MessageAdded) -> None:
        self.counts["messages seen"] += 1
        seq = event.msg.seq
        if not self.loading_history and seq <= self.newest.get(event.conv, 0):
            self.counts["out of order"] += 1
        self.newest[event.conv] = max(seq, self.newest.get(event.conv, 0))

    async def talk(self, until_s: float, rate: float) -> None:
        """Send, edit and take back until the time is over."""
        await asyncio.sleep(self.rng.random() / rate)
        while time.monotonic() < until_s:
            choice = self.rng.random()
            if choice < 0.85 or not self.acks:
                self._post()
            else:
                await self._change(recall=choice > 0.95)
            await asyncio.sleep(self.rng.expovariate(rate))

    def _post(self) -> None:
        conv = self.rng.choice(self.convs)
        text = f"{self.rng.choice(SAYINGS)} #{self.rng.getrandbits(32):08x}"
        outgoing = self.client.post(conv, text)
        outgoing.acknowledged.add_done_callback(lambda _: self._settled(outgoing))
        self.counts["sent"] += 1

    def _settled(self, outgoing: Outgoing) -> None:
        future = outgoing.acknowledged
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            sent = future.result()
            self.acks.append(Ack(sent.conv, outgoing.unsent.cid, sent.seq))
            self.counts["repeats recognised"] += sent.dup
        elif isinstance(error, ServerError):
            self.counts[f"refused {error.code}"] += 1

    async def _change(self, recall: bool) -> None:
        ack = self.rng.choice(self.acks)
        try:
            if recall:
                await self.client.recall(ack.conv, ack.seq)
            else:
                await self.client.edit(ack.conv, ack.seq, f"edited {self.rng.getrandbits(32):x}")
            self.counts["recalls" if recall else "edits"] += 1
        except ServerError as error:
            self.counts[f"change refused {error.code}"] += 1

    async def load_all(self) -> None:
        """Page back to the first message of every conversation."""
        self.loading_history = True
        for conv in self.convs:
            while True:
                view = self.client.feeds.convs.get(conv)
                anchor = view.whole_from() if view else 0
                if anchor == 1:
                    break
                page = await self.client.history(conv, anchor, limit=100)
                if not page.more:
                    break


class Party:
    """All guests behind one relay."""

    def __init__(self, server: ServerUnderTest, seeded: Seeded, crowd: Crowd, seed: int) -> None:
        self._server = server
        self._seeded = seeded
        self._crowd = crowd
        self._rng = random.Random(seed)
        self.relay = Relay(server.port)
        self.guests: list[Guest] = []
        self._watchers: list[asyncio.Task[None]] = []

    async def open(self, tcp: int, ws: int) -> None:
        """Sign everybody in, transports mixed."""
        await self.relay.start()
        tokens = self._server.place.tokens(self._seeded.users)
        convs: dict[int, list[int]] = {}
        for conv, group in zip(self._seeded.convs, self._crowd.groups, strict=True):
            for user in group.members:
                convs.setdefault(user, []).append(conv)
        schemes = ["parlance"] * tcp + ["ws"] * ws
        self._rng.shuffle(schemes)
        for scheme, user in zip(schemes, self._crowd.devices, strict=True):
            if user in convs:
                self._invite(scheme, user, tokens[user], convs[user])
        for guest in self.guests:
            await guest.client.start()
        await asyncio.gather(*(guest.client.wait_online(60) for guest in self.guests))

    def _invite(self, scheme: str, user: int, token: str, convs: list[int]) -> None:
        async def source(_: bool) -> str:
            return token

        rng = random.Random(self._rng.getrandbits(64))
        url = f"{scheme}://127.0.0.1:{self.relay.port}"
        client = Client(url, source, timing=TIMING, rng=rng, agent="smoke/bench")
        guest = Guest(client, self._seeded.users[user], convs, rng)
        self.guests.append(guest)
        self._watchers.append(asyncio.get_running_loop().create_task(guest.watch()))

    async def talk(self, seconds: float, rate: float, cuts_per_s: float) -> None:
        """Let them talk while the relay cuts; return when all have said their last word."""
        until_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._cut(until_s, cuts_per_s))
            for guest in self.guests:
                group.create_task(guest.talk(until_s, rate))

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
            state = self._state()
            now_s = time.monotonic()
            if state is None or state != last:
                last, stable_since_s = state, now_s
            elif now_s - stable_since_s >= STABLE_S:
                return True
            await asyncio.sleep(0.1)
        return False

    def _state(self) -> dict[int, int] | None:
        """Return the revision of each conversation, None while clients differ or are busy."""
        known: dict[int, int] = {}
        for guest in self.guests:
            client = guest.client
            if client.unsent or client.feeds.syncing or client.link is not ev.Link.ONLINE:
                return None
            for conv in guest.convs:
                rev = client.feeds.known(conv)
                if known.setdefault(conv, rev) != rev:
                    return None
        return known

    async def close(self) -> None:
        """Send everybody home."""
        for guest in self.guests:
            await guest.client.close()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self.relay.stop()

    def total(self) -> Counter[str]:
        """Return the counts of all guests together."""
        total: Counter[str] = Counter()
        for guest in self.guests:
            total.update(guest.counts)
        return total


async def run_party(scenario: Scenario, party: Party, bar: Bar) -> None:
    args, report = scenario.args, scenario.report
    bar.step(f"{args.tcp} TCP and {args.ws} WebSocket clients sign in")
    await party.open(args.tcp, args.ws)
    bar.step(f"talking for {args.seconds:.0f} s, {args.cuts:.0f} cuts a second")
    await party.talk(args.seconds, args.rate, args.cuts)
    bar.step("waiting for silence")
    began_s = time.monotonic()
    if not await party.quiet():
        report.faults.append(f"clients still differ or are busy after {QUIET_WITHIN_S:.0f} s")
    report.add("until silence", time.monotonic() - began_s, "s")
    bar.step("loading history")
    try:
        await asyncio.gather(*(guest.load_all() for guest in party.guests))
    except ClientError as error:
        report.faults.append(f"loading history: {error}")


async def compare(party: Party, url: str, convs: list[int], report_to: Scenario) -> Verdict:
    stored, unfinished = await read_store(url, convs)
    verdict = Verdict()
    report = report_to.report
    for conv, one in stored.items():
        check_stored(conv, one, verdict)
    rows = acks = 0
    for number, guest in enumerate(party.guests):
        acks += check_acks(guest.user, guest.acks, stored, verdict)
        for conv in guest.convs:
            view = guest.client.feeds.convs.get(conv)
            messages = view.messages if view else {}
            if view is not None and view.seqs != sorted(set(view.seqs)):
                verdict.differ("order", f"client {number} in {conv}")
            if (known := guest.client.feeds.known(conv)) != stored[conv].rev:
                behind = f"client {number} knows {conv} to {known} of {stored[conv].rev}"
                verdict.differ("revisions missed", behind)
            rows += check_view(f"client {number}", conv, messages, stored[conv], verdict)
    if unfinished:
        verdict.differ("unfinished turns", f"{unfinished} in the store")
    report.add("messages stored", sum(len(one.rows) for one in stored.values()), "")
    report.add("acknowledged messages checked", acks, "")
    report.add("rows of views compared", rows, "")
    return verdict


def measure(scenario: Scenario) -> None:
    args = scenario.args
    crowd = make_crowd(args.tcp + args.ws, random.Random(args.seed))
    ai = {"demo_words_per_s": FAST_DEMO_WORDS_PER_S}
    with Bar(7) as bar:
        bar.step(f"seeding {len(crowd.groups)} conversations")
        with scenario.server(crowd.users, crowd.groups, ai=ai) as (server, seeded):
            party = Party(server, seeded, crowd, args.seed)

            async def attend() -> Verdict:
                try:
                    await run_party(scenario, party, bar)
                finally:
                    await party.close()
                bar.step("comparing with the store")
                server.stop()
                return await compare(party, server.place.url, seeded.convs, scenario)

            verdict = uvloop.run(attend())
    _tell(scenario, party, verdict)


def _tell(scenario: Scenario, party: Party, verdict: Verdict) -> None:
    report = scenario.report
    counts = party.total()
    report.add("clients", len(party.guests), "")
    report.add("connections cut", party.relay.cuts, "")
    report.add("sign-ins", sum(guest.client.connects for guest in party.guests), "")
    for name in sorted(counts):
        report.add(name, counts[name], "")
    if counts["out of order"]:
        report.faults.append(f"{counts['out of order']} messages appeared out of order")
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
    words.add_argument("--rate", type=float, default=0.7, help="messages per second and client")
    words.add_argument("--cuts", type=float, default=15.0, help="connections cut per second")
    words.add_argument("--seed", type=int, default=1, help="of everything that is random")
    status = main("smoke", words.parse_args(), measure)
    if status == EXIT_BROKEN:
        console.print("[bold red]FAIL[/] see the differences above")
    elif status == 0:
        console.print("[bold green]PASS[/] every client's view equals the store")
    raise SystemExit(status)
