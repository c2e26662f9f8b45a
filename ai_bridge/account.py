"""Budgets: money is set aside before a provider is asked, so parallel calls cannot overrun them.

One ledger per process. A reservation is the most that a turn's next call of a model can cost; what
a call did cost is taken out of it and booked. Spans are days and months of UTC.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from ai_bridge.errors import BridgeError
from protocol.codes import Code

log = logging.getLogger("parlance.ai")

DAY_MS = 86_400_000

MAX_IDLE = 20_000
"""Accounts without a limit or reservation that are remembered; the oldest are forgotten."""
WHOLE_TENANT = 0
"""User number of a tenant's own account."""
MAX_TENANTS = 200
"""Tenants whose costs are shown one by one."""
OTHER_TENANTS = 0
"""Stands for all further ones."""
WARN_AT = 0.8
"""Part of a limit whose spending is told to the operator, once in each span."""


class Limits(Struct, frozen=True):
    """Micro-dollars that may be spent in a span; 0: without limit."""

    day_micro: int = 0
    month_micro: int = 0


UNLIMITED = Limits()


class Spent(Struct):
    """What an account has spent and set aside (for running turns), in micro-dollars.

    `told_day` and `told_month`: the operator was warned that little is left of this span's limit.
    """

    day: int = 0
    month: int = 0
    reserved: int = 0
    told_day: bool = False
    told_month: bool = False


class Reservation:
    """Money set aside for one turn; settle it exactly once, more often is harmless.

    `amount_micro` is what is left of it: booking takes from it, extending adds.
    """

    __slots__ = ("amount_micro", "expires", "open", "tenant", "user")

    def __init__(self, tenant: int, user: int, amount_micro: int, expires: float) -> None:
        self.tenant = tenant
        self.user = user
        self.amount_micro = amount_micro
        self.expires = expires
        self.open = True


class BudgetExceeded(BridgeError):
    """The account has not enough left. QUOTA, with the wait until the span ends."""


class Ledger:
    """Owns the accounts of this process.

    Args:
        now_ms: wall clock, for days and months.
        clock: monotonic seconds, for reservations that nobody settles.
        user_limits: for each user who has no limits of their own.

    Attributes:
        refused: reservations and extensions that a budget did not allow.
        expired: reservations that nobody settled.
        warned: accounts that came near a limit, once in each span.
        cost_by: micro-dollars booked since the start, by tenant; the first MAX_TENANTS, and the
            others together.
    """

    def __init__(
        self,
        *,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
        user_limits: Limits = UNLIMITED,
    ) -> None:
        self._now_ms = now_ms
        self._clock = clock
        self._user_limits = user_limits
        self._limits: dict[tuple[int, int], Limits] = {}
        self._spent: dict[tuple[int, int], Spent] = {}
        self._running: dict[int, Reservation] = {}
        self._page_ends_ms = 0
        self._month = self._turn_over()
        self.refused = 0
        self.expired = 0
        self.warned = 0
        self.cost_by: dict[int, int] = {}

    # limits

    def set_limits(self, tenant: int, user: int, limits: Limits) -> None:
        """Bound a user, or with WHOLE_TENANT all of a tenant; counts from now on."""
        if limits == UNLIMITED:
            self._limits.pop((tenant, user), None)
        else:
            self._limits[tenant, user] = limits

    def limits(self, tenant: int, user: int) -> Limits:
        """Return what bounds an account."""
        default = UNLIMITED if user == WHOLE_TENANT else self._user_limits
        return self._limits.get((tenant, user), default)

    # spending

    def load(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Take what the store knows: (tenant, user, spent today, spent this month).

        Call it once before the first turn. The rows of users make up their tenants' accounts.
        """
        for tenant, user, day, month in rows:
            for account in {WHOLE_TENANT, user}:
                spent = self._account(tenant, account)
                spent.day += day
                spent.month += month

    def spent(self, tenant: int, user: int) -> Spent:
        """Return an account's present figures; they change with the next turn."""
        self._turn_page()
        return self._spent.get((tenant, user)) or Spent()

    def reserve(self, tenant: int, user: int, amount_micro: int, deadline_s: float) -> Reservation:
        """Set money aside for a turn that ends within `deadline_s`.

        Raises:
            BudgetExceeded: it would not fit any more; nothing was set aside.
        """
        self._turn_page()
        for account in {WHOLE_TENANT, user}:
            self._check(tenant, account, amount_micro)
        reservation = Reservation(tenant, user, 0, self._clock() + deadline_s + 60)
        self._running[id(reservation)] = reservation
        self._set_aside(reservation, amount_micro)
        return reservation

    def extend(self, reservation: Reservation, amount_micro: int) -> None:
        """Set more aside, so that at least `amount_micro` are there for the turn's next call.

        Raises:
            BudgetExceeded: it would not fit, or the turn outlived its deadline; nothing changed.
        """
        self._turn_page()
        if not reservation.open:
            self.refused += 1
            text = "This answer took longer than money was set aside for it. Ask again."
            raise BudgetExceeded(Code.QUOTA, text, 1000)
        more = amount_micro - reservation.amount_micro
        if more <= 0:
            return
        for account in {WHOLE_TENANT, reservation.user}:
            self._check(reservation.tenant, account, more)
        self._set_aside(reservation, more)

    def book(self, reservation: Reservation, cost_micro: int) -> None:
        """Take what a call did cost out of what was set aside; the turn goes on.

        A settled reservation takes no more: if it expired, it was booked in full.
        """
        self._turn_page()
        if not reservation.open:
            return
        self._set_aside(reservation, -min(cost_micro, reservation.amount_micro))
        if cost_micro:
            self._note_cost(reservation.tenant, cost_micro)
        for account in {WHOLE_TENANT, reservation.user}:
            spent = self._account(reservation.tenant, account)
            spent.day += cost_micro
            spent.month += cost_micro
            self._warn(reservation.tenant, account, spent)

    def settle(self, reservation: Reservation, cost_micro: int) -> None:
        """Book a turn's last cost and let go of the rest of what was set aside."""
        self.book(reservation, cost_micro)
        if reservation.open:
            reservation.open = False
            del self._running[id(reservation)]
            self._set_aside(reservation, -reservation.amount_micro)

    def sweep(self) -> None:
        """Book reservations that nobody settled as spent in full. Called now and then."""
        now = self._clock()
        for reservation in [r for r in self._running.values() if r.expires <= now]:
            self.expired += 1
            self.settle(reservation, reservation.amount_micro)

    # inside

    def _set_aside(self, reservation: Reservation, more_micro: int) -> None:
        reservation.amount_micro += more_micro
        for account in {WHOLE_TENANT, reservation.user}:
            self._account(reservation.tenant, account).reserved += more_micro

    def _note_cost(self, tenant: int, cost_micro: int) -> None:
        known = tenant in self.cost_by or len(self.cost_by) < MAX_TENANTS
        shown = tenant if known else OTHER_TENANTS
        self.cost_by[shown] = self.cost_by.get(shown, 0) + cost_micro

    def _warn(self, tenant: int, user: int, spent: Spent) -> None:
        """Tell the operator once in each span that an account has spent most of its limit."""
        limits = self.limits(tenant, user)
        near_day = 0 < limits.day_micro * WARN_AT <= spent.day
        near_month = 0 < limits.month_micro * WARN_AT <= spent.month
        for span, near, told in (
            ("day", near_day, spent.told_day),
            ("month", near_month, spent.told_month),
        ):
            if near and not told:
                self.warned += 1
                log.warning("budget.nearly_spent", extra={"tenant": tenant, "user": user,
                                                          "span": span})  # fmt: skip
        spent.told_day, spent.told_month = near_day, near_month

    def _check(self, tenant: int, user: int, amount_micro: int) -> None:
        limits = self.limits(tenant, user)
        spent = self._spent.get((tenant, user)) or Spent()
        for limit, used, word in (
            (limits.day_micro, spent.day, "today"),
            (limits.month_micro, spent.month, "this month"),
        ):
            if limit and used + spent.reserved + amount_micro > limit:
                self.refused += 1
                whose = "Your" if user != WHOLE_TENANT else "The operator's"
                raise BudgetExceeded(
                    Code.QUOTA,
                    f"{whose} budget for AI answers {word} is used up. "
                    "Ask later, or ask the operator to raise it.",
                    self._ms_left(word == "today"),
                )

    def _ms_left(self, day: bool) -> int:
        """Return the wait until the span ends; the protocol's retry field takes a day at most."""
        now = datetime.fromtimestamp(self._now_ms() / 1000, UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        left_ms = round((midnight - now).total_seconds() * 1000)
        return left_ms if day else DAY_MS

    def _account(self, tenant: int, user: int) -> Spent:
        spent = self._spent.get((tenant, user))
        if spent is None:
            if len(self._spent) >= MAX_IDLE + len(self._limits) + 2 * len(self._running):
                self._forget_idle()
            spent = self._spent[tenant, user] = Spent()
        return spent

    def _forget_idle(self) -> None:
        """Forget accounts that nothing bounds: what they spent is in the store as well."""
        idle = [
            key
            for key, spent in self._spent.items()
            if not spent.reserved and self.limits(*key) == UNLIMITED
        ]
        for key in idle[: MAX_IDLE // 10]:
            del self._spent[key]

    def _turn_page(self) -> None:
        """Begin a new day or month when one has begun."""
        if self._now_ms() < self._page_ends_ms:
            return
        month = self._turn_over()
        for spent in self._spent.values():
            spent.day, spent.told_day = 0, False
            if month != self._month:
                spent.month, spent.told_month = 0, False
        self._month = month

    def _turn_over(self) -> int:
        """Note when the present day ends; return the number of its month."""
        now_ms = self._now_ms()
        self._page_ends_ms = (now_ms // DAY_MS + 1) * DAY_MS
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        return now.year * 12 + now.month
