"""Answers of a persona, from the question to the stored text, as people see them arrive."""

import asyncio
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from bench.provider.server import ScriptedProvider
from protocol.codec import MsgpackCodec
from protocol.codes import (
    Caps,
    Code,
    ConvKind,
    EndReason,
    GenMode,
    MsgKind,
    StreamPart,
    StreamState,
)
from protocol.envelopes import (
    Cancel,
    ConvChange,
    Done,
    Err,
    Frame,
    Gen,
    GenOk,
    History,
    MemberAdd,
    MsgPush,
    Open,
    Opened,
    Pick,
    Send,
    StreamDelta,
    StreamEnd,
    StreamStart,
    Synced,
    SyncRequest,
    Watching,
    WatchRequest,
)
from protocol.rows import ConvSet, SendX, StreamPos
from server.checkpoints import Kept
from server.config_sections import AiConfig, PriceConfig, ProviderConfig
from server.turns import RERUNS
from storage.errors import StoreOverloaded
from storage.members import HIDE_HISTORY
from storage.rows import TurnStatus
from storage.turns import create_turn, get_turn
from storage.usage import DAY_MS, usage_by_day
from storage.writes import Write
from tests.server.harness import (
    Peer,
    Person,
    Server,
    cid,
    fresh_sync,
    serving,
    watching,
)
from tests.server.model import Model
from tests.support.eventually import WAIT_S, eventually
from tests.support.turns import turns_of

NEVER_S = 1e9


async def ask(peer: Peer, conv: int, text: str = "How are you?") -> int:
    """Send a question; return the id of the answer's stream."""
    sent = await peer.send_text(conv, text)
    assert sent.sid is not None
    return sent.sid


async def talk(server: Server, *others: Person, watch: bool = True) -> tuple[Person, Peer, int]:
    """Return Ann, her connection and her conversation with a persona."""
    ann = await server.person("ann")
    persona = await server.persona(ann)
    peer = await server.connect(ann)
    kind = ConvKind.GROUP if others else ConvKind.AI
    conv = (await peer.create(kind, *others, persona=persona)).row.id or 0
    if watch:
        await peer.ask(WatchRequest, watching(conv))
    await peer.settled()
    return ann, peer, conv


class Reader:
    """Puts a stream together as a client does, and complains about holes."""

    def __init__(self) -> None:
        self.data = b""

    def take(self, delta: StreamDelta | Opened) -> None:
        assert delta.off <= len(self.data), "a hole"
        new = delta.text.encode()
        assert self.data[delta.off :] == new[: len(self.data) - delta.off], "another text"
        self.data = self.data[: delta.off] + new

    async def follow(self, peer: Peer, sid: int) -> StreamEnd | MsgPush:
        """Read up to the end of the stream."""

        def ours(frame: Any) -> bool:
            if isinstance(frame, MsgPush):
                return frame.x is not None and frame.x.sid == sid
            return isinstance(frame, StreamDelta | StreamEnd) and frame.sid == sid

        while True:
            frame: Any = await peer.expect(Frame, ours)
            if not isinstance(frame, StreamDelta):
                assert isinstance(frame, StreamEnd | MsgPush)
                return frame
            self.take(frame)


async def status_of(server: Server, sid: int) -> TurnStatus:
    """Return the state of a turn's row."""
    row = await server.store.read(get_turn(sid))
    assert row is not None
    return TurnStatus(row.status)


# the usual way


async def test_an_answer_streams_in_and_is_stored(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        start = await peer.expect(StreamStart)
        assert (start.sid, start.conv, start.ask) == (sid, conv, 1)
        call = await model.call()
        assert call.texts == ["Be kind.", "How are you?"]
        call.say("Fine, ")
        first = await peer.expect(StreamDelta)
        assert (first.off, first.text) == (0, "Fine, ")
        call.finish("谢谢!")
        reader = Reader()
        reader.take(first)
        end = await reader.follow(peer, sid)
        assert isinstance(end, StreamEnd)
        whole = "Fine, 谢谢!".encode()
        assert reader.data == whole
        assert (end.reason, end.total, end.crc) == (EndReason.STOP, len(whole), crc32(whole))
        page = await peer.ask(History, conv, 0, True, 5)
        answer = page.msgs[-1]
        assert (answer.text, answer.kind) == ("Fine, 谢谢!", MsgKind.AI_REPLY)
        assert (answer.seq, answer.rev, answer.ts) == (end.seq, end.rev, end.ts)
        assert answer.x is not None
        assert (answer.x.sid, answer.x.finish) == (sid, EndReason.STOP)
        assert await status_of(server, sid) is TurnStatus.DONE
        assert len(server.core.turns) == 0
        assert len(server.core.streams) == 0


@pytest.mark.parametrize("transport", ["tcp", "ws", "json"])
async def test_the_demo_partner_answers_on_every_transport(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        persona = await server.persona(ann)
        peer = await server.connect(ann, transport)
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        await peer.ask(WatchRequest, watching(conv))
        reader = Reader()
        end = await reader.follow(peer, await ask(peer, conv, "你好，你是谁？"))
        assert isinstance(end, StreamEnd)
        assert reader.data
        assert end.total == len(reader.data)
        page = await peer.ask(History, conv, 0, True, 5)
        assert page.msgs[-1].text.encode() == reader.data


async def test_who_does_not_watch_gets_the_whole_message(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob, cat = await server.people("bob cat")
        _ann, pa, conv = await talk(server, bob, cat)
        pb = await server.connect(bob)
        pc = await server.connect(cat, caps=0)
        sent = await pa.send_text(conv, "@Ada, are you there?")
        (await model.call()).finish("Yes.")
        assert sent.sid is not None
        assert isinstance(await Reader().follow(pa, sent.sid), StreamEnd)
        push = await pb.expect(MsgPush, lambda f: f.kind == MsgKind.AI_REPLY)
        assert push.text == "Yes."
        assert {type(f) for f in await pb.settled()} >= {MsgPush, StreamStart}
        await pc.expect(MsgPush, lambda f: f.text == "Yes.")
        assert {type(f) for f in await pc.settled()} == {MsgPush}


async def test_in_a_group_a_persona_answers_when_it_is_called(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob = await server.person("bob")
        _, pa, conv = await talk(server, bob)
        entry = server.core.directory.peek(conv)
        assert entry is not None
        ada = entry.row.persona or 0
        assert (await pa.send_text(conv, "just us")).sid is None
        for text, x in (
            ("@Ada hello", None),
            ("hello", SendX(mentions=[ada])),
            ("hello", SendX(persona=ada)),
        ):
            sid = (await pa.send_text(conv, text, x)).sid
            assert sid is not None
            (await model.call(len(model.calls))).finish("hi")
            await Reader().follow(pa, sid)
        assert (await pa.send_text(conv, "@Ada no", SendX(ai=1))).sid is None


async def test_no_answer_is_made_when_none_is_wanted(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _, peer, conv = await talk(server)
        sent = await peer.send_text(conv, "a note to myself", SendX(ai=1))
        assert sent.sid is None
        assert await server.store.read(turns_of(conv)) == []


# resuming


async def test_a_second_device_that_comes_amid_the_answer_gets_all_of_it(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        call = await model.call()
        call.say("One, ")
        await peer.expect(StreamDelta)
        tablet = await server.connect(ann, "ws", 2, sync=fresh_sync(), watch=watching(conv))
        synced = await tablet.expect(Synced)
        assert [(s.sid, s.conv, s.off) for s in synced.streams] == [(sid, conv, 5)]
        call.say("two, ")
        call.finish("three.")
        for device in (peer, tablet):
            reader = Reader()
            if device is peer:
                reader.data = b"One, "
            end = await reader.follow(device, sid)
            assert isinstance(end, StreamEnd)
            assert reader.data == b"One, two, three."


async def test_a_client_that_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        call = await model.call()
        call.say("One, ")
        reader = Reader()
        reader.take(await peer.expect(StreamDelta))
        peer.reset()
        call.say("two, ")
        await eventually(lambda: server.core.hub.size == 0)
        known = [StreamPos(sid, conv, 0, 0, len(reader.data))]
        sync = fresh_sync(streams=known)
        again = await server.connect(ann, sync=sync, watch=watching(conv))
        delta = await again.expect(StreamDelta)
        assert (delta.off, delta.text) == (5, "two, ")
        reader.take(delta)
        call.finish("three.")
        assert isinstance(await reader.follow(again, sid), StreamEnd)
        assert reader.data == b"One, two, three."


async def test_open_gives_the_text_so_far_and_deltas_go_on_from_there(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob = await server.person("bob")
        _, pa, conv = await talk(server, bob)
        pb = await server.connect(bob)
        sent = await pa.send_text(conv, "@Ada hello")
        sid = sent.sid or 0
        call = await model.call()
        call.say("日本 ")
        await pa.expect(StreamDelta)
        opened = await pb.ask(Open, sid, 0, 1)
        assert (opened.off, opened.text, opened.total) == (0, "日本 ", 7)
        assert opened.state == StreamState.RUNNING
        watched = await pb.ask(WatchRequest, watching(conv))
        assert isinstance(watched, Watching)
        assert [s.off for s in watched.streams] == [7]
        reader = Reader()
        call.finish("語")
        end = await reader.follow(pb, sid)
        assert reader.data.decode() == "日本 語"
        assert isinstance(end, StreamEnd)
        await pb.settled()
        late = await pb.ask(Open, sid, 0, 7)
        assert (late.state, late.off, late.text, late.total) == (2, 7, "語", 10)
        inside = await pb.ask(Open, sid, 0, 8)
        assert (inside.off, inside.text) == (7, "語")
        assert await pb.refused(Open, sid + 1, 0, 0) == Code.NOT_FOUND


async def test_a_slow_watcher_costs_nothing_and_gets_everything_later(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob = await server.person("bob")
        _, pa, conv = await talk(server, bob)
        pb = await server.connect(bob, watch=watching(conv))
        slow = server.core.hub.sessions_of(bob.id)[0]
        sid = (await pa.send_text(conv, "@Ada hello")).sid or 0
        call = await model.call()
        slow.outbox.pause(0.0)
        reader = Reader()
        for n in range(20):
            call.say(f"word{n} ")
            await asyncio.sleep(0)
        while len(reader.data) < 100:
            reader.take(await pa.expect(StreamDelta))
        assert slow.outbox.backlog_bytes < 1000, "no text waits for who cannot read"
        slow.outbox.resume()
        call.say("more ")
        late = Reader()
        late.take(await pb.expect(StreamDelta))
        assert len(late.data) > 100, "one snapshot instead of many pieces"
        call.finish("end")
        assert isinstance(await late.follow(pb, sid), StreamEnd)
        await reader.follow(pa, sid)
        assert late.data == reader.data


async def test_who_is_still_behind_at_the_end_gets_the_message(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob = await server.person("bob")
        _, pa, conv = await talk(server, bob)
        pb = await server.connect(bob, watch=watching(conv))
        slow = server.core.hub.sessions_of(bob.id)[0]
        sid = (await pa.send_text(conv, "@Ada hello")).sid or 0
        slow.outbox.pause(0.0)
        (await model.call()).finish("All of it.")
        assert isinstance(await Reader().follow(pa, sid), StreamEnd)
        slow.outbox.resume()
        push = await pb.expect(MsgPush, lambda f: f.kind == MsgKind.AI_REPLY)
        assert push.text == "All of it."


async def test_a_long_answer_is_cut_into_frames(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        text = "长" * 20_001
        (await model.call()).finish(text)
        reader = Reader()
        assert isinstance(await reader.follow(peer, sid), StreamEnd)
        assert reader.data.decode() == text


async def test_the_first_words_of_an_answer_do_not_wait_for_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.streams.TICK_S", NEVER_S)
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob = await server.person("bob")
        _, pa, conv = await talk(server, bob)
        pb = await server.connect(bob, watch=watching(conv))
        for number, peer in enumerate((pa, pb)):
            sid = (await peer.send_text(conv, "@Ada hello")).sid or 0
            call = await model.call(number)
            call.say("Hel")
            for watcher in (pa, pb):
                delta = await watcher.expect(StreamDelta)
                assert (delta.sid, delta.off, delta.text) == (sid, 0, "Hel")
            call.say("lo ")
            assert [f for f in await pa.settled() if isinstance(f, StreamDelta)] == []
            call.finish("there")
            for watcher in (pa, pb):
                delta = await watcher.expect(StreamDelta)
                assert (delta.off, delta.text) == (3, "lo there")


async def test_a_tick_of_many_streams_is_sent_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.streams.TICK_S", NEVER_S)
    monkeypatch.setattr("server.streams.SLICE_STREAMS", 1)
    async with Model() as model, serving(tmp_path, ai=model.config(user_running=3)) as server:
        _, peer, conv = await talk(server)
        for number in range(3):
            await ask(peer, conv, str(number))
            (await model.call(number)).say("Well")
            await peer.expect(StreamDelta)
        for call in model.calls:
            call.say(", no.")
        streams = server.core.streams
        await eventually(lambda: sum(s.size(StreamPart.ANSWER) for s in streams.of(conv)) == 27)
        sent = streams.deltas
        streams._tick()
        assert streams.deltas == sent
        streams._send_due()
        assert streams.deltas == sent + 1
        first = streams.of(conv)[0]
        streams.end(first)  # its rest is sent with the end, and not once more with its slice
        assert streams.deltas == sent + 2
        texts = [(await peer.expect(StreamDelta)).text for _ in range(3)]
        assert texts == [", no."] * 3
        assert not [frame for frame in await peer.settled() if isinstance(frame, StreamDelta)]


async def test_a_long_text_reaches_a_late_watcher_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.streams.TICK_S", NEVER_S)
    monkeypatch.setattr("server.streams.TICK_BYTES", 16_000)
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann, peer, conv = await talk(server, watch=False)
        sid = await ask(peer, conv)
        call = await model.call()
        call.say("长" * 12_000)
        stream = server.core.streams.get(sid)
        assert stream is not None
        await eventually(lambda: stream.size(StreamPart.ANSWER) == 36_000)
        late = await server.connect(ann, "ws", 2, sync=fresh_sync(), watch=watching(conv))
        reader = Reader()
        for bytes_so_far in (16_000, 36_000):
            server.core.streams._tick()
            for frame in await late.settled():
                if isinstance(frame, StreamDelta):
                    reader.take(frame)
            assert bytes_so_far - 8_000 < len(reader.data) < bytes_so_far + 8_000
        call.finish()
        assert isinstance(await reader.follow(late, sid), StreamEnd)


async def test_watchers_of_one_text_share_its_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas: list[StreamDelta] = []
    plain = MsgpackCodec.encode

    def counted(self: Any, frame: Any) -> bytes:
        if isinstance(frame, StreamDelta):
            deltas.append(frame)
        return plain(self, frame)

    monkeypatch.setattr(MsgpackCodec, "encode", counted)
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        others = await server.people("bob cat dan eva")
        _, pa, conv = await talk(server, *others)
        peers = [await server.connect(p, watch=watching(conv)) for p in others]
        sid = (await pa.send_text(conv, "@Ada hello")).sid or 0
        call = await model.call()
        await asyncio.sleep(0.06)
        call.say("Hello everybody")
        for peer in (pa, *peers):
            await peer.expect(StreamDelta)
        assert len(deltas) == 1
        call.finish()
        for peer in (pa, *peers):
            await Reader().follow(peer, sid)


# stopping


async def test_a_cancelled_answer_keeps_its_text_and_hangs_up_on_the_provider(
    tmp_path: Path,
) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        call = await model.call()
        call.say("Well, ")
        await peer.expect(StreamDelta)
        assert isinstance(await peer.ask(Cancel, sid), Done)
        end = await peer.expect(StreamEnd)
        assert end.reason == EndReason.CANCELLED
        await asyncio.wait_for(call.closed.wait(), WAIT_S)
        page = await peer.ask(History, conv, 0, True, 1)
        assert page.msgs[0].text == "Well, "
        assert await status_of(server, sid) is TurnStatus.CANCELLED
        assert isinstance(await peer.ask(Cancel, sid), Done)
        assert await peer.refused(Cancel, sid + 1) == Code.NOT_FOUND


async def test_a_cancel_right_behind_the_question_counts(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        core = server.core
        begin = core.turns.begin

        def begin_and_cancel(*args: Any, **options: Any) -> Any:
            stream = begin(*args, **options)
            core.turns.cancel(stream.sid)  # before the question has been read for the model
            return stream

        core.turns.begin = begin_and_cancel  # type: ignore[method-assign]
        sid = await ask(peer, conv)
        end = await peer.expect(StreamEnd)
        assert (end.reason, end.seq, end.rev, end.total) == (EndReason.CANCELLED, 0, 0, 0)
        assert await status_of(server, sid) is TurnStatus.CANCELLED
        assert len((await peer.ask(History, conv, 0, True, 5)).msgs) == 1


async def test_questions_are_asked_in_their_order_however_long_each_is_read_for(
    tmp_path: Path,
) -> None:
    async with Model() as model:
        config = model.config(user_running=1, user_queued=3)
        async with serving(tmp_path, ai=config) as server:
            _, peer, conv = await talk(server)
            read, overtaken, held = server.core.store.read, asyncio.Event(), []

            async def slow_at_first(op: Any, snapshot: bool = False) -> Any:
                found = await read(op, snapshot)
                if op.__name__ == "_read_talk":
                    held.append(op)
                    if len(held) == 1:
                        await overtaken.wait()
                    else:
                        overtaken.set()
                return found

            server.core.store.read = slow_at_first  # type: ignore[method-assign]
            first = await ask(peer, conv, "one")
            second = await ask(peer, conv, "two")
            for number, (sid, question) in enumerate(((first, "one"), (second, "two"))):
                call = await model.call(number)
                assert call.body["messages"][-1]["content"] == question
                call.finish("Answer.")
                await Reader().follow(peer, sid)


async def test_a_connection_that_drops_cancels_nothing(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        call = await model.call()
        call.say("Still ")
        await peer.expect(StreamDelta)
        peer.reset()
        await eventually(lambda: server.core.hub.size == 0)
        call.finish("here.")
        await eventually(lambda: len(server.core.turns) == 0)
        again = await server.connect(ann)
        page = await again.ask(History, conv, 0, True, 1)
        assert page.msgs[0].text == "Still here."
        assert await status_of(server, sid) is TurnStatus.DONE


# failing


async def test_too_many_questions_are_refused_as_ended_streams(tmp_path: Path) -> None:
    async with Model() as model:
        config = model.config(user_running=1, user_queued=0)
        async with serving(tmp_path, ai=config) as server:
            _, peer, conv = await talk(server)
            first = await ask(peer, conv)
            call = await model.call()
            second = await ask(peer, conv, "And now?")
            end = await peer.expect(StreamEnd, lambda f: f.sid == second)
            assert (end.reason, end.code) == (EndReason.ERROR, Code.RATE)
            assert end.detail
            assert (end.seq, end.rev) == (0, 0)
            assert await status_of(server, second) is TurnStatus.FAILED
            call.finish("Sorry.")
            assert isinstance(await Reader().follow(peer, first), StreamEnd)


async def test_a_waiting_answer_is_shown_as_queued_and_can_be_cancelled(tmp_path: Path) -> None:
    async with Model() as model:
        config = model.config(user_running=1, user_queued=3)
        async with serving(tmp_path, ai=config) as server:
            _, peer, conv = await talk(server)
            first, second, third = [await ask(peer, conv, f"question {n}") for n in range(3)]
            call = await model.call()
            opened = await peer.ask(Open, second, 0, 0)
            assert opened.state == StreamState.QUEUED
            await peer.ask(Cancel, second)
            end = await peer.expect(StreamEnd, lambda f: f.sid == second)
            assert end.reason == EndReason.CANCELLED
            call.finish("one")
            await Reader().follow(peer, first)
            (await model.call(1)).finish("three")
            assert isinstance(await Reader().follow(peer, third), StreamEnd)
            assert len(model.calls) == 2


async def test_a_provider_that_cannot_be_reached_ends_the_stream_with_a_reason(
    tmp_path: Path,
) -> None:
    async with Model() as model:
        config = model.config()
    async with serving(tmp_path, ai=config) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        end = await peer.expect(StreamEnd)
        assert end.sid == sid
        assert end.reason == EndReason.ERROR
        assert end.code == Code.MODEL_UNAVAILABLE
        assert end.detail
        assert await status_of(server, sid) is TurnStatus.FAILED


async def test_what_a_stopped_server_left_behind_is_finished_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with Model() as model:
        async with serving(tmp_path, ai=model.config()) as server:
            ann, peer, conv = await talk(server)
            sid = await ask(peer, conv)
            (await model.call()).say("Half of ")
            await peer.expect(StreamDelta)
            server.advance(1)  # a checkpoint
            await server.idle()
            # As after kill -9: nobody finishes the turn.
            server.core.turns._finish = _nothing  # type: ignore[method-assign,assignment]
        async with serving(tmp_path, ai=model.config()) as server:
            assert await server.core.turns.recover(starting=True) == 1
            await server.idle()
            peer = await server.connect(ann)
            page = await peer.ask(History, conv, 0, True, 1)
            answer = page.msgs[0]
            assert answer.text == "Half of "
            assert answer.x is not None
            assert answer.x.finish == EndReason.INTERRUPTED
            assert await status_of(server, sid) is TurnStatus.INTERRUPTED
            assert await server.core.turns.recover() == 0


async def test_living_turns_are_not_taken_for_left_over_ones(tmp_path: Path) -> None:
    """Once the look-out for dead nodes took this node's own turns, before they were known."""
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        call = await model.call()
        server.core.turns._running.clear()  # as between the commit and its settlement
        assert await server.core.turns.recover() == 0
        call.finish("Once.")
        assert isinstance(await Reader().follow(peer, sid), StreamEnd)


async def _nothing(*args: object) -> None:
    """Do nothing."""


async def test_a_full_store_delays_the_end_of_an_answer_and_loses_it_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.turns.WRITE_AGAIN_S", 0.001)
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        ann, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        await model.call()
        lost = server.core.turns.new(1, ann.id, 7)
        await server.store.change((), lambda tx: create_turn(tx, lost, 999, 1, cid()))
        submit, refusals = server.store.submit, 0

        def full(write: Write) -> None:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise StoreOverloaded("the write queue is full", 50)
            submit(write)

        monkeypatch.setattr(server.store, "submit", full)
        refusals = 3
        assert isinstance(await peer.ask(Cancel, sid), Done)
        end = await peer.expect(StreamEnd)
        assert (end.sid, end.reason, refusals) == (sid, EndReason.CANCELLED, 0)
        assert await status_of(server, sid) == TurnStatus.CANCELLED
        # One whose conversation is gone has nobody to tell, and ends all the same.
        refusals = 3
        assert await server.core.turns.recover(starting=True) == 1
        assert refusals == 0
        assert await status_of(server, lost.sid) == TurnStatus.INTERRUPTED


async def test_a_question_that_nobody_began_to_answer_is_asked_again(tmp_path: Path) -> None:
    async with Model() as model:
        async with serving(tmp_path, ai=model.config()) as server:
            ann, peer, conv = await talk(server)
            sid = await ask(peer, conv)
            await model.call()
            server.core.turns._finish = _nothing  # type: ignore[method-assign,assignment]
        async with serving(tmp_path, ai=model.config()) as server:
            peer = await server.connect(ann, watch=watching(conv))
            assert await server.core.turns.recover(starting=True) == 1
            (await model.call(1)).finish("Now.")
            assert isinstance(await Reader().follow(peer, sid), StreamEnd)
            assert await status_of(server, sid) is TurnStatus.DONE


async def test_a_question_that_kills_every_process_is_given_up(tmp_path: Path) -> None:
    async with Model() as model:
        async with serving(tmp_path, ai=model.config()) as server:
            ann, peer, conv = await talk(server)
            sid = await ask(peer, conv)
            await model.call()
            server.core.turns._finish = _nothing  # type: ignore[method-assign,assignment]
        for number in range(RERUNS):
            async with serving(tmp_path, ai=model.config()) as server:
                assert await server.core.turns.recover(starting=True) == 1
                await model.call(number + 1)
                server.core.turns._finish = _nothing  # type: ignore[method-assign,assignment]
        async with serving(tmp_path, ai=model.config()) as server:
            peer = await server.connect(ann, watch=watching(conv))
            assert await server.core.turns.recover(starting=True) == 1
            assert await status_of(server, sid) is TurnStatus.INTERRUPTED
            assert len(model.calls) == 1 + RERUNS


async def test_what_an_answer_used_is_paid_for_although_its_process_died(tmp_path: Path) -> None:
    async with Model() as model:
        prices = {"m": PriceConfig(input=100, output=1000)}
        config = model.config(prices=prices, user_month_usd=5)
        async with serving(tmp_path, ai=config) as server:
            ann, peer, conv = await talk(server)
            sid = await ask(peer, conv)
            call = await model.call()
            call.say("Once upon a time ")
            await peer.expect(StreamDelta)
            server.core.turns.checkpoints.sweep(server.core.clock() + 60)
            await eventually(lambda: server.core.turns.checkpoints.writing is False)
            row = await server.store.read(get_turn(sid))
            assert row is not None
            assert (row.model, row.partial) == ("m", "Once upon a time ")
            server.core.turns._finish = _nothing  # type: ignore[method-assign,assignment]
        async with serving(tmp_path, ai=config) as server:
            assert await server.core.turns.recover(starting=True) == 1
            ended = await server.store.read(get_turn(sid))
            assert ended is not None
            assert ended.status == TurnStatus.INTERRUPTED
            assert ended.cost_micro == row.cost_micro == 100 * row.tokens_in + 1000 * row.tokens_out
            assert row.tokens_out >= 3
            assert server.billing.ledger.spent(1, ann.id).month == ended.cost_micro
            today = server.core.now_ms() // DAY_MS
            (day,) = await server.store.read(usage_by_day(1, ann.id, today - 1, 2))
            assert (day.tokens_out, day.cost_micro) == (ended.tokens_out, ended.cost_micro)


# asking again


async def test_regenerate_and_continue_show_the_model_what_they_must(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        first = await ask(peer, conv, "Tell me a story")
        (await model.call()).finish("Once upon")
        await Reader().follow(peer, first)
        key = cid()
        ok = await peer.ask(Gen, conv, key, int(GenMode.REGENERATE), 2)
        assert isinstance(ok, GenOk)
        again = await peer.ask(Gen, conv, key, int(GenMode.REGENERATE), 2)
        assert again.sid == ok.sid
        call = await model.call(1)
        assert call.texts == ["Be kind.", "Tell me a story"]
        call.finish("Long ago")
        await Reader().follow(peer, ok.sid)
        more = await peer.ask(Gen, conv, cid(), int(GenMode.CONTINUE), 3)
        call = await model.call(2)
        assert "Long ago" in call.texts
        call.finish(" there was")
        await Reader().follow(peer, more.sid)
        texts = [m.text for m in (await peer.ask(History, conv, 0, True, 9)).msgs]
        assert texts == ["Tell me a story", "Once upon", "Long ago", " there was"]
        assert len(model.calls) == 3
        for mode, seq in ((9, 1), (int(GenMode.CONTINUE), 1)):
            assert await peer.refused(Gen, conv, cid(), mode, seq) == Code.INVALID
        assert await peer.refused(Gen, conv, cid(), 1, 99) == Code.NOT_FOUND


async def test_a_model_may_use_the_tools_that_are_switched_on(tmp_path: Path) -> None:
    service = ScriptedProvider()
    await service.start()
    model = 'fake,tool=calculate,args={"expression":"6*7"}'
    service.models = [model]
    given = ProviderConfig(name="s", base_url=service.base_url, models=[model])
    ai = AiConfig(detect=False, providers=[given], tools=["calculate"])
    try:
        async with serving(tmp_path, ai=ai) as server:
            _, peer, conv = await talk(server)
            sid = await ask(peer, conv, "What is six times seven?")
            shown = await peer.expect(StreamDelta, lambda f: f.part == StreamPart.TOOLS)
            assert shown.text == "running calculate\n"
            await peer.expect(StreamEnd, lambda f: f.sid == sid)
        asked = service.requests[-1].body["messages"]
        assert any(m["role"] == "tool" and "42" in m["content"] for m in asked)
    finally:
        await service.aclose()


async def test_a_long_text_is_saved_when_it_has_grown_by_an_eighth_or_after_a_while(
    tmp_path: Path,
) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        call = await model.call()
        stream, kept = server.core.turns._running[sid].stream, Kept()
        assert kept.is_due(None, 100.0), "the lease, before there is anything"
        assert kept.take(None, 100.0) is None

        async def say(text: str) -> None:
            before = stream.size(StreamPart.ANSWER)
            call.say(text)
            await eventually(lambda: stream.size(StreamPart.ANSWER) > before)

        def taken(now: float) -> str | None:
            return kept.take(stream.turn, now) if kept.is_due(stream.turn, now) else "not due"

        await say("x" * 800)
        assert taken(100.0) == "x" * 800
        assert taken(100.0) == "not due"
        await say("y" * 99)
        assert taken(101.0) == "not due"
        await say("z")
        assert taken(102.0) == "x" * 800 + "y" * 99 + "z"
        await say("!")
        assert taken(106.9) == "not due"
        assert (taken(107.0) or "").endswith("z!")
        assert taken(112.0) is None, "the lease alone: nothing new"
        call.finish()
        await Reader().follow(peer, sid)


async def chosen(peer: Peer, seq: int) -> None:
    """Read until an answer is known as the chosen one of several."""
    await peer.expect(MsgPush, lambda f: f.seq == seq and f.x is not None and bool(f.x.alts))


async def test_answers_made_again_are_siblings_of_which_one_is_chosen(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        for number, said in enumerate(("one", "two", "three")):
            if number:
                again = await peer.ask(Gen, conv, cid(), int(GenMode.REGENERATE), number + 1)
                sid = again.sid
            else:
                sid = await ask(peer, conv, "Count")
            (await model.call(number)).finish(said)
            await Reader().follow(peer, sid)
            if number:
                await chosen(peer, number + 2)

        async def states() -> list[tuple[str, list[int] | None, bool | None]]:
            page = await peer.ask(History, conv, 0, True, 9)
            return [(m.text, m.x.alts, m.x.off) for m in page.msgs if m.x and m.x.sid]

        all_of_them = [2, 3, 4]
        assert await states() == [
            ("one", all_of_them, True),
            ("two", all_of_them, True),
            ("three", all_of_them, None),
        ]
        changed = await peer.ask(Pick, conv, 2)
        assert changed.rev > 0
        assert [off for _, _, off in await states()] == [None, True, True]
        assert (await peer.ask(Pick, conv, 2)).rev == 0
        more = await ask(peer, conv, "Go on")
        call = await model.call(3)
        assert call.texts[1:] == ["Count", "one", "Go on"]
        call.finish("fine")
        await Reader().follow(peer, more)
        assert await peer.refused(Pick, conv, 5) == Code.NOT_PERMITTED
        assert await peer.refused(Pick, conv, 99) == Code.NOT_FOUND


async def test_earlier_messages_are_shown_as_far_as_asked_for(tmp_path: Path) -> None:
    async with Model() as model:
        config = model.config(history=2)
        async with serving(tmp_path, ai=config) as server:
            _, peer, conv = await talk(server)
            for n in range(3):
                sid = await ask(peer, conv, f"q{n}")
                (await model.call(n)).finish(f"a{n}")
                await Reader().follow(peer, sid)
            assert model.calls[2].texts == ["Be kind.", "q1", "a1", "q2"]


async def test_the_model_sees_no_more_than_who_asks(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        bob = await server.person("bob")
        dan = await server.person("dan")
        _, pa, conv = await talk(server, dan)
        await pa.send_text(conv, "the safe opens with 1234")
        await pa.ask(ConvChange, conv, ConvSet(flags=HIDE_HISTORY))
        await pa.ask(MemberAdd, conv, [bob.id])
        pb = await server.connect(bob, watch=watching(conv))
        sent = await pb.send_text(conv, "@Ada what did they say?")
        call = await model.call()
        assert not [text for text in call.texts if "1234" in text]
        call.finish("I do not know.")
        assert isinstance(await Reader().follow(pb, sent.sid or 0), StreamEnd)


async def test_streams_of_conversations_one_is_not_in_are_not_listed(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, pa, conv = await talk(server)
        eve = await server.person("eve")
        pe = await server.connect(eve)
        own = (await pe.create(ConvKind.GROUP)).row.id or 0
        sid = await ask(pa, conv)
        call = await model.call()
        call.say("secret")
        await pa.expect(StreamDelta)
        reply = await pe.ask(WatchRequest, watching(conv, own))
        assert reply.streams == []
        synced = await pe.ask(SyncRequest, fresh_sync())
        assert synced.streams == []
        assert await pe.refused(Open, sid, 0, 0) == Code.NOT_FOUND
        assert await pe.refused(Cancel, sid) == Code.NOT_FOUND
        call.finish()
        await Reader().follow(pa, sid)
        assert [f for f in await pe.settled() if isinstance(f, StreamDelta | StreamStart)] == []


async def test_a_sender_without_the_capability_gets_the_answer_as_a_message(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, ai=AiConfig(detect=False, demo_words_per_s=0)) as server:
        ann = await server.person("ann")
        persona = await server.persona(ann)
        peer = await server.connect(ann, caps=int(Caps.PRESENCE))
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        await peer.ask(WatchRequest, watching(conv))
        reply = await peer.ask(Send, conv, cid(), 0, "hello")
        assert not isinstance(reply, Err)
        await peer.expect(MsgPush, lambda f: f.kind == MsgKind.AI_REPLY)
        kinds = {type(f) for f in await peer.settled()}
        assert not kinds & {StreamStart, StreamDelta, StreamEnd}
