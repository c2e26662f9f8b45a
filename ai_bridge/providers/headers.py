"""What the headers of an answer say about waiting and about what is left. Pure.

Sources: RFC 9110 section 10.2.3 (`retry-after`); the vendors' pages on rate limits:
platform.openai.com/docs/guides/rate-limits, platform.claude.com/docs/en/api/rate-limits,
console.groq.com/docs/rate-limits, openrouter.ai/docs/api/reference/limits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from msgspec import Struct

MAX_WAIT_S = 7 * 24 * 3600.0
"""A longer wait is a mistake of the service, or a moment in another unit: it says nothing."""

# A family is the name of its remaining and of its reset header.
_REQUESTS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
)
_TOKENS = (
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_EPOCH_MS = 1e12
_EPOCH_S = 1e9


class RateLimits(Struct, frozen=True):
    """What is left of the account's limits; None where the service does not say.

    The resets are seconds from now until the figure is full again. Of several kinds of tokens
    the scarcest is told.
    """

    requests_left: int | None = None
    requests_reset_s: float | None = None
    tokens_left: int | None = None
    tokens_reset_s: float | None = None


def rate_limits(headers: Mapping[str, str], *, now_s: float | None = None) -> RateLimits | None:
    """Read what is left; None when the headers tell nothing usable.

    Figures of 0 and below count as not told: Azure sends 0 or -1 with every answer. Who really
    has nothing left is told so by a 429.

    Args:
        headers: names in lower case (or a mapping that does not care).
        now_s: Unix time, for resets that are given as a moment.
    """
    now_s = time.time() if now_s is None else now_s
    requests = _scarcest(headers, _REQUESTS, now_s)
    tokens = _scarcest(headers, _TOKENS, now_s)
    if requests is None and tokens is None:
        return None
    return RateLimits(*(requests or (None, None)), *(tokens or (None, None)))


def _scarcest(
    headers: Mapping[str, str], families: tuple[tuple[str, str], ...], now_s: float
) -> tuple[int, float | None] | None:
    found = []
    for remaining, reset in families:
        left = _number(headers.get(remaining))
        if left is not None and left > 0:
            found.append((int(left), _reset_s(headers.get(reset), now_s)))
    return min(found, key=lambda one: one[0]) if found else None


def retry_after_s(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Read `retry-after-ms` or `retry-after` (seconds or a date); None when neither says."""
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    if not value:
        return None
    return _until(_http_date(value) or _rfc3339(value), time.time() if now_s is None else now_s)


def reset_after_s(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Return when a refused request has a chance, by the `*-reset-*` headers of a 429.

    That is when the last of the limits that are used up is full again; if none admits to being
    used up, when the first one is.
    """
    now_s = time.time() if now_s is None else now_s
    used_up: list[float] = []
    others: list[float] = []
    for remaining, reset in _REQUESTS + _TOKENS:
        wait_s = _reset_s(headers.get(reset), now_s)
        if wait_s is not None:
            (used_up if _is_zero(headers.get(remaining)) else others).append(wait_s)
    if used_up:
        return max(used_up)
    return min(others, default=None)


def span_s(value: str) -> float | None:
    """Read a span of time such as `6m0s`, `12ms`, `1h2m3.5s` or `34s`; None if it is none."""
    at, total = 0, 0.0
    for match in _SPAN.finditer(value):
        if match.start() != at:
            return None
        at = match.end()
        total += float(match[1]) * _UNIT_S[match[2]]
    return total if at and at == len(value) and total <= MAX_WAIT_S else None


def _reset_s(value: str | None, now_s: float) -> float | None:
    """Read a reset in any of the forms in use: seconds, a span, a Unix time, RFC 3339."""
    value = (value or "").strip()
    number = _number(value, most=1e15)
    if number is None:
        span = span_s(value)
        return span if span is not None else _until(_rfc3339(value), now_s)
    if number >= _EPOCH_MS:
        return _until(number / 1000, now_s)
    if number >= _EPOCH_S:
        return _until(number, now_s)
    return number if number <= MAX_WAIT_S else None


def _until(moment_s: float | None, now_s: float) -> float | None:
    if moment_s is None or moment_s - now_s > MAX_WAIT_S:
        return None
    return max(0.0, moment_s - now_s)


def _http_date(value: str) -> float | None:
    try:
        return _timestamp(parsedate_to_datetime(value))
    except (ValueError, TypeError, OverflowError):
        return None


def _rfc3339(value: str) -> float | None:
    try:
        return _timestamp(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        return None


def _timestamp(when: datetime) -> float:
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def _number(value: str | None, *, most: float = 1e9) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < most else None


def _is_zero(value: str | None) -> bool:
    return _number(value) == 0
