"""What is left of users and conversations that were erased: nothing they wrote, on every engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from protocol.codes import ConvKind, MsgKind, Role, Scope
from protocol.rows import ConvSet, MsgX, MySet, Persona, User
from server.erasure import Audience, Eraser
from storage import (
    accounts,
    conversations,
    dead_letters,
    devices,
    erasure,
    members,
    memories,
    memory_marks,
    messages,
    people,
    persona_cards,
    personas,
    summaries,
    turns,
    usage,
)
from storage.erasure import Erasure, Kind
from storage.errors import Exists, NotFound
from storage.ids import new_id
from storage.migrate import SCHEMA_DIR
from storage.ops import Op, Rows, Statement
from storage.rows import (
    DeadLetter,
    DeviceTouch,
    EndTurn,
    MarkRow,
    NewTurn,
    TurnCheckpoint,
    TurnStatus,
)
from storage.store import Store
from storage.writes import Append
from tests.storage.world import World, cid


def all_tables() -> list[str]:
    """Return every table of the schema, also those that will be added."""
    texts = [path.read_text() for path in sorted(SCHEMA_DIR.glob("*.sqlite.sql"))]
    return re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", "\n".join(texts))


def whole_table(name: str) -> Op[Rows]:
    return (yield Statement(f"SELECT * FROM {name} LIMIT 100000"))


async def holding(store: Store, text: str) -> set[str]:
    """Return the tables that hold a text anywhere."""
    found = set()
    for name in all_tables():
        for row in await store.read(whole_table(name)):
            cells = [bytes(c).decode("utf-8", "replace") if isinstance(c, bytes | bytearray)
                     else str(c) for c in row]  # fmt: skip
            # Dead letters hold JSON, with Chinese escaped.
            if any(text in cell or ascii(text)[1:-1] in cell for cell in cells):
                found.add(name)
    return found


class Town(World):
    """Anna with one of everything, and Bert, who stays."""

    def __init__(self, store: Store, mark: str = "") -> None:
        super().__init__(store)
        self.mark = mark or f"年糕{new_id()}"
        """Stands in everything that is Anna's or is about her."""
        self.kept = f"kept{new_id()}"

    async def do(self, feeds: Sequence[int], make: Any, **options: Any) -> Any:
        return await self.store.change(feeds, partial(make, **options))

    async def furnish(self) -> None:
        self.anna = await self.user(f"anna-{self.mark}-{new_id()}")
        self.bert = await self.user()
        anna = self.anna
        await self._account(anna)
        self.alone = await self.conv(
            [anna], kind=ConvKind.AI, title=self.mark, set=ConvSet(prompt=self.mark)
        )
        self.room = await self.conv([anna, self.bert], title=self.kept, set=ConvSet(personas=[7]))
        self.direct = await self.conv([anna, self.bert], kind=ConvKind.DIRECT)
        self.empty = await self.conv([anna], title=self.mark)
        for conv in (self.alone, self.room, self.direct, self.empty):
            await self._talk(conv, anna)
        await self._learn(anna)
        await self._spoil(anna)

    async def _account(self, anna: int) -> None:
        await self.do((), accounts.set_password, user=anna, password_hash=self.mark)
        await self.do(
            (), people.add_avatar, tenant=1, owner=anna, mime="m", data=self.mark.encode()
        )
        await self.do(
            [anna], people.set_profile, user=anna, given=User(nick=self.mark, bio=self.mark)
        )
        touch = DeviceTouch(anna, cid(), self.mark, "p", new_id())
        await self.do([anna], devices.touch_devices, touches=[touch])
        token = {"hash": new_id().to_bytes(32, "big"), "device": cid(), "expires": 2**50}
        await self.do((), accounts.add_refresh, user=anna, **token)
        budget = usage.BudgetRow(1, anna, 5, 5)
        await self.do((), usage.set_budget, budget=budget)
        self.private, self.shared = [
            await self._persona(anna, scope) for scope in (Scope.PRIVATE, Scope.TENANT)
        ]

    async def _persona(self, owner: int, scope: Scope) -> int:
        text = self.mark if scope is Scope.PRIVATE else self.kept
        given = Persona(name=text, prompt=text, greeting=text, tags=[text], scope=int(scope))
        fields = {"tenant": 1, "owner": owner, "id": None, "cid": cid(), "given": given}
        made, _ = await self.do([owner], personas.save_persona, **fields)
        await self.do((), persona_cards.save_card, persona=made.id, card=text)
        return int(made.id)

    async def _talk(self, conv: int, anna: int) -> None:
        turn = NewTurn(new_id(), 1, anna, 7)
        await self.send(conv, anna, f"{self.mark} 1", x=MsgX(meta={"k": self.mark}), new_turn=turn)
        await self.do((), turns.checkpoint_turns, turns=[TurnCheckpoint(turn.sid, 5, self.mark)])
        end = EndTurn(turn.sid, 2, 0, tokens_in=3, error_message=self.mark)
        await self.send(conv, 7, self.kept, end_turn=end)
        await self.send(conv, anna, f"{self.mark} 2")
        await self.do([conv], messages.recall_message, conv=conv, seq=3, by=anna, by_admin=False,
                      window_ms=0)  # fmt: skip
        await self.send(conv, anna, f"{self.mark} 3")
        own = MySet(remark=self.mark, draft=self.mark)
        await self.do([anna], members.change_mine, conv=conv, user=anna, given=own)
        await self.do([anna], members.write_marks, marks=[MarkRow(conv, anna, 3, 3)])
        rev = await self.store.read(summaries.conversation_rev(conv))
        told = summaries.StoredSummary(conv, 7, 0, 4, self.mark)
        assert await self.do([conv], summaries.save_summary, summary=told, rev=rev)

    async def _learn(self, anna: int) -> None:
        note = memory_marks.Noted(anna, 7, self.room, 4, 4)
        await self.do([anna], memory_marks.note_messages, notes=[note])
        fields = {"tenant": 1, "user": anna, "kind": "other", "text": self.mark}
        await self.do([anna], memories.add_memory, persona=7, **fields)
        unread = await self.store.read(memory_marks.unread_messages(anna, 7, 10))
        fact = memory_marks.Learnt("other", self.mark, unread.written[0], self.mark)
        made = {"user": anna, "tenant": 1, "persona": 7, "spans": unread.spans, "facts": [fact]}
        learned = await self.do([anna, self.room], memory_marks.learn, **made)
        assert learned.added == 1

    async def _spoil(self, anna: int) -> None:
        """Leave letters of hers, of her conversation, and of somebody else."""
        for sender, conv, text in (
            (anna, self.room, self.mark),
            (7, self.alone, self.mark),
            (self.bert, self.room, self.kept),
        ):
            payload = dead_letters.letter_from(
                messages_append(conv, sender, text), f"refused {text}"
            )
            await self.do((), dead_letters.add_dead, letters=[payload])

    async def begin(self) -> Erasure:
        made: Erasure = await self.do([self.anna], erasure.begin_user, user=self.anna)
        return made

    async def job(self, kind: int, target: int) -> Erasure:
        found = await self.store.read(erasure.get_erasure(kind, target))
        assert found is not None
        return found

    async def texts(self, conv: int) -> list[str]:
        return [m.text for m in await self.all_messages(conv)]


def messages_append(conv: int, sender: int, text: str) -> Append:
    return Append(conv, sender, cid(), int(MsgKind.TEXT), text)


@pytest.fixture
async def town(store: Store) -> Town:
    made = Town(store)
    await made.furnish()
    return made


class Killed(Exception):
    """The process is gone."""


class Mortal:
    """A store whose process dies before its nth change from now."""

    def __init__(self, store: Store, changes: int) -> None:
        self._store = store
        self._left = changes
        self.read = store.read

    async def change(self, *args: Any, **options: Any) -> Any:
        if self._left == 0:
            raise Killed
        self._left -= 1
        return await self._store.change(*args, **options)


async def erase(store: Any, job: Erasure) -> None:
    await Eraser(store, Audience()).run(job)


# users


async def test_nothing_that_a_user_wrote_or_owned_alone_is_left_in_any_table(town: Town) -> None:
    before = await holding(town.store, town.mark)
    assert before >= {"user", "credential", "device", "avatar", "conversation", "member"}
    assert before >= {"message", "ai_turn", "persona", "persona_card", "ai_memory"}
    assert before >= {"conv_summary", "dead_letter"}
    await erase(town.store, await town.begin())
    assert await holding(town.store, town.mark) == set()
    job = await town.job(Kind.USER, town.anna)
    assert job.finished
    assert job.done == job.total == 4


async def test_where_a_user_was_signed_in_is_forgotten(town: Town) -> None:
    async def rows(table: str) -> list[Any]:
        return [row for row in await town.store.read(whole_table(table)) if town.anna in row[:2]]

    tables = ("device", "device_family", "refresh_token")
    assert all([await rows(table) for table in tables])
    await erase(town.store, await town.begin())
    assert [await rows(table) for table in tables] == [[], [], []]


async def test_others_keep_what_is_theirs(town: Town) -> None:
    await erase(town.store, await town.begin())
    assert await town.texts(town.room) == ["", town.kept, "", ""]
    assert await town.texts(town.direct) == ["", town.kept, "", ""]
    assert await town.texts(town.alone) == await town.texts(town.empty) == []
    shared = (await town.store.read(personas.get_personas([town.shared])))[0].row
    assert (shared.name, shared.prompt, shared.deleted) == (town.kept, town.kept, None)
    assert await town.store.read(persona_cards.get_card(town.shared)) == town.kept
    letters = await town.store.read(dead_letters.list_dead(1000))
    assert [one for one in letters if str(town.bert) in one.payload]
    # What it cost stays, without a name.
    spent = await town.store.read(whole_table("ai_usage"))
    assert [row[6] for row in spent if row[2] == town.anna] == [12]


async def test_messages_in_rooms_look_as_if_they_had_been_recalled(town: Town) -> None:
    rev = await town.store.read(summaries.conversation_rev(town.room))
    await erase(town.store, await town.begin())
    first = (await town.all_messages(town.room))[0]
    assert first.sender == town.anna
    assert first.rev > rev
    assert first.x is not None
    assert first.x.recalled == town.anna
    assert first.x.meta is None
    changed = await town.store.read(whole_table("message_change"))
    assert {(town.room, 1), (town.room, 4)} <= {row[:2] for row in changed}


async def test_the_room_gets_a_new_owner_and_the_talk_of_two_keeps_both(town: Town) -> None:
    await erase(town.store, await town.begin())
    room, direct = await town.store.read(conversations.load_conversations([town.room, town.direct]))
    assert room.row.owner == town.bert
    assert {m.user: m.role for m in room.members} == {town.bert: Role.OWNER}
    assert {m.user for m in direct.members} == {town.anna, town.bert}


async def test_the_account_remains_nameless_and_its_name_is_free(town: Town) -> None:
    name = (await town.store.read(people.get_users([town.anna])))[0].name
    assert name is not None
    await erase(town.store, await town.begin())
    user = (await town.store.read(people.get_users([town.anna])))[0]
    assert user.name == f"erased-{town.anna}"
    assert user.nick == erasure.NICK
    assert (user.bio, user.avatar, user.persona) == (None, None, None)
    again = await town.user(name)
    assert again != town.anna
    assert await town.store.read(people.find_users(1, f"erased-{town.anna}", 10)) == []


async def test_somebody_who_took_the_name_of_an_erased_user_is_not_in_the_way(town: Town) -> None:
    await town.user(f"erased-{town.anna}")
    await erase(town.store, await town.begin())
    user = (await town.store.read(people.get_users([town.anna])))[0]
    assert (user.name or "").startswith(f"erased-{town.anna}-")


async def test_from_the_decision_on_nobody_signs_in_and_the_name_is_not_free_yet(
    town: Town,
) -> None:
    user = (await town.store.read(people.get_users([town.anna])))[0]
    before = await town.store.read(accounts.login_state(town.anna, cid()))
    job = await town.begin()
    state = await town.store.read(accounts.login_state(town.anna, cid()))
    assert before is not None
    assert state is not None
    assert state.disabled
    assert state.token_epoch > before.token_epoch
    assert await town.store.read(accounts.credentials(1, user.name or "")) is None
    with pytest.raises(Exists):
        await town.user(user.name)
    assert await town.begin() == job
    assert job in await town.store.read(erasure.open_erasures())


async def test_nobody_can_be_erased_who_does_not_exist(town: Town) -> None:
    with pytest.raises(NotFound):
        await town.do([5], erasure.begin_user, user=5)
    with pytest.raises(NotFound):
        await town.do([5], erasure.begin_conversation, conv=5)


async def test_a_process_may_die_before_any_step(lite: Store) -> None:
    mark = "年糕secret"
    alive = steps = 0
    while not alive:
        town = Town(lite, mark)
        await town.furnish()
        try:
            await erase(Mortal(lite, steps), await town.begin())
            alive = 1
        except Killed:
            steps += 1
            for job in await lite.read(erasure.open_erasures()):
                await erase(lite, job)
        assert await town.texts(town.room) == ["", town.kept, "", ""]
        for conv in (town.alone, town.empty):
            assert (await town.job(Kind.CONVERSATION, conv)).finished
    assert steps > 30
    assert await lite.read(erasure.open_erasures()) == []
    assert await holding(lite, mark) == set()


async def test_long_rooms_are_done_in_pieces_and_go_on_where_they_were(lite: Store) -> None:
    town = World(lite)
    anna, bert = await town.users(2)
    room = await town.conv([anna, bert])
    both = [anna, bert]
    await asyncio.gather(*(town.submit(room, both[n % 2], f"words {n}") for n in range(5_000)))
    job = await lite.change([anna], partial(erasure.begin_user, user=anna))
    with pytest.raises(Killed):
        await erase(Mortal(lite, 15), job)
    half = (await lite.read(erasure.open_erasures()))[0]
    assert half.conv == room
    assert half.seq > 1_000
    await erase(lite, half)
    texts = [m.text for m in await town.all_messages(room) if m.sender == anna]
    assert texts == [""] * 2_500
    assert all(m.text for m in await town.all_messages(room) if m.sender == bert)


async def test_a_room_goes_whole_when_the_last_of_its_people_is_erased(town: Town) -> None:
    await erase(town.store, await town.begin())
    job = await town.do([town.bert], erasure.begin_user, user=town.bert)
    await erase(town.store, job)
    for conv in (town.room, town.direct):
        assert await town.texts(conv) == []
        assert (await town.job(Kind.CONVERSATION, conv)).finished
    assert await holding(town.store, town.kept) == {"persona", "persona_card"}


# what is learnt does not come back


async def test_what_is_being_read_when_a_user_is_erased_is_not_stored(town: Town) -> None:
    note = memory_marks.Noted(town.anna, 7, town.room, 4, 4)
    await town.do([town.anna], memory_marks.note_messages, notes=[note])
    seq = (await town.send(town.room, town.anna, f"{town.mark} 9")).seq
    note = note._replace(first_seq=seq, last_seq=seq)
    await town.do([town.anna], memory_marks.note_messages, notes=[note])
    unread = await town.store.read(memory_marks.unread_messages(town.anna, 7, 10))
    assert unread.written
    fact = memory_marks.Learnt("other", town.mark, unread.written[-1], town.mark)
    made = {"user": town.anna, "tenant": 1, "persona": 7, "spans": unread.spans, "facts": [fact]}
    learn = partial(town.do, [town.anna, town.room], memory_marks.learn, **made)
    job = await town.begin()
    assert await learn() is None  # decided, not begun
    await erase(town.store, job)
    assert await learn() is None  # long done
    await town.do([town.anna], memory_marks.note_messages, notes=[note])
    assert not (await town.store.read(memory_marks.unread_messages(town.anna, 7, 10))).written
    assert "ai_memory" not in await holding(town.store, town.mark)


async def test_what_is_being_read_when_a_conversation_is_deleted_is_not_stored(
    town: Town,
) -> None:
    seq = (await town.send(town.room, town.anna, f"{town.mark} 9")).seq
    note = memory_marks.Noted(town.anna, 7, town.room, seq, seq)
    await town.do([town.room], conversations.drop_conversation, conv=town.room)
    await town.do([town.anna], memory_marks.note_messages, notes=[note])  # written a second late
    unread = await town.store.read(memory_marks.unread_messages(town.anna, 7, 10))
    source = memory_marks.Written(town.room, seq, (await town.all_messages(town.room))[-1].rev, "")
    fact = memory_marks.Learnt("other", "came back", source, "")
    made = {"user": town.anna, "tenant": 1, "persona": 7, "spans": unread.spans, "facts": [fact]}
    learned = await town.do([town.anna, town.room], memory_marks.learn, **made)
    assert learned is not None
    assert (learned.added, learned.outdated) == (0, 1)
    assert not unread.written
    # Nothing waits any more: it is not read over and over.
    assert not (await town.store.read(memory_marks.unread_messages(town.anna, 7, 10))).spans


class Interrupted:
    """A store where something else happens after each step of one name."""

    def __init__(self, store: Store, step: Any, then: Any) -> None:
        self._store = store
        self._step = step
        self._then = then
        self.times = 0
        self.read = store.read

    async def change(self, feeds: Any, make: Any, **options: Any) -> Any:
        result = await self._store.change(feeds, make, **options)
        if make.func is self._step:
            self.times += 1
            await self._then()
        return result


async def test_what_is_learnt_while_a_conversation_is_erased_goes_with_it(town: Town) -> None:
    seq = (await town.send(town.room, town.anna, f"{town.mark} 9")).seq
    source = memory_marks.Written(town.room, seq, (await town.all_messages(town.room))[-1].rev, "")

    async def learner() -> None:
        """Note the message after the closing, and bring the fact before the messages go."""
        note = memory_marks.Noted(town.anna, 7, town.room, seq, seq)
        await town.do([town.anna], memory_marks.note_messages, notes=[note])
        spans = [memory_marks.Span(town.room, seq - 1, seq)]
        fact = memory_marks.Learnt("other", "came back", source, "")
        made = {"user": town.anna, "tenant": 1, "persona": 7, "spans": spans, "facts": [fact]}
        learned = await town.do([town.anna, town.room], memory_marks.learn, **made)
        assert learned is not None

    job = await town.do([town.room], erasure.begin_conversation, conv=town.room)
    store = Interrupted(town.store, erasure.close_conversation, learner)
    await erase(store, job)
    assert store.times == 1
    assert await memories_of(town, conv=town.room) == []
    rows = await town.store.read(whole_table("ai_memory_mark"))
    assert town.room not in {row[2] for row in rows}


async def test_messages_that_arrive_while_a_user_is_erased_go_too(town: Town) -> None:
    async def late() -> None:
        await town.send(town.room, town.anna, f"{town.mark} on its way")

    store = Interrupted(town.store, erasure.note_progress, late)
    await erase(store, await town.begin())
    assert store.times > 2
    assert await holding(town.store, town.mark) == set()


async def test_a_summary_that_was_being_made_is_not_stored(town: Town) -> None:
    rev = await town.store.read(summaries.conversation_rev(town.room))
    told = summaries.StoredSummary(town.room, 7, 0, 4, town.mark)
    await erase(town.store, await town.begin())
    assert not await town.do([town.room], summaries.save_summary, summary=told, rev=rev)
    rev = await town.store.read(summaries.conversation_rev(town.alone))
    told = summaries.StoredSummary(town.alone, 7, 0, 4, town.mark)
    assert not await town.do([town.alone], summaries.save_summary, summary=told, rev=rev)


# conversations


async def test_an_erased_conversation_leaves_an_empty_row_that_nobody_is_in(town: Town) -> None:
    job = await town.do([town.room], erasure.begin_conversation, conv=town.room)
    assert job.total == 4
    await erase(town.store, job)
    record = (await town.store.read(conversations.load_conversations([town.room])))[0]
    assert record.members == []
    assert record.row.deleted
    assert not record.row.title
    assert not record.row.personas
    assert await town.texts(town.room) == []
    assert town.room not in {row[2] for row in await town.store.read(whole_table("ai_turn"))}
    assert await town.store.read(summaries.get_summary(town.room, 7)) is None
    assert town.mark not in [m.text for m in await memories_of(town, conv=town.room)]
    # What was learnt elsewhere stays, and so do the other conversations.
    assert await memories_of(town)
    assert len(await town.texts(town.direct)) == 4


async def memories_of(town: Town, conv: int = 0) -> list[memories.Memory]:
    found = await town.store.read(memories.list_memories(town.anna, 0, 0, 100))
    return [one for one in found if not conv or one.conv == conv]


async def test_a_pair_may_talk_again_after_its_conversation_was_erased(town: Town) -> None:
    job = await town.do([town.direct], erasure.begin_conversation, conv=town.direct)
    await erase(town.store, job)
    assert await town.conv([town.bert, town.anna], kind=ConvKind.DIRECT) != town.direct


async def test_answers_that_nobody_makes_any_more_are_not_asked_again(town: Town) -> None:
    turn = NewTurn(new_id(), 1, town.anna, 7)
    await town.send(town.room, town.anna, town.mark, new_turn=turn)
    step = TurnCheckpoint(turn.sid, 5, town.mark)
    await town.do((), turns.checkpoint_turns, turns=[step])
    await erase(town.store, await town.begin())
    row = await town.store.read(turns.get_turn(turn.sid))
    assert row is not None
    assert (row.status, row.partial) == (TurnStatus.CANCELLED, "")


async def test_an_answer_that_is_stored_stands_in_its_message_alone(town: Town) -> None:
    turn = NewTurn(new_id(), 1, town.bert, 7)
    await town.send(town.room, town.bert, "a question", new_turn=turn)
    await town.do((), turns.checkpoint_turns, turns=[TurnCheckpoint(turn.sid, 5, "half an ans")])
    answer = await town.send(town.room, 7, "half an answer", end_turn=EndTurn(turn.sid, 2, 0))
    fields = {"conv": town.room, "seq": answer.seq, "by": town.bert, "by_admin": True}
    await town.do([town.room], messages.recall_message, window_ms=0, **fields)
    assert await holding(town.store, "half an ans") == set()


async def test_letters_that_come_from_a_file_later_are_dropped_too(town: Town) -> None:
    await erase(town.store, await town.begin())
    late = dead_letters.letter_from(messages_append(town.room, town.anna, town.mark), "late")
    assert isinstance(late, DeadLetter)
    await town.do((), dead_letters.add_dead, letters=[late])
    await Eraser(town.store, Audience()).drop_letters()
    assert await holding(town.store, town.mark) == set()


def test_the_paper_says_of_every_table_what_happens_to_it() -> None:
    text = (SCHEMA_DIR.parents[1] / "docs" / "behavior.md").read_text()
    section = text.split("## What erasing means")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named == set(all_tables()), "say it in docs/behavior.md, and do it"
