"""Bodies of requests: bounded in size and time, typed, and answers in JSON."""

import asyncio
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from server.errors import invalid
from server.http.errors import HttpRefusal

T = TypeVar("T")

BODY_S: Final = 30.0
"""A body must be complete by then, however slowly it trickles."""


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        HttpRefusal: 413 too large, 408 too slow, 415 compressed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Nobody may have a small request become a large one here.
        raise HttpRefusal(415, "compressed body", "Send it without the header Content-Encoding.")
    announced = request.content_length
    if announced is not None and announced > max_bytes:
        raise HttpRefusal(413, "body too large", f"Send at most {max_bytes} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > max_bytes:
                    raise HttpRefusal(413, "body too large", f"Send at most {max_bytes} bytes.")
    except TimeoutError:
        raise HttpRefusal(408, "body too slow") from None
    return bytes(body)


async def read_json(request: web.Request, kind: type[T], max_bytes: int = 64 * 1024) -> T:
    """Return the body as a value of kind; unknown fields are ignored.

    Raises:
        HttpRefusal: 400 malformed, 413, 408, 415 another kind of content.
        ServiceError: INVALID, a field is missing or of the wrong kind.
    """
    if request.content_type != "application/json":
        raise HttpRefusal(415, "not JSON")
    body = await read_body(request, max_bytes)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        # Names the field and the kinds, never the value.
        raise invalid("invalid body", f"{error}.") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise HttpRefusal(400, "malformed JSON", "Send valid JSON in UTF-8.") from None


def json_response(value: object, status: int = 200) -> web.Response:
    """Return value as JSON that no cache keeps."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
