"""AI answers on their way, put together by byte offset (docs/protocol.md §8). No I/O."""

import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

from clients.events import Event, StreamEnded, StreamMoved, StreamStarted, StreamText
from protocol.codes import EndReason, MsgKind, StreamPart, StreamState
from protocol.envelopes import (
    MsgPush,
    Opened,
    StreamDelta,
    StreamEnd,
    StreamQueued,
    StreamStart,
)
from protocol.rows import Msg, MsgX, StreamPos

STREAMS_MAX: Final = 64
"""Streams followed at once; beyond it the one begun first is dropped. Its message still comes."""
PARTS: Final = (StreamPart.ANSWER, StreamPart.REASONING, StreamPart.TOOLS)


class OpenWanted(NamedTuple):
    """Text is missing: ask for `open(sid, part, off)`."""

    sid: int
    part: int
    off: int


class Stream:
    """One running answer as far as it has arrived.

    Attributes:
        ask: seq of the question; 0 when its start was missed.
        state: queued or running.
        place: its place in the queue, 0 when unknown or when it does not wait.
    """

    __slots__ = (
        "_opening", "_pieces", "_sizes", "ask", "conv", "persona", "place", "sid", "state",
    )  # fmt: skip

    def __init__(self, sid: int, conv: int, persona: int, ask: int, state: int) -> None:
        self.sid = sid
        self.conv = conv
        self.persona = persona
        self.ask = ask
        self.state = state
        self.place = 0
        self._pieces: tuple[list[str], ...] = tuple([] for _ in PARTS)
        self._sizes = [0] * len(PARTS)
        self._opening: set[int] = set()

    def text(self, part: int = StreamPart.ANSWER) -> str:
        """Return what has arrived of a part."""
        pieces = self._pieces[part]
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0] if pieces else ""

    def size(self, part: int = StreamPart.ANSWER) -> int:
        """Return the length in bytes of what has arrived of a part."""
        return self._sizes[part]

    def add(self, part: int, off: int, text: str) -> str | None:
        """Append what is new of `text`, which begins at byte `off`; return that.

        None means that text is missing before it: `open` from `size(part)` must be asked for.
        """
        have = self._sizes[part]
        if off > have:
            return None
        if off < have:
            octets = text.encode()[have - off :]
            # Cuts fall between characters on both sides, so the overlap ends between two as well.
            text = octets.decode(errors="replace")
        if text:
            self._pieces[part].append(text)
            self._sizes[part] += len(text.encode())
        return text

    def want_open(self, part: int) -> OpenWanted | None:
        """Return the question for what is missing, unless it is being asked already."""
        if part in self._opening:
            return None
        self._opening.add(part)
        return OpenWanted(self.sid, part, self._sizes[part])

    def open_answered(self, part: int) -> None:
        """The answer to `want_open` came, or will not come."""
        self._opening.discard(part)


class Streams:
    """The running answers of one user, over all connections.

    Methods return the events that follow. What must be asked for collects in `wanted`.

    Attributes:
        running: streams by sid.
        wanted: `open` requests to send; the caller takes them out.
        dropped: streams given up because there were too many.
    """

    def __init__(self) -> None:
        self.running: dict[int, Stream] = {}
        self.wanted: list[OpenWanted] = []
        self.dropped = 0
        self._listed: frozenset[int] = frozenset()

    def of(self, conv: int) -> list[Stream]:
        """Return the running streams of a conversation, first begun first."""
        return [stream for stream in self.running.values() if stream.conv == conv]

    def positions(self) -> list[StreamPos]:
        """Return where to go on, for `hello` and `sync`; `resume` takes the answer."""
        self._listed = frozenset(self.running)
        return [
            StreamPos(s.sid, s.conv, s.persona, int(StreamPart.ANSWER), s.size())
            for s in list(self.running.values())[-16:]
        ]

    def resume(self, running: Iterable[StreamPos]) -> list[Event]:
        """Take the list of running streams; those we asked about that are not in it have ended."""
        out: list[Event] = []
        positions = list(running)
        alive = {pos.sid for pos in positions}
        for sid in self._listed - alive:
            stream = self.running.pop(sid, None)
            if stream is not None:
                out.append(StreamEnded(sid, stream.conv, 0, None, text=stream.text()))
        self._listed = frozenset()
        return [*out, *self.join(positions)]

    def join(self, running: Iterable[StreamPos]) -> list[Event]:
        """Take a list of running streams that says nothing about others."""
        out: list[Event] = []
        for pos in running:
            if pos.sid not in self.running:
                self._begin(Stream(pos.sid, pos.conv, pos.persona, 0, StreamState.RUNNING), out)
            self._move(self.running[pos.sid], pos.place, out)
        return out

    def reconnected(self) -> None:
        """Questions asked on the lost connection are answered no more."""
        self.wanted.clear()
        for stream in self.running.values():
            for part in PARTS:
                stream.open_answered(part)

    def start(self, f: StreamStart) -> list[Event]:
        """Take `s_start`, also a repeated one."""
        out: list[Event] = []
        known = self.running.get(f.sid)
        if known is None:
            self._begin(Stream(f.sid, f.conv, f.persona, f.ask, f.state), out)
        else:
            known.ask, known.state = f.ask, f.state
        return out

    def queued(self, f: StreamQueued) -> list[Event]:
        """Take `s_queued`: a waiting stream has moved."""
        out: list[Event] = []
        stream = self.running.get(f.sid)
        if stream is not None:
            if not f.place:
                stream.state = StreamState.RUNNING
            self._move(stream, f.place, out)
        return out

    def _move(self, stream: Stream, place: int, out: list[Event]) -> None:
        if place:
            stream.state = StreamState.QUEUED
        if place != stream.place:
            stream.place = place
            out.append(StreamMoved(stream.sid, stream.conv, place))

    def delta(self, f: StreamDelta) -> list[Event]:
        """Take `s_delta`: append, skip an overlap, or ask for what is missing before it."""
        stream = self.running.get(f.sid)
        if stream is None or f.part >= len(PARTS):
            return []
        return self._add(stream, f.part, f.off, f.text)

    def opened(self, f: Opened) -> list[Event]:
        """Take the answer to `open`."""
        stream = self.running.get(f.sid)
        if stream is None or f.part >= len(PARTS):
            return []
        stream.open_answered(f.part)
        stream.state = f.state
        out: list[Event] = []
        self._move(stream, f.place, out)
        return [*out, *self._add(stream, f.part, f.off, f.text)]

    def open_failed(self, wanted: OpenWanted) -> None:
        """`open` was refused; the next delta that leaves a hole asks again."""
        stream = self.running.get(wanted.sid)
        if stream is not None:
            stream.open_answered(wanted.part)

    def end(self, f: StreamEnd) -> tuple[list[Event], MsgPush | None, bool]:
        """Take `s_end`.

        Returns:
            The events, the message it stands for, and whether a message exists that it could
            not stand for (text was missing or differed), so that it must be fetched.
        """
        stream = self.running.pop(f.sid, None)
        reason = EndReason(f.reason) if f.reason in set(EndReason) else EndReason.ERROR
        text = "" if stream is None else stream.text()
        if reason is EndReason.FILTERED and not f.rev and not f.total:
            text = ""  # it was taken back: nobody shows it any more
        ended = StreamEnded(f.sid, f.conv, f.seq, reason, f.code or 0, f.detail or "", text)
        if not f.rev:
            return [ended], None, False
        if stream is None or stream.size() != f.total:
            return [ended], None, True
        if zlib.crc32(text.encode()) != f.crc:
            return [ended], None, True
        persona = stream.persona or None
        x = MsgX(persona=persona, sid=f.sid, finish=int(reason), usage=f.usage, ask=f.ask)
        kind = int(MsgKind.AI_REPLY)
        push = MsgPush(f.conv, f.rev, f.seq, f.ts, stream.persona, kind, text, x)
        return [ended], push, False

    def stored(self, conv: int, msg: Msg) -> list[Event]:
        """A message is in the view: the stream it was made by, if any, is over."""
        sid = msg.x.sid if msg.x is not None else None
        if sid is None or self.running.pop(sid, None) is None:
            return []
        finish = msg.x.finish if msg.x is not None else None
        reason = EndReason(finish) if finish in set(EndReason) else None
        return [StreamEnded(sid, conv, msg.seq, reason, text=msg.text)]

    def _begin(self, stream: Stream, out: list[Event]) -> None:
        if len(self.running) >= STREAMS_MAX:
            oldest = next(iter(self.running))
            conv = self.running.pop(oldest).conv
            self.dropped += 1
            out.append(StreamEnded(oldest, conv, 0, None))
        self.running[stream.sid] = stream
        out.append(StreamStarted(stream.sid, stream.conv, stream.persona, stream.ask))

    def _add(self, stream: Stream, part: int, off: int, text: str) -> list[Event]:
        begins = stream.size(part)
        new = stream.add(part, off, text)
        if new is None:
            wanted = stream.want_open(part)
            if wanted is not None:
                self.wanted.append(wanted)
            return []
        if new:
            stream.state, stream.place = StreamState.RUNNING, 0
        return [StreamText(stream.sid, stream.conv, part, begins, new)] if new else []
