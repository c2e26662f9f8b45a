"""Bodies of requests: bounded in size, time and depth, typed."""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from ai_bridge.http.problems import Problem

T = TypeVar("T")

MAX_BODY_BYTES: Final = 10 * 1024 * 1024
"""Most of it for pictures: how much text there may be is `openai_shapes.MAX_TEXT_CHARS`."""
BODY_S: Final = 30.0

_split_error: Final = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.S).fullmatch


async def read_body(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body as what the decoder makes of it; unknown fields are ignored.

    Whether it calls itself JSON does not matter, as with the service that is imitated. Nesting
    is bounded by the interpreter (about a thousand levels), which the decoder respects.

    Raises:
        Problem: 400 malformed or a wrong field, 408 too slow, 413 too large, 415 compressed.
    """
    data = await _read(request)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise wrong_field(str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Problem(400, "The body is not valid JSON.", code="invalid_json") from None


async def _read(request: web.Request) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Nobody may have a small request become a large one here.
        raise Problem(415, "Send the body without compression.", code="unsupported_encoding")
    limit = min(MAX_BODY_BYTES, request.client_max_size or MAX_BODY_BYTES)
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    content = request.content
    if content.is_eof() and request.content_length is not None:
        # All of it came with the head, as it nearly always does: no deadline is needed.
        return content.read_nowait()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise Problem(408, "The request came too slowly; send it again.") from None
    return bytes(body)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"Send at most {limit} bytes.", code="request_too_large")


def wrong_field(text: str, under: str = "") -> Problem:
    """Explain a decoder's error, whose text names the field and the kinds, never the value.

    Args:
        under: the field whose value was decoded, if it was not the body.
    """
    found = _split_error(text)
    path = under + ((found[2] if found is not None else "") or "")
    what = found[1] if found is not None else text
    where = f" ({path})" if path else ""
    return Problem(400, f"{what}{where}.", code="invalid_request", param=path or None)
