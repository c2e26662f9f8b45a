"""Passwords: what they may be, and slow hashing away from the event loop."""

import asyncio
import functools
import os
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from protocol.codes import Code
from protocol.errors import ProtocolError
from protocol.text import clean_name
from server.errors import ServiceError, invalid

T = TypeVar("T")

MIN_PASSWORD: Final = 8
MAX_PASSWORD: Final = 256
MIN_NAME: Final = 2
MAX_NAME: Final = 32
# What OWASP asks for at least: 19 MiB, two passes, one lane; about 20 ms. The library's default
# takes 64 MiB a piece, which is more than the whole server.
_TIME_COST: Final = 2
_MEMORY_KIB: Final = 19 * 1024
_QUEUE_PER_WORKER: Final = 16
_GUESS_MS: Final = 40.0


def clean_user_name(name: str) -> str:
    """Return the name as it is stored; names that look alike are equal later (`name_key`).

    Raises:
        ServiceError: INVALID, with what is allowed.
    """
    try:
        name = clean_name(unicodedata.normalize("NFKC", name[: MAX_NAME * 4]), MAX_NAME)
    except ProtocolError as error:
        raise invalid("bad name", f"A name has 2 to 32 visible characters: {error}.") from None
    if len(name) < MIN_NAME:
        raise invalid("bad name", "A name has 2 to 32 visible characters.")
    return name


def clean_password(password: str) -> str:
    """Return the password as it is hashed: alike from every keyboard (NFKC).

    Raises:
        ServiceError: INVALID when too short or too long.
    """
    if len(password) > MAX_PASSWORD:
        raise invalid("bad password", f"A password has at most {MAX_PASSWORD} characters.")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise invalid("bad password", "The password is not valid text.") from None
    password = unicodedata.normalize("NFKC", password)
    if len(password) < MIN_PASSWORD:
        raise invalid("bad password", f"A password has at least {MIN_PASSWORD} characters.")
    return password


class Verdict(NamedTuple):
    """Whether a password fits; `new_hash` is set when it should be stored anew."""

    ok: bool
    new_hash: str | None = None


class Passwords:
    """Hashes and checks passwords in a few threads of its own.

    At most 16 requests per thread wait; more are refused with OVERLOADED and the time after which
    there is room again. Cancelling a request frees its place once a thread has come to it.

    Attributes:
        refused: requests refused because the queue was full.
    """

    def __init__(self, workers: int, memory_kib: int = _MEMORY_KIB) -> None:
        self._hasher = PasswordHasher(time_cost=_TIME_COST, memory_cost=memory_kib, parallelism=1)
        self._pool = ThreadPoolExecutor(workers, "password", initializer=_give_way)
        self._workers = workers
        self._bound = workers * _QUEUE_PER_WORKER
        self._waiting = 0
        self._mean_ms = _GUESS_MS
        self.refused = 0
        # Checked when there is no such user, so that both answers take the same time. Made by
        # the first thread, before anything else: the start of the server does not wait for it.
        self._nobody = self._pool.submit(self._hasher.hash, "nobody has this password")

    async def hash(self, password: str) -> str:
        """Return the hash to store.

        Raises:
            ServiceError: OVERLOADED, nothing was done.
        """
        return await self._run(functools.partial(self._hasher.hash, password))

    async def check(self, password_hash: str | None, password: str) -> Verdict:
        """Tell whether password fits; without a hash, take as long and say no.

        Raises:
            ServiceError: OVERLOADED, nothing was done.
        """
        verdict = await self._run(functools.partial(self._check, password_hash, password))
        return verdict if password_hash else Verdict(ok=False)

    def close(self) -> None:
        """Let running checks end and forget those that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, password_hash: str | None, password: str) -> Verdict:
        if password_hash is None:
            password_hash = self._nobody.result()
        try:
            self._hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHashError):
            return Verdict(ok=False)
        stale = self._hasher.check_needs_rehash(password_hash)
        return Verdict(True, self._hasher.hash(password) if stale else None)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._bound:
            self.refused += 1
            retry_ms = int(self._waiting * self._mean_ms / self._workers) + 1000
            raise ServiceError(
                Code.OVERLOADED, "too many sign-ins", "Please try again soon.", retry_ms
            )
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._waiting += 1
        ahead = self._waiting
        future = loop.run_in_executor(self._pool, work)
        # The place is free when the thread is done, also if the one who asked went away.
        future.add_done_callback(self._free)
        result = await asyncio.shield(future)
        took_ms = (loop.time() - started) * 1000 * self._workers / max(ahead, self._workers)
        self._mean_ms += (took_ms - self._mean_ms) * 0.2
        return result

    def _free(self, future: "asyncio.Future[T]") -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # read, so that nobody is told that it was never looked at


def _give_way() -> None:
    """Have the loop go before this thread: on few cores a flood of sign-ins would hold it up."""
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + 10)
