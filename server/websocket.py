"""WebSocket connections: the upgrade, then the same frames in binary or text messages."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from websockets.speedups import apply_mask

from protocol.codec import JSON, MSGPACK
from protocol.codes import Code
from protocol.errors import FrameError
from protocol.frames import BEFORE_WELCOME_BYTES, FrameDecoder
from protocol.handshake import Upgrade, accept_upgrade
from protocol.http_head import HeadReader, HttpError, Request, parse_request
from protocol.websocket import (
    BINARY,
    CLOSE,
    CLOSE_NO_STATUS,
    CLOSE_NORMAL,
    PING,
    PONG,
    TEXT,
    Event,
    WebSocketDecoder,
    WebSocketError,
    binary_header,
    encode_close,
    encode_frame,
    parse_close,
)
from server.session import Session, make_outbox_factory

if TYPE_CHECKING:
    from server.core import Core

MSGPACK_PROTOCOL: Final = "pwp1.msgpack"
JSON_PROTOCOL: Final = "pwp1.json"
ECHO_MESSAGE_BYTES: Final = 64 * 1024 * 1024
CLOSE_GRACE_S: Final = 5.0
EVENT_BYTES: Final = 64
MESSAGE_FRAMES: Final = 4
"""Frames of full size that one message may hold."""


def join_binary(frames: Sequence[bytes]) -> bytes:
    """Put all frames of a tick into one binary message."""
    if len(frames) == 1:
        frame = frames[0]
        return binary_header(len(frame)) + frame
    return b"".join((binary_header(sum(map(len, frames))), *frames))


def join_text(frames: Sequence[bytes]) -> bytes:
    """Make one text message of each frame."""
    return b"".join(encode_frame(TEXT, frame) for frame in frames)


class WebSocketConnection(asyncio.Protocol):
    """What every WebSocket endpoint shares: upgrade, control frames, closing.

    Args:
        hello_due: loop time at which the upgrade, and a `hello` behind it, must be complete.
    """

    __slots__ = ("_closing", "_core", "_decoder", "_head", "_transport", "address")

    transport_name: Final = "ws"

    def __init__(
        self, core: "Core", transport: asyncio.Transport, address: str, hello_due: float
    ) -> None:
        self._core = core
        self._transport = transport
        self.address = address
        self._head: HeadReader | None = HeadReader()
        self._decoder: WebSocketDecoder | None = None
        self._closing = False
        core.wheel.add(self, hello_due)

    def data_received(self, data: bytes) -> None:
        """Read the upgrade request, then frames."""
        decoder = self._decoder
        if decoder is None:
            data = self._upgrade(data)
            decoder = self._decoder
            if not data or decoder is None:
                return
        self.take(decoder.feed(data), len(data))

    def take(self, events: list[Event], size: int) -> None:
        """Handle what a read of `size` bytes brought, and the error that it may have ended in."""
        # Control frames are small but not free: a flood of them is charged like a flood of bytes.
        self.receive(events, max(size, EVENT_BYTES * len(events)))
        decoder = self._decoder
        if decoder is not None and decoder.error is not None:
            self.broken(decoder.error)

    def _upgrade(self, data: bytes) -> bytes:
        """Feed the request head; return what came behind it once it is complete."""
        head = self._head
        if head is None:
            return b""
        try:
            if not head.feed(data):
                return b""
            upgrade = self.accept(parse_request(head.head))
        except HttpError as exc:
            self._head = None
            self._transport.write(exc.response)
            self._transport.close()
            return b""
        self._head = None
        self._transport.write(upgrade.response)
        self.upgraded(upgrade)
        return head.rest

    def accept(self, request: Request) -> Upgrade:
        """Grant the upgrade or raise HttpError."""
        raise NotImplementedError

    def upgraded(self, upgrade: Upgrade) -> None:
        """Set the decoder; frames follow."""
        raise NotImplementedError

    def receive(self, events: list[Event], size: int) -> None:
        """Handle whole messages and control frames."""
        raise NotImplementedError

    def broken(self, error: WebSocketError) -> None:
        """The peer broke RFC 6455: say why and close."""
        self.send_close(error.close_code, error.reason)

    def control(self, opcode: int, payload: bytes) -> None:
        """Answer a ping or a close."""
        if opcode == PING and not self._transport.is_closing():
            self._transport.write(encode_frame(PONG, payload))
        elif opcode == CLOSE:
            if not self._closing:
                code, _ = parse_close(payload)
                self.send_close(CLOSE_NORMAL if code == CLOSE_NO_STATUS else code, "")
            self._transport.close()

    def send_close(self, code: int, reason: str) -> None:
        """Send a close frame and wait a little for the peer's before the socket goes."""
        if self._closing or self._transport.is_closing():
            return
        self._closing = True
        self._transport.write(encode_close(code, reason))
        self._core.loop.call_later(CLOSE_GRACE_S, self._transport.abort)

    def pause_reading(self) -> None:
        """Stop taking bytes from the peer."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection now."""
        self._transport.abort()

    def check(self, now: float) -> float | None:
        """The upgrade must be complete by now (see `heartbeat.Timed`)."""
        if self._decoder is None:
            self._transport.abort()
        return None


class PwpWebSocket(WebSocketConnection):
    """`/ws`: carries one session in WebSocket messages."""

    __slots__ = ("_hello_due", "_session")

    def __init__(
        self, core: "Core", transport: asyncio.Transport, address: str, hello_due: float
    ) -> None:
        super().__init__(core, transport, address, hello_due)
        self._hello_due = hello_due
        self._session: Session | None = None

    def accept(self, request: Request) -> Upgrade:
        """Grant the upgrade to those who speak one of our subprotocols."""
        core = self._core
        spoken = [MSGPACK_PROTOCOL] + ([JSON_PROTOCOL] if core.config.websocket.json else [])
        return accept_upgrade(request, subprotocols=spoken, origins=core.origins)

    def upgraded(self, upgrade: Upgrade) -> None:
        """Begin the session."""
        core = self._core
        is_text = upgrade.subprotocol == JSON_PROTOCOL
        # Room for a hello and some requests behind it, no more: a stranger's message is held whole.
        self._decoder = WebSocketDecoder(2 * BEFORE_WELCOME_BYTES, unmask=apply_mask)
        join = join_text if is_text else join_binary
        self._session = Session(
            core,
            self,
            JSON if is_text else MSGPACK,
            make_outbox_factory(self._transport, join, core.flusher),
            core.clock(),
            self._hello_due,
        )

    def data_received(self, data: bytes) -> None:
        """Read the upgrade, then frames."""
        decoder, session = self._decoder, self._session
        if decoder is None or session is None or session.codec.is_text or self._closing:
            super().data_received(data)
            return
        payload = decoder.lone_frame(data)
        if payload is not None:
            session.receive_one(payload, len(data))
            return
        self.take(decoder.feed(data), len(data))

    def receive(self, events: list[Event], size: int) -> None:
        """Hand payloads on; a binary message holds one or more whole frames."""
        session = self._session
        if session is None or self._closing:
            for opcode, payload in events:
                if opcode == CLOSE:
                    self.control(opcode, payload)
            return
        payloads: list[bytes] = []
        error: FrameError | None = None
        data_opcode = TEXT if session.codec.is_text else BINARY
        for opcode, payload in events:
            if opcode == data_opcode:
                error = self._cut(session, payload, payloads)
            elif opcode in (TEXT, BINARY):
                error = FrameError("wrong kind of message", Code.FRAMING)
            else:
                self.control(opcode, payload)
            if error is not None:
                break
        session.receive(payloads, size)
        if error is not None:
            session.protocol_error(error)

    def _cut(self, session: Session, message: bytes, payloads: list[bytes]) -> FrameError | None:
        limit = self._core.policy.frame_bytes if session.user else BEFORE_WELCOME_BYTES
        if session.codec.is_text:
            if len(message) > limit:
                return FrameError("frame too large", Code.TOO_LARGE)
            payloads.append(message)
            return None
        decoder = FrameDecoder(limit)
        payloads += decoder.feed(message)
        if decoder.error is None and decoder.buffered_bytes:
            return FrameError("message ends inside a frame")
        return decoder.error

    def broken(self, error: WebSocketError) -> None:
        """Close with the code of RFC 6455; PWP has nothing to add."""
        self.send_close(error.close_code, error.reason)
        if self._session is not None:
            self._session.lost()

    def signed_in(self) -> None:
        """Take messages of full size: several frames each."""
        if self._decoder is not None:
            self._decoder.max_message_bytes = self._core.policy.frame_bytes * MESSAGE_FRAMES

    def ping(self) -> bool:
        """Send a protocol-level ping, which browsers answer even when their page sleeps."""
        if self._transport.is_closing():
            return False
        self._transport.write(encode_frame(PING, b""))
        return True

    def shut(self, code: int, reason: str) -> None:
        """Close with a code that repeats what `bye` said."""
        self.send_close(code, reason)
        self.resume_reading()

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        if self._session is not None:
            self._session.outbox.pause(self._core.clock())

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._session is not None:
            self._session.outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._session is not None:
            self._session.lost()
        else:
            self._core.strangers.leave(self.address)


class EchoWebSocket(WebSocketConnection):
    """`/ws/echo`: sends every message back, for conformance suites. Off by default."""

    def accept(self, request: Request) -> Upgrade:
        """Grant any correct upgrade."""
        return accept_upgrade(request, origins=self._core.origins)

    def upgraded(self, upgrade: Upgrade) -> None:
        """Frames follow."""
        self._decoder = WebSocketDecoder(ECHO_MESSAGE_BYTES, unmask=apply_mask)

    def receive(self, events: list[Event], size: int) -> None:
        """Echo what came in one write."""
        out = []
        for opcode, payload in events:
            if opcode in (TEXT, BINARY):
                out.append(encode_frame(opcode, payload))
                continue
            if out and not self._closing:
                self._transport.write(b"".join(out))
                out = []
            self.control(opcode, payload)
        if out and not self._closing and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def pause_writing(self) -> None:
        """The peer does not read its echo: stop reading from it."""
        self.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._core.strangers.leave(self.address)
