"""AI text on its way to people: by offset, coalesced, never queued (docs/protocol.md §8).

A stream belongs to the server. Each watching session has an offset per part; every tick it is
sent what lies between its offset and the end, if it can take it. So a slow reader costs nothing
and gets everything in the end, and a session that comes back goes on where it was.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ai_bridge.turn import Turn
from protocol.codes import Caps, StreamPart, StreamState
from protocol.envelopes import Opened, StreamDelta, StreamQueued, StreamStart
from protocol.rows import StreamPos
from server.directory import Conversation

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

log = logging.getLogger("parlance.streams")

TICK_S: Final = 0.05
SLOW_TICK_S: Final = 0.25
DELTA_BYTES: Final = 8_000
"""Longest text of one delta, so that a frame stays below the smallest frame limit of a client."""
TICK_BYTES: Final = 64_000
"""Most of one part that a session gets in one tick: who comes late to a long answer gets it in
a few ticks, and another look is taken in between at how fast it reads."""
PARTS: Final = (StreamPart.ANSWER, StreamPart.REASONING, StreamPart.TOOLS)
SLICE_STREAMS: Final = 64
"""Streams sent from per turn of the loop: with one watcher each they hold it for half a ms."""
# As plain integers: an operation on an IntFlag costs as much as all the rest for a session.
_AI_DELTAS: Final = int(Caps.AI_DELTAS)


class Stream:
    """One running answer and who follows it.

    Attributes:
        sid, conv, persona, ask: what it is, in the terms of `s_start`.
        silent: no text has been sent yet.
        place: its place in the queue as it was told last; 0 when it does not wait there.
        offsets: bytes sent, per session and part.
    """

    __slots__ = (
        "ask", "conv", "offsets", "persona", "place", "sid", "silent", "started_ms", "turn",
    )  # fmt: skip

    def __init__(self, sid: int, conv: int, persona: int, ask: int, now_ms: int) -> None:
        self.sid = sid
        self.conv = conv
        self.persona = persona
        self.ask = ask
        self.started_ms = now_ms
        self.silent = True
        self.place = 0
        self.turn: Turn | None = None
        self.offsets: dict[Session, list[int]] = {}

    @property
    def state(self) -> StreamState:
        """Queued until the bridge has let it in."""
        return StreamState.QUEUED if self.turn is None else StreamState(self.turn.state)

    def size(self, part: StreamPart) -> int:
        """Bytes of text so far."""
        return 0 if self.turn is None else self.turn.size(part)


def position(stream: Stream) -> StreamPos:
    """Return what a list of running streams says of one: how long its answer is, where it waits."""
    part = StreamPart.ANSWER
    size = stream.size(part)
    return StreamPos(stream.sid, stream.conv, stream.persona, int(part), size, stream.place)


class Streams:
    """Owns the running streams and sends their text to watchers, in one tick for all of them.

    Attributes:
        deltas: delta frames sent.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._streams: dict[int, Stream] = {}
        self._by_conv: dict[int, list[Stream]] = {}
        self._dirty: dict[int, Stream] = {}
        self._due: dict[int, Stream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last_tick = 0.0
        self.deltas = 0

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, sid: int) -> Stream | None:
        """Return a running stream."""
        return self._streams.get(sid)

    def of(self, conv: int) -> list[Stream]:
        """Return the running streams of a conversation."""
        return self._by_conv.get(conv, [])

    def begin(self, entry: Conversation, stream: Stream) -> None:
        """Announce a stream to every member."""
        self._streams[stream.sid] = stream
        self._by_conv.setdefault(stream.conv, []).append(stream)
        start = StreamStart(
            stream.sid,
            stream.conv,
            stream.persona,
            stream.ask,
            stream.started_ms,
            int(stream.state),
        )
        self._core.hub.publish(entry.members, start, caps=Caps.AI_DELTAS)

    def queued(self, stream: Stream, place: int) -> None:
        """Tell who watches where a waiting stream stands; 0 when it waits no more."""
        if place == stream.place:
            return
        stream.place = place
        frame = StreamQueued(stream.sid, stream.conv, place)
        watchers = self._core.hub.watchers_of(stream.conv)
        self._core.hub.signal(watchers, ("queued", stream.sid), frame, caps=_AI_DELTAS)

    def changed(self, stream: Stream) -> None:
        """The stream has new text: send it within a tick, the very first of it at once."""
        if stream.silent and not self._send_first(stream):
            return
        self._dirty[stream.sid] = stream
        if self._timer is None:
            loop = self._core.loop
            wait_s = self._tick_s() - (loop.time() - self._last_tick)
            self._timer = loop.call_later(max(0.0, wait_s), self._tick)

    def _send_first(self, stream: Stream) -> bool:
        """Send the beginning of a stream; True if more is left to send."""
        stream.silent = not any(map(stream.size, PARTS))
        return not stream.silent and self._try_send(stream)

    def positions(self, session: "Session", convs: Iterable[int]) -> list[StreamPos]:
        """Return the running streams of these conversations and how long their answers are."""
        return [position(stream) for conv in convs for stream in self.of(conv)]

    def follow(self, session: "Session", known: Iterable[StreamPos] = ()) -> None:
        """Start sending to a session that now watches conversations, from what it has.

        Streams that it does not list are sent from their beginning.
        """
        have = {(pos.sid, pos.part): pos.off for pos in known}
        for conv in session.watched:
            for stream in self.of(conv):
                offsets = stream.offsets.get(session)
                if offsets is None:
                    offsets = stream.offsets[session] = [0] * len(PARTS)
                for part in PARTS:
                    off = have.get((stream.sid, int(part)))
                    if off is not None and off <= stream.size(part):
                        offsets[part] = off
                self.changed(stream)

    def open(self, session: "Session | None", stream: Stream, part: int, off: int) -> Opened:
        """Return the text of a part from off on; what follows comes as deltas from there."""
        kind = StreamPart(part) if part in PARTS else StreamPart.ANSWER
        turn = stream.turn
        start, text = (0, "") if turn is None else turn.text_from(kind, off)
        total = stream.size(kind)
        if session is not None and stream.conv in session.watched:
            stream.offsets.setdefault(session, [0] * len(PARTS))[kind] = total
        state, place = int(stream.state), stream.place
        return Opened(0, stream.sid, stream.conv, state, int(kind), start, text, total, place)

    def forget(self, session: "Session") -> None:
        """The session is gone."""
        for conv in session.watched:
            for stream in self.of(conv):
                stream.offsets.pop(session, None)

    def end(self, stream: Stream) -> list["Session"]:
        """Send the rest, forget the stream, and return the sessions that have its whole answer.

        Those that want it whole at the end are left out.
        """
        if stream.turn is not None:
            self._send(stream)
        total = stream.size(StreamPart.ANSWER)
        self._streams.pop(stream.sid, None)
        self._dirty.pop(stream.sid, None)
        self._due.pop(stream.sid, None)
        siblings = self._by_conv.get(stream.conv, [])
        if stream in siblings:
            siblings.remove(stream)
        if not siblings:
            self._by_conv.pop(stream.conv, None)
        return [
            s
            for s, off in stream.offsets.items()
            if off[StreamPart.ANSWER] == total and not s.whole_answers
        ]

    def behind(self) -> int:
        """Return how many watchers have text to come that their connections do not take."""
        waiting = {**self._dirty, **self._due}.values()
        return sum(
            not session.outbox.writable and offsets != stream.turn.sizes()
            for stream in waiting
            if stream.turn is not None
            for session, offsets in stream.offsets.items()
        )

    def _tick_s(self) -> float:
        return SLOW_TICK_S if self._core.lag_ms() > 100 else TICK_S

    def _tick(self) -> None:
        self._timer = None
        self._last_tick = self._core.loop.time()
        if not self._due:
            self._core.loop.call_soon(self._send_due)
        self._due.update(self._dirty)
        self._dirty.clear()

    def _send_due(self) -> None:
        """Send a slice of what the tick found, so that it holds the loop only for a moment."""
        for _ in range(min(SLICE_STREAMS, len(self._due))):
            _, stream = self._due.popitem()
            if self._try_send(stream):
                self.changed(stream)
        if self._due:
            self._core.loop.call_soon(self._send_due)

    def _try_send(self, stream: Stream) -> bool:
        try:
            return self._send(stream)
        except Exception:
            # One broken stream must not stop the others.
            log.exception("stream.send_failed", extra={"sid": stream.sid})
            return False

    def _send(self, stream: Stream) -> bool:
        """Send what is new to every watcher that can take it; True if somebody was left behind."""
        turn = stream.turn
        if turn is None:
            return False
        behind = False
        sizes = turn.sizes()
        encoded: dict[tuple[int, int, str], tuple[bytes, int]] = {}
        for session in self._core.hub.watchers_of(stream.conv):
            if not session.caps & _AI_DELTAS:
                continue
            offsets = stream.offsets.get(session)
            if offsets is None:
                offsets = stream.offsets[session] = [0] * len(PARTS)
            if offsets == sizes:
                continue
            if not session.outbox.writable:
                behind = True
                continue
            for part, size in enumerate(sizes):
                until = min(size, offsets[part] + TICK_BYTES)
                while offsets[part] < until:
                    key = (part, offsets[part], session.codec.name)
                    made = encoded.get(key)
                    if made is None:
                        made = encoded[key] = self._encode(stream, turn, part, key[1], session)
                    session.outbox.push(made[0])
                    offsets[part] = made[1]
                    self.deltas += 1
                behind = behind or offsets[part] < size
        return behind

    @staticmethod
    def _encode(
        stream: Stream, turn: Turn, part: int, off: int, session: "Session"
    ) -> tuple[bytes, int]:
        start, text, end = turn.piece(PARTS[part], off, DELTA_BYTES)
        return session.codec.encode(StreamDelta(stream.sid, part, start, text)), end
