"""Sign-in tokens (JWT): made for accounts of this server, checked for every connection.

The key id in a token picks the key, and the key alone says which algorithm is used; the token's
own word about that must agree (docs/protocol.md §2).
"""

import base64
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from jwt import PyJWS
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from ai_bridge.secrets import Secret
from protocol.codes import Code, UserKind
from protocol.types import Id
from server.config_sections import AuthConfig, KeyConfig
from server.secrets import create_once, read_private

MAX_TOKEN_BYTES: Final = 4096
KEY_FILE: Final = "token-key.json"


class AuthError(Exception):
    """A token is not accepted.

    Attributes:
        code: BAD_CREDENTIALS or EXPIRED.
        reason: constant text for logs.
    """

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What a token says, once it is verified.

    Attributes:
        epoch: the user's token epoch when it was issued; a token from before the present epoch
            is revoked. None when somebody else issued the token.
        device: device that it was issued for, in hexadecimal; "" for any.
        family: the sign-in that it belongs to, with which it ends; 0 when it stands alone.
    """

    user: int
    tenant: int
    expires_ms: int
    issued_ms: int
    scopes: tuple[str, ...] = ()
    kind: int = UserKind.PERSON
    epoch: int | None = None
    device: str = ""
    family: int = 0


class _Header(msgspec.Struct):
    alg: str
    kid: str
    typ: str | None = None
    crit: msgspec.Raw | None = None


class _Payload(msgspec.Struct):
    sub: str
    tid: Id
    aud: str | list[str]
    exp: float
    iat: float
    nbf: float | None = None
    scp: tuple[str, ...] = ()
    knd: int = UserKind.PERSON
    dev: str = ""
    epo: int | None = None
    fam: int = 0


class _Key:
    """One key, prepared once."""

    def __init__(self, config: KeyConfig) -> None:
        self.kid = config.kid
        self.alg = config.alg
        self.algorithm = algorithm = get_default_algorithms()[config.alg]
        self.signing: Any = None
        if config.secret:
            self.signing = algorithm.prepare_key(config.secret.reveal())
        if config.public_key:
            self.checking: Any = algorithm.prepare_key(_read_public_key(config.public_key))
        else:
            signer = self.signing
            self.checking = signer if config.alg == "HS256" else signer.public_key()


def _read_public_key(text: str) -> str:
    return Path(text[5:]).expanduser().read_text() if text.startswith("file:") else text


class Tokens:
    """Issues and verifies sign-in tokens. All times are Unix milliseconds.

    Raises:
        ValueError: a key cannot be used.
    """

    def __init__(self, keys: Sequence[KeyConfig], audience: str, ttl_s: int, skew_s: int) -> None:
        self._keys: dict[str, _Key] = {}
        for config in keys:
            try:
                self._keys[config.kid] = _Key(config)
            except (ValueError, TypeError, AttributeError, OSError, PyJWTError):
                message = f"auth.keys[{config.kid}]: is not a usable {config.alg} key"
                raise ValueError(message) from None
        self._signer = next((key for key in self._keys.values() if key.signing), None)
        self._audience = audience
        self._ttl_s = ttl_s
        self._skew_s = skew_s
        self._jws = PyJWS()
        self._decode_header = msgspec.json.Decoder(_Header).decode
        self._decode_payload = msgspec.json.Decoder(_Payload).decode

    def issue(
        self,
        user: int,
        tenant: int,
        kind: int,
        device: bytes | None,
        now_ms: int,
        *,
        epoch: int = 0,
        family: int = 0,
        scopes: Sequence[str] = (),
    ) -> tuple[str, int]:
        """Return a token and when it expires (ms).

        Raises:
            ValueError: no configured key can sign.
        """
        if self._signer is None:
            raise ValueError("no key can sign tokens: see auth.keys")
        issued_s = now_ms // 1000
        expires_s = issued_s + self._ttl_s
        payload: dict[str, object] = {
            "sub": str(user),
            "tid": tenant,
            "aud": self._audience,
            "iat": now_ms / 1000,  # to the millisecond: a device may be signed out just before
            "nbf": issued_s,
            "exp": expires_s,
            "knd": int(kind),
            "epo": epoch,
            "jti": secrets.token_hex(8),
        }
        if device is not None:
            payload["dev"] = device.hex()
        if family:
            payload["fam"] = family
        if scopes:
            payload["scp"] = list(scopes)
        token = self._jws.encode(
            msgspec.json.encode(payload),
            self._signer.signing,
            algorithm=self._signer.alg,
            headers={"kid": self._signer.kid},
        )
        return token, expires_s * 1000

    def verify(self, token: str, now_ms: int) -> Claims:
        """Return what a token says; nothing is remembered between calls.

        Takes about 7 µs with HS256, some 100 µs with the others.

        Raises:
            AuthError: EXPIRED when only its time is over, BAD_CREDENTIALS otherwise.
        """
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise AuthError(Code.BAD_CREDENTIALS, "token too long or not ASCII")
        try:
            signed, _, signature = token.rpartition(".")
            head, dot, body = signed.partition(".")
            key = self._key_of(_unpack(head))
            # Not PyJWS.decode: it parses the header a second time, for three times the cost.
            if not dot or not key.algorithm.verify(
                signed.encode(), key.checking, _unpack(signature)
            ):
                raise AuthError(Code.BAD_CREDENTIALS, "bad signature")
            payload = self._decode_payload(_unpack(body))
        except (PyJWTError, msgspec.MsgspecError, ValueError, RecursionError):
            raise AuthError(Code.BAD_CREDENTIALS, "bad token") from None
        return self._check(payload, now_ms / 1000)

    def _key_of(self, content: bytes) -> _Key:
        header = self._decode_header(content)
        key = self._keys.get(header.kid)
        if key is None or header.alg != key.alg or header.crit is not None:
            raise AuthError(Code.BAD_CREDENTIALS, "token of an unknown key")
        return key

    def _check(self, payload: _Payload, now_s: float) -> Claims:
        audience = payload.aud if isinstance(payload.aud, list) else [payload.aud]
        user = int(payload.sub) if payload.sub.isdecimal() and len(payload.sub) <= 16 else 0
        if self._audience not in audience or not 0 < user < 2**53:
            raise AuthError(Code.BAD_CREDENTIALS, "token for somebody else")
        start = max(payload.nbf or 0, payload.iat)
        if start > now_s + self._skew_s:
            raise AuthError(Code.BAD_CREDENTIALS, "token is not valid yet")
        if not now_s - self._skew_s < payload.exp < 2**43:
            raise AuthError(Code.EXPIRED, "token expired")
        return Claims(
            user=user,
            tenant=payload.tid,
            expires_ms=int(payload.exp * 1000),
            issued_ms=round(payload.iat * 1000),
            scopes=payload.scp,
            kind=payload.knd,
            epoch=payload.epo,
            device=payload.dev,
            family=payload.fam,
        )


def _unpack(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


class _KeyFile(msgspec.Struct):
    kid: str
    secret: str


def make_tokens(config: AuthConfig, data_dir: Path) -> Tokens:
    """Return the tokens of this server; without configured keys one is kept in data_dir.

    Raises:
        ValueError: a key cannot be used; the text says which.
        OSError: the key file cannot be read or written.
    """
    keys = config.keys or [_own_key(data_dir / KEY_FILE)]
    return Tokens(keys, config.audience, config.access_ttl_s, config.skew_s)


def _own_key(path: Path) -> KeyConfig:
    create_once(path, _fresh_key)
    try:
        kept = msgspec.json.decode(read_private(path), type=_KeyFile)
    except msgspec.MsgspecError:
        raise ValueError(
            f"{path} is not a key file; remove it to get a new key (everybody signs in again)"
        ) from None
    return KeyConfig(kid=kept.kid, alg="HS256", secret=Secret(kept.secret))


def _fresh_key() -> bytes:
    key = _KeyFile(kid=f"own-{secrets.token_hex(4)}", secret=secrets.token_hex(32))
    return msgspec.json.encode(key)
