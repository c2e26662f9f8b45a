"""People, their devices, who is online, and catching up after an absence."""

from pathlib import Path

import pytest

from protocol.codes import Code, ConvKind, PresenceState
from protocol.envelopes import (
    Changed,
    ConvChange,
    DevicePush,
    Edit,
    Get,
    History,
    Mark,
    MemberDrop,
    MsgPush,
    MyChange,
    PersonaSave,
    Presence,
    ProfilePush,
    ProfileSet,
    Recall,
    Synced,
    SyncRequest,
    UserFind,
    UserGet,
    WatchRequest,
)
from protocol.rows import ConvSet, Head, MySet, Persona, Pres, User
from tests.server.harness import cid, fresh_sync, serving, user_ids, watching
from tests.support.eventually import eventually

# people


async def test_people_are_found_by_the_beginning_of_their_names(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, anna, bob = await server.people("ann anna bob")
        peer = await server.connect(ann)
        pb = await server.connect(bob)
        await pb.ask(ProfileSet, User(nick="Annabel"))
        found = await peer.ask(UserFind, "AN", 10)
        assert user_ids(found.items) == {ann.id, anna.id, bob.id}
        assert user_ids((await peer.ask(UserFind, "anna", 1)).items) == {anna.id}
        assert (await peer.ask(UserFind, "zz", 10)).items == []
        assert await peer.refused(UserFind, "  ", 10) == Code.INVALID
        got = await peer.ask(UserGet, [bob.id, ann.id, bob.id, 12345])
        assert user_ids(got.items) == {ann.id, bob.id}


async def test_a_profile_is_changed_on_all_devices(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        tablet = await server.connect(ann, "ws", 2)
        changed = await peer.ask(ProfileSet, User(nick=" An\u202en ", bio="Hi\r\nthere"))
        push = await tablet.expect(ProfilePush)
        assert (push.rev, push.u.nick, push.u.bio) == (changed.rev, "Ann", "Hi\nthere")
        assert (await peer.ask(ProfileSet, User(nick="Ann"))).rev == 0
        assert (await peer.ask(ProfileSet, User(nick=""))).rev > 0
        assert (await peer.ask(UserGet, [ann.id])).items[0].nick is None


@pytest.mark.parametrize("wanted", [User(name="root"), User(kind=2), User(nick="\x07x")])
async def test_what_is_not_ones_own_to_change_is_refused(tmp_path: Path, wanted: User) -> None:
    async with serving(tmp_path) as server:
        peer = await server.connect(await server.person("ann"))
        assert await peer.refused(ProfileSet, wanted) == Code.INVALID


# presence


async def test_watchers_hear_who_comes_and_after_a_while_who_went(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa = await server.connect(ann)
        reply = await pa.ask(WatchRequest, watching(users=[bob.id, 12345]))
        assert reply.pres == [Pres(bob.id, int(PresenceState.OFFLINE), 0)]
        pb = await server.connect(bob)
        await server.connect(bob, "ws", 2)
        assert await pa.settled() == [Presence([Pres(bob.id, int(PresenceState.ONLINE), 0)])]
        await pb.close()
        server.core.hub.sessions_of(bob.id)[-1].hang_up()
        await eventually(lambda: not server.core.hub.sessions_of(bob.id))
        server.advance(10)
        assert await pa.settled() == [], "a short absence is nobody's business"
        server.advance(6)
        frames = await pa.settled()
        assert [f.items[0].state for f in frames] == [PresenceState.OFFLINE]
        assert frames[0].items[0].seen % 60_000 == 0
        assert frames[0].items[0].seen > 0


async def test_who_comes_back_soon_was_never_gone(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pb = await server.connect(bob)
        pa = await server.connect(ann, watch=watching(users=[bob.id]))
        pb.reset()
        await eventually(lambda: not server.core.hub.sessions_of(bob.id))
        server.advance(5)
        await server.connect(bob)
        server.advance(20)
        assert [f for f in await pa.settled() if isinstance(f, Presence)] == []


async def test_presence_needs_its_capability(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa = await server.connect(ann, caps=0, watch=watching(users=[bob.id]))
        await server.connect(bob)
        assert [f for f in await pa.settled() if isinstance(f, Presence)] == []


# devices


async def test_a_new_device_is_told_to_the_others_and_a_known_one_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        for expected in ([DevicePush], []):
            await server.connect(ann, "ws", 2)
            assert [type(f) for f in await peer.settled()] == expected


# catching up


async def test_a_sync_after_an_absence_equals_the_store(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        other = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        for n in range(5):
            await pa.send_text(conv, str(n))
        first = await pb.ask(SyncRequest, fresh_sync())
        assert isinstance(first, Synced)
        heads = {delta.conv: delta.rev for delta in first.convs}
        assert set(heads) == {conv, other}
        await pb.settled()
        pb.reset()
        await eventually(lambda: server.core.hub.size == 1)
        await pa.ask(Edit, conv, 2, "changed", 0)
        await pa.ask(Recall, conv, 3)
        await pa.send_text(conv, "new")
        await pa.ask(ConvChange, conv, ConvSet(title="renamed"))
        third = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pa.send_text(third, "look here")
        await pa.ask(MemberDrop, other, bob.id)
        again = await server.dial("ws")
        sync = fresh_sync(
            me_rev=first.me_rev,
            since=first.now,
            heads=[Head(c, rev) for c, rev in heads.items()],
        )
        again.send(again.hello(bob, sync=sync))
        synced = await again.expect(Synced)
        assert synced.rid == 0
        assert synced.more is False
        deltas = {delta.conv: delta for delta in synced.convs}
        assert set(deltas) == {conv, third}
        assert (deltas[conv].gap, deltas[third].gap) == (False, True)
        assert [m.seq for m in deltas[conv].msgs] == [2, 3, 6]
        stored = (await again.ask(Get, conv, [2, 3, 6])).msgs
        assert deltas[conv].msgs == stored
        assert [m.text for m in deltas[third].msgs] == ["look here"]
        row = deltas[conv].row
        assert row is not None
        assert row.title == "renamed"
        views = {item.my.conv: item.my for item in synced.me if hasattr(item, "my")}
        assert views[other].role == 0
        assert views[third].role == 1
        # From here on the pushes follow without a hole.
        sent = await pa.send_text(conv, "live")
        assert sent.rev == deltas[conv].rev + 1
        assert (await again.expect(MsgPush)).rev == sent.rev


async def test_too_much_to_tell_comes_as_a_gap(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0
        for n in range(210):
            await peer.send_text(conv, str(n))
        known = await peer.ask(SyncRequest, fresh_sync(heads=[Head(conv, 1)]))
        delta = known.convs[0]
        assert delta.gap is True
        assert [m.seq for m in delta.msgs] == list(range(181, 211))
        nearly = await peer.ask(SyncRequest, fresh_sync(heads=[Head(conv, 100)]))
        assert nearly.convs[0].gap is False
        assert nearly.convs[0].msgs[-1].seq == 210
        assert (await peer.ask(SyncRequest, fresh_sync(heads=[Head(conv, 211)]))).convs == []
        future = await peer.ask(SyncRequest, fresh_sync(heads=[Head(conv, 9999)]))
        assert future.convs[0].gap is True


async def test_ones_own_feed_has_no_holes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa = await server.connect(ann, sync=fresh_sync())
        start = (await pa.expect(Synced)).me_rev
        tablet = await server.connect(ann, "ws", 2)
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pa.ask(ProfileSet, User(nick="A"))
        await pa.ask(PersonaSave, cid(), Persona(name="Ada"))
        await pa.ask(MyChange, conv, MySet(pinned=True))
        await pa.send_text(conv)
        pb = await server.connect(bob)
        await pb.send_text(conv, "two")
        pa.send(Mark(conv, 2, 2))
        await pa.settled()
        server.advance(1)
        await pa.ask(MyChange, conv, MySet(pinned=False))
        end = (await pa.ask(SyncRequest, fresh_sync())).me_rev
        names = ("MyConvPush", "PersonaPush", "ProfilePush", "DevicePush")
        revs = [f.rev for f in await tablet.settled() if type(f).__name__ in names]
        assert revs == sorted(revs)
        assert revs == list(range(revs[0], end + 1))
        assert revs[0] == start + 3, "two devices came before"
        caught = await pa.ask(SyncRequest, fresh_sync(me_rev=start, since=1, heads=[Head(conv, 1)]))
        assert caught.me_rev == end
        changed = await pa.ask(ProfileSet, User(nick="B"))
        assert isinstance(changed, Changed)
        assert changed.rev == end + 1


async def test_history_and_sync_agree(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "json")
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0
        for n in range(20):
            await peer.send_text(conv, f"消息 {n}")
        page = await peer.ask(History, conv, 0, True, 100)
        delta = (await peer.ask(SyncRequest, fresh_sync(heads=[Head(conv, 1)]))).convs[0]
        assert delta.msgs == page.msgs
