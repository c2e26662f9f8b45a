"""When to ask a provider again. Only ever before the person has seen anything of the answer."""

from __future__ import annotations

import random

from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.lease import SlotLease
from ai_bridge.limits import RetryBudget


class RetryPlan:
    """What to do after each failed attempt of one model call.

    First every other slot, in order and at once: that is free, since their number bounds it and
    the breaker takes a failing one out. Then up to `max_retries` repeats where the budget grants
    them: after a growing, jittered pause, or when a slot that was closed opens again.

    Attributes:
        shrink: the next attempt must send less history.
    """

    def __init__(
        self,
        lease: SlotLease,
        budget: RetryBudget,
        *,
        max_retries: int,
        base_s: float,
        max_s: float,
    ) -> None:
        self._lease = lease
        self._budget = budget
        self._left = max_retries
        self._base_s = base_s
        self._max_s = max_s
        self._repeats = 0
        self.shrink = False
        self.failovers = 0

    def pause_after(self, failure: ProviderFailure) -> float | None:
        """Return the pause before the next attempt, None if there is none.

        The lease then holds another slot, or none: take one after the pause.
        """
        if failure.remedy is Remedy.FAIL:
            return None
        if failure.remedy is Remedy.SHRINK:
            return self._pause_to_shrink()
        if failure.remedy is Remedy.NEXT:
            self._lease.give_up()
        if self._lease.move():
            self.failovers += 1
            return 0.0
        return self._pause_to_repeat(failure)

    def _pause_to_shrink(self) -> float | None:
        """Less history first, then slots with a larger window."""
        if not self.shrink:
            self.shrink = True
            return 0.0
        self._lease.keep_wider()
        if not self._lease.move():
            return None
        self.failovers += 1
        return 0.0

    def _pause_to_repeat(self, failure: ProviderFailure) -> float | None:
        if self._left == 0 or not self._lease.left or not self._budget.spend():
            return None
        self._left -= 1
        ceiling_s = min(self._max_s, self._base_s * 2**self._repeats)
        self._repeats += 1
        if failure.kind == "rate_limited" or failure.retry_after_s is not None:
            return 0.0  # the slot's gate knows when, and lets waiting turns in one by one
        # Full jitter: those that failed together must not return together.
        return random.uniform(0, ceiling_s)
