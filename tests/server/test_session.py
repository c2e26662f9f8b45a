"""One connection's life: sign-in, order, bounds, signs of life, the end; on every transport."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protocol.codes import Code, ConvKind
from protocol.envelopes import (
    Auth,
    Authed,
    Bye,
    ConvGet,
    ConvInfo,
    ConvList,
    ConvPage,
    DeviceDrop,
    DeviceList,
    DevicePush,
    Err,
    MsgPush,
    Notice,
    Ping,
    Pong,
    Resync,
    Send,
    Sent,
    Synced,
    SyncRequest,
    Typing,
    UserFind,
    UserGet,
    Watching,
    Welcome,
)
from protocol.rows import Head
from server.session import TURN_FRAMES, Session
from storage.accounts import add_refresh, drop_refresh, login_state, set_disabled
from storage.devices import devices
from storage.errors import StoreUnavailable
from storage.ids import new_id
from storage.ops import Op, Statement
from storage.rows import DeviceTouch
from storage.writes import Tx
from tests.server.harness import (
    TRANSPORTS,
    Person,
    Server,
    cid,
    device,
    fresh_sync,
    serving,
    watching,
)
from tests.support.eventually import WAIT_S, eventually

every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


# signing in


@every_transport
async def test_welcome_says_who_and_within_which_limits(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path, inflight=7, members=50) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        welcome = peer.welcome
        assert welcome is not None
        assert (welcome.user, welcome.tenant, welcome.hb) == (ann.id, 1, 30)
        assert (welcome.limits.inflight, welcome.limits.members) == (7, 50)
        assert welcome.epoch == server.store.epoch


@every_transport
async def test_frames_behind_hello_are_served_in_order(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.dial(transport)
        count = 3 * TURN_FRAMES
        peer.send(peer.hello(ann), *[Ping(n) for n in range(count)])
        await peer.expect(Welcome)
        numbers = [(await peer.expect(Pong)).n for _ in range(count)]
        assert numbers == list(range(count))


async def test_frames_of_one_write_are_taken_in_turns_with_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        flood, other = await server.everybody([ann, bob])
        session = server.core.hub.sessions_of(ann.id)[0]
        per_turn: list[int] = []
        taken = type(session)._take_stash

        def counted(self: Any) -> list[bytes]:
            found = taken(self)
            per_turn.append(len(found))
            return found

        type(session)._take_stash = counted  # type: ignore[method-assign]
        try:
            flood.send(*[Ping(n) for n in range(1000)])
            for n in range(1000):
                assert (await flood.expect(Pong)).n == n
        finally:
            type(session)._take_stash = taken  # type: ignore[method-assign]
        assert max(per_turn) <= TURN_FRAMES
        assert len([n for n in per_turn if n]) >= 1000 // TURN_FRAMES
        other.send(Ping(1))
        await other.expect(Pong)


@every_transport
async def test_the_snapshot_comes_before_everything_else(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pb = await server.connect(bob)
        conv = (await pb.create(ConvKind.GROUP, ann)).row.id or 0
        await pb.send_text(conv, "one")
        peer = await server.dial(transport)
        peer.send(peer.hello(ann, sync=fresh_sync(), watch=watching(conv, users=[bob.id])))
        kinds = [type(await peer.next()) for _ in range(3)]
        assert kinds == [Welcome, Synced, Watching]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"secret": "nonsense"}, Code.BAD_CREDENTIALS),
        ({"secret": ""}, Code.BAD_CREDENTIALS),
        ({"method": 2}, Code.TICKET_INVALID),
        ({"method": 9}, Code.BAD_CREDENTIALS),
    ],
)
async def test_bad_credentials_end_the_connection(
    tmp_path: Path, change: dict[str, Any], code: Code
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.dial()
        hello = peer.hello(ann)
        for name, value in change.items():
            setattr(hello, name, value)
        peer.send(hello)
        assert (await peer.bye()).code == code


async def test_an_expired_token_is_told_apart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.dial()
        old = server.token(ann, now_ms=server.core.now_ms() - 10 * 86_400_000)
        peer.send(peer.hello(ann, secret=old))
        assert (await peer.bye()).code == Code.EXPIRED


async def test_a_locked_user_and_an_unknown_one_are_turned_away_alike(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        await server.store.change((), lambda tx: set_disabled(tx, ann.id, True))
        for person in (ann, ann._replace(id=ann.id + 1), ann._replace(tenant=2)):
            peer = await server.dial()
            peer.send(peer.hello(person))
            assert (await peer.bye()).code == Code.REVOKED


async def test_tokens_from_before_signing_out_everywhere_are_void(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        old = server.token(ann)
        await server.store.change((), lambda tx: set_disabled(tx, ann.id, False))
        peer = await server.dial()
        peer.send(peer.hello(ann, secret=old))
        assert (await peer.bye()).code == Code.REVOKED
        assert (await server.connect(ann, secret=server.token(ann, epoch=1))).welcome


async def test_more_devices_than_allowed_are_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path, devices=2) as server:
        ann = await server.person("ann")
        for number in (1, 2):
            await server.connect(ann, number=number)
        peer = await server.dial()
        peer.send(peer.hello(ann, 3))
        bye = await peer.bye()
        assert (bye.code, bye.retry) == (Code.SIZE_LIMIT, -1)
        again = await server.connect(ann, number=2)
        assert again.welcome


async def test_devices_that_come_at_once_share_the_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, devices=2) as server:
        ann = await server.person("ann")
        peers = [await server.dial() for _ in range(6)]
        for number, peer in enumerate(peers):
            peer.send(peer.hello(ann, number))
        await eventually(lambda: server.connections == 2)
        assert len(await server.store.read(devices(ann.id))) == 2
        assert server.core.stats.closes[Code.SIZE_LIMIT] == 4


async def test_who_gives_up_at_the_gate_costs_no_sign_in(tmp_path: Path) -> None:
    async with serving(tmp_path, handshakes_per_s=1) as server:
        ann, bob = await server.people("ann bob")
        await server.connect(bob)
        waiting = await server.dial()
        waiting.send(waiting.hello(ann))
        await asyncio.sleep(0.01)
        waiting.reset()
        await eventually(lambda: server.connections == 1)
        await eventually(lambda: not server.core.gate._waiting)
        assert ann.id not in server.core.user_sign_ins._windows


@pytest.mark.parametrize("client", ["", "\u200b", "\x00\x01", "/", "\u202e/ios"])
async def test_a_device_is_known_whatever_its_program_calls_itself(
    tmp_path: Path, client: str
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.dial()
        hello = peer.hello(ann)
        hello.client = client
        peer.send(hello)
        await peer.expect(Welcome)
        await eventually(lambda: server.core.busy == 0)
        known = await server.store.read(devices(ann.id))
        assert [item.device for item, _ in known] == [device(1)]


# one connection per device


@every_transport
async def test_a_second_connection_of_a_device_replaces_the_first(
    tmp_path: Path, transport: str
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        old = await server.connect(ann, transport)
        new = await server.connect(ann, transport)
        bye = await old.bye()
        assert (bye.code, bye.retry) == (Code.REPLACED, -1)
        assert old.close_code in (0, 4000 + Code.REPLACED)
        assert len(server.core.hub.sessions_of(ann.id)) == 1
        assert server.core.hub.size == 1
        assert await new.settled() == []


async def test_two_devices_live_side_by_side(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        first = await server.connect(ann, number=1)
        second = await server.connect(ann, "ws", number=2)
        assert [type(push) for push in await first.settled()] == [DevicePush]
        conv = (await first.create(ConvKind.GROUP)).row.id or 0
        sent = await first.send_text(conv)
        push = await second.expect(MsgPush)
        assert push.x is not None
        assert (push.seq, push.rev, push.sender) == (sent.seq, sent.rev, ann.id)
        assert push.x.cid is not None


async def test_a_replacement_that_fails_leaves_the_first_connection_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        old, pb = await server.everybody([ann, bob])
        conv = (await pb.create(ConvKind.GROUP, ann)).row.id or 0
        await old.settled()

        def broken(*args: object, **options: object) -> object:
            raise RuntimeError("broken")

        monkeypatch.setattr("server.handlers.connection.read_changes", broken)
        new = await server.dial()
        new.send(new.hello(ann, sync=fresh_sync()))
        assert (await new.bye()).code == Code.INTERNAL
        await pb.send_text(conv, "still there?")
        assert (await old.expect(MsgPush)).text == "still there?"


async def test_many_connections_of_one_device_at_once_leave_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peers = [await server.dial() for _ in range(5)]
        for peer in peers:
            peer.send(peer.hello(ann, sync=fresh_sync()))
        await eventually(lambda: server.connections == 1)
        assert len(server.core.hub.sessions_of(ann.id)) == 1
        assert server.core.strangers.open == 0


async def test_signing_a_device_out_closes_its_connection_and_voids_its_tokens(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        here = await server.connect(ann, number=1)
        there = await server.connect(ann, "ws", number=2)
        old = server.token(ann, now_ms=server.core.now_ms() - 5000)
        listed = await here.ask(DeviceList)
        assert {(d.device, d.online) for d in listed.items} == {
            (device(1), True),
            (device(2), True),
        }
        await here.ask(DeviceDrop, device(2))
        assert (await there.bye()).code == Code.REVOKED
        again = await server.dial()
        again.send(again.hello(ann, 2, secret=old))
        assert (await again.bye()).code == Code.REVOKED
        assert await here.refused(DeviceDrop, device(9)) == Code.NOT_FOUND
        # Signing in again there takes a new token, and leaves the old one void.
        new = server.token(ann, now_ms=server.core.now_ms() + 1000)
        back = await server.connect(ann, number=2, secret=new)
        again = await server.dial()
        again.send(again.hello(ann, 2, secret=old))
        assert (await again.bye()).code == Code.REVOKED
        back.send(Auth(1, 1, old))
        assert (await back.bye()).code == Code.REVOKED


async def sign_in(server: Server, person: Person) -> tuple[int, str]:
    """Return a sign-in of a person and its token, as a browser holds one for all of its tabs."""
    family = new_id()
    hashed = family.to_bytes(32, "big")
    await server.store.change(
        (), lambda tx: add_refresh(tx, hashed, person.id, bytes(16), 2**50, family)
    )
    return family, server.token(person, family=family)


async def test_signing_one_tab_out_ends_the_sign_in_of_its_browser_and_no_other(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        (_, lost), (_, kept) = [await sign_in(server, ann) for _ in range(2)]
        here = await server.connect(ann, number=1, secret=kept)
        tabs = [await server.connect(ann, "ws", number=n, secret=lost) for n in (2, 3)]
        await here.settled()
        done = await here.ask(DeviceDrop, device(3))
        for tab in tabs:
            assert (await tab.bye()).code == Code.REVOKED
        gone = [push for push in await here.settled() if isinstance(push, DevicePush)]
        assert [(push.d.device, push.d.name) for push in gone] == [
            (device(2), None),
            (device(3), None),
        ]
        assert done.rev == gone[-1].rev
        for number in (2, 3, 4):  # also on a device that nobody has seen before
            again = await server.dial()
            again.send(again.hello(ann, number, secret=lost))
            assert (await again.bye()).code == Code.REVOKED
        here.send(Auth(1, 1, kept))
        assert isinstance(await here.expect(Authed), Authed)
        await server.connect(ann, number=5, secret=kept)


async def test_each_sign_in_is_listed_once_and_ones_own_device_stands_for_ones_own(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        (_, mine), (_, other) = [await sign_in(server, ann) for _ in range(2)]
        alone = await server.connect(ann, number=1)
        tabs = [await server.connect(ann, number=n, secret=mine) for n in (2, 3, 4)]
        there = await server.connect(ann, number=5, secret=other)
        for tab, number in zip(tabs, (2, 3, 4), strict=True):
            listed = (await tab.ask(DeviceList)).items
            assert listed[0].device == device(number)
            assert {item.device for item in listed} == {device(n) for n in (1, number, 5)}
            assert all(item.online for item in listed)
        await there.close()
        await eventually(lambda: len(server.core.hub.sessions_of(ann.id)) == 4)
        shown = {item.device: item.online for item in (await alone.ask(DeviceList)).items}
        assert sorted(shown.values()) == [False, True, True]
        assert shown[device(5)] is False


async def test_signing_oneself_out_elsewhere_from_this_browser_ends_this_connection_too(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        _, token = await sign_in(server, ann)
        here, there = [await server.connect(ann, number=n, secret=token) for n in (1, 2)]
        here.send(DeviceDrop(7, device(2)))
        assert (await here.bye()).code == Code.REVOKED
        assert (await there.bye()).code == Code.REVOKED
        # A new sign-in brings the same devices back.
        later_ms = server.core.now_ms() + 2000
        family, _ = await sign_in(server, ann)
        token = server.token(ann, family=family, now_ms=later_ms)
        back = await server.connect(ann, number=2, secret=token)
        listed = (await back.ask(DeviceList)).items
        assert [item.device for item in listed] == [device(2)]


async def test_a_device_that_comes_back_with_the_same_sign_in_costs_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        (_, one), (_, other) = [await sign_in(server, ann) for _ in range(2)]
        noted: list[int] = []
        add = server.core.devices.add

        def count(session: Session, touch: DeviceTouch) -> None:
            noted.append(touch.family)
            add(session, touch)

        monkeypatch.setattr(server.core.devices, "add", count)
        for secret, writes in ((one, 1), (one, 1), (None, 1), (other, 2), (other, 2), (one, 3)):
            peer = await server.connect(ann, secret=secret)
            await peer.close()
            assert len(noted) == writes


def seen_long_ago(tx: Tx, user: int) -> Op[None]:
    """Take back when a user's devices were here."""
    yield Statement("UPDATE device SET seen = 1 WHERE user = ?", (user,))


async def test_when_a_device_was_here_is_noted_as_it_comes_and_as_it_goes_on(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        _, token = await sign_in(server, ann)

        async def seen_lately() -> bool:
            known = await server.store.read(devices(ann.id))
            return any((item.seen or 0) > 1 for item, _ in known)

        async def comes_to_be_seen() -> None:
            async with asyncio.timeout(WAIT_S):
                while not await seen_lately():  # noqa: ASYNC110 - the store says it to nobody
                    await asyncio.sleep(0.002)

        peer = await server.connect(ann, secret=token)
        await comes_to_be_seen()
        await peer.close()
        await server.store.change((), lambda tx: seen_long_ago(tx, ann.id))
        assert not await seen_lately()
        peer = await server.connect(ann, secret=token)
        await comes_to_be_seen()
        await server.store.change((), lambda tx: seen_long_ago(tx, ann.id))
        assert isinstance(await peer.ask(Auth, 1, token), Authed)
        assert await seen_lately()


async def test_a_connection_that_goes_on_with_another_sign_in_ends_with_that(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        (first, old), (second, new) = [await sign_in(server, ann) for _ in range(2)]
        here = await server.connect(ann, number=1)
        there = await server.connect(ann, number=2, secret=old)
        assert isinstance(await there.ask(Auth, 1, new), Authed)
        known = {d.device: family for d, family in await server.store.read(devices(ann.id))}
        assert known == {device(1): 0, device(2): second}
        await here.ask(DeviceDrop, device(2))
        assert (await there.bye()).code == Code.REVOKED
        states = [await server.store.read(login_state(ann.id, b"", f)) for f in (first, second)]
        assert [state.family_lives for state in states if state is not None] == [True, False]


async def test_a_renewal_by_a_sign_in_that_has_ended_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        family, token = await sign_in(server, ann)
        peer = await server.connect(ann)
        hashed = family.to_bytes(32, "big")
        await server.store.change((), lambda tx: drop_refresh(tx, hashed))
        peer.send(Auth(1, 1, token))
        assert (await peer.bye()).code == Code.REVOKED


async def test_what_a_sync_brings_fits_the_frames_of_the_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0
        for _ in range(80):
            await peer.send_text(conv, "x" * 8000)
        behind = fresh_sync(heads=[Head(conv, 1)], budget=1 << 30)
        found = {}
        for max_frame in (1 << 24, 100_000, 0):
            peer = await server.connect(ann, sync=behind, max_frame=max_frame)
            synced = await peer.expect(Synced)
            found[max_frame] = len(synced.convs[0].msgs)
            size = len(peer.codec.encode(synced))
            assert size <= min(max(max_frame, 24 * 1024), 520 * 1024)
        assert found == {1 << 24: 48, 100_000: 8, 0: 1}
        asked = await peer.ask(SyncRequest, behind)
        assert len(asked.convs[0].msgs) == 48


# states


@every_transport
@pytest.mark.parametrize("first", [Ping(1), ConvGet(1, 1), Send(1, 1, cid(), 0, "x")])
async def test_a_request_before_hello_ends_the_connection(
    tmp_path: Path, transport: str, first: Any
) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial(transport)
        peer.send(first)
        assert (await peer.bye()).code == Code.WRONG_STATE


@every_transport
async def test_a_second_hello_ends_the_connection(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        peer.send(peer.hello(ann), Ping(1))
        assert (await peer.bye()).code == Code.WRONG_STATE


@every_transport
async def test_who_says_bye_is_let_go_without_an_answer(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        peer.send(Bye(0, "done"), Ping(1))
        assert await peer.end() == []
        await eventually(lambda: server.connections == 0)


async def test_an_unknown_request_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        peer.write(b"\x00\x00\x00\x03\x92\x7a\x05")  # [122, 5]
        reply = await peer.expect(Err)
        assert (reply.rid, reply.code) == (5, Code.UNKNOWN_TYPE)
        assert await peer.settled() == []


# limits of one connection


@every_transport
async def test_the_first_frame_after_welcome_may_be_as_large_as_any(
    tmp_path: Path, transport: str
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0
        fresh = await server.dial(transport)
        fresh.send(fresh.hello(ann, 2))
        await fresh.expect(Welcome)
        sent = await fresh.send_text(conv, "语" * 15_000)
        assert sent.seq == 1


async def test_requests_in_flight_are_bounded_and_all_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, inflight=4) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        session = server.core.hub.sessions_of(ann.id)[0]
        most = 0
        hold = type(session).hold_slot

        def counted(self: Any) -> None:
            nonlocal most
            hold(self)
            most = max(most, self.inflight)

        type(session).hold_slot = counted  # type: ignore[method-assign]
        try:
            rids = [peer.rid() for _ in range(100)]
            peer.send(*[ConvList(rid, False, "", 10) for rid in rids])
            answered = {(await peer.expect(ConvPage)).rid for _ in rids}
        finally:
            type(session).hold_slot = hold  # type: ignore[method-assign]
        assert answered == set(rids)
        assert most == 4
        assert session.inflight == 0


async def test_sends_of_one_connection_keep_their_order_when_slots_run_out(tmp_path: Path) -> None:
    async with serving(tmp_path, inflight=3) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        rids = [pa.rid() for _ in range(200)]
        pa.send(*[Send(rid, conv, cid(), 0, str(n)) for n, rid in enumerate(rids)])
        seqs = {reply.rid: reply.seq for reply in [await pa.expect(Sent) for _ in rids]}
        assert [seqs[rid] for rid in rids] == list(range(1, 201))
        texts = [(await pb.expect(MsgPush)).text for _ in rids]
        assert texts == [str(n) for n in range(200)]


async def test_a_flood_is_slowed_to_the_rate_and_costs_others_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, rate=50.0, burst=20.0) as server:
        ann, bob = await server.people("ann bob")
        flood, calm = await server.everybody([ann, bob])
        session = server.core.hub.sessions_of(ann.id)[0]
        loop = asyncio.get_running_loop()
        started = loop.time()
        rids = [flood.rid() for _ in range(40)]
        flood.send(*[UserGet(rid, [ann.id]) for rid in rids])
        await calm.settled()
        assert loop.time() - started < 0.1
        assert not session._reading
        for _ in rids:
            await flood.next()
        assert loop.time() - started >= 0.3, "20 at once, 20 more at 50 a second"


async def test_who_floods_for_long_is_closed_and_who_is_merely_fast_is_not(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, rate=100.0, burst=10.0, rate_close_s=0.2) as server:
        ann, bob = await server.people("ann bob")
        flood, fast = await server.everybody([ann, bob])
        flood.send(*[UserGet(n, [ann.id]) for n in range(1, 500)])
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < 0.4:
            reply = await fast.ask(UserGet, [bob.id])
            assert not isinstance(reply, Err)
        bye = await flood.bye()
        assert bye.code == Code.RATE
        assert bye.retry > 0
        assert await fast.settled() == []


async def test_a_flood_of_unknown_requests_is_slowed_as_well(tmp_path: Path) -> None:
    async with serving(tmp_path, rate=100.0, burst=10.0) as server:
        peer = await server.connect(await server.person("ann"))
        peer.write(b"\x00\x00\x00\x03\x92\x7a\x05" * 1000)
        await asyncio.sleep(0.1)
        assert server.core.stats.errors[Code.UNKNOWN_TYPE] < 40
        peer.reset()


async def test_above_the_rate_for_long_a_request_is_refused_with_a_wait(tmp_path: Path) -> None:
    async with serving(tmp_path, rate=1.0, burst=6.0, rate_pause_s=0.05) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        assert isinstance(await peer.ask(UserFind, "a", 10), object)
        reply = await peer.ask(UserFind, "a", 10)
        assert isinstance(reply, Err)
        assert reply.code == Code.RATE
        assert reply.retry > 1000
        assert server.core.stats.refused_rate == 1


async def test_bytes_are_rationed_too(tmp_path: Path) -> None:
    async with serving(tmp_path, bytes_per_s=1 << 20, bytes_burst=64 << 10) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(6):
            await peer.send_text(conv, "x" * 30_000)
        assert loop.time() - started >= 0.08


async def test_a_reader_that_falls_behind_is_told_to_sync_and_lives_on(tmp_path: Path) -> None:
    async with serving(tmp_path, outbox_soft_bytes=64 << 10, inflight=64) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        flusher = server.core.flusher
        count = 0
        while not flusher.dropped_frames:
            await pa.send_text(conv, "x" * 30_000)
            count += 1
        assert flusher.backlog_bytes <= 64 << 10
        await pb.expect(Resync)
        seen = [f.seq for f in pb.inbox if isinstance(f, MsgPush)]
        assert seen == list(range(1, len(seen) + 1)), "nothing out of order before the gap"
        assert len(seen) < count
        sent = await pa.send_text(conv, "live again")
        assert (await pb.expect(MsgPush, lambda f: f.text == "live again")).seq == sent.seq
        head = Head(conv, 1 + len(seen))
        synced = await pb.ask(SyncRequest, fresh_sync(heads=[head]))
        assert synced.convs[0].msgs[-1].seq == sent.seq
        assert (flusher.resyncs, flusher.slow_closed) == (1, 0)


async def test_marks_and_typing_of_strange_conversations_are_ignored(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        peer.send(Typing(12345, 1))
        assert await peer.settled() == []


# signs of life


@every_transport
async def test_a_hello_that_does_not_come_ends_the_connection(
    tmp_path: Path, transport: str
) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial(transport)
        await eventually(lambda: server.connections == 1)
        server.advance(9)
        assert server.connections == 1
        server.advance(2)
        assert (await peer.bye()).code == Code.POLICY


async def test_a_silent_peer_is_closed_and_one_that_pings_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        silent, alive = await server.everybody([ann, bob])
        for _ in range(4):
            server.advance(20)
            if server.core.hub.size == 2:
                await alive.settled()
        assert (await silent.bye()).code == Code.TIMEOUT
        assert await alive.settled() == []


async def test_a_silent_browser_is_asked_before_it_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "ws")
        server.advance(76)
        await eventually(lambda: peer.pings or peer._reader._buffer)  # type: ignore[attr-defined]
        await peer.read()
        assert peer.pings == 1
        peer.write(b"\x8a\x80\x00\x00\x00\x00")  # pong
        await peer.settled()
        server.advance(16)
        assert await peer.settled() == []
        server.advance(76)
        server.advance(16)
        assert (await peer.bye()).code == Code.TIMEOUT
        assert peer.pings == 2


async def test_a_session_is_looked_at_once_per_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        for _ in range(6):
            server.advance(15)
            await peer.settled()
        session = server.core.hub.sessions_of(ann.id)[0]
        slots = server.core.wheel._slots.values()
        assert sum(entries.count(session) for entries in slots) == 1


async def test_the_end_of_a_token_is_announced_and_then_happens(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        life_s = server.core.config.auth.access_ttl_s

        async def pass_s(seconds: int) -> None:
            for _ in range(seconds // 30):
                server.advance(30)
                for peer, person in ((pa, ann), (pb, bob)):
                    if server.core.hub.sessions_of(person.id):
                        peer.send(Ping(0))
                        await peer.expect(Pong)

        await pass_s(life_s - 60)
        assert (await pa.expect(Notice)).kind == 1
        await pb.expect(Notice)
        later_ms = server.core.now_ms() + (life_s - 60) * 1000
        server.core.now_ms = lambda: later_ms  # type: ignore[method-assign]
        renewed = await pb.ask(Auth, 1, server.token(bob))
        assert isinstance(renewed, Authed)
        await pass_s(150)
        assert (await pa.bye()).code == Code.EXPIRED
        assert await pb.settled() == []


async def test_a_renewal_must_be_of_the_same_user(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        peer = await server.connect(ann)
        peer.send(Auth(1, 1, server.token(bob)))
        assert (await peer.bye()).code == Code.BAD_CREDENTIALS


async def test_a_renewal_is_checked_like_a_sign_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        core = server.core
        peers = [await server.connect(ann, number=n) for n in (1, 2)]
        other, _ = core.tokens.issue(ann.id, 1, 0, device(2), core.now_ms())
        peers[0].send(Auth(1, 1, other))
        assert (await peers[0].bye()).code == Code.BAD_CREDENTIALS
        assert isinstance(await peers[1].ask(Auth, 1, other), Authed)

        await server.store.change((), lambda tx: set_disabled(tx, ann.id, False))
        fresh = server.token(ann, epoch=1)
        assert isinstance(await peers[1].ask(Auth, 1, fresh), Authed)
        third = await server.connect(ann, number=3, secret=fresh)
        third.send(Auth(1, 1, other))
        assert (await third.bye()).code == Code.REVOKED
        await server.store.change((), lambda tx: set_disabled(tx, ann.id, True))
        peers[1].send(Auth(1, 1, server.token(ann, epoch=2)))
        assert (await peers[1].bye()).code == Code.REVOKED


async def test_a_renewal_that_cannot_be_checked_leaves_the_session_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)

        async def unread(*args: object, **options: object) -> object:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(server.store._engine, "read", unread)
            assert await peer.refused(Auth, 1, server.token(ann)) == Code.OVERLOADED
        assert isinstance(await peer.ask(Auth, 1, server.token(ann)), Authed)


# the end


@every_transport
async def test_peers_that_vanish_leave_nothing_behind(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        people = await server.people("ann bob cid dan")
        peers = await server.everybody(people, transport)
        conv = (await peers[0].create(ConvKind.GROUP, *people[1:])).row.id or 0
        peers[0].send(*[Send(n, conv, cid(), 0, "x") for n in range(1, 50)])
        peers[0].reset()
        peers[1].reset()
        await peers[2].close()
        peers[3].half_close()
        await eventually(lambda: server.connections == 0)
        await server.empty()


async def test_a_session_that_ends_is_forgotten_by_everybody(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        third = await server.connect(ann, "ws", 2, watch=watching(conv, users=[bob.id]))
        core = server.core
        assert len(list(core.hub.watchers_of(conv))) == 1
        third.reset()
        await eventually(lambda: core.hub.size == 2)
        assert list(core.hub.watchers_of(conv)) == []
        assert core.presence._watchers == {}
        assert core.presence._watched == {}
        await pa.settled()
        await pb.settled()


async def test_the_application_says_goodbye_when_it_drains(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        session = server.core.hub.sessions_of(ann.id)[0]
        session.go_away(Code.DRAINING, "restart", 1000, 500)
        info = await peer.create(ConvKind.GROUP)
        assert isinstance(info, ConvInfo)
        session.bye(Code.DRAINING, "restart", 0, 500)
        assert (await peer.bye()).spread_ms == 500


async def test_a_draining_server_takes_nobody_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        server.core.draining = True
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        writer.close()


async def test_a_storm_of_sign_ins_is_spread(tmp_path: Path) -> None:
    async with serving(tmp_path, handshakes_per_s=1, handshakes_waiting=1) as server:
        people = await server.people("ann bob cid")
        peers = [await server.dial() for _ in people]
        for peer, person in zip(peers, people, strict=True):
            peer.send(peer.hello(person))
            await asyncio.sleep(0.01)
        await peers[0].expect(Welcome)
        bye = await peers[2].bye()
        assert bye.code == Code.OVERLOADED
        assert bye.spread_ms >= 1000
