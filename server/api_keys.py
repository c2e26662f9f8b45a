"""Keys for programs: random, stored as a hash, limited to scopes, revoked at any time."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from protocol.codes import Code
from server.errors import ServiceError, invalid
from storage.accounts import (
    add_api_key,
    api_key_by_hash,
    list_api_keys,
    revoke_api_key,
    touch_api_keys,
)
from storage.errors import StorageError
from storage.rows import ApiKey

if TYPE_CHECKING:
    from storage.store import Store

PREFIX: Final = "pk_"
SCOPES: Final = (
    "exchange",
    "metrics",
    "chat",
    "models",
    "engines",
    "dashboard",
    "admin",
    "operator",
)
"""`exchange`: sign in as any user of the tenant; `metrics`: read the figures; `chat`: have the
personas of the tenant answer over HTTP; `models`: also the providers' models without a persona;
`engines`: see and switch which engine answers in the tenant; `dashboard`: see the figures over
time, and the answers of the tenant, and cancel them; `admin`: handle the users, keys, budgets and
usage of the tenant; `operator`: with `dashboard`, the answers of all tenants, with `admin`, all
tenants, and the AI services and prices of the server."""
_RANDOM_BYTES: Final = 32
_MAX_KEY_CHARS: Final = 128
_TOUCH_MS: Final = 3_600_000


def hash_secret(text: str) -> bytes:
    """Return what is stored of a random secret; it needs no salt and no slow hash."""
    return hashlib.sha256(text.encode()).digest()


class ApiKeys:
    """Makes and checks API keys. Every check reads the store, so revoking works at once.

    Args:
        now_ms: wall clock.

    Attributes:
        revoked: called on the loop with a key that this process has just revoked, for those who
            remember checks.
    """

    def __init__(self, store: "Store", now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.revoked: Callable[[int], None] = lambda key: None

    async def page(self, tenant: int, after: int, limit: int) -> list[ApiKey]:
        """Return the tenant's keys by id, also revoked ones, those after the one of this id."""
        return await self._store.read(list_api_keys(tenant, limit, after))

    async def grant(
        self, giver: ApiKey, tenant: int, name: str, scopes: Sequence[str]
    ) -> tuple[ApiKey, str]:
        """Return a new key that one key makes, which gives no scope that it has not itself.

        Raises:
            ServiceError: INVALID, or NOT_PERMITTED.
        """
        beyond = [scope for scope in scopes if scope in SCOPES and scope not in giver.scopes]
        if beyond:
            raise ServiceError(
                Code.NOT_PERMITTED,
                "scope missing",
                f"Your key has not the scope {beyond[0]!r} itself, so it cannot give it.",
            )
        return await self.create(tenant, name, scopes)

    async def withdraw(self, taker: ApiKey, tenant: int, key: int) -> ApiKey:
        """Revoke a key on behalf of another, which needs `operator` to take an operator's.

        Raises:
            NotFound: the tenant has no such key.
            ServiceError: NOT_PERMITTED.
        """
        found = await self._store.read(list_api_keys(tenant, 1, key - 1))
        operator = bool(found) and found[0].id == key and "operator" in found[0].scopes
        if operator and "operator" not in taker.scopes:
            raise ServiceError(
                Code.NOT_PERMITTED, "scope missing", "Only an operator's key can revoke this one."
            )
        return await self.revoke(tenant, key)

    async def create(self, tenant: int, name: str, scopes: Sequence[str]) -> tuple[ApiKey, str]:
        """Return a new key and its text, which nobody can show again.

        Raises:
            ServiceError: INVALID, a scope is unknown or none is named.
        """
        if not scopes:
            raise invalid("no scope", f"Say what the key may do: {', '.join(SCOPES)}.")
        for scope in scopes:
            if scope not in SCOPES:
                raise invalid("unknown scope", f"Scopes are {', '.join(SCOPES)}.")
        text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        hashed = hash_secret(text)
        key = await self._store.change([], lambda tx: add_api_key(tx, tenant, hashed, name, scopes))
        return key, text

    async def revoke(self, tenant: int, key: int) -> ApiKey:
        """Make a key worthless; again changes nothing.

        Raises:
            NotFound: the tenant has no such key.
        """
        revoked = await self._store.change([], lambda tx: revoke_api_key(tx, tenant, key))
        self.revoked(key)
        return revoked

    async def require(self, text: str, scope: str) -> ApiKey:
        """Return the key of this text if it may do what scope names.

        Raises:
            ServiceError: BAD_CREDENTIALS for unknown and revoked keys, NOT_PERMITTED for a key
                without the scope.
            StorageError: the store cannot be asked.
        """
        key = await self.check(text)
        if scope not in key.scopes:
            raise ServiceError(
                Code.NOT_PERMITTED, "scope missing", f"The API key lacks the scope {scope!r}."
            )
        return key

    async def check(self, text: str) -> ApiKey:
        """Return the key of this text, whatever it may do.

        Raises:
            ServiceError: BAD_CREDENTIALS for unknown and revoked keys.
            StorageError: the store cannot be asked.
        """
        key = await self._find(text)
        if key is None:
            raise ServiceError(Code.BAD_CREDENTIALS, "bad key", "The API key is not valid.")
        return key

    async def _find(self, text: str) -> ApiKey | None:
        if not text.startswith(PREFIX) or len(text) > _MAX_KEY_CHARS:
            return None
        try:
            hashed = hash_secret(text)
        except UnicodeEncodeError:
            return None
        key = await self._store.read(api_key_by_hash(hashed))
        if key is None or key.revoked:
            return None
        if self._now_ms() - key.last_used > _TOUCH_MS:
            await self._touch(key.id)
        return key

    async def _touch(self, key: int) -> None:
        try:
            await self._store.change([], lambda tx: touch_api_keys(tx, [key]))
        except StorageError:
            return  # only a note for people; the key is good all the same
