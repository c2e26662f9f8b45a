"""The client against a server on a real socket that cuts, falls silent and refuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clients import events as ev
from clients.client import REQUESTS_MAX, Client
from clients.errors import (
    ClientError,
    RequestTimeout,
    ServerError,
    SignInFailed,
    StateInUse,
    Stopped,
)
from clients.state import FileState, MemoryState
from clients.timing import Timing
from protocol import envelopes as e
from protocol.codec import JSON, MSGPACK
from protocol.codes import Code, EndReason
from protocol.errors import ProtocolError
from protocol.rows import SendX
from tests.clients.fake_server import FakePeer, FakeServer
from tests.support.eventually import WAIT_S

QUICK = Timing(
    connect_s=2.0,
    welcome_s=2.0,
    heartbeat_s=30.0,
    pong_s=0.05,
    backoff_s=0.01,
    backoff_max_s=0.02,
    first_retry_s=0.0,
    send_retry_s=0.01,
    mark_s=0.01,
)


async def token(renew: bool) -> str:
    return "token"


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@asynccontextmanager
async def connected(
    server: FakeServer, url: str = "", timing: Timing = QUICK, **options: Any
) -> AsyncIterator[Client]:
    options.setdefault("token_source", token)
    client = Client(url or server.url, timing=timing, rng=random.Random(1), **options)
    async with client:
        await client.wait_online(WAIT_S)
        yield client


async def until(condition: Callable[[], bool]) -> None:
    """Return once condition holds; the loop is given its turns meanwhile."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - any state, not one event
            await asyncio.sleep(0.001)


def texts(client: Client, conv: int) -> list[str]:
    view = client.feeds.convs.get(conv)
    return [] if view is None else [view.messages[seq].text for seq in view.seqs]


def streamed(client: Client, sid: int) -> str:
    stream = client.streams.running.get(sid)
    return "" if stream is None else stream.text()


@pytest.mark.parametrize("door", ["tcp", "ws", "ws-json"])
async def test_signs_in_catches_up_and_sends_over_every_transport(
    server: FakeServer, door: str
) -> None:
    conv = server.create()
    server.say(conv, "hello")
    url = server.url if door == "tcp" else server.ws_url
    codec = JSON if door == "ws-json" else MSGPACK
    async with connected(server, url, codec=codec) as client:
        assert texts(client, conv.id) == ["hello"]
        sent = await client.send(conv.id, "hi")
        assert (sent.seq, sent.dup) == (2, False)
        assert texts(client, conv.id) == ["hello", "hi"]
        server.say(conv, "你好")
        await until(lambda: texts(client, conv.id) == ["hello", "hi", "你好"])


async def test_everything_missed_while_away_is_there_after_the_reconnect(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.say(conv, "one")
        await until(lambda: texts(client, conv.id) == ["one"])
        server.silent = True
        server.say(conv, "two")
        server.cut()
        server.silent = False
        await until(lambda: client.connects == 2 and client.link is ev.Link.ONLINE)
        assert texts(client, conv.id) == ["one", "two"]
        assert server.hellos[1].sync is not None
        assert [(h.conv, h.rev) for h in server.hellos[1].sync.heads] == [(conv.id, 2)]


async def test_message_is_stored_once_when_its_acknowledgement_is_lost(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.lose_acks = 2
        sent = await client.send(conv.id, "once")
        assert sent.dup
        assert client.connects == 3
        assert [msg.text for msg in conv.messages.values()] == ["once"]
        assert texts(client, conv.id) == ["once"]
        cids = {f.cid for f in server.frames if isinstance(f, e.Send)}
        assert len(cids) == 1


async def test_messages_of_a_conversation_keep_their_order_over_errors_and_cuts(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.send_errors = [e.Err(0, 502, "overloaded", 0), e.Err(0, 400, "rate", 1)]
        server.lose_acks = 1
        sends = [client.post(conv.id, f"m{i}").acknowledged for i in range(5)]
        await asyncio.gather(*sends)
        assert [msg.text for msg in conv.messages.values()] == [f"m{i}" for i in range(5)]
        assert client.unsent == []


async def test_message_refused_for_good_leaves_the_outbox_and_tells_why(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.send_errors = [e.Err(0, 301, "muted", -1)]
        with pytest.raises(ServerError, match="muted") as caught:
            await client.send(conv.id, "no")
        assert caught.value.code == 301
        assert client.unsent == []
        assert (await client.send(conv.id, "yes")).seq == 1


async def test_unsent_message_survives_a_restart_of_the_program(
    server: FakeServer, tmp_path: Path
) -> None:
    conv = server.create()
    path = tmp_path / "state.json"
    server.send_errors = [e.Err(0, 502, "overloaded", 60_000)]
    async with connected(server, state=FileState(path)) as client:
        entry = client.post(conv.id, "later")
        await until(lambda: server.send_errors == [])
        device = client.device
    assert isinstance(entry.acknowledged.exception(), Stopped)
    async with connected(server, state=FileState(path)) as client:
        await until(lambda: client.unsent == [])
        assert client.device == device
    assert [msg.text for msg in conv.messages.values()] == ["later"]


def test_state_file_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    held = FileState(tmp_path / "state.json")
    with pytest.raises(StateInUse):
        FileState(tmp_path / "state.json")
    held.close()
    FileState(tmp_path / "state.json").close()


def test_unreadable_state_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"{ not json")
    state = FileState(path)
    assert len(state.load().device) == 16
    state.close()
    assert path.with_suffix(".broken").exists()
    assert path.stat().st_mode & 0o077 == 0


async def test_silent_server_is_noticed_by_the_heartbeat(server: FakeServer) -> None:
    server.hb = 1
    timing = Timing(heartbeat_s=0.02, pong_s=0.02, backoff_s=0.01, first_retry_s=0.0)
    async with connected(server, timing=timing) as client:
        await until(lambda: any(isinstance(f, e.Ping) for f in server.frames))
        assert client.connects == 1
        server.silent = True
        await until(lambda: client.link is not ev.Link.ONLINE)
        server.silent = False
        await until(lambda: client.connects == 2)


async def test_request_is_repeated_on_the_next_connection(server: FakeServer) -> None:
    conv = server.create()
    server.say(conv, "hello")
    async with connected(server) as client:
        server.silent = True
        asking = asyncio.ensure_future(client.history(conv.id))
        await until(lambda: any(isinstance(f, e.History) for f in server.frames))
        server.silent = False
        server.cut()
        page = await asking
        assert [msg.text for msg in page.msgs] == ["hello"]


async def test_request_without_answer_ends_in_time(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.silent = True
        with pytest.raises(RequestTimeout):
            await client.request(e.History(0, conv.id, 0, True, 10), timeout_s=0.02)


async def test_replaced_device_stops_and_says_so(server: FakeServer) -> None:
    async with connected(server) as client:
        server.publish([e.Bye(203, "signed in again on this device", -1)])
        await until(lambda: client.link is ev.Link.STOPPED)
        with pytest.raises(Stopped, match="signed in again"):
            await client.history(1)
        with pytest.raises(Stopped):
            client.post(1, "too late")


async def test_bye_says_when_to_come_back(server: FakeServer) -> None:
    slow = Timing(backoff_s=60.0, first_retry_s=60.0)
    async with connected(server, timing=slow) as client:
        server.publish([e.Bye(503, "draining", 5, 5)])
        await until(lambda: client.connects == 2)


async def test_goaway_lets_the_running_answer_end_before_leaving(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        stream = server.begin_stream(conv.id)
        server.stream_text(stream, "to the ")
        server.publish([e.GoAway(503, "draining", 10_000, 0)])
        await until(lambda: bool(client.streams.running))
        assert client.connects == 1
        server.stream_text(stream, "end")
        server.end_stream(stream)
        await until(lambda: client.connects == 2)
        assert texts(client, conv.id) == ["to the end"]


async def test_refused_token_is_renewed_once_and_then_given_up(server: FakeServer) -> None:
    asked: list[bool] = []

    async def stale(renew: bool) -> str:
        asked.append(renew)
        return "token" if renew else "stale"

    async with connected(server, token_source=stale):
        assert asked == [False, True]

    async def useless(renew: bool) -> str:
        return "never good"

    client = Client(server.url, useless, timing=QUICK)
    async with client:
        with pytest.raises(Stopped) as caught:
            await client.wait_online(WAIT_S)
        assert caught.value.code == 200


async def test_sign_in_that_fails_stops_the_client(server: FakeServer) -> None:
    async def signed_out(renew: bool) -> str:
        raise SignInFailed("sign in again")

    async with Client(server.url, signed_out, timing=QUICK) as client:
        with pytest.raises(Stopped, match="sign in again"):
            await client.wait_online(WAIT_S)


async def test_expiring_token_is_renewed_in_place(server: FakeServer) -> None:
    async with connected(server) as client:
        server.publish([e.Notice(1, "", 1)])
        await until(lambda: any(isinstance(f, e.Auth) for f in server.frames))
        assert client.connects == 1


async def test_client_waits_for_a_server_that_is_not_there_yet() -> None:
    server = FakeServer()
    await server.start()
    await server.stop()
    client = Client(server.url, token, timing=QUICK)
    async with client:
        with client.events() as events:
            async for event in events:
                if isinstance(event, ev.LinkChanged) and event.link is ev.Link.OFFLINE:
                    assert event.reason
                    break
        await server.start()
        await client.wait_online(WAIT_S)
    await server.stop()


async def test_lost_delta_is_asked_for_and_the_answer_is_whole(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        stream = server.begin_stream(conv.id)
        server.stream_text(stream, "你")
        server.stream_text(stream, "好，", lost=True)
        server.stream_text(stream, "world")
        await until(lambda: any(isinstance(f, e.Open) for f in server.frames))
        await until(lambda: streamed(client, stream.sid) == "你好，world")
        server.end_stream(stream)
        await until(lambda: texts(client, conv.id) == ["你好，world"])
        assert client.streams.running == {}
        assert not any(isinstance(f, e.SyncRequest) for f in server.frames)


async def test_answer_goes_on_after_a_cut_where_it_was(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        stream = server.begin_stream(conv.id)
        server.stream_text(stream, "first ")
        await until(lambda: streamed(client, stream.sid) == "first ")
        server.silent = True
        server.stream_text(stream, "second ")
        server.cut()
        server.silent = False
        await until(lambda: client.connects == 2)
        server.stream_text(stream, "third")
        await until(lambda: streamed(client, stream.sid) == "first second third")
        server.end_stream(stream)
        await until(lambda: texts(client, conv.id) == ["first second third"])


async def test_answer_that_ended_while_away_is_replaced_by_its_message(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with connected(server) as client:
        stream = server.begin_stream(conv.id)
        server.stream_text(stream, "half")
        await until(lambda: streamed(client, stream.sid) == "half")
        with client.events() as events:
            server.silent = True
            server.end_stream(stream, reason=5)
            server.cut()
            server.silent = False
            await until(lambda: client.connects == 2 and client.link is ev.Link.ONLINE)
            ends = []
            async for event in events:
                if isinstance(event, ev.StreamEnded):
                    ends.append(event.reason)
                    break
        assert ends == [EndReason.INTERRUPTED]
        assert texts(client, conv.id) == ["half"]
        assert client.streams.running == {}


async def test_watch_set_is_restored_on_every_connection(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        await client.watch([conv.id])
        server.cut()
        await until(lambda: client.connects == 2)
        assert server.hellos[1].watch is not None
        assert server.hellos[1].watch.convs == [conv.id]


async def test_what_is_watched_between_the_hello_and_the_welcome_is_told_after_it(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_hello = server._hello

    def watch_first(peer: FakePeer, hello: e.Hello) -> None:
        with pytest.raises(StopIteration):
            client.watch([5]).send(None)
        answer_hello(peer, hello)

    monkeypatch.setattr(server, "_hello", watch_first)
    client = Client(server.url, token, timing=QUICK, rng=random.Random(1))
    async with client:
        await until(lambda: any(isinstance(frame, e.WatchRequest) for frame in server.frames))
    asked = [frame for frame in server.frames if isinstance(frame, e.WatchRequest)]
    assert server.hellos[0].watch is None
    assert [frame.w.convs for frame in asked] == [[5]]


async def test_a_message_larger_than_the_frames_of_this_server_is_refused_and_the_next_one_goes(
    server: FakeServer,
) -> None:
    conv = server.create()
    async with connected(server) as client:
        client.limits.frame = 40_000
        await client.send(conv.id, "汉" * 13_000)
        with pytest.raises(ServerError, match="too large") as refused:
            await client.send(conv.id, "汉" * 13_400)
        assert refused.value.code == Code.SIZE_LIMIT
        assert refused.value.detail == "Send it in several parts."
        await client.send(conv.id, "hi")
        assert [len(text) for text in texts(client, conv.id)] == [13_000, 2]
        assert client.connects == 1


async def test_lost_push_is_fetched_when_its_gap_stays(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.silent = True
        server.say(conv, "lost")
        server.silent = False
        server.say(conv, "after")
        await until(lambda: texts(client, conv.id) == ["lost", "after"])


async def test_resync_fetches_what_was_dropped_at_the_tail(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.silent = True
        server.say(conv, "dropped")
        server.silent = False
        server.publish([e.Resync([])])
        await until(lambda: texts(client, conv.id) == ["dropped"])


async def test_restored_store_makes_the_client_forget_and_read_again(
    server: FakeServer,
) -> None:
    conv = server.create()
    server.say(conv, "old")
    async with connected(server) as client:
        assert texts(client, conv.id) == ["old"]
        fresh = FakeServer().model
        fresh.epoch = 9
        fresh.create()
        fresh.send(fresh.convs[1], 2, "new", bytes(16))
        server.model = fresh
        server.cut()
        await until(lambda: client.connects == 2 and client.link is ev.Link.ONLINE)
        assert texts(client, 1) == ["new"]
        assert client.feeds.epoch == 9


async def test_read_cursor_is_told_once_after_a_moment(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        for read in (1, 3, 2):
            client.mark(conv.id, read)
        await until(lambda: any(isinstance(f, e.Mark) for f in server.frames))
        assert [(f.conv, f.read) for f in server.frames if isinstance(f, e.Mark)] == [(1, 3)]


async def test_websocket_ping_is_answered(server: FakeServer) -> None:
    async with connected(server, server.ws_url) as client:
        server.peers[0].ping()
        conv = server.create()
        assert (await client.send(conv.id, "still here")).seq == 1


async def test_slow_reader_of_events_is_told_that_it_lost_some(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        with client.events(limit=3) as events:
            for number in range(10):
                await client.send(conv.id, f"m{number}")
            first = await anext(events)
            assert isinstance(first, ev.Lagged)
            assert first.dropped > 3


async def test_second_client_of_a_process_uses_the_same_memory_state(server: FakeServer) -> None:
    state = MemoryState()
    async with connected(server, state=state) as client:
        device = client.device
    async with connected(server, state=state) as client:
        assert client.device == device


async def test_a_mark_made_while_a_lower_one_is_repeated_is_not_lost(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server, timing=msgspec.structs.replace(QUICK, mark_s=60.0)) as client:
        client.mark(conv.id, 2)
        client._write_marks()
        client.mark(conv.id, 5)
        server.publish([e.Resync([])])

        def marks() -> list[int]:
            return [f.read for f in server.frames if isinstance(f, e.Mark)]

        await until(lambda: len(marks()) > 1)
        assert marks() == [2, 5]


@pytest.mark.parametrize(
    "x",
    [SendX(meta={"\ud800": ""}), SendX(quote=-1), SendX(quote=1 << 70), SendX(fmt=object())],  # type: ignore[arg-type]
)
async def test_what_no_frame_can_hold_is_refused_and_does_not_block_the_next(
    server: FakeServer, x: SendX
) -> None:
    conv = server.create()
    async with connected(server) as client:
        with pytest.raises(ProtocolError):
            client.post(conv.id, "hi", x=x)
        assert client.unsent == []
        assert (await client.send(conv.id, "hi")).seq == 1


async def test_requests_that_wait_are_bounded(server: FakeServer) -> None:
    async with connected(server) as client:
        server.silent = True
        asked = [asyncio.ensure_future(client.usage()) for _ in range(REQUESTS_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(ClientError, match="too many"):
            await client.usage()
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(end, Stopped) for end in ends)


async def test_a_full_disk_is_told_and_holds_no_message_up(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = server.create()
    state = FileState(tmp_path / "state.json")
    async with connected(server, state=state) as client:
        with client.events() as events:

            def full(encoded: bytes) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr(state, "save", full)
                assert (await client.send(conv.id, "hi")).seq == 1
            seen = [await anext(events), await anext(events)]
            assert ev.StateUnsaved("No space left on device") in seen


async def test_what_cannot_be_understood_is_made_up_for_by_a_sync(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        broken = e.Pong(None, 0)  # type: ignore[arg-type]
        server.silent = True
        server.say(conv, "beside it")
        server.silent = False
        server.publish([broken])
        await until(lambda: texts(client, conv.id) == ["beside it"])
        assert client.connects == 1


async def test_refused_message_says_what_a_person_may_do(server: FakeServer) -> None:
    conv = server.create()
    async with connected(server) as client:
        server.send_errors = [e.Err(0, 301, "muted", -1, "Ask an admin of the group.")]
        with client.events() as events:
            entry = client.post(conv.id, "no")
            with pytest.raises(ServerError):
                await entry.acknowledged
            failed = [await anext(events), await anext(events)][1]
        detail = "Ask an admin of the group."
        assert failed == ev.SendFailed(conv.id, entry.unsent.cid, "no", None, 301, "muted", detail)
