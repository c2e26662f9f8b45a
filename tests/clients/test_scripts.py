"""The client scripts of the protocol vectors, played by the real client over its real codec."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from typing import Any

import pytest

import clients.reconnecting
from clients.client import Client
from protocol.codec import JSON, MSGPACK
from protocol.envelopes import Frame
from protocol.frames import HEADER_BYTES
from protocol.vectors.lines import Line, read_lines
from tests.clients.test_timing import Always

SCRIPTS = read_lines("scripts")
FREE = {"ping", "mark", "watch", "typing"}
TURNS = 30
"""Turns of the loop in which everything runs that waits for nothing but its turn."""

WELCOME = {
    "t": "welcome",
    "ver": 0,
    "session": 1,
    "tenant": 1,
    "ticket": "",
    "ticket_ms": 0,
    "hb": 30,
    "now": 0,
    "caps": 28,
    "limits": {},
    "dict": 0,
    "spec": 0,
}


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until a test moves it."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Wire:
    """A connection to a server that only keeps what it is sent; all crosses the codec."""

    def __init__(self) -> None:
        self.sent: deque[dict[str, Any]] = deque()
        self.receiver: Any = None

    async def open(self, address: object, receiver: object, **_: object) -> Wire:
        self.receiver = receiver
        return self

    def send(self, frame: Frame) -> None:
        message = MSGPACK.decode_client(MSGPACK.encode(frame)[HEADER_BYTES:])
        told = json.loads(JSON.encode(message))
        if told["t"] not in FREE:
            self.sent.append(told)

    def arrive(self, told: dict[str, Any]) -> None:
        message = JSON.decode_server(json.dumps(told).encode())
        frames = [MSGPACK.decode_server(MSGPACK.encode(message)[HEADER_BYTES:])]
        self.receiver.frames_received(frames)

    def abort(self, reason: str) -> None:
        self.receiver.connection_lost(reason)

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


class Player:
    """One client, and the rest of the world as a script tells it."""

    def __init__(self, script: Line, wire: Wire, loop: StillLoop) -> None:
        self.script = script
        self.wire = wire
        self.loop = loop
        self.rids: dict[int, int] = {}
        self.asked: list[asyncio.Task[Any]] = []
        self.client = Client("ws://127.0.0.1", self.token, rng=Always(0.0))

    async def token(self, renew: bool) -> str:
        return "token"

    async def play(self) -> None:
        async with self.client:
            await self.settle()
            assert self.wire.sent.popleft()["t"] == "hello"
            self.welcome(0)
            for at, step in enumerate(self.script["steps"]):
                await self.step(at, step)
                await self.settle()
            assert not self.wire.sent, "nothing was sent that the script does not expect"
            self.compare(**self.script["end"])
        await asyncio.gather(*self.asked, return_exceptions=True)

    async def step(self, at: int, step: dict[str, Any]) -> None:
        match step:
            case {"in": frame}:
                rid = frame.get("rid")
                self.wire.arrive({**frame, "rid": self.rids[rid]} if rid else frame)
            case {"out": frame}:
                self.expect(at, frame)
            case {"wait_ms": ms}:
                self.loop.now += ms / 1000
            case {"say": {"conv": conv, "cid": cid, "text": text}}:
                self.client.post(conv, text, cid=base64.b64decode(cid))
            case {"page": {"conv": conv, "anchor": anchor}}:
                self.asked.append(asyncio.create_task(self.client.history(conv, anchor)))
            case {"cut": True}:
                self.wire.receiver.connection_lost("cut")
            case _:
                raise AssertionError(f"no such step: {step}")

    def expect(self, at: int, frame: dict[str, Any]) -> None:
        assert self.wire.sent, f"nothing was sent, expected {frame['t']}"
        sent = self.wire.sent.popleft()
        holds(sent, {name: value for name, value in frame.items() if name != "rid"})
        if "rid" in frame:
            self.rids[frame["rid"]] = sent["rid"]
        if frame["t"] == "hello":
            self.welcome(at + 1)

    def welcome(self, at: int) -> None:
        synced = (step["in"] for step in self.script["steps"][at:] if "in" in step)
        epoch = next(frame["epoch"] for frame in synced if frame["t"] == "synced")
        self.wire.arrive({**WELCOME, "user": self.script["me"], "epoch": epoch})

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def compare(
        self,
        feeds: dict[str, int],
        rows: dict[str, list[dict[str, Any]]] | None = None,
        streams: dict[str, dict[str, str]] | None = None,
        outbox: list[str] | None = None,
    ) -> None:
        client = self.client
        assert {feed: client.feeds.known(int(feed)) for feed in feeds} == feeds
        for conv, wanted in (rows or {}).items():
            view = client.feeds.convs[int(conv)]
            held = [view.messages[seq] for seq in view.seqs]
            assert len(held) == len(wanted)
            for msg, named in zip(held, wanted, strict=True):
                assert {name: getattr(msg, name) for name in named} == named
        if streams is not None:
            running = client.streams.running
            assert {str(sid) for sid in running} == set(streams)
            for sid, parts in streams.items():
                told = {part: running[int(sid)].text(int(part)) for part in parts}
                assert told == parts
        if outbox is not None:
            cids = [base64.b64encode(entry.unsent.cid).decode() for entry in client.unsent]
            assert cids == outbox


def holds(actual: Any, wanted: Any) -> None:
    """Check that everything named in `wanted` stands in `actual`, at any depth."""
    if isinstance(wanted, list):
        assert len(actual) == len(wanted)
        for one, other in zip(actual, wanted, strict=True):
            holds(one, other)
    elif isinstance(wanted, dict):
        for key, value in wanted.items():
            assert key in actual, f"{key} is missing"
            holds(actual[key], value)
    else:
        assert actual == wanted


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 20


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script["name"])
def test_script(script: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    monkeypatch.setattr(clients.reconnecting, "open_connection", wire.open)
    loop = StillLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(Player(script, wire, loop).play())
