"""Native TCP connections (docs/protocol.md §1)."""

import asyncio
from typing import TYPE_CHECKING, Final

from protocol.codec import MSGPACK
from protocol.codes import Code
from protocol.frames import BEFORE_WELCOME_BYTES, MAJOR_AT, PREFACE, FrameDecoder
from server.session import Session, make_outbox_factory

if TYPE_CHECKING:
    from server.core import Core

join_tcp = b"".join


class TcpConnection(asyncio.Protocol):
    """Carries one session over a byte stream. Owns the frame decoder.

    Args:
        hello_due: loop time at which `hello` must be complete.
    """

    __slots__ = ("_core", "_decoder", "_preface", "_session", "_transport", "address")

    transport_name: Final = "tcp"

    def __init__(
        self, core: "Core", transport: asyncio.Transport, address: str, hello_due: float
    ) -> None:
        self._core = core
        self._transport = transport
        self.address = address
        self._preface: bytes | None = b""
        self._decoder = FrameDecoder(BEFORE_WELCOME_BYTES)
        self._session = Session(
            core,
            self,
            MSGPACK,
            make_outbox_factory(transport, join_tcp, core.flusher),
            core.clock(),
            hello_due,
        )

    def data_received(self, data: bytes) -> None:
        """Cut frames and hand their payloads on."""
        if self._preface is not None:
            data = self._take_preface(data)
            if not data:
                return
        decoder = self._decoder
        payload = decoder.lone(data)
        if payload is not None:
            self._session.receive_one(payload, len(data))
            return
        self._session.receive(decoder.feed(data), len(data))
        if decoder.error is not None:
            self._session.protocol_error(decoder.error)

    def _take_preface(self, data: bytes) -> bytes:
        data = (self._preface or b"") + data
        if len(data) < len(PREFACE):
            if PREFACE.startswith(data):
                self._preface = data
            else:
                self._refuse_preface(data)
            return b""
        if data[: len(PREFACE)] != PREFACE:
            self._refuse_preface(data)
            return b""
        self._preface = None
        return data[len(PREFACE) :]

    def _refuse_preface(self, data: bytes) -> None:
        if data[:MAJOR_AT] == PREFACE[:MAJOR_AT]:
            self._session.bye(Code.VERSION, "this server speaks major version 1", -1)
        else:
            self._session.bye(Code.FRAMING, "not PWP")

    def eof_received(self) -> bool:
        """The peer has nothing more to say: close once our answers are out."""
        return False

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._session.outbox.pause(self._core.clock())

    def resume_writing(self) -> None:
        """It has caught up."""
        self._session.outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._session.lost()

    # Carrier

    def signed_in(self) -> None:
        """Take frames of full size."""
        self._decoder.max_payload_bytes = self._core.policy.frame_bytes

    def pause_reading(self) -> None:
        """Stop taking bytes from the peer."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def ping(self) -> bool:
        """TCP has no sign of life that would prove the program at the other end alive."""
        return False

    def shut(self, code: int, reason: str) -> None:
        """Send what is written and an end; a plain close could destroy the last frame unread."""
        transport = self._transport
        if transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
            self.resume_reading()
        else:
            transport.close()

    def abort(self) -> None:
        """Drop the connection now."""
        self._transport.abort()
