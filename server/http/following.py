"""An answer in a conversation, followed by a request that asked for it."""

import asyncio
from typing import TYPE_CHECKING, Final

from ai_bridge.http.answers import Pulse
from ai_bridge.run import QueueWatcher, TurnWatcher
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, PersonaSpec, TurnRequest, Usage, UsageSource
from protocol.codes import Code, EndReason, StreamPart
from protocol.envelopes import Reply, Sent
from server.errors import ServiceError
from server.http.callers import HttpCaller
from storage.errors import StorageError
from storage.messages import get_messages
from storage.rows import TurnRow, TurnStatus
from storage.turns import get_turn

if TYPE_CHECKING:
    from server.core import Core


ACK_S: Final = 30.0
"""A database that is away for longer is told to the sender; the message stays in the queue."""
_UNKNOWN: Final = (
    "The database does not answer: the message may still be stored. Send it again later with the "
    "same Idempotency-Key, or look at the history first."
)
LOOK_S: Final = 1.0
"""Pause between looks at an answer that another process makes."""


class HttpSender:
    """Waits for the acknowledgement of a message that came over HTTP."""

    def __init__(self, core: "Core", caller: HttpCaller) -> None:
        self.user = caller.user
        self.tenant = caller.tenant
        self.device = caller.device
        self.sent: asyncio.Future[Sent] = core.loop.create_future()

    async def acknowledged(self) -> Sent:
        """Wait until the message is stored, for `ACK_S` at most.

        Raises:
            ServiceError: TIMEOUT, nobody knows yet. What the handler and the store raise.
        """
        try:
            async with asyncio.timeout(ACK_S):
                return await self.sent
        except TimeoutError:
            raise ServiceError(Code.TIMEOUT, "not stored yet", _UNKNOWN) from None

    def reply(self, frame: Reply) -> None:
        """The message is stored; its turn begins right after this."""
        if not self.sent.done() and isinstance(frame, Sent):
            self.sent.set_result(frame)

    def fail(self, rid: int, exc: Exception) -> None:
        """It was not, or nobody knows."""
        if not self.sent.done():
            self.sent.set_exception(exc)

    def free_slot(self) -> None:
        """HTTP requests hold no slot of a connection."""


class Follower:
    """Tells a watcher what becomes of an answer that the conversation owns.

    Looks at it on every beat of the pulse, like the tick that sends text to the sockets. The end
    is told once the answer is stored, so that a client that asks again at once builds on it.
    """

    __slots__ = ("_core", "_ended", "_look_at", "_place", "_pulse", "_seen", "_sid", "_watcher")

    def __init__(self, core: "Core", pulse: Pulse, sid: int, watcher: TurnWatcher) -> None:
        self._core = core
        self._pulse = pulse
        self._sid = sid
        self._watcher = watcher
        self._seen = 0
        self._look_at = 0.0
        self._place = 0
        self._ended = False
        pulse.add(self)

    def stop(self) -> None:
        """Stop the answer: the request that asked for it has gone. Its text so far is kept."""
        if self._core.streams.get(self._sid) is not None:
            self._core.turns.cancel(self._sid)
        else:
            self._end(_empty_turn(self._sid), Outcome(reason=EndReason.CANCELLED))

    def leave(self) -> None:
        """Look no longer: the answer goes on without the request."""
        self._end(_empty_turn(self._sid), Outcome(reason=EndReason.CANCELLED))

    def beat(self, now: float) -> None:
        turn = self._core.bridge.get(self._sid)
        if turn is not None:
            size = turn.size(StreamPart.ANSWER) + turn.size(StreamPart.REASONING)
            if size > self._seen:
                self._seen = size
                self._watcher.turn_changed(turn)
        stream = self._core.streams.get(self._sid)
        if stream is not None:
            if turn is not None and stream.place != self._place:
                self._tell_place(turn, stream.place)
            return
        if turn is not None and turn.outcome is not None:
            self._end(turn, turn.outcome)
        elif now >= self._look_at:
            self._look_at = now + LOOK_S
            self._core.spawn(self._read())

    def _tell_place(self, turn: Turn, place: int) -> None:
        self._place = place
        if isinstance(self._watcher, QueueWatcher):
            self._watcher.turn_queued(turn, place)

    def _end(self, turn: Turn, outcome: Outcome) -> None:
        self._pulse.discard(self)
        if not self._ended:
            self._ended = True
            self._watcher.turn_ended(turn, outcome)

    async def _read(self) -> None:
        """Tell what the store knows: the bridge refused the turn, or made it long ago."""
        turn = _empty_turn(self._sid)
        try:
            row = await self._core.store.read(get_turn(self._sid))
            text = ""
            if row is not None and row.answer_seq:
                found = await self._core.store.read(get_messages(row.conv, [row.answer_seq], 0))
                text = found[0].text if found else ""
        except StorageError as exc:
            self._end(turn, _failed(Code(exc.code), "The store did not answer. Ask again."))
            return
        if row is None:
            self._end(turn, _failed(Code.NOT_FOUND, "The answer is gone. Ask again."))
            return
        if row.status < TurnStatus.DONE:
            return  # another process makes it, or will: look again later
        turn.append(StreamPart.ANSWER, text)
        if text:
            self._watcher.turn_changed(turn)
        self._end(turn, _outcome_of(row))


def _empty_turn(sid: int) -> Turn:
    return Turn(
        TurnRequest(turn_id=sid, tenant=0, user=0, conv=0, persona=PersonaSpec(0, ""), history=())
    )


def _failed(code: Code, text: str) -> Outcome:
    return Outcome(reason=EndReason.ERROR, code=code, error=text, retry_ms=code.default_retry_ms)


def _outcome_of(row: TurnRow) -> Outcome:
    code = Code(int(row.error_code)) if row.error_code else None
    reported = row.usage_source == UsageSource.PROVIDER.name.lower()
    return Outcome(
        reason=EndReason(row.reason),
        code=code,
        error=row.error_message,
        provider=row.provider,
        model=row.model,
        usage=Usage(
            row.tokens_in,
            row.tokens_out,
            UsageSource.PROVIDER if reported else UsageSource.ESTIMATED,
        ),
        ttft_ms=row.ttft_ms,
        duration_ms=row.duration_ms,
        retry_ms=code.default_retry_ms if code is not None else -1,
    )
