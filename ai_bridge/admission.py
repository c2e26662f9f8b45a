"""Who may start, who waits, who is refused: bounded and fair.

People come before programs, and those before work that nobody waits for. Within a priority the
order is that of `fairness.py`, so a tenant with thousands of waiting turns delays another's single
one by at most one start. Pure bookkeeping: the clock is given, nothing sleeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator

from ai_bridge.config import BridgeConfig
from ai_bridge.errors import BridgeError
from ai_bridge.fairness import Entry, FairQueue, Lane, Ring, Tenant, User, VirtualTime
from ai_bridge.tokens import message_tokens
from ai_bridge.turn import Turn
from ai_bridge.types import Priority, TurnRequest
from protocol.codes import Code

TENANT_SHARE = 0.8
IDLE_RECORDS = 4_096
"""Idle tenants whose consumption is remembered; one that is forgotten is only a bit early once."""
RATE_SAMPLES = 64
MIN_RATE_SAMPLES = 8
DEFAULT_RETRY_MS = 2_000
MAX_RETRY_MS = 60_000
MAX_RANKED = 200
"""Places further back are not told."""
COST_MESSAGES = 20

STANDING_S = 1.0
STALE_S = 2.0
MIN_STARTS = 8
"""Per second. Whoever starts fewer has long waits by nature; there the estimate bounds them."""

LAG_MS = 50.0
LAG_CUT = 0.9
LAG_GROWTH = 1.05
MIN_STREAMS = 16


def turn_cost(request: TurnRequest, answer_tokens: int) -> int:
    """Return about how many tokens a turn takes; old messages rarely reach the model."""
    recent = request.history[-COST_MESSAGES:]
    prompt = sum(map(message_tokens, recent))
    if request.caller_tools is not None:
        prompt += request.caller_tools.tokens
    return prompt + (request.params.max_tokens or answer_tokens)


def _model_of(turn: Turn) -> Hashable:
    params = turn.request.params
    return (params.provider, params.model) if params.provider else params.model


def _never(_turn: Turn) -> bool:
    return False


class Admission:
    """Counts running turns and keeps the waiting ones. Owned by the bridge.

    Args:
        has_room: tells whether a provider of this turn has a free place.
        clock: seconds, any origin.
        lane: turns of one lane and priority have room or have none together.
        is_closed: tells whether the providers of a turn all want to be left alone; that wait is
            not the queue's.

    Attributes:
        limit: running turns that are allowed now, at most `max_streams`.
        standing: more come than go: the newest are served first, until nobody waits for long.
    """

    def __init__(
        self,
        config: BridgeConfig,
        *,
        has_room: Callable[[Turn], bool],
        clock: Callable[[], float],
        lane: Callable[[Turn], Hashable] = _model_of,
        is_closed: Callable[[Turn], bool] = _never,
    ) -> None:
        self._config = config
        self._has_room = has_room
        self._lane = lane
        self._is_closed = is_closed
        self._clock = clock
        self._time = VirtualTime()
        self._queues = {priority: FairQueue(self._time) for priority in Priority}
        self._users: dict[Priority, dict[tuple[int, int], User]] = {p: {} for p in Priority}
        self._tenants: dict[int, Tenant] = {}
        self._entries: dict[int, Entry] = {}
        self._finished: deque[float] = deque(maxlen=RATE_SAMPLES)
        self._starts = 0
        self._least_wait_s = 0.0
        self._queued_tenants = 0
        self.limit = float(config.max_streams)
        self.standing = False
        self.running = 0
        self.queued = 0

    # --- coming and going --------------------------------------------------------------------

    def offer(self, turn: Turn) -> bool:
        """Return True if the turn may start now (it then counts as running), False if it waits.

        One that waits may be next all the same: ask `pop` after it.

        Raises:
            BridgeError: BUSY, or RATE for the user's own share, with the wait that is advised;
                nothing was kept.
        """
        user = self._user(turn)
        queue = self._queues[turn.request.priority]
        cost = turn_cost(turn.request, self._config.answer_tokens)
        lane = self._lane(turn)
        overtakes = bool(user.queue) or any(
            lane in other.lanes
            for priority, other in self._queues.items()
            if priority <= turn.request.priority
        )
        if not overtakes and self._may_begin(user, turn.request.priority) and self._has_room(turn):
            self._time.charge(user.tenant, cost)
            self._begin(user)
            return True
        try:
            self._refuse_if_full(user, turn.request.priority)
        except BridgeError:
            self._forget_idle_user(user, turn.request.priority)
            raise
        entry = self._entries[turn.id] = Entry(turn, user, lane, cost)
        queue.append(entry)
        self.queued += 1
        self._queued_tenants += user.tenant.queued == 1
        self._join(user, turn.request.priority)
        return False

    def pop(self) -> Turn | None:
        """Return the next turn that may start now (it then counts as running), else None."""
        if self.queued == 0 or self.running >= int(self.limit):
            return None
        for priority, queue in self._queues.items():
            ring = self._best(queue)
            if ring is not None:
                return self._start(queue.take(ring, newest=self.standing), priority)
        return None

    def _best(self, queue: FairQueue) -> Ring | None:
        best: Ring | None = None
        for lane in list(queue.lanes.values()):
            ring = queue.first(lane)
            if ring is None or (best is not None and best.tenant.vtime <= ring.tenant.vtime):
                continue
            if self._has_room(next(iter(ring.users)).queue[0].turn):
                best = ring
        return best

    def _start(self, entry: Entry, priority: Priority) -> Turn:
        del self._entries[entry.turn.id]
        self._note_wait(entry, priority)
        self._take_off(entry)
        self._begin(entry.user)
        # Where the newest are served first, who was just served goes to the far end.
        self._join(entry.user, priority, first=self.standing)
        return entry.turn

    def withdraw(self, turn: Turn) -> bool:
        """Take a waiting turn out of the queue; False if it does not wait here."""
        entry = self._entries.pop(turn.id, None)
        if entry is None:
            return False
        self._queues[turn.request.priority].withdraw(entry, self._clock())
        self._take_off(entry)
        self._forget_idle_user(entry.user, turn.request.priority)
        return True

    def release(self, turn: Turn) -> None:
        """A running turn ended."""
        user = self._user(turn)
        tenant = user.tenant
        was_full = tenant.full
        user.running -= 1
        tenant.running -= 1
        self.running -= 1
        if self.queued:
            self._finished.append(self._clock())
        if was_full and not tenant.full:
            for ring in tenant.rings:
                for queue in self._queues.values():
                    if queue.lanes.get(ring.lane.key) is ring.lane:
                        queue.enter(ring)
        self._join(user, turn.request.priority)
        self._forget_idle_user(user, turn.request.priority)

    # --- once a second -----------------------------------------------------------------------

    def sweep(self, lag_ms: float) -> list[Turn]:
        """Judge the last second; return turns that waited too long and should be refused."""
        self._adapt(lag_ms)
        now = self._clock()
        begins = self._starts >= MIN_STARTS and self._least_wait_s > STANDING_S
        self._starts = 0
        lanes = [
            lane
            for priority, queue in self._queues.items()
            for lane in self._open_lanes(queue, now)
            if priority is not Priority.BACKGROUND
        ]
        if not begins and not self.standing:
            return []
        waits = [pair for lane in lanes for pair in _waits(lane, now)]
        # The newest never wait long, so only an empty queue tells that the rush is over.
        self.standing = begins or any(wait_s > STANDING_S for _, wait_s in waits)
        return [turn for turn, wait_s in waits if self.standing and wait_s > STALE_S]

    def _open_lanes(self, queue: FairQueue, now: float) -> Iterator[Lane]:
        """Return lanes whose providers take turns; excuse the others, their wait is not ours."""
        for lane in queue.lanes.values():
            if self._is_closed(_first_turn(lane)):
                lane.excused_at = now
            else:
                yield lane

    def _adapt(self, lag_ms: float) -> None:
        """Fewer streams while the loop is late, since each of them makes it later."""
        most = float(self._config.max_streams)
        if lag_ms > LAG_MS:
            used = max(float(self.running), min(most, MIN_STREAMS))
            self.limit = max(min(most, MIN_STREAMS), LAG_CUT * min(self.limit, used))
        else:
            self.limit = min(most, LAG_GROWTH * self.limit + 1)

    def _note_wait(self, entry: Entry, priority: Priority) -> None:
        """Remember the least wait of a second; a standing queue makes everybody wait."""
        if priority is Priority.BACKGROUND or entry.ready_at is None:
            return
        lane = self._queues[priority].lanes.get(entry.lane)
        since = max(entry.ready_at, lane.excused_at if lane is not None else 0.0)
        wait_s = self._clock() - since
        self._least_wait_s = min(self._least_wait_s, wait_s) if self._starts else wait_s
        self._starts += 1

    def reconfigure(self, config: BridgeConfig) -> None:
        """Use other limits from now on; nobody who waits or runs is sent away."""
        self._config = config
        self.limit = float(config.max_streams)
        shares = {share.tenant: share for share in config.tenants}
        for tenant in self._tenants.values():
            share = shares.get(tenant.number)
            tenant.weight = share.weight if share else 1.0
            tenant.most = share.max_streams if share else 0

    # --- seeing inside -----------------------------------------------------------------------

    def waiting(self) -> list[Turn]:
        """Return all waiting turns, in no promised order."""
        return [entry.turn for entry in self._entries.values()]

    def depth(self) -> dict[str, int]:
        """Return how many wait, by priority."""
        return {priority.name.lower(): queue.queued for priority, queue in self._queues.items()}

    def in_order(self) -> Iterator[Turn]:
        """Return the waiting turns as they would start if all limits were equal."""
        for queue in self._queues.values():
            for entry in queue.in_order(newest=self.standing):
                yield entry.turn

    # --- inside ------------------------------------------------------------------------------

    def _turns_ahead(self, user: User, priority: Priority, own_ahead: int) -> int:
        """Estimate who starts before a user's (own_ahead+1)th turn: users in turn, tenants too."""
        tenant = user.tenant
        others = max(0, tenant.queued - len(user.queue))
        peers = max(0, tenant.users - bool(user.queue))
        in_tenant = own_ahead + min(others, (own_ahead + 1) * peers)
        strangers = max(0, self.queued - tenant.queued)
        rivals = self._queued_tenants - (tenant.queued > 0)
        ahead = in_tenant + min(strangers, (in_tenant + 1) * rivals)
        higher = sum(queue.queued for rank, queue in self._queues.items() if rank < priority)
        return max(ahead, min(self.queued, higher))

    def _limits(self, priority: Priority) -> tuple[int, int]:
        """Return how many turns of a user may run and wait."""
        config = self._config
        if priority is Priority.FACADE:
            return config.facade_running, config.facade_queued
        return config.user_running, config.user_queued

    def _may_begin(self, user: User, priority: Priority) -> bool:
        return (
            self.running < int(self.limit)
            and user.running < self._limits(priority)[0]
            and not user.tenant.full
        )

    def _join(self, user: User, priority: Priority, *, first: bool = False) -> None:
        if user.queue and user.running < self._limits(priority)[0]:
            self._queues[priority].join(user, self._clock(), first=first)

    def _begin(self, user: User) -> None:
        user.running += 1
        user.tenant.running += 1
        self.running += 1

    def _take_off(self, entry: Entry) -> None:
        self.queued -= 1
        self._queued_tenants -= entry.user.tenant.queued == 0
        if self.queued == 0:
            self._finished.clear()  # the rate of a standing queue only

    def _refuse_if_full(self, user: User, priority: Priority) -> None:
        config = self._config
        running, queued = self._limits(priority)
        wait_s = self._estimated_wait_s(user, priority)
        retry_ms = DEFAULT_RETRY_MS
        if wait_s is not None:
            retry_ms = min(MAX_RETRY_MS, max(1000, round(wait_s * 1000)))
        if len(user.queue) >= queued:
            text = (
                f"{user.running} of your answers are being written and {len(user.queue)} wait. "
                "Let one end or cancel it, then ask again."
            )
            raise BridgeError(Code.RATE, text, retry_ms)
        full = self.queued >= config.queue
        full = full or user.tenant.queued >= max(1, round(config.queue * TENANT_SHARE))
        saturated = user.running < running
        too_slow = saturated and wait_s is not None and wait_s > config.queue_wait_s
        if full or too_slow:
            raise busy(retry_ms)

    def _estimated_wait_s(self, user: User, priority: Priority) -> float | None:
        """Return the wait of one more turn of this user; None while the rate is unknown."""
        if len(self._finished) < MIN_RATE_SAMPLES:
            return None
        span_s = self._clock() - self._finished[0]
        if span_s <= 0:
            return None
        ahead = self._turns_ahead(user, priority, len(user.queue))
        return (ahead + 1) * span_s / len(self._finished)

    def _user(self, turn: Turn) -> User:
        request = turn.request
        key = (request.tenant, request.user)
        users = self._users[request.priority]
        user = users.get(key)
        if user is None:
            user = users[key] = User(key, self._tenant(request.tenant))
        return user

    def _tenant(self, number: int) -> Tenant:
        tenant = self._tenants.get(number)
        if tenant is None:
            if len(self._tenants) >= IDLE_RECORDS + self.queued + self.running:
                self._forget_idle_tenants()
            share = next((one for one in self._config.tenants if one.tenant == number), None)
            tenant = Tenant(number, *((share.weight, share.max_streams) if share else (1.0, 0)))
            self._tenants[number] = tenant
        return tenant

    def _forget_idle_user(self, user: User, priority: Priority) -> None:
        if not user.queue and not user.running:
            self._users[priority].pop(user.key, None)

    def _forget_idle_tenants(self) -> None:
        kept = {id(user.tenant) for users in self._users.values() for user in users.values()}
        idle = [number for number, tenant in self._tenants.items() if id(tenant) not in kept]
        for number in idle[: max(1, IDLE_RECORDS // 2)]:
            del self._tenants[number]


def busy(retry_ms: int) -> BridgeError:
    text = "Too many people are asking right now. Ask again in a moment."
    return BridgeError(Code.BUSY, text, retry_ms)


def _first_turn(lane: Lane) -> Turn:
    ring = next(iter(lane.rings.values()))
    return next(iter(ring.users)).queue[0].turn


def _waits(lane: Lane, now: float) -> Iterator[tuple[Turn, float]]:
    """Return the turns that only others keep waiting, and for how long."""
    for ring in lane.rings.values():
        for user in ring.users:
            entry = user.queue[0]
            if entry.ready_at is not None:
                yield entry.turn, now - max(entry.ready_at, lane.excused_at)
