"""Rooms of several people and personas: the right one speaks, one at a time, and it ends."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ai_bridge.group import TurnTaker
from protocol.codes import Code, ConvKind, EndReason, Scope, TalkMode
from protocol.envelopes import Cancel, ConvChange, History, StreamEnd, StreamStart, WatchRequest
from protocol.rows import ConvSet, SendX
from server.rooms import MAX_WAITING
from storage.errors import StorageError
from storage.persona_cards import save_card
from tests.server.harness import Peer, Server, serving, watching
from tests.server.model import Call, Model
from tests.support.eventually import eventually


class Dice(random.Random):
    """Falls as written down, and then never in anybody's favour. Shuffling changes nothing."""

    def __init__(self, *falls: float) -> None:
        super().__init__(0)
        self.falls = list(falls)

    def random(self) -> float:
        return self.falls.pop(0) if self.falls else 1.0

    def shuffle(self, x: Any) -> None:
        pass


class Room:
    """Two people and three personas."""

    def __init__(self, server: Server, model: Model) -> None:
        self.server = server
        self.model = model
        self.dice = Dice()
        server.core.rooms.taker = TurnTaker(self.dice)
        server.core.rooms.debounce_s = 0.0
        self.names: dict[int, str] = {}
        self.conv = 0

    async def open(self, talk: TalkMode) -> None:
        ann, bob = await self.server.people("ann bob")
        for name in ("Ada", "Bo", "小美"):
            self.names[await self.server.persona(ann, name)] = name
        self.ann = await self.server.connect(ann)
        self.bob = await self.server.connect(bob)
        given = ConvSet(personas=list(self.names), talk=int(talk))
        self.conv = (await self.ann.create(ConvKind.GROUP, bob, given=given)).row.id or 0
        self.names |= {ann.id: "ann", bob.id: "bob"}
        for peer in (self.ann, self.bob):
            await peer.ask(WatchRequest, watching(self.conv))

    async def answer(self, number: int, text: str) -> str:
        """Let the model say something; return who says it."""
        call: Call = await self.model.call(number)
        assert len(self.model.calls) == number + 1, "two personas at once"
        start = await self.ann.expect(StreamStart)
        call.finish(text)
        await self.quiet_or_next(number)
        return self.names[start.persona]

    async def quiet_or_next(self, number: int) -> None:
        room = self.server.core.rooms._rooms[self.conv]
        await eventually(lambda: len(self.model.calls) > number + 1 or room.idle)

    async def spoken(self) -> list[tuple[str, str]]:
        """Return the talk as it is stored."""
        page = await self.ann.ask(History, self.conv, 0, True, 100)
        return [(self.names[row.sender], row.text) for row in page.msgs if row.sender]


async def say(peer: Peer, conv: int, text: str, x: SendX | None = None) -> int | None:
    return (await peer.send_text(conv, text, x)).sid


async def test_fifty_messages_of_two_people_and_three_personas(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.LIVELY)
        # Per round: who writes what, how the dice fall, and who answers with what, in order.
        script: list[tuple[Peer, str, list[float], list[tuple[str, str]]]] = [
            (room.ann, "@Ada good morning", [], [("Ada", "Good morning, ann.")]),
            (room.bob, "小美你好", [], [("小美", "bob，早上好。")]),
            (room.ann, "@Bo and @Ada, what now?", [], [("Bo", "Rest."), ("Ada", "Work.")]),
            (room.bob, "nobody in particular", [0.1, 0.9], [("Bo", "Then I will.")]),
            (room.ann, "quiet now", [0.9, 0.9], []),
            (
                room.bob,
                "Ada, tell Bo",
                [0.0, 0.9],
                [("Ada", "Bo, listen!"), ("Bo", "Ada, I hear."), ("Ada", "Bo, good.")],
            ),
        ]
        expected: list[tuple[str, str]] = []
        calls = 0
        for turn in range(24):
            peer, text, falls, answers = script[turn % len(script)]
            room.dice.falls = list(falls)
            expected.append(("ann" if peer is room.ann else "bob", text))
            await say(peer, room.conv, text)
            for speaker, said in answers:
                assert await room.answer(calls, said) == speaker
                expected.append((speaker, said))
                calls += 1
            await eventually(lambda: server.core.rooms._rooms[room.conv].idle)
        assert len(expected) >= 50
        assert len(model.calls) == calls
        assert await room.spoken() == expected


async def test_each_persona_reads_what_the_one_before_it_said(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.CALLED)
        await say(room.ann, room.conv, "@Ada @Bo a word each")
        assert await room.answer(0, "Sea.") == "Ada"
        assert await room.answer(1, "Land.") == "Bo"
        assert model.calls[1].texts[-2:] == ["ann: @Ada @Bo a word each", "Ada: Sea."]
        assert [message["role"] for message in model.calls[1].body["messages"]][-1] == "user"


async def test_a_persona_speaks_without_its_name_and_not_for_others(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.CALLED)
        await say(room.ann, room.conv, "@Ada who are you?")
        assert await room.answer(0, "**Ada:** I am Ada.") == "Ada"
        assert (await room.spoken())[-1] == ("Ada", "I am Ada.")
        stops = model.calls[0].body["stop"]
        assert {"\nBo:", "\n小美:", "\nann:"} <= set(stops)
        assert "\nAda:" not in stops


async def test_a_person_who_writes_goes_before_those_who_were_not_called(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.LIVELY)
        room.dice.falls = [0.0, 0.0, 0.0]
        await say(room.ann, room.conv, "all of you may speak")
        await model.call(0)
        await say(room.bob, room.conv, "@小美 stop, you alone")
        assert await room.answer(0, "I begin.") == "Ada"
        assert await room.answer(1, "好的。") == "小美"
        assert len(model.calls) == 2, "Bo and the others were dropped"


async def test_answers_that_nobody_called_are_paid_by_who_spoke_last(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.ALWAYS)
        room.dice.falls = [1.0, 1.0, 1.0]
        await say(room.bob, room.conv, "well")
        await model.call(0)
        (running,) = server.core.turns._running.values()
        assert room.names[running.new.user] == "bob"
        await room.answer(0, "Yes?")


async def test_a_persona_is_as_talkative_as_its_card_says(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.LIVELY)
        for persona, share in zip(room.names, (0.0, 0.9), strict=False):
            card = json.dumps({"data": {"name": "x", "extensions": {"talkativeness": share}}})
            await server.store.change((), partial(save_card, persona=persona, card=card))
        room.dice.falls = [0.4, 0.8, 0.6]  # Ada rolls first, 小美 has no card
        await say(room.bob, room.conv, "well")
        assert await room.answer(0, "Well what?") == "Bo"
        room.dice.falls = [0.01, 0.4]  # Bo, who spoke last, does not roll
        await say(room.bob, room.conv, "who else?")
        assert await room.answer(1, "我。") == "小美"


async def test_cards_that_cannot_be_read_keep_nobody_from_speaking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(personas: object) -> None:
        raise StorageError("gone")

    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.LIVELY)
        monkeypatch.setattr(server.core.cards, "ask_talk", fail)
        room.dice.falls = [0.9, 0.4, 0.9]
        await say(room.bob, room.conv, "well")
        assert await room.answer(0, "Yes?") == "Bo"


async def test_a_called_answer_that_waits_can_be_cancelled_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.CALLED)
        await say(room.ann, room.conv, "@Ada one")
        await model.call(0)
        second = await say(room.ann, room.conv, "@Bo two")
        await say(room.bob, room.conv, "@小美 three")
        await room.ann.ask(Cancel, second or 0)
        ended = await room.ann.expect(StreamEnd, lambda f: f.sid == second)
        assert ended.reason == EndReason.CANCELLED
        model.calls[0].finish("1")
        (await model.call(1)).finish("3")
        await room.quiet_or_next(1)
        assert [name for name, _ in await room.spoken()] == ["ann", "ann", "bob", "Ada", "小美"]


async def test_too_many_waiting_answers_end_as_busy(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        room = Room(server, model)
        await room.open(TalkMode.CALLED)
        sids = [await say(room.ann, room.conv, "@Ada again") for _ in range(MAX_WAITING + 2)]
        ended = await room.ann.expect(StreamEnd)
        assert (ended.sid, ended.code) == (sids[-1], Code.BUSY)
        assert server.core.rooms.refused == 1
        for number in range(MAX_WAITING + 1):
            (await model.call(number)).finish(f"{number}")
        await room.quiet_or_next(MAX_WAITING)


async def test_a_failed_answer_leaves_the_floor_to_the_next(tmp_path: Path) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config(total_s=1.0)) as server:
        room = Room(server, model)
        await room.open(TalkMode.CALLED)
        await say(room.ann, room.conv, "@Ada @Bo hello")
        call = await model.call(0)
        server.core.bridge.cancel(next(iter(server.core.turns._running)))
        await call.closed.wait()
        assert (await model.call(1)) is not None
        model.calls[1].finish("here")
        await room.quiet_or_next(1)
        assert (await room.spoken())[-1] == ("Bo", "here")


async def test_only_personas_one_may_use_can_be_brought_into_a_group(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        hers = await server.persona(ann, "Hers", scope=Scope.PRIVATE)
        peer = await server.connect(bob)
        conv = (await peer.create(ConvKind.GROUP, ann)).row.id or 0
        assert await peer.refused(ConvChange, conv, ConvSet(personas=[hers])) == Code.NOT_FOUND
        assert await peer.refused(ConvChange, conv, ConvSet(talk=9)) == Code.INVALID
        alone = (await peer.create(ConvKind.AI, persona=await server.persona(bob))).row.id or 0
        assert await peer.refused(ConvChange, alone, ConvSet(talk=1)) == Code.INVALID


async def test_a_room_remembers_its_personas_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        ids = [await server.persona(ann, name) for name in ("Ada", "Bo")]
        peer = await server.connect(ann)
        given = ConvSet(personas=ids, talk=2)
        info = await peer.create(ConvKind.GROUP, given=given)
        assert (info.row.personas, info.row.talk) == (ids, 2)
        conv = info.row.id or 0
        server.core.directory.forget(conv)
        entry = await server.core.directory.fetch(conv)
        assert entry is not None
        assert (entry.row.personas, entry.row.talk) == (ids, 2)
        await peer.ask(ConvChange, conv, ConvSet(personas=[], talk=0))
        entry = server.core.directory.peek(conv)
        assert entry is not None
        assert (entry.row.personas, entry.row.talk) == (None, None)
        assert list(entry.members) == [ann.id], "personas are not members"
