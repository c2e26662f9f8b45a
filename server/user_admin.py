"""Accounts as administrators handle them, by command and over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.codes import Code, UserKind
from server.accounts import NameTaken, clean_nick
from server.errors import ServiceError, not_found
from server.passwords import Passwords, clean_password, clean_user_name
from storage.accounts import (
    create_user,
    get_account,
    list_accounts,
    set_disabled,
    set_password,
)
from storage.erasure import Kind, get_erasure
from storage.errors import Exists
from storage.ids import new_id
from storage.rows import Account

if TYPE_CHECKING:
    from storage.store import Store


class UserAdmin:
    """Lists, makes, locks out and lets in the users of one tenant; safe beside a running server.

    Methods raise ServiceError with a text for the administrator, or StorageError. A user of
    another tenant is not found.

    Args:
        revoked: called on the loop with a user whose tokens have just become void.
    """

    def __init__(
        self,
        store: "Store",
        tenant: int,
        passwords: Passwords,
        revoked: Callable[[int], None] = lambda user: None,
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._passwords = passwords
        self._revoked = revoked

    async def page(self, begins: str, after: str, limit: int) -> list[Account]:
        """Return users by name, also disabled ones.

        Args:
            begins: how the names begin, in any case.
            after: the last name of the page before.
        """
        return await self._store.read(list_accounts(self._tenant, after, limit, begins))

    async def get(self, user: int) -> Account:
        """Return a user.

        Raises:
            ServiceError: NOT_FOUND.
        """
        found = await self._store.read(get_account(self._tenant, user))
        if found is None:
            raise not_found("user")
        return found

    async def create(self, name: str, nick: str, password: str | None) -> Account:
        """Make an account; one without a password is only signed in by who vouches for it.

        Raises:
            ServiceError: INVALID, or NameTaken.
        """
        name, nick = clean_user_name(name), clean_nick(nick)
        hashed = None
        if password is not None:
            hashed = await self._passwords.hash(clean_password(password))
        tenant, user, kind = self._tenant, new_id(), int(UserKind.PERSON)
        try:
            await self._store.change(
                [], lambda tx: create_user(tx, tenant, name, nick, kind, hashed, user)
            )
        except Exists:
            raise NameTaken from None
        return await self.get(user)

    async def set_disabled(self, user: int, disabled: bool) -> Account:
        """Lock a user out, or let one in again; every sign-in so far ends, messages stay.

        Raises:
            ServiceError: NOT_FOUND, or WRONG_STATE, the user is being erased.
        """
        known = await self.get(user)
        if not disabled and await self._store.read(get_erasure(Kind.USER, user)) is not None:
            raise ServiceError(
                Code.WRONG_STATE,
                "user is erased",
                f"{known.name} is being erased and cannot come back",
            )
        await self._store.change([], lambda tx: set_disabled(tx, user, disabled))
        self._revoked(user)
        return await self.get(user)

    async def set_password(self, user: int, password: str) -> None:
        """Set a new password; everything that was signed in must sign in again.

        Raises:
            ServiceError: NOT_FOUND, INVALID, or WRONG_STATE, the user is being erased.
        """
        password = clean_password(password)
        known = await self.get(user)
        if await self._store.read(get_erasure(Kind.USER, user)) is not None:
            raise ServiceError(Code.WRONG_STATE, "user is erased", f"{known.name} is being erased")
        hashed = await self._passwords.hash(password)
        await self._store.change([], lambda tx: set_password(tx, user, hashed))
        self._revoked(user)
