"""Both encodings carry every message, agree with each other, and grow without breaking."""

import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from protocol.codec import CLIENT_FRAMES, CODES, JSON, MSGPACK, NAMES, SERVER_FRAMES, Codec, peek
from protocol.codes import Code
from protocol.envelopes import Frame, Hello, Reply, Request, Send
from protocol.errors import Malformed, UnknownType
from protocol.frames import join_frame
from protocol.replies import REPLIES
from protocol.vectors.samples import fullest, grow, plain_of
from tests.protocol.strategies import messages

SIDES = [("client", cls) for cls in CLIENT_FRAMES] + [("server", cls) for cls in SERVER_FRAMES]
each_message = pytest.mark.parametrize(
    ("side", "cls"), SIDES, ids=[f"{side} {NAMES[cls]}" for side, cls in SIDES]
)
encode = msgspec.msgpack.encode


def decode(codec: Codec, side: str, payload: bytes) -> Any:
    return codec.decode_client(payload) if side == "client" else codec.decode_server(payload)


def payload_of(codec: Codec, message: Frame) -> bytes:
    data = codec.encode(message)
    return data if codec.is_text else data[4:]


def failure(payload: bytes, codec: Codec = MSGPACK) -> Malformed:
    with pytest.raises(Malformed) as caught:
        codec.decode_client(payload)
    return caught.value


@each_message
@given(data=st.data())
def test_round_trip_in_both_encodings(side: str, cls: type[Frame], data: st.DataObject) -> None:
    message = data.draw(messages(cls))
    for codec in (MSGPACK, JSON):
        assert decode(codec, side, payload_of(codec, message)) == message


@each_message
def test_the_frame_is_a_header_and_the_payload(side: str, cls: type[Frame]) -> None:
    message = fullest(cls)
    assert MSGPACK.encode(message) == join_frame(encode(message))
    assert peek(encode(message))[0] == CODES[cls]


@each_message
def test_json_is_an_object_with_the_field_names(side: str, cls: type[Frame]) -> None:
    message = fullest(cls)
    made = json.loads(JSON.encode(message))
    assert made.pop("t") == NAMES[cls]
    present = [name for name in cls.__struct_fields__ if name in made]
    assert list(made) == present
    assert present == list(cls.__struct_fields__)


def test_bytes_are_padded_base64_in_json() -> None:
    hello = fullest(Hello)
    assert json.loads(JSON.encode(hello))["device"] == b64encode(hello.device).decode()


def test_absent_fields_are_left_out_of_json() -> None:
    send = Send(1, 2, bytes(16), 0, "hi")
    assert "x" not in json.loads(JSON.encode(send))


@each_message
@given(data=st.data())
def test_what_a_later_version_adds_is_ignored(
    side: str, cls: type[Frame], data: st.DataObject
) -> None:
    message = data.draw(messages(cls))
    grown = grow(inspect.type_info(cls), plain_of(message))
    assert decode(MSGPACK, side, encode(grown)) == message


@each_message
def test_optional_tails_may_be_missing(side: str, cls: type[Frame]) -> None:
    plain = plain_of(fullest(cls))
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    required = 1 + sum(field.required for field in info.fields)
    for length in range(required, len(plain) + 1):
        message = decode(MSGPACK, side, encode(plain[:length]))
        for field in info.fields[length - 1 :]:
            assert getattr(message, field.name) == field.default
    for length in range(1, required):
        with pytest.raises(Malformed):
            decode(MSGPACK, side, encode(plain[:length]))


def test_unknown_codes_are_told_apart_and_keep_their_rid() -> None:
    known = {CODES[cls] for cls in CLIENT_FRAMES}
    for code in set(range(1, 128)) - known:
        error = failure(encode([code, 4_000_000_000, "more"]))
        assert isinstance(error, UnknownType)
        assert (error.code, error.rid) == (Code.UNKNOWN_TYPE, 4_000_000_000)


@pytest.mark.parametrize("name", ["react", "welcome", "", "SEND"])
def test_unknown_names_are_told_apart_and_keep_their_rid(name: str) -> None:
    error = failure(json.dumps({"t": name, "rid": 12}).encode(), JSON)
    assert isinstance(error, UnknownType)
    assert (error.code, error.rid) == (Code.UNKNOWN_TYPE, 12)


@pytest.mark.parametrize("cls", CLIENT_FRAMES, ids=NAMES.get)
def test_only_a_request_is_answered_under_its_rid(cls: type[Frame]) -> None:
    plain = plain_of(fullest(cls))
    if len(plain) == 2:  # ping and device_list have nothing else that could be wrong
        assert failure(encode([plain[0], -1])).rid == 0
        return
    wrong = [*plain[:2], *[-0.5] * (len(plain) - 2)]  # fits no field
    error = failure(encode(wrong))
    assert error.rid == (plain[1] if issubclass(cls, Request) else 0)


@given(st.binary(max_size=40))
def test_peek_is_safe_on_anything(payload: bytes) -> None:
    code, rid = peek(payload)
    assert 0 <= code <= 127
    assert 0 <= rid < 2**32


@given(st.integers(1, 127), st.integers(0, 2**32 - 1), st.lists(st.integers(), max_size=20))
def test_peek_finds_code_and_rid(code: int, rid: int, rest: list[int]) -> None:
    payload = encode([code, rid, *(number % 2**64 for number in rest)])
    assert peek(payload) == (code, rid)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x90", b"\x92", b"\x92\x05", b"\xdc", b"\xdc\x00", b"\xdc\x00\x02\x05", b"\xc1"],
)
def test_peek_finds_nothing_where_nothing_is(payload: bytes) -> None:
    assert peek(payload) in ((0, 0), (5, 0))


SECRET = "my secret words"


@pytest.mark.parametrize(
    "payload",
    [
        encode([SECRET, 1]),
        encode([20, 1, 2, bytes(16), SECRET, "x"]),
        encode([20, 1, 2, SECRET, 0, "x"]),
        encode([20, 1, 2, bytes(16), 0, "x", {"meta": {SECRET: 1}}]),
        encode([20, 1, 2, bytes(16), 0, "x", {SECRET: 1, "fmt": -1}]),
        b"\x97\x14\x01\x02\xc4\x10" + bytes(16) + b"\x00\xb0" + SECRET.encode() + b"\xff\xc0",
    ],
)
def test_reasons_never_quote_what_was_sent(payload: bytes) -> None:
    error = failure(payload)
    assert SECRET not in error.reason
    assert len(error.reason) <= 128


def test_reasons_never_quote_what_was_sent_in_json() -> None:
    for text in (
        f'{{"t":"{SECRET}","n":1,"t":"ping"}}',
        f'{{"t":"ping","n":"{SECRET}"}}',
        f'{{"t":"ping","n":1}} {SECRET}',
    ):
        assert SECRET not in failure(text.encode(), JSON).reason


def test_reasons_name_the_field() -> None:
    assert "$.n" in failure(b'{"t":"ping","n":-1}', JSON).reason


def test_every_request_has_a_reply() -> None:
    requests = {cls for cls in CLIENT_FRAMES if issubclass(cls, Request)}
    assert set(REPLIES) == requests
    assert set(REPLIES.values()) <= set(SERVER_FRAMES)
    assert all(issubclass(cls, Reply) for cls in REPLIES.values())


def test_requests_and_replies_open_with_the_rid() -> None:
    for cls in NAMES:
        if issubclass(cls, (Request, Reply)):
            assert cls.__struct_fields__[0] == "rid"
        else:
            assert "rid" not in cls.__struct_fields__


def unbounded(kind: inspect.Type, path: str) -> list[str]:
    """The places below a type where a client could send as much, or whatever, it likes."""
    match kind:
        case inspect.Metadata(type=inner):
            return unbounded(inner, path)
        case inspect.BoolType() | inspect.NoneType():
            return []
        case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high):
            return [path] if low is None or high is None else []
        case inspect.StrType(max_length=high) | inspect.BytesType(max_length=high):
            return [path] if high is None else []
        case inspect.UnionType(types=kinds):
            return [found for member in kinds for found in unbounded(member, path)]
        case inspect.ListType(item_type=item, max_length=high):
            return unbounded(item, f"{path}[]") + ([path] if high is None else [])
        case inspect.DictType(key_type=key, value_type=value, max_length=high):
            inner_paths = unbounded(key, f"{path}{{}}") + unbounded(value, f"{path}{{}}")
            return inner_paths + ([path] if high is None else [])
        case inspect.StructType(fields=fields):
            found = [unbounded(field.type, f"{path}.{field.name}") for field in fields]
            return [one for several in found for one in several]
    return [f"{path}: {kind}"]


@pytest.mark.parametrize("cls", CLIENT_FRAMES, ids=NAMES.get)
def test_everything_a_client_may_send_is_typed_and_bounded(cls: type[Frame]) -> None:
    assert unbounded(inspect.type_info(cls), NAMES[cls]) == []


def test_the_check_for_bounds_can_fail() -> None:
    assert unbounded(inspect.type_info(list[str]), "here") == ["here[]", "here"]
    assert unbounded(inspect.type_info(dict[str, Any]), "here")
