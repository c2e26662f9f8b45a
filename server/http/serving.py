"""Requests of the socket, asked for over HTTP: the same handlers, weights and rates."""

import hashlib
import secrets
from typing import Any

from protocol.codes import Code
from protocol.envelopes import Frame, Request
from server.errors import ServiceError
from server.http.openai_routes import ASKING
from server.http.repeats import REPEAT_HEADER, repeat_key
from server.http.typed import Call, Person

__all__ = ["REPEAT_HEADER", "admit", "repeat_id", "serve"]


def admit(call: Call[Person, Any, Any], kind: type[Frame]) -> None:
    """Count a request against the person's rate, which all of the person's requests share.

    Raises:
        ServiceError: RATE.
    """
    weight = call.core.handlers[kind].weight
    wait_s = call.request.app[ASKING].rates.admit(call.who.user, weight)
    if wait_s:
        text = "You ask too often. Wait a moment and ask again."
        raise ServiceError(Code.RATE, "rate", text, int(wait_s * 1000) + 1)


async def serve(call: Call[Person, Any, Any], frame: Request) -> Any:
    """Do what a frame asks for and return its reply.

    Raises:
        ServiceError: RATE, and what the handler raises.
    """
    admit(call, type(frame))
    return await call.core.router.served[type(frame)](call.core, call.who, frame)


def repeat_id(call: Call[Person, Any, Any]) -> bytes:
    """Return the id under which a repeat of this request is found.

    Raises:
        ServiceError: INVALID, the header is too long.
    """
    key = repeat_key(call.request)
    if not key:
        return secrets.token_bytes(16)
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
