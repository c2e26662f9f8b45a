"""How many streams the fake service plays: it must outrun the server that it loads.

The service runs in a process of its own on one core; the client here, on the other, only counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvloop
from msgspec import Struct

from bench.processes import OTHER_CORE, SERVER_CORE, cpu_s, pin

RAMP_S = 2.0
"""Streams begin spread over this time, as people do."""
SETTLE_S = 0.5
PROBED = 20
"""One stream in so many is timed."""
_EVENT_END = b"\n\n"


class Measured(Struct, frozen=True):
    """`delivered`: share of the tokens due. `cpu`, `client_cpu`: shares of a core.

    A token is late against the first one of its stream and the rate.
    """

    streams: int
    rate: float
    seconds: float
    delivered: float
    cpu: float
    client_cpu: float
    late_p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.streams} streams at {self.rate:g} tokens/s for {self.seconds:.1f} s: "
            f"{self.delivered:.1%} delivered, service {self.cpu:.0%} of a core, "
            f"client {self.client_cpu:.0%}, a token late p99 {self.late_p99_ms:.1f} ms"
        )


class Tally:
    """Events that came, and how late those of the probed streams were."""

    def __init__(self, rate: float) -> None:
        self.events = 0
        self.late_s: list[float] = []
        self.gap_s = 1 / rate


class Listener(asyncio.Protocol):
    """Asks once and counts what comes."""

    def __init__(self, request: bytes, tally: Tally, probed: bool) -> None:
        self._request = request
        self._tally = tally
        self._probed = probed
        self._first_s = 0.0
        self._seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        count = data.count(_EVENT_END)
        self._tally.events += count
        if self._probed and count:
            now = time.monotonic()
            if not self._first_s:
                self._first_s = now
            else:
                self._seen += count
                due_s = self._first_s + self._seen * self._tally.gap_s
                self._tally.late_s.append(now - due_s)


def measure(streams: int, rate: float, seconds: float) -> Measured:
    """Play `streams` at once for some seconds, after a ramp."""
    with _service() as (pid, port):
        pin(os.getpid(), OTHER_CORE)
        return uvloop.run(_drive(pid, port, streams, rate, seconds))


@contextmanager
def _service() -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "bench.provider", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        pin(process.pid, SERVER_CORE)
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline().split("/v1")[0].rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def _drive(pid: int, port: int, streams: int, rate: float, seconds: float) -> Measured:
    loop = asyncio.get_running_loop()
    request = _request(rate, int(rate * (seconds + 60)))
    tally = Tally(rate)
    for number in range(streams):
        probed = number % PROBED == 0
        await loop.create_connection(
            lambda probed=probed: Listener(request, tally, probed),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        await asyncio.sleep(RAMP_S / streams)
    await asyncio.sleep(SETTLE_S)
    tally.late_s.clear()
    cpu, own, begun, events = cpu_s(pid), time.process_time(), time.monotonic(), tally.events
    await asyncio.sleep(seconds)
    took = time.monotonic() - begun
    late_s = sorted(tally.late_s) or [0.0]
    return Measured(
        streams=streams,
        rate=rate,
        seconds=took,
        delivered=(tally.events - events) / (streams * rate * took),
        cpu=(cpu_s(pid) - cpu) / took,
        client_cpu=(time.process_time() - own) / took,
        late_p99_ms=1000 * late_s[int(len(late_s) * 0.99)],
    )


def _request(rate: float, tokens: int) -> bytes:
    words = {"model": f"rate={rate:g},tokens={tokens}", "stream": True, "messages": []}
    body = json.dumps(words)
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: scripted\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()
