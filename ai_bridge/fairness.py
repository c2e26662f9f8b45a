"""The order of waiting turns: fair over tenants by cost, then over users in turn.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each tenant has a virtual time that
grows by the cost of what it starts over its weight, and the least one goes next. Against deficit
round robin it gives the same shares, needs no quantum, and a tenant that comes new is next at once
whatever the others have queued. A start costs O(log tenants).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush, heapreplace, merge
from itertools import count

from ai_bridge.turn import Turn


class Entry:
    """A waiting turn. `ready_at`: since when only others keep it waiting; None while its own
    user's turns do."""

    __slots__ = ("cost", "lane", "ready_at", "turn", "user")

    def __init__(self, turn: Turn, user: User, lane: Hashable, cost: float) -> None:
        self.turn = turn
        self.user = user
        self.lane = lane
        self.cost = cost
        self.ready_at: float | None = None


class User:
    """A person or program of a tenant; its turns start in the order in which they came."""

    __slots__ = ("joined", "key", "queue", "ring", "running", "tenant")

    def __init__(self, key: tuple[int, int], tenant: Tenant) -> None:
        self.key = key
        self.tenant = tenant
        self.queue: deque[Entry] = deque()
        self.running = 0
        self.ring: Ring | None = None
        self.joined = 0


class Tenant:
    """A paying party. `vtime` is in tokens over weight."""

    __slots__ = ("most", "number", "queued", "rings", "running", "users", "vtime", "weight")

    def __init__(self, number: int, weight: float, most: int) -> None:
        self.number = number
        self.weight = weight
        self.most = most
        self.running = 0
        self.queued = 0
        self.users = 0  # with waiting turns
        self.vtime = 0.0
        self.rings: list[Ring] = []

    @property
    def full(self) -> bool:
        return self.most > 0 and self.running >= self.most


class Ring:
    """The users of one tenant whose next turn is of one lane and may start; served in turn."""

    __slots__ = ("at", "lane", "number", "tenant", "users")

    def __init__(self, tenant: Tenant, lane: Lane) -> None:
        self.tenant = tenant
        self.lane = lane
        self.users: OrderedDict[User, None] = OrderedDict()
        self.number = 0  # of its entry in the lane's heap, 0 for none
        self.at = 0.0


class Lane:
    """Turns that fit or do not fit together: those of one model and priority."""

    __slots__ = ("excused_at", "heap", "key", "rings")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.rings: dict[int, Ring] = {}
        self.heap: list[tuple[float, int, Ring]] = []
        self.excused_at = 0.0


class VirtualTime:
    """How far the tenants served last have come; one for all priorities."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def charge(self, tenant: Tenant, cost: float) -> None:
        """A turn of the tenant starts, from the queue or past an empty one."""
        if not any(ring.number for ring in tenant.rings):
            tenant.vtime = max(tenant.vtime, self.now)
        self.now = max(self.now, tenant.vtime)
        tenant.vtime += cost / tenant.weight


class FairQueue:
    """Waiting turns of one priority. Owned by `Admission`, which says who may start."""

    def __init__(self, time: VirtualTime) -> None:
        self.lanes: dict[Hashable, Lane] = {}
        self.queued = 0
        self._held: dict[Tenant, dict[User, None]] = {}
        self._time = time
        self._numbers = count(1)

    def append(self, entry: Entry) -> None:
        """Add a turn behind those of its user; `join` makes the user a candidate."""
        user = entry.user
        if not user.queue:
            user.tenant.users += 1
            self._held.setdefault(user.tenant, {})[user] = None
        user.queue.append(entry)
        user.tenant.queued += 1
        self.queued += 1

    def join(self, user: User, now: float, *, first: bool = False) -> None:
        """The user's oldest turn may start as soon as there is room."""
        if user.ring is not None or not user.queue:
            return
        self._unhold(user)
        entry = user.queue[0]
        entry.ready_at = now
        ring = self._ring(user.tenant, entry.lane)
        user.ring = ring
        user.joined = next(self._numbers) * (-1 if first else 1)
        ring.users[user] = None
        if first:
            ring.users.move_to_end(user, last=False)
        self.enter(ring)

    def enter(self, ring: Ring) -> None:
        """Put a ring among the candidates of its lane, if it is none yet and may be one."""
        tenant = ring.tenant
        if ring.number or not ring.users or tenant.full:
            return
        if not any(other.number for other in tenant.rings):
            tenant.vtime = max(tenant.vtime, self._time.now)  # nothing is saved up while away
        self._push(ring)

    def first(self, lane: Lane) -> Ring | None:
        """Return the ring whose tenant is next in a lane."""
        heap = lane.heap
        while heap:
            at, number, ring = heap[0]
            if number != ring.number:
                heappop(heap)
            elif not ring.users or ring.tenant.full:
                ring.number = 0
                heappop(heap)
            elif at < ring.tenant.vtime:  # it was served in another lane
                heappop(heap)
                self._push(ring)
            else:
                return ring
        return None

    def take(self, ring: Ring, *, newest: bool) -> Entry:
        """Take the next turn of a ring and charge its tenant; the user is then out of the ring."""
        user = next(reversed(ring.users)) if newest else next(iter(ring.users))
        entry = user.queue[0]
        self._time.charge(ring.tenant, entry.cost)
        self._remove(entry)
        if ring.users:
            heappop(ring.lane.heap)  # `first` has just found it on top
            self._push(ring)
        return entry

    def withdraw(self, entry: Entry, now: float) -> None:
        """Take a waiting turn out, wherever it stands."""
        user = entry.user
        was_candidate = user.ring is not None
        self._remove(entry)
        if was_candidate:
            self.join(user, now)

    def entries(self) -> Iterator[Entry]:
        """Return all waiting turns; user by user."""
        for lane in self.lanes.values():
            for ring in lane.rings.values():
                for user in ring.users:
                    yield from user.queue
        for users in self._held.values():
            for user in users:
                yield from user.queue

    def in_order(self, *, newest: bool) -> Iterator[Entry]:
        """Return the waiting turns as they would start if every lane had the same room."""
        tenants = set(self._held)
        for lane in self.lanes.values():
            tenants |= {ring.tenant for ring in lane.rings.values()}
        # Those who hold no candidate would come in as new ones, behind the others.
        heap = [
            (
                max(tenant.vtime, self._time.now),
                _number_of(tenant),
                tenant.number,
                tenant,
                self._turns(tenant, newest),
            )
            for tenant in tenants
        ]
        heapify(heap)
        numbers = count(next(self._numbers))
        while heap:
            at, _, _, tenant, turns = heap[0]
            entry = next(turns, None)
            if entry is None:
                heappop(heap)
                continue
            yield entry
            at += entry.cost / tenant.weight
            heapreplace(heap, (at, next(numbers), tenant.number, tenant, turns))

    def _turns(self, tenant: Tenant, newest: bool) -> Iterator[Entry]:
        """Return the turns of a tenant, users in turn."""
        rings = [ring for ring in tenant.rings if self.lanes.get(ring.lane.key) is ring.lane]
        if newest:
            users = merge(*(reversed(ring.users) for ring in rings), key=lambda user: -user.joined)
        else:
            users = merge(*(iter(ring.users) for ring in rings), key=lambda user: user.joined)
        more: list[User] = []
        for some in (users, iter(self._held.get(tenant, ()))):
            for user in some:
                yield user.queue[0]
                if len(user.queue) > 1:
                    more.append(user)
        depth = 1
        while more:
            for user in more:
                yield user.queue[depth]
            depth += 1
            more = [user for user in more if len(user.queue) > depth]

    def _remove(self, entry: Entry) -> None:
        """Take a turn out; its user is then in no ring, and held if it has more."""
        user, tenant = entry.user, entry.user.tenant
        user.queue.remove(entry)
        tenant.queued -= 1
        self.queued -= 1
        ring = user.ring
        if ring is not None:
            user.ring = None
            del ring.users[user]
            if not ring.users:
                self._drop(ring)
        if user.queue:
            self._held.setdefault(tenant, {})[user] = None
        else:
            tenant.users -= 1
            self._unhold(user)

    def _unhold(self, user: User) -> None:
        users = self._held.get(user.tenant)
        if users is not None and user in users:
            del users[user]
            if not users:
                del self._held[user.tenant]

    def _ring(self, tenant: Tenant, key: Hashable) -> Ring:
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        ring = lane.rings.get(tenant.number)
        if ring is None:
            ring = lane.rings[tenant.number] = Ring(tenant, lane)
            tenant.rings.append(ring)
        return ring

    def _drop(self, ring: Ring) -> None:
        ring.number = 0  # its entry in the heap is dead and goes when it comes up
        ring.tenant.rings.remove(ring)
        lane = ring.lane
        del lane.rings[ring.tenant.number]
        if not lane.rings:
            del self.lanes[lane.key]
        elif len(lane.heap) > 2 * len(lane.rings) + 16:
            lane.heap = [one for one in lane.heap if one[1] == one[2].number]
            heapify(lane.heap)

    def _push(self, ring: Ring) -> None:
        ring.number = next(self._numbers)
        heappush(ring.lane.heap, (ring.tenant.vtime, ring.number, ring))


def _number_of(tenant: Tenant) -> int:
    return min((ring.number for ring in tenant.rings if ring.number), default=2**62)
