"""Memories: learnt once, erased with their source, bounded; one suite on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import pytest

from protocol.rows import ConvSet, MsgX
from storage import memories, memory_marks
from storage.conversations import change_conversation, drop_conversation
from storage.errors import LimitReached, NotFound
from storage.ids import new_id
from storage.memories import Memory
from storage.memory_marks import Learned, Learnt, Noted, Unread
from storage.messages import edit_message, recall_message
from storage.rows import NewTurn
from tests.storage.world import World, cid

ADA: Final = 7_000_001
BOB: Final = 7_000_002


class Notebook:
    """Short ways to do what the server does with one user's memories."""

    def __init__(self, world: World, user: int, conv: int) -> None:
        self.world = world
        self.user = user
        self.conv = conv

    async def say(self, text: str, persona: int = ADA, **options: Any) -> int:
        """Send a message to persona and note it."""
        seq = (await self.world.send(self.conv, self.user, text, **options)).seq
        await self.note(seq, persona)
        return seq

    async def note(self, seq: int, persona: int = ADA) -> set[int]:
        note = Noted(self.user, persona, self.conv, seq, seq)
        return await self.world.store.change(
            [self.user], partial(memory_marks.note_messages, notes=[note])
        )

    async def unread(self, persona: int = ADA, limit: int = 40) -> Unread:
        op = memory_marks.unread_messages(self.user, persona, limit)
        return await self.world.store.read(op, snapshot=True)

    async def learn(self, unread: Unread, *facts: Learnt, persona: int = ADA) -> Learned | None:
        return await self.world.store.change(
            [self.user, *(span.conv for span in unread.spans)],
            partial(
                memory_marks.learn,
                tenant=unread.tenant,
                user=self.user,
                persona=persona,
                spans=unread.spans,
                facts=facts,
            ),
        )

    async def teach(self, text: str, persona: int = ADA, replaces: Sequence[int] = ()) -> Memory:
        """Say something and have it remembered word for word; return the memory."""
        await self.say(text, persona)
        unread = await self.unread(persona)
        fact = Learnt("other", text, unread.written[-1], text, replaces=tuple(replaces))
        learned = await self.learn(unread, fact, persona=persona)
        assert learned is not None
        assert learned.added == 1
        return max(await self.all(persona), key=lambda memory: memory.id)

    async def all(self, persona: int = 0, **options: Any) -> list[Memory]:
        op = memories.list_memories(self.user, persona, 0, 1000, **options)
        return await self.world.store.read(op)

    async def texts(self, persona: int = 0) -> list[str]:
        return [memory.text for memory in await self.all(persona)]

    async def rev(self, persona: int = ADA) -> int:
        return (await self.world.store.read(memories.pair_state(self.user, persona))).rev

    async def change(self, make: Any, **options: Any) -> Any:
        return await self.world.store.change([self.user], partial(make, user=self.user, **options))


@pytest.fixture
async def book(world: World) -> Notebook:
    user = await world.user()
    return Notebook(world, user, await world.conv([user]))


def fact(unread: Unread, text: str, **options: Any) -> Learnt:
    return Learnt("other", text, unread.written[0], text, **options)


async def test_only_the_users_own_words_are_read(book: Notebook, world: World) -> None:
    friend = await world.user()
    await world.send(book.conv, friend, "a friend's words")
    await book.say("我养了一只猫叫年糕")
    await world.send(book.conv, friend, "more of the friend")
    await world.send(book.conv, ADA, "the persona's words")
    await book.say("forwarded", x=MsgX(fwd_conv=5, fwd_seq=1))
    await book.say("and a dog")
    unread = await book.unread()
    assert [w.text for w in unread.written] == ["我养了一只猫叫年糕", "and a dog"]
    assert not unread.more
    assert unread.tenant == 1


async def test_nothing_from_before_the_first_note_is_read(book: Notebook, world: World) -> None:
    await world.send(book.conv, book.user, "before")
    await book.say("after")
    assert [w.text for w in (await book.unread()).written] == ["after"]


async def test_facts_and_position_are_stored_together(book: Notebook) -> None:
    await book.say("I live in 上海")
    unread = await book.unread()
    assert await book.learn(unread, fact(unread, "lives in 上海")) == Learned(1, 0, 0, 0, 0)
    assert (await book.unread()).written == ()
    assert await book.texts(ADA) == ["lives in 上海"]
    assert await book.texts(BOB) == []
    made = (await book.all())[0]
    assert (made.conv, made.seq, made.tenant) == (book.conv, unread.written[0].seq, 1)


async def test_what_was_read_twice_is_stored_once(book: Notebook) -> None:
    await book.say("I live in Rome")
    unread = await book.unread()
    first = await book.learn(unread, fact(unread, "lives in Rome"))
    second = await book.learn(unread, fact(unread, "lives in Rome"))
    assert first is not None
    assert second is None
    assert await book.texts() == ["lives in Rome"]


async def test_a_long_talk_is_read_in_pieces_without_gap_or_repeat(book: Notebook) -> None:
    for number in range(7):
        await book.say(f"message {number}")
    read: list[str] = []
    for _ in range(3):
        unread = await book.unread(limit=3)
        read += [w.text for w in unread.written]
        assert unread.more == (len(read) < 7)
        await book.learn(unread)
    assert read == [f"message {number}" for number in range(7)]


async def test_pending_pairs_survive_until_they_are_read(book: Notebook, world: World) -> None:
    await book.say("hello")
    read = world.store.read
    pairs = await read(memory_marks.pending_pairs(2**52, 10_000))
    assert (book.user, ADA) in pairs
    assert (book.user, ADA) not in await read(memory_marks.pending_pairs(1, 10_000))
    await book.learn(await book.unread())
    assert (book.user, ADA) not in await read(memory_marks.pending_pairs(2**52, 10_000))


async def test_the_last_questions_can_be_noted_again_after_a_crash(
    book: Notebook, world: World
) -> None:
    turn = NewTurn(new_id(), 1, book.user, ADA)
    sent = await world.send(book.conv, book.user, "unnoted", new_turn=turn)
    asks = await world.store.read(memory_marks.last_asks(60_000))
    mine = [note for note in asks if note.user == book.user]
    assert mine == [Noted(book.user, ADA, book.conv, sent.seq, sent.seq)]
    for _ in range(2):
        await world.store.change([book.user], partial(memory_marks.note_messages, notes=mine))
    unread = await book.unread()
    assert [w.text for w in unread.written] == ["unnoted"]
    await book.learn(unread)
    await world.store.change([book.user], partial(memory_marks.note_messages, notes=mine))
    assert (await book.unread()).written == ()


async def test_a_recalled_message_takes_what_was_learnt_with_it(
    book: Notebook, world: World
) -> None:
    await book.teach("kept")
    made = await book.teach("我养了一只猫叫年糕")
    rev = await book.rev()
    recall = partial(
        recall_message, conv=book.conv, seq=made.seq, by=book.user, by_admin=False, window_ms=0
    )
    await world.store.change([book.conv], recall)
    assert await book.texts() == ["kept"]
    assert await book.rev() != rev, "caches must hear of it"


async def test_an_edit_forgets_unless_the_text_stays(book: Notebook, world: World) -> None:
    made = await book.teach("my name is Bob")
    edit = partial(edit_message, conv=book.conv, seq=made.seq, by=book.user, base=0)
    await world.store.change([book.conv], partial(edit, text="my name is Bob", x=MsgX(fmt=1)))
    assert await book.texts() == ["my name is Bob"]
    await world.store.change([book.conv], partial(edit, text="my name is Rob", x=None))
    assert await book.texts() == []


async def test_a_message_taken_back_while_it_was_read_leaves_nothing(
    book: Notebook, world: World
) -> None:
    seq = await book.say("secret")
    await book.say("open")
    unread = await book.unread()
    recall = partial(
        recall_message, conv=book.conv, seq=seq, by=book.user, by_admin=False, window_ms=0
    )
    await world.store.change([book.conv], recall)
    facts = [Learnt("other", w.text, w, w.text) for w in unread.written]
    assert await book.learn(unread, *facts) == Learned(1, 0, 0, 1, 0)
    assert await book.texts() == ["open"]


async def test_a_deleted_conversation_is_forgotten_for_good(book: Notebook, world: World) -> None:
    await book.teach("learnt here")
    other = Notebook(world, book.user, await world.conv([book.user]))
    await other.teach("learnt elsewhere")
    await book.say("still unread")
    unread = await book.unread()
    await world.store.change([book.conv], partial(drop_conversation, conv=book.conv))
    assert await book.texts() == ["learnt elsewhere"]
    assert await book.learn(unread, fact(unread, "late")) is None
    await world.store.change(
        [book.conv], partial(change_conversation, conv=book.conv, given=ConvSet(deleted=False))
    )
    assert await book.texts() == ["learnt elsewhere"]
    assert (await book.unread()).written == ()


async def test_a_newer_memory_takes_the_place_of_an_older_one(book: Notebook) -> None:
    old = await book.teach("lives in Rome")
    await book.change(memories.change_memory, id=old.id, pinned=True)
    await book.world.store.change(
        [book.user], partial(memories.touch_memories, uses=[(old.id, 2), (999, 1)])
    )
    new = await book.teach("lives in Oslo", replaces=[old.id])
    assert await book.texts() == ["lives in Oslo"]
    assert (new.pinned, new.uses) == (True, 2)
    everything = await book.all(replaced=True)
    assert [m.replaced_by for m in everything] == [new.id, 0]


async def test_what_was_replaced_holds_again_when_its_successor_is_forgotten(
    book: Notebook, world: World
) -> None:
    first = await book.teach("one")
    second = await book.teach("two", replaces=[first.id])
    third = await book.teach("three", replaces=[second.id])
    forget = partial(memories.forget_message, conv=book.conv)
    await world.store.change([book.conv], partial(forget, seq=second.seq))
    assert await book.texts() == ["three"], "the first was replaced by the third in the end"
    await world.store.change([book.conv], partial(forget, seq=third.seq))
    assert await book.texts() == ["one"]
    assert await world.store.change([book.conv], partial(forget, seq=third.seq)) == 0


async def test_erasing_one_erases_its_older_forms_too(book: Notebook) -> None:
    first = await book.teach("one")
    second = await book.teach("two", replaces=[first.id])
    third = await book.teach("three", replaces=[second.id])
    await book.teach("another")
    await book.change(memories.erase_memory, id=third.id)
    assert [m.text for m in await book.all(replaced=True)] == ["another"]
    with pytest.raises(NotFound):
        await book.change(memories.erase_memory, id=third.id)


async def test_others_memories_cannot_be_touched(book: Notebook, world: World) -> None:
    made = await book.teach("mine")
    thief = await world.user()
    for make in (
        partial(memories.erase_memory, user=thief, id=made.id),
        partial(memories.change_memory, user=thief, id=made.id, text="stolen"),
    ):
        with pytest.raises(NotFound):
            await world.store.change([thief], make)
    assert await book.texts() == ["mine"]


async def test_erasing_a_pair_also_drops_what_waits_and_what_is_under_way(book: Notebook) -> None:
    await book.teach("for Ada")
    await book.teach("for Bob", BOB)
    await book.say("waiting")
    unread = await book.unread()
    assert await book.change(memories.erase_memories, persona=ADA) == 1
    assert await book.texts() == ["for Bob"]
    assert (await book.unread()).written == ()
    assert await book.learn(unread, fact(unread, "late")) is None
    assert await book.change(memories.erase_memories) == 1
    assert await book.texts() == []
    await book.teach("new life")
    assert await book.texts() == ["new life"]


async def test_a_forgotten_user_leaves_no_row(book: Notebook) -> None:
    await book.teach("mine")
    await book.say("waiting")
    await book.change(memories.set_off, off=True)
    assert await book.change(memories.forget_user) == 1
    assert await book.all(replaced=True) == []
    assert (await book.unread()).spans == ()
    state = await book.world.store.read(memories.pair_state(book.user, ADA))
    assert state == (0, False)


async def test_nothing_is_learnt_for_who_wants_none(book: Notebook) -> None:
    await book.teach("before")
    await book.say("read but not stored")
    unread = await book.unread()
    await book.change(memories.set_off, off=True)
    await book.change(memories.set_off, off=True)
    assert await book.learn(unread, fact(unread, "late")) is None
    seq = (await book.world.send(book.conv, book.user, "said while off")).seq
    assert await book.note(seq) == {book.user}
    assert (await book.unread()).written == ()
    state = await book.world.store.read(memories.pair_state(book.user, ADA))
    assert state.off
    await book.change(memories.set_off, off=False)
    await book.say("said after")
    assert [w.text for w in (await book.unread()).written] == ["said after"]
    assert await book.texts() == ["before"], "opting out keeps what is there"


async def test_people_add_and_change_their_memories(book: Notebook) -> None:
    add = partial(memories.add_memory, tenant=1, persona=ADA, kind="profile")
    id = new_id()
    for _ in range(2):
        made = await book.change(add, text="我叫小明", id=id)
    assert await book.texts() == ["我叫小明"]
    rev = await book.rev()
    changed = await book.change(memories.change_memory, id=made.id, text="我叫大明")
    assert changed.text == "我叫大明"
    assert await book.rev() != rev
    rev = await book.rev()
    await book.change(memories.change_memory, id=made.id, text="我叫大明")
    assert await book.rev() == rev, "no change, no news"


async def test_pins_are_bounded_by_the_caller(book: Notebook) -> None:
    def two(texts: Sequence[str]) -> bool:
        return len(texts) <= 2

    add = partial(memories.add_memory, tenant=1, persona=ADA, kind="other", may_pin=two)
    made = [await book.change(add, text=str(n), pinned=True) for n in range(2)]
    with pytest.raises(LimitReached):
        await book.change(add, text="3", pinned=True)
    third = await book.change(add, text="3")
    pin = partial(memories.change_memory, id=third.id, pinned=True, may_pin=two)
    with pytest.raises(LimitReached):
        await book.change(pin)
    await book.change(memories.change_memory, id=made[0].id, pinned=False)
    assert (await book.change(pin)).pinned


async def test_a_full_pair_loses_replaced_ones_then_the_least_useful(
    book: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memories, "MAX_PER_PAIR", 4)
    pinned = await book.teach("pinned")
    await book.change(memories.change_memory, id=pinned.id, pinned=True)
    old = await book.teach("old")
    used = await book.teach("used", replaces=[old.id])
    await book.world.store.change(
        [book.user], partial(memories.touch_memories, uses=[(used.id, 3)])
    )
    await book.teach("idle")
    await book.teach("first new")
    assert await book.texts() == ["pinned", "used", "idle", "first new"]
    await book.teach("second new")
    assert await book.texts() == ["pinned", "used", "first new", "second new"]
    for number in range(5):
        await book.change(
            memories.add_memory, tenant=1, persona=ADA, kind="other", text=str(number)
        )
    assert "pinned" in await book.texts()
    assert len(await book.all(replaced=True)) == 4


async def test_vectors_are_kept_until_the_text_changes(book: Notebook) -> None:
    made = await book.teach("lives in Rome")
    write = book.world.store.change

    async def vectors() -> list[tuple[bytes, str]]:
        op = memories.pair_memories(book.user, ADA)
        _, rows = await book.world.store.read(op, snapshot=True)
        return [(row.vector, row.model) for row in rows]

    assert await vectors() == [(b"", "")]
    store = partial(memories.set_vectors, user=book.user, persona=ADA, model="m")
    await write([book.user], partial(store, vectors=[(made, b"\x00\xff\x80\x01" * 256)]))
    assert await vectors() == [(b"\x00\xff\x80\x01" * 256, "m")]
    await book.change(memories.change_memory, id=made.id, text="lives in Oslo")
    assert await vectors() == [(b"", "")]
    await write([book.user], partial(store, vectors=[(made, b"late" * 256)]))
    assert await vectors() == [(b"", "")]


async def test_notes_of_several_users_go_in_together(world: World) -> None:
    users = await world.users(3)
    conv = await world.conv(users)
    for user in users:
        await world.send(conv, user, f"from {user}")
    notes = [Noted(user, ADA, conv, seq, seq) for seq, user in enumerate(users, 1)]
    notes.append(Noted(new_id(), ADA, conv, 1, 1))
    off = await world.store.change(users, partial(memory_marks.note_messages, notes=notes))
    assert off == set()
    for user in users:
        unread = await Notebook(world, user, conv).unread()
        assert [w.text for w in unread.written] == [f"from {user}"]


async def test_the_same_cid_makes_the_same_words(world: World) -> None:
    """A repeated message is stored once, so it is read once."""
    user = await world.user()
    book = Notebook(world, user, await world.conv([user]))
    key = cid()
    for _ in range(2):
        await book.say("once", cid_=key)
    assert [w.text for w in (await book.unread()).written] == ["once"]
