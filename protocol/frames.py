"""Cut frames out of a byte stream and put them together (docs/protocol.md §1).

On the wire: one big-endian 32-bit word, its top 8 bits flags and its low 24 bits the length N,
then N payload bytes. Flags other than 0 are reserved for compression, which is not built yet.
"""

from typing import Final

from protocol.errors import FrameError, FrameTooLarge

HEADER_BYTES: Final = 4
MAX_LENGTH: Final = 0xFFFFFF
PREFACE: Final = b"\x8bPWP\r\n\x01\x00"
"""What a TCP client sends first; the byte before the last is the major version."""
MAJOR_AT: Final = 6
FIRST_BYTE: Final = PREFACE[0]

BEFORE_WELCOME_BYTES: Final = 32 * 1024
"""Largest payload a client may send before it is signed in."""


_SMALL_HEADERS: Final = tuple(length.to_bytes(HEADER_BYTES, "big") for length in range(256))


def join_frame(payload: bytes) -> bytes:
    """Return payload with its header in front: what goes on the wire."""
    length = len(payload)
    if length < 256:
        return _SMALL_HEADERS[length] + payload
    return length.to_bytes(HEADER_BYTES, "big") + payload


class FrameDecoder:
    """Cuts the frame payloads out of one connection's byte stream.

    Holds at most one unfinished frame, and nothing at all between frames. A broken stream
    sets `error` instead of raising, so that the whole frames before it are not lost:
    handle what `feed` returned, then look at `error`. After an error the decoder is dead.

    Attributes:
        max_payload_bytes: largest payload accepted; may be raised after sign-in.
    """

    __slots__ = ("_buffer", "_need", "error", "max_payload_bytes")

    def __init__(self, max_payload_bytes: int) -> None:
        self.max_payload_bytes = max_payload_bytes
        self.error: FrameError | None = None
        self._buffer: bytearray | None = None
        self._need = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished frame that are being held."""
        return 0 if self._buffer is None else len(self._buffer)

    def lone(self, data: bytes) -> bytes | None:
        """Return the payload when data is exactly one small frame; None: feed data.

        By far the commonest read of a server, so it has a short way past `feed`.
        """
        size = len(data) - HEADER_BYTES
        if (
            0 < size < 256
            and self._buffer is None
            and data[:HEADER_BYTES] == _SMALL_HEADERS[size]
            and size <= self.max_payload_bytes
            and self.error is None
        ):
            return data[HEADER_BYTES:]
        return None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that data completes, in wire order."""
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need or self.error is not None:
                return []
            data = bytes(self._buffer)
            self._buffer = None
        elif self.error is not None:
            return []
        payloads: list[bytes] = []
        start, size = 0, len(data)
        while size - start >= HEADER_BYTES:
            word = int.from_bytes(data[start : start + HEADER_BYTES], "big")
            if not 0 < word <= self.max_payload_bytes:
                self.error = _explain(word)
                return payloads
            end = start + HEADER_BYTES + word
            if end > size:
                self._need = end - start
                break
            payloads.append(data[start + HEADER_BYTES : end])
            start = end
        else:
            self._need = HEADER_BYTES
        if start < size:
            self._buffer = bytearray(data[start:])
        return payloads


def _explain(word: int) -> FrameError:
    """Return what is wrong with a header that is not a length within the limit."""
    if word > MAX_LENGTH:
        return FrameError("reserved flags")
    if word == 0:
        return FrameError("empty frame")
    return FrameTooLarge("frame too large")
