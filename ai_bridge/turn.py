"""One AI answer while it is being made: its request, its state and its text."""

from __future__ import annotations

from zlib import crc32

from ai_bridge.types import Outcome, TurnRequest
from protocol.codes import StreamPart, StreamState

MAX_PART_BYTES = 256 * 1024
"""Bound of one part: four times the longest answer that models give today."""

_PARTS = tuple(StreamPart)  # 0, 1, …; going through the Enum itself takes microseconds


class TextBuffer:
    """Text kept once, as UTF-8; grows only at the end, up to its bound.

    Attributes:
        size: its bytes, as a number of its own: it is asked for more often than anything else.
    """

    __slots__ = ("_bytes", "_crc", "_max_bytes", "size")

    def __init__(self, max_bytes: int = MAX_PART_BYTES) -> None:
        self._bytes = bytearray()
        self._crc = 0
        self._max_bytes = max_bytes
        self.size = 0

    def append(self, text: str) -> bool:
        """Add what fits; return False when the bound cut it (never inside a character)."""
        data = text.encode("utf-8", "ignore")  # lone surrogates have no UTF-8 form
        room = self._max_bytes - self.size
        fits = len(data) <= room
        if not fits:
            data = data[: character_border(data, room)]
        self._bytes += data
        self.size += len(data)
        self._crc = crc32(data, self._crc)
        return fits

    def text_from(self, offset_bytes: int) -> tuple[int, str]:
        """Return (start, text to the end); start is the character border at or before offset."""
        start = character_border(self._bytes, max(0, offset_bytes))
        return start, self._bytes[start:].decode()

    def piece(self, offset_bytes: int, max_bytes: int) -> tuple[int, str, int]:
        """Return (start, text, end); both at character borders, start as in `text_from`."""
        start = character_border(self._bytes, offset_bytes)
        end = character_border(self._bytes, offset_bytes + max_bytes)
        return start, self._bytes[start:end].decode(), end

    def clear(self) -> None:
        """Drop all text."""
        self._bytes.clear()
        self._crc = 0
        self.size = 0

    @property
    def crc(self) -> int:
        return self._crc


def character_border(data: bytes | bytearray, offset: int) -> int:
    """Return the last character border at or before `offset`."""
    if offset >= len(data):
        return len(data)
    while offset > 0 and data[offset] & 0xC0 == 0x80:
        offset -= 1
    return offset


class Turn:
    """State and text of one answer. Only the bridge changes it; everybody may read it.

    Lives on the event loop's thread. Offsets count UTF-8 bytes within a part.

    Attributes:
        attempt: number of the running call of a provider, 0 before the first.
        outcome: None until the state is DONE.
    """

    __slots__ = ("_parts", "attempt", "id", "outcome", "request", "state")

    def __init__(self, request: TurnRequest, *, max_bytes: int = MAX_PART_BYTES) -> None:
        self.id = request.turn_id
        self.request = request
        self.state = StreamState.QUEUED
        self.attempt = 0
        self.outcome: Outcome | None = None
        self._parts = tuple(TextBuffer(max_bytes) for _ in _PARTS)

    def size(self, part: StreamPart = StreamPart.ANSWER) -> int:
        """Return the bytes held of a part."""
        return self._parts[part].size

    def sizes(self) -> list[int]:
        """Return the bytes held of each part, by the part's number."""
        return [buffer.size for buffer in self._parts]

    def text_from(self, part: StreamPart, offset_bytes: int) -> tuple[int, str]:
        """Return (start, text from there to the end); start <= offset_bytes, never mid-character.

        An offset past the end gives the end and no text.
        """
        return self._parts[part].text_from(offset_bytes)

    def piece(self, part: StreamPart, offset_bytes: int, max_bytes: int) -> tuple[int, str, int]:
        """Return (start, text, end) of at most `max_bytes` (4 or more) from an offset on.

        Start is as in `text_from`; end is where the next piece begins.
        """
        return self._parts[part].piece(offset_bytes, max_bytes)

    def text(self, part: StreamPart = StreamPart.ANSWER) -> str:
        return self._parts[part].text_from(0)[1]

    def crc(self, part: StreamPart = StreamPart.ANSWER) -> int:
        """Return the CRC-32 of the part's bytes so far."""
        return self._parts[part].crc

    def append(self, part: StreamPart, text: str) -> bool:
        """Add text (the bridge only); False when the part's bound cut it."""
        return self._parts[part].append(text)

    def retract(self) -> None:
        """Take back what was said and thought (the bridge only): nobody may read it any more."""
        for part in (StreamPart.ANSWER, StreamPart.REASONING):
            self._parts[part].clear()
