"""Records of answers without a conversation: batched, repeatable, kept alive, never half done."""

from collections.abc import Callable
from typing import Any

import pytest

from protocol.codes import Code, EndReason
from server import turn_records
from server.turn_records import TurnRecords, record_cid
from storage.errors import StoreOverloaded
from storage.rows import EndTurn, NewTurn, TurnStatus
from storage.turns import get_turn
from tests.server.http.conftest import Site
from tests.server.http.openai_site import records
from tests.support.eventually import eventually


@pytest.fixture
def book(site: Site) -> TurnRecords:
    return TurnRecords(site.core)


def begin(site: Site) -> NewTurn:
    return site.core.turns.new(1, 7, 0)


def ended(turn: NewTurn) -> EndTurn:
    return EndTurn(sid=turn.sid, status=int(TurnStatus.DONE), reason=int(EndReason.STOP))


async def written(site: Site, book: TurnRecords) -> None:
    """Wait until nothing waits for the store."""
    await eventually(lambda: not len(book))
    await site.core.finish(1.0)


async def test_many_records_share_few_commits(site: Site, book: TurnRecords) -> None:
    before = site.core.store.stats.rows
    turns = [begin(site) for _ in range(1200)]
    for turn in turns:
        book.begin(turn)
        book.end(ended(turn))
    await records(site, 100)
    await written(site, book)
    assert site.core.store.stats.rows - before < 20
    for turn in turns:
        row = await site.core.store.read(get_turn(turn.sid))
        assert row is not None
        assert (row.status, row.cid) == (TurnStatus.DONE, record_cid(turn.sid))


async def test_no_end_overtakes_its_beginning(
    site: Site, book: TurnRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_records, "BATCH", 2)
    turns = [begin(site) for _ in range(9)]
    for turn in turns:
        book.begin(turn)
    for turn in reversed(turns):
        book.end(ended(turn))
    assert len(await records(site, 9)) == 9


async def test_a_commit_that_runs_twice_stores_each_record_once(
    site: Site, book: TurnRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to a commit may be lost: the batch then runs again over its own rows."""
    change = site.core.store.change

    async def twice(feeds: Any, make: Callable[..., Any]) -> Any:
        await change(feeds, make)
        return await change(feeds, make)

    monkeypatch.setattr(site.core.store, "change", twice)
    turn = begin(site)
    book.begin(turn)
    book.end(ended(turn))
    (row,) = await records(site, 1)
    assert row.status == TurnStatus.DONE
    assert book.lost == 0


async def test_a_store_without_room_is_waited_for(
    site: Site, book: TurnRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_records, "WRITE_AGAIN_S", 0)
    change = site.core.store.change
    refusals = 3

    async def full(feeds: Any, make: Callable[..., Any]) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise StoreOverloaded("the write queue is full", 50)
        return await change(feeds, make)

    monkeypatch.setattr(site.core.store, "change", full)
    book.begin(turn := begin(site))
    book.end(ended(turn))
    (row,) = await records(site, 1)
    assert (row.status, refusals, book.lost) == (TurnStatus.DONE, 0, 0)


async def test_running_turns_are_kept_alive(site: Site, book: TurnRecords) -> None:
    turn = NewTurn(sid=site.core.new_id(), tenant=1, user=7, persona=0, node="gone", lease_until=1)
    book.begin(turn)
    await written(site, book)
    book._renew()
    await site.core.finish(1.0)
    row = await site.core.store.read(get_turn(turn.sid))
    assert row is not None
    assert row.lease_until > site.core.now_ms()
    assert await site.core.turns.recover() == 0, "somebody works on it"
    book.end(ended(turn))
    await records(site, 1)
    book._renew()
    assert site.core.busy == 0, "nothing left to keep alive"


async def test_what_a_dead_process_left_is_ended(site: Site, book: TurnRecords) -> None:
    turn = NewTurn(sid=site.core.new_id(), tenant=1, user=7, persona=0, node="gone", lease_until=1)
    book.begin(turn)
    await written(site, book)
    assert await site.core.turns.recover() == 1
    (row,) = await records(site, 1)
    assert row.status == TurnStatus.INTERRUPTED
    assert row.error_code == str(int(Code.INTERNAL))
    book.end(ended(turn))  # too late: the first end wins
    await site.core.finish(1.0)
    (row,) = await records(site, 1)
    assert row.status == TurnStatus.INTERRUPTED
