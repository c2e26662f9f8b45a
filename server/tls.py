"""TLS on the one port: its certificate, and how it starts on bytes that were already read.

The reactor reads the first byte of a connection before anybody knows that it is TLS. uvloop (and
asyncio) can start TLS on a transport that is open; the bytes are handed to it afterwards, through
the two calls by which transports deliver (docs/decisions/0008-tls-by-first-byte.md).
"""

import asyncio
import datetime
import ipaddress
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from server.config_check import is_loopback

log = logging.getLogger("parlance.tls")

TLS_FIRST_BYTE: Final = 0x16
"""A handshake record (RFC 8446 §5.1): what every TLS client says first."""
RELOAD_S: Final = 60.0
GOODBYE_S: Final = 5.0
"""How long a peer has to answer our end of TLS before the socket is closed all the same."""


class UnusableCertificate(ValueError):
    """The files cannot serve; the text says which and why, in one line."""


def load_context(cert: str, key: str) -> ssl.SSLContext:
    """Return what connections are encrypted with.

    Raises:
        UnusableCertificate: see there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["pwp/1", "http/1.1"])
    try:
        context.load_cert_chain(cert, key or None, _refuse_password)
    except ssl.SSLError as error:
        raise UnusableCertificate(_explain(cert, key, error.reason or "")) from None
    except OSError as error:
        raise UnusableCertificate(f"cannot be read: {error.strerror or error}") from None
    return context


def _refuse_password() -> str:
    # OpenSSL would ask on the terminal, and a service would hang at its start.
    raise UnusableCertificate("the private key is protected by a password; store it without one")


def _explain(cert: str, key: str, reason: str) -> str:
    if reason == "KEY_VALUES_MISMATCH":
        return f"{key} is not the private key of {cert}"
    if not reason or reason in ("NO_START_LINE", "PEM_LIB", "BAD_BASE64_DECODE"):
        return f"{cert} or {key} is not a certificate chain or private key in PEM"
    return f"{cert} and {key} cannot be used: {reason.lower().replace('_', ' ')}"


def valid_until(cert: str) -> datetime.datetime:
    """Return when the certificate in a usable file ends."""
    from cryptography import x509  # takes a while to load; only looked at before the start

    chain = x509.load_pem_x509_certificates(Path(cert).read_bytes())
    return chain[0].not_valid_after_utc


class Certificate:
    """A certificate that is read again when its files change, once a minute at most.

    Put it on the heartbeat wheel. Files that cannot be used change nothing but the log; they are
    tried again a minute later, so that certificate and key need not change in one step.

    Raises:
        UnusableCertificate: at the start.
    """

    def __init__(self, cert: str, key: str) -> None:
        self._cert = cert
        self._key = key
        self._stamp = self._look()
        self.context = load_context(cert, key)

    def check(self, now: float) -> float | None:
        """Take a renewed certificate for the connections to come (see `heartbeat.Timed`)."""
        stamp = self._look()
        if stamp != self._stamp:
            try:
                self.context = load_context(self._cert, self._key)
            except UnusableCertificate as error:
                log.warning("tls.reload_failed", extra={"reason": str(error)})
            else:
                self._stamp = stamp
                log.info("tls.reloaded")
        return now + RELOAD_S

    def _look(self) -> list[tuple[int, int, int]]:
        found = []
        for path in (self._cert, self._key or self._cert):
            try:
                stat = Path(path).stat()
            except OSError:
                continue
            # A link that points elsewhere now is another file, whatever the times are.
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found


class TlsPort:
    """Starts TLS on connections, and says who may do without.

    Attributes:
        certificate: None when only cleartext is served.
    """

    def __init__(self, certificate: Certificate | None, cleartext: bool) -> None:
        self.certificate = certificate
        self._cleartext = cleartext
        self._tasks: set[asyncio.Task[None]] = set()

    def allows_cleartext(self, address: str) -> bool:
        """Tell whether a peer at this address may speak without TLS."""
        return self._cleartext or is_this_machine(address)

    def begin(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        read: bytes,
        within_s: float,
        done: Callable[[asyncio.Transport | None], None],
    ) -> None:
        """Start TLS on a connection whose first bytes were read already.

        Args:
            protocol: gets what arrives inside; with the standard library's loop that may be
                before `done`.
            done: called once, with the transport inside, or with None when the handshake failed
                or the connection was lost. Then nothing else is called.
        """
        assert self.certificate is not None
        context = self.certificate.context
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(transport, protocol, context, within_s, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Calls run in the order in which they were asked for: the task's first step now, which
        # asks for the beginning of the handshake; then ours, which asks for `feed` behind it.
        loop.call_soon(loop.call_soon, feed, transport, read)

    async def _run(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        within_s: float,
        done: Callable[[asyncio.Transport | None], None],
    ) -> None:
        inside = None
        try:
            inside = await asyncio.get_running_loop().start_tls(
                transport,
                protocol,
                context,
                server_side=True,
                ssl_handshake_timeout=within_s,
                ssl_shutdown_timeout=GOODBYE_S,
            )
            if inside is not None and inside.is_closing():
                inside = None
        except (OSError, RuntimeError) as error:
            # RuntimeError: the peer went away before TLS could start.
            reason = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
            log.info("tls.failed", extra={"reason": reason})
        finally:
            done(inside)


@runtime_checkable
class Buffered(Protocol):
    """What `asyncio.BufferedProtocol` promises; uvloop's own does not inherit from it."""

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        """Return where bytes are to be put."""

    def buffer_updated(self, nbytes: int) -> None:
        """So many were put there."""


def feed(transport: asyncio.Transport, data: bytes) -> None:
    """Give bytes to the buffered protocol of a transport, as if they had arrived now."""
    protocol: object = transport.get_protocol()
    if transport.is_closing() or not isinstance(protocol, Buffered):
        return
    rest = memoryview(data)
    while rest:
        buffer = memoryview(protocol.get_buffer(len(rest)))
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        protocol.buffer_updated(size)
        rest = rest[size:]


def is_this_machine(address: str) -> bool:
    """Tell whether a peer's address is a loopback address, also when written as IPv6."""
    if is_loopback(address):
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped is not None and mapped.is_loopback
