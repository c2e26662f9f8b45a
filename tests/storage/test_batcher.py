"""What the batcher does when commits fail, when the queue is full, and at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from protocol.rows import User
from storage.accounts import create_user
from storage.dead_letters import FILE_NAME, drop_dead, list_dead, show_dead, unplayed_dead
from storage.errors import (
    Invalid,
    OutcomeUnknown,
    Poison,
    StatementFailed,
    StorageError,
    StoreOverloaded,
    StoreUnavailable,
)
from storage.ids import new_id
from storage.ops import Op, Statement
from storage.people import set_profile, user_by_name
from storage.rows import StoreOptions
from storage.store import Store
from storage.writes import Append, Tx, Write
from tests.conftest import sqlite_url
from tests.storage.faulty import FaultyEngine, Naps, open_faulty
from tests.storage.world import Sending, World, cid

BAD_TEXT = "half a pair: \ud83d"


@pytest.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[tuple[World, FaultyEngine, Naps]]:
    store, engine, naps = await open_faulty(tmp_path)
    yield World(store), engine, naps
    engine.away = None
    engine.gate.set()
    await store.close(5)


Faulty = tuple[World, FaultyEngine, Naps]


async def test_an_unknown_commit_outcome_stores_once(faulty: Faulty) -> None:
    world, engine, _ = faulty
    user = await world.user()
    conv = await world.conv([user])
    engine.after.append(OutcomeUnknown("the reply was lost"))
    sent = await asyncio.gather(*(world.submit(conv, user, str(n)) for n in range(5)))
    # They were stored by the first try; the second one recognised them.
    assert [(s.seq, s.dup) for s in sent] == [(n, True) for n in range(1, 6)]
    assert [m.text for m in await world.all_messages(conv)] == list("01234")
    later = await world.send(conv, user)
    assert (later.seq, later.dup) == (6, False)


async def test_a_creation_with_an_unknown_outcome_finds_itself(faulty: Faulty) -> None:
    world, engine, _ = faulty
    engine.after.append(OutcomeUnknown("the reply was lost"))
    user = await world.user("Ann")
    found = await world.store.read(user_by_name(1, "ann"))
    assert found is not None
    assert found.id == user
    engine.after.append(OutcomeUnknown("the reply was lost"))
    created = await world.create([user], cid_=cid(1))
    assert created.existing


async def test_feeds_of_a_batch_with_a_lost_reply_are_told_once_it_is_settled(
    faulty: Faulty,
) -> None:
    world, engine, _ = faulty
    user = await world.user()
    conv = await world.conv([user])
    told: list[tuple[set[int], bool]] = []
    futures: list[asyncio.Future[Sending]] = []
    world.store.on_unsure(lambda feeds: told.append((feeds, all(f.done() for f in futures))))
    engine.before.append(StoreUnavailable("deadlock"))
    await world.send(conv, user, "never in doubt")
    assert told == []
    engine.after.append(OutcomeUnknown("the reply was lost"))
    futures += [world.submit(conv, user, str(n)) for n in range(3)]
    _, rev = await world.store.change((user,), lambda tx: set_profile(tx, user, User(nick="Ann")))
    assert rev == 0, "the second run finds the first one's work"
    await world.send(conv, user, "later")
    assert told == [({conv, user}, True)]


async def test_transient_failures_are_retried_with_growing_pauses(faulty: Faulty) -> None:
    world, engine, naps = faulty
    user = await world.user()
    conv = await world.conv([user])
    engine.before += [StoreUnavailable("deadlock")] * 8
    sent = await world.send(conv, user)
    assert (sent.seq, sent.dup) == (1, False)
    assert len(naps.taken) == 8
    assert naps.taken[0] < naps.taken[4] < naps.taken[7] <= 2.0
    assert world.store.stats.retries == 8
    assert world.store.stats.dead == 0


async def test_while_the_database_is_away_the_queue_fills_then_refuses(tmp_path: Path) -> None:
    options = StoreOptions(url="", queue_rows=50, batch_rows=8)
    store, engine, _ = await open_faulty(tmp_path, options)
    world = World(store)
    user = await world.user()
    conv = await world.conv([user])
    engine.away = StoreUnavailable("gone")
    futures = [world.submit(conv, user, str(n)) for n in range(50)]
    await asyncio.sleep(0.01)
    with pytest.raises(StoreOverloaded) as refused:
        world.submit(conv, user, "too much")
    assert 1_000 <= refused.value.retry_ms <= 3_000
    assert store.stats.refused == 1
    assert not any(future.done() for future in futures), "nothing is acked, nothing dropped"
    health = await store.health()
    assert (health.ok, health.queue_rows, health.detail) == (False, 50, "gone")
    engine.away = None
    sent = await asyncio.gather(*futures)
    assert [s.seq for s in sent] == list(range(1, 51))
    assert [m.text for m in await world.all_messages(conv)] == [str(n) for n in range(50)]
    assert (store.stats.queued_rows, store.stats.queued_bytes) == (0, 0)
    assert (await store.health()).ok
    await store.close(1)


async def test_the_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    store, engine, _ = await open_faulty(tmp_path, StoreOptions(url="", queue_bytes=10_000))
    world = World(store)
    user = await world.user()
    conv = await world.conv([user])
    engine.gate.clear()
    first = world.submit(conv, user, "x" * 50_000)  # alone it is always let in
    with pytest.raises(StoreOverloaded) as refused:
        world.submit(conv, user, "y")
    assert 50 <= refused.value.retry_ms <= 30_000
    engine.gate.set()
    await first
    await world.send(conv, user, "y")
    await store.close(1)


async def test_a_batch_is_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    options = StoreOptions(url="", batch_rows=10, batch_bytes=5_000)
    store, _, _ = await open_faulty(tmp_path, options)
    world = World(store)
    user = await world.user()
    conv = await world.conv([user])
    before = store.stats.batches
    await asyncio.gather(*(world.submit(conv, user) for _ in range(30)))
    assert store.stats.batches - before == 3
    await asyncio.gather(*(world.submit(conv, user, "x" * 2_000) for _ in range(4)))
    assert store.stats.batches - before == 5
    await store.close(1)


async def test_a_poison_row_stands_alone_and_the_others_are_stored(faulty: Faulty) -> None:
    world, _, _ = faulty
    user = await world.user()
    conv = await world.conv([user])
    texts = [str(n) for n in range(20)]
    texts[13] = BAD_TEXT
    outcomes = await asyncio.gather(
        *(world.submit(conv, user, text) for text in texts), return_exceptions=True
    )
    assert [n for n, o in enumerate(outcomes) if isinstance(o, BaseException)] == [13]
    assert isinstance(outcomes[13], Poison)
    msgs = await world.all_messages(conv)
    assert [m.text for m in msgs] == [t for t in texts if t != BAD_TEXT]
    assert [m.seq for m in msgs] == list(range(1, 20))
    stats = world.store.stats
    assert stats.dead == 1
    assert stats.bisects >= 4
    (letter,) = await world.store.read(list_dead(10))
    assert letter.kind == "append"
    assert "ud83d" in letter.payload
    assert "pair" not in letter.reason


async def test_a_poison_row_is_isolated_on_every_engine(world: World) -> None:
    user = await world.user()
    conv = await world.conv([user])
    outcomes = await asyncio.gather(
        *(world.submit(conv, user, text) for text in ("one", BAD_TEXT, "two")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], Poison)
    assert [m.text for m in await world.all_messages(conv)] == ["one", "two"]


async def test_a_poison_row_goes_to_the_file_when_the_table_fails(
    faulty: Faulty, tmp_path: Path
) -> None:
    world, engine, _ = faulty
    user = await world.user()
    conv = await world.conv([user])
    engine.before += [StatementFailed("refused")] * 3 + [StoreUnavailable("gone")]
    with pytest.raises(Poison):
        await world.send(conv, user, "kept in the file")
    path = tmp_path / FILE_NAME
    assert "kept in the file" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_change_that_fails_its_check_fails_alone(lite: Store) -> None:
    world = World(lite)
    user = await world.user("Ann")

    def refuse(tx: Tx) -> Op[None]:
        yield Statement("SELECT 1")
        raise Invalid("no")

    results = await asyncio.gather(
        lite.change((), refuse),
        lite.change((), partial(create_user, tenant=1, name="Bob")),
        return_exceptions=True,
    )
    assert isinstance(results[0], Invalid)
    assert not isinstance(results[1], BaseException)
    assert user


async def test_a_change_that_fails_after_writing_leaves_nothing_and_harms_nobody(
    lite: Store,
) -> None:
    world = World(lite)
    user = await world.user("Ann")
    conv = await world.conv([user])

    def half(tx: Tx) -> Op[None]:
        yield from create_user(tx, 1, "Half")
        raise Invalid("too late")

    sent, failed, made = await asyncio.gather(
        world.submit(conv, user),
        lite.change((), half),
        lite.change((), partial(create_user, tenant=1, name="Bob")),
        return_exceptions=True,
    )
    assert isinstance(failed, Invalid)
    assert not isinstance(sent, BaseException)
    assert not isinstance(made, BaseException)
    assert await lite.read(user_by_name(1, "Half")) is None
    assert await lite.read(user_by_name(1, "Bob")) is not None


async def test_a_bug_in_a_change_costs_only_that_change(
    lite: Store, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(lite)
    user = await world.user()
    conv = await world.conv([user])

    def buggy(tx: Tx) -> Op[None]:
        yield Statement("SELECT 1")
        raise KeyError("what?")

    with caplog.at_level(logging.CRITICAL, "parlance.storage"):
        sent, failed = await asyncio.gather(
            world.submit(conv, user), lite.change((), buggy), return_exceptions=True
        )
    assert isinstance(failed, Poison)
    assert not isinstance(sent, BaseException)
    (letter,) = await lite.read(list_dead(10))
    assert letter.kind.startswith("change:")
    assert await lite.read(unplayed_dead(10)) == []


async def test_a_change_may_touch_only_feeds_that_it_declares(
    lite: Store, caplog: pytest.LogCaptureFixture
) -> None:
    user = await World(lite).user()

    def sneaky(tx: Tx) -> Op[int]:
        yield Statement("SELECT 1")
        return tx.bump(user)

    with caplog.at_level(logging.CRITICAL, "parlance.storage"), pytest.raises(Poison):
        await lite.change((), sneaky)
    assert await lite.change([user], sneaky) == 1


async def test_cancelling_the_waiter_does_not_cancel_the_write(faulty: Faulty) -> None:
    world, engine, _ = faulty
    engine.gate.clear()
    published: list[object] = []
    waiting = asyncio.create_task(
        world.store.change((), partial(create_user, tenant=1, name="Ann"), published.append)
    )
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    engine.gate.set()
    await world.user("Bob")
    assert await world.store.read(user_by_name(1, "Ann")) is not None
    assert len(published) == 1, "it happened, so others hear of it"


async def test_publishing_comes_before_the_waiter_goes_on_and_may_fail(
    lite: Store, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []
    await lite.change((), partial(create_user, tenant=1, name="Ann"), lambda u: order.append("p"))
    order.append("w")
    assert order == ["p", "w"]

    def fail(user: object) -> None:
        raise RuntimeError("no subscribers")

    with caplog.at_level(logging.CRITICAL, "parlance.storage"):
        made = await lite.change((), partial(create_user, tenant=1, name="Bob"), fail)
    assert made.name == "Bob"


async def test_a_settle_that_raises_does_not_stop_the_others(
    lite: Store, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(lite)
    user = await world.user()
    conv = await world.conv([user])

    class Angry(Append):
        def settle(self, error: StorageError | None) -> None:
            raise RuntimeError("oh no")

    with caplog.at_level(logging.CRITICAL, "parlance.storage"):
        futures = [world.submit(conv, user)]
        lite.submit(Angry(conv, user, cid(), 0, "angry"))
        futures.append(world.submit(conv, user))
        assert [s.seq for s in await asyncio.gather(*futures)] == [1, 3]
        await world.send(conv, user)
    assert (lite.stats.queued_rows, lite.stats.failed_settles) == (0, 1)
    with pytest.raises(TypeError):
        lite.submit(Write())


async def test_one_batch_fills_while_another_commits(faulty: Faulty) -> None:
    world, engine, _ = faulty
    user = await world.user()
    conv = await world.conv([user])
    before = engine.transactions
    engine.gate.clear()
    futures = [world.submit(conv, user)]
    await asyncio.sleep(0.01)
    futures += [world.submit(conv, user) for _ in range(99)]
    await asyncio.sleep(0.01)
    assert engine.transactions == before + 1
    engine.gate.set()
    await asyncio.gather(*futures)
    assert engine.transactions == before + 2


# the end


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    store = await Store.open(StoreOptions(url=url))
    world = World(store)
    user = await world.user()
    conv = await world.conv([user])
    futures = [world.submit(conv, user) for _ in range(100)]
    await store.close(5)
    assert [f.result().seq for f in futures] == list(range(1, 101))
    with pytest.raises(StoreUnavailable):
        world.submit(conv, user)
    with pytest.raises(StoreUnavailable):
        await world.all_messages(conv)


async def test_what_cannot_be_committed_at_the_end_is_spilled_and_replays_once_in_order(
    tmp_path: Path,
) -> None:
    store, engine, _ = await open_faulty(tmp_path, StoreOptions(url="", batch_rows=3))
    world = World(store)
    user = await world.user()
    conv = await world.conv([user])
    await world.send(conv, user, "stored", cid_=cid(1))
    engine.away = StoreUnavailable("gone")
    futures = [world.submit(conv, user, text, cid(n)) for n, text in enumerate("abcdef", 2)]
    await asyncio.sleep(0.01)
    await store.close(0.01)
    errors = [future.exception() for future in futures]
    assert [type(e) for e in errors] == [OutcomeUnknown] * 3 + [StoreUnavailable] * 3
    assert (tmp_path / FILE_NAME).exists()

    url = f"sqlite:///{tmp_path}/faulty.db"
    again = await Store.open(StoreOptions(url=url))
    world = World(again)
    assert not (tmp_path / FILE_NAME).exists()
    letters = await again.read(unplayed_dead(10))
    assert len(letters) == 6
    # The sender of "c" came back meanwhile and repeated it.
    await world.send(conv, user, "c", cid_=cid(4))
    assert await again.replay_all() == (6, 0)
    assert [m.text for m in await world.all_messages(conv)] == ["stored", *"cabdef"]
    assert await again.replay_all() == (0, 0), "a second replay has nothing to do"
    listed = await again.read(list_dead(10))
    assert [letter.id for letter in listed] == [letter.id for letter in reversed(letters)]
    assert all(letter.replayed_at for letter in listed)
    assert await again.read(list_dead(10, listed[-2].id)) == listed[-1:]
    assert await again.read(show_dead(listed[0].id)) == listed[0]
    assert await again.change((), lambda tx: drop_dead(tx, [x.id for x in listed])) == 6
    assert await again.read(list_dead(10)) == []
    await again.close(1)


async def test_a_replay_that_fails_again_leaves_one_letter(lite: Store) -> None:
    world = World(lite)
    user = await world.user()
    conv = await world.conv([user])
    with pytest.raises(Poison):
        await world.send(conv, user, BAD_TEXT)
    assert await lite.replay_all() == (0, 1)
    (old, new) = sorted(await lite.read(list_dead(10)), key=lambda x: x.id)
    assert old.replayed_at
    assert old.payload == new.payload
    assert await lite.read(unplayed_dead(10)) == [new]


async def test_a_file_that_was_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    store, engine, _ = await open_faulty(tmp_path)
    world = World(store)
    engine.away = StoreUnavailable("gone")
    futures = [world.submit(new_id(), 1, text) for text in "ab"]
    await asyncio.sleep(0.01)
    await store.close(0.01)
    assert all(isinstance(f.exception(), StorageError) for f in futures)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-20])
    again = await Store.open(StoreOptions(url=f"sqlite:///{tmp_path}/faulty.db"))
    assert len(await again.read(list_dead(10))) == 1
    await again.close(1)
