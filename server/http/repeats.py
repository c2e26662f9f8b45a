"""Requests that make something, sent a second time under the same name: what the first one did.

Kept in this process for ten minutes. Where a row can carry the name (messages, conversations,
personas) it does, and holds for good (`server.http.serving`); this is for everything else.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from aiohttp import web
from msgspec import Struct

from protocol.codes import Code
from server.errors import ServiceError, invalid
from server.metrics import Figure

REPEAT: Final = "Idempotency-Key"
REPEAT_HEADER: Final = {
    REPEAT: "Your own name for this request, up to 256 characters. A repeat with the same name"
    " changes nothing and is told what the first one did."
}
MAX_KEY_CHARS: Final = 256
KEEP_S: Final = 600.0
CAPACITY: Final = 2_048
"""Answers kept; the oldest goes first."""
MAX_BYTES: Final = 16 * 1024
"""A longer answer is not kept: its request can be sent again, and does its work again."""


class Answered(Struct, frozen=True):
    """An answer as it was sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def response(self) -> web.Response:
        """Return it once more."""
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class _Kept(Struct):
    asked: bytes
    until: float
    answer: asyncio.Future[Answered | None]


class Repeats:
    """Does the work of a named request once; who repeats it meanwhile waits for the same answer.

    What failed is forgotten, so that a repeat tries again. A crash or a restart forgets all.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def once(
        self, name: bytes, asked: bytes, work: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Return what the work answers, or answered when it was asked for under this name.

        Args:
            name: who asks, what route, and what they call the request.
            asked: the request's content; another one under the same name is refused.

        Raises:
            ServiceError: WRONG_STATE, the name stands for another request.
        """
        while (known := self._kept.get(name)) is not None:
            if known.answer.done() and known.until <= self._clock():
                break
            if known.asked != asked:
                raise ServiceError(
                    Code.WRONG_STATE,
                    "name used twice",
                    "This Idempotency-Key was sent with another request. Choose a new one.",
                )
            answer = await asyncio.shield(known.answer)
            if answer is not None:
                self.repeated += 1
                return answer.response()
        return await self._work(name, asked, work)  # nothing waits between the look and this

    async def _work(
        self, name: bytes, asked: bytes, work: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        kept = self._kept[name] = _Kept(asked, 0.0, loop.create_future())
        self._kept.move_to_end(name)
        if len(self._kept) > CAPACITY:
            self._kept.popitem(last=False)
        answer: Answered | None = None
        try:
            response = await work()
            answer = _answered(response)
            return response
        finally:
            kept.until = self._clock() + KEEP_S
            kept.answer.set_result(answer)
            if answer is None and self._kept.get(name) is kept:
                del self._kept[name]

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        text = "Answers kept for requests that may be repeated."
        yield Figure("gauge", "http_repeats_kept", text, len(self))
        text = "Requests that were answered as their first sending was."
        yield Figure("counter", "http_repeats", text, self.repeated)


def _answered(response: web.StreamResponse) -> Answered | None:
    if not isinstance(response, web.Response) or response.status >= 300:
        return None
    body = response.body
    if body is not None and not isinstance(body, bytes | bytearray):
        return None
    content = bytes(body or b"")
    if len(content) > MAX_BYTES:
        return None
    return Answered(response.status, tuple(response.headers.items()), content)


def repeat_key(request: web.Request) -> str:
    """Return what the sender calls a request, "" for nothing.

    Raises:
        ServiceError: INVALID, it is too long.
    """
    key = request.headers.get(REPEAT, "")
    if len(key) > MAX_KEY_CHARS:
        raise invalid(REPEAT, f"{REPEAT} has up to {MAX_KEY_CHARS} characters.")
    return key


def name_of(request: web.Request, who: str, key: str) -> bytes:
    """Return the name under which a request is kept; it tells nothing of the credentials."""
    digest = hashlib.blake2b(digest_size=32)
    for part in (request.method, request.path_qs, who, key):
        digest.update(len(part).to_bytes(4, "big") + part.encode(errors="surrogateescape"))
    return digest.digest()


REPEATS: Final = web.AppKey("repeats", Repeats)
