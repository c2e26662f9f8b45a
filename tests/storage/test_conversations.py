"""Conversations, members and marks."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from protocol.codes import ConvKind
from protocol.rows import ConvSet, GenOpt, MyConv, MySet
from storage.conversations import (
    change_conversation,
    drop_conversation,
    get_conversation,
    list_conversations,
    load_conversations,
)
from storage.errors import Exists, Invalid, LimitReached, NotFound
from storage.ids import new_id
from storage.members import (
    HIDE_HISTORY,
    add_members,
    change_mine,
    drop_member,
    hide_member,
    member_page,
    set_member,
    write_marks,
)
from storage.rows import MarkRow
from storage.store import Store
from tests.storage.world import World, cid


async def head(store: Store, conv: int, user: int) -> int:
    found = await store.read(get_conversation(conv, user))
    assert found is not None
    return found[0].rev or 0


async def test_creating_bumps_each_feed_once(world: World) -> None:
    ann, bob, eve = await world.users(3)
    created = await world.create(
        [ann, bob, eve, bob],
        title="标题 😀",
        set=ConvSet(prompt="be kind", opt=GenOpt(model="m", temperature=0.5)),
    )
    row = created.record.row
    assert (row.title, row.prompt, row.rev, row.owner) == ("标题 😀", "be kind", 1, ann)
    assert row.opt == GenOpt(model="m", temperature=0.5)
    assert {user: (my.role, rev) for user, (my, rev) in created.my.items()} == {
        ann: (3, 1),
        bob: (1, 1),
        eve: (1, 1),
    }
    (loaded,) = await world.store.read(load_conversations([row.id or 0]))
    assert loaded == created.record


async def test_creating_again_with_the_same_cid_returns_the_first(world: World) -> None:
    ann, bob = await world.users(2)
    first, second = await asyncio.gather(
        world.create([ann, bob], cid_=cid(1)), world.create([ann], cid_=cid(1), title="other")
    )
    assert second.existing
    assert second.record == first.record
    assert second.my[ann][1] == 0
    third = await world.create([bob, ann], cid_=cid(1))
    assert not third.existing, "another creator"


async def test_a_pair_has_one_direct_conversation(world: World) -> None:
    ann, bob = await world.users(2)
    first = await world.create([ann, bob], ConvKind.DIRECT)
    conv = first.record.row.id or 0
    assert first.record.row.owner is None
    assert {m.role for m in first.record.members} == {1}
    await world.store.change([bob], lambda tx: hide_member(tx, conv, bob, True))
    second = await world.create([bob, ann], ConvKind.DIRECT)
    assert (second.existing, second.record.row.id) == (True, conv)
    assert second.my[bob] == (MyConv(conv=conv, role=1, read=0, recv=0), 3)
    with pytest.raises(Invalid):
        await world.create([ann, ann], ConvKind.DIRECT)


async def test_a_deleted_direct_conversation_makes_room_for_a_new_one(world: World) -> None:
    ann, bob = await world.users(2)
    old = await world.conv([ann, bob], kind=ConvKind.DIRECT)
    change = world.store.change
    row, rev = await change([old], lambda tx: drop_conversation(tx, old))
    assert (row.deleted, rev) == (True, 2)
    new = await world.create([ann, bob], ConvKind.DIRECT)
    assert not new.existing
    with pytest.raises(Exists):
        await change([old], lambda tx: change_conversation(tx, old, ConvSet(deleted=False)))
    conv = new.record.row.id or 0
    await change([conv], lambda tx: drop_conversation(tx, conv))
    row, _ = await change([old], lambda tx: change_conversation(tx, old, ConvSet(deleted=False)))
    assert row.deleted is None
    assert (await world.create([bob, ann], ConvKind.DIRECT)).record.row.id == old


async def test_creating_with_a_stranger_fails_and_leaves_nothing(world: World) -> None:
    ann = await world.user()
    with pytest.raises(NotFound):
        await world.create([ann, new_id()])
    assert await world.store.read(list_conversations(ann, False, "", 10)) == ([], [], "")


async def test_a_change_takes_a_revision_only_if_something_changes(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    change = world.store.change
    given = ConvSet(title="new", notice="n", flags=1, opt=GenOpt(history=5))
    row, rev = await change([conv], lambda tx: change_conversation(tx, conv, given))
    assert (row.title, row.notice, row.flags, row.opt, rev) == ("new", "n", 1, given.opt, 2)
    _, rev = await change([conv], lambda tx: change_conversation(tx, conv, given))
    assert rev == 0
    cleared = ConvSet(title="", notice="", flags=0)
    row, rev = await change([conv], lambda tx: change_conversation(tx, conv, cleared))
    assert (row.title, row.notice, row.flags, rev) == (None, None, None, 3)
    with pytest.raises(NotFound):
        await change([bob], lambda tx: change_conversation(tx, bob, given))


async def test_ownership_moves_to_a_member_only(world: World) -> None:
    ann, bob, eve = await world.users(3)
    conv = await world.conv([ann, bob])
    change = world.store.change
    with pytest.raises(NotFound):
        await change([conv], lambda tx: change_conversation(tx, conv, ConvSet(owner=eve)))
    row, _ = await change(
        [conv, ann, bob], lambda tx: change_conversation(tx, conv, ConvSet(owner=bob))
    )
    assert row.owner == bob
    (record,) = await world.store.read(load_conversations([conv]))
    assert {m.user: m.role for m in record.members} == {ann: 2, bob: 3}


async def test_ones_own_view_belongs_to_ones_own_feed(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    change = world.store.change
    given = MySet(pinned=True, archived=True, remark="备注", draft="d", mute_until=7)
    my, rev = await change([ann], lambda tx: change_mine(tx, conv, ann, given))
    assert rev == 2
    assert (my.pinned, my.archived, my.remark, my.draft, my.mute_until) == (
        True,
        True,
        "备注",
        "d",
        7,
    )
    assert (await change([ann], lambda tx: change_mine(tx, conv, ann, given)))[1] == 0
    my, rev = await change(
        [ann], lambda tx: change_mine(tx, conv, ann, MySet(pinned=False, remark=""))
    )
    assert (my.pinned, my.remark, my.archived, rev) == (None, None, True, 3)
    found = await world.store.read(get_conversation(conv, ann))
    assert found is not None
    assert (found[0].rev, found[1]) == (1, my)
    with pytest.raises(NotFound):
        await change([bob], lambda tx: change_mine(tx, conv, new_id(), given))


async def test_lists_come_newest_activity_first_in_pages(world: World) -> None:
    ann, bob = await world.users(2)
    convs = [await world.conv([ann, bob]) for _ in range(5)]
    for conv in (convs[3], convs[0]):
        await asyncio.sleep(0.002)
        await world.send(conv, bob)
    archived, hidden, gone = convs[1], convs[2], convs[4]
    change = world.store.change
    await change([ann], lambda tx: change_mine(tx, archived, ann, MySet(archived=True)))
    await change([ann], lambda tx: hide_member(tx, hidden, ann, True))
    read = world.store.read
    rows, mine, cursor = await read(list_conversations(ann, False, "", 2))
    assert [row.id for row in rows] == [convs[0], convs[3]]
    assert [my.conv for my in mine] == [convs[0], convs[3]]
    assert (rows[0].last_seq, rows[0].count, rows[0].rev) == (1, 1, 2)
    rows, _, cursor = await read(list_conversations(ann, False, cursor, 2))
    assert ([row.id for row in rows], cursor) == ([gone], "")
    await change([gone], lambda tx: drop_conversation(tx, gone))
    rows, _, _ = await read(list_conversations(ann, True, "", 10))
    assert {row.id for row in rows} == {archived, gone}
    rows, _, _ = await read(list_conversations(bob, True, "", 10))
    assert rows == [], "only the owner sees what is deleted"
    with pytest.raises(Invalid):
        await read(list_conversations(ann, False, "nonsense", 2))


async def test_members_come_in_pages(world: World) -> None:
    users = await world.users(5)
    conv = await world.conv(users)
    await world.store.change([conv, users[2]], lambda tx: drop_member(tx, conv, users[2]))
    page, cursor = await world.store.read(member_page(conv, "", 3))
    assert [m.user for m in page] == [users[0], users[1], users[3]]
    page, cursor = await world.store.read(member_page(conv, cursor, 3))
    assert ([m.user for m in page], cursor) == ([users[4]], "")


async def test_each_new_member_takes_a_revision(world: World) -> None:
    ann, bob, eve, kim = await world.users(4)
    conv = await world.conv([ann])
    add = partial(add_members, conv=conv, users=[bob, eve, bob, ann], max_members=3)
    added = await world.store.change([conv, ann, bob, eve], add)
    assert [(a.member.user, a.rev, a.my_rev) for a in added] == [(bob, 2, 1), (eve, 3, 1)]
    assert await world.store.change([conv, ann, bob, eve], add) == []
    assert await head(world.store, conv, ann) == 3
    with pytest.raises(LimitReached):
        await world.store.change([conv, kim], partial(add, users=[kim]))
    with pytest.raises(NotFound):
        await world.store.change([conv, 5], partial(add, users=[5], max_members=9))


async def test_leaving_and_coming_back(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    await world.send(conv, ann)
    change = world.store.change
    dropped = await change([conv, bob], lambda tx: drop_member(tx, conv, bob))
    assert (dropped.member.role, dropped.rev, dropped.my.left, dropped.my_rev) == (0, 3, True, 2)
    again = await change([conv, bob], lambda tx: drop_member(tx, conv, bob))
    assert (again.rev, again.my_rev) == (0, 0)
    assert await world.store.read(get_conversation(conv, bob)) is None
    (back,) = await change([conv, bob], lambda tx: add_members(tx, conv, [bob], 9))
    assert (back.rev, back.my_rev, back.my.joined_seq) == (4, 3, None), "sees the history"
    await change([conv], lambda tx: change_conversation(tx, conv, ConvSet(flags=HIDE_HISTORY)))
    await change([conv, bob], lambda tx: drop_member(tx, conv, bob))
    (back,) = await change([conv, bob], lambda tx: add_members(tx, conv, [bob], 9))
    assert back.my.joined_seq == 1
    with pytest.raises(NotFound):
        await change([conv, ann], lambda tx: drop_member(tx, conv, new_id()))


async def test_roles_and_muting(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    change = world.store.change
    member, rev = await change([conv], lambda tx: set_member(tx, conv, bob, 2, 99))
    assert (member.role, member.mute_until, rev) == (2, 99, 2)
    assert (await change([conv], lambda tx: set_member(tx, conv, bob, 2, 99)))[1] == 0
    member, rev = await change([conv], lambda tx: set_member(tx, conv, bob, None, 0))
    assert (member.role, member.mute_until, rev) == (2, None, 3)


async def test_marks_only_rise_and_never_pass_the_last_message(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    for _ in range(5):
        await world.send(conv, ann)
    mark = world.store.change
    told = await mark([bob], lambda tx: write_marks(tx, [MarkRow(conv, bob, 3, 4)]))
    assert [(user, my.read, my.recv, rev) for user, my, rev in told] == [(bob, 3, 4, 2)]
    assert await mark([bob], lambda tx: write_marks(tx, [MarkRow(conv, bob, 2, 1)])) == []
    told = await mark([bob], lambda tx: write_marks(tx, [MarkRow(conv, bob, 99, 0)]))
    assert [(my.read, my.recv) for _, my, _ in told] == [(5, 5)]
    strange = [MarkRow(conv, new_id(), 1, 1), MarkRow(new_id(), ann, 1, 1)]
    assert await mark([], lambda tx: write_marks(tx, strange)) == []


async def test_silent_marks_tell_nobody_and_marks_of_one_batch_are_merged(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    await world.send(conv, ann)
    await world.send(conv, ann)
    marks = [
        MarkRow(conv, ann, 1, 0, True),
        MarkRow(conv, ann, 2, 0, True),
        MarkRow(conv, bob, 1, 0, True),
        MarkRow(conv, bob, 2, 0),
    ]
    before = world.store.statements
    told = await world.store.change([bob], lambda tx: write_marks(tx, marks))
    assert [(my.read, rev) for _, my, rev in told] == [(2, 2)]
    assert world.store.statements - before <= 8
    found = await world.store.read(get_conversation(conv, ann))
    assert found is not None
    assert found[1].read == 2
