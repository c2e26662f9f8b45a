"""Pictures in messages: data and https addresses as OpenAI's clients send them, checked, bounded.

A picture is never opened or fetched here: its first bytes tell what it is, and the AI service
reads it. Source: platform.openai.com/docs/guides/images-vision.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from ai_bridge.http.problems import Problem, problem_of
from ai_bridge.types import ChatMessage, Image
from protocol.codes import Code

MAX_PICTURES: Final = 16
"""Of one request."""
MAX_PICTURE_CHARS: Final = 5 * 1024 * 1024
"""In base64: what Anthropic takes of one picture, the least of the four vendors."""
MAX_HELD_BYTES: Final = 256 * 1024 * 1024
"""Of all requests that are being answered, in base64."""
RETRY_MS: Final = 2_000

_INLINE_CHARS: Final = 64 * 1024
"""Checked on the event loop, which takes 0.1 ms; more goes to a thread."""
_PIECE_CHARS: Final = 64 * 1024
"""The decoder holds the interpreter's lock for a whole piece, also in a thread."""
_SNIFFED_CHARS: Final = 24

_match_data: Final = re.compile(r"data:image/[a-z+.-]{1,32};base64,", re.I).match


class ImageUrl(Struct):
    """The value of a part of the type `image_url`."""

    url: str
    detail: Annotated[str, Meta(max_length=16)] | None = None


def read_picture(given: ImageUrl, param: str) -> Image:
    """Return a picture as its first bytes tell it; `check_pictures` looks at the rest.

    Raises:
        Problem: 400, no picture that the services read, or an address that is not https.
    """
    detail = given.detail if given.detail in ("low", "high", "auto") else ""
    found = _match_data(given.url)
    if found is None:
        return Image(url=_checked_address(given.url, param), detail=detail)
    data = given.url[found.end() :]
    if len(data) > MAX_PICTURE_CHARS:
        text = f"A picture may have {MAX_PICTURE_CHARS} characters of base64: send a smaller one."
        raise Problem(413, text, code="image_too_large", param=param)
    return Image(media=_media_of(data, param), data=data, detail=detail)


def _checked_address(url: str, param: str) -> str:
    try:
        address = urlsplit(url)
        good = address.scheme == "https" and bool(address.hostname) and len(url) <= 4_096
    except ValueError:
        good = False
    if not good:
        text = "A picture is an https address, or `data:image/...;base64,` and its bytes."
        raise Problem(400, text, code="invalid_image_url", param=param)
    return url


def _media_of(data: str, param: str) -> str:
    """Tell the kind by the first bytes: what callers write is often wrong, and then refused."""
    try:
        head = binascii.a2b_base64(data[:_SNIFFED_CHARS], strict_mode=True)
    except ValueError:
        raise _no_base64(param) from None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    text = "A picture must be a PNG, JPEG, WebP or GIF."
    raise Problem(400, text, code="unsupported_image", param=param)


async def check_pictures(talk: Iterable[ChatMessage]) -> None:
    """Look whether the pictures of a talk are whole, off the event loop where that takes time.

    Raises:
        Problem: 400, one of them is no base64.
    """
    data = [image.data for message in talk for image in message.images if image.data]
    if sum(map(len, data)) <= _INLINE_CHARS:
        whole = all(map(is_base64, data))
    else:
        whole = await asyncio.to_thread(lambda: all(map(is_base64, data)))
    if not whole:
        raise _no_base64("messages")


def is_base64(data: str) -> bool:
    """Tell whether a text is base64 as RFC 4648 §4 has it: no blanks, padded."""
    last = max(0, len(data) - 1) // _PIECE_CHARS * _PIECE_CHARS
    try:
        for start in range(0, len(data), _PIECE_CHARS):
            piece = data[start : start + _PIECE_CHARS]
            if start < last and piece.endswith("="):
                return False
            binascii.a2b_base64(piece, strict_mode=True)
    except ValueError:
        return False
    return True


def _no_base64(param: str) -> Problem:
    text = "The bytes of a picture are not valid base64 (RFC 4648, padded, without line breaks)."
    return Problem(400, text, code="invalid_base64_image", param=param)


class PictureRoom:
    """Bounds what the pictures of all requests under way take.

    Attributes:
        held: characters of base64 that are held now.
        refused: requests that found no room.
    """

    def __init__(self, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_bytes = max_bytes
        self.held = 0
        self.refused = 0

    @contextmanager
    def holding(self, talk: Iterable[ChatMessage]) -> Iterator[None]:
        """Count the pictures of a talk while it is being answered.

        Raises:
            Problem: 503, there is no room for them now.
        """
        size = sum(len(image.data) for message in talk for image in message.images)
        if size and self.held + size > self._max_bytes:
            self.refused += 1
            text = "Too many pictures are being looked at right now. Ask again in a moment."
            raise problem_of(Code.OVERLOADED, text, RETRY_MS)
        self.held += size
        try:
            yield
        finally:
            self.held -= size
