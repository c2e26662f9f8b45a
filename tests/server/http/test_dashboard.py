"""The dashboard's door: equal to the metrics page, made once for all, closed to strangers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from prometheus_client.parser import text_string_to_metric_families

from bench.provider.server import ScriptedProvider
from protocol.codes import WEBSOCKET_CLOSE_BASE, Code
from protocol.handshake import build_request, make_key
from server.http import dashboard as dashboards
from server.http import dashboard_routes
from server.http.dashboard import DASHBOARD, MAX_VIEWERS, Dashboard, Viewer
from server.sampler import Point
from storage.people import create_tenant
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import (
    bearer,
    complete,
    conversation,
    new_key,
    persona,
    settings_for,
    talk,
)
from tests.support.eventually import WAIT_S, eventually

REALTIME, HISTORY, TURNS = (
    "/v1/dashboard/realtime",
    "/api/v1/dashboard/history",
    "/api/v1/dashboard/turns",
)
WATCH = "/ws/dashboard"


@pytest.fixture
def settings(provider: ScriptedProvider) -> dict[str, object]:
    rule = {"name": "crowd", "figure": "connections", "above": 1000, "seconds": 0}
    return settings_for(provider.port) | {"metrics.alerts": [rule]}


class Desk:
    """A site whose sampler looks when the test says so, and a key that sees everything."""

    def __init__(self, site: Site, key: str, other: int) -> None:
        self.site = site
        self.key = key
        self.other = other
        assert site.app._http is not None
        app = site.app._http._runner.app
        assert app is not None
        self.board: Dashboard = app[DASHBOARD]
        self.board.sampler.close()

    async def get(self, path: str, key: str = "") -> Any:
        answer = await self.site.ask("GET", path, headers=bearer(key or self.key))
        assert answer.status == 200, answer
        return answer.json

    async def cancel(self, sid: int, key: str) -> Answer:
        return await self.site.ask("POST", f"{TURNS}/{sid}/cancel", headers=bearer(key))

    def look(self) -> None:
        self.board.sampler.look()

    @contextlib.asynccontextmanager
    async def viewer(self, key: str = "") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A viewer that has got its first frame."""
        url = self.site.url + WATCH
        before = len(self.board.viewers)
        async with self.site.session.ws_connect(url, headers=bearer(key or self.key)) as ws:
            await eventually(lambda: len(self.board.viewers) == before + 1)
            yield ws

    @contextlib.asynccontextmanager
    async def answering(self, key: str) -> AsyncIterator[int]:
        """An answer that goes on until the test is done with it; its id."""
        body = talk() | {"model": "scripted/tokens=400,rate=20"}
        asking = asyncio.create_task(complete(self.site, key, body))
        try:
            core = self.site.core
            known = {turn.id for turn, _, _ in core.bridge.turns()}
            found: list[int] = []

            def begun() -> bool:
                found[:] = [
                    turn.id
                    for turn, _, model in core.bridge.turns()
                    if turn.id not in known and model and turn.size()
                ]
                return bool(found)

            await eventually(begun)
            yield found[0]
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


@pytest.fixture
async def desk(site: Site) -> Desk:
    other = await site.core.store.change([], lambda tx: create_tenant(tx, "acme", "Acme"))
    return Desk(site, await new_key(site, "dashboard", "operator"), other.id)


async def metrics(site: Site) -> dict[str, float]:
    page = (await site.ask("GET", "/metrics")).body.decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """Read up to the end; return the close code."""
    while True:
        message = await ws.receive(timeout=WAIT_S)
        if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
            return ws.close_code


async def test_figures_are_those_of_the_metrics_page(desk: Desk) -> None:
    site = desk.site
    key = await new_key(site)
    await site.register()
    assert (await complete(site, key, talk() | {"model": "scripted/tokens=3"})).status == 200
    assert (await complete(site, key, talk() | {"model": "scripted/status=400"})).status >= 400
    await site.ask("GET", "/nowhere")
    shown = await metrics(site)
    desk.look()
    found = await desk.get(REALTIME)
    told = found["statistics"]
    # The page of figures itself is one more request by the time of the look.
    requests = shown["parlance_http_seconds_count"] + shown["parlance_request_seconds_count"]
    assert told["total_requests"] == requests + 1
    assert told["total_messages"] == shown["parlance_messages_total"]
    assert told["total_errors"] == (
        shown.get("parlance_errors_total", 0) + shown["parlance_http_failed_total"]
    )
    assert told["total_answers"] == shown["parlance_ai_ended_total"] == 2
    assert told["total_answers_failed"] == shown["parlance_ai_turns_total"] - 1 == 1
    assert told["total_tokens"] == shown["parlance_ai_completion_tokens_total"] > 0
    assert found["point"]["connections"] == shown["parlance_connections"]
    assert shown["parlance_samples_total"] == desk.board.sampler.looks - 1
    assert found["memory_usage"]["history_bytes"] == shown["parlance_history_bytes"]
    assert found["memory_usage"]["rss_bytes"] > 1e6
    assert found["cpu_usage"] >= 0
    assert found["timestamp"].endswith("+00:00")


async def test_requests_that_wait_for_a_model_do_not_count_as_slow_ones(desk: Desk) -> None:
    key = await new_key(desk.site)
    ann = await desk.site.register()
    name = await persona(desk.site, ann["user"]["id"])
    conv = await conversation(desk.site, ann["user"]["id"], name)
    messages, token = f"/api/v1/conversations/{conv}/messages", bearer(ann["token"])
    before = (await metrics(desk.site))["parlance_http_seconds_count"]
    await complete(desk.site, key, talk() | {"model": "scripted/tokens=3"})
    await complete(desk.site, key, talk() | {"model": "scripted/tokens=3", "stream": True})
    for wait in ("?wait=answer", ""):
        body = {"text": "hi"}
        answer = await desk.site.ask("POST", messages + wait, json=body, headers=token)
        assert answer.status == 201, answer
    # The page of figures before, and the message whose answer nobody waits for.
    assert (await metrics(desk.site))["parlance_http_seconds_count"] == before + 2


async def test_the_first_frame_is_history_and_then_one_comes_with_each_look(desk: Desk) -> None:
    for _ in range(40):
        desk.look()
    async with desk.viewer() as ws:
        first = await ws.receive_json(timeout=WAIT_S)
        assert (first["type"], first["bucket"]) == ("history", "1s")
        assert len(first["points"]) == 30
        assert first["fields"] == list(Point._fields)
        assert len(first["points"][0]) == len(Point._fields)
        for _ in range(3):
            desk.look()
            frame = await ws.receive_json(timeout=WAIT_S)
            assert frame["type"] == "realtime"
            assert set(frame["point"]) == set(first["fields"])
    await eventually(lambda: not desk.board.viewers)


async def test_fifty_viewers_cost_one_look_and_one_frame_a_second(desk: Desk) -> None:
    async with contextlib.AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(desk.viewer()) for _ in range(50)]
        looks, encoded = desk.board.sampler.looks, desk.board.encoded
        for _ in range(4):
            desk.look()
        assert desk.board.sampler.looks == looks + 4
        assert desk.board.encoded == encoded + 4
        last = await desk.get(REALTIME)
        assert desk.board.encoded == encoded + 4, "who asks gets what was made already"
        for ws in viewers:
            assert (await ws.receive_json(timeout=WAIT_S))["type"] == "history"
            frames = [await ws.receive_json(timeout=WAIT_S) for _ in range(4)]
            assert frames[-1] == last
        assert last["statistics"]["viewers"] == 50


async def test_a_browser_sends_its_key_as_the_first_message(desk: Desk) -> None:
    async with desk.site.session.ws_connect(desk.site.url + WATCH) as ws:
        await ws.send_json({"key": desk.key})
        assert (await ws.receive_json(timeout=WAIT_S))["type"] == "history"
        desk.look()
        assert (await ws.receive_json(timeout=WAIT_S))["type"] == "realtime"


@pytest.mark.parametrize("first", ['{"key": "pk_wrong"}', "{}", "nonsense", '{"key": 3}'])
async def test_a_first_message_without_a_good_key_ends_the_connection(
    desk: Desk, first: str
) -> None:
    async with desk.site.session.ws_connect(desk.site.url + WATCH) as ws:
        await ws.send_str(first)
        assert await closed(ws) == WEBSOCKET_CLOSE_BASE + Code.BAD_CREDENTIALS
    assert not desk.board.viewers


async def test_who_sends_no_key_in_time_is_sent_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard_routes, "KEY_WITHIN_S", 0.01)
    async with desk.site.session.ws_connect(desk.site.url + WATCH) as ws:
        assert await closed(ws) == WEBSOCKET_CLOSE_BASE + Code.BAD_CREDENTIALS


async def test_a_key_in_the_address_opens_nothing(desk: Desk) -> None:
    for query in (f"?key={desk.key}", f"?token={desk.key}", f"?api_key={desk.key}"):
        assert (await desk.site.ask("GET", REALTIME + query)).status == 401


@pytest.mark.parametrize("path", [REALTIME, HISTORY, TURNS, TURNS + "/1/cancel"])
async def test_only_keys_with_the_scope_get_in(desk: Desk, path: str) -> None:
    method = "POST" if path.endswith("cancel") else "GET"
    person = (await desk.site.register())["token"]
    stranger = await new_key(desk.site, "chat", "metrics", "operator")
    assert (await desk.site.ask(method, path)).status == 401
    assert (await desk.site.ask(method, path, headers=bearer(person))).status == 401
    assert (await desk.site.ask(method, path, headers=bearer(stranger))).status == 403


async def test_the_upgrade_is_refused_without_the_scope_and_to_foreign_pages(desk: Desk) -> None:
    stranger = await new_key(desk.site, "metrics")
    for headers, status in (
        (bearer(stranger), 403),
        (bearer("pk_wrong"), 401),
        (bearer(desk.key) | {"Origin": "https://evil.example"}, 403),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with desk.site.session.ws_connect(desk.site.url + WATCH, headers=headers):
                pass
        assert refused.value.status == status
    assert (await desk.site.ask("GET", WATCH, headers=bearer(desk.key))).status == 426


async def test_a_viewer_whose_key_is_revoked_is_gone_soon(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard_routes, "KEY_AGAIN_S", 0.01)
    keys = desk.site.accounts.api_keys
    row, text = await keys.create(1, "short", ["dashboard"])
    async with desk.viewer(text) as ws:
        await ws.receive_json(timeout=WAIT_S)
        await keys.revoke(1, row.id)
        assert await closed(ws) == WEBSOCKET_CLOSE_BASE + Code.BAD_CREDENTIALS


async def test_a_viewer_too_many_is_told_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_VIEWERS == 100
    monkeypatch.setattr(dashboards, "MAX_VIEWERS", 1)
    async with desk.viewer():
        async with desk.site.session.ws_connect(
            desk.site.url + WATCH, headers=bearer(desk.key)
        ) as ws:
            assert await closed(ws) == WEBSOCKET_CLOSE_BASE + Code.OVERLOADED
        assert len(desk.board.viewers) == 1
        assert (await metrics(desk.site))["parlance_dashboard_refused_total"] == 1


async def test_a_viewer_that_talks_without_end_is_sent_away(desk: Desk) -> None:
    async with desk.viewer() as ws:
        for _ in range(dashboard_routes.MAX_MESSAGES):
            await ws.send_str("hello")
        assert await closed(ws) == WEBSOCKET_CLOSE_BASE + Code.RATE


class Clogged:
    """A transport whose peer takes nothing, or takes it again."""

    def __init__(self) -> None:
        self.waiting = 0
        self.written: list[bytes] = []
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class OpenSocket:
    closed = False


async def test_a_slow_viewer_misses_frames_holds_none_and_is_dropped_in_the_end(
    desk: Desk,
) -> None:
    transport = Clogged()
    viewer = Viewer(OpenSocket(), transport, 0)  # type: ignore[arg-type]
    async with desk.viewer() as quick:
        await quick.receive_json(timeout=WAIT_S)
        with desk.board.watched_by(viewer):
            desk.look()
            assert len(transport.written) == 2
            transport.waiting = 100
            for _ in range(5):
                desk.look()
            assert (len(transport.written), desk.board.skipped) == (2, 5)
            transport.waiting = 0
            desk.look()
            assert len(transport.written) == 3
            transport.waiting = 100
            for _ in range(dashboards.STALLED + 5):
                desk.look()
            assert transport.aborted
            assert desk.board.skipped == 5 + dashboards.STALLED
        for _ in range(7 + dashboards.STALLED + 5):
            assert (await quick.receive_json(timeout=WAIT_S))["type"] == "realtime"


async def test_a_viewer_that_reads_nothing_does_not_hold_up_the_others(desk: Desk) -> None:
    request = build_request(f"127.0.0.1:{desk.site.port}", WATCH, make_key())
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", desk.site.port))
    key = f"X-API-Key: {desk.key}\r\n\r\n".encode()
    await loop.sock_sendall(sock, request.removesuffix(b"\r\n") + key)
    await eventually(lambda: len(desk.board.viewers) == 1)
    async with desk.viewer() as quick:
        await quick.receive_json(timeout=WAIT_S)
        looks = 0
        while not desk.board.skipped:
            desk.look()
            looks += 1
            assert looks < 2000
            assert (await quick.receive_json(timeout=WAIT_S))["type"] == "realtime"
    sock.close()
    await eventually(lambda: not desk.board.viewers)


async def test_history_has_three_steps_and_is_made_once_for_each_point(desk: Desk) -> None:
    desk.look()
    desk.look()
    found = await desk.get(HISTORY)
    assert (found["type"], found["bucket"], len(found["points"])) == ("history", "1s", 2)
    assert desk.board.history("1s") is desk.board.history("1s")
    before = desk.board.history("1s")
    desk.look()
    assert desk.board.history("1s") != before
    for bucket in ("1m", "1h"):
        assert (await desk.get(f"{HISTORY}?bucket={bucket}"))["points"] == []
    answer = await desk.site.ask("GET", f"{HISTORY}?bucket=2s", headers=bearer(desk.key))
    assert (answer.status, answer.error["message"]) == (400, "`bucket` is one of 1s, 1m, 1h.")


async def test_an_answer_is_listed_while_it_runs_cancelled_and_then_among_the_last(
    desk: Desk,
) -> None:
    key = await new_key(desk.site)
    async with desk.answering(key) as sid:
        (running,) = (await desk.get(TURNS))["running"]
        assert (running["sid"], running["state"], running["tenant"]) == (sid, "running", 1)
        assert (running["provider"], running["model"]) == ("scripted", "tokens=400,rate=20")
        assert 0 <= running["age_ms"] < 60_000
        assert running["attempt"] == 1
        answer = await desk.cancel(sid, desk.key)
        assert (answer.status, answer.json) == (200, {"sid": sid, "cancelled": True})
        await eventually(lambda: not desk.site.core.bridge.running)
    page = await desk.get(TURNS)
    assert page["running"] == []
    (last,) = page["recent"]
    assert (last["sid"], last["status"], last["model"]) == (
        sid,
        "cancelled",
        "tokens=400,rate=20",
    )
    desk.look()
    assert (await desk.get(REALTIME))["recent_requests"] == [last]
    assert (await desk.cancel(sid, desk.key)).status == 404


async def test_a_tenants_key_sees_and_cancels_only_what_is_the_tenants(desk: Desk) -> None:
    ours = await new_key(desk.site, "dashboard")
    theirs = await new_key(desk.site, "dashboard", tenant=desk.other)
    their_chat = await new_key(desk.site, tenant=desk.other)
    async with desk.answering(their_chat) as sid:
        assert [one["sid"] for one in (await desk.get(TURNS, theirs))["running"]] == [sid]
        assert [one["sid"] for one in (await desk.get(TURNS))["running"]] == [sid]
        assert (await desk.get(TURNS, ours))["running"] == []
        seen_by = {key: (await desk.get(TURNS, key))["operator"] for key in (desk.key, theirs)}
        assert seen_by == {desk.key: True, theirs: False}
        assert (await desk.cancel(sid, ours)).status == 404
        assert desk.site.core.bridge.running == 1
        assert (await desk.cancel(sid, theirs)).status == 200
        await eventually(lambda: not desk.site.core.bridge.running)
    desk.look()
    assert (await desk.get(REALTIME, ours))["recent_requests"] == []
    for key in (theirs, desk.key):
        assert [one["sid"] for one in (await desk.get(REALTIME, key))["recent_requests"]] == [sid]


async def test_running_answers_come_in_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_routes, "PAGE", 2)
    key = await new_key(desk.site)
    async with contextlib.AsyncExitStack() as stack:
        sids = sorted([await stack.enter_async_context(desk.answering(key)) for _ in range(3)])
        page = await desk.get(TURNS)
        assert [one["sid"] for one in page["running"]] == sids[:2]
        rest = await desk.get(f"{TURNS}?after={page['cursor']}")
        assert [one["sid"] for one in rest["running"]] == sids[2:]
        assert rest["cursor"] == 0


@pytest.mark.parametrize("sid", [0, 99, 2**53])
async def test_what_does_not_run_cannot_be_cancelled(desk: Desk, sid: int) -> None:
    assert (await desk.cancel(sid, desk.key)).status == 404


async def test_alerts_and_their_states_are_in_the_frame(desk: Desk) -> None:
    desk.look()
    (alert,) = (await desk.get(REALTIME))["alerts"]
    assert (alert["name"], alert["state"]) == ("crowd", "ok")
    desk.site.core.stats.connections["tcp"] += 2000
    desk.look()
    desk.site.core.stats.connections["tcp"] -= 2000
    (alert,) = (await desk.get(REALTIME))["alerts"]
    assert (alert["state"], alert["figure"], alert["above"]) == ("firing", "connections", 1000)
    assert alert["value"] > 2000
    assert (await metrics(desk.site))["parlance_alerts_firing"] == 1


async def test_it_looks_once_a_second_by_itself_and_viewers_are_told_when_it_stops(
    site: Site,
) -> None:
    key = await new_key(site, "dashboard")
    async with site.session.ws_connect(site.url + WATCH, headers=bearer(key)) as ws:
        assert (await ws.receive_json(timeout=WAIT_S))["type"] == "history"
        assert (await ws.receive_json(timeout=WAIT_S))["type"] == "realtime"
        stopping = asyncio.create_task(site.app.stop())
        assert await closed(ws) == aiohttp.WSCloseCode.GOING_AWAY
        await stopping
