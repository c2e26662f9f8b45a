"""Do people who watch slow down those who talk? Message times with open dashboards and without.

    python -m bench.dashboard [--viewers 50] [--rounds 5] [--seconds 12]

One server, one run. Phases without and with viewers alternate in the order A B B A, so that both
see the same machine and what drifts; in each, pairs of clients send at the same fixed rate, and
times count from when a message was due. Compared are the medians of the phases' p99; the spread is
what neighbouring phases say of each other. The viewers read in a thread of this program, on the
core of the load generator: what they cost there counts against them. A phase is longer than the
ten seconds after which the server looks at the keys of viewers again.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, cast

from bench import loadgen
from bench.direct import pairs_of, rooms_of
from bench.fixture import TENANT, ServerUnderTest
from bench.report import Bar, Report, console
from bench.scenario import Scenario, main, parser
from bench.seed import Seeded
from bench.shares import Shares
from protocol.handshake import build_request, make_key
from server.api_keys import ApiKeys
from storage.store import Store, StoreOptions

MOST: Final = 1.05
"""Of the p99 without viewers; the p99 with them must stay below."""
NOISY: Final = 0.25
"""Quartiles of the phases without viewers this far apart, as a part of their median: the machine
says little."""
OPEN_WITHIN_S: Final = 10.0
TIMES: Final = ("ack", "delivery")
_END_OF_HEAD: Final = b"\r\n\r\n"
_TEXT_FRAME: Final = b"\x81"


class Change(NamedTuple):
    """What a change did to a time: medians in milliseconds, and ratios of neighbouring phases."""

    before_ms: float
    after_ms: float
    ratios: tuple[float, ...]
    noise: float
    """Distance of the quartiles without the change, as a part of their median."""

    @property
    def ratio(self) -> float:
        return self.after_ms / self.before_ms

    @property
    def quartiles(self) -> tuple[float, float]:
        return _quartiles(self.ratios)


def compare(before_ms: Sequence[float], after_ms: Sequence[float]) -> Change:
    """Compare phases without and with something; the n-th of each were neighbours."""
    low, high = _quartiles(before_ms)
    middle = statistics.median(before_ms)
    ratios = tuple(b / a for a, b in zip(before_ms, after_ms, strict=True))
    return Change(middle, statistics.median(after_ms), ratios, (high - low) / middle)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


class _Reader(asyncio.Protocol):
    """One open dashboard. It only counts, so that it takes little of the generator's core.

    No phase is as long as the 30 s after which the server would ask whether it still lives.
    """

    def __init__(self, viewers: "Viewers") -> None:
        self._viewers = viewers
        self._head: bytes | None = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._viewers.request)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, found, data = (self._head + data).partition(_END_OF_HEAD)
            self._head = None if found else head
        # The server writes a frame at a time, and this machine brings it whole.
        self._viewers.frames += data[:1] == _TEXT_FRAME

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Viewers:
    """Open dashboards, in a thread of their own. `frames`: read so far, by all of them."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        asked = build_request(f"127.0.0.1:{port}", "/ws/dashboard", make_key())
        self.request = asked.removesuffix(b"\r\n") + f"X-API-Key: {key}\r\n\r\n".encode()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._readers: list[_Reader] = []
        self.frames = 0

    def open(self, count: int) -> None:
        """Open so many; on return each has its first frame."""
        wanted = self.frames + count
        self._do(self._open(count))
        until_s = time.monotonic() + OPEN_WITHIN_S
        while self.frames < wanted:
            if time.monotonic() > until_s:
                raise loadgen.LoadError("the dashboards got no frame: see the server's log")
            time.sleep(0.01)

    def close(self) -> None:
        """Close those that are open."""
        self._do(self._close())

    def stop(self) -> None:
        """Close everything, and end the thread."""
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(OPEN_WITHIN_S)

    async def _open(self, count: int) -> None:
        for _ in range(count):
            make = partial(_Reader, self)
            _, reader = await self._loop.create_connection(make, "127.0.0.1", self._port)
            self._readers.append(reader)

    async def _close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers.clear()


def new_api_key(url: str) -> str:
    """Make an API key that may watch; a running server knows it."""

    async def make() -> str:
        store = await Store.open(StoreOptions(url=url))
        try:
            keys = ApiKeys(store, lambda: time.time_ns() // 1_000_000)
            _, text = await keys.create(TENANT, "bench", ["dashboard", "operator"])
            return text
        finally:
            await store.close(30)

    return asyncio.run(make())


class Phases:
    """All phases of one server. `p99_ms`: by what was timed and whether people watched."""

    def __init__(self, scenario: Scenario, server: ServerUnderTest, seeded: Seeded) -> None:
        self._args = scenario.args
        self._report = scenario.report
        self._server = server
        self._rooms = rooms_of(pairs_of(self._args.clients), seeded, both_ways=False)
        self._tokens = server.place.tokens(seeded.users[: self._args.clients])
        self.p99_ms: dict[tuple[str, bool], list[float]] = {}
        self.cpu: dict[bool, list[float]] = {True: [], False: []}

    def run(self, bar: Bar) -> None:
        viewers = Viewers(self._server.port, new_api_key(self._server.place.url))
        try:
            self._send(bar, f"warming up, {self._args.seconds:.0f} s")
            for number in range(self._args.rounds):
                for watched in (False, True, True, False):
                    name = f"round {number + 1}, {self._args.viewers if watched else 'no'} viewers"
                    self._phase(bar, name, viewers, watched)
        finally:
            viewers.stop()

    def _phase(self, bar: Bar, name: str, viewers: Viewers, watched: bool) -> None:
        if watched:
            viewers.open(self._args.viewers)
        frames = viewers.frames
        result, cpu = self._send(bar, name)
        got = viewers.frames - frames
        viewers.close()
        # One frame a second each; a phase is longer than what is measured of it.
        if watched and got < self._args.viewers * int(self._args.seconds):
            self._report.faults.append(f"{name}: the viewers got {got} frames only")
        self._report.load(f"{name} #{len(self.cpu[watched])}", result)
        self.cpu[watched].append(cpu)
        for kind, latency in zip(TIMES, (result.ack, result.delivery), strict=True):
            self.p99_ms.setdefault((kind, watched), []).append(latency.p99_ms)

    def _send(self, bar: Bar, name: str) -> tuple[loadgen.Result, float]:
        bar.step(name)
        shares = Shares(bar, self._server.pid, self._server.database_pid)
        args = self._args
        result = loadgen.run(
            "send",
            self._server.port,
            tokens=self._tokens,
            rooms=self._rooms,
            options={
                "connections": args.clients,
                "ws": args.clients // 2,
                "window": 32,
                "send_rate": args.rate,
                "duration": args.seconds,
                "warmup": 1,
                "settle": 0.5,
            },
            on_progress=shares.follow,
        )
        return result, shares.server


def tell(report: Report, changes: Mapping[str, Change]) -> None:
    """Add what was found to the report."""
    for kind, change in changes.items():
        low, high = change.quartiles
        report.add(f"{kind} p99 without viewers", change.before_ms, "ms")
        report.add(f"{kind} p99 with viewers", change.after_ms, "ms")
        report.add(f"{kind} p99, with / without", change.ratio, "", MOST, "less")
        report.add(f"{kind} p99, neighbouring phases, lower quartile", low, "")
        report.add(f"{kind} p99, neighbouring phases, upper quartile", high, "")
        if change.noise > NOISY:
            report.note(
                f"{kind}: the quartiles of the phases without viewers are {change.noise:.0%} of "
                "their median apart: the machine was not quiet enough to tell 5 %"
            )
        report.raw[f"{kind} p99"] = change._asdict()


def measure(scenario: Scenario) -> dict[str, Change]:
    """Return what viewers did to each time."""
    args, report = scenario.args, scenario.report
    with Bar(args.rounds * 4 + 2) as bar:
        bar.step(f"{args.store}: seeding")
        with scenario.server(args.clients + 1, pairs_of(args.clients)) as (server, seeded):
            phases = Phases(scenario, server, seeded)
            phases.run(bar)
    times = phases.p99_ms
    changes = {kind: compare(times[kind, False], times[kind, True]) for kind in TIMES}
    tell(report, changes)
    for watched, name in ((False, "without"), (True, "with")):
        share = statistics.median(phases.cpu[watched])
        report.add(f"CPU of the server, {name} viewers", share * 100, "%")
    return changes


def verdict(changes: Mapping[str, Change]) -> None:
    """Print the ratios, their spread, and whether they hold."""
    for kind, change in changes.items():
        low, high = change.quartiles
        held = "[green]PASS[/]" if change.ratio < MOST else "[red]FAIL[/]"
        console.print(
            f"[bold]{held}[/] {kind} p99 with viewers: × {change.ratio:.3f} "
            f"(neighbouring phases: quartiles {low:.3f} to {high:.3f}; below {MOST} wanted)"
        )


if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--viewers", type=int, default=50, help="open dashboards (default 50)")
    words.add_argument("--rounds", type=int, default=5, help="of four phases (default 5)")
    words.add_argument(
        "--seconds", type=float, default=12.0, help="measured of each phase (default 12)"
    )
    words.add_argument("--clients", type=int, default=200, help="in pairs (default 200)")
    words.add_argument("--rate", type=float, default=2000.0, help="messages per second")
    found: dict[str, Change] = {}
    status = main("dashboard", words.parse_args(), lambda scenario: found.update(measure(scenario)))
    verdict(found)
    raise SystemExit(status)
