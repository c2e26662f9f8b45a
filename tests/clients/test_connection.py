"""Addresses, TLS, and peers that are not what they should be."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clients.address import parse_address
from clients.client import Client
from clients.connection import open_connection
from clients.errors import AddressError
from protocol.codec import MSGPACK
from protocol.envelopes import MsgPush
from protocol.frames import HEADER_BYTES, join_frame
from protocol.rows import MsgX
from tests.clients.fake_server import FakeServer
from tests.clients.test_client import QUICK, token
from tests.support.eventually import WAIT_S


@pytest.mark.parametrize(
    ("url", "transport", "authority", "http_url"),
    [
        ("parlance://chat.example", "tcp", "chat.example:8420", "http://chat.example:8420"),
        ("localhost:9000", "tcp", "localhost:9000", "http://localhost:9000"),
        ("parlances://chat.example:443", "tcp", "chat.example", "https://chat.example"),
        ("ws://[::1]:8420/ws", "ws", "[::1]:8420", "http://[::1]:8420"),
        ("wss://chat.example", "ws", "chat.example", "https://chat.example"),
    ],
)
def test_addresses_name_the_transport_and_the_doors(
    url: str, transport: str, authority: str, http_url: str
) -> None:
    address = parse_address(url)
    assert (address.transport, address.authority, address.http_url) == (
        transport,
        authority,
        http_url,
    )


@pytest.mark.parametrize("url", ["http://x", "parlance://", "ws://h:port/ws", "ws://a:b@h/ws"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(AddressError):
        parse_address(url)


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "both.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(pem))
    return server, client


@pytest.mark.parametrize("scheme", ["parlances", "wss"])
async def test_tls_is_checked_and_carries_both_transports(scheme: str, tmp_path: Path) -> None:
    trusted, trusting = make_certificate(tmp_path)
    server = FakeServer()
    await server.start(trusted)
    conv = server.create()
    url = f"{scheme}://127.0.0.1:{server.port}"
    async with Client(url, token, tls=trusting, timing=QUICK) as client:
        await client.wait_online(WAIT_S)
        assert (await client.send(conv.id, "secret")).seq == 1
    with pytest.raises(ssl.SSLCertVerificationError):
        await open_connection(parse_address(url), Silent())
    await server.stop()


class Silent:
    """A receiver that takes anything."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.refused = 0

    def frames_received(self, frames: list[object]) -> None:
        pass

    def frame_refused(self) -> None:
        self.refused += 1

    def connection_lost(self, reason: str) -> None:
        self.lost.append(reason)


@asynccontextmanager
async def peer(answer: bytes) -> AsyncIterator[int]:
    """A server that answers whatever comes with the same bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - any state, not one event
            await asyncio.sleep(0.001)


async def test_web_server_that_is_no_parlance_is_named_as_such() -> None:
    async with peer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port:
        with pytest.raises(ConnectionError, match=r"no WebSocket at this address.*404"):
            await open_connection(parse_address(f"ws://127.0.0.1:{port}/ws"), Silent())


def nested_deeply() -> bytes:
    """A push whose unknown key no honest server would send."""
    push = MsgPush(1, 1, 1, 0, 2, 0, "", MsgX(sid=1))
    payload = MSGPACK.encode(push)[HEADER_BYTES:]
    known = b"\xde\x00\x01\xa3sid\x01"
    assert payload.endswith(known)
    return join_frame(payload.removesuffix(known) + b"\x81\xa1?" + b"\x91" * 20_000 + b"\x01")


@pytest.mark.parametrize("answer", [b"\xff\xff\xff\xff", nested_deeply(), b"HTTP/1.1 400"])
async def test_unreadable_bytes_end_the_connection(answer: bytes) -> None:
    async with peer(answer) as port:
        receiver = Silent()
        await open_connection(parse_address(f"parlance://127.0.0.1:{port}"), receiver)
        await until(lambda: receiver.lost != [])
        assert "unreadable" in receiver.lost[0]


async def test_a_message_that_cannot_be_understood_is_dropped_and_told() -> None:
    async with peer(b"\x00\x00\x00\x01\xc1" + b"\x00\x00\x00\x03\x92\x06\xc0") as port:
        receiver = Silent()
        connection = await open_connection(parse_address(f"parlance://127.0.0.1:{port}"), receiver)
        await until(lambda: receiver.refused != 0)
        assert receiver.lost == []
        connection.close()
        await connection.wait_closed()


async def test_upgrade_that_never_comes_is_given_up() -> None:
    async with peer(b"") as port:
        address = parse_address(f"ws://127.0.0.1:{port}/ws")
        with pytest.raises(TimeoutError, match="no answer"):
            await open_connection(address, Silent(), timeout_s=0.02)


async def test_receiver_hears_nothing_more_of_a_connection_that_it_closed() -> None:
    async with FakeServer() as server:
        receiver = Silent()
        connection = await open_connection(parse_address(server.url), receiver)
        connection.close()
        await connection.wait_closed()
        assert receiver.lost == []
        other = await open_connection(parse_address(server.url), receiver)
        server.cut()
        await other.wait_closed()
        assert len(receiver.lost) == 1
