"""Messages are stored exactly once, in order and without holes."""

from __future__ import annotations

import asyncio
import random

import pytest

from protocol.rows import Msg, MsgX
from storage.errors import Gone, NotFound, NotPermitted, StorageError, TooLate
from storage.ids import new_id
from storage.messages import edit_message, get_messages, history, recall_message
from storage.rows import EndTurn, NewTurn, StoreOptions, TurnStatus
from storage.store import Store
from storage.turns import get_turn
from tests.storage.world import World, cid

ODD_TEXTS = [
    "",
    "plain",
    "今天下午三点我们在图书馆门口见面,好吗?",
    "👩‍👩‍👧‍👦 𝒳 𠮷野家 🏳️‍🌈",
    "quotes ' \" ` \\ \\' %s %(a)s ? ?? ; -- /* */ \n\t\r\x1a",
    "عربى עברית ไทย e\u0301",
    "x" * 32_000,
    "😀" * 32_000,
]


async def test_a_repeat_in_the_same_batch_returns_the_first(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    first, second = await asyncio.gather(
        world.submit(conv, user, "one", cid(1)), world.submit(conv, user, "other", cid(1))
    )
    assert (first.seq, first.dup) == (1, False)
    assert (second.seq, second.ts, second.rev, second.dup) == (1, first.ts, 0, True)
    assert [msg.text for msg in await world.all_messages(conv)] == ["one"]


async def test_a_repeat_in_a_later_batch_returns_the_first(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    first = await world.send(conv, user, "one", cid_=cid(2))
    between = await world.send(conv, user, "two")
    mixed = await asyncio.gather(
        world.submit(conv, user, "three"),
        world.submit(conv, user, "again", cid(2)),
        world.submit(conv, user, "four"),
    )
    assert (mixed[1].seq, mixed[1].ts, mixed[1].rev, mixed[1].dup) == (1, first.ts, 0, True)
    assert [m.seq for m in (first, between, mixed[0], mixed[2])] == [1, 2, 3, 4]
    assert [m.text for m in await world.all_messages(conv)] == ["one", "two", "three", "four"]


async def test_the_same_cid_of_another_sender_or_conversation_is_another_message(
    world: World,
) -> None:
    ann, bob = await world.users(2)
    first, second = await world.conv([ann, bob]), await world.conv([ann, bob])
    sent = await asyncio.gather(
        world.submit(first, ann, cid_=cid(3)),
        world.submit(first, bob, cid_=cid(3)),
        world.submit(second, ann, cid_=cid(3)),
    )
    assert [(s.seq, s.dup) for s in sent] == [(1, False), (2, False), (1, False)]


async def test_numbers_have_no_gaps_under_many_concurrent_appends(world: World) -> None:
    users = await world.users(4)
    convs = [await world.conv(users) for _ in range(5)]
    randomly = random.Random(7)
    futures = []
    for number in range(1_500):
        conv, user = randomly.choice(convs), randomly.choice(users)
        futures.append(world.submit(conv, user, str(number), cid(1000 + number)))
        if number % 7 == 0:
            futures.append(world.submit(conv, user, "again", cid(1000 + number)))
        if number % 50 == 0:
            await asyncio.sleep(0)
    sent = await asyncio.gather(*futures)
    assert sum(s.dup for s in sent) == 215
    for conv in convs:
        msgs = await world.all_messages(conv)
        assert [m.seq for m in msgs] == list(range(1, len(msgs) + 1))
        # Creating took revision 1.
        assert [m.rev for m in msgs] == list(range(2, len(msgs) + 2))
        # Submitted order is stored order.
        assert [int(m.text) for m in msgs] == sorted(int(m.text) for m in msgs)


async def test_settling_follows_the_order_of_revisions(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    order: list[int] = []
    futures = [world.submit(conv, user) for _ in range(300)]
    for future in futures:
        future.add_done_callback(lambda done: order.append(done.result().rev))
    await asyncio.gather(*futures)
    await asyncio.sleep(0)
    assert order == sorted(order)


async def test_a_missing_conversation_fails_alone(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    before, lost, after = await asyncio.gather(
        world.submit(conv, user),
        world.submit(new_id(), user),
        world.submit(conv, user),
        return_exceptions=True,
    )
    assert isinstance(lost, NotFound)
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert (before.seq, after.seq) == (1, 2)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
async def test_text_comes_back_as_it_was(world: World, text: str) -> None:
    user = await world.user()
    conv = await world.conv([user], title=text[:100])
    x = MsgX(quote=3, mentions=[user, 0], fmt=1, meta={"ключ 😀": text[:200]})
    sent = await world.send(conv, user, text, x=x)
    (msg,) = await world.store.read(get_messages(conv, [sent.seq], 0))
    assert (msg.text, msg.x, msg.ts, msg.sender) == (text, x, sent.ts, user)


async def test_an_empty_sparse_part_and_its_cid_are_not_stored(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    await world.send(conv, user, x=MsgX())
    await world.send(conv, user, x=MsgX(cid=cid(), quote=1))
    assert [m.x for m in await world.all_messages(conv)] == [None, MsgX(quote=1)]


async def test_a_question_starts_its_turn_and_the_answer_ends_it(world: World) -> None:
    user, persona, sid = await world.user(), new_id(), new_id()
    conv = await world.conv([user])
    turn = NewTurn(sid, 1, user, persona, node="n1", lease_until=5, model="m")
    ask = await world.send(conv, user, cid_=cid(5), new_turn=turn)
    again = await world.send(conv, user, cid_=cid(5), new_turn=turn)
    assert (ask.sid, again.sid, again.dup) == (sid, sid, True)
    started = await world.store.read(get_turn(sid))
    assert started is not None
    assert (started.conv, started.ask_seq, started.status, started.cid) == (
        conv,
        1,
        TurnStatus.QUEUED,
        cid(5),
    )
    end = EndTurn(sid, TurnStatus.DONE, 0, "demo", "m2", 10, 20, "provider", 5, 50)
    await world.send(conv, persona, "answer", end_turn=end)
    # Finalised a second time by somebody else: the first end stays.
    late = EndTurn(sid, TurnStatus.INTERRUPTED, 5)
    await world.send(conv, persona, "late", end_turn=late)
    ended = await world.store.read(get_turn(sid))
    assert ended is not None
    assert (ended.status, ended.answer_seq, ended.tokens_out) == (TurnStatus.DONE, 2, 20)
    assert ended.finished >= ended.created > 0


async def test_history_pages_both_ways_and_respects_the_floor(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    await asyncio.gather(*(world.submit(conv, user) for _ in range(10)))
    read = world.store.read

    def seqs(page: tuple[list[Msg], bool]) -> tuple[list[int], bool]:
        return [m.seq for m in page[0]], page[1]

    assert seqs(await read(history(conv, 0, True, 3, 0))) == ([8, 9, 10], True)
    assert seqs(await read(history(conv, 4, True, 3, 0))) == ([1, 2, 3], False)
    assert seqs(await read(history(conv, 8, True, 5, 5))) == ([6, 7], False)
    assert seqs(await read(history(conv, 0, False, 3, 0))) == ([1, 2, 3], True)
    assert seqs(await read(history(conv, 8, False, 3, 0))) == ([9, 10], False)
    assert seqs(await read(history(conv, 0, False, 3, 8))) == ([9, 10], False)
    found = await read(get_messages(conv, [9, 2, 99, 9], 0))
    assert [m.seq for m in found] == [2, 9]
    assert await read(get_messages(conv, [1], 1)) == []


async def test_reading_sees_what_was_settled(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    for number in range(20):
        sent = await world.send(conv, user, str(number))
        page, _ = await world.store.read(history(conv, 0, True, 1, 0))
        assert (page[0].seq, page[0].text) == (sent.seq, str(number))


async def test_statements_of_a_batch_depend_neither_on_rows_nor_on_members(
    store: Store, world: World
) -> None:
    many = await world.users(30)
    small, large = await world.conv(many[:2]), await world.conv(many)

    async def cost(conv: int, rows: int) -> int:
        await world.send(conv, many[0])
        before, batches = store.statements, store.stats.batches
        await asyncio.gather(*(world.submit(conv, many[0]) for _ in range(rows)))
        assert store.stats.batches == batches + 1
        return store.statements - before

    assert await cost(small, 256) == await cost(large, 256) <= 5
    assert await cost(large, 1) <= 5


async def test_the_time_of_a_store_never_runs_back(store_url: str) -> None:
    times = iter([2000.0, 1999.0, 1000.0])
    now = [3000.0]

    def clock() -> float:
        now[0] = next(times, now[0])
        return now[0]

    store = await Store.open(StoreOptions(url=store_url), clock=clock)
    try:
        world = World(store)
        user = await world.user()
        conv = await world.conv([user])
        stamps = [(await world.send(conv, user)).ts for _ in range(3)]
        assert stamps == sorted(stamps)
    finally:
        await store.close(1)


# other changes of messages


async def test_an_edit_replaces_text_and_takes_a_revision(world: World) -> None:
    user, other = await world.users(2)
    conv = await world.conv([user, other])
    await world.send(conv, user, "old", x=MsgX(quote=7))
    edited = await world.store.change(
        [conv], lambda tx: edit_message(tx, conv, 1, user, "new", MsgX(fmt=1), 2)
    )
    assert (edited.text, edited.rev, edited.seq) == ("new", 3, 1)
    assert edited.x is not None
    assert (edited.x.quote, edited.x.fmt, edited.x.edited is not None) == (7, 1, True)
    assert await world.all_messages(conv) == [edited]
    same = await world.store.change(
        [conv], lambda tx: edit_message(tx, conv, 1, user, "new", None, 2)
    )
    assert same == edited, "the same text again consumes no revision"


@pytest.mark.parametrize(
    ("by_owner", "base", "seq", "code"),
    [(False, 0, 1, 301), (True, 1, 1, 311), (True, 0, 9, 300)],
)
async def test_an_edit_is_refused(
    world: World, by_owner: bool, base: int, seq: int, code: int
) -> None:
    user, other = await world.users(2)
    conv = await world.conv([user, other])
    await world.send(conv, user, "old")
    by = user if by_owner else other
    with pytest.raises(StorageError) as caught:
        await world.store.change(
            [conv], lambda tx: edit_message(tx, conv, seq, by, "new", None, base)
        )
    assert caught.value.code == code
    assert [m.text for m in await world.all_messages(conv)] == ["old"]


async def test_a_recall_takes_text_and_everything_else(world: World) -> None:
    user, admin = await world.users(2)
    conv = await world.conv([user, admin])
    await world.send(conv, user, "secret", x=MsgX(quote=1))
    change = world.store.change
    msg, changed = await change([conv], lambda tx: recall_message(tx, conv, 1, admin, True, 1))
    assert changed
    assert (msg.text, msg.x, msg.rev) == ("", MsgX(recalled=admin), 3)
    again, changed = await change([conv], lambda tx: recall_message(tx, conv, 1, user, False, 0))
    assert (again, changed) == (msg, False)
    with pytest.raises(Gone):
        await change([conv], lambda tx: edit_message(tx, conv, 1, user, "x", None, 0))


async def test_a_recall_is_refused_to_others_and_after_the_window(world: World) -> None:
    user, other = await world.users(2)
    conv = await world.conv([user, other])
    await world.send(conv, user, "text")
    with pytest.raises(NotPermitted):
        await world.store.change([conv], lambda tx: recall_message(tx, conv, 1, other, False, 0))
    await asyncio.sleep(0.01)
    with pytest.raises(TooLate):
        await world.store.change([conv], lambda tx: recall_message(tx, conv, 1, user, False, 1))
