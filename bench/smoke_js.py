"""The guests of bench.smoke whose clients are of the JavaScript SDK: some Node processes full."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from bench.smoke_check import Ack, Seen, Shown, View

PROGRAM: Final = Path(__file__).parent / "js" / "crowd.mjs"
PER_PROCESS: Final = 13
ANSWER_WITHIN_S: Final = 90.0
CLOSED_WITHIN_S: Final = 5.0
LINE_BYTES: Final = 256 << 20
"""A client's whole view is one line."""


class NodeFailed(Exception):
    """A Node process ended, fell silent, or could not do what it was told."""


class Invitation(Struct):
    """What a guest is told: where to connect, as whom, and where to talk."""

    url: str
    user: int
    token: str
    convs: list[int]
    seed: int


class _View(Struct):
    conv: int
    rev: int
    rows: list[Shown]

    def as_view(self) -> View:
        messages = {row.seq: row for row in self.rows}
        return View(self.rev, [row.seq for row in self.rows], messages)


class _Ack(Struct):
    conv: int
    cid: str
    seq: int


class _Report(Struct):
    views: list[_View]
    acks: list[_Ack]
    counts: dict[str, int]
    connects: int

    def as_seen(self, user: int) -> Seen:
        acks = [Ack(ack.conv, bytes.fromhex(ack.cid), ack.seq) for ack in self.acks]
        views = {view.conv: view.as_view() for view in self.views}
        return Seen(user, acks, Counter(self.counts), self.connects, views)


def find_node() -> str | None:
    """Return the path of Node.js, None when it is not installed."""
    return shutil.which("node")


class NodeProcess:
    """One Node process with some guests; it does one thing at a time."""

    def __init__(self, invited: list[Invitation]) -> None:
        self._invited = invited
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, node: str) -> None:
        """Start it; `open` signs its guests in."""
        self._process = await asyncio.create_subprocess_exec(
            node,
            "--experimental-websocket",  # Node 20 has the class behind a flag
            "--no-warnings",
            str(PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )

    async def do(self, action: str, within_s: float = ANSWER_WITHIN_S, **given: Any) -> Any:
        """Return what an action came to.

        Raises:
            NodeFailed: see there.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode({"do": action, **given}) + b"\n")
            line = await asyncio.wait_for(process.stdout.readline(), within_s)
        except (TimeoutError, ConnectionError) as error:
            raise NodeFailed(f"{action}: {type(error).__name__}") from None
        if not line:
            raise NodeFailed(f"{action}: the process ended")
        answer = msgspec.json.decode(line)
        if "error" in answer:
            raise NodeFailed(answer["error"])
        return answer["result"]

    async def open(self) -> None:
        """Sign the guests in; return when all are online."""
        await self.do("open", invited=self._invited)

    async def reports(self) -> list[Seen]:
        """Return what each guest saw and did."""
        reports = []
        for number, one in enumerate(self._invited):
            told = msgspec.convert(await self.do("report", number=number), _Report)
            reports.append(told.as_seen(one.user))
        return reports

    async def stop(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()


class NodeCrowd:
    """The guests of all Node processes together."""

    def __init__(self, invited: list[Invitation]) -> None:
        count = -(-len(invited) // PER_PROCESS)
        self._processes = [NodeProcess(invited[i::count]) for i in range(count)]

    async def open(self) -> None:
        """Sign everybody in.

        Raises:
            NodeFailed: see there; `find_node` tells beforehand whether there is one.
        """
        node = find_node()
        if node is None:
            raise NodeFailed("node is not installed")
        for process in self._processes:
            await process.start(node)
        await asyncio.gather(*(process.open() for process in self._processes))

    async def talk(self, seconds: float, rate: float) -> None:
        """Let them talk; return when all have said their last word."""
        within_s = seconds + ANSWER_WITHIN_S
        await asyncio.gather(
            *(
                process.do("talk", within_s, seconds=seconds, rate=rate)
                for process in self._processes
            )
        )

    async def states(self) -> list[dict[int, int] | None]:
        """Return the revisions each process knows, None for those that differ or are busy."""
        told = await asyncio.gather(*(process.do("state") for process in self._processes))
        return [
            None if known is None else {int(conv): rev for conv, rev in known.items()}
            for known in told
        ]

    async def load_all(self) -> None:
        """Page back to the first message of every conversation."""
        await asyncio.gather(*(process.do("load") for process in self._processes))

    async def reports(self) -> list[Seen]:
        """Return what each guest saw and did."""
        told = await asyncio.gather(*(process.reports() for process in self._processes))
        return [one for reports in told for one in reports]

    async def close(self) -> None:
        """Send everybody home."""
        await asyncio.gather(
            *(process.do("close", CLOSED_WITHIN_S) for process in self._processes),
            return_exceptions=True,
        )
        for process in self._processes:
            await process.stop()
