"""Accounts: who may sign in, and what proves it. Every door that signs people in comes here."""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

from msgspec import Struct

from protocol.codes import Code, UserKind
from protocol.errors import ProtocolError
from protocol.rows import User
from protocol.text import clean_name, name_key
from server.api_keys import ApiKeys, hash_secret
from server.auth import AuthError, Claims, Tokens
from server.config_sections import AuthConfig
from server.errors import ServiceError, invalid, not_permitted
from server.passwords import Passwords, Verdict, clean_password, clean_user_name
from server.throttle import Allowance, GuessDelay, address_key
from storage.accounts import (
    add_refresh,
    create_user,
    credentials,
    drop_refresh,
    login_state,
    set_password,
    use_refresh,
)
from storage.errors import Exists
from storage.ids import new_id
from storage.people import get_users, tenant_by_slug, user_by_name
from storage.rows import Credentials

if TYPE_CHECKING:
    from storage.store import Store

DEFAULT_TENANT: Final = 1
DEFAULT_SLUG: Final = "default"
NO_DEVICE: Final = bytes(16)
_REFRESH_PREFIX: Final = "rt_"
_MAX_EXTERNAL_NAME: Final = 64
_MAX_REFRESH_CHARS: Final = 128

# Wrong passwords from one address for one account, then for one account from everywhere.
_TRIES_HERE: Final = 5
_TRIES_ANYWHERE: Final = 50
# Sign-ins, and new accounts, of one address.
_SIGN_INS: Final = (0.5, 30.0)
_NEW_ACCOUNTS: Final = (0.1, 20.0)


class SignIn(Struct, frozen=True):
    """Somebody is signed in. Times are Unix milliseconds."""

    user: User
    tenant: int
    token: str
    expires: int
    refresh_token: str
    refresh_expires: int


class NameTaken(ServiceError):
    """Somebody of the tenant is called so already."""

    def __init__(self) -> None:
        super().__init__(Code.INVALID, "name taken", "This name is taken, please choose another.")


class Accounts:
    """Makes accounts and signs people in; owns the threads that hash passwords.

    Unknown users, wrong passwords, disabled accounts and unknown tenants all get the same answer
    after the same time.

    Args:
        revoked: called on the loop with the user whose tokens have just become void; also an
            attribute, because who must be told is built later. signed_out, the other one, is
            called with a user one of whose sign-ins has just ended.
        clock: seconds, monotonic. now_ms: wall clock.

    All methods raise ServiceError with a text for the user, or StorageError.
    """

    def __init__(
        self,
        store: "Store",
        tokens: Tokens,
        config: AuthConfig,
        *,
        passwords: Passwords | None = None,
        revoked: Callable[[int], None] = lambda user: None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._config = config
        self.revoked = revoked
        self.signed_out: Callable[[int], None] = lambda user: None
        self._now_ms = now_ms
        self.passwords = passwords or Passwords(config.hash_workers)
        self.api_keys = ApiKeys(store, now_ms)
        self.guesses_here = GuessDelay(_TRIES_HERE, clock)
        self.guesses_anywhere = GuessDelay(_TRIES_ANYWHERE, clock)
        self._sign_ins = Allowance(*_SIGN_INS, clock)
        self._new_accounts = Allowance(*_NEW_ACCOUNTS, clock)

    def close(self) -> None:
        """Stop the threads."""
        self.passwords.close()

    # signing in

    async def register(
        self, name: str, password: str, nick: str, device: bytes | None, address: str
    ) -> SignIn:
        """Make an account in the default tenant and sign in."""
        if not self._config.registration:
            raise not_permitted_to("make an account", "Ask an administrator for one.")
        name = clean_user_name(name)
        password = clean_password(password)
        nick = clean_nick(nick)
        self._admit_account(address)
        hashed = await self.passwords.hash(password)
        user = await self.create_user(DEFAULT_TENANT, name, nick, UserKind.PERSON, hashed)
        return await self._sign_in(user, DEFAULT_TENANT, 0, device)

    async def guest(self, nick: str, device: bytes | None, address: str) -> SignIn:
        """Make an account without a password; it lasts as long as its refresh token."""
        if not self._config.guests:
            raise not_permitted_to("come in as a guest", "Make an account, or sign in.")
        nick = clean_nick(nick)
        self._admit_account(address)
        name = f"guest-{secrets.token_hex(5)}"
        user = await self.create_user(DEFAULT_TENANT, name, nick, UserKind.GUEST, None)
        return await self._sign_in(user, DEFAULT_TENANT, 0, device)

    async def login(
        self, tenant_slug: str, name: str, password: str, device: bytes | None, address: str
    ) -> SignIn:
        """Sign in by name and password."""
        account = (tenant_slug, name_key(name[:256]))
        self._admit_guess(address, account)
        tenant = await self._tenant(tenant_slug)
        known = await self._credentials(tenant, name)
        verdict = await self._check_password(known, password)
        if known is None or not verdict.ok or known.disabled:
            raise _bad_credentials()
        self.guesses_here.forgive((address_key(address), account))
        self.guesses_anywhere.forgive(account)
        if verdict.new_hash:
            await self._store_password(known.user, verdict.new_hash, revoke=False)
        user = await self._user(known.user)
        return await self._sign_in(user, tenant, known.token_epoch, device)

    async def refresh(self, refresh_token: str, attempt: bytes | None) -> SignIn:
        """Spend a refresh token for a new one and a new sign-in token.

        A spent token that comes again has leaked: its whole sign-in ends. Only a repeat with the
        same attempt (16 random bytes, chosen by the client and kept until there is an answer) is
        answered again, because the first answer may have been lost.
        """
        old_hash = _refresh_hash(refresh_token)
        successor = _successor(refresh_token, attempt)
        expires = self._now_ms() + self._config.refresh_ttl_s * 1000
        new_hash = hash_secret(successor)
        use = await self._store.change([], lambda tx: use_refresh(tx, old_hash, new_hash, expires))
        if use is None:
            raise ServiceError(Code.EXPIRED, "refresh token is void", "Please sign in again.")
        user = await self._user(use.user)
        device = None if use.device == NO_DEVICE else use.device
        token, token_expires = self._issue(user, use.tenant, use.token_epoch, device, use.family)
        return SignIn(user, use.tenant, token, token_expires, successor, expires)

    async def logout(self, refresh_token: str) -> None:
        """End the sign-in that this refresh token belongs to; harmless when it ended already.

        Its sign-in tokens are void from now on; connections stay until theirs has to be renewed.
        """
        hashed = _refresh_hash(refresh_token)
        self.signed_out(await self._store.change([], lambda tx: drop_refresh(tx, hashed)))

    async def exchange(self, api_key: str, name: str, nick: str, device: bytes | None) -> SignIn:
        """Sign in a user of a service that vouches for them with its key; made when unknown.

        Args:
            name: what the service calls the user, up to 64 characters.
        """
        key = await self.api_keys.require(api_key, "exchange")
        try:
            name = clean_name(name[: _MAX_EXTERNAL_NAME * 4], _MAX_EXTERNAL_NAME)
        except ProtocolError as error:
            raise invalid("bad name", f"A name has 1 to 64 visible characters: {error}.") from None
        nick = clean_nick(nick)
        user = await self._store.read(user_by_name(key.tenant, name))
        if user is None:
            user = await self._create_or_find(key.tenant, name, nick)
        state = await self._store.read(login_state(user.id or 0, NO_DEVICE))
        if state is None or state.disabled:
            raise not_permitted_to("sign in", "The account is disabled.")
        return await self._sign_in(user, key.tenant, state.token_epoch, device)

    async def change_password(
        self, claims: Claims, old: str, new: str, device: bytes | None, address: str
    ) -> SignIn:
        """Set a new password; every other sign-in of the user ends."""
        new = clean_password(new)
        user = await self._user(claims.user)
        known = await self._prove(claims, user, old, address)
        hashed = await self.passwords.hash(new)
        await self._store_password(claims.user, hashed, revoke=True)
        self.revoked(claims.user)
        return await self._sign_in(user, claims.tenant, known.token_epoch + 1, device)

    async def confirm(self, claims: Claims, password: str, address: str) -> None:
        """Check that who sent a token knows the password too; without one the token is enough."""
        user = await self._user(claims.user)
        if await self._store.read(credentials(claims.tenant, user.name or "")) is not None:
            await self._prove(claims, user, password, address)

    async def _prove(self, claims: Claims, user: User, password: str, address: str) -> Credentials:
        account = (claims.tenant, user.id)
        self._admit_guess(address, account)
        known = await self._store.read(credentials(claims.tenant, user.name or ""))
        verdict = await self._check_password(known, password)
        if known is None or known.user != claims.user or not verdict.ok:
            raise _bad_credentials()
        self.guesses_here.forgive((address_key(address), account))
        self.guesses_anywhere.forgive(account)
        return known

    # for other doors and for the command line

    async def authenticate(self, token: str) -> Claims:
        """Return who a sign-in token belongs to, as of now: also disabled users are refused."""
        try:
            claims = self._tokens.verify(token, self._now_ms())
        except AuthError as error:
            raise ServiceError(error.code, error.reason, "Please sign in again.") from None
        device = bytes.fromhex(claims.device) if claims.device else NO_DEVICE
        state = await self._store.read(login_state(claims.user, device, claims.family))
        if state is None or state.tenant != claims.tenant:
            raise ServiceError(Code.BAD_CREDENTIALS, "token of nobody", "Please sign in again.")
        old = claims.epoch is not None and claims.epoch < state.token_epoch
        ended = claims.family and not state.family_lives
        if (
            old
            or ended
            or state.disabled
            or (state.device_revoked_at and state.device_revoked_at >= claims.issued_ms)
        ):
            raise ServiceError(Code.REVOKED, "token revoked", "Please sign in again.")
        return claims

    async def create_user(
        self, tenant: int, name: str, nick: str, kind: UserKind, password_hash: str | None
    ) -> User:
        """Make an account; name and nick must be clean already."""
        user = new_id()
        try:
            return await self._store.change(
                [],
                lambda tx: create_user(tx, tenant, name, nick, int(kind), password_hash, user),
            )
        except Exists:
            raise NameTaken from None

    async def set_password(self, user: int, password: str) -> None:
        """Set a password without asking for the old one; every sign-in of the user ends."""
        hashed = await self.passwords.hash(clean_password(password))
        await self._store_password(user, hashed, revoke=True)
        self.revoked(user)

    # parts

    async def _credentials(self, tenant: int, name: str) -> Credentials | None:
        try:
            name = clean_user_name(name)
        except ServiceError:
            tenant = 0  # nobody is called so; asked all the same, for the same time
            name = ""
        return await self._store.read(credentials(tenant, name))

    async def _check_password(self, known: Credentials | None, password: str) -> Verdict:
        try:
            password = clean_password(password)
        except ServiceError:
            known = None  # cannot be right, and takes as long as any other
            password = ""
        return await self.passwords.check(known.password_hash if known else None, password)

    async def _create_or_find(self, tenant: int, name: str, nick: str) -> User:
        try:
            return await self.create_user(tenant, name, nick, UserKind.PERSON, None)
        except NameTaken:
            user = await self._store.read(user_by_name(tenant, name))
            if user is None:
                raise
            return user  # two calls for a new user met

    async def _sign_in(self, user: User, tenant: int, epoch: int, device: bytes | None) -> SignIn:
        family = new_id()
        token, expires = self._issue(user, tenant, epoch, device, family)
        refresh_token = _new_refresh_token()
        hashed = hash_secret(refresh_token)
        until = self._now_ms() + self._config.refresh_ttl_s * 1000
        await self._store.change(
            [],
            lambda tx: add_refresh(tx, hashed, user.id or 0, device or NO_DEVICE, until, family),
        )
        return SignIn(user, tenant, token, expires, refresh_token, until)

    def _issue(
        self, user: User, tenant: int, epoch: int, device: bytes | None, family: int
    ) -> tuple[str, int]:
        who = (user.id or 0, tenant, user.kind or 0)
        return self._tokens.issue(*who, device, self._now_ms(), epoch=epoch, family=family)

    async def _store_password(self, user: int, hashed: str, revoke: bool) -> None:
        await self._store.change([], lambda tx: set_password(tx, user, hashed, revoke))

    async def _tenant(self, slug: str) -> int:
        if slug == DEFAULT_SLUG:
            return DEFAULT_TENANT
        tenant = await self._store.read(tenant_by_slug(slug))
        return tenant.id if tenant else 0

    async def _user(self, user: int) -> User:
        found = await self._store.read(get_users([user]))
        if not found:
            raise _bad_credentials()
        return found[0]

    def _admit_guess(self, address: str, account: object) -> None:
        here = address_key(address)
        wait_s = self._sign_ins.admit(here) if here else 0.0
        wait_s = wait_s or self.guesses_here.admit((here, account))
        wait_s = wait_s or self.guesses_anywhere.admit(account)
        if wait_s:
            _refuse_rate(wait_s, "Too many attempts to sign in.")

    def _admit_account(self, address: str) -> None:
        here = address_key(address)
        wait_s = self._new_accounts.admit(here) if here else 0.0
        if wait_s:
            _refuse_rate(wait_s, "Too many new accounts from here.")


def not_permitted_to(what: str, detail: str) -> ServiceError:
    """A refusal that says what to do instead."""
    error = not_permitted(f"may not {what}")
    error.detail = detail
    return error


def _bad_credentials() -> ServiceError:
    return ServiceError(
        Code.BAD_CREDENTIALS, "bad credentials", "The name or the password is not right."
    )


def _refuse_rate(wait_s: float, detail: str) -> NoReturn:
    raise ServiceError(
        Code.RATE, "too many attempts", f"{detail} Please wait.", int(wait_s * 1000) + 1
    )


def clean_nick(nick: str) -> str:
    """Return a display name as it is stored, "" for none.

    Raises:
        ServiceError: INVALID, with what is allowed.
    """
    if not nick.strip():
        return ""
    try:
        return clean_name(nick[:256], 64)
    except ProtocolError as error:
        raise invalid("bad nick", f"A display name has up to 64 characters: {error}.") from None


def _new_refresh_token() -> str:
    return _REFRESH_PREFIX + secrets.token_urlsafe(32)


def _successor(refresh_token: str, attempt: bytes | None) -> str:
    """Only who knows the old token and the attempt can know this one."""
    if attempt is None:
        return _new_refresh_token()
    digest = hmac.digest(refresh_token.encode(), attempt, hashlib.sha256)
    return _REFRESH_PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _refresh_hash(refresh_token: str) -> bytes:
    bad = not refresh_token.isascii() or len(refresh_token) > _MAX_REFRESH_CHARS
    return hash_secret("" if bad else refresh_token)
