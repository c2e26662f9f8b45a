"""A client that was away is complete after one sync (docs/protocol.md §5)."""

from __future__ import annotations

import asyncio
import random
import tempfile
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.envelopes import DevicePush, MyConvPush, PersonaPush, ProfilePush
from protocol.rows import ConvDelta, ConvSet, Head, Msg, MsgX, MySet, Persona, Sync, User
from storage.conversations import change_conversation, drop_conversation
from storage.devices import drop_device, touch_devices
from storage.errors import StorageError
from storage.ids import new_id
from storage.members import (
    HIDE_HISTORY,
    add_members,
    change_mine,
    drop_member,
    hide_member,
    set_member,
    write_marks,
)
from storage.messages import edit_message, recall_message
from storage.people import set_profile
from storage.personas import save_persona
from storage.rows import DeviceTouch, MarkRow, StoreOptions, SyncResult
from storage.store import Store
from storage.sync import sync
from tests.storage.world import World, cid

BUDGET = 100_000


async def ask(
    world: World,
    user: int,
    heads: dict[int, int] | None = None,
    *,
    me_rev: int = 1,
    since: int = 0,
    budget: int = BUDGET,
    max_convs: int = 50,
    tenant: int = 1,
) -> SyncResult:
    q = Sync(me_rev, since, [Head(*head) for head in (heads or {}).items()], [], budget)
    return await world.store.read(sync(user, tenant, q, max_convs=max_convs), snapshot=True)


def seqs(delta: ConvDelta) -> list[int]:
    return [msg.seq for msg in delta.msgs]


async def test_a_first_visit_gets_the_newest_conversations_with_their_newest_messages(
    world: World,
) -> None:
    ann, bob = await world.users(2)
    convs = [await world.conv([ann, bob]) for _ in range(4)]
    for number, conv in enumerate(convs):
        await asyncio.gather(*(world.submit(conv, bob) for _ in range(10 * number)))
        await asyncio.sleep(0.002)
    result = await ask(world, ann, me_rev=0, max_convs=3)
    assert [delta.conv for delta in result.convs] == convs[:0:-1]
    assert [len(delta.msgs) for delta in result.convs] == [30, 20, 10]
    assert all(delta.gap and delta.row for delta in result.convs)
    assert {m.user for m in result.convs[0].members} == {ann, bob}
    views = {item.my.conv for item in result.me if isinstance(item, MyConvPush)}
    assert views == set(convs[1:])
    assert (result.more, result.me_rev) == (False, 4)


async def test_only_what_changed_comes_back(world: World) -> None:
    ann, bob = await world.users(2)
    quiet, busy = await world.conv([ann, bob]), await world.conv([ann, bob])
    for text in "abcde":
        await world.send(busy, bob, text)
    known = {quiet: 1, busy: 6}
    assert (await ask(world, ann, known)).convs == []
    await world.send(busy, bob, "f")
    edited = await world.store.change(
        [busy], lambda tx: edit_message(tx, busy, 2, bob, "B", None, 0)
    )
    await world.store.change([busy], lambda tx: recall_message(tx, busy, 6, bob, False, 0))
    (delta,) = (await ask(world, ann, known)).convs
    assert (delta.conv, delta.gap, delta.rev, delta.row) == (busy, False, 9, None)
    assert (seqs(delta), delta.members) == ([2, 6], [])
    assert delta.msgs[0] == edited
    assert delta.msgs[1].x == MsgX(recalled=bob)
    assert (await ask(world, ann, {quiet: 1, busy: 9})).convs == []


async def test_rows_and_members_come_when_they_changed(world: World) -> None:
    ann, bob, eve = await world.users(3)
    conv = await world.conv([ann, bob])
    await world.store.change([conv], lambda tx: change_conversation(tx, conv, ConvSet(title="new")))
    await world.store.change([conv, eve], lambda tx: add_members(tx, conv, [eve], max_members=10))
    await world.store.change([conv, bob], lambda tx: drop_member(tx, conv, bob))
    await world.store.change([conv], lambda tx: set_member(tx, conv, eve, 2, None))
    (delta,) = (await ask(world, ann, {conv: 1})).convs
    assert delta.row is not None
    assert (delta.row.title, delta.row.rev, delta.rev) == ("new", 5, 5)
    assert {m.user: m.role for m in delta.members} == {bob: 0, eve: 2}
    (delta,) = (await ask(world, ann, {conv: 4})).convs
    assert (delta.row, [m.user for m in delta.members]) == (None, [eve])
    assert (await ask(world, bob, {conv: 1})).convs == [], "who left gets nothing more"
    left = [i for i in (await ask(world, bob, {conv: 1})).me if isinstance(i, MyConvPush)]
    assert [(i.my.conv, i.my.role, i.my.left) for i in left] == [(conv, 0, True)]


async def test_too_many_changes_come_as_a_gap(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    await asyncio.gather(*(world.submit(conv, bob) for _ in range(250)))
    (delta,) = (await ask(world, ann, {conv: 51})).convs
    assert (delta.gap, len(delta.msgs)) == (False, 200)
    (delta,) = (await ask(world, ann, {conv: 50})).convs
    assert (delta.gap, delta.rev, seqs(delta)) == (True, 251, list(range(221, 251)))
    assert delta.row is not None
    assert len(delta.members) == 2


async def test_many_edits_of_one_row_are_one_change(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    await asyncio.gather(*(world.submit(conv, bob) for _ in range(40)))
    for number in range(210):
        edit = partial(edit_message, conv=conv, seq=1, by=bob, text=str(number), x=None, base=0)
        await world.store.change([conv], edit)
    (delta,) = (await ask(world, ann, {conv: 41})).convs
    assert (delta.gap, seqs(delta), delta.msgs[0].text) == (False, [1], "209")


async def test_a_head_above_the_stores_own_is_a_gap(world: World) -> None:
    ann = await world.user()
    conv = await world.conv([ann])
    await world.send(conv, ann)
    result = await ask(world, ann, {conv: 99}, me_rev=99)
    (delta,) = result.convs
    assert (delta.gap, delta.rev, seqs(delta)) == (True, 2, [1])
    assert result.me_rev == 1
    assert any(isinstance(item, MyConvPush) for item in result.me)


async def test_conversations_not_listed_come_if_they_changed_since(world: World) -> None:
    ann, bob = await world.users(2)
    listed, other = await world.conv([ann, bob]), await world.conv([ann, bob])
    now = (await world.send(other, bob)).ts
    result = await ask(world, ann, {listed: 1}, since=now)
    assert [(d.conv, d.gap) for d in result.convs] == [(other, True)]
    assert (await ask(world, ann, {listed: 1}, since=now + 61_000)).convs == []
    assert (await ask(world, ann, {listed: 1})).convs == [], "since 0: only what is listed"


async def test_hidden_deleted_and_foreign_conversations_stay_away(world: World) -> None:
    ann, bob = await world.users(2)
    hidden, gone, foreign, archived = [await world.conv([ann, bob]) for _ in range(4)]
    change = world.store.change
    await change([ann], lambda tx: hide_member(tx, hidden, ann, True))
    await change([gone], lambda tx: drop_conversation(tx, gone))
    await change([ann], lambda tx: change_mine(tx, archived, ann, MySet(archived=True)))
    assert [d.conv for d in (await ask(world, ann, me_rev=0)).convs] == [foreign]
    assert (await ask(world, ann, me_rev=0, tenant=2)).convs == []
    eve = await world.user()
    assert (await ask(world, eve, {foreign: 0, ann: 0})).convs == []
    (delta,) = (await ask(world, ann, {gone: 1})).convs
    assert delta.row is not None
    assert delta.row.deleted


async def test_newcomers_do_not_see_what_was_before_them(world: World) -> None:
    ann, eve = await world.users(2)
    conv = await world.conv([ann], set=ConvSet(flags=HIDE_HISTORY))
    await asyncio.gather(*(world.submit(conv, ann) for _ in range(5)))
    await world.store.change([conv, eve], lambda tx: add_members(tx, conv, [eve], 10))
    await world.send(conv, ann)
    await world.store.change([conv], lambda tx: edit_message(tx, conv, 2, ann, "x", None, 0))
    (delta,) = (await ask(world, eve, me_rev=0)).convs
    assert seqs(delta) == [6]
    (delta,) = (await ask(world, eve, {conv: 6})).convs
    assert (delta.rev, seqs(delta)) == (9, [6]), "a change of a hidden row only moves the rev"


async def test_read_marks_come_along_in_small_conversations(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    await world.send(conv, ann)
    await world.store.change([bob], lambda tx: write_marks(tx, [MarkRow(conv, bob, 1, 0)]))
    (delta,) = (await ask(world, ann, {conv: 1})).convs
    assert [(r.user, r.read, r.recv) for r in sorted(delta.reads, key=lambda r: r.user)] == [
        (ann, 0, 0),
        (bob, 1, 1),
    ]


async def test_a_small_budget_takes_several_rounds_and_loses_nothing(world: World) -> None:
    ann, bob = await world.users(2)
    convs = [await world.conv([ann, bob]) for _ in range(6)]
    for conv in convs:
        await asyncio.gather(*(world.submit(conv, bob, "x" * 500) for _ in range(8)))
    heads = dict.fromkeys(convs, 1)
    seen: dict[int, list[int]] = {}
    rounds = 0
    while True:
        result = await ask(world, ann, heads, budget=10_000)
        rounds += 1
        for delta in result.convs:
            assert not delta.gap
            seen[delta.conv] = seqs(delta)
            heads[delta.conv] = delta.rev
        if not result.more:
            break
    assert rounds == 6
    assert seen == {conv: list(range(1, 9)) for conv in convs}


async def test_a_conversation_larger_than_the_budget_comes_as_a_gap_that_fits(
    world: World,
) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    await asyncio.gather(*(world.submit(conv, bob, "语" * 2_000) for _ in range(10)))
    result = await ask(world, ann, {conv: 1}, budget=20_000)
    (delta,) = result.convs
    assert (delta.gap, delta.rev, result.more) == (True, 11, False)
    assert seqs(delta) == [9, 10]


async def test_the_own_feed_brings_profile_personas_devices_and_views(world: World) -> None:
    ann = await world.user()
    conv = await world.conv([ann])
    change = world.store.change
    await change([ann], lambda tx: set_profile(tx, ann, User(nick="Annie")))
    await change(
        [ann], lambda tx: save_persona(tx, 1, ann, None, cid(), Persona(name="P", prompt="p"))
    )
    await change(
        [ann], lambda tx: touch_devices(tx, [DeviceTouch(ann, cid(9), "phone", "android")])
    )
    await change([ann], lambda tx: change_mine(tx, conv, ann, MySet(pinned=True)))
    result = await ask(world, ann)
    assert [type(item) for item in result.me] == [ProfilePush, PersonaPush, DevicePush, MyConvPush]
    assert [item.rev for item in result.me] == [2, 3, 4, 5]
    assert result.me_rev == 5
    await change([ann], lambda tx: drop_device(tx, ann, cid(9)))
    (dropped,) = (await ask(world, ann, {conv: 1}, me_rev=5)).me
    assert isinstance(dropped, DevicePush)
    assert (dropped.rev, dropped.d.device, dropped.d.name) == (6, cid(9), None)


async def test_a_large_own_feed_comes_in_order_over_several_rounds(world: World) -> None:
    ann = await world.user()
    await world.conv([ann])
    for number in range(6):
        given = Persona(name=f"P{number}", prompt="x" * 3_000)
        await world.store.change(
            [ann], partial(save_persona, tenant=1, owner=ann, id=None, cid=cid(), given=given)
        )
    for first in (0, 1):
        known, names, rounds = first, [], 0
        while True:
            result = await ask(world, ann, me_rev=known, budget=20_000)
            names += [i.p.name for i in result.me if isinstance(i, PersonaPush)]
            assert result.me_rev > known
            known, rounds = result.me_rev, rounds + 1
            if not result.more:
                break
        assert (names, known) == ([f"P{number}" for number in range(6)], 7)
        assert rounds > 3


async def test_head_and_rows_come_from_one_moment_while_a_writer_is_busy(world: World) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    for _ in range(3):
        await world.send(conv, bob)
    stop = False

    async def write() -> None:
        number = 0
        while not stop:
            number += 1
            await asyncio.gather(
                world.submit(conv, bob),
                world.store.change(
                    [conv],
                    partial(
                        edit_message,
                        conv=conv,
                        seq=number % 3 + 1,
                        by=bob,
                        text=str(number),
                        x=None,
                        base=0,
                    ),
                ),
            )

    writer = asyncio.create_task(write())
    known, rows = 1, {}
    for _ in range(25):
        result = await ask(world, ann, {conv: known})
        for delta in result.convs:
            rows.update({msg.seq: msg for msg in delta.msgs})
            assert max(msg.rev for msg in delta.msgs) == delta.rev, "the head has its row"
            assert sorted(rows) == list(range(1, max(rows) + 1))
            known = delta.rev
    stop = True
    await writer
    for delta in (await ask(world, ann, {conv: known})).convs:
        rows.update({msg.seq: msg for msg in delta.msgs})
    assert [rows[seq] for seq in sorted(rows)] == await world.all_messages(conv)


class Client:
    """The client rule of docs/protocol.md §4, for one conversation."""

    def __init__(self) -> None:
        self.known = 0
        self.rows: dict[int, tuple[str, int]] = {}
        self.held: dict[int, Msg] = {}

    def push(self, msg: Msg) -> None:
        if msg.rev > self.known:
            self.held[msg.rev] = msg
            self._drain()

    def _drain(self) -> None:
        while msg := self.held.pop(self.known + 1, None):
            self.known += 1
            self._apply(msg)

    def _apply(self, msg: Msg) -> None:
        if msg.rev > self.rows.get(msg.seq, ("", 0))[1]:
            self.rows[msg.seq] = (msg.text, msg.rev)

    def synced(self, delta: ConvDelta) -> None:
        if delta.rev < self.known:
            return  # a stale answer
        if delta.gap:
            self.rows.clear()
        for msg in delta.msgs:
            self._apply(msg)
        self.known = delta.rev
        self.held = {rev: msg for rev, msg in self.held.items() if rev > self.known}
        self._drain()


async def _run_trial(world: World, randomly: random.Random) -> None:
    ann, bob = await world.users(2)
    conv = await world.conv([ann, bob])
    client, net = Client(), list[Msg]()
    outbox: dict[bytes, str] = {}
    count = 0
    for step in range(30):
        kind = randomly.random()
        if kind < 0.45:  # sends of our own, whose replies may be lost
            key, text = randomly.choice([*outbox.items(), (cid(), f"own {step}")])
            sent = await world.send(conv, ann, text, cid_=key)
            pushed = Msg(sent.seq, sent.rev, sent.ts, ann, 0, text)
            count += not sent.dup
            if randomly.random() < 0.7:
                outbox.pop(key, None)
                if not sent.dup:
                    client.push(pushed)
            else:
                outbox[key] = text
                if not sent.dup and randomly.random() < 0.5:
                    net.append(pushed)
        elif kind < 0.65 or not count:
            sent = await world.send(conv, bob, f"bob {step}")
            count += 1
            net.append(Msg(sent.seq, sent.rev, sent.ts, bob, 0, f"bob {step}"))
        else:
            net += await _change_some(world, conv, (ann, bob), randomly, count, step)
        randomly.shuffle(net)
        for _ in range(randomly.randint(0, len(net))):
            msg = net.pop()
            if randomly.random() < 0.8:
                client.push(msg)
        if client.held and randomly.random() < 0.3:
            for delta in (await ask(world, ann, {conv: client.known})).convs:
                client.synced(delta)
    for delta in (await ask(world, ann, {conv: client.known})).convs:
        client.synced(delta)
    stored = {m.seq: (m.text, m.rev) for m in await world.all_messages(conv)}
    assert client.rows == stored
    assert sorted(stored) == list(range(1, count + 1))
    assert not client.held


async def _change_some(
    world: World,
    conv: int,
    users: tuple[int, int],
    randomly: random.Random,
    count: int,
    step: int,
) -> list[Msg]:
    seq, by = randomly.randint(1, count), randomly.choice(users)
    try:
        if randomly.random() < 0.7:
            return [
                await world.store.change(
                    [conv], lambda tx: edit_message(tx, conv, seq, by, f"edit {step}", None, 0)
                )
            ]
        msg, _ = await world.store.change(
            [conv], lambda tx: recall_message(tx, conv, seq, by, False, 0)
        )
    except StorageError:
        return []  # another's, or recalled
    return [msg]


async def test_a_client_converges_over_losses_on_every_engine(world: World) -> None:
    for seed in range(8):
        await _run_trial(world, random.Random(seed))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_a_client_converges_over_random_losses(seed: int) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = await Store.open(StoreOptions(url=f"sqlite:///{folder}/x.db"))
            try:
                await _run_trial(World(store), random.Random(seed))
            finally:
                await store.close(1)

    asyncio.run(run())


async def test_an_unknown_user_has_nothing(world: World) -> None:
    result = await ask(world, new_id(), me_rev=0)
    assert (result.me_rev, result.me, result.convs, result.more) == (0, [], [], False)
