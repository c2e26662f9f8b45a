"""What one message costs and whom it reaches, through the real store and server."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import JsonCodec, MsgpackCodec
from protocol.codes import Code, ConvKind, MsgKind
from protocol.envelopes import (
    Changed,
    Edit,
    Err,
    Frame,
    History,
    MemberAdd,
    MemberDrop,
    MemberPush,
    MsgPush,
    Ping,
    Pong,
    Recall,
    Reply,
    Resync,
    Send,
    Sent,
    Skip,
    StreamStart,
    SyncRequest,
)
from protocol.rows import ConvSet, Head
from storage.accounts import create_user
from storage.conversations import change_conversation
from storage.errors import OutcomeUnknown, StoreUnavailable
from storage.members import HIDE_HISTORY
from tests.server.harness import Peer, Person, Server, cid, fresh_sync, serving
from tests.support.eventually import eventually


@pytest.fixture
def encodes(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count every encoding of every frame: (encoding, type of frame)."""
    counts: Counter[tuple[str, str]] = Counter()
    for codec in (MsgpackCodec, JsonCodec):
        plain = codec.encode

        def counted(self: Any, frame: Frame, plain: Any = plain) -> Any:
            counts[self.name, type(frame).__name__] += 1
            return plain(self, frame)

        monkeypatch.setattr(codec, "encode", counted)
    return counts


def lose_replies(server: Server, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the next commits succeed without a word."""
    engine = server.store._engine
    transact = engine.transact

    async def deaf(make: Any) -> Any:
        nonlocal count
        result = await transact(make)
        if count:
            count -= 1
            raise OutcomeUnknown("the reply to the commit was lost")
        return result

    monkeypatch.setattr(engine, "transact", deaf)


async def crowd(server: Server, count: int) -> list[Person]:
    """Make many users at once."""

    async def one(n: int) -> Person:
        user = await server.store.change((), lambda tx: create_user(tx, 1, f"user{n}"))
        return Person(user.id or 0, 1, f"user{n}")

    return list(await asyncio.gather(*[one(n) for n in range(count)]))


async def room_of(peer: Peer, people: list[Person]) -> int:
    """Make a group with many members."""
    conv = (await peer.create(ConvKind.GROUP, *people[:200])).row.id or 0
    for at in range(200, len(people), 50):
        await peer.ask(MemberAdd, conv, [p.id for p in people[at : at + 50]])
    return conv


async def cost_of_one_message(
    folder: Path, members: int, connected: int, encodes: Counter[tuple[str, str]]
) -> tuple[int, int, dict[tuple[str, str], int]]:
    """Return (statements, batches, encodings of pushes) of one message to a room."""
    async with serving(folder) as server:
        ann = await server.person("ann")
        pa = await server.connect(ann)
        people = await crowd(server, members - 1)
        conv = await room_of(pa, people)
        kinds = ("tcp", "ws", "json")
        peers = [
            await server.connect(person, kinds[at % 3])
            for at, person in enumerate(people[:connected])
        ]
        await pa.send_text(conv, "warm")
        for peer in peers:
            await peer.expect(MsgPush)
        store, statements, batches = server.store, server.store.statements, server.store.stats
        done = batches.batches
        encodes.clear()
        sent = await pa.send_text(conv, "counted")
        texts = [(await peer.expect(MsgPush)).text for peer in peers]
        assert texts == ["counted"] * connected
        assert sent.seq == 2
        pushes = {key: n for key, n in encodes.items() if key[1] == "MsgPush"}
        return store.statements - statements, batches.batches - done, pushes


async def test_one_message_costs_one_batch_and_one_encoding_each_whatever_the_members(
    tmp_path: Path, encodes: Counter[tuple[str, str]]
) -> None:
    small = await cost_of_one_message(tmp_path / "small", 2, 1, encodes)
    large = await cost_of_one_message(tmp_path / "large", 500, 30, encodes)
    assert small[:2] == large[:2]
    assert small[1] == 1
    assert small[0] <= 6, "begin, version of the data, insert, heads, commit; once: lock heads"
    assert small[2] == {("msgpack", "MsgPush"): 1}
    assert large[2] == {("msgpack", "MsgPush"): 1, ("json", "MsgPush"): 1}


async def test_messages_that_arrive_together_share_their_batch(tmp_path: Path) -> None:
    async with serving(tmp_path, inflight=500) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pa.send_text(conv, "warm")
        before, batches = server.store.statements, server.store.stats.batches
        pa.send(*[Send(n, conv, cid(), 0, "x") for n in range(1000, 1064)])
        seqs = [(await pa.expect(Sent)).seq for _ in range(64)]
        assert seqs == list(range(2, 66))
        made = server.store.stats.batches - batches
        assert made <= 3
        assert server.store.statements - before <= 8 * made
        pushes = [await pb.expect(MsgPush) for _ in range(65)]
        revs = [push.rev for push in pushes]
        assert revs == list(range(revs[0], revs[0] + 65))


async def test_the_other_devices_of_the_sender_learn_the_cid_and_nobody_else_does(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        tablet = await server.connect(ann, "ws", 2)
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        key = cid()
        sent = await pa.ask(Send, conv, key, 0, "hello")
        mine, theirs = await tablet.expect(MsgPush), await pb.expect(MsgPush)
        assert mine.x is not None
        assert mine.x.cid == key
        assert theirs.x is None
        assert (mine.rev, theirs.rev) == (sent.rev, sent.rev)
        assert not [f for f in await pa.settled() if isinstance(f, MsgPush)]


async def test_a_repeat_is_answered_with_the_first_result_and_told_to_nobody(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        key = cid()
        first = await pa.ask(Send, conv, key, 0, "hello")
        pa.send(Send(900, conv, key, 0, "hello"), Send(901, conv, key, 0, "another text"))
        for _ in range(2):
            again = await pa.expect(Sent)
            assert (again.seq, again.ts, again.rev, again.dup) == (first.seq, first.ts, 0, True)
        assert (await pa.send_text(conv, "next")).seq == first.seq + 1
        await pb.expect(MsgPush)
        assert (await pb.expect(MsgPush)).text == "next"
        # The key includes the sender: somebody else's cid is not a repeat.
        other = await pb.ask(Send, conv, key, 0, "mine")
        assert (other.dup, other.seq) == (False, first.seq + 2)


async def test_changes_of_messages_that_one_may_not_see_come_as_skip(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa = await server.connect(ann)
        conv = (await pa.create(ConvKind.GROUP)).row.id or 0
        await server.store.change(
            (conv,), lambda tx: change_conversation(tx, conv, ConvSet(flags=HIDE_HISTORY))
        )
        await pa.send_text(conv, "before")
        pb = await server.connect(bob)
        await pa.ask(MemberAdd, conv, [bob.id])
        await pb.expect(MemberPush)
        await pa.send_text(conv, "after")
        for seq in (1, 2):
            assert isinstance(await pa.ask(Recall, conv, seq), Changed)
        got = [f for f in await pb.settled() if isinstance(f, MsgPush | Skip)]
        assert [type(f) for f in got] == [MsgPush, Skip, MsgPush]
        assert [f.rev for f in got] == list(range(got[0].rev, got[0].rev + 3))


async def test_a_full_store_refuses_with_a_wait_and_shows_nobody_anything(tmp_path: Path) -> None:
    async with serving(tmp_path, inflight=1000) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pb.settled()
        options = server.store._batcher._options
        server.store._batcher._options = type(options)(url=options.url, queue_rows=5)
        pa.send(*[Send(n, conv, cid(), 0, str(n)) for n in range(1000, 1040)])
        replies = [await pa.expect(Reply) for _ in range(40)]
        stored = [r for r in replies if isinstance(r, Sent)]
        refused = [r for r in replies if isinstance(r, Err)]
        assert len(stored) >= 3
        assert refused
        assert {r.code for r in refused} == {Code.OVERLOADED}
        assert all(r.retry > 0 for r in refused)
        pushes = [f for f in await pb.settled() if isinstance(f, MsgPush)]
        assert [p.seq for p in pushes] == sorted(r.seq for r in stored)


async def test_while_the_store_is_away_nothing_is_shown_and_afterwards_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pb.settled()
        engine = server.store._engine
        transact, read = engine.transact, engine.read
        away = True

        async def unsure(make: Any) -> Any:
            if away:
                raise StoreUnavailable("away")
            return await transact(make)

        async def unread(op: Any, *, snapshot: bool) -> Any:
            if away:
                raise StoreUnavailable("away")
            return await read(op, snapshot=snapshot)

        monkeypatch.setattr(engine, "transact", unsure)
        monkeypatch.setattr(engine, "read", unread)
        keys = [cid() for _ in range(20)]
        pa.send(*[Send(1000 + n, conv, key, 0, str(n)) for n, key in enumerate(keys)])
        assert await pa.refused(History, conv, 0, True, 10) == Code.OVERLOADED
        late = await server.dial()
        late.send(late.hello(bob, 2))
        bye = await late.bye()
        assert bye.code == Code.OVERLOADED
        assert bye.retry > 0
        assert not [f for f in pa.inbox if isinstance(f, Sent)]
        pb.send(Ping(1))
        await pb.expect(Pong)
        assert not pb.inbox
        away = False
        assert [(await pa.expect(Sent)).seq for _ in keys] == list(range(1, 21))
        assert [(await pb.expect(MsgPush)).text for _ in keys] == [str(n) for n in range(20)]


async def test_an_outcome_nobody_knows_is_resolved_by_the_cid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        keys = [cid()]
        lose_replies(server, monkeypatch, 1)
        sent = await pa.send_text(conv, "once")
        assert sent.seq == 1
        for peer in (pa, pb):
            assert (await peer.expect(Resync)).feeds == [conv]
            synced = await peer.ask(SyncRequest, fresh_sync(heads=[Head(conv, 1)]))
            assert [(m.seq, m.text) for m in synced.convs[0].msgs] == [(1, "once")]
        again = await pa.send_text(conv, "twice")
        assert (again.seq, again.dup) == (2, False)
        assert (await pb.expect(MsgPush)).rev == again.rev == 3
        repeat = await pa.ask(Send, conv, keys[0], 0, "once")
        assert repeat.seq == 3
        assert (await pa.ask(Send, conv, keys[0], 0, "once")).dup is True
        assert not [f for f in await pb.settled() if isinstance(f, Resync)]


async def test_a_question_whose_commit_was_unclear_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        persona = await server.persona(ann)
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        await peer.settled()
        lose_replies(server, monkeypatch, 2)  # of the question, of the answer
        sent = await peer.send_text(conv, "Are you there?")
        assert sent.sid is not None
        await peer.expect(StreamStart)
        await eventually(lambda: len(server.core.turns) == 0)
        page = await peer.ask(History, conv, 0, True, 10)
        assert [m.kind for m in page.msgs] == [MsgKind.TEXT, MsgKind.AI_REPLY]
        await peer.expect(Resync)


async def test_changes_whose_commit_was_unclear_make_everybody_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann, bob, cat = await server.people("ann bob cat")
        pa, pb, pc = await server.everybody([ann, bob, cat])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pa.send_text(conv, "draft")
        for peer in (pa, pb):
            await peer.settled()

        lose_replies(server, monkeypatch, 1)
        edited = await pa.ask(Edit, conv, 1, "final", 0)
        assert isinstance(edited, Changed)
        for peer in (pa, pb):
            assert (await peer.expect(Resync)).feeds == [conv]
        synced = await pb.ask(SyncRequest, fresh_sync(heads=[Head(conv, 1)]))
        assert [m.text for m in synced.convs[0].msgs] == ["final"]

        lose_replies(server, monkeypatch, 1)
        assert isinstance(await pa.ask(MemberAdd, conv, [cat.id]), Changed)
        assert sorted((await pc.expect(Resync)).feeds) == [0, conv]
        assert (await pb.expect(Resync)).feeds == [conv]
        assert (await pc.send_text(conv, "here")).seq == 2  # the server knows the newcomer

        lose_replies(server, monkeypatch, 1)
        assert isinstance(await pa.ask(MemberDrop, conv, bob.id), Changed)
        assert (await pb.expect(Resync)).feeds == [0]
        assert (await pc.expect(Resync)).feeds == [conv]
        assert await pb.refused(Send, conv, cid(), 0, "still here?") == Code.NOT_FOUND

        lose_replies(server, monkeypatch, 1)
        made = await pa.create(ConvKind.GROUP, bob)
        assert (await pb.expect(Resync)).feeds == [0]
        synced = await pb.ask(SyncRequest, fresh_sync(me_rev=1, heads=[Head(conv, 1)]))
        assert made.row.id in [my.conv for my in (getattr(i, "my", None) for i in synced.me) if my]


async def test_a_push_that_fails_leaks_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0

        def broken(*args: object, **options: object) -> None:
            raise RuntimeError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(server.core.hub, "publish", broken)
            assert (await peer.send_text(conv)).seq == 1
            await server.idle()
        assert server.core.hub.sessions_of(ann.id)[0].inflight == 0
        assert (await peer.send_text(conv)).seq == 2
