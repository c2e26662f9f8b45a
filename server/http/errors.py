"""One shape for everything that goes wrong: {"error": {code, reason, message, request_id}}.

`code` is the same number as on the socket (docs/protocol.md §3), `message` says what to do.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from ai_bridge.http.problems import Problem, openai_response
from protocol.codes import Code
from server.accounts import NameTaken
from server.errors import Failure, explain
from storage.errors import Exists

_STATUS: Final[Mapping[Code, int]] = {
    Code.TOO_LARGE: 413,
    Code.WRONG_STATE: 409,
    Code.POLICY: 403,
    Code.UNKNOWN_TYPE: 404,
    Code.BAD_CREDENTIALS: 401,
    Code.EXPIRED: 401,
    Code.REVOKED: 401,
    Code.REPLACED: 401,
    Code.TICKET_INVALID: 401,
    Code.NOT_FOUND: 404,
    Code.NOT_PERMITTED: 403,
    Code.BLOCKED: 403,
    Code.STALE: 409,
    Code.TOO_LATE: 409,
    Code.GONE: 410,
    Code.RATE: 429,
    Code.QUOTA: 429,
    Code.IN_FLIGHT: 429,
    Code.SIZE_LIMIT: 409,
    Code.INTERNAL: 500,
    Code.TIMEOUT: 504,
    Code.OVERLOADED: 503,
    Code.DRAINING: 503,
    Code.SLOW_CONSUMER: 503,
    Code.MODEL_UNAVAILABLE: 502,
    Code.REFUSED: 422,
    Code.BUSY: 503,
}

_ADVICE: Final[Mapping[int, str]] = {
    400: "Correct the request and send it again.",
    401: "Please sign in again.",
    403: "This is not allowed for you.",
    404: "There is nothing here, or you may not see it.",
    405: "Use one of the methods in the header Allow.",
    408: "The request came too slowly; send it again.",
    409: "Look at the present state and try again.",
    410: "This was taken back.",
    413: "Send less.",
    415: "Send JSON, with the header `Content-Type: application/json`.",
    426: "Open this address as a WebSocket, on a connection of its own.",
    429: "Wait and try again.",
    500: "This is our fault. If it stays, tell the operator the request_id.",
    503: "Try again soon.",
    504: "The outcome is unknown; look before you repeat it.",
}

_CODE_OF_STATUS: Final[Mapping[int, Code]] = {
    401: Code.BAD_CREDENTIALS,
    403: Code.NOT_PERMITTED,
    404: Code.NOT_FOUND,
    405: Code.UNKNOWN_TYPE,
    408: Code.TIMEOUT,
    413: Code.TOO_LARGE,
    414: Code.TOO_LARGE,
    426: Code.WRONG_STATE,
    429: Code.RATE,
    431: Code.TOO_LARGE,
}


class HttpRefusal(Exception):
    """A refusal that HTTP has a status of its own for."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.message = message


class Error(msgspec.Struct):
    """What went wrong; `code` as on the socket, `message` says what to do."""

    code: int
    reason: str
    message: str
    request_id: str


class Body(msgspec.Struct):
    """What every refusal has."""

    error: Error


def error_response(
    status: int, code: int, reason: str, message: str, request_id: str, retry_ms: int = -1
) -> web.Response:
    """Return the answer; a wait also goes into the header Retry-After."""
    message = message or _ADVICE.get(status, _ADVICE[500 if status >= 500 else 400])
    body = msgspec.json.encode(Body(Error(int(code), reason, message, request_id)))
    response = web.Response(status=status, body=body, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if retry_ms > 0 and status in (429, 503):
        response.headers["Retry-After"] = str(math.ceil(retry_ms / 1000))
    if status == 426:
        response.headers["Upgrade"] = "websocket"
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def response_for(exc: Exception, request_id: str, path: str = "") -> web.Response | None:
    """Return the answer to an exception, None when nobody foresaw it.

    Args:
        path: below /v1 what goes wrong outside of its routes has OpenAI's shape, as inside.
    """
    if isinstance(exc, HttpRefusal | web.HTTPException):
        refusal = exc if isinstance(exc, HttpRefusal) else _refusal_of(exc)
        code = _CODE_OF_STATUS.get(refusal.status, Code.MALFORMED)
        if refusal.status >= 500:
            code = Code.INTERNAL
        if path.startswith("/v1/") and not path.startswith("/v1/dashboard"):
            text = refusal.message or _ADVICE.get(refusal.status, _ADVICE[400])
            response = openai_response(Problem(refusal.status, text, code=refusal.reason))
        else:
            response = error_response(
                refusal.status, code, refusal.reason, refusal.message, request_id
            )
        if isinstance(exc, web.HTTPException) and "Allow" in exc.headers:
            response.headers["Allow"] = exc.headers["Allow"]
        return response
    failure = explain(exc)
    if failure is None:
        return None
    status = 409 if isinstance(exc, Exists | NameTaken) else _STATUS.get(failure.code, 400)
    return _from_failure(failure, status, request_id)


def _from_failure(failure: Failure, status: int, request_id: str) -> web.Response:
    return error_response(
        status,
        failure.code,
        failure.reason,
        failure.detail or "",
        request_id,
        failure.retry_ms,
    )


def _refusal_of(exc: web.HTTPException) -> HttpRefusal:
    return HttpRefusal(exc.status, HTTPStatus(exc.status).phrase.lower())
