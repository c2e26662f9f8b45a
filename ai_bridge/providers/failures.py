"""What a provider's status and typed error fields mean, and what the person should do.

Texts of providers are never passed on: they quote keys, prompts and addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.retry import retry_after_s
from protocol.codes import Code

_TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"})
_FILTER = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error", "requests", "tokens"})
_KEY = frozenset({"invalid_api_key", "authentication_error", "permission_error"})
_MODEL = frozenset({"model_not_found", "not_found_error"})
_TRANSIENT = frozenset({408, 409, 425})


def failure_of(
    status: int, headers: Mapping[str, str], error: Mapping[str, Any]
) -> ProviderFailure:
    """Explain an error response, or (status 0) an error object within an answer."""
    words = {str(error.get(field, "")).lower() for field in ("code", "type")}
    if status == 0:
        status = _status_in(error)
    wait_s = retry_after_s(headers)
    typed = _by_words(words, status, wait_s)
    return typed if typed is not None else _by_status(status, wait_s)


def _status_in(error: Mapping[str, Any]) -> int:
    """OpenRouter and others put the HTTP status into `code` of an error in mid-stream."""
    code = error.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 0


def _by_words(words: set[str], status: int, wait_s: float | None) -> ProviderFailure | None:
    if words & _TOO_LONG:
        return _context_too_long(status)
    if words & _QUOTA:
        return _no_credit(status)
    if words & _FILTER:
        return _filtered(status)
    if words & _KEY:
        return _bad_key(status)
    if words & _MODEL:
        return _no_model(status)
    if words & _RATE and status in (0, 429):
        return _rate_limited(status, wait_s)
    return None


def _by_status(status: int, wait_s: float | None) -> ProviderFailure:
    if status in (401, 403):
        return _bad_key(status)
    if status == 402:
        return _no_credit(status)
    if status == 404:
        return _no_model(status)
    if status == 429:
        return _rate_limited(status, wait_s)
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


def _filtered(status: int) -> ProviderFailure:
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
