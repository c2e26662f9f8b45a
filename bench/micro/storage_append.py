"""How many messages per second the store makes durable.

Closed loop: a fixed number of appends is always pending, spread over conversations; each settled
one is followed by the next. Prints rows/s, latency from submit to settle, and the loop's lag.

    python -m bench.micro.storage_append --url sqlite:////var/tmp/bench.db --seconds 10 --cpu 0
    python -m bench.micro.storage_append --url mysql://user:password@127.0.0.1:3306/bench
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import time
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

import uvloop

from storage.accounts import create_user
from storage.conversations import create_conversation
from storage.errors import StorageError
from storage.ids import new_id
from storage.rows import NewConversation, StoreOptions
from storage.store import Store
from storage.writes import Append

_TEXTS = (
    "The quick brown fox jumps over the lazy dog, twice.",
    "今天下午三点我们在图书馆门口见面,好吗?",
    "ok",
)


def make_cid() -> bytes:
    """Return an id that rises with time, as clients make them (UUIDv7 without its version bits)."""
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)


class Pending(Append):
    """One of the appends in the air; hands over to the next when it is durable."""

    __slots__ = ("bench",)

    def __init__(self, bench: Bench, conv: int, sender: int, text: str) -> None:
        super().__init__(conv, sender, make_cid(), 0, text)
        self.bench = bench

    def settle(self, error: StorageError | None) -> None:
        self.bench.settled(self, error)


class Bench:
    """Keeps the store busy and counts."""

    def __init__(self, store: Store, convs: Sequence[int], users: Sequence[int]) -> None:
        self.store = store
        self.convs = convs
        self.users = users
        self.latencies = array("d")
        self.failed = 0
        self.sent = 0
        self.pending = 0
        self.measuring = False
        self.stopping = False
        self.done = asyncio.get_running_loop().create_future()
        self._now = asyncio.get_running_loop().time

    def send(self) -> None:
        number = self.sent
        self.sent += 1
        self.pending += 1
        self.store.submit(
            Pending(
                self,
                self.convs[number % len(self.convs)],
                self.users[number % len(self.users)],
                _TEXTS[number % len(_TEXTS)],
            )
        )

    def settled(self, append: Pending, error: StorageError | None) -> None:
        self.pending -= 1
        if error is not None:
            self.failed += 1
        elif self.measuring:
            self.latencies.append(self._now() - append.queued_at)
        if not self.stopping:
            self.send()
        elif not self.pending:
            self.done.set_result(None)


async def measure_lag(lags: array[float], interval_s: float = 0.002) -> None:
    """Note how late the loop wakes us."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        lags.append(loop.time() - due)


async def burn(share: float) -> None:
    """Keep the loop busy for a share of the time, as a server's other work would."""
    loop = asyncio.get_running_loop()
    while True:
        until = loop.time() + 0.0005 * share
        while loop.time() < until:
            pass
        await asyncio.sleep(0 if share >= 1 else 0.0005 * (1 - share))


def percentile(values: array[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


async def prepare(store: Store, conversations: int) -> tuple[list[int], list[int]]:
    """Make users and the conversations between them."""
    users = []
    for _ in range(20):
        user = new_id()
        await store.change((), partial(create_user, tenant=1, name=f"bench-{user}", id=user))
        users.append(user)
    convs = [new_id() for _ in range(conversations)]

    async def create(number: int, conv: int) -> None:
        pair = [users[number % 20], users[(number + 1) % 20]]
        new = NewConversation(conv, 1, 3, pair[0], os.urandom(16), "bench", pair)
        await store.change(pair, partial(create_conversation, new=new))

    await asyncio.gather(*(create(number, conv) for number, conv in enumerate(convs)))
    return convs, users


async def run(args: argparse.Namespace) -> dict[str, Any]:
    store = await Store.open(StoreOptions(url=args.url, batch_rows=args.batch_rows))
    try:
        convs, users = await prepare(store, args.conversations)
        bench = Bench(store, convs, users)
        lags: array[float] = array("d")
        gc.collect()
        gc.freeze()
        tasks = [asyncio.create_task(measure_lag(lags))]
        if args.busy:
            tasks.append(asyncio.create_task(burn(args.busy)))
        for _ in range(args.pending):
            bench.send()
        await asyncio.sleep(args.warmup)
        stats = store.stats
        before = (stats.batches, stats.rows, store.statements)
        lags[:] = array("d")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        bench.measuring = True
        await asyncio.sleep(args.seconds)
        bench.measuring = False
        spent = resource.getrusage(resource.RUSAGE_SELF)
        batches, rows, statements = (
            now - old
            for now, old in zip((stats.batches, stats.rows, store.statements), before, strict=True)
        )
        lagged = array("d", lags)
        bench.stopping = True
        await bench.done
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await store.close(10)
    cpu_s = spent.ru_utime + spent.ru_stime - usage.ru_utime - usage.ru_stime
    return {
        "engine": store.engine_name,
        "rows_per_s": round(rows / args.seconds),
        "rows_per_batch": round(rows / max(batches, 1)),
        "statements_per_batch": round(statements / max(batches, 1), 1),
        "p50_ms": round(percentile(bench.latencies, 0.5) * 1e3, 1),
        "p99_ms": round(percentile(bench.latencies, 0.99) * 1e3, 1),
        "lag_p50_ms": round(percentile(lagged, 0.5) * 1e3, 2),
        "lag_p99_ms": round(percentile(lagged, 0.99) * 1e3, 2),
        "cpu_us_per_row": round(cpu_s / max(rows, 1) * 1e6, 1),
        "failed": bench.failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", required=True, help="database; it is filled up, not cleaned")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--pending", type=int, default=1_000, help="appends in the air")
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--batch-rows", type=int, default=512)
    parser.add_argument("--cpu", type=int, help="pin this process to one core")
    parser.add_argument("--busy", type=float, default=0, help="share of loop time burnt, 0 to 1")
    parser.add_argument("--switch-interval", type=float, help="sys.setswitchinterval, seconds")
    args = parser.parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    if args.switch_interval is not None:
        sys.setswitchinterval(args.switch_interval)
    print(json.dumps(uvloop.run(run(args))))


if __name__ == "__main__":
    main()
