"""Summaries of long talks: made behind the answers, for those who may see what they tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.errors import BridgeError
from ai_bridge.types import TurnRequest
from bench.provider.script import CHINESE
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, MsgKind, StreamPart
from server.summaries import CALLS_PER_JOB, PAGE_ROWS, PAUSE_S, Summaries, SummaryNeed
from storage.conversations import drop_conversation
from storage.messages import recall_message
from storage.rows import StoreOptions
from storage.store import Store
from storage.summaries import StoredSummary, get_summary
from tests.ai_bridge.fakes import Watcher
from tests.conftest import sqlite_url
from tests.storage.world import Sending, World, cid
from tests.support.eventually import eventually

ADA = 7


class Talk:
    """One conversation of Ann with Ada, and the summaries made of it."""

    def __init__(self, world: World, conv: int, ann: int) -> None:
        self.world = world
        self.store = world.store
        self.conv = conv
        self.ann = ann
        self.now = 100.0
        self.asked: list[TurnRequest] = []
        self.answer = "notes {}"
        self.gate = asyncio.Event()
        self.gate.set()
        self.jobs: list[asyncio.Task[None]] = []
        self.summaries = self.make(self.ask)

    def make(self, ask: Any, max_jobs: int = 4) -> Summaries:
        return Summaries(
            self.store, ask, self.spawn, {ADA: "Ada"}.__getitem__, clock=lambda: self.now,
            max_jobs=max_jobs,
        )  # fmt: skip

    def spawn(self, work: Any) -> asyncio.Task[None]:
        self.jobs.append(asyncio.get_running_loop().create_task(work))
        return self.jobs[-1]

    async def ask(self, request: TurnRequest) -> str:
        self.asked.append(request)
        await self.gate.wait()
        if not self.answer:
            raise BridgeError(Code.BUSY, "Too much to do.")
        return self.answer.format(len(self.asked))

    async def say(self, count: int, text: str = "message") -> None:
        """Add messages, by turns of Ann and Ada."""
        futures = []
        for number in range(count):
            kind = MsgKind.AI_REPLY if number % 2 else MsgKind.TEXT
            sender = ADA if number % 2 else self.ann
            sending = Sending(self.conv, sender, cid(), int(kind), f"{text} {number}")
            self.store.submit(sending)
            futures.append(sending.future)
        await asyncio.gather(*futures)

    def need(self, **fields: Any) -> SummaryNeed:
        given: dict[str, Any] = {
            "conv": self.conv, "persona": ADA, "tenant": 1, "user": self.ann,
            "budget_tokens": 10_000, "shown": 20,
        }  # fmt: skip
        return SummaryNeed(**given | fields)

    async def fold(self, **fields: Any) -> None:
        """Have the talk looked at and wait until that is done."""
        assert self.summaries.consider(self.need(**fields))
        await self.done()

    async def done(self) -> None:
        await asyncio.gather(*self.jobs)

    async def kept(self) -> StoredSummary | None:
        return await self.store.read(get_summary(self.conv, ADA))

    def read(self, call: int = -1) -> str:
        """Return what one call gave the model to read."""
        return self.asked[call].history[0].text


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    store = await Store.open(StoreOptions(url=sqlite_url(tmp_path)))
    world = World(store)
    ann = await world.user("Ann")
    talk = Talk(world, await world.conv([ann]), ann)
    yield talk
    await talk.summaries.close()
    await store.close(5)


async def test_a_short_talk_is_left_alone(talk: Talk) -> None:
    await talk.say(20)
    await talk.fold()
    assert (talk.asked, await talk.kept()) == ([], None)
    assert await talk.store.read(get_summary(talk.conv, ADA)) is None


async def test_the_older_half_becomes_a_summary_and_the_next_builds_on_it(talk: Talk) -> None:
    await talk.say(30)
    await talk.fold()
    first = await talk.store.read(get_summary(talk.conv, ADA))
    assert first is not None
    assert (first.upto_seq, first.text) == (14, "notes 1")
    assert "Ann: message 0\nAda: message 1\n" in talk.read()
    assert "(none)" in talk.read()
    await talk.fold()
    assert len(talk.asked) == 1  # 16 are left, which can be shown
    await talk.say(10)
    await talk.fold()
    second = await talk.store.read(get_summary(talk.conv, ADA))
    assert second is not None
    assert (second.upto_seq, second.text) == (26, "notes 2")
    assert "notes 1" in talk.read()
    assert "Ann: message 14" in talk.read()


async def test_few_but_long_messages_are_folded_too(talk: Talk) -> None:
    await talk.say(6, "长" * 1_000)
    await talk.fold(budget_tokens=3_000)
    assert (await talk.kept() or StoredSummary(0, 0, 0, 0, "")).upto_seq == 3


async def test_a_long_past_is_caught_up_with_in_bounded_steps(talk: Talk) -> None:
    await talk.say(PAGE_ROWS * (CALLS_PER_JOB + 1))
    await talk.fold()
    assert len(talk.asked) == CALLS_PER_JOB
    kept = await talk.kept()
    assert kept is not None
    assert kept.upto_seq == PAGE_ROWS * CALLS_PER_JOB
    await talk.fold()
    await talk.fold()
    kept = await talk.kept()
    assert kept is not None
    assert kept.upto_seq > PAGE_ROWS * CALLS_PER_JOB


async def test_one_job_at_a_time_and_a_bounded_number_in_all(talk: Talk) -> None:
    talk.summaries = talk.make(talk.ask, max_jobs=2)
    await talk.say(30)
    talk.gate.clear()
    assert talk.summaries.consider(talk.need())
    assert not talk.summaries.consider(talk.need())
    assert talk.summaries.consider(talk.need(persona=8))
    assert not talk.summaries.consider(talk.need(persona=9))
    assert (talk.summaries.running, talk.summaries.stats.refused) == (2, 1)
    talk.gate.set()
    await talk.done()
    assert (talk.summaries.running, talk.summaries.stats.folded) == (0, 2)


@pytest.mark.parametrize("answer", ["", " ", "<notes></notes>"])
async def test_a_failure_harms_nothing_and_is_tried_again_after_growing_pauses(
    talk: Talk, answer: str
) -> None:
    await talk.say(30)
    talk.answer = answer
    for pause_s in (PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S):
        await talk.fold()
        talk.now += pause_s - 1
        assert not talk.summaries.consider(talk.need())
        talk.now += 2
    assert (talk.summaries.stats.failed, talk.summaries.stats.waiting) == (3, 3)
    assert await talk.kept() is None
    talk.answer = "good {}"
    await talk.fold()
    kept = await talk.kept()
    assert kept is not None
    assert kept.text == "good 4"
    await talk.fold()  # no pause is left


async def test_a_crash_is_a_failure_like_any_other(
    talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(request: TurnRequest) -> str:
        raise KeyError("geheim")

    talk.summaries = talk.make(crash)
    await talk.say(30)
    await talk.fold()
    assert (talk.summaries.running, talk.summaries.stats.failed) == (0, 1)
    assert "summary.crashed" in [record.message for record in caplog.records]


async def test_a_recalled_text_lives_on_in_no_summary(talk: Talk) -> None:
    await talk.say(30)
    await talk.fold()
    await _recall(talk, 1)
    assert await talk.store.read(get_summary(talk.conv, ADA)) is None
    await talk.fold()
    assert "message 0\n" not in talk.read()
    assert "Ada: message 1\n" in talk.read()
    assert "notes 1" not in talk.read()


async def test_a_text_recalled_while_its_summary_is_made_is_not_kept(talk: Talk) -> None:
    await talk.say(30)
    talk.gate.clear()
    assert talk.summaries.consider(talk.need())
    await eventually(lambda: talk.asked)
    await _recall(talk, 1)
    talk.gate.set()
    await talk.done()
    assert talk.summaries.stats.outdated == 1
    assert "message 0\n" in talk.read(0)
    assert "message 0\n" not in talk.read(1)
    kept = await talk.kept()
    assert kept is not None
    assert kept.text == "notes 2"


async def _recall(talk: Talk, seq: int) -> None:
    await talk.store.change(
        [talk.conv], lambda tx: recall_message(tx, talk.conv, seq, talk.ann, False, 0)
    )


async def test_a_deleted_conversation_gets_no_summary(talk: Talk) -> None:
    await talk.say(30)
    talk.gate.clear()
    assert talk.summaries.consider(talk.need())
    await eventually(lambda: talk.asked)
    await talk.store.change([talk.conv, talk.ann], lambda tx: drop_conversation(tx, talk.conv))
    talk.gate.set()
    await talk.done()
    assert await talk.kept() is None


async def test_nobody_is_told_of_what_was_said_before_he_came(talk: Talk) -> None:
    await talk.say(40)
    await talk.fold()
    assert await talk.store.read(get_summary(talk.conv, ADA, 5)) is None
    await talk.fold(floor=5)
    assert "message 4\n" not in talk.read()
    assert "message 5\n" in talk.read()
    assert "notes 1" not in talk.read()
    for floor in (0, 5):  # everybody may hear of this
        found = await talk.store.read(get_summary(talk.conv, ADA, floor))
        assert found is not None
        assert (found.floor_seq, found.text) == (5, "notes 2")


async def test_closing_ends_the_jobs(talk: Talk) -> None:
    await talk.say(30)
    talk.gate.clear()
    assert talk.summaries.consider(talk.need())
    await eventually(lambda: talk.asked)
    await talk.summaries.close()
    assert talk.summaries.running == 0
    assert await talk.kept() is None


async def test_a_summary_comes_from_a_real_provider_through_the_bridge(talk: Talk) -> None:
    provider = ScriptedProvider()
    await provider.start()
    config = ProviderConfig(name="p", base_url=provider.base_url, models=("tokens=5,lang=zh",))
    bridge = Bridge(BridgeConfig(providers=(config,), detect=False))
    await bridge.start()

    async def ask(request: TurnRequest) -> str:
        watcher = Watcher()
        turn = bridge.submit(request, watcher)
        outcome = await watcher.end()
        assert outcome.code is None, outcome
        return turn.text(StreamPart.ANSWER)

    talk.summaries = talk.make(ask)
    try:
        await talk.say(30)
        await talk.fold()
        found = await talk.store.read(get_summary(talk.conv, ADA))
        assert found is not None
        assert found.text[0] in CHINESE
    finally:
        await bridge.aclose()
        await provider.aclose()
