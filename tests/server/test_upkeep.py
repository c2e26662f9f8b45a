"""Work that is due again and again goes on beside the deadlines, whatever the store does."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from server.upkeep import Upkeep
from storage.errors import StoreUnavailable


class World:
    """Time by hand, and a work that ends when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begun = 0
        self.answers: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.tasks: list[asyncio.Task[object]] = []
        self.upkeep = Upkeep("purge", 10.0, self.work, self.spawn, lambda: self.now)

    async def work(self) -> None:
        self.begun += 1
        error = await self.answers.get()
        if error is not None:
            raise error

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    async def at(self, now: float) -> int:
        """Look at this time; return how often the work was begun by then."""
        self.now = now
        self.upkeep.look()
        await asyncio.sleep(0)
        return self.begun

    async def ends(self, error: Exception | None = None) -> None:
        self.answers.put_nowait(error)
        await self.tasks[-1]


async def test_work_is_begun_when_it_is_due() -> None:
    world = World()
    assert [await world.at(now) for now in (1.0, 9.0, 10.0)] == [0, 0, 1]
    await world.ends()
    assert [await world.at(now) for now in (11.0, 19.0, 20.0)] == [1, 1, 2]
    await world.ends()


async def test_work_that_hangs_holds_up_nothing_and_is_not_begun_twice() -> None:
    world = World()
    assert [await world.at(now) for now in (10.0, 20.0, 500.0)] == [1, 1, 1]
    await world.ends()
    assert await world.at(501.0) == 2
    await world.ends()


async def test_a_store_that_is_away_is_tried_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    await world.at(10.0)
    await world.ends(StoreUnavailable("no answer in time"))
    assert [one.message for one in caplog.records] == ["upkeep.failed"]
    assert [await world.at(now) for now in (11.0, 20.0)] == [1, 2]
    await world.ends()
