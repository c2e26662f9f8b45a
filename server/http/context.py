"""What routes need, and how they get it."""

import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from protocol.codes import Code
from server.accounts import Accounts
from server.auth import Claims
from server.config_check import is_loopback
from server.config_sections import Config
from server.errors import ServiceError
from server.metrics import LoopLag
from server.vault import Vault

if TYPE_CHECKING:
    from server.core import Core


@dataclass(frozen=True, slots=True)
class HttpParts:
    """The parts of the server that HTTP speaks to.

    Attributes:
        vault: seals the keys of AI services.
        refresh: takes over at once what has changed in the store.
    """

    config: Config
    core: "Core"
    accounts: Accounts
    lag: LoopLag
    vault: Vault
    refresh: Callable[[], Awaitable[object]]
    clock: Callable[[], float] = field(default=time.monotonic)


PARTS: Final = web.AppKey("parts", HttpParts)
WAITS: Final[ContextVar[bool]] = ContextVar("waits", default=False)

_match_bearer: Final = re.compile(r"[Bb]earer +([!-~]{1,4096})").fullmatch


def parts_of(request: web.Request) -> HttpParts:
    """Return the parts of the server behind a request."""
    return request.app[PARTS]


def note_wait() -> None:
    """The request under way waits for a model: how long says nothing about the server."""
    WAITS.set(True)


def address_of(request: web.Request) -> str:
    """Return the peer's address; "" when it came by another kind of socket."""
    return request.remote or ""


def is_local(request: web.Request) -> bool:
    """Tell whether the peer is this machine and no proxy speaks for somebody else."""
    proxied = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
    return not proxied and is_loopback(address_of(request))


def bearer_of(request: web.Request) -> str:
    """Return the token or key of a request; never from its URL.

    Raises:
        ServiceError: BAD_CREDENTIALS, there is none.
    """
    key = request.headers.get("X-API-Key")
    if key:
        return key
    found = _match_bearer(request.headers.get("Authorization", ""))
    if found is None:
        raise ServiceError(
            Code.BAD_CREDENTIALS,
            "no credentials",
            "Send the header `Authorization: Bearer <token>`.",
        )
    return found[1]


async def require_user(request: web.Request) -> Claims:
    """Return who sent a request.

    Raises:
        ServiceError: no token, or one that is not accepted (any more).
    """
    return await parts_of(request).accounts.authenticate(bearer_of(request))
