"""The HTTP upgrade to WebSocket (RFC 6455 §4) without I/O, for both roles.

Server: feed a `HeadReader` until it is complete, give its head to `parse_request`, decide by
the path, then `accept_upgrade`; what is refused raises `HttpError`, which knows its answer.
Client: `build_request`, a `HeadReader`, `check_response`.

Tolerant where browsers really differ (case, spaces, lists), strict about everything else.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import ProtocolError
from protocol.http_head import (
    AUTHORITY,
    HttpError,
    Request,
    is_authority,
    is_path,
    is_token,
    join_head,
    parse_fields,
    split_head,
)

SAME_ORIGIN: Final = "same-origin"
VERSION: Final = "13"

_ACCEPT_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_is_key: Final = re.compile(r"[A-Za-z0-9+/]{22}==").fullmatch
_is_origin: Final = re.compile(rf"([a-z][a-z0-9+.\-]*)://({AUTHORITY})", re.I).fullmatch
_match_status: Final = re.compile(r"HTTP/1\.1 ([0-9]{3})(?: [\t -~\x80-\xff]*)?").fullmatch


class UpgradeRefused(ProtocolError):
    """The server did not upgrade, or not as it was asked to.

    Attributes:
        status: its HTTP status; 101 when it said yes wrongly, 0 when it did not talk HTTP.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A granted upgrade: send `response`, then speak frames."""

    response: bytes
    subprotocol: str | None


class OriginPolicy:
    """Which web pages may open a WebSocket: the guard against cross-site hijacking.

    Programs other than browsers send no Origin and always pass; they could forge one anyway.
    """

    __slots__ = ("_allowed", "_same")

    def __init__(self, origins: Iterable[str] = (SAME_ORIGIN,)) -> None:
        """Take exact origins (`https://chat.example`), "same-origin" and "null".

        "same-origin" compares host and port with the Host field and not the scheme, because a
        proxy in front may have taken TLS away. Raises ValueError for anything else.
        """
        allowed = set(origins)
        self._same = SAME_ORIGIN in allowed
        allowed.discard(SAME_ORIGIN)
        for origin in allowed - {"null"}:
            if not _is_origin(origin):
                raise ValueError(f"not an origin: {origin!r}")
        self._allowed = frozenset(_normal_origin(origin) for origin in allowed)

    def allows(self, origins: Sequence[str], host: str) -> bool:
        """Judge the Origin fields of a request to `host`; there must not be more than one."""
        if not origins:
            return True
        origin = _normal_origin(origins[0])
        if len(origins) > 1:
            return False
        if origin in self._allowed:
            return True
        scheme, _, authority = origin.partition("://")
        if not self._same or scheme not in ("http", "https"):
            return False
        return authority == _normal_authority(scheme, host)


def _normal_origin(origin: str) -> str:
    parts = _is_origin(origin)
    if parts is None:
        return origin
    scheme = parts[1].lower()
    return f"{scheme}://{_normal_authority(scheme, parts[2])}"


def _normal_authority(scheme: str, authority: str) -> str:
    default_port = {"http": ":80", "https": ":443"}.get(scheme, ":")
    return authority.lower().removesuffix(default_port).removesuffix(":")


def accept_upgrade(
    request: Request, *, subprotocols: Sequence[str] = (), origins: OriginPolicy
) -> Upgrade:
    """Grant the upgrade that a request asks for, without any extension.

    Args:
        subprotocols: what the server speaks, most wanted first; the client must offer one of
            them. Empty for an endpoint without subprotocol, which then ignores what is offered.

    Raises:
        HttpError: 405, 426, 400 or 403.
    """
    fields = request.fields
    if request.method != "GET":
        raise HttpError(405, "use GET", ("Allow", "GET"))
    if request.minor < 1:
        raise HttpError(400, "HTTP/1.1 is needed")
    if not request.wants_websocket:
        raise _upgrade_required("this address speaks WebSocket")
    # A body in front of the frames is where two parsers would part ways.
    if fields.values("content-length") or fields.values("transfer-encoding"):
        raise HttpError(400, "an upgrade has no body")
    versions = fields.values("sec-websocket-version")
    if versions != [VERSION]:
        if len(versions) > 1:
            raise HttpError(400, "repeated Sec-WebSocket-Version")
        raise _upgrade_required("WebSocket version 13 is needed")
    keys = fields.values("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HttpError(400, "one valid Sec-WebSocket-Key is needed")
    if not origins.allows(fields.values("origin"), request.host):
        raise HttpError(403, "origin not allowed")
    chosen = _choose_subprotocol(fields.items("sec-websocket-protocol"), subprotocols)
    answer = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(keys[0])),
    ]
    if chosen is not None:
        answer.append(("Sec-WebSocket-Protocol", chosen))
    return Upgrade(join_head("HTTP/1.1 101 Switching Protocols", *answer), chosen)


def _upgrade_required(reason: str) -> HttpError:
    # §4.4: the version we speak goes with the refusal; RFC 9110 §15.5.22: so does Upgrade.
    return HttpError(
        426,
        reason,
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", VERSION),
    )


def _choose_subprotocol(offered: Sequence[str], spoken: Sequence[str]) -> str | None:
    if not all(is_token(name) for name in offered):
        raise HttpError(400, "malformed Sec-WebSocket-Protocol")
    if not spoken:
        return None
    for name in spoken:
        if name in offered:
            return name
    raise HttpError(400, "no common subprotocol: this address speaks " + ", ".join(spoken))


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that proves that the server read the key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_SALT).digest()).decode()


def make_key() -> str:
    """Return a fresh random Sec-WebSocket-Key."""
    return base64.b64encode(secrets.token_bytes(16)).decode()


def build_request(
    host: str,
    path: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
) -> bytes:
    """Return a client's upgrade request.

    Args:
        host: with the port unless it is the scheme's own.
        path: with the query, if any.
        key: from `make_key`, new for every attempt.

    Raises:
        ValueError: an argument would not survive as a header field.
    """
    parts = (
        (is_authority(host), "host"),
        (is_path(path), "path"),
        (_is_key(key), "key"),
        (origin is None or origin == "null" or _is_origin(origin), "origin"),
        (all(is_token(name) for name in subprotocols), "subprotocols"),
    )
    for valid, name in parts:
        if not valid:
            raise ValueError(f"malformed {name}")
    fields = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
    ]
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if origin is not None:
        fields.append(("Origin", origin))
    return join_head(f"GET {path} HTTP/1.1", *fields)


def check_response(head: bytes, key: str, *, subprotocols: Sequence[str] = ()) -> str | None:
    """Check a server's answer to `build_request`; return the subprotocol it chose, if any.

    Raises:
        UpgradeRefused: it is not the 101 that RFC 6455 §4.1 asks for.
    """
    lines = split_head(head)
    parts = _match_status(lines[0])
    if parts is None:
        raise UpgradeRefused(0, "not an HTTP/1.1 answer")
    status = int(parts[1])
    if status != 101:
        raise UpgradeRefused(status, f"the server answered with status {status}")
    try:
        fields = parse_fields(lines)
    except HttpError as exc:
        raise UpgradeRefused(status, exc.reason) from None
    if not fields.has("upgrade", "websocket") or not fields.has("connection", "upgrade"):
        raise UpgradeRefused(status, "no upgrade to WebSocket")
    if fields.values("sec-websocket-accept") != [accept_key(key)]:
        raise UpgradeRefused(status, "wrong Sec-WebSocket-Accept")
    if fields.values("sec-websocket-extensions"):
        raise UpgradeRefused(status, "an extension nobody asked for")
    chosen = fields.values("sec-websocket-protocol")
    if len(chosen) > 1 or not set(chosen) <= set(subprotocols):
        raise UpgradeRefused(status, "a subprotocol nobody asked for")
    return chosen[0] if chosen else None
