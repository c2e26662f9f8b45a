"""Rate limit and retry headers, with the values that services really send.

Sources: https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits,
https://openrouter.ai/docs/api-reference/limits; -1 and 0 come from Azure's responses endpoint.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate

from bench.provider.script import Behaviour

LIMITS: dict[str, dict[str, str]] = {
    "openai": {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-reset-tokens": "6m0s",
    },
    "anthropic": {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "rfc3339+2",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "29000",
        "anthropic-ratelimit-input-tokens-reset": "rfc3339+1",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "rfc3339+6",
    },
    "azure": {
        "x-ratelimit-limit-requests": "-1",
        "x-ratelimit-limit-tokens": "0",
        "x-ratelimit-remaining-requests": "-1",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": "0",
        "x-ratelimit-reset-tokens": "0",
    },
    "openrouter": {
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "epochms+3",
    },
}
"""What the word `limits` sends."""


def headers_of(behaviour: Behaviour) -> dict[str, str]:
    """Return the response headers that a script wants, times worked out from now."""
    wanted = dict(LIMITS.get(behaviour.limits, {}))
    if behaviour.retry_after:
        wanted["retry-after"] = behaviour.retry_after
    if behaviour.retry_after_ms:
        wanted["retry-after-ms"] = behaviour.retry_after_ms
    wanted.update(behaviour.headers)
    return {name: _value(text) for name, text in wanted.items()}


def _value(text: str) -> str:
    kind, plus, later = text.partition("+")
    if not plus or kind not in ("date", "rfc3339", "epoch", "epochms"):
        return text
    at = time.time() + float(later)
    if kind == "date":
        return formatdate(at, usegmt=True)
    if kind == "rfc3339":
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return str(int(at * (1000 if kind == "epochms" else 1)))
