"""The one port: accepts connections and lets their first byte decide who speaks with them."""

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, cast

from protocol.frames import FIRST_BYTE
from protocol.http_head import HttpError
from server.config_check import is_loopback
from server.connection import TcpConnection
from server.json_door import JsonDoorWebSocket
from server.json_door_services import JsonDoor
from server.tls import RELOAD_S, TLS_FIRST_BYTE, Certificate, TlsPort
from server.websocket import EchoWebSocket, PwpWebSocket

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.reactor")

SEND_BUFFER_BYTES: Final = 64 * 1024
"""Without this the kernel swallows megabytes for a peer that does not read, and nobody notices."""
USER_TIMEOUT_MS: Final = 30_000
"""After so long with unsent data a half-open peer is given up (TCP_USER_TIMEOUT, RFC 5482)."""

_CLEAR: Final = 0
_SHAKING: Final = 1
_INSIDE: Final = 2

_WS: Final = b"GET /ws"
_BUSY: Final = HttpError(503, "too many connections", ("Retry-After", "1"))
_WS_ECHO: Final = b"GET /ws/echo"
_WS_USER: Final = b"GET /ws/"


class Doorman(asyncio.Protocol):
    """A fresh connection until it is known what it speaks; then somebody else's.

    One per connection; it holds nothing afterwards. Behind TLS it looks once more.
    """

    __slots__ = (
        "_address",
        "_core",
        "_done",
        "_door",
        "_due",
        "_held",
        "_hello_due",
        "_tls",
        "_tls_state",
        "_transport",
    )

    def __init__(self, core: "Core", tls: TlsPort, door: JsonDoor) -> None:
        self._core = core
        self._door = door
        self._tls = tls
        self._tls_state = _CLEAR
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._held = b""
        self._done = False
        self._due = 0.0
        self._hello_due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the stranger, or send it away when there are too many."""
        # uvloop's transports are Transports in all but name.
        self._transport = transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else "local"
        core = self._core
        if core.draining or not core.strangers.enter(self._address):
            self._done = True
            transport.abort()
            return
        now = core.clock()
        self._due = now + core.policy.first_byte_s
        self._hello_due = now + core.policy.hello_s
        core.wheel.add(self, self._due)

    def data_received(self, data: bytes) -> None:
        """Look at the first byte; for HTTP at the first few."""
        data = self._held + data
        if self._tls_state is not _INSIDE and not self._may_go_on(data):
            return
        first = data[0]
        if first == FIRST_BYTE:
            connection = TcpConnection(self._core, self._require(), self._address, self._hello_due)
            self._hand_over(connection, data)
        elif 0x41 <= first <= 0x5A:
            self._choose_http(data)
        else:
            self._require().abort()

    def _may_go_on(self, data: bytes) -> bool:
        """Begin TLS if this is it; else tell whether this peer may do without."""
        if self._tls_state is _SHAKING:
            self._held = data
            return False
        if data[0] == TLS_FIRST_BYTE and self._tls.certificate is not None:
            core = self._core
            self._tls_state = _SHAKING
            self._due = self._hello_due
            self._held = b""
            within_s = max(1.0, self._hello_due - core.clock())
            self._tls.begin(self._require(), self, data, within_s, self._go_inside)
            return False
        if not self._tls.allows_cleartext(self._address):
            log.info("cleartext.refused")
            self._require().abort()
            return False
        return True

    def _go_inside(self, transport: asyncio.Transport | None) -> None:
        """TLS is up, or has failed: the first byte inside decides."""
        if transport is None or self._done or self._core.draining:
            self._require().abort()
            self._leave()
            return
        self._transport = transport
        self._tls_state = _INSIDE
        self._due = min(self._core.clock() + self._core.policy.first_byte_s, self._hello_due)
        held, self._held = self._held, b""
        if held:
            self.data_received(held)

    def _choose_http(self, data: bytes) -> None:
        core = self._core
        wanted = _WS_ECHO if core.config.websocket.echo else _WS_USER
        if len(data) <= len(wanted) and wanted.startswith(data):
            self._held = data
        elif _asks_for(data, _WS):
            self._hand_over(
                PwpWebSocket(core, self._require(), self._address, self._hello_due), data
            )
        elif data.startswith(_WS_USER) and data[len(_WS_USER) :][:1].isdigit():
            door = JsonDoorWebSocket(
                core, self._require(), self._address, self._hello_due, self._door
            )
            self._hand_over(door, data)
        elif core.config.websocket.echo and _asks_for(data, _WS_ECHO):
            self._hand_over(
                EchoWebSocket(core, self._require(), self._address, self._hello_due), data
            )
        else:
            core.strangers.leave(self._address)
            transport = self._require()
            self._done = True
            full = core.stats.connections["http"] >= core.config.limits.http_connections
            if full and not core.http_make_room():
                core.stats.refused_http += 1
                transport.write(_BUSY.response)
                transport.close()
                return
            http = core.http_factory()
            transport.set_protocol(http)
            http.connection_made(transport)
            http.data_received(data)

    def _hand_over(self, protocol: asyncio.Protocol, data: bytes) -> None:
        self._done = True
        self._held = b""
        transport = self._require()
        self._transport = None
        transport.set_protocol(protocol)
        protocol.data_received(data)

    def _require(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def connection_lost(self, exc: Exception | None) -> None:
        """It left before it said what it wanted."""
        self._leave()

    def check(self, now: float) -> float | None:
        """The first bytes, or the end of the TLS handshake, are late (see `heartbeat.Timed`)."""
        if self._done:
            return None
        if now < self._due:
            return self._due
        self._require().abort()
        return None

    def _leave(self) -> None:
        if not self._done:
            self._done = True
            self._core.strangers.leave(self._address)


def _asks_for(data: bytes, prefix: bytes) -> bool:
    return data.startswith(prefix) and data[len(prefix) : len(prefix) + 1] in (b" ", b"?")


def open_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Return a listening socket whose connections inherit our buffer and timeout settings.

    Raises:
        OSError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


async def listen(core: "Core", listener: socket.socket) -> asyncio.Server:
    """Start accepting connections.

    Raises:
        UnusableCertificate: TLS is configured and cannot be had.
    """
    server = core.config.server
    certificate = Certificate(server.tls_cert, server.tls_key) if server.tls_cert else None
    if certificate is not None:
        core.wheel.add(certificate, core.clock() + RELOAD_S)
    tls = TlsPort(certificate, server.allow_cleartext or is_loopback(server.host))
    door = JsonDoor(core)
    return await core.loop.create_server(
        lambda: Doorman(core, tls, door), sock=listener, backlog=server.backlog
    )
