"""AI turns seen from the chat: from a stored question to a stored answer (docs/architecture.md).

The turn's row is written with its question. From then on this module owns it: it asks the bridge,
feeds the stream, and writes the answer with the final state in one transaction (what is kept until
then: `server.checkpoints`). What a dead process left behind is finished by the next one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from ai_bridge.bridge import Bridge
from ai_bridge.errors import BridgeError
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, Usage, UsageSource
from protocol.codes import Caps, Code, ConvKind, EndReason, GenMode, MsgKind, StreamPart
from protocol.envelopes import MsgPush, StreamEnd
from protocol.rows import GenOpt, MsgX
from server.checkpoints import LEASE_MS, Checkpoints, Kept
from server.delivery import publish_rows
from server.directory import Conversation
from server.hub import Encoded
from server.streams import Stream
from server.turn_requests import NO_EXTRA, Extra, TurnRequests, Wish
from storage.batcher import Append
from storage.branches import add_sibling
from storage.errors import StorageError
from storage.ops import Op
from storage.rows import EndTurn, NewTurn, TurnCheckpoint, TurnRow, TurnStatus
from storage.turns import checkpoint_turns, claim_turn, end_turn, orphan_turns
from storage.writes import Tx

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

log = logging.getLogger("parlance.turns")

T = TypeVar("T")

RERUNS: Final = 2
RECOVER_AT_ONCE: Final = 500
WRITE_AGAIN_S: Final = 0.5

_STATUS: Final = {
    EndReason.STOP: TurnStatus.DONE,
    EndReason.LENGTH: TurnStatus.DONE,
    EndReason.FILTERED: TurnStatus.FAILED,
    EndReason.ERROR: TurnStatus.FAILED,
    EndReason.CANCELLED: TurnStatus.CANCELLED,
    EndReason.INTERRUPTED: TurnStatus.INTERRUPTED,
}


class Answer(Append):
    """The text of an ended turn on its way through the batcher, with the turn's final state."""

    __slots__ = ("_future",)

    def __init__(
        self,
        future: asyncio.Future["Answer"],
        *,
        conv: int,
        persona: int,
        sid: int,
        text: str,
        x: MsgX,
        end: EndTurn,
    ) -> None:
        super().__init__(conv, persona, answer_cid(sid), MsgKind.AI_REPLY, text, x, end_turn=end)
        self._future = future

    def settle(self, error: StorageError | None) -> None:
        """Wake whoever waits for the commit."""
        if self._future.done():
            return
        if error is None:
            self._future.set_result(self)
        else:
            self._future.set_exception(error)


AnswerMaker = Callable[[asyncio.Future[Answer]], Answer]


def answer_cid(sid: int) -> bytes:
    """Return the idempotency key of a turn's answer: finishing a turn twice stores it once."""
    return b"parlance" + sid.to_bytes(8, "big")


class Running:
    """One turn between its question and its answer; the bridge's watcher."""

    __slots__ = (
        "_turns",
        "cancelled",
        "entry",
        "extra",
        "kept",
        "new",
        "opt",
        "partial",
        "stream",
    )

    def __init__(
        self,
        turns: "Turns",
        entry: Conversation,
        new: NewTurn,
        stream: Stream,
        opt: GenOpt | None,
        extra: Extra = NO_EXTRA,
    ) -> None:
        self._turns = turns
        self.entry = entry
        self.new = new
        self.stream = stream
        self.opt = opt
        self.extra = extra
        self.partial = ""
        self.kept = Kept()
        self.cancelled = False

    def turn_queued(self, turn: Turn, place: int) -> None:
        """It waits, and stands here now."""
        self._turns.queued(self, place)

    def turn_started(self, turn: Turn) -> None:
        """The bridge let it in."""
        self._turns.queued(self, 0)

    def turn_changed(self, turn: Turn) -> None:
        """There is more text."""
        self._turns.grew(self)

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        """There will be no more."""
        self._turns.ended(self, outcome)


class Turns:
    """Owns the turns of this process from their commit on.

    Attributes:
        started, finished: totals; finished by final status.
    """

    def __init__(self, core: "Core", bridge: Bridge, node: str) -> None:
        self._core = core
        self._bridge = bridge
        self._node = node
        self._requests = TurnRequests(core)
        self._running: dict[int, Running] = {}
        self._asking: dict[int, asyncio.Event] = {}  # by conversation: the last one under way
        self.checkpoints = Checkpoints(core, bridge, self._running)
        self.started = 0
        self.finished: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        return iter(self._running.values())

    def new(
        self,
        tenant: int,
        user: int,
        persona: int,
        mode: GenMode = GenMode.REPLY,
        sid: int | None = None,
    ) -> NewTurn:
        """Return the row of a turn, to be stored together with its question."""
        core = self._core
        return NewTurn(
            sid=sid or core.new_id(),
            tenant=tenant,
            user=user,
            persona=persona,
            mode=int(mode),
            node=self._node,
            lease_until=core.now_ms() + LEASE_MS,
            model="",
        )

    def begin(
        self,
        entry: Conversation,
        new: NewTurn,
        ask: int,
        opt: GenOpt | None = None,
        extra: Extra = NO_EXTRA,
    ) -> Stream:
        """Start a stored turn. Never fails: whatever happens becomes the turn's outcome."""
        stream = Stream(new.sid, entry.id, new.persona, ask, self._core.now_ms())
        running = Running(self, entry, new, stream, opt, extra)
        self._running[new.sid] = running
        self.started += 1
        self._core.streams.begin(entry, stream)
        self._core.spawn(self._ask(running))
        return stream

    def cancel(self, sid: int) -> bool:
        """Stop a running turn; its text so far becomes the answer."""
        running = self._running.get(sid)
        if running is not None:
            running.cancelled = True  # also when its question is still being read
            self._core.rooms.call_off(running.entry.id, sid)
        return self._bridge.cancel(sid)

    def grew(self, running: Running) -> None:
        """Pass new text on to those who watch."""
        self._core.streams.changed(running.stream)

    def queued(self, running: Running, place: int) -> None:
        """Tell those who watch where it stands in the queue."""
        self._core.streams.queued(running.stream, place)

    def ended(self, running: Running, outcome: Outcome) -> None:
        """Store what came of it."""
        self._core.spawn(self._finish(running, outcome))

    # asking

    async def _ask(self, running: Running) -> None:
        try:
            if not await self._has_floor(running):
                self.ended(running, Outcome(reason=EndReason.CANCELLED))
                return
            await self._submit(running)
            if running.cancelled:
                self._bridge.cancel(running.new.sid)
        except BridgeError as exc:
            self.ended(running, _failed(exc.code, exc.text, exc.retry_ms))
        except StorageError as exc:
            self.ended(running, _failed(exc.code, "The store did not answer. Ask again.", 1000))
        except Exception:
            log.exception("turn.crashed", extra={"sid": running.new.sid})
            self.ended(running, _failed(Code.INTERNAL, "Internal error. Ask again.", 1000))

    async def _submit(self, running: Running) -> None:
        """Read what the model is asked, and ask: a conversation's questions in their order."""
        wish = Wish(running.entry, running.new, running.stream.ask, running.opt, running.extra)
        conv = running.entry.id
        before = self._asking.get(conv)
        asked = self._asking[conv] = asyncio.Event()
        try:
            request = await self._requests.build(wish)
            if before is not None:
                await before.wait()  # reads overtake each other
            running.stream.turn = self._bridge.submit(request, running)
        finally:
            asked.set()
            if self._asking.get(conv) is asked:
                del self._asking[conv]

    async def _has_floor(self, running: Running) -> bool:
        """Wait until no other persona speaks; False if the answer was called off meanwhile."""
        if running.entry.kind is ConvKind.GROUP:
            await self._core.rooms.enter(running.entry.id, running.new.sid)
        return not running.cancelled

    # ending

    async def _finish(self, running: Running, outcome: Outcome) -> None:
        turn = running.stream.turn or self._bridge.get(running.new.sid)
        running.stream.turn = turn
        entry = self._core.directory.peek(running.entry.id) or running.entry
        text = turn.text(StreamPart.ANSWER) if turn is not None else ""
        if not text and outcome.reason is EndReason.INTERRUPTED:
            text = running.partial
        end = end_row(running.new.sid, outcome)
        seq = 0
        try:
            if text:
                seq = await self._store_answer(running, text, outcome, end)
            else:
                await self._store_end(running, outcome, end)
        except StorageError as exc:
            # The lease runs out and another start finishes it from the last checkpoint.
            log.error("turn.unsaved", extra={"sid": running.new.sid, "reason": str(exc)})
            self._core.streams.end(running.stream)
        finally:
            self._running.pop(running.new.sid, None)
            said = text if outcome.reason in (EndReason.STOP, EndReason.LENGTH) else ""
            self._core.rooms.leave(entry, running.new.sid, running.new.persona, said, seq)
            if said:
                self._consider_summary(entry, running.stream.turn)
        self.finished[end.status] = self.finished.get(end.status, 0) + 1
        if outcome.code is not None:
            log.warning(
                "turn.failed",
                extra={"sid": running.new.sid, "code": int(outcome.code), "model": outcome.model},
            )

    def _consider_summary(self, entry: Conversation, turn: Turn | None) -> None:
        if turn is not None and self._core.config.ai.summaries and self._core.has_model:
            floor = entry.floor(turn.request.user)
            self._core.summaries.consider(self._requests.summary_need(turn, floor))

    async def _store_answer(
        self, running: Running, text: str, outcome: Outcome, end: EndTurn
    ) -> int:
        """Store and publish an answer; return its number."""
        new, entry = running.new, running.entry
        x = MsgX(persona=new.persona, sid=new.sid, finish=int(outcome.reason))
        x.usage = _usage(outcome.usage)
        x.ask = running.stream.ask or None
        answer = await self._commit(
            lambda future: Answer(
                future, conv=entry.id, persona=new.persona, sid=new.sid, text=text, x=x, end=end
            )
        )
        complete = set(self._core.streams.end(running.stream))
        if answer.dup:
            return answer.seq  # stored before; whoever was not told has been asked to sync
        entry = self._core.directory.peek(entry.id) or entry
        entry.advance(answer.rev, answer.seq, answer.ts)
        self._core.stats.messages += 1
        push = MsgPush(
            entry.id,
            answer.rev,
            answer.seq,
            answer.ts,
            new.persona,
            int(MsgKind.AI_REPLY),
            text,
            x,
        )
        self._publish_answer(entry, complete, push, self._end_frame(running, outcome, answer))
        if new.mode == GenMode.REGENERATE:
            await self._add_sibling(entry, running.stream.ask, answer.seq)
        return answer.seq

    async def _add_sibling(self, entry: Conversation, target: int, seq: int) -> None:
        """Put the new answer in the place of the one that was not good enough."""
        core = self._core
        try:
            await core.store.change(
                (entry.id,),
                lambda tx: add_sibling(tx, entry.id, target, seq),
                publish=lambda rows: publish_rows(core, entry, rows),
            )
        except StorageError as exc:
            # Both stay, one behind the other: `ask` still tells that they belong together.
            log.warning("turn.sibling_failed", extra={"conv": entry.id, "reason": str(exc)})

    async def _store_end(self, running: Running, outcome: Outcome, end: EndTurn) -> None:
        await self._store_row(end)
        self._core.streams.end(running.stream)
        frame = self._end_frame(running, outcome, None)
        entry = self._core.directory.peek(running.entry.id) or running.entry
        self._core.hub.publish(entry.members, frame, caps=Caps.AI_DELTAS)

    def _publish_answer(
        self, entry: Conversation, complete: "set[Session]", push: MsgPush, end: StreamEnd
    ) -> None:
        whole, rest = Encoded(end), Encoded(push)
        for user in entry.members:
            for session in self._core.hub.sessions_of(user):
                encoded = whole if session in complete else rest
                session.outbox.push(encoded.bytes_for(session))

    def _end_frame(self, running: Running, outcome: Outcome, answer: Answer | None) -> StreamEnd:
        turn = running.stream.turn
        return StreamEnd(
            running.new.sid,
            running.entry.id,
            int(outcome.reason),
            answer.rev if answer else 0,
            answer.seq if answer else 0,
            answer.ts if answer else self._core.now_ms(),
            turn.size(StreamPart.ANSWER) if turn else 0,
            turn.crc(StreamPart.ANSWER) if turn else 0,
            _usage(outcome.usage),
            int(outcome.code) if outcome.code is not None else None,
            outcome.error or None,
            (running.stream.ask or None) if answer else None,
        )

    async def _commit(self, make: AnswerMaker) -> Answer:
        async def submit() -> Answer:
            future: asyncio.Future[Answer] = self._core.loop.create_future()
            self._core.store.submit(make(future))
            return await future

        return await _persist(submit)

    async def _store_row(self, end: EndTurn) -> None:
        store = self._core.store
        await _persist(lambda: store.change((), lambda tx: _end(tx, end)))

    # keeping and recovering

    async def recover(self, starting: bool = False) -> int:
        """Finish the turns that no living process works on; return how many there were.

        A turn that has shown nothing yet is asked again; one with text ends as interrupted.

        Args:
            starting: this process has not begun any turn yet, so all turns of its node are left
                over from its predecessor. Later only a lapsed lease tells that nobody works on one.
        """
        node = self._node if starting else ""
        rows = await self._core.store.read(orphan_turns(node, self._core.now_ms(), RECOVER_AT_ONCE))
        orphans = [row for row in rows if row.sid not in self._running]
        for row in orphans:
            await self._adopt(row)
        if orphans:
            log.warning("turns.recovered", extra={"turns": len(orphans)})
        return len(orphans)

    async def _adopt(self, row: TurnRow) -> None:
        core = self._core
        entry = await core.directory.fetch(row.conv)
        new = NewTurn(
            sid=row.sid,
            tenant=row.tenant,
            user=row.user,
            persona=row.persona,
            mode=row.mode,
            node=self._node,
            lease_until=core.now_ms() + LEASE_MS,
            model="",
        )
        if entry is not None and not row.partial and row.attempts < RERUNS:
            claim = partial(claim_turn, turn=row, node=self._node, lease_until=new.lease_until)
            if await core.store.change((), claim):
                self.begin(entry, new, row.ask_seq)
            return
        interrupted = _interrupted(row)
        if self._bridge.billing is not None:
            self._bridge.billing.ledger.load(
                [(row.tenant, row.user, row.cost_micro, row.cost_micro)]
            )
        if entry is None:
            await self._store_row(end_row(row.sid, interrupted))
            return
        stream = Stream(new.sid, entry.id, new.persona, row.ask_seq, core.now_ms())
        running = Running(self, entry, new, stream, None)
        running.partial = row.partial or ""
        self._running[new.sid] = running
        await self._finish(running, interrupted)


def _interrupted(row: TurnRow) -> Outcome:
    """Return how a turn ended whose process died: it used what its last checkpoint says."""
    return Outcome(
        reason=EndReason.INTERRUPTED,
        code=Code.INTERNAL,
        error="The server stopped while answering. Ask again or regenerate.",
        provider=row.provider,
        model=row.model,
        usage=Usage(row.tokens_in, row.tokens_out, UsageSource.ESTIMATED),
        cost_micro=row.cost_micro,
        retry_ms=0,
    )


def _end(tx: Tx, end: EndTurn) -> Op[None]:
    """Store the end of a turn without an answer; of text that was taken back nothing stays."""
    if end.reason == EndReason.FILTERED:
        yield from checkpoint_turns(tx, [TurnCheckpoint(end.sid, 0, "", "", "")])
    yield from end_turn(tx, end)


async def _persist(write: Callable[[], Awaitable[T]]) -> T:
    """Write the end of a turn, however long the store has no room: people wait for it."""
    while True:
        try:
            return await write()
        except StorageError as exc:
            if exc.code != Code.OVERLOADED:
                raise
        await asyncio.sleep(WRITE_AGAIN_S)


def _usage(usage: Usage) -> list[int]:
    return [usage.prompt, usage.completion]


def _failed(code: Code, text: str, retry_ms: int) -> Outcome:
    return Outcome(reason=EndReason.ERROR, code=code, error=text, retry_ms=retry_ms)


def end_row(sid: int, outcome: Outcome) -> EndTurn:
    """Return what is stored of a turn's end."""
    return EndTurn(
        sid=sid,
        status=int(_STATUS[outcome.reason]),
        reason=int(outcome.reason),
        provider=outcome.provider,
        model=outcome.model,
        tokens_in=outcome.usage.prompt,
        tokens_out=outcome.usage.completion,
        usage_source=outcome.usage.source.name.lower(),
        ttft_ms=max(0, outcome.ttft_ms),
        duration_ms=outcome.duration_ms,
        error_code=str(int(outcome.code)) if outcome.code else "",
        error_message=outcome.error,
        cost_micro=outcome.cost_micro,
    )
