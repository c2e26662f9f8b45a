"""An echo endpoint against a table of cases, ordered like the chapters of the Autobahn suite.

The real suite is run against `/ws/echo`; this table keeps its lessons without a network: the
same kinds of cases, each fed whole, in the pieces that it names, and byte by byte.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import pytest
from websockets.speedups import apply_mask as apply_mask_in_c

from protocol.websocket import (
    BINARY,
    CLOSE,
    CLOSE_NO_STATUS,
    PING,
    PONG,
    TEXT,
    Event,
    WebSocketDecoder,
    apply_mask,
    encode_close,
    encode_frame,
    parse_close,
)

MASK = b"\x37\xfa\x21\x3d"
LIMIT = 256 * 1024
HELLO = b"Hello, world!"


def sent(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """A client's frame; RSV bits and reserved opcodes on demand."""
    frame = bytearray(encode_frame(opcode & 7, payload, mask=MASK, fin=fin))
    frame[0] = frame[0] & 0x80 | reserved << 4 | opcode
    return bytes(frame)


def fragments(opcode: int, *pieces: bytes) -> list[bytes]:
    last = len(pieces) - 1
    return [sent(0 if i else opcode, piece, fin=i == last) for i, piece in enumerate(pieces)]


class EchoDriver:
    """What a server does around the decoder, without the server."""

    def __init__(self) -> None:
        self.decoder = WebSocketDecoder(LIMIT, unmask=apply_mask_in_c)
        self.closed = False

    def feed(self, data: bytes) -> bytes:
        written = [self._answer(*event) for event in self.decoder.feed(data)]
        if self.decoder.error is not None and not self.closed:
            self.closed = True
            written.append(encode_close(self.decoder.error.close_code, self.decoder.error.reason))
        return b"".join(written)

    def _answer(self, opcode: int, payload: bytes) -> bytes:
        if opcode == CLOSE:
            self.closed = True
            return encode_close(parse_close(payload)[0])
        if opcode == PONG:
            return b""
        return encode_frame(PONG if opcode == PING else opcode, payload)


@dataclass
class Case:
    """Pieces that arrive one after the other, what comes back, and how it ends."""

    pieces: list[bytes]
    replies: list[Event]
    close: int = 0
    """Code of the server's close frame; 0 when the connection stays open."""
    at: int = -1
    """The piece that must be answered by the close; -1 when it does not matter."""


CASES: dict[str, Case] = {}


def echo(name: str, opcode: int, payload: bytes, *pieces: bytes) -> None:
    CASES[name] = Case(list(pieces) or [sent(opcode, payload)], [(opcode, payload)])


def fail(
    name: str, close: int, *pieces: bytes, replies: Iterable[Event] = (), at: int = -1
) -> None:
    CASES[name] = Case(list(pieces), list(replies), close, at)


def chapter_1_framing() -> None:
    for i, (opcode, octet) in enumerate([(TEXT, b"*"), (BINARY, b"\xfe")], 1):
        for j, size in enumerate([0, 125, 126, 127, 128, 65535, 65536], 1):
            echo(f"1.{i}.{j}", opcode, octet * size)
        frame = sent(opcode, octet * 65536)
        chops = [frame[at : at + 997] for at in range(0, len(frame), 997)]
        echo(f"1.{i}.8", opcode, octet * 65536, *chops)


def chapter_2_pings() -> None:
    for i, payload in enumerate(
        [b"", HELLO, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125], 1
    ):
        CASES[f"2.{i}"] = Case([sent(PING, payload)], [(PONG, payload)])
    fail("2.5", 1002, b"\x89\xfe\x00\x7e" + MASK + bytes(126))
    CASES["2.6"] = Case(
        [sent(PING, b"\xfe" * 125)[i : i + 1] for i in range(131)], [(PONG, b"\xfe" * 125)]
    )
    CASES["2.7 unsolicited pong"] = Case([sent(PONG)], [])
    CASES["2.8 unsolicited pong"] = Case([sent(PONG, b"unasked")], [])
    CASES["2.9"] = Case([sent(PONG, b"unasked"), sent(PING, b"ping")], [(PONG, b"ping")])
    pings = [b"payload-%d" % i for i in range(10)]
    CASES["2.10"] = Case([sent(PING, p) for p in pings], [(PONG, p) for p in pings])
    chopped = chain.from_iterable(sent(PING, p) for p in pings)
    CASES["2.11"] = Case([bytes((octet,)) for octet in chopped], [(PONG, p) for p in pings])


def chapter_3_reserved_bits() -> None:
    fail("3.1", 1002, sent(TEXT, HELLO, reserved=1))
    before = [(TEXT, HELLO)]
    for i, reserved in enumerate([2, 3, 4], 2):
        pieces = [sent(TEXT, HELLO), sent(TEXT, HELLO, reserved=reserved), sent(PING)]
        fail(f"3.{i}", 1002, *pieces, replies=before, at=1)
    fail("3.5", 1002, sent(BINARY, HELLO, reserved=5))
    fail("3.6", 1002, sent(PING, HELLO, reserved=6))
    fail("3.7", 1002, sent(CLOSE, b"\x03\xe8", reserved=7))


def chapter_4_opcodes() -> None:
    for i, opcodes in enumerate([range(3, 8), range(11, 16)], 1):
        for j, opcode in enumerate(opcodes, 1):
            payload = HELLO if j > 1 else b""
            reserved = (
                bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + apply_mask(payload, MASK)
            )
            pieces = [sent(TEXT, HELLO), reserved, sent(PING)]
            fail(f"4.{i}.{j}", 1002, *pieces, replies=[(TEXT, HELLO)], at=1)


def chapter_5_fragmentation() -> None:
    fragmented_ping = [b"\x09\x82" + MASK + bytes(2), sent(0, b"x")]
    fail("5.1", 1002, *fragmented_ping, at=0)
    fail("5.2", 1002, b"\x0a\x82" + MASK + bytes(2), sent(0, b"x"), at=0)
    one, two = fragments(TEXT, b"fragment1", b"fragment2")
    whole = (TEXT, b"fragment1fragment2")
    ping = sent(PING, b"ping")
    CASES["5.3"] = Case([one, two], [whole])
    CASES["5.6"] = Case([one, ping, two], [(PONG, b"ping"), whole])
    fail("5.9", 1002, sent(0, b"nothing open"), sent(TEXT, HELLO), at=0)
    fail("5.12", 1002, sent(0, b"nothing open", fin=False), sent(TEXT, HELLO), at=0)
    fail(
        "5.15", 1002, one, two, sent(0, b"more", fin=False), sent(TEXT, b"x"), replies=[whole], at=2
    )
    fail("5.16", 1002, sent(0, b"1", fin=False), sent(TEXT, b"2", fin=False), sent(0, b"3"), at=0)
    fail("5.17", 1002, sent(0, b"1"), sent(TEXT, b"2", fin=False), sent(0, b"3"), at=0)
    fail("5.18", 1002, one, sent(TEXT, b"fragment2"), at=1)
    many = fragments(TEXT, *(b"fragment%d" % i for i in range(1, 6)))
    pings = [sent(PING, b"1"), sent(PING, b"2")]
    CASES["5.19"] = Case(
        [*many[:2], pings[0], *many[2:4], pings[1], many[4]],
        [(PONG, b"1"), (PONG, b"2"), (TEXT, b"fragment1fragment2fragment3fragment4fragment5")],
    )


KOSME = "κόσμε".encode()
VALID_TEXT = [
    *("hello$world", "hello¢world", "hello€world", "hello𤭢world", "κόσμε", "早上好", "🎐"),
    *("\x00", "\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"),
    *("\ud7ff", "\ue000", "\ufffd", "\ufffe", "\U0001fffe", "\U0010fffe"),
]
INVALID_TEXT = [
    *(KOSME[:n] for n in (1, 3, 5, 7, 9)),  # prefixes that end inside a character
    *(b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xf7\xbf\xbf\xbf"),
    *(b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf", b"\xf4\x90\x80\x80"),
    *(b"\x80", b"\xbf", b"\x80\xbf" * 3, bytes(range(0x80, 0xC0))),
    b"".join(bytes((lead, 0x20)) for lead in range(0xC0, 0xE0)),
    b"".join(bytes((lead, 0x20)) for lead in range(0xE0, 0xFE)),
    *(b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf"),
    *(b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"),
    *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf"),  # overlong
    *(b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xc0\x80", b"\xe0\x80\x80"),
    *(b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xb0\x80", b"\xed\xbf\xbf"),
    *(b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf"),  # paired surrogates
]


def chapter_6_text() -> None:
    echo("6.1.1", TEXT, b"")
    echo("6.1.2", TEXT, b"", *fragments(TEXT, b"", b"", b""))
    echo("6.1.3", TEXT, b"middle", *fragments(TEXT, b"", b"middle", b""))
    text = "Hello-µ@ßöäüàá-UTF-8!!".encode()
    echo("6.2.1", TEXT, text)
    echo("6.2.2", TEXT, text, *fragments(TEXT, text[:8], text[8:]))
    echo("6.2.3", TEXT, text, *fragments(TEXT, *(bytes((octet,)) for octet in text)))
    bad = KOSME + b"\xed\xa0\x80edited"
    fail("6.3.1", 1007, sent(TEXT, bad))
    fail("6.3.2", 1007, *fragments(TEXT, *(bytes((octet,)) for octet in bad)), at=len(KOSME) + 1)
    beyond = b"\xf4\x90\x80\x80"
    fail("6.4.1", 1007, *fragments(TEXT, KOSME, beyond, b"edited"), at=1)
    fail("6.4.2", 1007, *fragments(TEXT, KOSME + b"\xf4", b"\x90", b"\x80\x80edited"), at=1)
    frame = sent(TEXT, KOSME + beyond + b"edited")
    edge = 6 + len(KOSME)
    fail("6.4.3", 1007, frame[:edge], frame[edge : edge + 4], frame[edge + 4 :], at=1)
    fail("6.4.4", 1007, frame[: edge + 1], frame[edge + 1 : edge + 2], frame[edge + 2 :], at=1)
    for i, valid in enumerate(VALID_TEXT, 1):
        echo(f"6.5 valid {i}", TEXT, valid.encode())
    for i, invalid in enumerate(INVALID_TEXT, 1):
        fail(f"6.6 invalid {i}", 1007, sent(TEXT, invalid))


def closing(code: int, reason: bytes = b"") -> bytes:
    return sent(CLOSE, code.to_bytes(2, "big") + reason)


def chapter_7_close() -> None:
    normal = closing(1000)
    fail("7.1.1", 1000, sent(TEXT, HELLO), normal, replies=[(TEXT, HELLO)])
    fail("7.1.2 two closes", 1000, normal, normal, at=0)
    fail("7.1.3 ping behind close", 1000, normal, sent(PING), at=0)
    fail("7.1.4 text behind close", 1000, normal, sent(TEXT, HELLO), at=0)
    one, two = fragments(TEXT, b"fragment1", b"fragment2")
    fail("7.1.5 fragment behind close", 1000, one, normal, two, at=1)
    big = b"BAsd7&jh23" * 26_214
    replies = [(TEXT, big), (TEXT, HELLO)]
    fail("7.1.6", 1000, sent(TEXT, big), sent(TEXT, HELLO), normal, sent(PING), replies=replies)
    fail("7.3.1 no code", CLOSE_NO_STATUS, sent(CLOSE))
    fail("7.3.2 one byte", 1002, sent(CLOSE, b"\x03"))
    fail("7.3.3 code only", 1000, normal)
    fail("7.3.4 with a reason", 1000, closing(1000, HELLO))
    fail("7.3.5 longest reason", 1000, closing(1000, b"*" * 123))
    fail("7.3.6 too long", 1002, b"\x88\xfe\x00\x7e" + MASK + bytes(126))
    fail("7.5.1 bad reason", 1007, closing(1000, KOSME + b"\xed\xa0\x80edited"))
    for code in (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999):
        fail(f"7.7 code {code}", code, closing(code))
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        fail(f"7.9 code {code}", 1002, closing(code))


def chapter_9_limits() -> None:
    for i, opcode in enumerate([TEXT, BINARY], 1):
        for j, size in enumerate([64 * 1024, LIMIT], 1):
            echo(f"9.{i}.{j}", opcode, b"x" * size)
        fail(f"9.{i}.3 too big", 1009, sent(opcode, b"x" * (LIMIT + 1)))
        for j, size in enumerate([64, 256, 1024, 4096, 65536], 1):
            pieces = [b"x" * size] * (LIMIT // 4 // size)
            echo(f"9.{i + 2}.{j}", opcode, b"x" * (LIMIT // 4), *fragments(opcode, *pieces))
        pieces = fragments(opcode, *[b"x" * 65536] * 5)
        fail(f"9.{i + 2}.6 too big", 1009, *pieces, at=4)
        frame = sent(opcode, b"x" * 65536)
        for j, size in enumerate([64, 512, 2048], 1):
            chops = [frame[at : at + size] for at in range(0, len(frame), size)]
            echo(f"9.{i + 4}.{j}", opcode, b"x" * 65536, *chops)
    messages = [b"m%d" % i for i in range(1000)]
    CASES["9.7"] = Case([sent(TEXT, m) for m in messages], [(TEXT, m) for m in messages])


def chapter_10_other() -> None:
    pieces = [b"*" * 1300] * 50 + [b"*" * 536]
    echo("10.1.1", TEXT, b"*" * 65536, *fragments(TEXT, *pieces))
    fail("10.2 unmasked", 1002, encode_frame(TEXT, HELLO))
    fail("10.3 length not minimal", 1002, b"\x82\xfe\x00\x01" + MASK + b"x")
    fail("10.4 length not minimal", 1002, b"\x82\xff" + bytes(6) + b"\x01\x00" + MASK)
    fail("10.5 length of 2^63", 1002, b"\x82\xff\x80" + bytes(7) + MASK)


for _chapter in (
    chapter_1_framing,
    chapter_2_pings,
    chapter_3_reserved_bits,
    chapter_4_opcodes,
    chapter_5_fragmentation,
    chapter_6_text,
    chapter_7_close,
    chapter_9_limits,
    chapter_10_other,
):
    _chapter()


def judge(case: Case, written: bytes, driver: EchoDriver) -> None:
    client = WebSocketDecoder(2 * LIMIT, require_mask=False)
    replies = client.feed(written)
    assert client.error is None
    close = 0
    if replies and replies[-1][0] == CLOSE:
        close = parse_close(replies.pop()[1])[0]
    assert replies == case.replies
    assert close == case.close
    assert driver.closed == (case.close != 0)
    assert driver.decoder.buffered_bytes == 0


@pytest.mark.parametrize("name", CASES)
def test_case_fed_at_once(name: str) -> None:
    driver = EchoDriver()
    judge(CASES[name], driver.feed(b"".join(CASES[name].pieces)), driver)


@pytest.mark.parametrize("name", CASES)
def test_case_fed_piece_by_piece(name: str) -> None:
    case, driver, written = CASES[name], EchoDriver(), b""
    for index, piece in enumerate(case.pieces):
        written += driver.feed(piece)
        if case.at >= 0:
            assert driver.closed == (index >= case.at)
    judge(case, written, driver)


SHORT = [name for name, case in CASES.items() if sum(map(len, case.pieces)) <= 20_000]


@pytest.mark.parametrize("name", SHORT)
def test_case_fed_byte_by_byte(name: str) -> None:
    driver = EchoDriver()
    octets = chain.from_iterable(CASES[name].pieces)
    written = b"".join(driver.feed(bytes((octet,))) for octet in octets)
    judge(CASES[name], written, driver)
