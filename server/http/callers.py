"""Who asks for answers over HTTP, remembered for a moment so that no request waits for a read."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiohttp import web
from msgspec import Struct

from protocol.codes import Code
from server.accounts import NO_DEVICE, Accounts
from server.api_keys import PREFIX
from server.errors import ServiceError
from server.http.context import bearer_of

REMEMBER_S: Final = 3.0
"""How long a key that another process revoked still works here."""
CAPACITY: Final = 4_096
"""Checks remembered; the one used longest ago goes first."""
_NAME_BITS: Final = 52


class HttpCaller(Struct, frozen=True):
    """On whose behalf a request is answered.

    A key acts for its tenant. `user` is then the key itself, or a number made of the key and the
    name that the request gives in `user`: a sub-user, whom nobody has to create. Such numbers are
    negative, so they never meet a real user's. They count for fairness and limits, see nothing
    but what all of the tenant may see, and own nothing.

    Attributes:
        key: id of the API key, 0 for a person's token.
        raw: may name providers' models without a persona.
    """

    user: int
    tenant: int
    device: bytes = NO_DEVICE
    key: int = 0
    raw: bool = False

    def named(self, name: str) -> "HttpCaller":
        """Return the sub-user of this name; a person's token always means the person."""
        if not self.key or not name:
            return self
        digest = hashlib.blake2b(name.encode(), digest_size=8, key=self.key.to_bytes(8, "big"))
        number = int.from_bytes(digest.digest(), "big") >> (64 - _NAME_BITS)
        return HttpCaller(-1 - number, self.tenant, self.device, self.key, self.raw)


class Callers:
    """Checks tokens and keys, and remembers the good ones for `REMEMBER_S`.

    What this process revokes is forgotten at once. Refusals are not remembered. Many requests
    that bring the same unknown token meet in one check.

    Args:
        clock: seconds, monotonic. now_ms: wall clock.
    """

    def __init__(
        self,
        accounts: Accounts,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._accounts = accounts
        self._clock = clock
        self._now_ms = now_ms
        self._known: OrderedDict[str, tuple[HttpCaller, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[HttpCaller]] = {}
        self._revocations = 0
        accounts.api_keys.revoked = self.forget_key

    def __len__(self) -> int:
        return len(self._known)

    async def of(self, request: web.Request) -> HttpCaller:
        """Return who sent a request.

        Raises:
            ServiceError: no token or key, or one that is not accepted (any more), or a key
                without the scope `chat`.
            StorageError: the store cannot be asked.
        """
        text = bearer_of(request)
        known = self._known.get(text)
        if known is not None and known[1] > self._clock():
            self._known.move_to_end(text)
            return known[0]
        asking = self._asking.get(text)
        if asking is None:
            asking = self._asking[text] = asyncio.create_task(self._check(text))
            asking.add_done_callback(lambda task: self._checked(text, task))
        # Shielded: the first to ask may leave while others wait for the same check.
        return await asyncio.shield(asking)

    def forget_user(self, user: int) -> None:
        """The user's tokens have become void."""
        self._forget(lambda caller: not caller.key and caller.user == user)

    def forget_key(self, key: int) -> None:
        """The key has been revoked."""
        self._forget(lambda caller: caller.key == key)

    def _forget(self, gone: Callable[[HttpCaller], bool]) -> None:
        self._revocations += 1  # a check under way may have read the state from before
        for text in [text for text, (caller, _) in self._known.items() if gone(caller)]:
            del self._known[text]

    async def _check(self, text: str) -> HttpCaller:
        seen = self._revocations
        caller, until = await (self._key(text) if text.startswith(PREFIX) else self._person(text))
        if seen == self._revocations:
            self._known[text] = (caller, until)
            if len(self._known) > CAPACITY:
                self._known.popitem(last=False)
        return caller

    def _checked(self, text: str, task: "asyncio.Task[HttpCaller]") -> None:
        del self._asking[text]
        if not task.cancelled():
            task.exception()  # whoever waited has it; if they all left, nobody is to be warned

    async def _person(self, text: str) -> tuple[HttpCaller, float]:
        claims = await self._accounts.authenticate(text)
        device = bytes.fromhex(claims.device) if claims.device else NO_DEVICE
        left_s = max(0, claims.expires_ms - self._now_ms()) / 1000
        caller = HttpCaller(claims.user, claims.tenant, device, raw="models" in claims.scopes)
        return caller, self._clock() + min(REMEMBER_S, left_s)

    async def _key(self, text: str) -> tuple[HttpCaller, float]:
        key = await self._accounts.api_keys.check(text)
        if "chat" not in key.scopes:
            raise ServiceError(
                Code.NOT_PERMITTED, "scope missing", "The API key lacks the scope 'chat'."
            )
        caller = HttpCaller(key.id, key.tenant, key=key.id, raw="models" in key.scopes)
        return caller, self._clock() + REMEMBER_S


CALLERS: Final = web.AppKey("callers", Callers)
