"""Erasing reaches the mem0 server: of people, conversations and messages, also when it was away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ai_bridge.engines.mem0 import Part
from bench.provider.mem0 import FakeMem0
from protocol.codes import ConvKind, GenMode, MsgKind, TalkMode
from protocol.envelopes import ConvDrop, Edit, Gen, GenOk, MsgPush, PersonaDrop, Recall
from protocol.rows import ConvSet, Msg
from server import mem0_erasures
from server.commands.erasing import do_here
from server.config_sections import AiConfig
from server.directory import Conversation
from server.mem0_erasures import AGAIN_MS, FIRST_RETRY_MS, LAST_RETRY_MS, Mem0Erasures
from server.memory_book import MemoryBook
from server.turn_requests import Wish, _own_seq
from storage import erasure
from storage.erasure import Kind
from storage.errors import StoreUnavailable
from storage.mem0_erasures import Mem0Erasure, due_mem0_erasures
from storage.memories import MEMORY_INSERT, set_off
from storage.ops import Op
from storage.rows import NewTurn
from storage.writes import Tx
from tests.server.harness import Peer, Person, Server, cid, serving
from tests.server.test_erasure import finished
from tests.support.eventually import WAIT_S, eventually

NEVER_MS = 2**52


def settings(mem0: FakeMem0) -> AiConfig:
    return AiConfig(detect=False, demo_words_per_s=0, engine="mem0_proxy", mem0_url=mem0.base_url)


class Town:
    """A server that learns at a mem0 server; its time is what the test says."""

    def __init__(self, server: Server, mem0: FakeMem0) -> None:
        self.server = server
        self.mem0 = mem0
        self.now_ms = server.core.now_ms()
        self.erasures = server.core.erasures.mem0
        self.erasures._now_ms = lambda: self.now_ms
        self.texts: dict[str, str] = {}

    async def talk(self, person: Person, peer: Peer, persona: int) -> int:
        made = await peer.create(ConvKind.AI, persona=persona)
        return made.row.id or 0

    async def tell(self, peer: Peer, conv: int, text: str) -> int:
        """Say something and wait until it is learnt; return its number."""
        seq = (await peer.send_text(conv, text)).seq
        await self.mem0.until(lambda: text in self.known())
        await self.server.idle()
        return seq

    def known(self) -> list[str]:
        return sorted(text for texts in self.mem0.memories.values() for text in texts)

    async def due(self) -> list[Mem0Erasure]:
        return await self.server.store.read(due_mem0_erasures(NEVER_MS, 1_000))

    async def work(self, wait_ms: int = 0) -> None:
        """Let time pass and what is due be done."""
        self.now_ms = max(self.now_ms, self.server.core.now_ms()) + wait_ms + 5
        await self.server.idle()
        self.server.advance(mem0_erasures.LOOK_EVERY_S)
        task = self.erasures._task
        assert task is not None
        await task


@contextlib.asynccontextmanager
async def town(folder: Path, mem0: FakeMem0) -> AsyncIterator[Town]:
    async with serving(folder, ai=settings(mem0)) as server:
        yield Town(server, mem0)


@pytest.fixture
async def place(tmp_path: Path, mem0: FakeMem0) -> AsyncIterator[Town]:
    async with town(tmp_path, mem0) as made:
        yield made


async def test_nothing_that_an_erased_user_said_is_left(place: Town) -> None:
    server = place.server
    ann, bob = await server.people("ann bob")
    pa, pb = await server.everybody([ann, bob])
    first, second = await server.persona(ann, "小雅"), await server.persona(bob, "Bo")
    for persona in (first, second):
        await place.tell(pa, await place.talk(ann, pa, persona), f"我养了一只猫 {persona}")
    await place.tell(pb, await place.talk(bob, pb, first), "Bob likes tea")
    await pa.ask(PersonaDrop, first)  # what it learnt does not go with it
    await server.core.erasures.erase_user(ann.id)
    await finished(server, Kind.USER, ann.id)
    await place.work()
    assert place.mem0.memories == {f"t1-u{bob.id}-p{first}": ["Bob likes tea"]}
    assert place.erasures.done == 0
    await place.work(AGAIN_MS)
    assert await place.due() == []
    figures = {figure.name: figure.value for figure in server.core.erasures.figures()}
    assert figures["mem0_erasures_waiting"] == 0
    assert figures["mem0_erasures"]["done"] > 0  # type: ignore[index]


async def test_what_the_server_learns_behind_its_answer_is_erased_by_the_second_look(
    place: Town,
) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    persona = await place.server.persona(ann)
    conv = await place.talk(ann, peer, persona)
    seq = await place.tell(peer, conv, "taken back")
    await peer.ask(Recall, conv, seq)
    (kept,) = place.mem0.kept[f"t1-u{ann.id}-p{persona}"]
    await place.work()
    assert place.known() == []
    place.mem0.put(f"t1-u{ann.id}-p{persona}", "likes cats", kept.metadata)
    await place.work(AGAIN_MS - 10_000)
    assert place.known() == ["likes cats"]
    await place.work(10_000)
    assert place.known() == []
    assert await place.due() == []


async def test_a_recalled_and_an_edited_message_are_forgotten_and_the_others_stay(
    place: Town,
) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    conv = await place.talk(ann, peer, await place.server.persona(ann))
    wrong, typo = [await place.tell(peer, conv, text) for text in ("我住在上海", "I like te")]
    await place.tell(peer, conv, "and milk")
    await peer.ask(Recall, conv, wrong)
    await peer.ask(Edit, conv, typo, "I like tea", 0)
    await place.work()
    assert place.known() == ["and milk"]
    # What is learnt from the new text later is not what was taken back.
    answer = typo + 1
    ok = await peer.ask(Gen, conv, cid(), int(GenMode.REGENERATE), answer)
    assert isinstance(ok, GenOk), ok
    await place.mem0.until(lambda: "I like tea" in place.known())
    await place.work(AGAIN_MS)
    assert place.known() == ["I like tea", "and milk"]
    assert await place.due() == []


@pytest.mark.parametrize("way", ["erase", "drop"])
async def test_what_was_said_in_a_conversation_goes_with_it(place: Town, way: str) -> None:
    server = place.server
    ann = await server.person("ann")
    peer = await server.connect(ann)
    persona = await server.persona(ann)
    conv, other = [await place.talk(ann, peer, persona) for _ in range(2)]
    await place.tell(peer, conv, "here")
    await place.tell(peer, other, "elsewhere")
    if way == "erase":
        await server.core.erasures.erase_conversation(conv)
        await finished(server, Kind.CONVERSATION, conv)
    else:
        await peer.ask(ConvDrop, conv)
    await place.work()
    assert place.known() == ["elsewhere"]
    await place.work(AGAIN_MS)
    assert await place.due() == []


async def test_every_member_of_a_room_is_forgotten_with_it(place: Town) -> None:
    server = place.server
    server.core.rooms.debounce_s = 0.0
    ann, bob = await server.people("ann bob")
    pa, pb = await server.everybody([ann, bob])
    ada, bo = await server.persona(ann, "Ada"), await server.persona(ann, "小美")
    given = ConvSet(personas=[ada, bo], talk=int(TalkMode.CALLED))
    conv = (await pa.create(ConvKind.GROUP, bob, given=given)).row.id or 0
    await pb.settled()
    await place.tell(pa, conv, "@Ada Ann was here")
    private = await place.talk(bob, pb, bo)
    await place.tell(pb, private, "Bob's secret")
    await place.tell(pb, conv, "@小美 Bob as well")
    assert place.mem0.asked("/search")[-1]["filters"]["conversation"] == conv
    assert place.mem0.memories == {
        f"t1-u{ann.id}-p{ada}": ["@Ada Ann was here"],
        f"t1-u{bob.id}-p{bo}": ["Bob's secret", "@小美 Bob as well"],
    }
    await server.core.erasures.erase_conversation(conv)
    await finished(server, Kind.CONVERSATION, conv)
    await place.work()
    assert place.known() == ["Bob's secret"]


@pytest.mark.parametrize("way", ["one persona", "everything"])
async def test_what_a_person_wants_forgotten_goes_and_what_is_said_later_stays(
    place: Town, way: str
) -> None:
    server = place.server
    ann, bob = await server.people("ann bob")
    pa, pb = await server.everybody([ann, bob])
    ada, bo = await server.persona(ann, "小雅"), await server.persona(ann, "Bo")
    with_ada, with_bo = await place.talk(ann, pa, ada), await place.talk(ann, pa, bo)
    for conv in (with_ada, await place.talk(ann, pa, ada), with_bo):
        await place.tell(pa, conv, f"我养了一只猫 {conv}")
    await place.tell(pb, await place.talk(bob, pb, ada), "Bob likes tea")
    await MemoryBook(server.store).erase_all(ann.id, ada if way == "one persona" else 0)
    await asyncio.sleep(0.002)  # ids tell milliseconds apart
    await place.tell(pa, with_ada, "and a dog")
    kept = ["Bob likes tea", "and a dog"]
    if way == "one persona":
        kept.append(f"我养了一只猫 {with_bo}")
    for wait_ms in (0, AGAIN_MS):
        await place.work(wait_ms)
        assert place.known() == sorted(kept)
    assert await place.due() == []


async def test_everything_is_forgotten_where_mem0_was_away_and_the_server_began_anew(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with town(tmp_path, mem0) as place:
        ann = await place.server.person("ann")
        peer = await place.server.connect(ann)
        conv = await place.talk(ann, peer, await place.server.persona(ann))
        await place.tell(peer, conv, "before")
        mem0.fault = "error"
        await MemoryBook(place.server.store).erase_all(ann.id)
        await place.work()
        assert place.erasures.failed == 1
    mem0.fault = ""
    async with town(tmp_path, mem0) as place:
        peer = await place.server.connect(ann)
        await place.tell(peer, conv, "after")
        await place.work(FIRST_RETRY_MS)
        assert place.known() == ["after"]


async def test_the_message_that_an_erased_memory_came_from_is_forgotten_by_its_persona(
    place: Town,
) -> None:
    server = place.server
    ann = await server.person("ann")
    peer = await server.connect(ann)
    persona = await server.persona(ann)
    conv = await place.talk(ann, peer, persona)
    wrong, _ = [await place.tell(peer, conv, text) for text in ("我住在上海", "and milk")]

    def keep(tx: Tx) -> Op[None]:
        row = (9, ann.tenant, ann.id, persona, "other", "lives in Shanghai", conv, wrong, "")
        rest = (0, 1, 1, 0, 0, 0, b"", "")
        yield tx.dialect.insert("ai_memory", MEMORY_INSERT, [(*row, *rest)])

    await server.store.change([ann.id], keep)
    await MemoryBook(server.store).erase(ann.id, 9)
    for wait_ms in (0, AGAIN_MS):
        await place.work(wait_ms)
        assert place.known() == ["and milk"]
    assert await place.due() == []


TEXT, REPLY, SYSTEM = MsgKind.TEXT, MsgKind.AI_REPLY, MsgKind.SYSTEM


@pytest.mark.parametrize(
    ("rows", "mode", "learnt"),
    [
        ([(1, TEXT, "mine")], GenMode.REPLY, 1),
        ([(1, TEXT, "mine"), (0, SYSTEM, "joined"), (1, TEXT, "")], GenMode.REPLY, 1),
        ([(1, TEXT, "mine"), (2, TEXT, "theirs")], GenMode.REPLY, 0),
        ([(1, TEXT, "mine"), (7, REPLY, "answer")], GenMode.REPLY, 0),
        ([(1, TEXT, "mine")], GenMode.CONTINUE, 0),
        ([], GenMode.REPLY, 0),
    ],
)
def test_only_what_the_asker_wrote_is_learnt_from(
    rows: list[tuple[int, MsgKind, str]], mode: GenMode, learnt: int
) -> None:
    shown = [
        Msg(seq, seq, 0, sender, int(kind), text)
        for seq, (sender, kind, text) in enumerate(rows, 1)
    ]
    wish = Wish(Conversation.__new__(Conversation), NewTurn(9, 1, 1, 7, mode=mode), 1, None)
    assert _own_seq(wish, shown) == learnt


async def test_whoever_wants_nothing_remembered_is_not_learnt_from(place: Town) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    persona = await place.server.persona(ann)
    conv = await place.talk(ann, peer, persona)
    await place.server.store.change((ann.id,), partial(set_off, user=ann.id, off=True))
    await peer.send_text(conv, "do not keep this")
    await peer.expect(MsgPush, lambda push: push.sender == persona)
    assert not place.mem0.calls
    await place.server.store.change((ann.id,), partial(set_off, user=ann.id, off=False))
    await place.tell(peer, conv, "this you may")
    assert place.known() == ["this you may"]


async def test_a_mem0_server_that_is_away_is_asked_again_later(place: Town) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    conv = await place.talk(ann, peer, await place.server.persona(ann))
    seq = await place.tell(peer, conv, "taken back")
    place.mem0.fault = "error"
    await peer.ask(Recall, conv, seq)
    await place.work()
    assert place.erasures.failed == 1
    await place.work()  # too early
    figures = {figure.name: figure.value for figure in place.erasures.figures()}
    assert figures == {"mem0_erasures": {"done": 0, "failed": 1}, "mem0_erasures_waiting": 1}
    place.mem0.fault = ""
    await place.work(FIRST_RETRY_MS - 1_000)
    assert place.known() == ["taken back"]
    await place.work(1_000)
    assert place.known() == []


async def test_one_that_cannot_be_done_does_not_hold_up_the_others(
    place: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    conv = await place.talk(ann, peer, await place.server.persona(ann))
    seqs = [await place.tell(peer, conv, text) for text in ("first", "second")]
    memory = place.server.core.bridge.mem0
    assert memory is not None
    erase = memory.erase

    async def crash(user_id: str, part: Part) -> None:
        if part.seq == seqs[0]:
            raise RuntimeError("a mistake")
        await erase(user_id, part)

    monkeypatch.setattr(memory, "erase", crash)
    for seq in seqs:
        await peer.ask(Recall, conv, seq)
    for _ in seqs:
        await place.work()
    assert place.known() == ["first"]
    assert place.erasures.failed == 1


async def test_the_wait_between_attempts_grows_to_an_hour(place: Town) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    conv = await place.talk(ann, peer, await place.server.persona(ann))
    await peer.ask(Recall, conv, await place.tell(peer, conv, "taken back"))
    place.mem0.fault = "error"
    waits = []
    for _ in range(12):
        await place.work(LAST_RETRY_MS)
        place.server.core.bridge.mem0._paused_until = 0.0  # type: ignore[union-attr]
        (one,) = await place.due()
        waits.append(one.due - place.now_ms)
    assert waits[:3] == [FIRST_RETRY_MS, 2 * FIRST_RETRY_MS, 4 * FIRST_RETRY_MS]
    assert waits[-1] == LAST_RETRY_MS


async def test_what_was_due_is_done_after_a_restart(tmp_path: Path, mem0: FakeMem0) -> None:
    async with town(tmp_path, mem0) as place:
        ann = await place.server.person("ann")
        peer = await place.server.connect(ann)
        conv = await place.talk(ann, peer, await place.server.persona(ann))
        await place.tell(peer, conv, "我养了一只猫")
        mem0.fault = "error"
        await place.server.core.erasures.erase_user(ann.id)
        await finished(place.server, Kind.USER, ann.id)
        await place.work()
        assert place.known() == ["我养了一只猫"]
    mem0.fault = ""
    async with town(tmp_path, mem0) as place:
        await place.work(FIRST_RETRY_MS)
        assert place.known() == []


async def test_an_erasure_by_command_is_left_to_the_next_server(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with town(tmp_path, mem0) as place:
        store = place.server.store
        ann = await place.server.person("ann")
        peer = await place.server.connect(ann)
        conv = await place.talk(ann, peer, await place.server.persona(ann))
        await place.tell(peer, conv, "by command")
        await do_here(
            store, await store.change((ann.id,), partial(erasure.begin_user, user=ann.id))
        )
        assert place.known() == ["by command"]
    async with town(tmp_path, mem0) as place:
        await place.work()
        assert place.known() == []


async def test_nothing_is_noted_where_no_mem0_server_is_configured(
    tmp_path: Path, mem0: FakeMem0
) -> None:
    async with town(tmp_path, mem0) as place:
        ann = await place.server.person("ann")
        peer = await place.server.connect(ann)
        conv = await place.talk(ann, peer, await place.server.persona(ann))
        seqs = [await place.tell(peer, conv, text) for text in ("first", "second")]
        await peer.ask(Recall, conv, seqs[0])
    async with serving(tmp_path) as server:
        peer = await server.connect(ann)
        await peer.ask(Recall, conv, seqs[1])
        assert server.core.bridge.mem0 is None
        server.advance(mem0_erasures.LOOK_EVERY_S)
        (kept,) = await server.store.read(due_mem0_erasures(NEVER_MS, 9))
        assert kept.seq == seqs[0]  # for a server that has one again
    async with town(tmp_path, mem0) as place:
        await place.work()
        assert place.known() == ["second"]


async def test_an_answer_that_outlives_the_erasure_of_its_question_teaches_nothing(
    place: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    conv = await place.talk(ann, peer, await place.server.persona(ann))
    await place.tell(peer, conv, "before")
    memory = place.server.core.bridge.mem0
    assert memory is not None
    searching, go_on = asyncio.Event(), asyncio.Event()

    async def search(user_id: str, query: str, only_conv: int = 0) -> tuple[str, ...]:
        searching.set()
        await go_on.wait()
        return ()

    monkeypatch.setattr(memory, "search", search)
    seq = (await peer.send_text(conv, "taken back")).seq
    await asyncio.wait_for(searching.wait(), WAIT_S)
    await peer.ask(Recall, conv, seq)
    await place.work()
    go_on.set()
    await eventually(lambda: memory.stats.withheld == 1)
    assert place.known() == ["before"]


async def test_a_store_that_fails_is_asked_again(
    place: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await place.server.person("ann")
    peer = await place.server.connect(ann)
    conv = await place.talk(ann, peer, await place.server.persona(ann))
    await peer.ask(Recall, conv, await place.tell(peer, conv, "taken back"))

    def fail(*_: Any) -> Any:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(mem0_erasures, "due_mem0_erasures", fail)
        await place.work()
    await place.work()
    assert place.known() == []


async def test_without_a_mem0_server_nothing_runs(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        erasures = Mem0Erasures(server.store, None, now_ms=lambda: 0)
        erasures.sweep(1e9)
        assert erasures._task is None
        await erasures.aclose()
