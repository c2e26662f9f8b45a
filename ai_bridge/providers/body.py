"""A response that is one JSON body and no answer of a model: embeddings, transcripts."""

from __future__ import annotations

from ai_bridge.providers.base import CallEnd
from ai_bridge.transport.sse import MAX_EVENT_BYTES, EventTooLarge
from protocol.codes import EndReason


class BodyDecoder:
    """Collects the body; what is in it is the caller's business, after the transport returned."""

    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, data: bytes) -> bool:
        self._body += data
        if len(self._body) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return False

    def eof(self) -> CallEnd:
        return CallEnd(EndReason.STOP)

    @property
    def body(self) -> bytes:
        """What came so far."""
        return bytes(self._body)
