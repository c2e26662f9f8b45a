"""Requests to providers over HTTP/1.1 connections of our own.

For streams by the thousand: what a read brings goes from the socket through httptools into the
decoder within one call of the event loop. No task wakes up before the answer is over. The
messages are those of RFC 9112; docs/decisions/0009-raw-http-client.md tells why this exists.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import cache, lru_cache
from typing import Final, cast
from urllib.parse import quote, urlsplit

import httptools
from msgspec import Struct

from ai_bridge.providers.base import CallEnd, Classify, Decoder, HttpRequest, OnHead
from ai_bridge.providers.failures import malformed
from ai_bridge.transport.failures import broken, too_large, unreachable, unsendable
from ai_bridge.transport.resolve import Address, Resolver
from ai_bridge.transport.sse import EventTooLarge

CONNECT_S: Final = 5.0
"""From the look-up of the name to the end of the TLS handshake, over all addresses."""
READ_S: Final = 90.0
"""Only catches dead connections; the watchdog judges silence (watchdog.py)."""
KEEP_ALIVE_S: Final = 30.0
SWEEP_S: Final = 5.0
"""All connections are looked at this often, so both times above may run over by as much."""
REST_S: Final = 0.2
"""Reading on after the answer's end, so that the connection can serve the next call."""
HEAD_BYTES: Final = 64 * 1024
"""Bound of a response's head, and of anything else that is no body (chunk sizes, trailers)."""
ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_S: Final = 5.0
MAX_IDLE: Final = 512
"""Connections kept for later; when there are more, the one that waited longest is closed."""

_IDLE_QUIET: Final = round(KEEP_ALIVE_S / SWEEP_S)


_OURS: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "transfer-encoding"}
)
"""Headers that say how a message is framed and sent: not for a configuration to decide."""


class _Stale(Exception):
    """A kept connection died before a byte of the answer came."""


class _Target(Struct, frozen=True):
    """Where a URL points to, and the beginning of each request to it."""

    tls: bool
    host: str
    port: int
    head: bytes


@lru_cache(256)
def _target(url: str) -> _Target:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError("no http address")
    tls = parts.scheme == "https"
    host = host if host.isascii() else host.encode("idna").decode()
    shown = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        shown += f":{parts.port}"
    path = quote(parts.path or "/", safe="/%:=~!$&'()*+,;@")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:=~!$&'()*+,;@?")
    head = f"POST {path} HTTP/1.1\r\nhost: {shown}\r\naccept-encoding: identity\r\n"
    return _Target(tls, host, parts.port or (443 if tls else 80), head.encode())


def _message(target: _Target, request: HttpRequest) -> bytes:
    """Return the bytes of a request.

    Raises:
        ProviderFailure: a header holds what would end its line.
    """
    headers = request.headers.items()
    lines = [f"{name}: {value}\r\n" for name, value in headers if name.lower() not in _OURS]
    lines.append(f"content-length: {len(request.body)}\r\n\r\n")
    text = "".join(lines)
    ends = len(lines) + 1
    if "\0" in text or text.count("\n") != ends or text.count("\r") != ends:
        raise unsendable()
    return target.head + text.encode() + request.body


class _Exchange:
    """One request and its answer: parsed, and passed to the decoder while it arrives.

    Attributes:
        message: what is sent, until something of the answer has come: a long talk and its pictures
            weigh much, and answers run for minutes.
        future: the result of the call.
        answered: a byte of the answer has come.
        whole: the response is complete, so that the connection can serve another call.
        reusable: whether it may do so; meaningful once it is whole.
    """

    __slots__ = (
        "_classify",
        "_decoder",
        "_end",
        "_error_body",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_no_body_bytes",
        "_on_head",
        "_parser",
        "_pieces",
        "_until_close",
        "answered",
        "future",
        "message",
        "on_body",
        "reusable",
        "status",
        "whole",
    )

    def __init__(
        self, message: bytes, decoder: Decoder, classify: Classify, on_head: OnHead | None
    ) -> None:
        self.message = message
        self.future: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()
        self.answered = False
        self.whole = False
        self.reusable = True
        self.status = 0
        self._decoder = decoder
        self._classify = classify
        self._on_head = on_head
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._head_done = False
        self._until_close = False
        self._end: CallEnd | None = None
        self._error_body: bytearray | None = None
        self._no_body_bytes = 0
        self._pieces: list[bytes] = []
        # The parser calls the list itself: nothing of ours runs per chunk, only per read.
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # --- called by the parser ----------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= HEAD_BYTES:
            self._headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # it is what calls this
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # only says that the real answer will come
            self._headers.clear()
        elif self._head_done:
            raise ValueError("a second answer to one request")  # ends the parsing
        else:
            self._head_done = True
            self.status = status
            self.reusable = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.whole = self.whole or self._head_done

    # --- called by the connection ------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes of the response.

        Raises:
            ProviderFailure: it is no HTTP, too large, or the decoder or an error status says so.
        """
        if not self.answered:
            self.answered = True
            self.message = b""
        began = not self._head_done
        readable = self._parse(data)
        if began:
            self._check_head(data)
        pieces = self._pieces
        if pieces:
            self._no_body_bytes = 0
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._take(body)
        else:
            self._no_body_bytes += len(data)
        if not readable or self._no_body_bytes > HEAD_BYTES:
            self._break_off()
        elif self.whole:
            self._finish()

    def _parse(self, data: bytes) -> bool:
        """Feed the parser; False when it is at its end because this is no HTTP."""
        if self._parser is None:
            return False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.reusable = False
            return self.whole
        return True

    def _check_head(self, data: bytes) -> None:
        if self._head_bytes > HEAD_BYTES:
            raise broken()
        if not self._head_done:
            return
        headers = self._headers
        if self._on_head is not None:
            self._on_head(headers)
        if self.status != 200:
            self._error_body = bytearray()
        elif headers.get("content-encoding", "identity").lower() != "identity":
            raise malformed()  # we said that we want none
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._until_close = not chunked and "content-length" not in headers

    @property
    def rests(self) -> bool:
        """Whether all that counts has come, or comes soon, and the response has not ended."""
        return self._end is not None or self._error_body is not None

    def _take(self, body: bytes) -> None:
        if self._end is not None or self.future.done():
            return  # behind the answer's end, or nobody waits any more
        if self._error_body is not None:
            self._error_body += body
            if len(self._error_body) > ERROR_BODY_BYTES:
                del self._error_body[ERROR_BODY_BYTES:]
                self._finish()
        elif self._decoder.feed(body):
            self._end = self._decoder.eof()

    def _finish(self) -> None:
        """Nothing more will come, or nothing that counts.

        Raises:
            ProviderFailure: it was an error, or it was cut off.
        """
        if self._error_body is not None:
            raise self._classify(self.status, self._headers, bytes(self._error_body))
        if not self.future.done():
            self.future.set_result(self._end or self._decoder.eof())

    def _break_off(self) -> None:
        """What follows cannot be read; an answer that is complete does not suffer by it."""
        self.reusable = False
        if not self.rests:
            raise broken()
        self._finish()

    def lost(self, orderly: bool, kept: bool) -> None:
        """The connection is gone: the end of some answers, a failure for all others.

        Args:
            orderly: the provider closed it, and it did not just break.
            kept: it had served calls before this one.
        """
        if self.future.done():
            return
        try:
            if not (self.rests or (orderly and self._until_close)):
                raise _Stale if kept and not self.answered else broken()
            self._finish()
        except Exception as failure:
            self.fail(failure)

    @property
    def is_sound(self) -> bool:
        """Whether the connection may serve another call: nothing went wrong on it."""
        return self.whole and self.reusable and (self._error_body is not None or self._is_answer)

    @property
    def _is_answer(self) -> bool:
        future = self.future
        return future.done() and not future.cancelled() and future.exception() is None

    def fail(self, failure: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(failure)

    def close(self) -> None:
        """Part from the parser: the two hold each other, and all that the answer has brought."""
        self._parser = None


class Connection(asyncio.Protocol):
    """One socket to a provider: one exchange at a time, kept for the next one in between.

    Attributes:
        quiet: sweeps since something happened; the pool counts.
    """

    __slots__ = ("_exchange", "_pool", "_served", "_timer", "_transport", "origin", "quiet")

    def __init__(self, pool: Pool, origin: _Target) -> None:
        self._pool = pool
        self.origin = origin
        self.quiet = 0
        self._served = 0
        self._exchange: _Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def begin(self, exchange: _Exchange) -> None:
        """Send a request; the exchange's future tells what came of it."""
        self.quiet = 0
        self._exchange = exchange
        if self._transport is None or self._transport.is_closing():
            self._lose(orderly=True)
        else:
            self._transport.write(exchange.message)

    @property
    def is_idle(self) -> bool:
        return self._exchange is None

    def expire(self) -> None:
        """Nothing has come for too long."""
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(broken() if exchange.answered else unreachable())
        self.abort()

    def abort(self) -> None:
        """Close now, in the middle of whatever there is; unsent bytes are dropped."""
        self._lose(orderly=False)
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._pool.add(self)

    def data_received(self, data: bytes) -> None:
        self.quiet = 0
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nobody asked
            return
        try:
            exchange.feed(data)
        except EventTooLarge:
            exchange.fail(too_large())
        except Exception as failure:
            exchange.fail(failure)
        if exchange.future.done():
            self._after(exchange)
        elif self._timer is None and exchange.rests:
            rest_s = REST_S if exchange.status == 200 else ERROR_BODY_S
            self._timer = asyncio.get_running_loop().call_later(rest_s, self.abort)

    def eof_received(self) -> None:
        self._lose(orderly=True)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(orderly=exc is None)

    # --- the end of an exchange --------------------------------------------------------------

    def _after(self, exchange: _Exchange) -> None:
        """The call has its result: keep the connection if nothing of the response is left."""
        if not exchange.is_sound:
            self.abort()
            return
        self._drop_timer()
        self._exchange = None
        exchange.close()
        self._served += 1
        self._pool.keep(self)

    def _lose(self, *, orderly: bool) -> None:
        self._drop_timer()
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost(orderly, self._served > 0)
            exchange.close()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class PoolStats(Struct):
    """Totals since the start. `crowded` were closed because too many were idle."""

    opened: int = 0
    reused: int = 0
    stale: int = 0
    expired: int = 0
    crowded: int = 0


class Pool:
    """Owns all connections of a transport, and the one timer that judges their silence."""

    def __init__(self, read_s: float = READ_S) -> None:
        self._reads_quiet = round(read_s / SWEEP_S)
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # the one that waits longest first
        self._ticker: asyncio.TimerHandle | None = None
        self.stats = PoolStats()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def add(self, connection: Connection) -> None:
        """Own a new connection."""
        self.stats.opened += 1
        self._all.add(connection)
        self._tick_later()

    def keep(self, connection: Connection) -> None:
        """Put a connection by for the next call."""
        self._idle[connection] = None
        if len(self._idle) > MAX_IDLE:
            self.stats.crowded += 1
            next(iter(self._idle)).abort()

    def take(self, origin: _Target) -> Connection | None:
        """Return the connection to the same place that was used last, if one waits."""
        for connection in reversed(self._idle):
            at = connection.origin
            if (at.host, at.port, at.tls) == (origin.host, origin.port, origin.tls):
                del self._idle[connection]
                self.stats.reused += 1
                return connection
        return None

    def forget(self, connection: Connection) -> None:
        """The connection is gone or about to go."""
        self._all.discard(connection)
        self._idle.pop(connection, None)

    def sweep(self) -> None:
        """Close what has been silent for too long; runs every SWEEP_S by itself."""
        for connection in list(self._all):
            connection.quiet += 1
            if connection.quiet > (_IDLE_QUIET if connection.is_idle else self._reads_quiet):
                self.stats.expired += 1
                connection.expire()

    def _tick_later(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(SWEEP_S, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        self.sweep()
        if self._all:
            self._tick_later()

    def close(self) -> None:
        """Close everything that no call is using."""
        for connection in list(self._all):
            connection.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None


@cache
def _client_tls() -> ssl.SSLContext:
    """Return what all connections verify their peers with; reads files, so not on the loop."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class RawTransport:
    """One provider's connections. See `providers.base.Transport`.

    Args:
        tls: verifies the provider's certificate; None for the system's authorities.
        resolver: finds addresses; None for the system's.
        read_s: silence after which a connection counts as dead.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        read_s: float = READ_S,
    ) -> None:
        self._tls = tls
        self._resolver = resolver
        self.pool = Pool(read_s)

    async def stream(
        self,
        request: HttpRequest,
        decoder: Decoder,
        classify: Classify,
        on_head: OnHead | None = None,
    ) -> CallEnd:
        """See `providers.base.Transport`."""
        try:
            target = _target(request.url)
        except ValueError:
            raise unsendable() from None
        exchange = _Exchange(_message(target, request), decoder, classify, on_head)
        del request  # not held while the answer runs; see `_Exchange.message`
        connection = self.pool.take(target) or await self._open(target)
        try:
            return await _call(connection, exchange)
        except _Stale:
            # The provider closed the connection while it lay idle. Nothing was answered, so
            # repeating is safe, over a new connection: the other idle ones may be dead as well.
            self.pool.stats.stale += 1
        connection = await self._open(target)
        return await _call(connection, _Exchange(exchange.message, decoder, classify, on_head))

    async def aclose(self) -> None:
        """Close idle connections; the transport can be used again."""
        self.pool.close()
        if self._resolver is not None:
            await self._resolver.aclose()

    async def _open(self, target: _Target) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self._dial(target)
        except (OSError, ValueError):  # TimeoutError and ssl.SSLError are kinds of OSError
            raise unreachable() from None

    async def _dial(self, target: _Target) -> Connection:
        """Try the addresses in turn; each but the last has half of the time that is left.

        Raises:
            OSError: none of them took the connection.
        """
        loop = asyncio.get_running_loop()
        if self._resolver is None:
            self._resolver = Resolver(loop.time)
        if target.tls and self._tls is None:
            self._tls = await loop.run_in_executor(None, _client_tls)
        until = loop.time() + CONNECT_S
        addresses = await self._resolver.addresses(target.host, target.port)
        for number, address in enumerate(list(addresses)):
            is_last = number == len(addresses) - 1
            share_s = (until - loop.time()) * (1.0 if is_last else 0.5)
            try:
                async with asyncio.timeout(share_s):
                    connection = await self._connect(target, address)
            except OSError:
                continue
            if number:
                self._resolver.prefer(target.host, target.port, address)
            return connection
        self._resolver.forget(target.host, target.port)
        raise OSError("no address answered")

    async def _connect(self, target: _Target, address: Address) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self.pool, target)
        family, host = address
        try:
            await loop.create_connection(
                lambda: connection,
                host,
                target.port,
                family=family,
                ssl=self._tls if target.tls else None,
                server_hostname=target.host if target.tls else None,
            )
        except BaseException:
            connection.abort()
            raise
        return connection


async def _call(connection: Connection, exchange: _Exchange) -> CallEnd:
    try:
        connection.begin(exchange)
        return await exchange.future
    except asyncio.CancelledError:
        connection.abort()
        raise
