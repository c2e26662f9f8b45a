"""What a provider's status and typed error fields mean, and what the person should do.

Texts of providers are never passed on: they quote keys, prompts and addresses. Where a service
tells two troubles apart only in its text, the text is searched for a known phrase and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.headers import MAX_WAIT_S, reset_after_s, retry_after_s, span_s
from protocol.codes import Code

# Words of `code`, `type` and `status`, in lower case: OpenAI and those who speak its dialect,
# Anthropic, Gemini (google.rpc.Code), Moonshot, DashScope, Zhipu (four figures) and SiliconFlow
# (five figures), each as its page on error codes lists them.
_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length", "request_too_large",
                       "1261"})  # fmt: skip
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance",
                    "billing_error", "exceeded_current_quota_error", "arrearage", "1113", "30001",
                    "billing_not_active", "insufficient_credits"})  # fmt: skip
_FILTER = frozenset({"content_filter", "content_policy_violation", "moderation_blocked",
                     "data_inspection_failed", "datainspectionfailed", "1301", "invalid_prompt",
                     "sensitive"})  # fmt: skip
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error", "requests", "tokens",
                   "resource_exhausted", "rate_limit_reached_error", "throttling", "1302", "1303",
                   "1305", "too_many_requests"})  # fmt: skip
_KEY = frozenset({"invalid_api_key", "authentication_error", "permission_error",
                  "unauthenticated", "permission_denied", "api_key_invalid",
                  "invalid_authentication_error", "incorrect_api_key_error"})  # fmt: skip
_MODEL = frozenset({"model_not_found", "not_found_error", "resource_not_found_error", "20012"})
_BUSY = frozenset({"overloaded_error", "engine_overloaded_error", "unavailable",
                   "service_tier_capacity_exceeded"})  # fmt: skip
_TRANSIENT = frozenset({408, 409, 425})

# Anthropic, Gemini and vLLM say these only in the text of an "invalid request".
_TOO_LONG_PHRASES = ("prompt is too long", "maximum context length", "context window",
                     "context length", "exceeds the maximum number of tokens",
                     "exceed context limit")  # fmt: skip
_NO_CREDIT_PHRASES = ("credit balance is too low",)
_FILTER_PHRASES = ("blocked by content filtering",)
_BAD_KEY_PHRASES = ("api key not valid", "api key expired")


def failure_of(
    status: int, headers: Mapping[str, str], error: Mapping[str, Any]
) -> ProviderFailure:
    """Explain an error response, or (status 0) an error object within an answer."""
    words = _words(error)
    if status == 0:
        status = _status_in(error)
    wait_s = _wait_s(status, headers, error)
    if _is_daily(error):
        return _day_spent(status)
    if _says(error, _NO_CREDIT_PHRASES):
        return _no_credit(status)
    typed = _by_words(words, status, wait_s)
    if typed is None and status in (0, 400, 413, 422):
        typed = _by_phrases(error, status)
    return typed if typed is not None else _by_status(status, wait_s)


def _words(error: Mapping[str, Any]) -> set[str]:
    words = {str(error.get(name, "")).lower() for name in ("code", "type", "status")}
    for detail in _details(error):
        words.add(str(detail.get("reason", "")).lower())
    # A status among the codes says no more than the status itself.
    return {word for word in words if not (word.isdecimal() and len(word) == 3)}


def _details(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return Gemini's typed details (google.rpc.ErrorInfo, RetryInfo, QuotaFailure)."""
    details = error.get("details")
    return (
        [one for one in details[:16] if isinstance(one, dict)] if isinstance(details, list) else []
    )


def _status_in(error: Mapping[str, Any]) -> int:
    """OpenRouter, Gemini and others put the HTTP status into `code` of an error in mid-stream."""
    code = error.get("code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code[:6])
    return code if isinstance(code, int) and 400 <= code < 600 else 0


def _wait_s(status: int, headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:
    wait_s = retry_after_s(headers)
    if wait_s is None and status == 429:
        wait_s = _retry_delay_s(error)
        if wait_s is None:
            wait_s = reset_after_s(headers)
    return wait_s


def _retry_delay_s(error: Mapping[str, Any]) -> float | None:
    """Read Gemini's RetryInfo, such as "34.07s"."""
    for detail in _details(error):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (wait_s := span_s(delay)) is not None:
            return min(wait_s, MAX_WAIT_S)
    return None


def _is_daily(error: Mapping[str, Any]) -> bool:
    """Whether a limit per day is used up: Gemini names a wait of seconds for it all the same."""
    violations = [
        violation
        for detail in _details(error)
        if isinstance(detail.get("violations"), list)
        for violation in detail["violations"][:16]
    ]
    return any(isinstance(one, dict) and "PerDay" in str(one.get("quotaId")) for one in violations)


def _by_words(words: set[str], status: int, wait_s: float | None) -> ProviderFailure | None:
    kinds: tuple[tuple[frozenset[str], Callable[[], ProviderFailure]], ...] = (
        (_TOO_LONG, lambda: _context_too_long(status)),
        (_QUOTA, lambda: _no_credit(status)),
        (_FILTER, lambda: filtered(status)),
        (_KEY, lambda: _bad_key(status)),
        (_MODEL, lambda: _no_model(status)),
    )
    for known, failure in kinds:
        if words & known:
            return failure()
    if words & _BUSY and status in (0, 429, 503, 529):
        return _overloaded(status, wait_s)
    if words & _RATE and status in (0, 429):
        return _rate_limited(status, wait_s)
    return None


def _by_phrases(error: Mapping[str, Any], status: int) -> ProviderFailure | None:
    if _says(error, _TOO_LONG_PHRASES):
        return _context_too_long(status)
    if _says(error, _FILTER_PHRASES):
        return filtered(status)
    if _says(error, _BAD_KEY_PHRASES):
        return _bad_key(status)
    return None


def _says(error: Mapping[str, Any], phrases: tuple[str, ...]) -> bool:
    text = error.get("message")
    text = text[:2_000].lower() if isinstance(text, str) else ""
    return any(phrase in text for phrase in phrases)


def _by_status(status: int, wait_s: float | None) -> ProviderFailure:
    if status in (401, 403):
        return _bad_key(status)
    if status == 402:
        return _no_credit(status)
    if status == 404:
        return _no_model(status)
    if status == 429:
        return _rate_limited(status, wait_s)
    if status == 529:
        return _overloaded(status, wait_s)
    if status == 413:
        return _context_too_long(status)
    if 300 <= status < 400:
        return _redirected(status)
    if 400 <= status < 500 and status not in _TRANSIENT:
        return _rejected(status)
    return _unwell(status, wait_s)


def _context_too_long(status: int) -> ProviderFailure:
    return ProviderFailure(
        "context_too_long",
        "This talk is longer than the model can read. Begin a new conversation, shorten the "
        "last message, or choose a model with a larger window.",
        remedy=Remedy.SHRINK,
        code=Code.CONTEXT_TOO_LONG,
        status=status,
    )


def _no_credit(status: int) -> ProviderFailure:
    return ProviderFailure(
        "no_credit",
        "The account at the AI service has no credit left. "
        "The operator has to top it up or configure another provider.",
        remedy=Remedy.NEXT,
        status=status,
    )


def _day_spent(status: int) -> ProviderFailure:
    return ProviderFailure(
        "no_credit",
        "The account at the AI service has used up what it may ask in a day. Ask again tomorrow; "
        "the operator can raise the limit or configure another provider.",
        remedy=Remedy.NEXT,
        status=status,
    )


def filtered(status: int) -> ProviderFailure:
    """The question itself is refused."""
    return ProviderFailure(
        "filtered",
        "The AI service's content filter refused this question. Ask in other words.",
        remedy=Remedy.FAIL,
        code=Code.REFUSED,
        status=status,
    )


def _bad_key(status: int) -> ProviderFailure:
    return ProviderFailure(
        "bad_key",
        "The AI service did not accept the server's key. "
        "The operator has to check the provider's api_key and its rights.",
        remedy=Remedy.NEXT,
        status=status,
    )


def _no_model(status: int) -> ProviderFailure:
    return ProviderFailure(
        "no_model",
        "The AI service does not know this model. Choose another model for the persona, "
        "or have the operator check the provider's models and base_url.",
        remedy=Remedy.FAIL,
        status=status,
    )


def _rate_limited(status: int, wait_s: float | None) -> ProviderFailure:
    wait = f"in {wait_s:.0f} seconds" if wait_s is not None and wait_s >= 1 else "in a moment"
    return ProviderFailure(
        "rate_limited",
        f"The AI service is busy. Ask again {wait}.",
        code=Code.BUSY,
        status=status,
        retry_after_s=wait_s,
    )


def _overloaded(status: int, wait_s: float | None) -> ProviderFailure:
    return ProviderFailure(
        "overloaded",
        "The AI service has more work than it can do. Ask again in a moment or choose another "
        "model.",
        status=status,
        retry_after_s=wait_s,
    )


def _redirected(status: int) -> ProviderFailure:
    return ProviderFailure(
        "redirected",
        "The AI service has moved. The operator has to correct the provider's base_url.",
        remedy=Remedy.NEXT,
        status=status,
    )


def _rejected(status: int) -> ProviderFailure:
    return ProviderFailure(
        "rejected",
        f"The AI service refused the request (status {status}). Check the persona's model, "
        "temperature and max tokens; the operator finds the request in the log.",
        remedy=Remedy.FAIL,
        code=Code.REFUSED,
        status=status,
    )


def _unwell(status: int, wait_s: float | None) -> ProviderFailure:
    said = f" (status {status})" if status else ""
    return ProviderFailure(
        "provider_error",
        f"The AI service has a problem{said}. Ask again in a moment or choose another model.",
        status=status,
        retry_after_s=wait_s,
    )


def truncated() -> ProviderFailure:
    """The answer stopped without an end."""
    text = "The AI service broke off in the middle. Ask again or let it continue."
    return ProviderFailure("truncated", text)


def malformed() -> ProviderFailure:
    """The provider sent something that is no JSON object."""
    text = "The AI service sent something that cannot be read. Ask again or choose another model."
    return ProviderFailure("malformed", text)
