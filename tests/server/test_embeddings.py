"""Memories by meaning on a running server: found, paid, made again for another model, never waited
for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ai_bridge.account import BudgetExceeded, Ledger, Limits
from ai_bridge.billing import Billing
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.embeddings import HttpEmbedder
from ai_bridge.prices import Price, PriceTable
from ai_bridge.renewed import Renewed
from bench.provider import embeddings
from bench.provider.server import Request, ScriptedProvider
from server.app import App
from server.config import load
from server.core import Core
from server.embedder import MAX_LATE, ServiceEmbedder
from server.memory_book import MemoryBook
from server.memory_vectors import Payer
from server.usage_sums import MAX_SUMS, UsageSums
from storage.accounts import create_user
from storage.errors import StoreUnavailable
from storage.memories import pair_memories
from storage.usage import DAY_MS, UsageRow, usage_page
from tests.server.http.openai_site import settings_for
from tests.support.eventually import WAIT_S, eventually

PERSONA = 7_000_001
TENANT = 1
CAT = "养了一只猫"
QUESTION = "tell me of my kitty"
FIRST, SECOND = "dim=64", "dim=64,fake"
"""Two models of one length, whose vectors could be compared by mistake."""
DOLLAR_A_TOKEN = {"input": 1_000_000.0}
MICRO = 1_000_000


@pytest.fixture(autouse=True)
def meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted service knows what a kitty is, which nobody can see from the letters."""
    known = embeddings.features

    def features(text: str) -> list[str]:
        return ["<cat>"] if "kitty" in text or "猫" in text else known(text)

    monkeypatch.setattr(embeddings, "features", features)


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path, provider: ScriptedProvider) -> Start:
    """Return what runs a server on one folder with an embedding model."""

    @asynccontextmanager
    async def run(model: str, **more: object) -> AsyncIterator[Core]:
        settings: dict[str, object] = settings_for(provider.port) | {
            "server.port": 0,
            "server.data_dir": str(tmp_path),
            "server.gc_freeze": False,
            "server.drain_s": 0,
            "ai.detect": False,
            "ai.embeddings": {"provider": "scripted", "model": model},
            "ai.prices": {model: DOLLAR_A_TOKEN},
        }
        app = App(load(None, {}, settings | more))
        await app.start()
        assert app.core is not None
        yield app.core
        await app.stop()

    return run


async def person(core: Core, name: str = "ann") -> int:
    row = await core.store.change((), lambda tx: create_user(tx, TENANT, name, name))
    return row.id or 0


async def remember(core: Core, user: int, text: str = CAT) -> None:
    await MemoryBook(core.store).add(user, TENANT, PERSONA, text, "other", False)


async def embedded(core: Core, user: int) -> None:
    """Let the server find and embed what has no vector of its model."""
    await core.memories.recall(user, PERSONA, "?")
    before = core.memories.stats.reembedded
    core.memories.sweep(core.clock())
    await eventually(lambda: core.memories.stats.reembedded > before)


async def models(core: Core, user: int) -> list[str]:
    _, rows = await core.store.read(pair_memories(user, PERSONA), snapshot=True)
    return [row.model for row in rows]


def asked(provider: ScriptedProvider) -> list[Request]:
    return [request for request in provider.requests if request.kind == "embeddings"]


async def test_a_memory_is_found_by_its_meaning(start: Start) -> None:
    async with start(FIRST) as core:
        user = await person(core)
        await remember(core, user)
        assert await core.memories.recall(user, PERSONA, QUESTION) == (), "by words only"
        await embedded(core, user)
        assert await core.memories.recall(user, PERSONA, QUESTION) == (CAT,)
        assert await core.memories.recall(user, PERSONA, "what is the weather") == ()


async def test_another_model_embeds_again_and_compares_nothing_before(
    start: Start, provider: ScriptedProvider
) -> None:
    async with start(FIRST) as core:
        user = await person(core)
        await remember(core, user)
        await embedded(core, user)
        assert await models(core, user) == [FIRST]
    async with start(SECOND) as core:
        assert await core.memories.recall(user, PERSONA, QUESTION) == ()
        await embedded(core, user)
        assert await models(core, user) == [SECOND]
        assert [r.body["input"] for r in asked(provider) if r.model == SECOND] == [[CAT]]
        assert await core.memories.recall(user, PERSONA, QUESTION) == (CAT,)


async def test_one_pair_is_embedded_again_at_a_time(
    start: Start, provider: ScriptedProvider
) -> None:
    async with start(FIRST) as core:
        users = [await person(core, f"user{number}") for number in range(5)]
        for user in users:
            await remember(core, user)
            await core.memories.recall(user, PERSONA, "?")
        assert len(core.memories.pairs.stale) == 5
        core.memories.sweep(core.clock())
        core.memories.sweep(core.clock())
        assert len(core.memories.pairs.stale) == 5, "it begins when the loop comes to it"
        await eventually(lambda: core.memories.stats.reembedded == 1)
        assert len(core.memories.pairs.stale) == 4


@pytest.mark.parametrize("model", ["silent", "status=500", "dim=8,empty", "status=401"])
async def test_a_service_in_trouble_leaves_the_words(
    start: Start, provider: ScriptedProvider, model: str
) -> None:
    async with start(FIRST) as core:
        user = await person(core)
        await remember(core, user)
        await embedded(core, user)
    provider.requests.clear()
    async with start(model) as core:
        await remember(core, user, "喜欢绿茶")
        vectors = core.memories.pairs._vectors
        await core.memories.recall(user, PERSONA, "?")
        assert await vectors.one("猫", 0.05, Payer(TENANT, user, PERSONA)) is None
        assert asked(provider)
        assert await core.memories.recall(user, PERSONA, "绿茶") == ("喜欢绿茶",)


async def test_without_the_service_words_are_enough_until_it_is_added(
    start: Start, provider: ScriptedProvider
) -> None:
    unknown = {"ai.embeddings": {"provider": "later", "model": FIRST}}
    async with start(FIRST, **unknown) as core:
        user = await person(core)
        await remember(core, user)
        assert await core.memories.recall(user, PERSONA, QUESTION) == ()
        assert not core.memories.pairs.stale
        added = ProviderConfig(name="later", base_url=provider.base_url)
        await core.bridge.reload(BridgeConfig(providers=(added,)))
        await embedded(core, user)
        assert await core.memories.recall(user, PERSONA, QUESTION) == (CAT,)


async def used(core: Core) -> list[UsageRow]:
    await core.usage.aclose()
    today = core.now_ms() // DAY_MS
    return await core.store.read(usage_page(TENANT, today - 1, today + 2, None, 20))


async def test_a_person_pays_for_questions_and_the_tenant_for_another_model(start: Start) -> None:
    async with start(FIRST) as core:
        user = await person(core)
        await remember(core, user)
        await embedded(core, user)
        await core.memories.recall(user, PERSONA, "kitty")
        rows = {row.user: row for row in await used(core)}
        assert {row.model for row in rows.values()} == {FIRST}
        # The scripted service counts one token a feature.
        assert (rows[0].tokens_in, rows[0].cost_micro) == (1, MICRO)
        assert (rows[user].turns, rows[user].tokens_in, rows[user].cost_micro) == (1, 1, MICRO)
        ledger = core.bridge.billing.ledger
        assert ledger.spent(TENANT, user).day == MICRO
        assert ledger.spent(TENANT, 0).day == 2 * MICRO
        assert ledger.spent(TENANT, 0).reserved == 0


async def test_a_spent_budget_leaves_the_words_and_blames_nobody(
    start: Start, provider: ScriptedProvider
) -> None:
    async with start(FIRST) as core:
        user = await person(core)
        await remember(core, user)
        await embedded(core, user)
        provider.requests.clear()
        core.bridge.billing.ledger.set_limits(TENANT, user, Limits(day_micro=1))
        for number in range(5):
            assert await core.memories.recall(user, PERSONA, f"kitty {number}") == ()
        assert not asked(provider)
        assert core.memories.stats.unpaid == 5
        core.bridge.billing.ledger.set_limits(TENANT, user, Limits())
        assert await core.memories.recall(user, PERSONA, "kitty") == (CAT,)


# the embedder alone


class Desk:
    """An embedder in front of the scripted service."""

    def __init__(self, provider: ScriptedProvider, model: str) -> None:
        config = ProviderConfig(name="x", base_url=provider.base_url)
        self.ledger = Ledger(now_ms=lambda: 0, clock=lambda: 0.0)
        billing = Billing(self.ledger, PriceTable({model: Price(1_000_000.0)}))
        self.usage = UsageSums(Store())  # type: ignore[arg-type]
        self.embedder = ServiceEmbedder(
            Renewed(lambda: config, lambda found: HttpEmbedder(found, model)),
            "x", model, billing, self.usage, lambda: 0,
        )  # fmt: skip


class Store:
    """Keeps what is written; refuses while it is told to."""

    def __init__(self) -> None:
        self.broken = False
        self.rows: list[UsageRow] = []

    async def change(self, feeds: tuple[int, ...], make: "partial[object]") -> None:
        if self.broken:
            raise StoreUnavailable("no")
        self.rows += make.keywords["rows"]


ANN = Payer(TENANT, 5, PERSONA)


async def test_a_tenant_with_many_texts_leaves_places_to_others(
    provider: ScriptedProvider,
) -> None:
    desk = Desk(provider, "silent")
    ours = [asyncio.ensure_future(desk.embedder.embed_for(ANN, ["x"])) for _ in range(68)]
    await eventually(lambda: len(asked(provider)) == 4)  # the others fill the queue
    theirs = asyncio.ensure_future(desk.embedder.embed_for(Payer(TENANT + 1, 6, PERSONA), ["x"]))
    await asyncio.wait([ours[-1]], timeout=WAIT_S)
    assert [task.done() for task in (ours[0], ours[-1], theirs)] == [False, True, False]
    await desk.embedder.aclose()
    await asyncio.gather(*ours, theirs, return_exceptions=True)


async def test_who_stops_waiting_has_paid_and_few_such_calls_run_on(
    provider: ScriptedProvider,
) -> None:
    desk = Desk(provider, "silent")
    calls = [
        asyncio.create_task(desk.embedder.embed_for(ANN, ["a b"])) for _ in range(MAX_LATE + 4)
    ]
    await eventually(lambda: len(desk.embedder._running) == len(calls) and provider.requests)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: len(desk.embedder._running) == MAX_LATE)
    assert desk.embedder.left == MAX_LATE + 4
    await desk.embedder.aclose()
    spent = desk.ledger.spent(TENANT, 5)
    assert spent.reserved == 0
    assert spent.day > 0
    await eventually(lambda: not provider.stats.open_connections)


async def test_a_late_answer_leaves_its_connection_for_the_next(provider: ScriptedProvider) -> None:
    desk = Desk(provider, "head=0.05,dim=8")
    call = asyncio.create_task(desk.embedder.embed_for(ANN, ["a"]))
    await eventually(lambda: provider.requests)
    call.cancel()
    await eventually(lambda: not desk.embedder._running)
    await desk.embedder.embed_for(ANN, ["b"])
    assert provider.stats.connections == 1
    await desk.embedder.aclose()


async def test_calls_side_by_side_cannot_overrun_a_budget(provider: ScriptedProvider) -> None:
    desk = Desk(provider, "dim=8")
    desk.ledger.set_limits(TENANT, 0, Limits(day_micro=10 * MICRO))
    done = await asyncio.gather(
        *(desk.embedder.embed_for(ANN, ["one two"]) for _ in range(50)), return_exceptions=True
    )
    assert any(isinstance(one, list) for one in done)
    assert any(isinstance(one, BudgetExceeded) for one in done)
    assert desk.ledger.spent(TENANT, 0).day <= 10 * MICRO
    await desk.embedder.aclose()


# sums


@pytest.fixture
def sums() -> UsageSums:
    return UsageSums(Store())  # type: ignore[arg-type]


async def test_sums_of_a_day_are_written_together(sums: UsageSums) -> None:
    for tokens in (3, 4):
        sums.add(DAY_MS, 1, 5, 9, "m", tokens, 10)
    sums.add(DAY_MS, 1, 6, 9, "m", 1, 1)
    sums.sweep(100.0)
    await eventually(lambda: sums._store.rows)  # type: ignore[attr-defined]
    first, second = sums._store.rows  # type: ignore[attr-defined]
    assert (first.day, first.user, first.turns, first.tokens_in, first.cost_micro) == (
        1,
        5,
        2,
        7,
        20,
    )
    assert second.user == 6
    sums.add(DAY_MS, 1, 6, 9, "m", 1, 1)
    sums.sweep(104.0)
    assert len(sums) == 1, "not due yet"


async def test_what_could_not_be_written_waits_for_the_next_time(sums: UsageSums) -> None:
    sums._store.broken = True  # type: ignore[attr-defined]
    sums.add(0, 1, 5, 9, "m", 3, 10)
    await sums.aclose()
    sums.add(0, 1, 5, 9, "m", 4, 10)
    sums._store.broken = False  # type: ignore[attr-defined]
    await sums.aclose()
    (row,) = sums._store.rows  # type: ignore[attr-defined]
    assert (row.turns, row.tokens_in, row.cost_micro) == (2, 7, 20)


def test_too_many_sums_are_put_down_to_their_tenants(sums: UsageSums) -> None:
    for user in range(MAX_SUMS + 5):
        sums.add(0, 1, user + 1, 9, "m", 1, 1)
    assert (len(sums), sums.merged, sums.lost) == (MAX_SUMS + 1, 5, 0)
    for tenant in range(MAX_SUMS):
        sums.add(0, tenant + 2, 1, 9, "m", 1, 1)
    assert len(sums) == 2 * MAX_SUMS
    assert sums.lost == 1
