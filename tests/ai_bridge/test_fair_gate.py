"""Places among many tenants: who is let in, who waits, who is sent away."""

from __future__ import annotations

import asyncio

import pytest

from ai_bridge.fair_gate import FairGate, GateFull, UserFull


class Visitors:
    """Work that goes through a gate and stays until it is told to leave."""

    def __init__(self, gate: FairGate) -> None:
        self.gate = gate
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, tenant: int, user: int = 0) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._visit(name, tenant, user))
        await self.settle()

    async def _visit(self, name: str, tenant: int, user: int) -> None:
        async with self.gate.enter(tenant, user or hash(name)):
            self.inside.append(name)
            await self._leave[name].wait()

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await self.settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name]])
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_tenant_with_many_waiting_does_not_delay_another() -> None:
    visitors = Visitors(FairGate(1, 100, 10))
    for number in range(50):
        await visitors.come(f"many {number}", tenant=1)
    await visitors.come("one", tenant=2)
    await visitors.go("many 0")
    await visitors.go("many 1")
    assert visitors.inside == ["many 0", "many 1", "one"]


async def test_those_of_one_tenant_come_in_their_order() -> None:
    visitors = Visitors(FairGate(2, 10, 10))
    for name in "abcd":
        await visitors.come(name, tenant=1)
    await visitors.go("b")
    await visitors.go("a")
    assert visitors.inside == ["a", "b", "c", "d"]
    assert (visitors.gate.running, visitors.gate.waiting) == (2, 0)


async def test_when_it_is_full_the_longest_queue_gives_way_to_a_shorter_one() -> None:
    visitors = Visitors(FairGate(1, 3, 10))
    for name in "abcd":
        await visitors.come(name, tenant=1)
    await visitors.come("e", tenant=1)
    with pytest.raises(GateFull):
        await visitors.tasks["e"]
    await visitors.come("other", tenant=2)
    with pytest.raises(GateFull):
        await visitors.tasks["d"]
    assert (visitors.gate.waiting, visitors.gate.refused) == (3, 2)
    await visitors.come("third", tenant=3)
    with pytest.raises(GateFull):
        await visitors.tasks["c"]
    await visitors.come("last", tenant=4)
    with pytest.raises(GateFull):
        await visitors.tasks["last"]


async def test_a_user_holds_only_so_many_places_waiting_ones_too() -> None:
    visitors = Visitors(FairGate(1, 10, 2))
    await visitors.come("a", tenant=1, user=7)
    await visitors.come("b", tenant=1, user=7)
    await visitors.come("c", tenant=1, user=7)
    with pytest.raises(UserFull):
        await visitors.tasks["c"]
    await visitors.come("same number elsewhere", tenant=2, user=7)
    assert visitors.gate.waiting == 2
    await visitors.go("a")
    await visitors.come("d", tenant=1, user=7)
    assert not visitors.tasks["d"].done()


async def test_who_gives_up_waiting_leaves_no_hole() -> None:
    visitors = Visitors(FairGate(1, 10, 10))
    for name in "abc":
        await visitors.come(name, tenant=1)
    await visitors.cancel("b")
    await visitors.go("a")
    assert visitors.inside == ["a", "c"]
    await visitors.cancel("c")
    assert (visitors.gate.running, visitors.gate.waiting) == (0, 0)


async def test_a_place_that_comes_together_with_the_end_is_handed_on() -> None:
    visitors = Visitors(FairGate(1, 10, 10))
    for name in "abc":
        await visitors.come(name, tenant=1)
    visitors._leave["a"].set()
    for _ in range(10):
        if visitors.gate.waiting == 1:
            break
        await asyncio.sleep(0)
    visitors.tasks["b"].cancel()  # its place has been given to it, and it has not run yet
    await visitors.settle()
    assert visitors.inside == ["a", "c"]
    await visitors.go("c")
    assert (visitors.gate.running, visitors.gate.waiting) == (0, 0)
