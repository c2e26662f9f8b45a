"""Errors in the shape of OpenAI's API, so that its clients retry what is worth it.

{"error": {"message", "type", "param", "code"}} (platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from ai_bridge.errors import BridgeError
from ai_bridge.types import Outcome
from protocol.codes import Code, EndReason

_INVALID: Final = "invalid_request_error"
_MAX_MESSAGE_CHARS: Final = 600


class _Row(NamedTuple):
    status: int
    type: str
    code: str


_ROWS: Final = {
    Code.TOO_LARGE: _Row(413, _INVALID, "request_too_large"),
    Code.BAD_CREDENTIALS: _Row(401, _INVALID, "invalid_api_key"),
    Code.EXPIRED: _Row(401, _INVALID, "invalid_api_key"),
    Code.REVOKED: _Row(401, _INVALID, "invalid_api_key"),
    Code.NOT_FOUND: _Row(404, _INVALID, "not_found"),
    Code.NOT_PERMITTED: _Row(403, _INVALID, "insufficient_permissions"),
    Code.BLOCKED: _Row(403, _INVALID, "insufficient_permissions"),
    Code.STALE: _Row(409, _INVALID, "conflict"),
    Code.GONE: _Row(410, _INVALID, "gone"),
    Code.RATE: _Row(429, "requests", "rate_limit_exceeded"),
    Code.IN_FLIGHT: _Row(429, "requests", "rate_limit_exceeded"),
    Code.QUOTA: _Row(429, "insufficient_quota", "insufficient_quota"),
    Code.INTERNAL: _Row(500, "server_error", "internal_error"),
    Code.TIMEOUT: _Row(504, "server_error", "timeout"),
    Code.OVERLOADED: _Row(503, "server_error", "overloaded"),
    Code.DRAINING: _Row(503, "server_error", "draining"),
    Code.MODEL_UNAVAILABLE: _Row(502, "server_error", "provider_down"),
    Code.REFUSED: _Row(400, _INVALID, "content_filter"),
    Code.CONTEXT_TOO_LONG: _Row(400, _INVALID, "context_length_exceeded"),
    Code.BUSY: _Row(503, "server_error", "queue_full"),
}
_OTHER: Final = _Row(400, _INVALID, "invalid_request")
_PARAM: Final = {Code.CONTEXT_TOO_LONG: "messages", Code.REFUSED: "messages"}


class Problem(Exception):
    """A request that is not answered.

    Attributes:
        message: safe to show; says what to do.
        type, code, param: as in OpenAI's error object.
        retry_ms: the wait that is advised; -1: none, asking again will not help or nobody knows.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = _INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_ms: int = -1,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:_MAX_MESSAGE_CHARS]
        self.type = type
        self.code = code
        self.param = param
        self.retry_ms = retry_ms


def problem_of(code: Code, message: str, retry_ms: int = -1, param: str | None = None) -> Problem:
    """Return the problem for a number of ours."""
    row = _ROWS.get(code, _OTHER)
    return Problem(
        row.status,
        message,
        type=row.type,
        code=row.code,
        param=param or _PARAM.get(code),
        retry_ms=retry_ms,
    )


def problem_of_refusal(error: BridgeError) -> Problem:
    """Return the problem for a turn that the bridge did not take."""
    return problem_of(error.code, error.text, error.retry_ms)


def problem_of_outcome(outcome: Outcome) -> Problem | None:
    """Return the problem for a turn that did not end properly, None for one that did."""
    if outcome.reason is EndReason.CANCELLED:
        # nginx's status for a request whose client has left; also when somebody else stopped it.
        return Problem(499, "The answer was stopped.", code="cancelled")
    if outcome.reason in (EndReason.STOP, EndReason.LENGTH):
        return None
    code = outcome.code if outcome.code is not None else Code.INTERNAL
    return problem_of(code, outcome.error or "Something went wrong. Ask again.", outcome.retry_ms)


def unknown_model(model: str) -> Problem:
    """Unknown and forbidden look the same, so that names cannot be guessed."""
    text = f"The model {model[:128]!r} does not exist or you may not use it. See GET /v1/models."
    return Problem(404, text, code="model_not_found", param="model")


def error_object(problem: Problem) -> dict[str, object]:
    """Return the value of `error`."""
    return {
        "message": problem.message,
        "type": problem.type,
        "param": problem.param,
        "code": problem.code,
    }


def headers_of(problem: Problem) -> dict[str, str]:
    """Return the headers that tell a client whether and when to ask again.

    `retry-after-ms` and `x-should-retry` are what OpenAI's own clients look at first.
    """
    headers = {"Cache-Control": "no-store"}
    if problem.status in (429, 503) and problem.retry_ms >= 0:
        headers["Retry-After"] = str(math.ceil(problem.retry_ms / 1000))
        headers["retry-after-ms"] = str(problem.retry_ms)
    if problem.code == "insufficient_quota":
        headers["x-should-retry"] = "false"
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def openai_response(problem: Problem) -> web.Response:
    """Return the answer in OpenAI's shape."""
    return web.Response(
        status=problem.status,
        reason="Client Closed Request" if problem.status == 499 else None,
        body=msgspec.json.encode({"error": error_object(problem)}),
        content_type="application/json",
        headers=headers_of(problem),
    )
