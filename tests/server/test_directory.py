"""What the process remembers of conversations."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest

from protocol.codes import ConvKind, Role
from protocol.rows import Conv
from server import directory as module
from server.directory import Conversation, Directory
from server.errors import ServiceError
from storage.errors import StoreUnavailable
from storage.rows import ConvRecord, MemberRow
from storage.store import Store
from tests.support.eventually import eventually


def member(user: int, role: int = Role.MEMBER, **fields: Any) -> MemberRow:
    values: dict[str, Any] = {
        "nick": "",
        "joined": 0,
        "joined_seq": 0,
        "min_seq": 0,
        "mute_until": 0,
        "read": 0,
        "recv": 0,
        "left": False,
        "archived": False,
    }
    return MemberRow(user=user, role=int(role), **(values | fields))


def record(conv: int, *members: MemberRow, title: str = "", tenant: int = 1) -> ConvRecord:
    row = Conv(id=conv, kind=int(ConvKind.GROUP), title=title)
    return ConvRecord(row, tenant, 1, list(members or [member(1)]))


class Shelf:
    """A store of conversations whose reads wait for the test when it wants that."""

    def __init__(self) -> None:
        self.records: dict[int, ConvRecord] = {}
        self.reads: list[list[int]] = []
        self.before_read: Callable[[], Awaitable[None]] | None = None
        self.error: Exception | None = None

    async def read(self, wanted: list[int]) -> list[ConvRecord]:
        self.reads.append(list(wanted))
        found = [self.records[conv] for conv in wanted if conv in self.records]
        await asyncio.sleep(0)
        if self.before_read is not None:
            await self.before_read()
        if self.error is not None:
            raise self.error
        return found


class Caller:
    """Somebody who asks."""

    def __init__(self, user: int, tenant: int = 1) -> None:
        self.user = user
        self.tenant = tenant
        self.device = b""


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(module, "load_conversations", lambda ids: ids)
    return Shelf()


def build(shelf: Shelf, capacity: int = 100) -> Directory:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return Directory(cast(Store, shelf), spawn, capacity)


async def test_wishes_of_one_tick_are_one_read(shelf: Shelf) -> None:
    shelf.records = {n: record(n) for n in range(1, 6)}
    directory = build(shelf)
    found = await asyncio.gather(*[directory.fetch(n) for n in (1, 2, 3, 2, 9)])
    assert [entry and entry.id for entry in found] == [1, 2, 3, 2, None]
    assert shelf.reads == [[1, 2, 3, 9]]
    assert directory.get(1) is found[0]
    assert directory.get(9) is None
    assert (directory.hits, directory.misses) == (1, 4)


async def test_many_wishes_are_read_in_portions(shelf: Shelf, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "LOAD_KEYS", 3)
    shelf.records = {n: record(n) for n in range(1, 8)}
    directory = build(shelf)
    await asyncio.gather(*[directory.fetch(n) for n in range(1, 8)])
    assert [len(keys) for keys in shelf.reads] == [3, 3, 1]


async def test_a_wish_that_comes_during_a_read_joins_it_or_the_next(shelf: Shelf) -> None:
    shelf.records = {1: record(1), 2: record(2)}
    directory = build(shelf)
    late: list[asyncio.Task[Conversation | None]] = []

    async def more() -> None:
        if not late:
            loop = asyncio.get_running_loop()
            late.extend(loop.create_task(directory.fetch(n)) for n in (1, 2))
            await asyncio.sleep(0)

    shelf.before_read = more
    await directory.fetch(1)
    assert [(await task) is not None for task in late] == [True, True]
    assert shelf.reads == [[1], [2]]


async def test_a_change_that_overtakes_a_read_makes_it_read_again(shelf: Shelf) -> None:
    shelf.records = {1: record(1, title="old")}
    directory = build(shelf)

    async def change() -> None:
        if len(shelf.reads) == 1:
            shelf.records = {1: record(1, title="new")}
            directory.set_row(1, shelf.records[1].row)

    shelf.before_read = change
    entry = await directory.fetch(1)
    assert entry is not None
    assert entry.row.title == "new"
    assert shelf.reads == [[1], [1]]


async def test_a_read_that_fails_fails_those_who_wait_and_nobody_later(shelf: Shelf) -> None:
    shelf.records = {1: record(1)}
    shelf.error = StoreUnavailable("away")
    directory = build(shelf)
    results = await asyncio.gather(directory.fetch(1), directory.fetch(1), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    shelf.error = None
    assert await directory.fetch(1) is not None


async def test_unknown_and_forbidden_look_the_same(shelf: Shelf) -> None:
    shelf.records = {1: record(1, member(5)), 2: record(2, member(5), tenant=2)}
    directory = build(shelf)
    reasons = set()
    for conv, caller in ((99, Caller(5)), (1, Caller(6)), (2, Caller(5)), (1, Caller(5, 2))):
        with pytest.raises(ServiceError) as caught:
            await directory.require(conv, caller)
        reasons.add((caught.value.code, caught.value.reason, caught.value.detail))
    assert len(reasons) == 1
    assert (await directory.require(1, Caller(5))).id == 1


async def test_the_cache_is_bounded_and_large_rooms_weigh_more(shelf: Shelf) -> None:
    directory = build(shelf, capacity=10)
    for n in range(1, 21):
        directory.put(record(n))
    assert sum(directory.peek(n) is not None for n in range(1, 21)) == 10
    assert directory.peek(11) is not None
    directory.get(11)
    directory.put(record(30, *[member(n) for n in range(1, 101)]))
    left = [n for n in range(1, 31) if directory.peek(n) is not None]
    assert 30 in left
    assert 11 in left
    assert len(left) <= 5


async def test_members_come_and_go_in_the_cache(shelf: Shelf) -> None:
    directory = build(shelf)
    entry = directory.put(record(1, member(1), member(2, joined_seq=7)))
    assert (entry.floor(1), entry.floor(2)) == (0, 7)
    directory.set_members(1, [member(2, Role.GONE), member(3, min_seq=4)])
    assert set(entry.members) == {1, 3}
    assert entry.floors == {3: 4}
    directory.set_members(99, [member(1)])
    assert directory.peek(99) is None


def test_a_conversation_takes_messages_at_its_rate() -> None:
    entry = Conversation(record(1))
    taken = sum(entry.may_send(20.0, 60.0, 100.0) for _ in range(100))
    assert taken == 60
    assert not entry.may_send(20.0, 60.0, 100.04)
    assert entry.may_send(20.0, 60.0, 100.06)
    assert sum(entry.may_send(20.0, 60.0, 200.0) for _ in range(100)) == 60


async def test_a_waiter_that_gives_up_disturbs_nobody(shelf: Shelf) -> None:
    shelf.records = {1: record(1)}
    directory = build(shelf)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(directory.fetch(1)) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert (await tasks[1]) is not None
    await eventually(lambda: tasks[0].done())
