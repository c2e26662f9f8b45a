"""Erasing users and conversations for good: the steps in order, and a running server's part in it.

An erasure is decided by one commit (`storage.erasure.begin_user`, `begin_conversation`). Whoever
may carry it out does so: the server that runs, within seconds, or the command that asked for it
where none does. Each step is a transaction over a bounded number of rows, so people's messages
pass in between, and what was cut off goes on at the next start.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from protocol.codes import Code
from protocol.envelopes import ConvPush, MemberPush, MyConvPush
from protocol.rows import Conv, Member, Msg
from server.delivery import publish_change, publish_rows, tell_unsure
from server.directory import Conversation, member_row
from server.mem0_erasures import Mem0Erasures
from server.metrics import Figure
from storage import erasure
from storage.erasure import DONE, Erasure, Kind, Left, Place
from storage.errors import NotFound, StorageError
from storage.mem0_erasures import is_noting, note_user
from storage.rows import DroppedMember, StoredPersona
from storage.store import Store

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.erasure")

QUIET_S: Final = 15.0
"""How long answers that were called off may take to end."""
LOOK_S: Final = 0.05
RETRY_S: Final = 10.0


class Audience:
    """What has to happen around the steps; nothing, where no server runs."""

    async def enter(self, job: Erasure, conv: int) -> None:
        """The next steps are about this conversation."""

    async def call_off(self, conv: int, sids: Sequence[int]) -> None:
        """Stop these answers; return once they have ended, or after a while."""

    def begun(self, job: Erasure) -> None:
        """Nobody is signed in as this user any more."""

    def left(self, conv: int, user: int, left: Left) -> None: ...

    def recalled(self, conv: int, rows: Sequence[Msg]) -> None: ...

    def closed(self, conv: int, row: Conv | None, rev: int) -> None: ...

    def dropped(self, conv: int, members: Sequence[DroppedMember]) -> None: ...

    def personas(self, changed: Sequence[StoredPersona]) -> None: ...


class Eraser:
    """Carries out erasures, one at a time.

    All of it can be cut off anywhere and begun again.

    Args:
        progress: told after each step that can take long.
    """

    def __init__(
        self,
        store: Store,
        audience: Audience,
        progress: Callable[[Erasure], None] = lambda job: None,
    ) -> None:
        self._store = store
        self._audience = audience
        self._progress = progress

    async def run(self, job: Erasure) -> None:
        """Carry out what is left of an erasure.

        Raises:
            StorageError: the store refused a step; those before it are done.
        """
        await self._note(job, job.conv, job.seq, job.done)
        if job.kind == Kind.USER:
            await self._erase_user(job)
        else:
            await self._erase_conversation(job)
        await self.drop_letters()

    async def drop_letters(self) -> None:
        """Delete the dead letters of whoever has been erased: they come back from a file."""
        after: int | None = 0
        while after is not None:
            step = partial(erasure.erase_dead_letters, after=after)
            after = await self._store.change((), step) or None

    # users

    async def _erase_user(self, job: Erasure) -> None:
        user, store = job.target, self._store
        self._audience.begun(job)
        while await store.change((user,), partial(erasure.erase_user_memories, user=user)):
            pass
        await self._visit_places(job)
        # What was under way at the beginning may have gone where the first walk had been.
        await self._visit_places(job, job.requested)
        await self._note_learners(0, user)
        await self._erase_belongings(user)
        while await store.change((), partial(erasure.clear_turns, conv=0, user=user)):
            pass
        await store.change((user,), partial(erasure.finish_user, user=user))

    async def _visit_places(self, job: Erasure, since: int = 0) -> None:
        """Go through the user's conversations; with since through those that went on."""
        conv, seq, done = (0, 0, job.total) if since else (job.conv, job.seq, job.done)
        first = conv + 1 if seq == DONE else conv
        while place := await self._store.read(erasure.next_place(job.target, first, since)):
            start = seq if place.conv == conv and seq > 0 else 0
            await self._visit(job, place, start, keep=not since)
            done += not since
            first = place.conv + 1
            if not since:
                await self._note(job, place.conv, DONE, done)

    async def _visit(self, job: Erasure, place: Place, start: int, *, keep: bool) -> None:
        conv, user, store = place.conv, job.target, self._store
        await self._note_learners(conv, user)
        known = await store.read(erasure.get_erasure(Kind.CONVERSATION, conv))
        if known is not None or (place.present and not place.heir):
            begin = partial(erasure.begin_conversation, conv=conv)
            await self._erase_conversation(await store.change((conv,), begin))
            return
        await self._audience.enter(job, conv)
        await self._leave(place, user)
        await self._end_answers(conv, user)
        while True:
            sent = await store.read(erasure.sent_messages(conv, user, start))
            if sent.seqs:
                await store.change(
                    (conv,),
                    partial(erasure.recall_sent, conv=conv, user=user, seqs=sent.seqs),
                    publish=partial(self._audience.recalled, conv),
                )
            start = sent.upto
            if not sent.more:
                break
            if keep:
                await self._note(job, conv, start, job.done)
        while await store.change((), partial(erasure.clear_turns, conv=conv, user=user)):
            pass

    async def _note_learners(self, conv: int, user: int) -> None:
        """Have a mem0 server erase what the personas learnt that the user asked here."""
        if not await self._store.read(is_noting()):
            return
        after: bytes | None = b""
        while after is not None:
            step = partial(note_user, user=user, conv=conv, after=after)
            after = await self._store.change((), step) or None

    async def _leave(self, place: Place, user: int) -> None:
        found: Place | None = place
        while found is not None and found.conv == place.conv:
            feeds = [feed for feed in (found.conv, user, found.heir) if feed]
            try:
                await self._store.change(
                    feeds,
                    partial(erasure.leave_conversation, place=found, user=user),
                    publish=partial(self._audience.left, found.conv, user),
                )
                return
            except NotFound:
                before = found  # the heir has left: look for another
                found = await self._store.read(erasure.next_place(user, place.conv))
                if found == before:
                    raise

    async def _end_answers(self, conv: int, user: int = 0) -> None:
        """Have answers called off; those that nobody makes any more are ended in the store."""
        read = self._store.read
        while sids := await read(erasure.running_turns(conv, user)):
            await self._audience.call_off(conv, sids)
            left = set(await read(erasure.running_turns(conv, user))) & set(sids)
            if left:
                step = partial(erasure.end_running, sids=sorted(left))
                await self._store.change((), step)

    async def _erase_belongings(self, user: int) -> None:
        store = self._store
        after: int | None = 0
        while after is not None:
            made = partial(erasure.erase_personas, user=user, after=after)
            changed, following = await store.change((user,), made)
            self._audience.personas(changed)
            after = following or None
        after = 0
        while after is not None:
            step = partial(erasure.erase_pictures, user=user, after=after)
            after = await store.change((), step) or None

    # conversations

    async def _erase_conversation(self, job: Erasure) -> None:
        conv, store, audience = job.target, self._store, self._audience
        if job.finished:
            return
        await audience.enter(job, conv)
        await store.change(
            (conv,),
            partial(erasure.close_conversation, conv=conv),
            publish=lambda result: audience.closed(conv, *result),
        )
        while users := await store.read(erasure.present_members(conv)):
            await store.change(
                (conv, *users),
                partial(erasure.drop_everybody, conv=conv, users=users),
                publish=partial(audience.dropped, conv),
            )
        await self._end_answers(conv)
        done = job.done
        while count := await store.change((conv,), partial(erasure.delete_messages, conv=conv)):
            done = min(done + count, job.total)
            await self._note(job, conv, DONE, done)
        while await store.change((), partial(erasure.delete_turns, conv=conv)):
            pass
        await store.change((conv,), partial(erasure.empty_conversation, conv=conv))
        await store.change((), partial(erasure.finish_conversation, conv=conv))

    async def _note(self, job: Erasure, conv: int, seq: int, done: int) -> None:
        step = partial(erasure.note_progress, job=job, conv=conv, seq=seq, done=done)
        await self._store.change((), step)
        self._progress(replace(job, conv=conv, seq=seq, done=done))


class Members(Audience):
    """The people who are connected to this server."""

    def __init__(self, core: "Core", revoked: Callable[[int], None]) -> None:
        self._core = core
        self._revoked = revoked
        self._entry: Conversation | None = None

    def begun(self, job: Erasure) -> None:
        """End the user's sessions, and keep nothing that was recalled."""
        self._core.memories.pairs.forget_user(job.target)
        for session in self._core.hub.sessions_of(job.target):
            session.bye(Code.REVOKED, "the account is erased", -1)
        self._revoked(job.target)

    async def enter(self, job: Erasure, conv: int) -> None:
        """Know who is in the conversation; if others have begun, all read it again."""
        if job.started:
            tell_unsure(self._core, {conv})
        self._entry = await self._core.directory.fetch(conv)

    async def call_off(self, conv: int, sids: Sequence[int]) -> None:
        """Stop answers and wait until they are stored."""
        core = self._core
        for sid in sids:
            core.turns.cancel(sid)
        for _ in range(int(QUIET_S / LOOK_S)):
            if not any(core.streams.get(sid) for sid in sids):
                return
            await asyncio.sleep(LOOK_S)
        log.warning("erasure.answers_go_on", extra={"conv": conv, "answers": len(sids)})

    def left(self, conv: int, user: int, left: Left) -> None:
        """Tell the others who has gone and whose it is now."""
        for member, rev in left.members:
            before = self._now(conv)
            known = before.members.get(member.user or 0) if before is not None else None
            self._core.directory.set_members(conv, [member_row(member, known)])
            entry = self._now(conv)
            if entry is not None and rev:
                publish_change(self._core, entry, MemberPush(conv, rev, _shown(member)), rev)
        if left.row is not None:
            self.closed(conv, left.row, left.rev)

    def recalled(self, conv: int, rows: Sequence[Msg]) -> None:
        """Push the messages that are empty now."""
        entry = self._now(conv)
        if entry is not None:
            publish_rows(self._core, entry, rows)

    def closed(self, conv: int, row: Conv | None, rev: int) -> None:
        """Push the conversation's new row."""
        if row is None:
            return
        self._core.directory.set_row(conv, row)
        entry = self._now(conv)
        if entry is not None:
            publish_change(self._core, entry, ConvPush(conv, rev, row), rev)

    def dropped(self, conv: int, members: Sequence[DroppedMember]) -> None:
        """Tell each that the conversation is gone from their list."""
        hub = self._core.hub
        self._core.directory.set_members(conv, [member_row(one.member) for one in members])
        for one in members:
            user = one.member.user or 0
            hub.publish((user,), MyConvPush(one.my_rev, one.my))
            for session in hub.sessions_of(user):
                hub.watch(session, tuple(c for c in session.watched if c != conv))

    def personas(self, changed: Sequence[StoredPersona]) -> None:
        """Forget what the personas were."""
        self._core.personas.fill(changed)

    def _now(self, conv: int) -> Conversation | None:
        return self._core.directory.changed(conv) or self._entry


def _shown(member: Member) -> Member:
    return replace(member, nick=None) if not member.role else member


class Erasures:
    """Owns the task of a server that carries out erasures, one after another.

    What commands decided is noticed by `look` (see `server.ai_providers.AiRefresh`); at the start
    everything unfinished goes on.

    Attributes:
        mem0: what a mem0 server has to erase.
        revoked: called with a user whose tokens have become void; set by the doors.
        done, failed: totals; what failed goes on later.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.mem0 = Mem0Erasures(core.store, core.bridge.mem0, now_ms=core.now_ms)
        self.revoked: Callable[[int], None] = lambda user: None
        self.done = 0
        self.failed = 0
        self._wanted = True
        self._not_before = 0.0
        self._letters_looked = False
        self._task: asyncio.Task[None] | None = None

    async def erase_user(self, user: int) -> Erasure:
        """Decide that a user is erased, and begin.

        Raises:
            NotFound: no such user.
        """
        job = await self._core.store.change(
            (user,),
            partial(erasure.begin_user, user=user),
            publish=Members(self._core, self.revoked).begun,
        )
        self._wake()
        return job

    async def erase_conversation(self, conv: int) -> Erasure:
        """Decide that a conversation is erased, and begin.

        Raises:
            NotFound: no such conversation.
        """
        begin = partial(erasure.begin_conversation, conv=conv)
        job = await self._core.store.change((conv,), begin)
        self._wake()
        return job

    async def look(self) -> None:
        """Somebody has begun an erasure."""
        self._wake()

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        ended = {"done": self.done, "failed": self.failed}
        yield Figure("counter", "erasures", "Users and conversations erased.", ended, "end")
        running = self._task is not None and not self._task.done()
        yield Figure("gauge", "erasures_running", "Erasures under way.", int(running))
        yield from self.mem0.figures()

    def _wake(self) -> None:
        self._wanted = True
        self._not_before = 0.0
        self.sweep(self._core.clock())

    def sweep(self, now: float) -> None:
        """Go on with what is unfinished. Called once a second."""
        if not self._core.draining:
            self.mem0.sweep(now)
        if not self._wanted or now < self._not_before or self._core.draining:
            return
        if self._task is None or self._task.done():
            self._wanted = False
            self._task = asyncio.create_task(self._work())

    async def aclose(self) -> None:
        """Stop after the step under way; the next start goes on."""
        await self.mem0.aclose()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        core = self._core
        eraser = Eraser(core.store, Members(core, self.revoked))
        try:
            if not self._letters_looked:
                await eraser.drop_letters()
                self._letters_looked = True
            while jobs := await core.store.read(erasure.open_erasures(1)):
                job = jobs[0]
                await eraser.run(job)
                self.done += 1
                log.info("erasure.done", extra={"kind": job.kind, "target": job.target})
        except Exception as error:
            self.failed += 1
            self._wanted = True
            self._not_before = core.clock() + RETRY_S
            if isinstance(error, StorageError):
                log.warning("erasure.waits", extra={"reason": type(error).__name__})
            else:
                log.exception("erasure.crashed")
