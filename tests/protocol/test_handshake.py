"""The upgrade from HTTP: what browsers send passes, what two parsers may read apart does not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.http11 import Request as PeerRequest
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from protocol.errors import ProtocolError
from protocol.handshake import (
    OriginPolicy,
    Upgrade,
    UpgradeRefused,
    accept_key,
    accept_upgrade,
    build_request,
    check_response,
    make_key,
)
from protocol.http_head import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    Fields,
    HeadReader,
    HttpError,
    Request,
    parse_request,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # both from RFC 6455 §1.3
SPOKEN = ("pwp1.msgpack", "pwp1.json")
FROM_HOME = OriginPolicy(["https://chat.example", "same-origin"])

PLAIN = {
    "Host": "chat.example",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "pwp1.msgpack",
}

FIREFOX = b"""\
GET /ws?lang=zh HTTP/1.1
Host: chat.example:8080
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: */*
Accept-Language: zh-CN,zh;q=0.8,en-US;q=0.5,en;q=0.3
Accept-Encoding: gzip, deflate, br, zstd
Sec-WebSocket-Version: 13
Origin: http://chat.example:8080
Sec-WebSocket-Protocol: pwp1.json
Sec-WebSocket-Extensions: permessage-deflate
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Connection: keep-alive, Upgrade
Sec-Fetch-Dest: empty
Sec-Fetch-Mode: websocket
Sec-Fetch-Site: same-origin
Pragma: no-cache
Cache-Control: no-cache
Upgrade: websocket

""".replace(b"\n", b"\r\n")

CHROMIUM = b"""\
GET /ws HTTP/1.1
Host: chat.example
Connection: Upgrade
Pragma: no-cache
Cache-Control: no-cache
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36
Upgrade: websocket
Origin: https://chat.example
Sec-WebSocket-Version: 13
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9
Cookie: theme=dark
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits
Sec-WebSocket-Protocol: pwp1.msgpack, pwp1.json

""".replace(b"\n", b"\r\n")


def head(line: str = "GET /ws HTTP/1.1", *extra: str, **changes: str | None) -> bytes:
    """A good request, changed: `Host=None` drops a field, `extra` lines are added."""
    fields = {**PLAIN, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [line, *(f"{k}: {v}" for k, v in fields.items() if v is not None), *extra]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def upgrade(wire: bytes, spoken: tuple[str, ...] = SPOKEN) -> Upgrade:
    reader = HeadReader()
    assert reader.feed(wire)
    return accept_upgrade(parse_request(reader.head), subprotocols=spoken, origins=FROM_HOME)


def refusal(wire: bytes) -> HttpError:
    with pytest.raises(HttpError) as caught:
        upgrade(wire)
    return caught.value


def fields_of(response: bytes) -> dict[str, str]:
    lines = response.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


# Reading the head


CUTTINGS = ["whole", "bytewise", "with trailing bytes"]


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("wire", [FIREFOX, CHROMIUM, head()], ids=["firefox", "chromium", "plain"])
def test_head_is_found_and_the_frames_behind_it_are_kept(wire: bytes, cutting: str) -> None:
    reader = HeadReader()
    rest = b""
    if cutting == "bytewise":
        complete = [reader.feed(wire[i : i + 1]) for i in range(len(wire))]
        assert complete == [False] * (len(wire) - 1) + [True]
    elif cutting == "whole":
        assert reader.feed(wire)
    else:
        assert reader.feed(wire + b"\x82\x80\n\n")  # a frame may hold any bytes
        assert reader.feed(b"\n\r\n\r\n")
        rest = b"\x82\x80\n\n\n\r\n\r\n"
    assert reader.head == wire
    assert reader.rest == rest


def test_nothing_is_given_out_before_the_head_is_complete() -> None:
    reader = HeadReader()
    assert not reader.feed(FIREFOX[:-1])
    assert (reader.head, reader.rest) == (b"", b"")


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET /ws HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /ws HTTP/1.1\r\nHost: x\n\r\n\r\n", 400),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\n", 400),
        (b"\n", 400),
        (b"GET /" + b"a" * MAX_HEAD_BYTES, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_endless_and_bare_lines_are_refused_as_they_arrive(
    wire: bytes, status: int, cutting: str
) -> None:
    reader = HeadReader()
    step = 1 if cutting == "bytewise" else len(wire)
    wire += b"more" if cutting == "with trailing bytes" else b""
    pieces = [wire[i : i + step] for i in range(0, len(wire), step)]
    with pytest.raises(HttpError) as caught:
        any(reader.feed(piece) for piece in pieces)
    assert caught.value.status == status


def test_a_head_of_exactly_the_bound_passes() -> None:
    empty = head("GET /ws HTTP/1.1", "Filler: ")
    wire = head("GET /ws HTTP/1.1", "Filler: " + "x" * (MAX_HEAD_BYTES - len(empty)))
    assert len(wire) == MAX_HEAD_BYTES
    assert upgrade(wire).subprotocol == "pwp1.msgpack"


# Parsing it


def test_request_is_taken_apart() -> None:
    request = parse_request(FIREFOX)
    assert (request.method, request.path, request.query) == ("GET", "/ws", "lang=zh")
    assert (request.target, request.host) == ("/ws?lang=zh", "chat.example:8080")
    assert request.wants_websocket
    assert ("sec-fetch-mode", "websocket") in list(request.fields)
    assert "lang" not in repr(request)  # a query may hold what must not reach a log


def test_a_plain_request_parses_without_wanting_websocket() -> None:
    request = parse_request(b"POST /api/v1/auth/login HTTP/1.0\r\nHost: [::1]:80\r\n\r\n")
    assert (request.method, request.path, request.host) == (
        "POST",
        "/api/v1/auth/login",
        "[::1]:80",
    )
    assert not request.wants_websocket


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("http://other.example/ws?a=1", "other.example", "/ws", "a=1"),
        ("HTTPS://other.example:1", "other.example:1", "/", ""),
        ("http://other.example?a", "other.example", "/", "a"),
        ("/ws?a?b=//", "chat.example", "/ws", "a?b=//"),
        ("/%77s", "chat.example", "/%77s", ""),
    ],
)
def test_targets_may_be_absolute(target: str, host: str, path: str, query: str) -> None:
    request = parse_request(head(f"GET {target} HTTP/1.1"))
    assert (request.host, request.path, request.query) == (host, path, query)


MALFORMED = {
    "no request line": b"\r\n\r\n",
    "no version": head("GET /ws"),
    "HTTP/2": head("GET /ws HTTP/2.0"),
    "other digits": head("GET /ws HTTP/1.²"),
    "two spaces": head("GET  /ws HTTP/1.1"),
    "space in front": head(" GET /ws HTTP/1.1"),
    "space behind": head("GET /ws HTTP/1.1 "),
    "tab": head("GET\t/ws HTTP/1.1"),
    "space in target": head("GET /ws a HTTP/1.1"),
    "method not a token": head("GE(T /ws HTTP/1.1"),
    "fragment": head("GET /ws#a HTTP/1.1"),
    "relative target": head("GET ws HTTP/1.1"),
    "asterisk": head("OPTIONS * HTTP/1.1"),
    "raw octets in target": head("GET /wé HTTP/1.1"),
    "folded field": head("GET /ws HTTP/1.1", "X: a", " b"),
    "folded with a tab": head("GET /ws HTTP/1.1", "X: a", "\tb"),
    "folded first": head("GET /ws HTTP/1.1\r\n X: a"),
    "space before colon": head("GET /ws HTTP/1.1", "X : a"),
    "no colon": head("GET /ws HTTP/1.1", "X"),
    "no name": head("GET /ws HTTP/1.1", ": a"),
    "name not a token": head("GET /ws HTTP/1.1", "X(y): a"),
    "NUL": head("GET /ws HTTP/1.1", "X: a\0b"),
    "bare CR": head("GET /ws HTTP/1.1", "X: a\rY: b"),
    "DEL": head("GET /ws HTTP/1.1", "X: \x7f"),
    "no host": head(Host=None),
    "empty host": head(Host=""),
    "two hosts": head("GET /ws HTTP/1.1", "host: chat.example"),
    "host with a path": head(Host="chat.example/x"),
    "host with a user": head(Host="a@chat.example"),
    "host with spaces": head(Host="chat. example"),
    "host with a bad port": head(Host="chat.example:http"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused(name: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse_request(MALFORMED[name])
    assert caught.value.status == 400


def test_number_of_fields_is_bounded() -> None:
    fields = [f"X-{i}: a" for i in range(MAX_FIELDS - len(PLAIN))]
    assert upgrade(head("GET /ws HTTP/1.1", *fields)).subprotocol
    assert refusal(head("GET /ws HTTP/1.1", *fields, "X: a")).status == 431


def test_spaces_cannot_slow_the_parser_down() -> None:
    wire = head("GET /ws HTTP/1.1", "X:" + " \t" * 3800 + "\0")
    started = time.process_time()
    assert refusal(wire).status == 400
    assert time.process_time() - started < 0.05  # backtracking would take seconds


def test_lists_span_fields_and_ignore_spaces_and_case() -> None:
    fields = Fields([("A", "x ,\tY"), ("b", "z"), ("a", ",, z,")])
    assert fields.items("a") == ["x", "Y", "z"]
    assert fields.values("a") == ["x ,\tY", ",, z,"]
    assert fields.has("a", "y")
    assert not fields.has("a", "w")


# Granting the upgrade


@pytest.mark.parametrize(
    ("wire", "subprotocol"),
    [(FIREFOX, "pwp1.json"), (CHROMIUM, "pwp1.msgpack"), (head(), "pwp1.msgpack")],
    ids=["firefox", "chromium", "plain"],
)
def test_browsers_are_upgraded_without_extensions(wire: bytes, subprotocol: str) -> None:
    granted = upgrade(wire)
    assert granted.subprotocol == subprotocol
    assert granted.response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert granted.response.endswith(b"\r\n\r\n")
    assert fields_of(granted.response) == {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
        "Sec-WebSocket-Protocol": subprotocol,
    }


@pytest.mark.parametrize(
    "wire",
    [
        head(Upgrade="WebSocket", Connection="keep-alive,\tUPGRADE"),
        head("GET /ws HTTP/1.1", "connection: keep-alive", "CONNECTION:   Upgrade  "),
        head(Upgrade="h2c, websocket"),
        head("GET /ws HTTP/1.1", "X-Name: caf\xe9"),
        head("GET /ws HTTP/1.1", "X-Empty:"),
        head(Sec_WebSocket_Key=KEY + " "),
        head(Sec_WebSocket_Protocol="pwp1.json,pwp1.msgpack"),
        head(
            "GET /ws HTTP/1.1", "sec-websocket-protocol: pwp1.msgpack", Sec_WebSocket_Protocol="x"
        ),
    ],
)
def test_tolerated_differences(wire: bytes) -> None:
    assert upgrade(wire).subprotocol == "pwp1.msgpack"


REFUSED = {
    "POST": (head("POST /ws HTTP/1.1"), 405),
    "HEAD": (head("HEAD /ws HTTP/1.1"), 405),
    "lower case method": (head("get /ws HTTP/1.1"), 405),
    "HTTP/1.0": (head("GET /ws HTTP/1.0"), 400),
    "no Upgrade": (head(Upgrade=None), 426),
    "another Upgrade": (head(Upgrade="h2c"), 426),
    "no Connection": (head(Connection=None), 426),
    "another Connection": (head(Connection="keep-alive"), 426),
    "Content-Length": (head("GET /ws HTTP/1.1", "Content-Length: 5"), 400),
    "Content-Length of 0": (head("GET /ws HTTP/1.1", "content-length: 0"), 400),
    "Transfer-Encoding": (head("GET /ws HTTP/1.1", "Transfer-Encoding: chunked"), 400),
    "no version": (head(Sec_WebSocket_Version=None), 426),
    "old version": (head(Sec_WebSocket_Version="8"), 426),
    "new version": (head(Sec_WebSocket_Version="013"), 426),
    "list of versions": (head(Sec_WebSocket_Version="13, 8"), 426),
    "repeated version": (head("GET /ws HTTP/1.1", "Sec-WebSocket-Version: 13"), 400),
    "no key": (head(Sec_WebSocket_Key=None), 400),
    "short key": (head(Sec_WebSocket_Key="dGhlIHNhbXBsZQ=="), 400),
    "long key": (head(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZSE="), 400),
    "key not base64": (head(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j*Q=="), 400),
    "repeated key": (head("GET /ws HTTP/1.1", f"Sec-WebSocket-Key: {KEY}"), 400),
    "foreign origin": (head(Origin="https://evil.example"), 403),
    "no subprotocol": (head(Sec_WebSocket_Protocol=None), 400),
    "another subprotocol": (head(Sec_WebSocket_Protocol="chat"), 400),
    "subprotocol in another case": (head(Sec_WebSocket_Protocol="PWP1.msgpack"), 400),
    "subprotocol not a token": (head(Sec_WebSocket_Protocol="pwp1.msgpack, a b"), 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_upgrades_get_a_whole_http_answer(name: str) -> None:
    wire, status = REFUSED[name]
    error = refusal(wire)
    assert isinstance(error, ProtocolError)
    assert error.status == status
    fields = fields_of(error.response)
    body = error.response.split(b"\r\n\r\n", 1)[1]
    assert error.response.startswith(f"HTTP/1.1 {status} ".encode())
    assert body == error.reason.encode() + b"\n"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Connection"] == "close"
    assert (fields.get("Sec-WebSocket-Version") == "13") == (status == 426)
    assert (fields.get("Allow") == "GET") == (status == 405)


def test_an_endpoint_without_subprotocols_ignores_what_is_offered() -> None:
    for wire in (head(), head(Sec_WebSocket_Protocol=None)):
        granted = upgrade(wire, spoken=())
        assert granted.subprotocol is None
        assert "Sec-WebSocket-Protocol" not in fields_of(granted.response)


# Origins


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "verdict"),
    [
        (["https://a.example"], "https://a.example", "x", True),
        (["https://a.example"], "HTTPS://A.example:443", "x", True),
        (["https://a.example:443"], "https://a.example", "x", True),
        (["https://a.example"], "http://a.example", "x", False),
        (["https://a.example"], "https://a.example:8443", "x", False),
        (["https://a.example"], "https://a.example.evil", "x", False),
        (["https://a.example"], "https://evil.a.example", "x", False),
        (["https://a.example"], "https://a.example/", "x", False),
        (["https://a.example"], "https://b.example https://a.example", "x", False),
        (["https://a.example"], "https://a.example", "a.example", True),
        ([], "https://a.example", "a.example", False),
        (["same-origin"], "https://a.example", "a.example", True),
        (["same-origin"], "https://a.example", "a.example:443", True),
        (["same-origin"], "http://a.example:80", "a.example", True),
        (["same-origin"], "http://a.example", "a.example:443", False),
        (["same-origin"], "http://[::1]:8080", "[::1]:8080", True),
        (["same-origin"], "http://localhost:8081", "localhost:8080", False),
        (["same-origin"], "chrome-extension://localhost", "localhost", False),
        (["same-origin"], "null", "null", False),
        (["same-origin"], "", "a.example", False),
        (["null"], "null", "x", True),
        (["app://parlance"], "app://parlance", "x", True),
    ],
)
def test_origins_match_exactly(allowed: list[str], origin: str, host: str, verdict: bool) -> None:
    assert OriginPolicy(allowed).allows([origin], host) is verdict


def test_programs_without_origin_pass_and_two_origins_do_not() -> None:
    assert OriginPolicy([]).allows([], "chat.example")
    assert not FROM_HOME.allows(["https://chat.example"] * 2, "chat.example")


@pytest.mark.parametrize("entry", ["*", "a.example", "https://", "https://a.example/", ""])
def test_what_is_no_origin_cannot_be_allowed(entry: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        OriginPolicy([entry])


# The client's side


def test_accept_key_is_that_of_the_standard() -> None:
    assert accept_key(KEY) == ACCEPT
    assert make_key() != make_key()


def test_our_two_sides_agree() -> None:
    key = make_key()
    wire = build_request(
        "chat.example:8080",
        "/ws?a=1",
        key,
        subprotocols=("pwp1.json", "pwp1.msgpack"),
        origin="http://chat.example:8080",
    )
    granted = upgrade(wire)
    assert granted.subprotocol == "pwp1.msgpack"
    assert check_response(granted.response, key, subprotocols=SPOKEN) == "pwp1.msgpack"


@pytest.mark.parametrize(
    ("host", "path", "key", "subprotocols", "origin"),
    [
        ("a\r\nX: y", "/", KEY, (), None),
        ("", "/", KEY, (), None),
        ("a", "", KEY, (), None),
        ("a", "/ HTTP/1.1\r\n", KEY, (), None),
        ("a", "/#x", KEY, (), None),
        ("a", "/", "short", (), None),
        ("a", "/", KEY, ("a b",), None),
        ("a", "/", KEY, (), "evil\r\n"),
    ],
)
def test_arguments_cannot_smuggle_fields(
    host: str, path: str, key: str, subprotocols: tuple[str, ...], origin: str | None
) -> None:
    with pytest.raises(ValueError, match="malformed"):
        build_request(host, path, key, subprotocols=subprotocols, origin=origin)


GOOD_ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("HTTP/1.1 101", "HTTP/1.0 101"), 0),
        (("HTTP/1.1 101", "SSH-2.0"), 0),
        (("101 Switching Protocols", "200 OK"), 200),
        (("101 Switching Protocols", "403 Forbidden"), 403),
        (("upgrade: WebSocket\r\n", ""), 101),
        (("Connection: upgrade", "Connection: close"), 101),
        (("s3pP", "S3pP"), 101),
        (("Sec-WebSocket-Accept", "X-Accept"), 101),
        (("\r\n\r\n", f"\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"), 101),
        (("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), 101),
        (("\r\n\r\n", "\r\nSec-WebSocket-Protocol: other\r\n\r\n"), 101),
        (("\r\n\r\n", "\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n\r\n"), 101),
        (("\r\n\r\n", "\r\nmalformed\r\n\r\n"), 101),
    ],
)
def test_wrong_answers_are_refused(change: tuple[str, str], status: int) -> None:
    assert check_response(GOOD_ANSWER.encode(), KEY) is None
    with pytest.raises(UpgradeRefused) as caught:
        check_response(GOOD_ANSWER.replace(*change).encode(), KEY, subprotocols=("a", "b"))
    assert caught.value.status == status


# Properties and an independent peer


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([FIREFOX, b"\r\n", b": "]))))
def test_random_bytes_raise_only_typed_errors(pieces: list[bytes]) -> None:
    refused = b""
    reader = HeadReader()
    try:
        if any(reader.feed(piece) for piece in pieces):
            accept_upgrade(parse_request(reader.head), origins=FROM_HOME)
    except HttpError as error:
        refused = error.response
    assert refused[:10] in (b"", b"HTTP/1.1 4")


@given(st.binary(max_size=200), st.integers(0, len(GOOD_ANSWER)))
def test_random_answers_raise_only_typed_errors(noise: bytes, at: int) -> None:
    wire = GOOD_ANSWER.encode()
    status = 101
    try:
        check_response(wire[:at] + noise + wire[at:], KEY)
    except UpgradeRefused as error:
        status = error.status
    assert 0 <= status <= 999


@pytest.mark.parametrize("offered", [["pwp1.json", "pwp1.msgpack"], ["pwp1.json"]])
def test_the_websockets_client_accepts_our_upgrade(offered: list[str]) -> None:
    client = ClientProtocol(
        parse_uri("ws://chat.example:8080/ws"),
        origin=Origin("http://chat.example:8080"),
        subprotocols=[Subprotocol(name) for name in offered],
    )
    client.send_request(client.connect())
    granted = upgrade(b"".join(client.data_to_send()))
    client.receive_data(granted.response)
    assert client.handshake_exc is None
    assert client.state is OPEN
    assert client.subprotocol == granted.subprotocol == sorted(offered)[-1]


def test_the_websockets_client_understands_our_refusal() -> None:
    client = ClientProtocol(parse_uri("ws://chat.example/ws"), origin=Origin("http://evil.example"))
    client.send_request(client.connect())
    client.receive_data(refusal(b"".join(client.data_to_send())).response)
    client.receive_eof()
    assert "403" in str(client.handshake_exc)


def test_the_websockets_server_accepts_our_request() -> None:
    server = ServerProtocol(
        subprotocols=[Subprotocol("pwp1.json")], origins=[Origin("https://chat.example")]
    )
    key = make_key()
    server.receive_data(
        build_request(
            "chat.example", "/ws?x", key, subprotocols=SPOKEN, origin="https://chat.example"
        )
    )
    (request,) = server.events_received()
    assert isinstance(request, PeerRequest)
    assert request.path == "/ws?x"
    server.send_response(server.accept(request))
    reader = HeadReader()
    assert reader.feed(b"".join(server.data_to_send()) + b"\x82\x00")
    assert check_response(reader.head, key, subprotocols=SPOKEN) == "pwp1.json"
    assert reader.rest == b"\x82\x00"


def test_request_shows_its_own_fields_only() -> None:
    request = Request("GET", "/?t=1", "/", "t=1", "h", 1, Fields([("Cookie", "c")]))
    assert repr(request) == "Request(method='GET', path='/', host='h', minor=1)"
