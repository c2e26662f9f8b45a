"""HTTP/1.1 as far as clients of AI services use it, lean enough to load a server with it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import deque
from typing import Protocol, cast

from msgspec import Struct

from bench.provider.pace import Wheel
from bench.provider.player import Delivery, Player
from bench.provider.stats import Abort, Stats, tcp_last_words

MAX_BODY_BYTES = 64 * 1024 * 1024
EVENTS = "text/event-stream"


class Raw(Struct, frozen=True):
    """A request as it came in, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Host(Protocol):
    """The service behind the connections."""

    stats: Stats
    wheel: Wheel
    changed: asyncio.Event
    connections: set[Connection]
    aborts: deque[Abort]

    def serve(self, line: Connection, raw: Raw) -> None: ...


class Connection(asyncio.Protocol):
    """One client connection: requests in, one answer at a time out.

    Attributes:
        served: POSTs so far.
        model: whose answer is on its way, for the record.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._player: Player | None = None
        self._fd = -1
        self._sent_bytes = 0
        self._own_fault = False
        self._last = False
        self.served = 0
        self.model = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._fd = self._socket().fileno()
        self._host.connections.add(self)
        self._host.stats.connections += 1
        self._host.stats.open_connections += 1

    def eof_received(self) -> None:
        """The client closed its end: nobody reads on. The transport closes itself."""
        self._left()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        self._host.connections.discard(self)
        self._host.stats.open_connections -= 1
        self._host.changed.set()

    def pause_writing(self) -> None:
        if self._player is not None:
            self._player.pause()

    def resume_writing(self) -> None:
        if self._player is not None:
            self._player.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._player is None and not self._last:
            try:
                raw = self._cut_request()
            except ValueError:  # no HTTP, or lengths that are no numbers
                self.respond(400, b"{}")
                self.close()
                return
            if raw is None:
                return
            self._last = raw.headers.get("connection", "").lower() == "close"
            self._host.serve(self, raw)
            if self._last and self._player is None:
                self.close()

    def _left(self) -> None:
        """Stop the answer on its way, and record what was sent in vain."""
        player = self._player
        if player is None or not player.stop(aborted=True) or self._own_fault:
            return
        acked, lag_ms = tcp_last_words(self._socket())
        lost = max(0, self._sent_bytes - acked) if acked >= 0 else 0
        late = min(player.tokens, -(-lost // player.last_bytes))
        stats = self._host.stats
        stats.aborted_late_tokens += late
        stats.aborted_late_max = max(stats.aborted_late_max, late)
        abort = Abort(self.model, player.tokens, late, lag_ms, time.monotonic())
        self._host.aborts.append(abort)
        self._host.changed.set()

    def _cut_request(self) -> Raw | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        cut = self._cut_body(end + 4, headers)
        if cut is None:
            return None
        body, over = cut
        del self._buffer[:over]
        method, path, _version = first.split(" ", 2)
        return Raw(method, path, headers, body)

    def _cut_body(self, at: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
        """Return the body and where it ends, None while it is not whole."""
        if len(self._buffer) - at > MAX_BODY_BYTES:
            self.abort()
            return None
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return _unchunked(self._buffer, at)
        over = at + int(headers.get("content-length", "0"))
        return (bytes(self._buffer[at:over]), over) if len(self._buffer) >= over else None

    # --- for the service ---------------------------------------------------------------------

    def respond(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer at once."""
        self.send(head(status, headers or {}, len(body)) + body)

    def play(self, delivery: Delivery) -> None:
        """Answer at the pace of a script."""
        self._player = Player(self, delivery, self._host.stats, self._host.wheel)
        self._player.start()

    def abort(self) -> None:
        if self._transport is not None:
            self._own_fault = True
            self._transport.abort()

    # --- for the player ----------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write to the socket itself while nothing waits before: a third less work per token."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._sent_bytes += len(data)
        if not transport.get_write_buffer_size():
            try:
                written = os.write(self._fd, data)
            except OSError:
                written = 0  # full, or broken: the transport knows what to do
            if written == len(data):
                return
            data = data[written:]
        transport.write(data)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._own_fault = True
            self._transport.close()

    def player_done(self) -> None:
        """The answer is over; the connection takes the next request."""
        self._player = None
        self._host.changed.set()
        if self._last:
            self.close()
        else:
            self.data_received(b"")

    def _socket(self) -> socket.socket:
        assert self._transport is not None
        return cast(socket.socket, self._transport.get_extra_info("socket"))


def head(
    status: int, headers: dict[str, str], length: int | None = None, kind: str = "application/json"
) -> bytes:
    """Return the head of a response; without a length the body comes in chunks."""
    form = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Scripted\r\ncontent-type: {kind}\r\n{form}\r\n{lines}\r\n".encode()


def _unchunked(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    """Return a chunked body (RFC 9112 section 7.1; no trailers) and where it ends.

    Copies nothing before the body is whole: it comes in many reads, and each asks again.
    """
    chunks: list[slice] = []
    while (line := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if len(buffer) < at:
            return None
        if size == 0:
            return b"".join(buffer[chunk] for chunk in chunks), at
        chunks.append(slice(line + 2, at - 2))
    return None
