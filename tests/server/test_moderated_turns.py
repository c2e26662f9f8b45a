"""Questions and answers that must not stand, as people in a conversation meet them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, MsgKind, StreamPart
from protocol.envelopes import (
    History,
    Open,
    Opened,
    StreamDelta,
    StreamEnd,
    WatchRequest,
)
from server.checkpoints import KEEP_S
from server.config_sections import AiConfig, ModerationConfig, ProviderConfig
from storage.rows import TurnStatus
from storage.turns import get_turn
from tests.server.harness import Peer, Server, serving, watching
from tests.server.test_streams import ask, talk
from tests.support.eventually import eventually

LONG = "tokens=90000,rate=3000,no_usage"


@asynccontextmanager
async def moderated(
    folder: Path, provider: ScriptedProvider, *words: str, model: str = LONG, **options: Any
) -> AsyncIterator[Server]:
    provider.models = [model]
    given = ProviderConfig(name="s", base_url=provider.base_url, models=[model])
    moderation = ModerationConfig(words=list(words), **options)
    ai = AiConfig(detect=False, providers=[given], moderation=moderation)
    async with serving(folder, ai=ai) as server:
        yield server


async def messages_of(peer: Peer, conv: int) -> list[int]:
    page = await peer.ask(History, conv, 0, True, 50)
    return [row.kind for row in page.msgs]


async def test_an_answer_that_goes_bad_is_taken_back_from_everybody_who_watched(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with moderated(tmp_path, provider, "word90") as server:
        bob = await server.person("bob")
        _, peer, conv = await talk(server, bob)
        watcher = await server.connect(bob)
        await watcher.ask(WatchRequest, watching(conv))
        sid = (await peer.send_text(conv, "@Ada how are you?")).sid or 0
        turn: Any = None
        for one in (peer, watcher):
            await one.expect(StreamDelta, lambda f: f.sid == sid)
            turn = turn or server.core.bridge.get(sid)
            end = await one.expect(StreamEnd, lambda f: f.sid == sid)
            assert (end.reason, end.code) == (EndReason.FILTERED, Code.REFUSED)
            assert (end.rev, end.seq, end.total, end.crc) == (0, 0, 0, 0)
            assert "taken back" in (end.detail or "")
            assert end.usage is not None
            assert end.usage[1] > 90
        assert turn.outcome.cost_micro == 0  # this model has no price
        await eventually(lambda: provider.stats.aborted == 1)
        await eventually(lambda: server.core.busy == 0)
        assert MsgKind.AI_REPLY not in await messages_of(peer, conv)
        opened = await peer.ask(Open, sid, int(StreamPart.ANSWER), 0)
        assert not isinstance(opened, Opened) or (opened.text, opened.total) == ("", 0)
        row = await server.store.read(get_turn(sid))
        assert row is not None
        assert (row.status, row.reason, row.answer_seq, row.partial) == (
            TurnStatus.FAILED, EndReason.FILTERED, 0, "",
        )  # fmt: skip
        assert row.tokens_out > 90


async def test_a_partial_text_that_was_kept_goes_with_the_answer(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with moderated(tmp_path, provider, "word15", model="tokens=50,stall=20") as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)

        async def kept() -> str:
            row = await server.store.read(get_turn(sid))
            return row.partial if row is not None else ""

        turns = server.core.turns
        await peer.expect(StreamDelta, lambda f: f.sid == sid)
        turn = server.core.bridge.get(sid)
        assert turn is not None
        await eventually(lambda: "word19" in turn.text())
        turns.checkpoints.sweep(server.core.clock() + KEEP_S)
        await eventually(lambda: not turns.checkpoints.writing)
        assert "word15" in await kept()
        server.core.bridge.cancel(sid)
        end = await peer.expect(StreamEnd, lambda f: f.sid == sid)
        assert (end.reason, end.total) == (EndReason.FILTERED, 0)
        assert await kept() == ""


async def test_a_refused_question_is_answered_with_the_reason_and_shown_to_no_model(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with moderated(tmp_path, provider, "坏话", model="tokens=3") as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv, "我要说坏话")
        end = await peer.expect(StreamEnd, lambda f: f.sid == sid)
        assert (end.reason, end.code, end.total) == (EndReason.FILTERED, Code.REFUSED, 0)
        assert "Ask in other words" in (end.detail or "")
        assert provider.stats.requests == 0
        for text in ("早上好", "晚上好"):
            sid = await ask(peer, conv, text)
            await peer.expect(StreamEnd, lambda f, sid=sid: f.sid == sid)  # type: ignore[misc]
            assert "坏话" not in str(provider.requests[-1].body)
        assert provider.stats.requests == 2


async def test_nothing_is_learnt_from_a_refused_question(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    async with moderated(tmp_path, provider, "secret", model="tokens=3") as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv, "My secret is a cat.")
        await peer.expect(StreamEnd, lambda f: f.sid == sid)
        memories = server.core.memories
        await eventually(lambda: memories.stats.noted == 1)
        later = memories.learner._clock() + 2_000
        memories.learner._clock = lambda: later

        def read() -> bool:
            memories.sweep(later)
            return memories.learner.waiting == memories.learner.running == 0

        await eventually(read)
        assert provider.stats.requests == 0
        assert memories.stats.passed_over == 0


async def test_a_good_answer_is_stored_as_ever(tmp_path: Path, provider: ScriptedProvider) -> None:
    async with moderated(tmp_path, provider, "坏话", model="tokens=300") as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        end = await peer.expect(StreamEnd, lambda f: f.sid == sid)
        assert (end.reason, end.code) == (EndReason.STOP, None)
        assert end.total > 0
        assert MsgKind.AI_REPLY in await messages_of(peer, conv)
        assert server.core.bridge.moderation is not None
        assert server.core.bridge.moderation.stats.checked["output_allow"] >= 2


@pytest.mark.parametrize("stages", [["input"], []])
async def test_stages_that_are_not_named_are_not_checked(
    tmp_path: Path, provider: ScriptedProvider, stages: list[Any]
) -> None:
    async with moderated(tmp_path, provider, "word1", model="tokens=3", stages=stages) as server:
        _, peer, conv = await talk(server)
        sid = await ask(peer, conv)
        end = await peer.expect(StreamEnd, lambda f: f.sid == sid)
        assert end.reason == EndReason.STOP
        assert (server.core.bridge.moderation is None) is not bool(stages)
