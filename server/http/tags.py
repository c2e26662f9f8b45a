"""Entity tags: an answer that the asker has already is not sent again (RFC 9110 §13.1.2)."""

import hashlib
from typing import Final

from aiohttp import web

HEADER: Final = {
    "If-None-Match": "The entity tag of what you have: 304 says that it is still true."
}


def tag_of(body: bytes) -> str:
    """Return the tag of a body, without its quotes."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def has_already(request: web.Request, tag: str) -> bool:
    """Tell whether the asker names this tag, weakly or not, or any."""
    return any(known.value in (tag, "*") for known in request.if_none_match or ())


def tagged(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Put the tag of its body on a good answer; return 304 when the asker has it already.

    What one person was told no shared cache keeps, and a private one asks again each time.
    """
    if not isinstance(response, web.Response) or response.status != 200:
        return response
    body = response.body
    if not isinstance(body, bytes | bytearray):
        return response
    tag = tag_of(bytes(body))
    if has_already(request, tag):
        response = web.Response(status=304)
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Authorization, X-API-Key"
    response.etag = tag
    return response
