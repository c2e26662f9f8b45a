"""How much a provider takes: streams at a time, figures from its headers, repeats.

The length of an answer says nothing about load, so the whole time of a call is no signal. Shared
services say "too many" (AIMD follows that); an own machine queues silently, which shows in the
time to the first text (after Gradient2 of Netflix's concurrency-limits). Clocks are given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from ai_bridge.config import ProviderConfig
from ai_bridge.providers.headers import RateLimits
from ai_bridge.types import Priority

HOSTED_START = 16
OWN_START = 4
"""A local model serves few at a time; a baseline measured in its queue would be worthless."""
USED_SHARE = 0.8
CUT = 0.7
CUT_EVERY_S = 1.0
TOLERANCE = 2.0
SMOOTHING = 0.2
SHORT_SAMPLES = 10
USUAL_SAMPLES = 30
BUSY_SAMPLES = 6_000
QUIET_TTFT_S = 0.5
"""Below, a longer wait is the length of prompts or noise, not a queue."""
BACKGROUND_SHARE = 0.2

MAX_CLOSED_S = 3_600.0
"""Then one request tries, whatever was asked: an account may have been topped up meanwhile."""

RETRY_SHARE = 0.1
RETRY_RESERVE = 20.0
RETRY_REFILL_S = 1.0
MAX_RETRY_TOKENS = 100.0


class Limit:
    """A fixed number of streams at a time; the base of those that adapt.

    Attributes:
        value: at most so many streams, at least 1.
    """

    __slots__ = ("most", "value")

    def __init__(self, most: int) -> None:
        self.most = max(1, most)
        self.value = float(self.most)

    def note_answer(self, running: int, ttft_s: float) -> None:
        """A stream began to answer, `ttft_s` after it was asked, as one of `running`."""

    def note_overload(self, running: int) -> None:
        """The provider said it has too much, or did not begin to answer one of `running`."""


class AimdLimit(Limit):
    """Adds one per `value` answers while it is used, and cuts by 0.7 at most once a second.

    Until the first refusal each answer adds one, as TCP starts (RFC 5681 section 3.1): from 16,
    adding one per `value`, a server of 800 streams would need hours after each start.
    """

    __slots__ = ("_clock", "_cut_at", "_starting")

    def __init__(self, most: int, clock: Callable[[], float], start: int = HOSTED_START) -> None:
        super().__init__(most)
        self.value = float(min(start, self.most))
        self._clock = clock
        self._cut_at = -CUT_EVERY_S
        self._starting = True

    def note_answer(self, running: int, ttft_s: float) -> None:
        if running >= USED_SHARE * self.value:
            self._grow(1.0 if self._starting else 1.0 / self.value)

    def note_overload(self, running: int) -> None:
        if running < self.value / 2:
            return  # too many a minute perhaps, but not too many at a time
        now = self._clock()
        if now - self._cut_at >= CUT_EVERY_S:
            self._cut_at = now
            self._starting = False
            self.value = max(1.0, CUT * self.value)

    def _grow(self, step: float) -> None:
        self.value = min(float(self.most), self.value + step)


class GradientLimit(AimdLimit):
    """Follows the time to the first text: its short average against its usual one, times 2.

    The usual one is learnt from answers of a little used machine. Learnt from all of them, as
    Gradient2 does, it would follow a steady queue upwards and let it grow without end.
    """

    __slots__ = ("_short_s", "_usual_s")

    def __init__(self, most: int, clock: Callable[[], float], start: int = OWN_START) -> None:
        super().__init__(most, clock, start)
        self._short_s: float | None = None
        self._usual_s = 0.0

    def note_answer(self, running: int, ttft_s: float) -> None:
        self._learn(running, ttft_s)
        slope = self._slope()
        if slope < 1.0:
            self._starting = False
        elif self._starting:
            super().note_answer(running, ttft_s)
            return
        if running >= self.value / 2:
            wanted = self.value * slope + self.value**0.5
            self.value = max(1.0, self.value + SMOOTHING * (wanted - self.value))
            self.value = min(self.value, float(self.most))

    def _learn(self, running: int, ttft_s: float) -> None:
        if self._short_s is None:
            self._short_s = self._usual_s = ttft_s
            return
        self._short_s += (ttft_s - self._short_s) / SHORT_SAMPLES
        if running == 1 or running < self.value / 2 or ttft_s < self._usual_s:
            self._usual_s += (ttft_s - self._usual_s) / USUAL_SAMPLES
        else:
            self._usual_s += (ttft_s - self._usual_s) / BUSY_SAMPLES

    def _slope(self) -> float:
        short_s = self._short_s or 0.0
        if short_s <= max(QUIET_TTFT_S, TOLERANCE * self._usual_s):
            return 1.0
        return max(0.5, TOLERANCE * self._usual_s / short_s)


def limit_for(provider: ProviderConfig, max_streams: int, clock: Callable[[], float]) -> Limit:
    """Return the limit that suits a provider, for one of its keys and models."""
    most = provider.max_streams or max_streams
    kind = provider.limit
    if kind == "auto":
        kind = "gradient" if is_own_address(provider.base_url) else "aimd"
    if kind == "fixed" or provider.kind == "demo":
        return Limit(most)
    return GradientLimit(most, clock) if kind == "gradient" else AimdLimit(most, clock)


def is_own_address(base_url: str) -> bool:
    """Tell whether an address is surely on this machine or network; asks no name server."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    try:
        return ip_address(host).is_private
    except ValueError:
        # Names without a dot exist only in one's own network ("ollama" in a compose file).
        return bool(host) and ("." not in host or host.endswith((".local", ".internal")))


def share_of(limit: int, priority: Priority) -> int:
    """Return how many of a slot's streams may be of this priority."""
    return max(1, int(limit * BACKGROUND_SHARE)) if priority is Priority.BACKGROUND else limit


class Buckets:
    """What the provider's headers say is left, counted down by what is started meanwhile."""

    __slots__ = ("_clock", "_requests", "_requests_until", "_tokens", "_tokens_until")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests = self._tokens = 0
        self._requests_until = self._tokens_until = 0.0

    def note(self, limits: RateLimits) -> None:
        """Take the figures of an answer; those without a time of reset cannot be relied on."""
        now = self._clock()
        if limits.requests_left is not None and limits.requests_reset_s is not None:
            self._requests = limits.requests_left
            self._requests_until = now + limits.requests_reset_s
        if limits.tokens_left is not None and limits.tokens_reset_s is not None:
            self._tokens = limits.tokens_left
            self._tokens_until = now + limits.tokens_reset_s

    def spend(self, tokens: int) -> None:
        """A request of about so many tokens is sent."""
        self._requests -= 1
        self._tokens -= tokens

    @property
    def empty_until(self) -> float:
        """The clock's time at which a request fits again; in the past if one fits now."""
        until = self._requests_until if self._requests <= 0 else 0.0
        return max(until, self._tokens_until if self._tokens <= 0 else 0.0)


class Storm:
    """The gate of a slot whose provider said "too many requests".

    Closes the slot and not the request: until the provider's time (and a moment, since other
    servers may share the account), else for 0.5 s · 2ⁿ with full jitter. A later, longer time
    extends it. Open again it lets 1 stream in, then 2, then 4, one doubling for each that is
    answered.
    """

    __slots__ = ("_base_s", "_clock", "_dice", "_most_s", "_row", "_width", "closed_until", "times")

    def __init__(
        self, clock: Callable[[], float], *, base_s: float, most_s: float, dice: random.Random
    ) -> None:
        self._clock = clock
        self._base_s = base_s
        self._most_s = most_s
        self._dice = dice
        self._row = 0
        self._width = 0  # 0: as many as the limit allows
        self.closed_until = 0.0
        self.times = 0

    @property
    def closed(self) -> bool:
        return self._clock() < self.closed_until

    @property
    def passing(self) -> bool:
        """Whether it is closed or still lets in less than the limit."""
        return self._width > 0

    def close(self, asked_s: float | None) -> None:
        """The provider refused, and asked to be left alone for so long or did not say."""
        now = self._clock()
        if now >= self.closed_until:
            # The refusals that come while it is closed answer what was sent before.
            widest_s = self._base_s
            if asked_s is None:
                widest_s = min(self._most_s, self._base_s * 2.0**self._row)
                self._row = min(self._row + 1, 16)
            jitter_s = self._dice.uniform(0, widest_s)
            self.times += 1
        else:
            jitter_s = 0.0
        asked_s = min(asked_s or 0.0, MAX_CLOSED_S)
        self.closed_until = max(self.closed_until, now + asked_s + jitter_s)
        self._width = 1

    def width(self, limit: int) -> int:
        """Return how many streams may run, of those that the limit allows."""
        return min(limit, self._width) if self._width else limit

    def note_answer(self, limit: int) -> None:
        """A stream began to be answered."""
        if self._width and not self.closed:
            self._row = 0
            self._width *= 2
            if self._width >= limit:
                self._width = 0


class RetryBudget:
    """Repeats at a provider that failed: one per ten requests, and a small reserve.

    Without it, retries multiply the load of a service that is already failing. The reserve, one a
    second up to 20, is for servers with few requests.

    Attributes:
        refused: repeats that were not granted.
    """

    __slots__ = ("_clock", "_filled_at", "_tokens", "refused")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = RETRY_RESERVE
        self._filled_at = clock()
        self.refused = 0

    def note_request(self) -> None:
        """A turn makes its first attempt."""
        self._tokens = min(MAX_RETRY_TOKENS, self._tokens + RETRY_SHARE)

    def spend(self) -> bool:
        """Take one repeat; False if none is left."""
        now = self._clock()
        if self._tokens < RETRY_RESERVE:
            refill = (now - self._filled_at) / RETRY_REFILL_S
            self._tokens = min(RETRY_RESERVE, self._tokens + refill)
        self._filled_at = now
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        return True
