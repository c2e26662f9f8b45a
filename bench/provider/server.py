"""The fake service: HTTP/1.1 on asyncio protocols, lean enough to load a server with it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct, structs

from bench.provider.script import Behaviour, Fault, events, healthy, parse_model, whole_body

MAX_BODY_BYTES = 16 * 1024 * 1024
KEPT_REQUESTS = 100


class Stats(Struct):
    """`connections` and the rest are totals; `open_connections` and `streaming` are now."""

    connections: int = 0
    open_connections: int = 0
    requests: int = 0
    streaming: int = 0
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    events: int = 0


class Request(Struct, frozen=True):
    """One POST as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class ScriptedProvider:
    """Serves `POST .../chat/completions` and `GET /stats`, `/v1/models`, `/api/tags`.

    Attributes:
        requests: the last hundred, for tests that look at what was sent.
        arrived: set by each request; clear it before waiting.
        changed: set whenever a stream ends or a connection closes.
        models: what `/v1/models` lists.
        tags: models that `/api/tags` lists (as a local Ollama would).
    """

    def __init__(self) -> None:
        self.stats = Stats()
        self.requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self.arrived = asyncio.Event()
        self.changed = asyncio.Event()
        self.tags: list[str] = []
        self.models = ["fake"]
        self.connections: set[Connection] = set()
        self.tries: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            await self._server.wait_closed()
        while self.connections:
            self.changed.clear()
            await self.changed.wait()


class Connection(asyncio.Protocol):
    """One client connection: requests in, one answer at a time out."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._player: Player | None = None
        self._served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self)
        self._provider.stats.connections += 1
        self._provider.stats.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self._player is not None:
            self._player.stop(aborted=True)
        self._provider.connections.discard(self)
        self._provider.stats.open_connections -= 1
        self._provider.changed.set()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        if self._player is not None:
            self._player.pause()

    def resume_writing(self) -> None:
        if self._player is not None:
            self._player.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._player is None and (request := self._cut_request()) is not None:
            self._serve(*request)

    def _cut_request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        size = int(headers.get("content-length", "0"))
        if size > MAX_BODY_BYTES:
            self.abort()
            return None
        if len(self._buffer) < end + 4 + size:
            return None
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        del self._buffer[: end + 4 + size]
        method, path, _version = first.split(" ", 2)
        return method, path, headers, body

    def _serve(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        provider = self._provider
        if method == "GET":
            self._serve_get(path)
            return
        self._served += 1
        provider.stats.requests += 1
        request = Request(path, headers, msgspec.json.decode(body))
        provider.requests.append(request)
        provider.arrived.set()
        model = str(request.body.get("model", ""))
        try:
            behaviour = parse_model(model)
        except ValueError as error:
            self._respond(400, {"error": {"type": "invalid_request_error", "message": str(error)}})
            return
        if behaviour.failures >= 0:
            provider.tries[model] = provider.tries.get(model, 0) + 1
            if provider.tries[model] > behaviour.failures:
                behaviour = healthy(behaviour)
        self._answer(behaviour)

    def _serve_get(self, path: str) -> None:
        if path == "/stats":
            self._respond(200, structs.asdict(self._provider.stats))
        elif path == "/api/tags":
            self._respond(200, {"models": [{"name": name} for name in self._provider.tags]})
        elif path == "/v1/models":
            listed = [{"id": name, "object": "model"} for name in self._provider.models]
            self._respond(200, {"object": "list", "data": listed})
        else:
            self._respond(404, {"error": {"type": "not_found_error"}})

    def _answer(self, behaviour: Behaviour) -> None:
        if behaviour.stale and self._served > 1:
            self.abort()
        elif behaviour.status != 200:
            self._refuse(behaviour)
        elif behaviour.json:
            self._provider.stats.finished += 1
            self._write(_response(200, whole_body(behaviour), {}))
        else:
            self._player = Player(self, behaviour, self._provider.stats)
            self._player.start()

    def _refuse(self, behaviour: Behaviour) -> None:
        self._provider.stats.refused += 1
        headers = {}
        if behaviour.retry_after:
            headers["retry-after"] = behaviour.retry_after
        if behaviour.retry_after_ms:
            headers["retry-after-ms"] = behaviour.retry_after_ms
        error = {"code": behaviour.code, "type": "", "message": "secret-text with sk-key"}
        self._respond(behaviour.status, {"error": error}, headers)

    def _respond(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._write(_response(status, msgspec.json.encode(value), headers or {}))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # --- for the player ----------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._write(data)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def player_done(self) -> None:
        """The stream is over; the connection takes the next request."""
        self._player = None
        self._provider.changed.set()
        self.data_received(b"")


class Player:
    """Plays one stream onto a connection, at its pace, with its faults."""

    def __init__(self, connection: Connection, behaviour: Behaviour, stats: Stats) -> None:
        self._connection = connection
        self._behaviour = behaviour
        self._stats = stats
        self._events: Iterator[bytes | Fault] = events(behaviour)
        self._pieces: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._comments: asyncio.TimerHandle | None = None
        self._paused = False
        self._over = False
        self._next_at = 0.0

    def start(self) -> None:
        self._stats.streaming += 1
        if self._behaviour.silent:
            return
        if self._behaviour.reset == 0:
            self._connection.reset()
            return
        self._connection.send(_STREAM_HEAD)
        if self._behaviour.comments > 0:
            self._comments = self._loop.call_later(self._behaviour.comments, self._comment)
        self._next_at = self._loop.time() + self._behaviour.first
        self._timer = self._loop.call_at(self._next_at, self._play)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if not self._over and self._timer is None:
            self._timer = self._loop.call_later(0, self._play)

    def stop(self, *, aborted: bool) -> None:
        """Count the stream as ended; nothing is sent any more."""
        if self._over:
            return
        self._over = True
        for timer in (self._timer, self._comments):
            if timer is not None:
                timer.cancel()
        self._stats.streaming -= 1
        if aborted:
            self._stats.aborted += 1
        else:
            self._stats.finished += 1

    def _comment(self) -> None:
        self._connection.send(_chunk(b": keep-alive\n\n"))
        self._comments = self._loop.call_later(self._behaviour.comments, self._comment)

    def _play(self) -> None:
        """Send what is due now."""
        self._timer = None
        while not self._paused and not self._over:
            piece = self._next_piece()
            if piece is None:
                return
            self._connection.send(_chunk(piece))
            if self._behaviour.split:
                self._timer = self._loop.call_later(0, self._play)
                return
            if self._behaviour.rate > 0:
                self._next_at += 1 / self._behaviour.rate
                self._timer = self._loop.call_at(self._next_at, self._play)
                return

    def _next_piece(self) -> bytes | None:
        """Return what is sent next; None when the stream ended or met its fault."""
        if self._pieces:
            return self._pieces.popleft()
        event = next(self._events, None)
        if event is None:
            self._timer = self._loop.call_later(self._behaviour.linger, self._finish)
            return None
        if isinstance(event, Fault):
            self._strike(event)
            return None
        self._stats.events += 1
        if self._behaviour.split:
            size = self._behaviour.split
            self._pieces.extend(event[at : at + size] for at in range(0, len(event), size))
            return self._pieces.popleft()
        return event

    def _strike(self, fault: Fault) -> None:
        if fault is Fault.RESET:
            self._connection.reset()
        elif fault is Fault.CLOSE:
            self._connection.close()

    def _finish(self) -> None:
        if not self._over:
            self._connection.send(b"0\r\n\r\n")
            self.stop(aborted=False)
            self._connection.player_done()


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _response(status: int, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Scripted",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
