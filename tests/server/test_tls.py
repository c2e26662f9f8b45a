"""TLS on the one port: chosen by the first byte, the same doors inside, cleartext beside it."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clients.client import Client
from protocol.codec import MSGPACK
from protocol.codes import Code, ConvKind
from protocol.envelopes import Bye, History, MsgPush, Page, Send, Sent, Welcome
from protocol.frames import PREFACE
from protocol.handshake import build_request, make_key
from server.app import App
from server.config import check
from server.config_sections import Config, LimitsConfig, ServerConfig, WebSocketConfig
from server.tls import RELOAD_S, Certificate, TlsPort, UnusableCertificate, is_this_machine
from tests.server.harness import Peer, Person, cid
from tests.server.test_app import Running, config_of
from tests.support.eventually import WAIT_S

NAME = "localhost"
HELLO = bytes.fromhex("16030100c8")
"""How a TLS handshake begins; nothing behind it."""
GENEROUS = LimitsConfig(
    rate=1e6,
    burst=1e6,
    bytes_per_s=1 << 30,
    bytes_burst=1 << 30,
    conversation_per_s=1e6,
    conversation_burst=1e6,
)


def make_certificate(
    folder: Path, serial: int = 1, password: bytes = b"", days: float = 90
) -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [
        x509.DNSName(NAME),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    lock = serialization.BestAvailableEncryption(password) if password else None
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            lock or serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


def trusting(cert: Path, *alpn: str) -> ssl.SSLContext:
    """Return the settings of a client that trusts this certificate alone."""
    context = ssl.create_default_context(cafile=str(cert))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class TlsServer(Running):
    """A whole server with a certificate."""

    def __init__(self, app: App, cert: Path) -> None:
        super().__init__(app)
        self.cert = cert
        self.trust = trusting(cert)

    async def dial_tls(self, transport: str = "tcp") -> Peer:
        """Return a connection inside TLS that is not signed in."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust)
        peer = Peer(self, transport, reader, writer)
        self._peers.append(peer)
        if transport == "tcp":
            peer.write(PREFACE)
            return peer
        subprotocol = "pwp1.json" if transport == "json" else "pwp1.msgpack"
        host = f"127.0.0.1:{self.port}"
        peer.write(build_request(host, "/ws", make_key(), subprotocols=[subprotocol]))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return peer

    async def connect_tls(self, person: Person, transport: str = "tcp", number: int = 1) -> Peer:
        """Return a signed-in connection inside TLS."""
        peer = await self.dial_tls(transport)
        peer.send(peer.hello(person, number))
        peer.welcome = await peer.expect(Welcome)
        return peer

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a bare TCP connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def certificate_serial(self) -> int:
        """Return the serial number of the certificate that new connections get."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(found).serial_number


@contextlib.asynccontextmanager
async def serving(folder: Path, **sections: Any) -> AsyncIterator[TlsServer]:
    """Run a whole server with a certificate on a port of its own."""
    cert, key = make_certificate(folder)
    section = ServerConfig(
        port=0,
        data_dir=str(folder / "data"),
        gc_freeze=False,
        drain_s=0.2,
        tls_cert=str(cert),
        tls_key=str(key),
    )
    more = {"server": section, "websocket": WebSocketConfig(json=True)} | sections
    app = App(config_of(folder, **more))
    await app.start()
    async with TlsServer(app, cert) as server:
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TlsServer]:
    async with serving(tmp_path) as server:
        yield server


@pytest.mark.parametrize("transport", ["tcp", "ws", "json"])
async def test_every_door_works_inside_tls_beside_cleartext(
    server: TlsServer, transport: str
) -> None:
    anna, bert = await server.people("anna bert")
    inside = await server.connect_tls(anna, transport)
    outside = await server.connect(bert, transport)
    conv = (await inside.create(ConvKind.GROUP, bert)).row.id or 0
    sent = await inside.send_text(conv, "from inside")
    pushed = await outside.expect(MsgPush)
    assert (pushed.seq, pushed.text) == (sent.seq, "from inside")
    await outside.send_text(conv, "from outside")
    assert (await inside.expect(MsgPush)).text == "from outside"


@pytest.mark.parametrize("url", ["parlances", "wss"])
async def test_the_client_library_signs_in_and_talks_through_tls(
    server: TlsServer, url: str
) -> None:
    anna = await server.person("anna")

    async def token(_: bool) -> str:
        return server.token(anna)

    async with Client(
        f"{url}://127.0.0.1:{server.port}", token, tls=trusting(server.cert)
    ) as client:
        await client.wait_online(WAIT_S)
        info = await client.create_conversation(ConvKind.GROUP, title="room")
        assert (await client.send(info.row.id or 0, "hello")).seq == 1


async def test_https_keeps_its_connection_and_knows_that_it_is_https(server: TlsServer) -> None:
    connector = aiohttp.TCPConnector(ssl=server.trust, limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        ports = set()
        for _ in range(3):
            async with session.get(f"https://127.0.0.1:{server.port}/health") as answer:
                assert answer.status == 200
                assert "Strict-Transport-Security" in answer.headers
                await answer.read()
            ((pooled, _),) = next(iter(connector._conns.values()))
            assert pooled.transport is not None
            ports.add(pooled.transport.get_extra_info("sockname")[1])
        assert len(ports) == 1
        async with session.get(f"http://127.0.0.1:{server.port}/health") as answer:
            assert "Strict-Transport-Security" not in answer.headers, "not over cleartext"
        body = {"name": "Anna", "password": "right password " * 20}
        url = f"https://127.0.0.1:{server.port}/api/v1/auth/register"
        async with session.post(url, json=body) as answer:
            assert answer.status in (201, 400)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["pwp/1"], "pwp/1"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
async def test_both_protocols_are_offered_by_alpn(
    server: TlsServer, offered: list[str], chosen: str | None
) -> None:
    context = trusting(server.cert, *offered)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    tls = writer.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == chosen
    assert tls.version() in ("TLSv1.2", "TLSv1.3")
    writer.close()


async def test_versions_before_tls_1_2_are_refused(server: TlsServer) -> None:
    context = trusting(server.cert)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


async def test_a_handshake_that_comes_byte_by_byte_works(server: TlsServer) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = server.trust.wrap_bio(incoming, outgoing, server_hostname=NAME)
    reader, writer = await server.raw()
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        try:
            inside.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            incoming.write(await asyncio.wait_for(reader.read(65536), WAIT_S))
    # The preface rides in the segment that ends the handshake.
    anna = await server.person("anna")
    peer = Peer(server, "tcp", reader, writer)
    inside.write(PREFACE + MSGPACK.encode(peer.hello(anna)))
    writer.write(outgoing.read())
    data = b""
    while not data:
        incoming.write(await asyncio.wait_for(reader.read(65536), WAIT_S))
        with contextlib.suppress(ssl.SSLWantReadError):
            data = inside.read(65536)
    assert isinstance(MSGPACK.decode_server(data[4 : 4 + data[3]]), Welcome)
    writer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\x16", HELLO + b"garbage" * 100, b"\x16\xff\xff\xff\xff" + bytes(500), b"\x16" * 70_000],
)
async def test_garbage_after_the_first_byte_costs_only_its_connection(
    server: TlsServer, garbage: bytes
) -> None:
    reader, writer = await server.raw()
    writer.write(garbage)
    writer.write_eof()
    with contextlib.suppress(ConnectionResetError):
        # At most an alert (RFC 8446 §6) comes back.
        assert len(await asyncio.wait_for(reader.read(), WAIT_S)) <= 64
    writer.close()
    await server.empty()
    anna = await server.person("anna")
    await server.connect_tls(anna)


@pytest.mark.parametrize("inner", [HELLO + bytes(200), b"\x00\x00\x00\x01", b"abc", b"\x80"])
async def test_inside_tls_only_frames_and_http_are_spoken(server: TlsServer, inner: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.trust)
    writer.write(inner)
    with contextlib.suppress(OSError):
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    writer.close()
    await server.empty()


async def test_a_handshake_that_is_too_slow_is_given_up(server: TlsServer) -> None:
    reader, writer = await server.raw()
    writer.write(HELLO)
    core = server.core
    await asyncio.sleep(0.05)
    limits = core.config.limits
    server.advance(limits.first_byte_s + 1)
    assert core.strangers.open == 1, "a handshake has longer than a first byte"
    server.advance(limits.hello_s)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    writer.close()
    await server.empty()


async def test_silence_after_the_handshake_is_not_waited_for(server: TlsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=server.trust)
    await asyncio.sleep(0.02)
    server.advance(server.core.config.limits.first_byte_s + 1)
    with contextlib.suppress(OSError):
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    writer.close()
    await server.empty()


async def test_peers_that_vanish_within_the_handshake_leave_nothing(server: TlsServer) -> None:
    for wait_s in (0, 0, 0.001, 0.005):
        _, writer = await server.raw()
        writer.write(HELLO)
        await asyncio.sleep(wait_s)
        writer.transport.abort()
    await server.empty()


async def test_strangers_inside_tls_count_like_others(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=LimitsConfig(unauthenticated_per_ip=3)) as server:
        await asyncio.gather(*(server.dial_tls() for _ in range(3)))
        with pytest.raises(OSError):
            await server.dial_tls()
        assert server.core.strangers.refused == 1


async def test_big_frames_go_through_in_both_directions(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=GENEROUS) as server:
        (anna,) = await server.people("anna")
        peer = await server.connect_tls(anna)
        conv = (await peer.create(ConvKind.GROUP)).row.id or 0
        texts = [f"{number} " + "界" * 5_000 for number in range(24)]
        peer.send(*(Send(peer.rid(), conv, cid(), 0, text) for text in texts))
        for _ in texts:
            await peer.expect(Sent)
        page = await peer.ask(History, conv, 0, False, 50)
        assert isinstance(page, Page)
        assert [row.text for row in page.msgs] == texts


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_bye_arrives_before_the_end(server: TlsServer, transport: str) -> None:
    (anna,) = await server.people("anna")
    first = await server.connect_tls(anna, transport)
    await server.connect_tls(anna, transport)
    assert (await first.bye()).code == Code.REPLACED


async def test_everybody_inside_tls_is_told_when_the_server_stops(server: TlsServer) -> None:
    (anna,) = await server.people("anna")
    peer = await server.connect_tls(anna)
    await server.stop()
    frames = await peer.end()
    assert isinstance(frames[-1], Bye)
    assert frames[-1].code == Code.DRAINING


async def test_a_peer_that_ends_tls_properly_is_let_go_at_once(server: TlsServer) -> None:
    (anna,) = await server.people("anna")
    peer = await server.connect_tls(anna)
    await peer.close()
    await server.empty()


async def test_a_peer_that_only_closes_its_sending_side_is_let_go_at_once(
    server: TlsServer,
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = server.trust.wrap_bio(incoming, outgoing, server_hostname=NAME)
    reader, writer = await server.raw()
    with pytest.raises(ssl.SSLWantReadError):
        inside.do_handshake()
    writer.write(outgoing.read())
    incoming.write(await asyncio.wait_for(reader.read(65536), WAIT_S))
    inside.do_handshake()
    inside.write(PREFACE)
    writer.write(outgoing.read())
    writer.write_eof()
    while await asyncio.wait_for(reader.read(65536), WAIT_S):
        pass
    writer.close()
    await server.empty()


async def test_a_slow_reader_inside_tls_is_held_back_like_any_other(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=GENEROUS) as server:
        anna, bert = await server.people("anna bert")
        slow = await server.connect_tls(anna)
        fast = await server.connect(bert)
        conv = (await slow.create(ConvKind.GROUP, bert)).row.id or 0
        (session,) = server.core.hub.sessions_of(anna.id)
        pipe: Any = slow._writer.transport
        pipe.pause_reading()
        # The kernel's buffers on both sides take some megabytes first.
        for _ in range(400):
            await fast.send_text(conv, "x" * 15_000)
            if not session.outbox.writable:
                break
        else:
            pytest.fail("nothing held the sender back")
        pipe.resume_reading()
        await slow.send_text(conv, "still here")


# cleartext


def own_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def open_section(folder: Path, **more: Any) -> ServerConfig:
    cert, key = make_certificate(folder)
    return ServerConfig(
        host="0.0.0.0",
        port=0,
        data_dir=str(folder / "data"),
        gc_freeze=False,
        drain_s=0.2,
        tls_cert=str(cert),
        tls_key=str(key),
        **more,
    )


@pytest.mark.parametrize("first", [PREFACE, b"GET /health HTTP/1.1\r\n\r\n", b"GET /ws HTTP/1.1"])
async def test_cleartext_from_elsewhere_is_refused_unless_allowed(
    tmp_path: Path, first: bytes
) -> None:
    address = own_address()
    async with serving(tmp_path, server=open_section(tmp_path)) as server:
        reader, writer = await asyncio.open_connection(address, server.port)
        writer.write(first)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        writer.close()
        reader, writer = await asyncio.open_connection(
            address, server.port, ssl=trusting(tmp_path / "cert.pem"), server_hostname=NAME
        )
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), WAIT_S)).startswith(b"HTTP/1.1 200")
        writer.close()
        await server.person("anna")
        peer = await server.dial()
        assert not peer.ended, "this machine itself may speak cleartext"


async def test_cleartext_from_elsewhere_is_served_when_allowed(tmp_path: Path) -> None:
    address = own_address()
    section = open_section(tmp_path, allow_cleartext=True)
    async with serving(tmp_path, server=section) as server:
        reader, writer = await asyncio.open_connection(address, server.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), WAIT_S)).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.7", False),
        ("192.0.2.7", False),
        ("2001:db8::1", False),
        ("local", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_are_this_machine(address: str, local: bool) -> None:
    assert is_this_machine(address) is local
    assert TlsPort(None, cleartext=False).allows_cleartext(address) is local
    assert TlsPort(None, cleartext=True).allows_cleartext(address)


async def test_without_a_certificate_tls_is_refused(tmp_path: Path) -> None:
    app = App(config_of(tmp_path))
    await app.start()
    async with Running(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HELLO + bytes(200))
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
        writer.close()
        await server.empty()


# the certificate


async def test_a_renewed_certificate_is_taken_without_a_restart(
    server: TlsServer, tmp_path: Path
) -> None:
    (anna,) = await server.people("anna")
    old = await server.connect_tls(anna)
    assert await server.certificate_serial() == 1
    make_certificate(tmp_path, serial=2)
    server.advance(RELOAD_S + 1)
    assert await server.certificate_serial() == 2
    await old.settled()
    assert not old.ended, "connections that were open stay open"


async def test_a_broken_renewal_changes_nothing_and_is_tried_again(
    server: TlsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = make_certificate(tmp_path, serial=2)
    right = key.read_bytes()
    key.write_text("half a file")
    server.advance(RELOAD_S + 1)
    assert await server.certificate_serial() == 1
    assert any(record.message == "tls.reload_failed" for record in caplog.records)
    key.write_bytes(right)
    server.advance(RELOAD_S + 1)
    assert await server.certificate_serial() == 2


def test_files_that_have_not_changed_are_not_read_again(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    certificate = Certificate(str(cert), str(key))
    context = certificate.context
    assert certificate.check(100.0) == 100.0 + RELOAD_S
    assert certificate.context is context


def spoil(folder: Path, how: str) -> tuple[Path, Path]:
    cert, key = make_certificate(folder, password=b"secret" if how == "password" else b"")
    other = folder / "other"
    other.mkdir()
    if how == "mismatch":
        key = make_certificate(other)[1]
    elif how == "garbage":
        cert.write_text("not a certificate")
    elif how == "swapped":
        cert, key = key, cert
    elif how == "folder":
        cert = other
    return cert, key


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("mismatch", "is not the private key of"),
        ("garbage", "not a certificate chain or private key in PEM"),
        ("swapped", "not a certificate chain or private key in PEM"),
        ("password", "protected by a password"),
        ("folder", "there is no file"),
    ],
)
def test_an_unusable_certificate_is_explained_before_the_start(
    tmp_path: Path, how: str, words: str
) -> None:
    cert, key = spoil(tmp_path, how)
    config = Config(server=ServerConfig(tls_cert=str(cert), tls_key=str(key)))
    fatal = [str(problem) for problem in check(config) if problem.fatal]
    assert len(fatal) == 1
    assert words in fatal[0]
    assert "\n" not in fatal[0]


def test_a_good_certificate_is_no_problem(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    config = Config(server=ServerConfig(tls_cert=str(cert), tls_key=str(key)))
    assert not [problem for problem in check(config) if problem.key.startswith("server.")]


@pytest.mark.parametrize(
    ("days", "words"), [(-1, "clients will refuse it"), (0.5, "renew it"), (13.5, "renew it")]
)
def test_a_certificate_that_ends_soon_or_has_ended_is_a_warning(
    tmp_path: Path, days: float, words: str
) -> None:
    cert, key = make_certificate(tmp_path, days=days)
    config = Config(server=ServerConfig(tls_cert=str(cert), tls_key=str(key)))
    (found,) = [problem for problem in check(config) if problem.key == "server.tls_cert"]
    assert not found.fatal
    assert words in found.text


def test_a_certificate_that_cannot_be_read_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(UnusableCertificate, match="cannot be read"):
        Certificate(str(tmp_path / "none.pem"), str(tmp_path / "none.key"))
