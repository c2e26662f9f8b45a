"""The frame decoder against every rule of RFC 6455, however the bytes are cut."""

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask as apply_mask_in_c
from websockets.uri import parse_uri

from protocol.codes import Code
from protocol.errors import ProtocolError
from protocol.websocket import (
    BINARY,
    CLOSE,
    MAX_EMPTY_FRAGMENTS,
    PING,
    PONG,
    TEXT,
    Event,
    WebSocketDecoder,
    WebSocketError,
    apply_mask,
    binary_header,
    encode_close,
    encode_frame,
    parse_close,
)

MASK = b"\x9a\x01\xff\x5c"
LIMIT = 70_000
MARKER = encode_frame(PING, b"trailing", mask=MASK)


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return encode_frame(opcode, payload, mask=MASK, fin=fin)


def fed(decoder: WebSocketDecoder, *chunks: bytes) -> list[Event]:
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def one_by_one(data: bytes) -> Iterator[bytes]:
    """Single bytes; of a long frame only the first and the last, so that the test stays quick."""
    inner = range(5000, max(5000, len(data) - 5000), 997)
    edges = [*range(min(5000, len(data))), *inner, *range(max(5000, len(data) - 5000), len(data))]
    return (data[a:b] for a, b in pairwise([*edges, len(data)]))


def close_code_of(decoder: WebSocketDecoder) -> int:
    return decoder.error.close_code if decoder.error else 0


@pytest.fixture(params=["whole", "bytewise", "with trailing bytes"])
def cutting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(cutting: str, wire: bytes) -> tuple[list[Event], WebSocketDecoder]:
    """Feed wire; with trailing bytes, a following ping is expected and left out of the result."""
    decoder = WebSocketDecoder(LIMIT)
    if cutting == "whole":
        return decoder.feed(wire), decoder
    if cutting == "bytewise":
        return fed(decoder, *one_by_one(wire)), decoder
    events = decoder.feed(wire + MARKER)
    if not decoder.ended:
        assert events.pop() == (PING, b"trailing")
    return events, decoder


ACCEPTED: dict[str, tuple[bytes, list[Event]]] = {
    "binary": (masked(BINARY, b"abc"), [(BINARY, b"abc")]),
    "empty binary": (masked(BINARY), [(BINARY, b"")]),
    "empty text": (masked(TEXT), [(TEXT, b"")]),
    "text": (masked(TEXT, "早上好, café 🎐".encode()), [(TEXT, "早上好, café 🎐".encode())]),
    "125 bytes": (masked(BINARY, bytes(125)), [(BINARY, bytes(125))]),
    "126 bytes": (masked(BINARY, bytes(126)), [(BINARY, bytes(126))]),
    "65535 bytes": (masked(BINARY, bytes(65535)), [(BINARY, bytes(65535))]),
    "65536 bytes": (masked(BINARY, bytes(65536)), [(BINARY, bytes(65536))]),
    "exactly the limit": (masked(BINARY, bytes(LIMIT)), [(BINARY, bytes(LIMIT))]),
    "ping": (masked(PING, b"p"), [(PING, b"p")]),
    "pong of 125 bytes": (masked(PONG, bytes(125)), [(PONG, bytes(125))]),
    "empty ping": (masked(PING), [(PING, b"")]),
    "several frames": (
        masked(BINARY, b"1") + masked(TEXT, b"2") + masked(BINARY, b"3") + masked(BINARY),
        [(BINARY, b"1"), (TEXT, b"2"), (BINARY, b"3"), (BINARY, b"")],
    ),
    "fragments": (
        masked(BINARY, b"a", fin=False) + masked(0, b"bcdef", fin=False) + masked(0, b"g"),
        [(BINARY, b"abcdefg")],
    ),
    "fragments with controls between them": (
        masked(TEXT, b"a", fin=False)
        + masked(PING, b"1")
        + masked(0, b"b", fin=False)
        + masked(PONG, b"2")
        + masked(0, b"c")
        + masked(BINARY, b"d"),
        [(PING, b"1"), (PONG, b"2"), (TEXT, b"abc"), (BINARY, b"d")],
    ),
    "empty fragments": (
        masked(TEXT, fin=False) + masked(0, fin=False) + masked(0, b"x", fin=False) + masked(0),
        [(TEXT, b"x")],
    ),
    "a character cut by fragments": (
        masked(TEXT, b"\xf0", fin=False) + masked(0, b"\x9f\x8e", fin=False) + masked(0, b"\x90"),
        [(TEXT, b"\xf0\x9f\x8e\x90")],
    ),
    "fragments that reach the limit": (
        masked(BINARY, bytes(LIMIT - 1), fin=False) + masked(0, b"z"),
        [(BINARY, bytes(LIMIT - 1) + b"z")],
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_legal_frames_come_out_whole(name: str, cutting: str) -> None:
    wire, expected = ACCEPTED[name]
    events, decoder = run(cutting, wire)
    assert events == expected
    assert decoder.error is None
    assert decoder.buffered_bytes == 0


def raw(first: int, second: int, rest: bytes = b"") -> bytes:
    return bytes((first, second)) + rest


OPEN_TEXT = masked(TEXT, b"open", fin=False)
REFUSED: dict[str, tuple[bytes, int]] = {
    "rsv1": (raw(0xC2, 0x80, MASK), 1002),
    "rsv2": (raw(0xA1, 0x80, MASK), 1002),
    "rsv3": (raw(0x92, 0x80, MASK), 1002),
    "rsv1 on a control frame": (raw(0xC9, 0x80, MASK), 1002),
    **{f"opcode {n}": (raw(0x80 | n, 0x80, MASK), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 15)},
    "opcode 3 without fin": (raw(0x03, 0x80, MASK), 1002),
    "unmasked binary": (encode_frame(BINARY, b"abc"), 1002),
    "unmasked binary that looks masked": (raw(0x82, 0x06, bytes(6)), 1002),
    "unmasked ping": (encode_frame(PING, b""), 1002),
    "unmasked long binary": (encode_frame(BINARY, bytes(300)), 1002),
    "ping of 126 bytes": (raw(0x89, 0xFE, b"\x00\x7e" + MASK + bytes(126)), 1002),
    "close with a 64-bit length": (raw(0x88, 0xFF, bytes(7) + b"\x02" + MASK + bytes(2)), 1002),
    "fragmented ping": (raw(0x09, 0x80, MASK), 1002),
    "fragmented close": (raw(0x08, 0x80, MASK), 1002),
    "fragmented ping inside a message": (OPEN_TEXT + raw(0x09, 0x80, MASK), 1002),
    "continuation of nothing": (masked(0, b"x"), 1002),
    "unfinished continuation of nothing": (masked(0, b"x", fin=False), 1002),
    "message inside a message": (OPEN_TEXT + masked(TEXT, b"x"), 1002),
    "fragment inside a message": (OPEN_TEXT + masked(BINARY, b"x", fin=False), 1002),
    "125 in 16 bits": (raw(0x82, 0xFE, b"\x00\x7d" + MASK + bytes(125)), 1002),
    "0 in 16 bits": (raw(0x82, 0xFE, b"\x00\x00" + MASK), 1002),
    "65535 in 64 bits": (raw(0x82, 0xFF, bytes(6) + b"\xff\xff" + MASK), 1002),
    "5 in 64 bits": (raw(0x81, 0xFF, bytes(7) + b"\x05" + MASK + b"abcde"), 1002),
    "length with its top bit set": (raw(0x82, 0xFF, b"\x80" + bytes(7) + MASK), 1002),
    "all length bits": (raw(0x82, 0xFF, b"\xff" * 8 + MASK), 1002),
    "too big": (raw(0x82, 0xFF, (LIMIT + 1).to_bytes(8, "big") + MASK), 1009),
    "far too big": (raw(0x81, 0xFF, b"\x7f" + b"\xff" * 7 + MASK), 1009),
    "fragments too big": (
        masked(BINARY, bytes(LIMIT), fin=False) + raw(0x00, 0x81, MASK + b"z"),
        1009,
    ),
    "close of one byte": (masked(CLOSE, b"\x03"), 1002),
    "close with a bad reason": (masked(CLOSE, b"\x03\xe8\xff"), 1007),
    "close with half a character": (masked(CLOSE, b"\x03\xe8\xe6\x97"), 1007),
    "bad text": (masked(TEXT, b"a\xffb"), 1007),
    "half a character": (masked(TEXT, b"ab\xe6\x97"), 1007),
    "half a character at the end of fragments": (OPEN_TEXT + masked(0, b"\xe6"), 1007),
    "half a character and an empty end": (
        masked(TEXT, b"\xe6", fin=False) + masked(0),
        1007,
    ),
    "a surrogate": (masked(TEXT, b"\xed\xa0\x80"), 1007),
    "a surrogate in fragments": (
        masked(TEXT, b"\xed", fin=False) + masked(0, b"\xa0", fin=False),
        1007,
    ),
    "beyond Unicode in fragments": (
        masked(TEXT, b"\xf4", fin=False) + masked(0, b"\x90", fin=False),
        1007,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_illegal_frames_end_the_stream(name: str, cutting: str) -> None:
    wire, close_code = REFUSED[name]
    before = masked(BINARY, b"before") + masked(TEXT, b"also")
    events, decoder = run(cutting, before + wire)
    assert events == [(BINARY, b"before"), (TEXT, b"also")]
    assert close_code_of(decoder) == close_code
    assert decoder.ended
    assert decoder.buffered_bytes == 0
    assert decoder.feed(MARKER) == []


@pytest.mark.parametrize("name", ["too big", "far too big", "fragments too big"])
def test_size_is_refused_by_the_header_before_any_payload(name: str) -> None:
    wire, _ = REFUSED[name]
    unmasked = 0

    def unmask(data: bytes, mask: bytes) -> bytes:
        nonlocal unmasked
        unmasked += len(data)
        return apply_mask_in_c(data, mask)

    decoder = WebSocketDecoder(LIMIT, unmask=unmask)
    decoder.feed(wire[:-5] if name == "fragments too big" else wire[:-4])  # even without the mask
    assert close_code_of(decoder) == 1009
    assert unmasked == (LIMIT if name == "fragments too big" else 0)


def test_limit_may_be_raised_while_connected() -> None:
    decoder = WebSocketDecoder(1000)
    decoder.max_message_bytes = 2000
    assert decoder.feed(masked(BINARY, bytes(2000))) == [(BINARY, bytes(2000))]
    with pytest.raises(ValueError, match="125"):
        WebSocketDecoder(124)


def test_text_fails_at_its_first_bad_octet() -> None:
    decoder = WebSocketDecoder(LIMIT)
    wire = masked(TEXT, "κόσμε".encode() + b"\xf4\x90\x80\x80" + b"edited")
    fatal = 6 + len("κόσμε".encode()) + 2
    assert decoder.feed(wire[: fatal - 1]) == []
    assert decoder.error is None
    decoder.feed(wire[fatal - 1 : fatal])
    assert close_code_of(decoder) == 1007


def second_octets(lead: int) -> range:
    """The table 3-7 of the Unicode standard, second column; empty for what may not lead."""
    special = {0xE0: range(0xA0, 0xC0), 0xED: range(0x80, 0xA0), 0xF0: range(0x90, 0xC0)}
    if lead in special:
        return special[lead]
    if lead == 0xF4:
        return range(0x80, 0x90)
    return range(0x80, 0xC0) if 0xC2 <= lead <= 0xF4 else range(0)


@pytest.mark.parametrize("lead", range(0x80, 0x100))
def test_text_fails_exactly_when_no_character_can_follow_any_more(lead: int) -> None:
    seconds = second_octets(lead)
    for second in (0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xED, 0xFF):
        decoder = WebSocketDecoder(LIMIT, require_mask=False)
        decoder.feed(b"\x01\x10" + bytes((lead,)))
        assert (decoder.error is None) == bool(seconds)
        decoder.feed(bytes((second,)))
        assert (decoder.error is None) == (second in seconds)


CLOSE_CODES = {
    True: [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999],
    False: [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535],
}


@pytest.mark.parametrize("code", CLOSE_CODES[True])
def test_registered_close_codes_are_accepted(code: int, cutting: str) -> None:
    payload = code.to_bytes(2, "big") + "再见".encode()
    events, decoder = run(cutting, masked(CLOSE, payload))
    assert events == [(CLOSE, payload)]
    assert parse_close(payload) == (code, "再见")
    assert decoder.ended
    assert decoder.error is None


@pytest.mark.parametrize("code", CLOSE_CODES[False])
def test_other_close_codes_are_refused(code: int, cutting: str) -> None:
    events, decoder = run(cutting, masked(CLOSE, code.to_bytes(2, "big")))
    assert events == []
    assert close_code_of(decoder) == 1002


def test_close_without_code_is_legal(cutting: str) -> None:
    events, decoder = run(cutting, masked(CLOSE))
    assert events == [(CLOSE, b"")]
    assert parse_close(b"") == (1005, "")
    assert decoder.ended


@pytest.mark.parametrize("close", [masked(CLOSE), OPEN_TEXT + masked(CLOSE, b"\x03\xe8")])
def test_nothing_after_a_close_frame_is_read(close: bytes) -> None:
    decoder = WebSocketDecoder(LIMIT)
    assert [event[0] for event in decoder.feed(close + masked(BINARY, b"late"))] == [CLOSE]
    assert decoder.feed(b"\xff" * 100) == []
    assert decoder.error is None
    assert decoder.buffered_bytes == 0


def test_a_client_refuses_masked_frames() -> None:
    for frame in (masked(BINARY, b"abc"), masked(PING), masked(BINARY, bytes(300))):
        decoder = WebSocketDecoder(LIMIT, require_mask=False)
        assert decoder.feed(encode_frame(TEXT, b"fine")) == [(TEXT, b"fine")]
        assert decoder.feed(frame) == []
        assert close_code_of(decoder) == 1002


def test_endless_empty_fragments_are_cut_off() -> None:
    decoder = WebSocketDecoder(LIMIT)
    decoder.feed(masked(BINARY, fin=False) + masked(0, fin=False) * (MAX_EMPTY_FRAGMENTS - 1))
    assert decoder.error is None
    assert decoder.buffered_bytes == 0
    decoder.feed(masked(0, fin=False))
    assert close_code_of(decoder) == 1008


def test_errors_are_protocol_errors_with_the_code_for_our_own_clients() -> None:
    codes = {1002: Code.FRAMING, 1007: Code.MALFORMED, 1008: Code.POLICY, 1009: Code.TOO_LARGE}
    for close_code, code in codes.items():
        error: ProtocolError = WebSocketError(close_code, "why")
        assert error.code is code


def test_a_stored_error_keeps_nothing_of_the_call_alive() -> None:
    for wire in (masked(TEXT, b"secret \xff"), masked(CLOSE, b"\x03\xe8secret \xff")):
        decoder = WebSocketDecoder(LIMIT)
        decoder.feed(wire)
        assert decoder.error is not None
        assert decoder.error.__traceback__ is None
        assert decoder.error.__context__ is None
        assert "secret" not in str(decoder.error)


# Cost


def test_an_idle_decoder_is_tiny() -> None:
    wire = masked(BINARY, b"x" * 100)
    fragmented = masked(TEXT, b"a", fin=False) + masked(PING) + masked(0, b"b")
    gc.collect()
    tracemalloc.start()
    try:
        decoders = [WebSocketDecoder(LIMIT, unmask=apply_mask_in_c) for _ in range(500)]
        for decoder in decoders:
            fed(decoder, wire, wire[:50], wire[50:], fragmented[:9], fragmented[9:])
            fed(decoder, wire[:1], wire[1:])
        per_decoder = tracemalloc.get_traced_memory()[0] / len(decoders)
    finally:
        tracemalloc.stop()
    assert per_decoder < 160
    assert sys.getsizeof(decoders[0]) < 120
    assert not hasattr(decoders[0], "__dict__")


def test_work_is_linear_when_a_large_message_trickles_in() -> None:
    unmasked = 0

    def unmask(data: bytes, mask: bytes) -> bytes:
        nonlocal unmasked
        unmasked += len(data)
        return apply_mask_in_c(data, mask)

    payload = "字".encode() * 10_000
    decoder = WebSocketDecoder(LIMIT, unmask=unmask)
    wire = masked(TEXT, payload[:-1], fin=False)
    for count, octet in enumerate(wire, 1):
        assert decoder.feed(bytes((octet,))) == []
        assert decoder.buffered_bytes <= count
    assert decoder.feed(masked(0, payload[-1:])) == [(TEXT, payload)]
    assert unmasked == len(payload)


def test_an_unfinished_control_frame_holds_no_more_than_itself() -> None:
    decoder = WebSocketDecoder(LIMIT)
    frame = masked(PING, bytes(125))
    assert fed(decoder, *one_by_one(frame[:-1])) == []
    assert decoder.buffered_bytes == len(frame) - 1
    assert decoder.feed(frame[-1:]) == [(PING, bytes(125))]


# Properties


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Event], bytes, bool]:
    """Events in the order they complete, their wire form, and whether it is a client's."""
    masks = draw(st.booleans())
    wire, events = bytearray(), []

    def add(opcode: int, payload: bytes, fin: bool = True) -> None:
        mask = draw(st.binary(min_size=4, max_size=4)) if masks else None
        wire.extend(encode_frame(opcode, payload, mask=mask, fin=fin))

    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            opcode, payload = TEXT, draw(st.text(max_size=200)).encode()
        else:
            opcode, payload = BINARY, draw(st.binary(max_size=400))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for index, piece in enumerate(pieces):
            add(0 if index else opcode, piece, index == len(pieces) - 1)
            if index < len(pieces) - 1 and draw(st.booleans()):
                ping = draw(st.binary(max_size=125))
                add(PING, ping)
                events.append((PING, ping))
        events.append((opcode, payload))
    return events, bytes(wire), masks


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 10_000), max_size=30)


@given(conversations(), CUTS)
def test_any_fragmentation_and_any_cutting_gives_the_same_messages(
    conversation: tuple[list[Event], bytes, bool], cuts: list[int]
) -> None:
    events, wire, masks = conversation
    decoder = WebSocketDecoder(LIMIT, require_mask=masks)
    assert fed(decoder, *chunks_of(wire, cuts)) == events
    assert decoder.error is None
    assert decoder.buffered_bytes == 0


HEADERS = st.sampled_from(sorted({wire[:6] for wire, _ in REFUSED.values()} | {masked(TEXT)}))


@given(st.lists(st.one_of(st.binary(max_size=40), HEADERS), max_size=8).map(b"".join), CUTS)
@example(b"\x81\x82" + bytes(4) + b"\xc3\xa9" + b"\x01\x81" + bytes(4) + b"\xed", [9, 14, 15])
def test_random_bytes_end_in_typed_errors_that_cutting_does_not_change(
    wire: bytes, cuts: list[int]
) -> None:
    for require_mask in (True, False):
        at_once = WebSocketDecoder(1000, require_mask=require_mask)
        in_pieces = WebSocketDecoder(1000, require_mask=require_mask)
        assert at_once.feed(wire) == fed(in_pieces, *chunks_of(wire, cuts))
        assert close_code_of(at_once) == close_code_of(in_pieces)
        assert close_code_of(at_once) in (0, 1002, 1007, 1008, 1009)


@given(st.binary(max_size=140), st.binary(min_size=4, max_size=4))
@example(b"p", MASK)
def test_the_short_way_takes_exactly_a_lone_small_frame(payload: bytes, mask: bytes) -> None:
    message = len(payload).to_bytes(4, "big") + payload
    taken = WebSocketDecoder(LIMIT).lone_frame(encode_frame(BINARY, message, mask=mask))
    assert taken == (payload if 0 < len(payload) < 122 else None)


@given(
    st.binary(min_size=1, max_size=40), st.integers(0, 60), st.integers(1, 255), st.integers(0, 60)
)
def test_the_short_way_agrees_with_the_long_one_on_anything_else(
    payload: bytes, at: int, change: int, keep: int
) -> None:
    data = bytearray(encode_frame(BINARY, len(payload).to_bytes(4, "big") + payload, mask=MASK))
    data[at % len(data)] ^= change
    data = data[: max(1, len(data) - keep)]
    taken = WebSocketDecoder(LIMIT).lone_frame(bytes(data))
    if taken is not None:
        inner = len(taken).to_bytes(4, "big") + taken
        assert WebSocketDecoder(LIMIT).feed(bytes(data)) == [(BINARY, inner)]


def test_the_short_way_is_closed_amid_a_message_after_the_end_and_to_unmasked_frames() -> None:
    lone = masked(BINARY, b"\0\0\0\1p")
    amid, ended = WebSocketDecoder(LIMIT), WebSocketDecoder(LIMIT)
    amid.feed(masked(BINARY, b"begun", fin=False))
    ended.feed(masked(CLOSE))
    client = WebSocketDecoder(LIMIT, require_mask=False)
    assert [d.lone_frame(lone) for d in (amid, ended, client)] == [None, None, None]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_both_masking_routines_agree(data: bytes, mask: bytes) -> None:
    assert apply_mask(data, mask) == apply_mask_in_c(data, mask)
    assert apply_mask(apply_mask(data, mask), mask) == data


# Encoding


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_binary_header_is_that_of_the_whole_frame(length: int) -> None:
    payload = bytes(length)
    assert binary_header(length) + payload == encode_frame(BINARY, payload)


def test_illegal_control_frames_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="control"):
        encode_frame(PING, bytes(126))
    with pytest.raises(ValueError, match="control"):
        encode_frame(PING, b"", fin=False)
    for code in (0, 999, 1004, 1006, 1015, 2999, 5000):
        with pytest.raises(ValueError, match="close code"):
            encode_close(code)


def test_a_long_close_reason_is_cut_between_characters() -> None:
    frame = encode_close(1001, "再" * 100)
    assert len(frame) <= 127
    assert parse_close(frame[2:]) == (1001, "再" * 41)
    assert encode_close(1005, "dropped") == b"\x88\x00"


# An independent peer


def peer(side: str) -> Protocol:
    if side == "server":
        return ServerProtocol(state=OPEN, max_size=None)
    return ClientProtocol(parse_uri("ws://peer"), state=OPEN, max_size=None)


def frames_received(protocol: Protocol) -> list[Frame]:
    frames: list[Frame] = []
    for event in protocol.events_received():
        assert not isinstance(event, Request | Response)
        frames.append(event)
    return frames


@pytest.mark.parametrize("side", ["server", "client"])
@given(
    st.lists(
        st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.text(max_size=30)), max_size=8
    )
)
def test_the_websockets_package_reads_what_we_encode(
    side: str, messages: list[tuple[int, str]]
) -> None:
    protocol = peer(side)
    mask = MASK if side == "server" else None
    for opcode, text in messages:
        protocol.receive_data(encode_frame(opcode, text.encode(), mask=mask))
    protocol.receive_data(encode_close(1001, "bye", mask=mask))
    frames = frames_received(protocol)
    assert protocol.parser_exc is None
    sent = [(int(frame.opcode), bytes(frame.data)) for frame in frames[:-1]]
    assert sent == [(opcode, text.encode()) for opcode, text in messages]
    assert protocol.close_rcvd == Close(1001, "bye")


@pytest.mark.parametrize("side", ["server", "client"])
@given(st.lists(st.text(max_size=200), max_size=6), st.integers(0, 70_000), CUTS)
def test_we_read_what_the_websockets_package_encodes(
    side: str, texts: list[str], long: int, cuts: list[int]
) -> None:
    protocol = peer(side)
    for text in texts:
        protocol.send_text(text.encode(), fin=False)
        protocol.send_ping(b"between")
        protocol.send_continuation(b"", fin=False)
        protocol.send_continuation(text.encode(), fin=True)
    protocol.send_binary(bytes(long))
    protocol.send_close(1000, "done")
    wire = b"".join(protocol.data_to_send())
    decoder = WebSocketDecoder(LIMIT, require_mask=side == "client", unmask=apply_mask_in_c)
    events = fed(decoder, *chunks_of(wire, cuts))
    assert decoder.error is None
    expected: list[Event] = []
    for text in texts:
        expected += [(PING, b"between"), (TEXT, text.encode() * 2)]
    assert events == [*expected, (BINARY, bytes(long)), (CLOSE, b"\x03\xe8done")]
