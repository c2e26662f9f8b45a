"""Accounts over HTTP: sign up, sign in, guests, and tokens that renew themselves.

Passwords travel here only, never on the chat connection (docs/protocol.md §2).
"""

import asyncio
import base64
import os
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from clients.address import Address, parse_address
from clients.errors import SignInFailed
from protocol.codes import Code
from protocol.errors import ProtocolError
from protocol.http_head import HeadReader, join_head, parse_fields, split_head
from protocol.rows import User

MAX_BODY_BYTES: Final = 256 * 1024
TIMEOUT_S: Final = 15.0
RENEW_BEFORE_MS: Final = 60_000


class Tokens(Struct):
    """What the account service answers to every sign-in.

    Attributes:
        access_token: for `hello`; until `expires_ms` (Unix milliseconds).
        refresh_token: good for one `refresh`; keep it as safe as a password.
    """

    user: User
    tenant: int
    access_token: str
    expires_ms: int
    refresh_token: str = ""


class _SignedIn(Struct):
    """What the account service answers."""

    user: User
    tenant: int
    token: str
    expires: int
    refresh_token: str = ""


class _Error(Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Refusal(Struct):
    """The body of an HTTP error of the server."""

    error: _Error


class Account:
    """One account's tokens; `token` is a client's token source.

    Args:
        url: of the server, as for `Client`.
        tokens: from an earlier sign-in, to go on with.
        changed: told about new tokens at once, so that they can be kept: a refresh token that
            was used is worth nothing.
        now_ms: clock, in Unix milliseconds.
    """

    def __init__(
        self,
        url: str,
        *,
        tokens: Tokens | None = None,
        changed: Callable[[Tokens], None] | None = None,
        tls: ssl.SSLContext | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._address = parse_address(url)
        self._tls = tls
        self._changed = changed
        self._now_ms = now_ms or _now_ms
        self._lock = asyncio.Lock()
        self._attempt = ""
        self.tokens = tokens

    async def register(self, name: str, password: str, nick: str = "") -> Tokens:
        """Make an account and sign in.

        Raises:
            SignInFailed: the name is taken or not allowed, or the password too weak.
            OSError: the server cannot be reached, or asks to come back later.
        """
        body = {"name": name, "password": password}
        if nick:
            body["nick"] = nick
        return await self._sign_in("register", body)

    async def login(self, name: str, password: str) -> Tokens:
        """Sign in; raises as `register`."""
        return await self._sign_in("login", {"name": name, "password": password})

    async def guest(self, nick: str = "") -> Tokens:
        """Make a fresh account without a password; raises as `register`."""
        return await self._sign_in("guest", {"nick": nick} if nick else {})

    async def change_password(self, old: str, new: str) -> Tokens:
        """Set a new password. Every other sign-in of the account ends; connections close, so that
        clients of this account have to be made anew.

        Raises:
            SignInFailed: the old password is not right, or the new one too weak.
            OSError: as `register`.
        """
        bearer = await self.token()
        async with self._lock:
            self._attempt = ""
            return await self._sign_in("password", {"old": old, "new": new}, bearer)

    async def logout(self) -> None:
        """Forget the tokens and have the server refuse the refresh token from now on.

        Whoever was told about them by `changed` must forget them too.

        Raises:
            OSError: the server cannot be reached; they are forgotten all the same.
        """
        async with self._lock:
            tokens, self.tokens = self.tokens, None
            self._attempt = ""
            if tokens is None or not tokens.refresh_token:
                return
            await self._ask("logout", {"refresh_token": tokens.refresh_token})

    async def token(self, renew: bool = False) -> str:
        """Return an access token that is good for a while, refreshing it if need be.

        Raises:
            SignInFailed: the refresh token is no good either: sign in again.
            OSError: the server cannot be reached.
        """
        async with self._lock:
            tokens = self.tokens
            if tokens is None:
                raise SignInFailed("not signed in")
            if not renew and tokens.expires_ms - self._now_ms() > RENEW_BEFORE_MS:
                return tokens.access_token
            if not tokens.refresh_token:
                raise SignInFailed("signed out: sign in again")
            # The same attempt until there is an answer: a refresh token is good for one answer,
            # and only a repeat of the attempt may ask for a lost one again.
            self._attempt = self._attempt or base64.b64encode(os.urandom(16)).decode()
            body = {"refresh_token": tokens.refresh_token, "attempt": self._attempt}
            fresh = await self._sign_in("refresh", body)
            self._attempt = ""
            return fresh.access_token

    async def _sign_in(self, door: str, body: dict[str, str], bearer: str = "") -> Tokens:
        answer = await self._ask(door, body, bearer)
        try:
            done = msgspec.json.decode(answer, type=_SignedIn)
        except msgspec.DecodeError:
            raise ConnectionError("the account service answered something else") from None
        tokens = Tokens(
            done.user,
            done.tenant,
            done.token,
            done.expires,
            done.refresh_token,
        )
        self.tokens = tokens
        if self._changed is not None:
            self._changed(tokens)
        return tokens

    async def _ask(self, door: str, body: dict[str, str], bearer: str = "") -> bytes:
        path = f"/api/v1/auth/{door}"
        status, answer = await post_json(self._address, path, body, bearer, tls=self._tls)
        if status >= 400:
            raise _refusal(status, answer)
        return answer


def _refusal(status: int, answer: bytes) -> Exception:
    try:
        error = msgspec.json.decode(answer, type=_Refusal).error
    except msgspec.DecodeError:
        error = _Error()
    said = error.message or error.reason
    if status in (408, 425, 429) or status >= 500:
        return ConnectionError(said or f"the account service is busy (status {status})")
    if status == 404:
        return SignInFailed(said or "this server has no such sign-in", int(Code.NOT_FOUND))
    code = error.code or Code.BAD_CREDENTIALS
    return SignInFailed(said or f"refused (status {status})", code, error.reason)


async def post_json(
    address: Address, path: str, body: Any, bearer: str = "", *, tls: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """POST a JSON body on a connection of its own; return the status and the answer's body.

    Raises:
        OSError: no connection, no HTTP, or no answer in `TIMEOUT_S`.
    """
    content = msgspec.json.encode(body)
    request = join_head(
        f"POST {path} HTTP/1.1",
        ("Host", address.authority),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("Accept", "application/json"),
        ("Connection", "close"),
        *([("Authorization", f"Bearer {bearer}")] if bearer else []),
    )
    context = (tls or ssl.create_default_context()) if address.tls else None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            try:
                writer.write(request + content)
                return await _read_answer(reader)
            finally:
                writer.close()
    except TimeoutError:
        raise TimeoutError(f"no answer from {address.authority}") from None
    except (ProtocolError, asyncio.IncompleteReadError, ValueError):
        raise ConnectionError(f"{address.authority} does not answer in HTTP") from None


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = HeadReader()
    while not head.feed(data := await reader.read(4096)):
        if not data:
            raise asyncio.IncompleteReadError(head.head, None)
    lines = split_head(head.head)
    status = int(lines[0].split(" ", 2)[1])
    fields = parse_fields(lines)
    body = bytearray(head.rest)
    if fields.has("transfer-encoding", "chunked"):
        return status, await _read_chunks(reader, body)
    length = next(iter(fields.values("content-length")), None)
    wanted = MAX_BODY_BYTES if length is None else int(length)
    if wanted > MAX_BODY_BYTES:
        raise ValueError("answer too large")
    while len(body) < wanted and (data := await reader.read(wanted - len(body))):
        body += data
    if length is not None and len(body) < wanted:
        raise asyncio.IncompleteReadError(bytes(body), wanted)
    return status, bytes(body)


async def _read_chunks(reader: asyncio.StreamReader, held: bytearray) -> bytes:
    """Return the joined chunks of a body (RFC 9112 §7.1); the connection closes after it."""
    while data := await reader.read(4096):
        held += data
        if len(held) > 2 * MAX_BODY_BYTES:
            raise ValueError("answer too large")
    body = bytearray()
    at = 0
    while True:
        end = held.index(b"\r\n", at)
        size = int(held[at:end].split(b";")[0], 16)
        if not size:
            return bytes(body)
        body += held[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
