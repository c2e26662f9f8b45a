"""When to ask a provider again. Only ever before the person has seen anything of the answer."""

from __future__ import annotations

import random

from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.headers import retry_after_s as retry_after_s
from ai_bridge.router import SlotLease


class RetryPlan:
    """What to do after each failed attempt of one turn.

    First every other candidate, in order and at once; then up to `max_retries` repeats with a
    growing, jittered pause, never shorter than the provider asked for.
    """

    def __init__(self, lease: SlotLease, *, max_retries: int, base_s: float, max_s: float) -> None:
        self._lease = lease
        self._left = max_retries
        self._base_s = base_s
        self._max_s = max_s
        self._given_up: set[str] = set()
        self._shrunk = False
        self.shrink = False
        self.failovers = 0
        self.retries = 0

    def pause_after(self, failure: ProviderFailure) -> float | None:
        """Move the lease to where the next attempt goes; return the pause before it, None: end.

        Sets `shrink` when the next attempt must send less history.
        """
        if failure.remedy is Remedy.FAIL:
            return None
        if failure.remedy is Remedy.SHRINK:
            return self._pause_to_shrink()
        name = self._lease.slot.config.name
        if failure.remedy is Remedy.NEXT:
            self._given_up.add(name)
        if self._lease.move():
            self.failovers += 1
            return 0.0
        return self._pause_to_repeat(failure)

    def _pause_to_shrink(self) -> float | None:
        if self._shrunk:
            return None
        self._shrunk = self.shrink = True
        return 0.0

    def _repeat(self) -> bool:
        return self._lease.repeat(self._given_up, self.retries)

    def _pause_to_repeat(self, failure: ProviderFailure) -> float | None:
        asked_s = failure.retry_after_s or 0.0
        if self._left == 0 or asked_s > self._max_s or not self._repeat():
            return None
        self._left -= 1
        ceiling_s = min(self._max_s, self._base_s * 2**self.retries)
        self.retries += 1
        # Full jitter above what was asked for: those refused together must not return together.
        return min(self._max_s, asked_s + random.uniform(0, ceiling_s))
