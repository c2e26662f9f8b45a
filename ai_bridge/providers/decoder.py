"""What the decoders of all dialects share: events or one body, whole characters, the end."""

from __future__ import annotations

from ai_bridge.providers.base import CallEnd, CallSink
from ai_bridge.providers.calls import CallCollector
from ai_bridge.providers.failures import truncated
from ai_bridge.providers.halves import HalfCarrier
from ai_bridge.transport.sse import MAX_EVENT_BYTES, EventTooLarge, SseParser
from ai_bridge.types import Usage
from protocol.codes import EndReason


class EventDecoder:
    """One answer: a stream of server-sent events, or one JSON body in its place.

    A dialect says in `_take` what an event or a body means: it passes text on, collects calls,
    and notes finish, usage and id. `_done` says that nothing of worth follows.
    """

    def __init__(self, out: CallSink) -> None:
        self._out = out
        self._sse = SseParser()
        self._body: bytearray | None = None
        self._sniffed = False
        self._text = HalfCarrier()
        self._thoughts = HalfCarrier()
        self._calls = CallCollector()
        self._finish: EndReason | None = None
        self._usage: Usage | None = None
        self._response_id = ""
        self._done = False

    def feed(self, data: bytes) -> bool:
        if not self._sniffed:
            self._sniff(data)
        if self._body is not None:
            self._body += data
            if len(self._body) > MAX_EVENT_BYTES:
                raise EventTooLarge
            return False
        written = self._calls.chars
        try:
            self._sse.feed(data, self._on_data)
        finally:
            self._out.flush()
        if self._calls.chars != written:
            self._out.writing_call()
        return self._done

    def eof(self) -> CallEnd:
        try:
            if self._body is not None:
                self._take_body(bytes(self._body).strip())
            elif not self._done:
                self._sse.eof(self._on_data)
            self._end_text()
            return self._end()
        finally:
            self._out.flush()

    def _end(self) -> CallEnd:
        finish = self._finish
        if finish is None and self._done:
            finish = EndReason.STOP
        if finish is None or finish is EndReason.ERROR:
            raise truncated()
        for call in self._calls.take(self._response_id, cut=finish is not EndReason.STOP):
            self._out.tool_call(call)
        return CallEnd(finish, self._usage, self._response_id)

    def _sniff(self, data: bytes) -> None:
        start = data.lstrip()
        if start:
            self._sniffed = True
            if start.startswith((b"{", b"[")):
                self._body = bytearray()

    def _on_data(self, data: bytes) -> None:
        if self._done:
            return  # what follows the end counts no more, whether it came in the same read or not
        if data.startswith(b"{"):
            self._take(data)
            return
        bare = data.strip()
        if bare == b"[DONE]":
            self._done = True
        elif bare.startswith(b"{"):
            self._take(bare)
        # Anything else (empty data, "ping") keeps the connection alive and says nothing.

    def _take(self, data: bytes) -> None:
        """Understand one JSON object.

        Raises:
            ProviderFailure: it reports an error, or is none.
        """
        raise NotImplementedError

    def _take_body(self, body: bytes) -> None:
        """Understand the one body that came in place of events."""
        self._take(body)

    def _end_text(self) -> None:
        """Hand out text that was held back."""

    def _say(self, piece: str | None) -> None:
        text = self._text.join(piece)
        if text:
            self._out.text(text)

    def _think(self, piece: str | None) -> None:
        thoughts = self._thoughts.join(piece)
        if thoughts:
            self._out.reasoning(thoughts)
