"""Connections to a server: native TCP and WebSocket, with or without TLS (docs/protocol.md §1).

Both carry the same frames and look the same from outside. What is sent in one turn of the event
loop goes out in one write.
"""

import asyncio
import logging
import os
import ssl
from typing import Any, Final, Protocol, cast

from clients.address import Address
from protocol.codec import JSON, MSGPACK, Codec
from protocol.envelopes import Frame
from protocol.errors import Malformed, ProtocolError, TooDeep, UnknownType
from protocol.frames import PREFACE, FrameDecoder
from protocol.handshake import UpgradeRefused, build_request, check_response, make_key
from protocol.http_head import HeadReader, HttpError
from protocol.websocket import (
    BINARY,
    CLOSE,
    CLOSE_NORMAL,
    PING,
    PONG,
    TEXT,
    WebSocketDecoder,
    apply_mask,
    encode_close,
    encode_frame,
)

try:
    from websockets.speedups import apply_mask as _fast_mask
except ImportError:
    mask_bytes = apply_mask
else:
    mask_bytes = _fast_mask

log = logging.getLogger("parlance.client")

CLOSE_S: Final = 2.0
MAX_FRAME_BYTES: Final = 1024 * 1024
SUBPROTOCOLS: Final = {"msgpack": "pwp1.msgpack", "json": "pwp1.json"}


class Receiver(Protocol):
    """Who is told what a connection brings. Called on the loop; must not raise."""

    def frames_received(self, frames: list[Any]) -> None:
        """Whole messages of the server, in order; those of unknown types are left out.

        There are none when what came is no whole message yet: a sign of life all the same.
        """

    def frame_refused(self) -> None:
        """Called after the messages beside it: one could not be understood and was dropped."""

    def connection_lost(self, reason: str) -> None:
        """Called once at the end, in plain words, unless `close` was called before."""


class Connection(asyncio.Protocol):
    """An open connection. `send` never blocks and never raises.

    Attributes:
        ignored: frames of unknown types that were left out.
    """

    def __init__(self, receiver: Receiver, codec: Codec) -> None:
        self._receiver = receiver
        self._codec = codec
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._gone = asyncio.Event()
        self._pieces: list[bytes] = []
        self._closing = False
        self._left = False
        self._failure = ""
        self.ignored = 0

    # from the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected, and TLS is set up."""
        self._transport = cast(asyncio.Transport, transport)
        self._began()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the receiver, or whoever still waits for the connection to open."""
        self._closing = True
        self._transport = None
        self._gone.set()
        reason = self._failure or (_plain(exc) if exc else "the server closed the connection")
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
        elif self._left:
            pass  # whoever closed it may have another connection by now
        elif not self.opened.cancelled() and self.opened.exception() is None:
            self._receiver.connection_lost(reason)

    def data_received(self, data: bytes) -> None:
        """Decode and hand on; a stream that cannot be understood ends the connection."""
        try:
            frames, refused = self._decode(self._cut(data))
        except ProtocolError as exc:
            self._fail(exc)
            return
        if self.opened.done() and not self._closing:
            self._receiver.frames_received(frames)
        if refused and not self._closing:
            self._receiver.frame_refused()
        error = self._stream_error()
        if error is not None:
            self._fail(error)

    def _decode(self, payloads: list[bytes]) -> tuple[list[Any], int]:
        """Return the messages, and how many more could not be understood."""
        decode = self._codec.decode_server
        frames = []
        refused = 0
        for payload in payloads:
            try:
                frames.append(decode(payload))
            except UnknownType:
                self.ignored += 1
            except TooDeep:
                raise
            except Malformed as exc:
                log.warning("client.malformed_frame", extra={"reason": exc.reason})
                refused += 1
        return frames, refused

    # for users

    def send(self, frame: Frame) -> None:
        """Queue a frame for the write at the end of this turn of the loop."""
        if self._closing:
            return
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(self._codec.encode(frame))

    def flush(self) -> None:
        """Write what is queued now."""
        if self._pieces and self._transport is not None and not self._transport.is_closing():
            self._write(self._pieces)
        self._pieces = []

    def close(self) -> None:
        """Write what is queued, then close in the transport's way; the receiver hears no more."""
        self._left = True
        if self._closing:
            return
        self.flush()
        self._closing = True
        if self._transport is not None:
            self._say_goodbye()
            self._transport.close()
            # Closing waits for a peer that takes what is left, which a stuck one never does.
            self._loop.call_later(CLOSE_S, self.abort)

    async def wait_closed(self) -> None:
        """Return when the socket is gone, after `close` or `abort`."""
        await self._gone.wait()

    def abort(self, reason: str = "") -> None:
        """Drop the connection now, without waiting for a peer that may be stuck."""
        self._failure = self._failure or reason
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: ProtocolError) -> None:
        if isinstance(error, UpgradeRefused | HttpError):
            self.abort(f"no WebSocket at this address: {error.reason}")
        else:
            self.abort(f"the server sent something unreadable: {error.reason}")

    # by transport

    def _began(self) -> None:
        raise NotImplementedError

    def _cut(self, data: bytes) -> list[bytes]:
        raise NotImplementedError

    def _stream_error(self) -> ProtocolError | None:
        raise NotImplementedError

    def _write(self, pieces: list[bytes]) -> None:
        raise NotImplementedError

    def _say_goodbye(self) -> None:
        """Say in the transport's way that we leave."""


class TcpConnection(Connection):
    """The native protocol: a preface, then frames."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver, MSGPACK)
        self._decoder = FrameDecoder(MAX_FRAME_BYTES)

    def _began(self) -> None:
        assert self._transport is not None
        self._transport.write(PREFACE)
        self.opened.set_result(None)

    def _cut(self, data: bytes) -> list[bytes]:
        return self._decoder.feed(data)

    def _stream_error(self) -> ProtocolError | None:
        return self._decoder.error

    def _write(self, pieces: list[bytes]) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(pieces))


class WebSocketConnection(Connection):
    """Frames in WebSocket messages: binary, or one JSON text each."""

    def __init__(self, receiver: Receiver, address: Address, codec: Codec) -> None:
        super().__init__(receiver, codec)
        self._address = address
        self._key = make_key()
        self._head: HeadReader | None = HeadReader()
        self._messages = WebSocketDecoder(MAX_FRAME_BYTES, require_mask=False)
        self._frames = FrameDecoder(MAX_FRAME_BYTES)

    def _began(self) -> None:
        assert self._transport is not None
        wanted = [SUBPROTOCOLS[self._codec.name]]
        request = build_request(
            self._address.authority, self._address.path, self._key, subprotocols=wanted
        )
        self._transport.write(request)

    def _cut(self, data: bytes) -> list[bytes]:
        if self._head is not None:
            data = self._finish_upgrade(self._head, data)
        if not data:
            return []
        payloads: list[bytes] = []
        for opcode, payload in self._messages.feed(data):
            if opcode == BINARY:
                payloads += self._frames.feed(payload)
            elif opcode == TEXT:
                payloads.append(payload)
            elif opcode == PING:
                self._write_frame(PONG, payload)
            elif opcode == CLOSE:
                self._answer_close(payload)
        return payloads

    def _stream_error(self) -> ProtocolError | None:
        return self._messages.error or self._frames.error

    def _finish_upgrade(self, head: HeadReader, data: bytes) -> bytes:
        if not head.feed(data):
            return b""
        self._head = None
        chosen = check_response(head.head, self._key, subprotocols=[*SUBPROTOCOLS.values()])
        if chosen != SUBPROTOCOLS[self._codec.name]:
            raise ProtocolError("the server did not choose our subprotocol")
        self.opened.set_result(None)
        return head.rest

    def _answer_close(self, payload: bytes) -> None:
        if not self._closing:
            self._write_frame(CLOSE, payload[:2])
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def _write(self, pieces: list[bytes]) -> None:
        if self._codec.is_text:
            for piece in pieces:
                self._write_frame(TEXT, piece)
        else:
            self._write_frame(BINARY, b"".join(pieces))

    def _write_frame(self, opcode: int, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            mask = os.urandom(4)
            self._transport.write(encode_frame(opcode, payload, mask=mask, masker=mask_bytes))

    def _say_goodbye(self) -> None:
        if self._head is None and self._transport is not None:
            self._transport.write(encode_close(CLOSE_NORMAL, mask=os.urandom(4)))


async def open_connection(
    address: Address,
    receiver: Receiver,
    *,
    tls: ssl.SSLContext | None = None,
    codec: Codec = MSGPACK,
    timeout_s: float = 10.0,
) -> Connection:
    """Connect, and upgrade if it is a WebSocket; return a connection ready for `hello`.

    Args:
        tls: for addresses with TLS; by default the system's certificates and full checks.
        codec: of WebSocket connections; `JSON` is a debug aid that servers may refuse.

    Raises:
        OSError: nobody answers there, or not as a Parlance server would. When cancelled,
            nothing stays open.
    """

    def make() -> Connection:
        if address.transport == "tcp":
            return TcpConnection(receiver)
        return WebSocketConnection(receiver, address, codec)

    context = None
    if address.tls:
        context = tls or ssl.create_default_context()
        if tls is None:
            context.set_alpn_protocols(["pwp/1" if address.transport == "tcp" else "http/1.1"])
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(
                make, address.host, address.port, ssl=context
            )
            try:
                await connection.opened
            except BaseException:
                connection.abort()
                await connection.wait_closed()
                raise
    except TimeoutError:
        raise TimeoutError(f"no answer from {address.authority} in {timeout_s:g} s") from None
    return connection


def _plain(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return type(exc).__name__


__all__ = [
    "JSON",
    "MSGPACK",
    "Connection",
    "Receiver",
    "TcpConnection",
    "WebSocketConnection",
    "open_connection",
]
