"""What is noted for a mem0 server to erase, and for whom, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.codes import ConvKind
from protocol.rows import Persona
from server.erasure import Audience, Eraser
from storage import conversations, erasure, mem0_erasures, memories, messages, personas, turns
from storage.erasure import Kind
from storage.ids import EPOCH_MS, id_time_ms, last_id_at, new_id
from storage.mem0_erasures import SO_FAR, Mem0Erasure, Walk
from storage.ops import Bulk, Op, Statement
from storage.rows import NewTurn
from storage.store import Store
from tests.storage.world import World, cid

NEVER_MS = 2**52
Named = tuple[int, int, int, int]


class Notes(World):
    """A world in which a mem0 server is told; other tests' rows are left out."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.mine: set[int] = {0}

    async def do(self, feeds: Sequence[int], make: Any, **options: Any) -> Any:
        return await self.store.change(feeds, partial(make, **options))

    async def user(self, name: str | None = None, tenant: int = 1) -> int:
        made = await super().user(name, tenant)
        self.mine.add(made)
        return made

    async def ask(self, conv: int, user: int, persona: int, text: str = "asked") -> int:
        """Ask a persona something; return the message's number."""
        turn = NewTurn(new_id(), 1, user, persona)
        return (await self.send(conv, user, text, new_turn=turn)).seq

    async def persona(self, owner: int) -> int:
        options = {"owner": owner, "id": None, "cid": cid(), "given": Persona(name="小雅")}
        made, _ = await self.do([owner], personas.save_persona, tenant=1, **options)
        return int(made.id)

    async def keep(self, user: int, persona: int, conv: int, seq: int, heir: int = 0) -> int:
        """Remember something that was said there; return its id."""
        id = new_id()
        row = (id, 1, user, persona, "other", "t", conv, seq, "", 0, 1, 1, 0, 0, heir, b"", "")
        await self.store.change(
            [user], lambda tx: _yield(tx.dialect.insert("ai_memory", memories.MEMORY_INSERT, [row]))
        )
        return id

    async def rows(self, conv: int) -> list[Mem0Erasure]:
        """Return what is due of this test's people in a conversation, 0 for all of them."""
        found = await self.store.read(mem0_erasures.due_mem0_erasures(NEVER_MS, 10_000))
        return [one for one in found if one.conv == conv and one.user in self.mine]

    async def noted(self, conv: int) -> set[Named]:
        return {(one.user, one.persona, one.conv, one.seq) for one in await self.rows(conv)}

    async def spread(self, conv: int) -> int:
        """Name the pairs of what was noted for a conversation; return how many steps it took."""
        steps = 0
        for one in await self.rows(conv):
            after: int | bytes | None = None if one.user else b"" if one.seq else 0
            while after is not None:
                after = await self.do((), mem0_erasures.spread, one=one, after=after) or None
                steps += 1
        return steps

    async def spread_users(self) -> int:
        """Name the personas of those who want all forgotten; return how many steps it took."""
        steps = 0
        for one in await self.rows(SO_FAR):
            walk = Walk() if one.persona == SO_FAR else None
            while walk is not None:
                walk = await self.do((), mem0_erasures.spread_user, one=one, walk=walk)
                steps += 1
        return steps

    async def recall(self, conv: int, seq: int, by: int) -> None:
        options = {"conv": conv, "seq": seq, "by": by, "by_admin": False, "window_ms": 0}
        await self.do([conv], messages.recall_message, **options)


def _yield(command: Statement | Bulk) -> Op[None]:
    yield command


@pytest.fixture
async def notes(store: Store) -> Notes:
    made = Notes(store)
    await made.do((), mem0_erasures.set_noting, on=True)
    return made


async def test_a_recalled_message_is_due_with_each_persona_that_its_writer_asked(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_erasures, "_TURNS", 2)
    ann, bob = await notes.users(2)
    conv = await notes.conv([ann, bob])
    seq = await notes.ask(conv, ann, 7)
    for persona in (7, 8, 9):
        await notes.ask(conv, ann, persona)
    await notes.ask(conv, bob, 10)
    await notes.recall(conv, seq, ann)
    assert await notes.noted(conv) == {(0, 0, conv, seq)}
    assert await notes.spread(conv) == 3
    assert await notes.noted(conv) == {(ann, persona, conv, seq) for persona in (7, 8, 9)}
    assert {one.tenant for one in await notes.rows(conv)} == {1}


async def test_a_deleted_conversation_is_due_for_everybody_who_asked_in_it(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_erasures, "_TURNS", 2)
    ann, bob = await notes.users(2)
    conv = await notes.conv([ann, bob])
    for user, persona in ((ann, 7), (bob, 7), (ann, 8), (ann, 7)):
        await notes.ask(conv, user, persona)
    await notes.do([conv], conversations.drop_conversation, conv=conv)
    await notes.spread(conv)
    assert await notes.noted(conv) == {(ann, 7, conv, 0), (ann, 8, conv, 0), (bob, 7, conv, 0)}


async def test_an_edit_is_noted_once_per_text_and_what_was_noted_later_counts(
    notes: Notes,
) -> None:
    ann = await notes.user()
    conv = await notes.conv([ann], kind=ConvKind.AI)
    seq = await notes.ask(conv, ann, 7)
    edit = {"conv": conv, "seq": seq, "by": ann, "x": None, "base": 0}
    await notes.do([conv], messages.edit_message, text="new", **edit)
    (first,) = await notes.rows(conv)
    await notes.spread(conv)
    (pair,) = await notes.rows(conv)
    assert pair.requested == first.requested
    put_off = {"due": 2**50, "looks": 1, "failures": 3}
    await notes.do((), mem0_erasures.put_off_mem0_erasure, one=pair, **put_off)
    await notes.do([conv], messages.edit_message, text="new", **edit)  # the same text
    await notes.spread(conv)
    (pair,) = await notes.rows(conv)
    assert (pair.due, pair.looks, pair.failures) == (2**50, 1, 3)
    await notes.do([conv], messages.edit_message, text="newer", **edit)
    await notes.spread(conv)
    (again,) = await notes.rows(conv)
    assert again.requested >= pair.requested
    assert (again.looks, again.failures) == (0, 0)


async def test_what_is_noted_again_while_it_is_done_stays_due(notes: Notes) -> None:
    ann = await notes.user()
    conv = new_id()
    learner = [mem0_erasures.Learner(1, ann, 7)]
    await notes.do((), mem0_erasures.note_learners, learners=learner, conv=conv)
    (old,) = await notes.rows(conv)
    stale = replace(old, requested=5)
    await notes.do((), mem0_erasures.drop_mem0_erasure, one=stale)
    put_off = {"due": 2**50, "looks": 1, "failures": 0}
    await notes.do((), mem0_erasures.put_off_mem0_erasure, one=stale, **put_off)
    assert await notes.rows(conv) == [old]
    await notes.do((), mem0_erasures.drop_mem0_erasure, one=old)
    assert await notes.rows(conv) == []


async def test_nothing_is_noted_while_it_is_switched_off(notes: Notes) -> None:
    ann = await notes.user()
    conv = await notes.conv([ann], kind=ConvKind.AI)
    seq = await notes.ask(conv, ann, 7)
    for on in (False, False):
        await notes.do((), mem0_erasures.set_noting, on=on)
    await notes.recall(conv, seq, ann)
    await notes.do([ann], memories.erase_memories, user=ann)
    one = await notes.keep(ann, 7, conv, seq)
    await notes.do([ann], memories.erase_memory, user=ann, id=one)
    await Eraser(notes.store, Audience()).run(await notes.do([ann], erasure.begin_user, user=ann))
    for place in (conv, 0, SO_FAR):
        assert await notes.rows(place) == []


async def test_an_erased_user_is_due_with_every_persona_wherever_it_was_asked(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_erasures, "_TURNS", 2)
    ann, bob = await notes.users(2)
    alone = await notes.conv([ann], kind=ConvKind.AI)
    room = await notes.conv([ann, bob])
    gone = await notes.conv([ann], kind=ConvKind.AI)
    for conv, persona in ((alone, 7), (alone, 8), (alone, 9), (room, 10), (gone, 11)):
        await notes.ask(conv, ann, persona)
    await notes.ask(room, bob, 10)
    for persona in (12, 0):  # by programs: no conversation keeps it
        turn = NewTurn(new_id(), 1, ann, persona)
        await notes.do((), turns.create_turn, turn=turn, conv=0, ask_seq=0, cid=cid())
    job = await notes.do([gone], erasure.begin_conversation, conv=gone)
    await Eraser(notes.store, Audience()).run(job)
    await Eraser(notes.store, Audience()).run(await notes.do([ann], erasure.begin_user, user=ann))
    assert await notes.noted(0) == {(ann, persona, 0, 0) for persona in (7, 8, 9, 10, 12, 0)}
    assert (ann, 11, gone, 0) in await notes.noted(gone)
    found = await notes.store.read(erasure.get_erasure(Kind.USER, ann))
    assert found is not None
    assert found.finished


async def test_whoever_erases_what_a_persona_remembers_is_due_with_it_so_far(notes: Notes) -> None:
    ann, bob = await notes.users(2)
    ada = await notes.persona(bob)
    await notes.do([ann], memories.erase_memories, user=ann, persona=ada)
    assert await notes.noted(SO_FAR) == {(ann, ada, SO_FAR, 0)}
    (first,) = await notes.rows(SO_FAR)
    assert (first.tenant, first.due, first.looks) == (1, first.requested, 0)
    put_off = {"due": 2**50, "looks": 1, "failures": 0}
    await notes.do((), mem0_erasures.put_off_mem0_erasure, one=first, **put_off)
    await notes.do([ann], memories.erase_memories, user=ann, persona=ada)
    (again,) = await notes.rows(SO_FAR)
    assert (again.looks, again.requested >= first.requested) == (0, True)


async def test_personas_that_never_were_fill_no_table(notes: Notes) -> None:
    ann = await notes.user()
    for persona in range(3, 9):
        await notes.do([ann], memories.erase_memories, user=ann, persona=persona)
    await notes.do([], memories.erase_memories, user=new_id())
    assert await notes.rows(SO_FAR) == []


async def test_whoever_erases_everything_is_due_with_every_persona_that_was_asked(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mem0_erasures, "_TURNS", 2)
    ann, bob = await notes.users(2)
    alone = await notes.conv([ann], kind=ConvKind.AI)
    room = await notes.conv([ann, bob])
    await notes.conv([ann, bob])  # where nobody was asked
    for conv, persona in ((alone, 7), (alone, 8), (alone, 7), (room, 9)):
        await notes.ask(conv, ann, persona)
    await notes.ask(room, bob, 10)
    for persona in (12, 0):  # by programs: no conversation keeps it
        turn = NewTurn(new_id(), 1, ann, persona)
        await notes.do((), turns.create_turn, turn=turn, conv=0, ask_seq=0, cid=cid())
    await notes.do([ann], memories.erase_memories, user=ann)
    (wish,) = await notes.rows(SO_FAR)
    assert wish.persona == SO_FAR
    assert await notes.spread_users() == 6  # two for each place with two questions or more
    rows = await notes.rows(SO_FAR)
    assert {(one.user, one.persona) for one in rows} == {(ann, p) for p in (7, 8, 9, 12, 0)}
    told = {(one.tenant, one.requested, one.due) for one in rows}
    assert told == {(1, wish.requested, wish.due)}


async def test_what_is_wanted_again_while_its_personas_are_named_stays_due(notes: Notes) -> None:
    ann = await notes.user()
    await notes.do([ann], memories.erase_memories, user=ann)
    (wish,) = await notes.rows(SO_FAR)
    stale = replace(wish, requested=wish.requested - 1)
    assert await notes.do((), mem0_erasures.spread_user, one=stale, walk=Walk()) is None
    assert await notes.rows(SO_FAR) == [wish]


async def test_an_erased_memory_is_due_with_the_messages_that_it_and_its_older_forms_came_from(
    notes: Notes,
) -> None:
    ann, bob = await notes.users(2)
    conv = await notes.conv([ann, bob])
    newest = await notes.keep(ann, 7, conv, 5)
    older = await notes.keep(ann, 7, conv, 3, newest)
    await notes.keep(ann, 7, conv, 5, older)
    await notes.keep(ann, 7, conv, 4)
    by_hand = await notes.keep(ann, 7, 0, 0)
    for id in (newest, by_hand):
        await notes.do([ann], memories.erase_memory, user=ann, id=id)
    assert await notes.noted(conv) == {(ann, 7, conv, 5), (ann, 7, conv, 3)}
    assert await notes.rows(0) == []
    assert {one.tenant for one in await notes.rows(conv)} == {1}


async def test_a_conversation_that_dies_halfway_is_due_for_all_whose_turns_are_gone(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_ROWS", 2)
    ann, bob = await notes.users(2)
    conv = await notes.conv([ann, bob])
    for user, persona in ((ann, 7), (bob, 8), (ann, 9)):
        await notes.ask(conv, user, persona)
    left = 3
    while deleted := await notes.do((), erasure.delete_turns, conv=conv):
        left -= deleted
        named = {(one.user, one.persona) for one in await notes.rows(conv)}
        assert len(named) == 3 - left  # each with its turns, in one transaction
    assert named == {(ann, 7), (bob, 8), (ann, 9)}


async def test_those_that_wait_are_counted_and_come_when_they_are_due(notes: Notes) -> None:
    ann = await notes.user()
    learners = [mem0_erasures.Learner(1, ann, persona) for persona in (3, 4)]
    await notes.do((), mem0_erasures.note_learners, learners=learners)
    rows = await notes.rows(0)
    put_off = {"due": 7, "looks": 0, "failures": 0}
    await notes.do((), mem0_erasures.put_off_mem0_erasure, one=rows[1], **put_off)
    first = await notes.store.read(mem0_erasures.due_mem0_erasures(7, 5))
    assert rows[1].persona in {one.persona for one in first if one.user == ann}
    assert rows[0].persona not in {one.persona for one in first if one.user == ann}
    before = await notes.store.read(mem0_erasures.count_mem0_erasures())
    await notes.do((), mem0_erasures.drop_mem0_erasure, one=rows[0])
    assert await notes.store.read(mem0_erasures.count_mem0_erasures()) == before - 1


def test_the_last_id_of_a_moment_is_above_all_that_were_made_in_it() -> None:
    for id in (new_id(), new_id()):
        assert id <= last_id_at(id_time_ms(id))
        assert last_id_at(id_time_ms(id) - 1) < id
    assert last_id_at(EPOCH_MS) == 4095
