"""From a turn to the bytes of an HTTP response, whole or as server-sent events.

The bridge's calls write straight to the connection: a stream costs one write per read from the
provider and no task is woken in between. The handler's task sleeps until the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import web

from ai_bridge.http.problems import Problem, problem_of_outcome
from ai_bridge.run import TurnWatcher
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome
from protocol.codes import StreamPart

log = logging.getLogger("parlance.ai")

PULSE_S: Final = 0.05
"""How late a lost client, a reader that has caught up, or a due comment is noticed at most."""
COMMENT_S: Final = 15.0
"""Proxies give up on a silent connection after 30 to 60 seconds."""
STALL_S: Final = 30.0
"""A reader that takes nothing for so long is dropped."""
PART_ORDER: Final = (StreamPart.REASONING, StreamPart.ANSWER)

SSE_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # Compression would hold text back; nginx would gather it.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_COMMENT: Final = b": keep-alive\n\n"

Cancel = Callable[[], object]
Begin = Callable[[TurnWatcher], Awaitable[Cancel]]
"""Starts the turn for a watcher and returns what stops it; raises when it is refused."""
Dress = Callable[[web.StreamResponse], None]
"""Puts on the headers that every response of this server has."""


class Dialect(Protocol):
    """Writes one answer in one vendor's shape; every piece is a whole event."""

    def head(self) -> bytes: ...
    def delta(self, part: StreamPart, text: str) -> bytes: ...
    def end(self, outcome: Outcome) -> bytes: ...
    def failure(self, problem: Problem) -> bytes: ...
    def whole(self, turn: Turn, outcome: Outcome) -> bytes: ...


class Beating(Protocol):
    """Something that a pulse looks after."""

    def beat(self, now: float) -> None: ...


class Pulse:
    """One timer for all answers under way; it runs only while there are any.

    Bounded by the number of connections, each of which has one request in progress at most.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._members: dict[Beating, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    @property
    def now(self) -> float:
        """The clock that `beat` is told."""
        return self._loop.time()

    def add(self, member: Beating) -> None:
        """Call its `beat` from now on."""
        self._members[member] = None
        if self._timer is None:
            self._timer = self._loop.call_later(PULSE_S, self._beat)

    def discard(self, member: Beating) -> None:
        """Leave it alone; harmless when it is not known."""
        self._members.pop(member, None)

    def _beat(self) -> None:
        self._timer = None
        now = self._loop.time()
        for member in list(self._members):
            try:
                member.beat(now)
            except Exception:
                # One that fails must not stop the others.
                log.exception("http.beat_failed")
        if self._members and self._timer is None:
            self._timer = self._loop.call_later(PULSE_S, self._beat)


class WholeAnswer:
    """Waits for the end of a turn; stops it when the client has gone."""

    __slots__ = ("_request", "cancel", "ended", "turn")

    def __init__(self, request: web.Request, loop: asyncio.AbstractEventLoop) -> None:
        self._request = request
        self.ended: asyncio.Future[Outcome] = loop.create_future()
        self.turn: Turn | None = None
        self.cancel: Cancel | None = None

    def turn_started(self, turn: Turn) -> None:
        """Nothing to tell yet."""

    def turn_changed(self, turn: Turn) -> None:
        """Nothing to tell yet."""

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        self.turn = turn
        if not self.ended.done():
            self.ended.set_result(outcome)

    def beat(self, now: float) -> None:
        if self._request.transport is None and self.cancel is not None:
            self.cancel()


async def answer(
    request: web.Request,
    begin: Begin,
    pulse: Pulse,
    dialect: Dialect,
    dress: Dress,
    *,
    stream: bool,
) -> web.StreamResponse:
    """Return the answer of a turn, as a stream or whole.

    Raises:
        Problem: as `answer_streaming` and `answer_whole`. What `begin` raises.
    """
    if stream:
        return await answer_streaming(request, begin, pulse, dialect, dress)
    turn, outcome = await answer_whole(request, begin, pulse)
    return web.Response(
        body=dialect.whole(turn, outcome),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def answer_whole(request: web.Request, begin: Begin, pulse: Pulse) -> tuple[Turn, Outcome]:
    """Return the turn once it has ended properly.

    Cancelling it stops the turn.

    Raises:
        Problem: it did not end properly. What `begin` raises.
    """
    watcher = WholeAnswer(request, asyncio.get_running_loop())
    cancel = watcher.cancel = await begin(watcher)
    pulse.add(watcher)
    try:
        outcome = await watcher.ended
    except asyncio.CancelledError:
        cancel()
        raise
    finally:
        pulse.discard(watcher)
    turn = watcher.turn
    problem = problem_of_outcome(outcome)
    if problem is not None or turn is None:
        raise problem or Problem(500, "Something went wrong. Ask again.", type="server_error")
    return turn, outcome


class StreamedAnswer:
    """A turn's text on its way to one reader, as it comes.

    Nothing queues here: a reader that is behind is sent all that it misses, in one piece, when it
    has taken what it has. Sent offsets are all that is kept; the turn holds the text.
    """

    __slots__ = (
        "_behind_since", "_chunked", "_dialect", "_done", "_first", "_offsets", "_opened",
        "_outcome", "_place", "_protocol", "_pulse", "_request", "_turn", "_written_at", "cancel",
    )  # fmt: skip

    def __init__(
        self,
        request: web.Request,
        dialect: Dialect,
        pulse: Pulse,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._request = request
        self._protocol = request.protocol
        self._dialect = dialect
        self._pulse = pulse
        self._first: asyncio.Future[None] = loop.create_future()
        self._done: asyncio.Future[None] = loop.create_future()
        self._offsets = dict.fromkeys(PART_ORDER, 0)
        self._opened = False
        self._chunked = True
        self._behind_since: float | None = None
        self._written_at = pulse.now
        self._turn: Turn | None = None
        self._outcome: Outcome | None = None
        self._place = 0
        self.cancel: Cancel | None = None

    # the bridge's side

    def turn_queued(self, turn: Turn, place: int) -> None:
        """Tell the place in the queue as a comment, which clients skip and people can read."""
        self._place = place
        if place and self._opened and self._behind_since is None:
            self._write(self._comment())

    def turn_started(self, turn: Turn) -> None:
        self._turn = turn
        self._place = 0

    def turn_changed(self, turn: Turn) -> None:
        self._turn = turn
        if self._opened:
            self._push()
        elif not self._first.done():
            self._first.set_result(None)

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        self._turn = turn
        self._outcome = outcome
        if self._opened:
            self._push()
        elif not self._first.done():
            self._first.set_result(None)

    # the handler's side

    async def begun(self) -> None:
        """Wait for the first text, the end, or as much silence as a proxy bears.

        Raises:
            Problem: the turn failed before anything was said: it can be told as a status.
        """
        await self._first
        outcome = self._outcome
        problem = problem_of_outcome(outcome) if outcome is not None else None
        if problem is not None and not self._any_text():
            raise problem

    async def send(self, response: web.StreamResponse) -> None:
        """Send the head and everything up to the end; return when all of it is written."""
        writer = await response.prepare(self._request)
        self._chunked = getattr(writer, "chunked", False)
        self._opened = True
        self._write(self._dialect.head())
        if self._place:
            self._write(self._comment())
        self._push()
        await self._done

    def beat(self, now: float) -> None:
        """Notice what no call tells: a lost client, a reader that caught up, a long silence."""
        if self._protocol.transport is None:
            self._gone()
        elif self._behind_since is not None:
            if not self._protocol.writing_paused:
                self._push()
            elif now - self._behind_since > STALL_S:
                log.info("http.reader_stalled")
                self._protocol.transport.abort()
                self._gone()
        elif now - self._written_at >= COMMENT_S:
            if self._opened:
                self._write(self._comment())
            elif not self._first.done():
                self._first.set_result(None)

    # inside

    def _any_text(self) -> bool:
        turn = self._turn
        return turn is not None and any(turn.size(part) for part in PART_ORDER)

    def _push(self) -> None:
        """Write what is new, and the end when it has come, unless the reader is behind."""
        if self._protocol.transport is None:
            self._gone()
            return
        if self._done.done():
            return
        if self._protocol.writing_paused:
            if self._behind_since is None:
                self._behind_since = self._pulse.now
            return
        self._behind_since = None
        news = self._news()
        outcome = self._outcome
        if outcome is not None:
            problem = problem_of_outcome(outcome)
            news += (
                self._dialect.end(outcome) if problem is None else self._dialect.failure(problem)
            )
            self._done.set_result(None)
        if news:
            self._write(news)

    def _comment(self) -> bytes:
        return b": place %d in the queue\n\n" % self._place if self._place else _COMMENT

    def _news(self) -> bytes:
        turn = self._turn
        if turn is None:
            return b""
        news = b""
        for part in PART_ORDER:
            sent = self._offsets[part]
            size = turn.size(part)
            if size > sent:
                news += self._dialect.delta(part, turn.text_from(part, sent)[1])
                self._offsets[part] = size
        return news

    def _write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is None or not data:  # an empty chunk would end the body
            return
        # The framing of RFC 9112 §7.1 is written here because aiohttp's `write` is a coroutine.
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        self._written_at = self._pulse.now

    def _gone(self) -> None:
        """The client has left: nobody will read the rest."""
        if self.cancel is not None and self._outcome is None:
            self.cancel()
        for waiting in (self._first, self._done):
            if not waiting.done():
                waiting.set_result(None)


async def answer_streaming(
    request: web.Request, begin: Begin, pulse: Pulse, dialect: Dialect, dress: Dress
) -> web.StreamResponse:
    """Send a turn as server-sent events while it is made; return the finished response.

    A client that leaves stops the turn; so does cancelling this.

    Raises:
        Problem: the turn failed before the first byte was sent. What `begin` raises.
    """
    stream = StreamedAnswer(request, dialect, pulse, asyncio.get_running_loop())
    cancel = stream.cancel = await begin(stream)
    pulse.add(stream)
    response = web.StreamResponse(headers=SSE_HEADERS)
    try:
        await stream.begun()
        dress(response)
        await stream.send(response)
    except ConnectionResetError:
        cancel()
    except BaseException:
        cancel()  # harmless when the turn is over
        raise
    else:
        await _close(request, response)
    finally:
        pulse.discard(stream)
    return response


async def _close(request: web.Request, response: web.StreamResponse) -> None:
    """Write the end of the body; a reader that does not take the rest in time loses it."""
    try:
        async with asyncio.timeout(STALL_S):
            if request.transport is not None:
                await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionResetError:
        return  # it left just now; everything was written
