"""Where a waiting answer stands in the queue, as people are told."""

from functools import partial
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web

from ai_bridge.http.answers import Pulse, WholeAnswer
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, PersonaSpec, TurnRequest
from protocol.codes import Caps, StreamState
from protocol.envelopes import (
    Cancel,
    Open,
    Opened,
    StreamDelta,
    StreamEnd,
    StreamQueued,
    StreamStart,
    Synced,
    SyncRequest,
    Watching,
    WatchRequest,
)
from protocol.rows import Head
from server.http.asking import Recorded
from server.http.following import Follower
from tests.server.harness import TRANSPORTS, Peer, Server, fresh_sync, serving, watching
from tests.server.model import Model
from tests.server.test_streams import ask, talk
from tests.support.eventually import eventually

# The bridge tells places once a second; tests do it themselves, and no second passes by chance.
pytestmark = pytest.mark.usefixtures("_no_ticks")


@pytest.fixture
def _no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_bridge.bridge.SWEEP_S", 1e9)


async def places(peer: Peer) -> list[tuple[int, int]]:
    """Return (stream, place) of what a peer was told since the last look."""
    return [(f.sid, f.place) for f in await peer.settled() if isinstance(f, StreamQueued)]


def tell(server: Server) -> None:
    server.core.bridge.sweep()


async def fill(server: Server, model: Model, peer: Peer, conv: int, waiting: int) -> list[int]:
    """Ask until so many answers wait behind the one that runs; return their streams."""
    sids = [await ask(peer, conv, "now")]
    await model.call()
    for number in range(waiting):
        sids.append(await ask(peer, conv, str(number)))
        await eventually(partial(lambda wanted: server.core.bridge.queued == wanted, number + 1))
    await peer.settled()
    return sids


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_watches_is_told_the_place_whenever_it_changes(
    tmp_path: Path, transport: str
) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config(user_running=1)) as server:
        ann, first, conv = await talk(server)
        peer = await server.connect(ann, transport, 2, watch=watching(conv))
        running, second, third = await fill(server, model, first, conv, 2)
        await peer.settled()
        tell(server)
        assert await places(peer) == [(second, 1), (third, 2)]
        tell(server)
        assert await places(peer) == [], "nothing has changed"
        (await model.call()).finish("done")
        await peer.expect(StreamEnd, lambda f: f.sid == running)
        await model.call(1)
        assert (await peer.expect(StreamQueued)).place == 0, "the second waits no more"
        tell(server)
        assert await places(peer) == [(third, 1)]


async def test_only_those_are_told_who_watch_and_can_read_it(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config(user_running=1)) as server:
        ann, peer, conv = await talk(server)
        elsewhere = await server.connect(ann, number=2)
        old = await server.connect(ann, number=3, caps=int(Caps.PRESENCE), watch=watching(conv))
        await fill(server, model, peer, conv, 1)
        tell(server)
        assert len(await places(peer)) == 1
        assert await places(elsewhere) == []
        assert await places(old) == []


async def test_who_comes_later_finds_the_place_in_the_list_and_in_the_text(
    tmp_path: Path,
) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config(user_running=1)) as server:
        ann, peer, conv = await talk(server)
        running, waiting = await fill(server, model, peer, conv, 1)
        tell(server)
        late = await server.connect(ann, number=2, sync=fresh_sync(), watch=watching(conv))
        synced = await late.expect(Synced)
        watched = await late.expect(Watching)
        for streams in (synced.streams, watched.streams):
            assert {pos.sid: pos.place for pos in streams} == {running: 0, waiting: 1}
        reply = await late.ask(SyncRequest, fresh_sync(heads=[Head(conv, 1)]))
        assert {pos.sid: pos.place for pos in reply.streams} == {running: 0, waiting: 1}
        reply = await late.ask(WatchRequest, watching(conv))
        assert {pos.sid: pos.place for pos in reply.streams} == {running: 0, waiting: 1}
        opened = await late.ask(Open, waiting, 0, 0)
        assert isinstance(opened, Opened)
        assert (opened.state, opened.place, opened.text) == (StreamState.QUEUED, 1, "")


async def test_an_answer_that_starts_at_once_has_no_place(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        await peer.expect(StreamStart)
        tell(server)
        (await model.call()).finish("Hi")
        await peer.expect(StreamDelta)
        await peer.expect(StreamEnd, lambda f: f.sid == sid)
        assert await places(peer) == []


async def test_a_cancelled_one_lets_those_behind_it_move_up(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config(user_running=1)) as server:
        _, peer, conv = await talk(server)
        _, second, third = await fill(server, model, peer, conv, 2)
        tell(server)
        assert await places(peer) == [(second, 1), (third, 2)]
        await peer.ask(Cancel, second)
        await peer.expect(StreamEnd, lambda f: f.sid == second)
        tell(server)
        assert await places(peer) == [(third, 1)]


class Watcher:
    """Keeps the places that it is told, as the one behind a streamed HTTP answer."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.outcome: Outcome | None = None

    def turn_queued(self, turn: Turn, place: int) -> None:
        self.places.append(place)

    def turn_started(self, turn: Turn) -> None: ...

    def turn_changed(self, turn: Turn) -> None: ...

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        self.outcome = outcome


async def test_a_request_over_http_that_follows_an_answer_is_told_too(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config(user_running=1)) as server:
        _, peer, conv = await talk(server)
        running, waiting = await fill(server, model, peer, conv, 1)
        watcher = Watcher()
        follower = Follower(server.core, Pulse(server.core.loop), waiting, watcher)
        tell(server)
        follower.beat(0.0)
        follower.beat(0.0)
        assert watcher.places == [1]
        await peer.ask(Cancel, running)
        await model.call(1)
        await eventually(lambda: watcher.places == [1, 0])
        model.calls[1].finish("Hi")
        await eventually(lambda: watcher.outcome is not None)


async def test_a_program_that_asks_is_told_its_place_if_its_door_has_a_place_for_it(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        persona = PersonaSpec(0, "")
        turn = Turn(TurnRequest(turn_id=1, tenant=1, user=1, conv=0, persona=persona, history=()))
        told = Watcher()
        waits_for_all = WholeAnswer(cast(web.Request, None), server.core.loop)
        for inner in (told, waits_for_all):
            Recorded(inner, server.core.records).turn_queued(turn, 4)
        assert told.places == [4]
