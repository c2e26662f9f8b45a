"""Who may start, who waits, who is refused: bounded and fair.

The tenant that was served longest ago comes first, within it the user served longest ago, and
within a user the oldest turn. A tenant with thousands of waiting turns thus delays another's
single one by at most one start. Pure bookkeeping: the clock is given, nothing sleeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ai_bridge.config import BridgeConfig
from ai_bridge.errors import BridgeError
from ai_bridge.turn import Turn
from protocol.codes import Code

TENANT_SHARE = 0.8
IDLE_RECORDS = 4_096
"""Idle users whose last service is remembered; forgetting one only moves it forward once."""
RATE_SAMPLES = 64
MIN_RATE_SAMPLES = 8
DEFAULT_RETRY_MS = 2_000
_NEVER_SERVED = 2**62
MAX_RETRY_MS = 60_000


class _User:
    __slots__ = ("queue", "running", "served", "tenant")

    def __init__(self, tenant: _Tenant, served: int) -> None:
        self.tenant = tenant
        self.queue: deque[Turn] = deque()
        self.running = 0
        self.served = served

    @property
    def queued(self) -> int:
        return len(self.queue)


class _Tenant:
    __slots__ = ("queued", "served", "waiting")

    def __init__(self, served: int) -> None:
        self.queued = 0
        self.served = served
        self.waiting: dict[int, _User] = {}


_Record = TypeVar("_Record", _User, _Tenant)


class Admission:
    """Counts running turns and keeps the waiting ones. Owned by the bridge.

    Args:
        has_room: tells whether a provider of this turn has a free place.
        clock: seconds, any origin.
    """

    def __init__(
        self, config: BridgeConfig, *, has_room: Callable[[Turn], bool], clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._has_room = has_room
        self._clock = clock
        self._users: dict[tuple[int, int], _User] = {}
        self._tenants: dict[int, _Tenant] = {}
        self._services = 0
        self._newcomers = 0
        self._finished: deque[float] = deque(maxlen=RATE_SAMPLES)
        self.running = 0
        self.queued = 0

    def offer(self, turn: Turn) -> bool:
        """Return True if the turn may start now (it then counts as running), False if it waits.

        Raises:
            BridgeError: BUSY, with the wait that is advised; nothing was kept.
        """
        user = self._user(turn)
        if not user.queue and self._may_start(user, turn):
            self._begin(user)
            return True
        self._refuse_if_full(user)
        user.queue.append(turn)
        user.tenant.queued += 1
        user.tenant.waiting[turn.request.user] = user
        self.queued += 1
        return False

    def pop(self) -> Turn | None:
        """Return the next turn that may start now (it then counts as running), else None."""
        if self.queued == 0 or self.running >= self._config.max_streams:
            return None
        waiting_tenants = [tenant for tenant in self._tenants.values() if tenant.queued]
        for tenant in _longest_unserved_first(waiting_tenants):
            for user in _longest_unserved_first(tenant.waiting.values()):
                turn = user.queue[0]
                if self._may_start(user, turn):
                    user.queue.popleft()
                    self._forget_queued(user, turn)
                    self._begin(user)
                    return turn
        return None

    def withdraw(self, turn: Turn) -> bool:
        """Take a waiting turn out of the queue; False if it does not wait here."""
        user = self._users.get((turn.request.tenant, turn.request.user))
        if user is None or turn not in user.queue:
            return False
        user.queue.remove(turn)
        self._forget_queued(user, turn)
        return True

    def release(self, turn: Turn) -> None:
        """A running turn ended."""
        user = self._user(turn)
        user.running -= 1
        self.running -= 1
        if self.queued:
            self._finished.append(self._clock())

    def waiting(self) -> list[Turn]:
        """Return all waiting turns, in no promised order."""
        return [turn for user in self._users.values() for turn in user.queue]

    def place(self, turn: Turn) -> int:
        """Return 1 for the next to start, if all limits were equal; 0 if it does not wait."""
        user = self._users.get((turn.request.tenant, turn.request.user))
        if user is None or turn not in user.queue:
            return 0
        return self._turns_ahead(user, user.queue.index(turn)) + 1

    def _turns_ahead(self, user: _User, own_ahead: int) -> int:
        tenant = user.tenant
        in_tenant = own_ahead + _rounds(user, tenant.waiting.values(), own_ahead)
        tenants = (other for other in self._tenants.values() if other.queued)
        return in_tenant + _rounds(tenant, tenants, in_tenant)

    def _may_start(self, user: _User, turn: Turn) -> bool:
        config = self._config
        return (
            self.running < config.max_streams
            and user.running < config.user_running
            and self._has_room(turn)
        )

    def _begin(self, user: _User) -> None:
        self._services += 1
        user.served = user.tenant.served = self._services
        user.running += 1
        self.running += 1

    def _forget_queued(self, user: _User, turn: Turn) -> None:
        user.tenant.queued -= 1
        self.queued -= 1
        if not user.queue:
            user.tenant.waiting.pop(turn.request.user, None)
        if self.queued == 0:
            self._finished.clear()  # the rate of a standing queue only

    def _refuse_if_full(self, user: _User) -> None:
        config = self._config
        wait_s = self._estimated_wait_s(user)
        retry_ms = DEFAULT_RETRY_MS
        if wait_s is not None:
            retry_ms = min(MAX_RETRY_MS, max(1000, round(wait_s * 1000)))
        if user.queued >= config.user_queued:
            text = (
                f"{user.running} of your answers are being written and {user.queued} wait. "
                "Let one end or cancel it, then ask again."
            )
            raise BridgeError(Code.BUSY, text, retry_ms)
        full = self.queued >= config.queue
        full = full or user.tenant.queued >= max(1, round(config.queue * TENANT_SHARE))
        saturated = user.running < config.user_running
        too_slow = saturated and wait_s is not None and wait_s > config.queue_wait_s
        if full or too_slow:
            text = "Too many people are asking right now. Ask again in a moment."
            raise BridgeError(Code.BUSY, text, retry_ms)

    def _estimated_wait_s(self, user: _User) -> float | None:
        """Return the wait of one more turn of this user; None while the rate is unknown."""
        if len(self._finished) < MIN_RATE_SAMPLES:
            return None
        span_s = self._clock() - self._finished[0]
        if span_s <= 0:
            return None
        return (self._turns_ahead(user, user.queued) + 1) * span_s / len(self._finished)

    def _user(self, turn: Turn) -> _User:
        key = (turn.request.tenant, turn.request.user)
        user = self._users.get(key)
        if user is None:
            if len(self._users) >= IDLE_RECORDS + self.queued + self.running:
                self._drop_idle()
            self._newcomers += 1
            served = self._newcomers - _NEVER_SERVED  # newcomers first, the oldest of them ahead
            tenant = self._tenants.setdefault(key[0], _Tenant(served))
            user = self._users[key] = _User(tenant, served)
        return user

    def _drop_idle(self) -> None:
        idle = [key for key, user in self._users.items() if not user.queue and not user.running]
        for key in idle[: IDLE_RECORDS // 2]:
            del self._users[key]
        kept = {key[0] for key in self._users}
        for number in [number for number in self._tenants if number not in kept]:
            del self._tenants[number]


def _rounds(mine: _Record, all_waiting: Iterable[_Record], own_ahead: int) -> int:
    """Return how many turns of the others a round robin serves before the (own_ahead+1)th here."""
    return sum(
        min(other.queued, own_ahead + (other.served < mine.served))
        for other in all_waiting
        if other is not mine
    )


def _longest_unserved_first(records: Iterable[_Record]) -> Iterator[_Record]:
    """Yield by time of last service. The first is nearly always taken: sort only if it is not."""
    rest = list(records)
    if rest:
        first = min(rest, key=lambda record: record.served)
        yield first
        rest.sort(key=lambda record: record.served)
        yield from (record for record in rest if record is not first)
