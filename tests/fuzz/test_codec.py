"""Random and damaged payloads: a message that survives a round trip, or a typed error."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import CLIENT_FRAMES, CODES, JSON, MSGPACK, NAMES, SERVER_FRAMES, Codec
from protocol.envelopes import Frame
from protocol.errors import Malformed, ProtocolError
from protocol.text import clean_name, clean_text, name_key
from tests.protocol.strategies import messages

SIDES = {"client": CLIENT_FRAMES, "server": SERVER_FRAMES}
CODECS: dict[str, Codec] = {codec.name: codec for codec in (MSGPACK, JSON)}
each_codec = pytest.mark.parametrize("codec_name", CODECS)
each_side = pytest.mark.parametrize("side", SIDES)

numbers = st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=20)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)
values = st.recursive(
    scalars | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)
EXPLOSIVE = [
    0x80,
    0x90,
    0xA0,
    0xC0,
    0xC1,
    0xC4,
    0xC6,
    0xCA,
    0xCB,
    0xCF,
    0xD3,
    0xD9,
    0xDB,
    0xDD,
    0xDF,
]


def check(codec: Codec, side: str, payload: bytes) -> None:
    """Decode; what comes out must be a message that encodes to itself, or a typed error."""
    decode = codec.decode_client if side == "client" else codec.decode_server
    error: Malformed | None = None
    message: Any = None
    try:
        message = decode(payload)
    except Malformed as caught:
        error = caught
    if error is not None:
        assert 0 <= error.rid < 2**32
        assert 0 < len(error.reason) <= 128
        return
    assert type(message) in SIDES[side]
    data = codec.encode(message)
    assert decode(data if codec.is_text else data[4:]) == message


@st.composite
def damaged(draw: st.DrawFn, codec: Codec, classes: tuple[type[Frame], ...]) -> bytes:
    """A valid payload with up to four bytes changed, inserted, removed or the rest cut off."""
    frame = codec.encode(draw(messages(draw(st.sampled_from(classes)))))
    payload = bytearray(frame if codec.is_text else frame[4:])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(payload) - 1)))
        byte = draw(st.integers(0, 255) | st.sampled_from(EXPLOSIVE))
        match draw(st.sampled_from(["change", "insert", "remove", "cut", "repeat"])):
            case "change":
                payload[at : at + 1] = bytes([byte])
            case "insert":
                payload[at:at] = bytes([byte])
            case "remove":
                del payload[at : at + 1]
            case "cut":
                del payload[at:]
            case _:
                payload[at:at] = payload[at : at + 16]
    return bytes(payload)


@each_side
@each_codec
@given(payload=st.binary(max_size=200))
def test_random_bytes(codec_name: str, side: str, payload: bytes) -> None:
    check(CODECS[codec_name], side, payload)


@each_side
@each_codec
@given(data=st.data())
def test_damaged_messages(codec_name: str, side: str, data: st.DataObject) -> None:
    codec = CODECS[codec_name]
    check(codec, side, data.draw(damaged(codec, SIDES[side])))


@each_side
@given(data=st.data())
def test_any_values_behind_a_known_code(side: str, data: st.DataObject) -> None:
    code = CODES[data.draw(st.sampled_from(SIDES[side]))]
    rest = data.draw(st.lists(values, max_size=12))
    check(MSGPACK, side, msgspec.msgpack.encode([code, *rest]))


@each_side
@given(data=st.data())
def test_any_values_under_known_keys(side: str, data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(SIDES[side]))
    names = st.sampled_from([*cls.__struct_fields__, "t", "unknown"])
    fields: dict[str, Any] = data.draw(st.dictionaries(names, json_values, max_size=12))
    check(JSON, side, json.dumps({"t": NAMES[cls], **fields}).encode())


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_is_cleaned_or_refused(raw: str) -> None:
    for clean in (clean_text, lambda text: name_key(clean_name(text, 64))):
        try:
            cleaned = clean(raw)
        except ProtocolError:
            continue
        assert clean(cleaned) == cleaned
