"""What may be asked and answered: the checkers, the verdict, and what follows in a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ai_bridge.account import Ledger
from ai_bridge.billing import Billing
from ai_bridge.bridge import Bridge
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.moderation import (
    ALLOWED,
    MAX_CHARS,
    PAUSE_S,
    TOO_LONG,
    UNCHECKED,
    Action,
    Moderation,
    Stage,
    Subject,
    Verdict,
)
from ai_bridge.moderators import MAX_WORDS, PIECE_CHARS, ServiceCheck, WordCheck
from ai_bridge.output_guard import WINDOW_CHARS
from ai_bridge.prices import Price, PriceTable
from ai_bridge.secrets import Secret
from ai_bridge.types import ChatMessage, Outcome, Priority, Role
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamPart
from tests.ai_bridge.conftest import closed
from tests.ai_bridge.fakes import Clock, Watcher, answer, request
from tests.support.eventually import WAIT_S

WHO = Subject()


async def judged(checker: WordCheck, text: str) -> Verdict:
    return await checker.check(Stage.INPUT, text, WHO)


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "text", "hit"),
    [
        ("art", "a party", False),
        ("art", "modern art.", True),
        ("art", "modern ART", True),
        ("ART", "modern art", True),
        ("art", "art\u200bful", False),
        ("bad", "b\u200bad", True),
        ("bad", "\uff22\uff21\uff24!", True),
        ("坏话", "他说了坏话。", True),
        ("坏话", "坏\u200b话", True),
        ("坏话", "坏 话", False),
        ("ｂａｄ", "so bad", True),
        ("two words", "those TWO   words here", True),
        ("two words", "those two\u3000words here", True),
        ("two words", "two swords", False),
        ("Straße", "die STRASSE", True),
        ("ｶﾞｷ", "ガキ", True),
        ("3d", "in 3d now", True),
        ("3d", "13d", False),
        ("+1", "a +1 for this", True),
    ],
)
async def test_words_are_found_whole_and_chinese_anywhere_in_any_width_and_case(
    word: str, text: str, hit: bool
) -> None:
    verdict = await judged(WordCheck([word]), text)
    assert verdict.action is (Action.BLOCK if hit else Action.ALLOW)
    assert word not in verdict.why


async def test_found_words_can_be_masked_where_they_stand() -> None:
    checker = WordCheck(["bad", "坏话", "two words"], Action.REPLACE)
    text = "ＢＡＤ party, 坏\u200b话！ Two \u3000 words; badly"
    verdict = await judged(checker, text)
    assert verdict.action is Action.REPLACE
    assert verdict.text == "*** party, ***！ ***********; badly"
    assert (await judged(checker, verdict.text)).action is Action.ALLOW


@given(st.text(max_size=60), st.text(alphabet="ab坏话 Ｂ", min_size=1, max_size=4))
def test_what_was_masked_is_found_no_more(text: str, word: str) -> None:
    if not word.strip():
        return
    checker = WordCheck([word], Action.REPLACE)
    verdict = asyncio.run(judged(checker, f"{text} {word} {text}"))
    assert verdict.action in (Action.REPLACE, Action.BLOCK)
    if verdict.action is Action.REPLACE:
        again = asyncio.run(judged(checker, verdict.text))
        assert again.action is Action.ALLOW


async def test_a_long_list_lets_others_work() -> None:
    checker = WordCheck([f"w{number}x" for number in range(1000)])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    verdict = await judged(checker, "w" * MAX_CHARS)
    task.cancel()
    assert verdict is ALLOWED
    assert turns > 100


@pytest.mark.parametrize(
    "words", [[""], ["\u200b"], ["x" * 65], [f"w{number}" for number in range(MAX_WORDS + 1)]]
)
def test_words_that_cannot_be_looked_for_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="word"):
        WordCheck(words)


# --- services ------------------------------------------------------------------------------------


@pytest.fixture
async def judge() -> AsyncIterator[ScriptedProvider]:
    service = ScriptedProvider()
    service.bad = {"kill": {"violence": 0.9}, "damn": {"harassment": 0.4}, "杀": {"violence": 0.7}}
    await service.start()
    yield service
    await service.aclose()


def at(service: ScriptedProvider, **fields: Any) -> ProviderConfig:
    return ProviderConfig(
        name="judge", base_url=service.base_url, api_key=Secret("sk-judge"), **fields
    )


@pytest.mark.parametrize(
    ("text", "thresholds", "why"),
    [
        ("how are you", {}, ""),
        ("i kill you", {}, "violence"),
        ("杀", {}, "violence"),
        ("damn it", {}, ""),
        ("damn it", {"harassment": 0.3}, "harassment"),
        ("i kill you", {"violence": 0.95}, ""),
        ("i kill you", {"harassment": 0.3}, "violence"),
    ],
)
async def test_a_service_judges_by_its_own_opinion_or_by_thresholds(
    judge: ScriptedProvider, text: str, thresholds: dict[str, float], why: str
) -> None:
    checker = ServiceCheck(lambda: at(judge), "judge-1", thresholds=thresholds)
    verdict = await checker.check(Stage.INPUT, text, WHO)
    assert verdict == (Verdict(Action.BLOCK, why=why) if why else ALLOWED)
    sent = judge.requests[-1]
    assert (sent.path, sent.body) == ("/v1/moderations", {"model": "judge-1", "input": text})
    assert sent.headers["authorization"] == "Bearer sk-judge"
    await checker.aclose()
    await closed(judge)


async def test_a_long_text_goes_in_pieces_that_overlap(judge: ScriptedProvider) -> None:
    checker = ServiceCheck(lambda: at(judge))
    for place in (0, PIECE_CHARS - 2, PIECE_CHARS + 3000, 3 * PIECE_CHARS - 4):
        text = "x" * place + "kill" + "x" * (3 * PIECE_CHARS - place - 4)
        assert (await checker.check(Stage.INPUT, text, WHO)).why == "violence", place
    assert all(len(piece) <= PIECE_CHARS for piece in judge.requests[-1].body["input"])
    await checker.aclose()


@pytest.mark.parametrize(
    ("model", "kind"), [("status=500", "provider_error"), ("status=401", "bad_key")]
)
async def test_a_service_that_refuses_cannot_tell(
    judge: ScriptedProvider, model: str, kind: str
) -> None:
    checker = ServiceCheck(lambda: at(judge), model)
    with pytest.raises(ProviderFailure) as failure:
        await checker.check(Stage.INPUT, "kill", WHO)
    assert failure.value.kind == kind
    assert "sk-" not in failure.value.text
    await checker.aclose()


async def test_a_service_that_is_not_configured_cannot_tell() -> None:
    checker = ServiceCheck(lambda: None)
    with pytest.raises(ProviderFailure, match="no_provider"):
        await checker.check(Stage.INPUT, "kill", WHO)


# --- the verdict ---------------------------------------------------------------------------------


class Judge:
    """A checker that does what a test wants, and notes what it was shown."""

    def __init__(self, *verdicts: Verdict | Exception) -> None:
        self.verdicts = list(verdicts)
        self.seen: list[str] = []
        self.held: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.at_once = self.most = 0

    async def check(self, stage: Stage, text: str, subject: Subject) -> Verdict:
        self.seen.append(text)
        self.arrived.set()
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if self.held is not None:
                await self.held.wait()
        finally:
            self.at_once -= 1
        verdict = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def aclose(self) -> None:
        self.seen.append("closed")


def verdict(action: Action, text: str = "") -> Verdict:
    return Verdict(action, text, "x")


async def test_the_first_checker_that_blocks_decides() -> None:
    first, second = Judge(verdict(Action.BLOCK)), Judge(ALLOWED)
    moderation = Moderation([first, second])
    assert (await moderation.check(Stage.INPUT, "text", WHO)).action is Action.BLOCK
    assert second.seen == []
    assert moderation.stats.checked == {"input_block": 1}


async def test_the_next_checker_sees_what_was_replaced() -> None:
    first, second = Judge(verdict(Action.REPLACE, "t*xt")), Judge(verdict(Action.FLAG))
    moderation = Moderation([first, second])
    found = await moderation.check(Stage.INPUT, "text", WHO)
    assert (found.action, found.text) == (Action.REPLACE, "t*xt")
    assert second.seen == ["t*xt"]


async def test_a_stage_that_is_not_checked_passes() -> None:
    judge = Judge(verdict(Action.BLOCK))
    moderation = Moderation([judge], stages=[Stage.OUTPUT])
    assert await moderation.check(Stage.INPUT, "text", WHO) is ALLOWED
    assert await moderation.check(Stage.OUTPUT, " \n", WHO) is ALLOWED
    assert judge.seen == []


async def test_a_text_that_is_too_long_to_be_judged_is_held_back() -> None:
    moderation = Moderation([Judge(ALLOWED)])
    assert (await moderation.check(Stage.INPUT, "x" * (MAX_CHARS + 1), WHO)).why == TOO_LONG


@pytest.mark.parametrize("fail_open", [True, False])
async def test_what_nobody_can_judge_passes_or_not_as_the_operator_wants(fail_open: bool) -> None:
    clock = Clock()
    judge = Judge(ProviderFailure("server_error", "x"), RuntimeError("a bug"), ALLOWED)
    moderation = Moderation([judge], fail_open=fail_open, clock=clock)
    wanted = Verdict(Action.ALLOW if fail_open else Action.BLOCK, why=UNCHECKED)
    assert await moderation.check(Stage.INPUT, "text", WHO) == wanted
    assert await moderation.check(Stage.INPUT, "text", WHO) == wanted
    assert await moderation.check(Stage.INPUT, "text", WHO) is ALLOWED
    assert moderation.stats.failed == {"server_error": 1, "crashed": 1}


async def test_a_checker_that_keeps_failing_is_left_alone_for_a_while() -> None:
    clock = Clock()
    judge = Judge(*[ProviderFailure("connect", "x")] * 3, ALLOWED)
    moderation = Moderation([judge], clock=clock)
    for _ in range(5):
        assert (await moderation.check(Stage.INPUT, "text", WHO)).why == UNCHECKED
    assert len(judge.seen) == 3
    clock.advance(PAUSE_S)
    assert await moderation.check(Stage.INPUT, "text", WHO) is ALLOWED
    assert moderation.stats.failed == {"connect": 3, "paused": 2}


async def test_tenants_take_turns_at_the_checker() -> None:
    judge = Judge(ALLOWED)
    judge.held = asyncio.Event()
    moderation = Moderation([judge], at_once=1)
    texts = (("a", 1), ("b", 1), ("c", 1), ("other", 2))
    checks = [moderation.check(Stage.INPUT, text, Subject(tenant=of)) for text, of in texts]
    checking = asyncio.gather(*checks)
    await judge.arrived.wait()
    judge.held.set()
    await checking
    assert judge.seen == ["a", "b", "other", "c"]


async def test_checks_are_bounded_and_late_ones_count_as_failed() -> None:
    judge = Judge(ALLOWED)
    judge.held = asyncio.Event()
    moderation = Moderation([judge], at_once=4, timeout_s=0.02)
    found = await asyncio.gather(*(moderation.check(Stage.INPUT, "text", WHO) for _ in range(600)))
    assert judge.most == 4
    assert judge.at_once == moderation.gate.inside == 0
    assert {one.why for one in found} == {UNCHECKED}
    assert moderation.stats.failed["busy"] == 600 - 4 - 512
    assert sum(moderation.stats.failed.values()) == 600
    assert sum(moderation.stats.seconds.counts) == 600


# --- turns ---------------------------------------------------------------------------------------

TELLS = "tokens=200"


class World:
    """A bridge with a moderation on two real sockets: who answers, and who judges."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self.provider = provider
        self.bridge: Bridge | None = None
        self.billing = Billing(
            Ledger(now_ms=lambda: time.time_ns() // 1_000_000, clock=time.monotonic),
            PriceTable({"*": Price(1.0, 1.0)}),
        )
        self._next = 0

    async def start(self, *checkers: Any, **options: Any) -> None:
        config = BridgeConfig(
            providers=(ProviderConfig(name="p", base_url=self.provider.base_url),)
        )
        self.moderation = Moderation(checkers, **options)
        self.bridge = Bridge(config, billing=self.billing, moderation=self.moderation)
        await self.bridge.start()

    def begin(self, text: str = "Hello?", **fields: Any) -> tuple[Any, Watcher]:
        assert self.bridge is not None
        self._next += 1
        watcher = Watcher()
        wish = request(self._next, text, model=fields.pop("model", TELLS))
        return self.bridge.submit(structs.replace(wish, **fields), watcher), watcher

    async def ask(self, text: str = "Hello?", **fields: Any) -> tuple[Any, Outcome]:
        turn, watcher = self.begin(text, **fields)
        return turn, await watcher.end()


@pytest.fixture
async def world(provider: ScriptedProvider) -> AsyncIterator[World]:
    before = asyncio.all_tasks()
    made = World(provider)
    yield made
    assert made.bridge is not None
    await made.bridge.aclose()
    await closed(provider)
    assert made.billing.ledger.spent(1, 0).reserved == 0
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def test_a_bad_question_reaches_no_provider(
    world: World, provider: ScriptedProvider, judge: ScriptedProvider
) -> None:
    await world.start(WordCheck(["坏话"]), ServiceCheck(lambda: at(judge)))
    for text in ("这是坏话吗", "how do I kill time"):
        turn, outcome = await world.ask(text)
        assert (outcome.reason, outcome.code) == (EndReason.FILTERED, Code.REFUSED)
        assert "rules of this server" in outcome.error
        assert (outcome.attempts, outcome.usage.prompt, answer(turn)) == (0, 0, "")
    assert provider.stats.requests == 0
    assert judge.stats.requests == 1  # the list of words had settled the first
    _, outcome = await world.ask("how do I pass time")
    assert outcome.reason is EndReason.STOP


async def test_a_refused_question_is_not_shown_to_the_model_later(
    world: World, provider: ScriptedProvider
) -> None:
    await world.start(WordCheck(["bad"]))
    history = (
        ChatMessage(Role.USER, "Hello"),
        ChatMessage(Role.ASSISTANT, "Hi"),
        ChatMessage(Role.USER, "a bad thing"),
        ChatMessage(Role.USER, "What did I say?"),
    )
    await world.ask(history=history)
    sent = [one["content"] for one in provider.requests[-1].body["messages"]]
    assert sent[1:] == ["Hello", "Hi", "What did I say?"]
    await world.ask(history=(*history[:2], ChatMessage(Role.USER, "fine"), history[3]))
    assert "fine" in str(provider.requests[-1].body["messages"])


async def test_a_refused_question_stays_hidden_when_later_ones_were_answered(
    world: World, provider: ScriptedProvider, judge: ScriptedProvider
) -> None:
    await world.start(ServiceCheck(lambda: at(judge)))
    refused = ChatMessage(Role.USER, "how do I kill time")
    asked = judge.stats.requests
    assert (await world.ask(refused.text))[1].reason is EndReason.FILTERED
    assert world.moderation.refused(refused.text)
    assert not world.moderation.refused("fine")
    history = (
        ChatMessage(Role.USER, "Hello"),
        refused,
        ChatMessage(Role.USER, "fine"),
        ChatMessage(Role.ASSISTANT, "Hi"),
        refused,
        ChatMessage(Role.USER, "Where are we?"),
    )
    assert (await world.ask(history=history))[1].reason is EndReason.STOP
    sent = [one["content"] for one in provider.requests[-1].body["messages"]]
    assert sent[1:] == ["Hello", "fine", "Hi", "Where are we?"]
    judge.bad = {}  # the service has changed its mind, and so may the person
    assert (await world.ask(refused.text))[1].reason is EndReason.STOP
    assert judge.stats.requests > asked


def test_refused_questions_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_bridge.moderation.MAX_REFUSED", 3)
    moderation = Moderation([WordCheck(["bad"])])

    async def ask() -> None:
        for number in range(5):
            judged = await moderation.question(request(number, f"bad {number}"))
            assert isinstance(judged, Verdict)

    asyncio.run(ask())
    known = [number for number in range(5) if moderation.refused(f"bad {number}")]
    assert known == [2, 3, 4]


async def test_a_masked_question_is_asked_with_stars(
    world: World, provider: ScriptedProvider
) -> None:
    await world.start(WordCheck(["bad", "坏话"], Action.REPLACE))
    _, outcome = await world.ask("What does Bad mean, and 坏话?")
    assert outcome.reason is EndReason.STOP
    assert provider.requests[-1].question == "What does *** mean, and **?"


async def test_the_question_before_results_of_tools_is_looked_at(world: World) -> None:
    await world.start(WordCheck(["bad"]))
    history = (
        ChatMessage(Role.USER, "a bad thing"),
        ChatMessage(Role.ASSISTANT, "Let me see."),
    )
    _, outcome = await world.ask(history=history)
    assert outcome.reason is EndReason.FILTERED


async def test_work_that_nobody_waits_for_is_not_looked_at(world: World) -> None:
    judge = Judge(verdict(Action.BLOCK))
    await world.start(judge)
    _, outcome = await world.ask("bad", priority=Priority.BACKGROUND)
    assert outcome.reason is EndReason.STOP
    assert judge.seen == []


async def test_a_bad_answer_ends_at_once_and_is_taken_back(
    world: World, provider: ScriptedProvider
) -> None:
    """The provider is left, the text is gone, and what was made is paid for."""
    await world.start(WordCheck(["word90"]))
    turn, watcher = world.begin(model="tokens=100000,rate=2000,no_usage")
    seen = 0

    while not watcher.outcomes:
        seen = max(seen, turn.size())
        await asyncio.sleep(0)
    outcome = await watcher.end()
    assert (outcome.reason, outcome.code) == (EndReason.FILTERED, Code.REFUSED)
    assert "taken back" in outcome.error
    assert seen > WINDOW_CHARS
    assert turn.sizes() == [0, 0, 0]
    assert outcome.usage.completion > 90
    assert outcome.usage.prompt > 0
    await closed(provider)
    assert provider.stats.aborted == 1


async def test_what_was_made_before_a_block_is_paid(
    world: World, provider: ScriptedProvider
) -> None:
    model = "tokens=100000,rate=2000,no_usage,stamp=false"
    world.billing.prices = PriceTable({f"p/{model}": Price(1.0, 1.0)})
    await world.start(WordCheck(["word90"]))
    _, outcome = await world.ask(model=model)
    assert outcome.reason is EndReason.FILTERED
    assert outcome.cost_micro == outcome.usage.prompt + outcome.usage.completion
    assert world.billing.ledger.spent(1, 0).day == outcome.cost_micro > 90


async def test_a_bad_word_at_the_very_end_is_found_before_the_answer_stands(world: World) -> None:
    await world.start(WordCheck(["word199"]))
    turn, outcome = await world.ask()
    assert outcome.reason is EndReason.FILTERED
    assert (outcome.usage.prompt, outcome.usage.completion) == (7, 200)
    assert answer(turn) == ""


async def test_words_are_not_cut_by_the_borders_of_windows(world: World) -> None:
    """Beginnings and ends of words that look bad by themselves are none."""
    parts = [f"word{number}"[at:] for number in range(10, 200) for at in range(1, 6)]
    parts += [f"word{number}"[:end] for number in range(10, 200) for end in (4, 5)]
    whole = {f"word{number}" for number in range(200)}
    await world.start(WordCheck({part for part in parts if part not in whole}))
    turn, outcome = await world.ask(model="tokens=200,rate=20000,split=3")
    assert outcome.reason is EndReason.STOP
    assert len(answer(turn).split()) == 200


async def test_thoughts_are_looked_at_as_well(world: World) -> None:
    await world.start(WordCheck(["hmm77"]))
    turn, outcome = await world.ask(model="think=100,tokens=5")
    assert outcome.reason is EndReason.FILTERED
    assert turn.size(StreamPart.REASONING) == turn.size() == 0


async def test_a_chinese_answer_is_looked_at_while_it_comes(
    world: World, provider: ScriptedProvider
) -> None:
    await world.start(WordCheck(["河边說"]), WordCheck(["说着小时候"]))
    _, outcome = await world.ask(model="lang=zh,tokens=90000,rate=3000")
    assert outcome.reason is EndReason.FILTERED
    await closed(provider)
    assert provider.stats.aborted == 1


async def test_people_read_on_while_a_check_runs(world: World) -> None:
    judge = Judge(ALLOWED)
    judge.held = asyncio.Event()
    await world.start(judge, stages=[Stage.OUTPUT], timeout_s=30.0)
    turn, watcher = world.begin()
    await watcher.until(lambda: answer(turn).endswith("word199 "))
    assert judge.most == 1
    assert not watcher.outcomes
    judge.held.set()
    assert (await watcher.end()).reason is EndReason.STOP
    assert judge.seen[-1].endswith("word199 ")


async def test_a_stopped_answer_is_looked_at_before_it_is_kept(world: World) -> None:
    judge = Judge(verdict(Action.BLOCK))
    await world.start(judge, stages=[Stage.OUTPUT])
    turn, watcher = world.begin(model="tokens=30,rate=100,stall=10")
    await watcher.until(lambda: turn.size() >= 60)
    assert world.bridge is not None
    world.bridge.cancel(turn.id)
    outcome = await watcher.end()
    assert outcome.reason is EndReason.FILTERED
    assert turn.size() == 0


async def test_who_stops_a_turn_during_its_last_check_waits_for_the_verdict(world: World) -> None:
    judge = Judge(ALLOWED)
    judge.held = asyncio.Event()
    await world.start(judge, stages=[Stage.OUTPUT], timeout_s=30.0)
    turn, watcher = world.begin(model="tokens=3")
    async with asyncio.timeout(WAIT_S):
        await judge.arrived.wait()
    assert world.bridge is not None
    world.bridge.cancel(turn.id)
    await asyncio.sleep(0)
    assert not watcher.outcomes
    judge.held.set()
    outcome = await watcher.end()
    assert (outcome.reason, answer(turn)) == (EndReason.STOP, "word0 word1 word2 ")


@pytest.mark.parametrize("fail_open", [True, False])
@pytest.mark.parametrize("model", ["status=500", "fake,silent", "garbage=0"])
async def test_a_judge_that_is_down_lets_pass_or_holds_back(
    world: World, provider: ScriptedProvider, judge: ScriptedProvider, model: str, fail_open: bool
) -> None:
    checker = ServiceCheck(lambda: at(judge), model)
    await world.start(checker, fail_open=fail_open, timeout_s=0.05)
    turn, outcome = await world.ask("kill")
    if fail_open:
        assert outcome.reason is EndReason.STOP
        assert len(answer(turn).split()) == 200
        return
    assert (outcome.reason, outcome.code) == (EndReason.FILTERED, Code.MODEL_UNAVAILABLE)
    assert "could not be checked" in outcome.error
    assert outcome.retry_ms > 0
    assert provider.stats.requests == 0
    assert not world.moderation.refused("kill")


async def test_an_answer_that_nobody_can_judge_is_taken_back_if_the_operator_wants(
    world: World, judge: ScriptedProvider
) -> None:
    checker = ServiceCheck(lambda: at(judge), "status=500")
    await world.start(checker, fail_open=False, stages=[Stage.OUTPUT])
    turn, outcome = await world.ask()
    assert (outcome.reason, outcome.code) == (EndReason.FILTERED, Code.MODEL_UNAVAILABLE)
    assert answer(turn) == ""


async def test_a_cancelled_turn_leaves_no_check_behind(
    world: World, judge: ScriptedProvider
) -> None:
    await world.start(ServiceCheck(lambda: at(judge), "fake,silent"), timeout_s=30.0)
    turn, watcher = world.begin("text")
    async with asyncio.timeout(WAIT_S):
        await judge.arrived.wait()
    assert world.bridge is not None
    world.bridge.cancel(turn.id)
    assert (await watcher.end()).reason is EndReason.CANCELLED
    await closed(judge)
    assert world.moderation.gate.inside == 0
