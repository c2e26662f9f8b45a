"""A slot is one provider's key and model: what it takes, what it is closed for, how it fares."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ai_bridge.breaker import Breaker, BreakerState
from ai_bridge.config import BridgeConfig, ProviderConfig
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.limits import Buckets, Limit, Storm, limit_for, share_of
from ai_bridge.providers.base import Backend, OnHead
from ai_bridge.providers.headers import rate_limits
from ai_bridge.secrets import Secret
from ai_bridge.stats import SlotGauge
from ai_bridge.types import Priority
from protocol.codes import Code

log = logging.getLogger("parlance.ai")

OFF_S = 600.0
"""How long a refused key or an empty account is not asked while there is another. Operators also
mend such things at the service, without telling us."""


class Dialer(Protocol):
    """Reaches one service: makes the backends of its keys, which share its connections."""

    def backend(self, key: Secret, on_head: OnHead) -> Backend: ...
    async def aclose(self) -> None: ...


class Key:
    """One key of a service."""

    __slots__ = ("number", "off", "secret")

    def __init__(self, number: int, secret: Secret) -> None:
        self.number = number
        self.secret = secret
        self.off = Off()


class Off:
    """Whether something is switched off for a while, and what for."""

    __slots__ = ("failure", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.failure: ProviderFailure | None = None

    def switch(self, until: float, failure: ProviderFailure) -> None:
        self.until = until
        self.failure = failure


class Service:
    """One configured provider with its connections, keys and slots. Owned by the router.

    Attributes:
        leases: turns that hold or may come back to one of its slots.
        retired: it left the configuration; it closes when its last lease ends.
        on_change: called when a turn may fit that did not fit before.
        on_closed: called with a slot that is closed until some time.
    """

    def __init__(self, config: ProviderConfig, dialer: Dialer, clock: Callable[[], float]) -> None:
        secrets = [config.api_key] if config.api_key or not config.api_keys else []
        secrets += [key for key in config.api_keys if key not in secrets]
        self.config = config
        self.dialer = dialer
        self.keys = [Key(number, secret) for number, secret in enumerate(secrets)]
        self.slots: dict[tuple[int, str], Slot] = {}
        self.leases = 0
        self.retired = False
        self.on_change: Callable[[], None] = _nobody
        self.on_closed: Callable[[Slot], None] = _nobody
        self.running = self.ok = self.failed = 0
        self.last_failure = ""
        self._failed_in_row = 0
        self._last_ok_at: float | None = None
        self._clock = clock

    def serves(self, model: str) -> bool:
        return not self.config.models or model in self.config.models

    def note_success(self) -> None:
        self.ok += 1
        self._failed_in_row = 0
        self._last_ok_at = self._clock()

    def note_failure(self, failure: ProviderFailure) -> None:
        self.failed += 1
        self._failed_in_row += not is_callers_fault(failure)
        self.last_failure = failure.kind

    def health(self, down_after: int) -> dict[str, Any]:
        last = self._last_ok_at
        return {
            "kind": self.config.kind,
            "ok": self._failed_in_row < down_after,
            "running": self.running,
            "calls_ok": self.ok,
            "calls_failed": self.failed,
            "last_failure": self.last_failure,
            "last_ok_s_ago": None if last is None else round(self._clock() - last, 1),
            "slots": {slot.name: slot.health() for slot in self.slots.values()},
        }


def _nobody(*_: object) -> None:
    """Stands where the router has not yet asked to be told."""


class Slot:
    """Provider times key times model. Only its lease and the router change it."""

    def __init__(
        self,
        service: Service,
        key: Key,
        model: str,
        breaker: Breaker,
        config: BridgeConfig,
        *,
        clock: Callable[[], float],
        dice: random.Random,
    ) -> None:
        self.service = service
        self.config = service.config
        self.key = key
        self.model = model
        self.breaker = breaker
        self.backend = service.dialer.backend(key.secret, self._note_head)
        self.limit: Limit = limit_for(service.config, config.max_streams, clock)
        self.storm = Storm(clock, base_s=config.retry_base_s, most_s=config.retry_max_s, dice=dice)
        self.buckets = Buckets(clock)
        self.off = Off()
        self.running = 0
        self.background = 0
        self.ok = self.failed = self.refused = 0
        self.last_failure = ""
        self._clock = clock

    @property
    def name(self) -> str:
        """Provider, model and, from the second on, number of the key: fit for logs and labels."""
        number = f"#{self.key.number + 1}" if self.key.number else ""
        return f"{self.config.name}/{self.model}{number}"

    # --- whether a turn fits -----------------------------------------------------------------

    @property
    def out_of_use(self) -> ProviderFailure | None:
        """Return why it is switched off, None if it is not."""
        now = self._clock()
        for off in (self.key.off, self.off):
            if now < off.until:
                return off.failure
        return None

    @property
    def off_until(self) -> float:
        return max(self.key.off.until, self.off.until)

    @property
    def closed_until(self) -> float:
        """The clock's time until which the provider wants no request; in the past if it does."""
        return max(self.storm.closed_until, self.buckets.empty_until)

    @property
    def opens_at(self) -> float:
        """When a turn may fit that does not now, but for what others hold; perhaps in the past."""
        return max(self.closed_until, self._clock() + self.breaker.opens_in_s)

    @property
    def width(self) -> int:
        """Streams that may run at a time now."""
        return self.storm.width(int(self.limit.value))

    def has_room(self, priority: Priority) -> bool:
        return self.out_of_use is None and self.has_place(priority)

    def has_place(self, priority: Priority) -> bool:
        """As `has_room`, also while it is switched off."""
        width = self.width
        if self.running >= width or self._clock() < self.closed_until:
            return False
        if priority is Priority.BACKGROUND and self.background >= share_of(width, priority):
            return False
        return self.breaker.allows

    # --- a stream's life ---------------------------------------------------------------------

    def begin(self, priority: Priority, tokens: int) -> bool:
        """A turn takes a place; return what `end` wants back."""
        self.running += 1
        self.service.running += 1
        self.background += priority is Priority.BACKGROUND
        self.buckets.spend(tokens)
        if self._clock() < self.closed_until:
            self.service.on_closed(self)
        return self.breaker.begin()

    def end(self, priority: Priority, tried: bool) -> None:
        self.running -= 1
        self.service.running -= 1
        self.background -= priority is Priority.BACKGROUND
        self.breaker.end(tried)
        self.service.on_change()

    def note_answer(self, ttft_s: float) -> None:
        """The first piece of an answer came."""
        before = self.width
        self.limit.note_answer(self.running, ttft_s)
        self.storm.note_answer(int(self.limit.value))
        self.breaker.note_answer()
        if self.width > before:
            self.service.on_change()

    def note_success(self) -> None:
        self.ok += 1
        self.key.off.until = self.off.until = 0.0
        self.service.note_success()
        self.breaker.note_success()

    def note_failure(self, failure: ProviderFailure) -> None:
        """Draw the consequences for later turns."""
        self.failed += 1
        self.last_failure = failure.kind
        self.service.note_failure(failure)
        if failure.kind == "bad_key":
            self._switch_off(failure, self.off if failure.status == 403 else self.key.off)
        elif failure.kind == "no_credit":
            self._switch_off(failure, self.key.off)
        elif failure.kind == "rate_limited":
            self.refused += 1
            self.limit.note_overload(self.running)
            self._close(failure.retry_after_s)
        elif not is_callers_fault(failure):
            self.breaker.note_failure()
            if self.breaker.state is BreakerState.OPEN:
                self.service.on_closed(self)
            if failure.status in (503, 529) or failure.kind == "ttft_timeout":
                self.limit.note_overload(self.running)
            if failure.retry_after_s is not None:
                self._close(failure.retry_after_s)

    def _close(self, asked_s: float | None) -> None:
        self.storm.close(asked_s)
        self.service.on_closed(self)

    def _switch_off(self, failure: ProviderFailure, off: Off) -> None:
        """401 and an empty account concern the key; 403 perhaps only this model of it."""
        now = self._clock()
        if now >= off.until:
            log.error("provider.key_off", extra={"slot": self.name, "kind": failure.kind})
        off.switch(now + OFF_S, failure)

    def _note_head(self, headers: Mapping[str, str]) -> None:
        limits = rate_limits(headers)
        if limits is not None:
            self.buckets.note(limits)

    def gauge(self) -> SlotGauge:
        closed = self._clock() < self.closed_until or self.out_of_use is not None
        return SlotGauge(self.name, self.width, self.running, closed, int(self.breaker.state))

    def health(self) -> dict[str, Any]:
        now = self._clock()
        return {
            "ok": self.out_of_use is None and now >= self.opens_at,
            "limit": self.width,
            "running": self.running,
            "closed_s": round(max(0.0, self.closed_until - now), 1),
            "off": self.out_of_use is not None,
            "breaker": self.breaker.state.name.lower(),
            "calls_ok": self.ok,
            "calls_failed": self.failed,
            "refusals": self.refused,
            "last_failure": self.last_failure,
        }


def is_callers_fault(failure: ProviderFailure) -> bool:
    """Tell whether the request caused it, so that it says nothing about the service."""
    return failure.remedy in (Remedy.FAIL, Remedy.SHRINK)


def busy(wait_s: float) -> ProviderFailure:
    """All providers of a model want to be left alone."""
    when = f"in {wait_s:.0f} seconds" if wait_s >= 1 else "in a moment"
    text = f"The AI service is busy. Ask again {when} or choose another model."
    return ProviderFailure("rate_limited", text, code=Code.BUSY, retry_after_s=wait_s)


def broken_down(wait_s: float) -> ProviderFailure:
    """All providers of a model failed again and again just now."""
    text = (
        "The AI service failed several times just now and is left alone for a while. "
        f"Ask again in {max(1.0, wait_s):.0f} seconds or choose another model."
    )
    return ProviderFailure("breaker_open", text, remedy=Remedy.FAIL, retry_after_s=wait_s)
