"""The head of an HTTP/1.1 message without I/O: bounded reading, strict parsing.

Strict where two parsers could disagree about what was said (line ends, folding, repeated Host),
because other programs may stand in front of us or behind us on the same connection.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ProtocolError

MAX_HEAD_BYTES: Final = 8 * 1024
MAX_FIELDS: Final = 100

_PHRASES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    414: "URI Too Long",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
AUTHORITY: Final = r"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
"""Pattern of a host with an optional port (RFC 3986)."""

is_token: Final = re.compile(_TOKEN).fullmatch
is_authority: Final = re.compile(AUTHORITY).fullmatch
is_path: Final = re.compile(r"/[!-\"$-~]*").fullmatch  # visible ASCII without "#"
_match_request: Final = re.compile(rf"({_TOKEN}) (\S+) HTTP/1\.([0-9])").fullmatch
_match_absolute: Final = re.compile(rf"https?://({AUTHORITY})(/.*|\?.*)?", re.I).fullmatch
# Field content is visible characters, spaces and tabs (RFC 9110 §5.5); the decoder is Latin-1.
# The spaces around it are stripped afterwards: a pattern for them could be made to backtrack.
_match_field: Final = re.compile(rf"({_TOKEN}):([\t -~\x80-\xff]*)").fullmatch


class HttpError(ProtocolError):
    """A request that is refused.

    Attributes:
        status: the HTTP status to answer with.
        reason: constant text that may be shown to the peer.
        fields: further header fields of the answer.
    """

    def __init__(self, status: int, reason: str, *fields: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.fields = fields

    @property
    def response(self) -> bytes:
        """The whole HTTP answer; the connection must be closed after it."""
        body = self.reason.encode() + b"\n"
        return (
            join_head(
                f"HTTP/1.1 {self.status} {_PHRASES[self.status]}",
                ("Connection", "close"),
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("X-Content-Type-Options", "nosniff"),
                *self.fields,
            )
            + body
        )


class HeadReader:
    """Collects the head of one HTTP message, up to and including its empty line.

    Holds at most `max_bytes` plus one read. The work is linear, however the bytes are cut.
    """

    __slots__ = ("_buffer", "_end", "_max_bytes")

    def __init__(self, max_bytes: int = MAX_HEAD_BYTES) -> None:
        self._buffer = bytearray()
        self._end = 0
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> bool:
        """Add data; return True when the head is complete.

        Raises:
            HttpError: 400 for a line that ends in a bare LF, 431 for too many bytes, or
                414 when not even the first line ended. A client treats all of them alike.
        """
        buffer = self._buffer
        seen = len(buffer)
        buffer += data
        if self._end:
            return True
        found = buffer.find(b"\r\n\r\n", max(0, seen - 3))
        end = found + 4 if found >= 0 else len(buffer)
        # One byte back, so that CR LF cut in two by reads is seen whole.
        since = max(0, seen - 1) if buffer[seen - 1 : seen] == b"\r" else seen
        if buffer.count(b"\n", since, end) != buffer.count(b"\r\n", since, end):
            raise HttpError(400, "lines end in CR LF")
        if end > self._max_bytes:
            if buffer.find(b"\r\n", 0, self._max_bytes) < 0:
                raise HttpError(414, "request line too long")
            raise HttpError(431, "header fields too large")
        self._end = end if found >= 0 else 0
        return self._end > 0

    @property
    def head(self) -> bytes:
        """The complete head with its empty line; empty until it is complete."""
        return bytes(self._buffer[: self._end])

    @property
    def rest(self) -> bytes:
        """What came behind the head: the first frames of a peer that did not wait."""
        return bytes(self._buffer[self._end :]) if self._end else b""


class Fields:
    """Header fields in their order; names are compared without case."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = tuple((name.lower(), value) for name, value in pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def values(self, name: str) -> list[str]:
        """Return the value of every field called `name` (in lower case)."""
        return [value for own, value in self._pairs if own == name]

    def items(self, name: str) -> list[str]:
        """Return the members of a comma-separated list that may span several fields."""
        members = (item.strip(" \t") for value in self.values(name) for item in value.split(","))
        return [item for item in members if item]

    def has(self, name: str, token: str) -> bool:
        """Say whether a list of case-insensitive tokens contains `token` (in lower case)."""
        return any(item.lower() == token for item in self.items(name))


@dataclass(frozen=True, slots=True)
class Request:
    """The head of an HTTP request.

    Attributes:
        target: as it stood in the request line.
        path: without query, not percent-decoded.
        query: without its question mark.
        host: what the request is addressed to, in lower case, with a port if one was given.
        minor: of the version: 1 for HTTP/1.1.
    """

    method: str
    target: str = field(repr=False)  # a query may hold what must not reach a log
    path: str
    query: str = field(repr=False)
    host: str
    minor: int
    fields: Fields = field(repr=False)

    @property
    def wants_websocket(self) -> bool:
        """True when this is an upgrade to WebSocket, well-formed or not."""
        return self.fields.has("upgrade", "websocket") and self.fields.has("connection", "upgrade")


def parse_request(head: bytes) -> Request:
    """Take a complete request head apart.

    Raises:
        HttpError: 400 when it is not HTTP/1.x as RFC 9112 wants it, 431 for too many fields.
    """
    lines = split_head(head)
    parts = _match_request(lines[0])
    if parts is None:
        raise HttpError(400, "malformed request line")
    fields = parse_fields(lines)
    hosts = fields.values("host")
    if len(hosts) != 1 or not is_authority(hosts[0]):
        raise HttpError(400, "one valid Host is needed")
    resource, host = parts[2], hosts[0]
    absolute = _match_absolute(resource)
    if absolute is not None:  # RFC 9112 §3.2.2: its host counts, the field does not
        host, resource = absolute[1], absolute[2] or "/"
        resource = resource if resource[0] == "/" else "/" + resource
    if not is_path(resource):
        raise HttpError(400, "malformed request target")
    path, _, query = resource.partition("?")
    return Request(parts[1], parts[2], path, query, host.lower(), int(parts[3]), fields)


def split_head(head: bytes) -> list[str]:
    """Return the lines of a complete head. The decoder is Latin-1, which loses nothing."""
    return head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")


def parse_fields(lines: Sequence[str]) -> Fields:
    """Parse the lines of a head behind the first.

    Raises:
        HttpError: 400 for a malformed field (a folded line has no name, so it is one), 431
            for too many.
    """
    if len(lines) - 1 > MAX_FIELDS:
        raise HttpError(431, "too many header fields")
    pairs = []
    for line in lines[1:]:
        parts = _match_field(line)
        if parts is None:
            raise HttpError(400, "malformed header field")
        pairs.append((parts[1], parts[2].strip(" \t")))
    return Fields(pairs)


def join_head(first: str, *fields: tuple[str, str]) -> bytes:
    """Return a head from its first line and its fields, with the empty line."""
    lines = [first, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")
