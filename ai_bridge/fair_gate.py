"""A bound on work of one kind for many tenants: who waits is let in fairly."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class GateFull(Exception):
    """As many as may wait are waiting already."""


class UserFull(Exception):
    """The user has as much work inside and waiting as one may have."""


class FairGate:
    """Lets `at_once` in; the others wait, tenants in turn, those of one tenant in order.

    When `waiting` wait already, the tenant that has most of them waiting loses its newest to a
    tenant that has fewer; without such a tenant the newcomer is refused.

    Args:
        per_user: how many of one user may be in or wait; None for any number.

    Attributes:
        running: who is in.
        refused: how many were sent away, also from their place in the queue.
    """

    def __init__(self, at_once: int, waiting: int, per_user: int | None = None) -> None:
        self._at_once = at_once
        self._most = waiting
        self._per_user = per_user
        self._queues: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()
        self._users: Counter[tuple[int, int]] = Counter()
        self.running = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def inside(self) -> int:
        """Who is in or waits."""
        return self.running + self.waiting

    @asynccontextmanager
    async def enter(self, tenant: int, user: int) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Raises:
            UserFull: see there.
            GateFull: too many wait.
        """
        key = (tenant, user)
        if self._per_user is not None and self._users[key] >= self._per_user:
            self.refused += 1
            raise UserFull
        self._users[key] += 1
        try:
            await self._wait(tenant)
            try:
                yield
            finally:
                self._leave()
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]

    async def _wait(self, tenant: int) -> None:
        if self.running < self._at_once:
            self.running += 1
            return
        if self.waiting >= self._most:
            self._make_room(tenant)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._withdraw(tenant, place)
            elif place.exception() is None:
                self._leave()  # it was let in at the same moment
            raise

    def _make_room(self, tenant: int) -> None:
        """Send the newest of the longest queue away.

        Raises:
            GateFull: the newcomer's own queue would be the longest.
        """
        self.refused += 1
        own = len(self._queues.get(tenant, ()))
        longest = max(self._queues, key=lambda each: len(self._queues[each]), default=tenant)
        if len(self._queues.get(longest, ())) <= own + 1:
            raise GateFull
        place = self._queues[longest].pop()
        if not place.done():
            place.set_exception(GateFull())

    def _withdraw(self, tenant: int, place: asyncio.Future[None]) -> None:
        queue = self._queues.get(tenant)
        if queue is None or place not in queue:
            return  # passed over already
        queue.remove(place)
        if not queue:
            del self._queues[tenant]

    def _leave(self) -> None:
        """Hand the place on, or give it back."""
        while self._queues:
            tenant, queue = self._queues.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._queues[tenant] = queue  # behind the others
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1
