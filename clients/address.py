"""Addresses of a server: where to connect, by which transport, and where its HTTP doors are."""

from urllib.parse import urlsplit

from msgspec import Struct

from clients.errors import AddressError

_SCHEMES = {
    "parlance": ("tcp", False),
    "parlances": ("tcp", True),
    "ws": ("ws", False),
    "wss": ("ws", True),
}
DEFAULT_PORT = 8420


class Address(Struct, frozen=True):
    """A parsed server URL.

    Attributes:
        transport: "tcp" for the native protocol, "ws" for WebSocket.
        path: of the WebSocket endpoint, with its query.
    """

    transport: str
    host: str
    port: int
    tls: bool
    path: str = "/ws"

    @property
    def authority(self) -> str:
        """Host and port as they stand in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = 443 if self.tls else 80
        return host if self.port == standard else f"{host}:{self.port}"

    @property
    def http_url(self) -> str:
        """Base of the HTTP doors on the same port, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def parse_address(url: str) -> Address:
    """Take a URL apart: `parlance://host:port`, `parlances://` (TLS), `ws://…/ws`, `wss://…`.

    A bare `host` or `host:port` means the native protocol without TLS.

    Raises:
        AddressError: not such a URL.
    """
    if "://" not in url:
        url = f"parlance://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressError(f"not a server address: {url!r}") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise AddressError(f"not a server address: {url!r}; it begins with one of {known}")
    if parts.username is not None or parts.password is not None:
        raise AddressError("no user name or password in the address: they would reach logs")
    transport, tls = _SCHEMES[parts.scheme]
    if port is None:
        port = DEFAULT_PORT if transport == "tcp" else 443 if tls else 80
    path = parts.path or "/ws"
    if parts.query:
        path = f"{path}?{parts.query}"
    return Address(transport, parts.hostname, port, tls, path)
