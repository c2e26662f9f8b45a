"""What hostile payloads cost: docs/protocol.md §15, the rows about decoding."""

import time
import tracemalloc
from typing import Any

import msgspec
import pytest

from protocol.codec import JSON, MSGPACK, Codec
from protocol.codes import Code
from protocol.errors import Malformed, ProtocolError, TooDeep
from protocol.types import MAX_INT

FRAME_BYTES = 64 * 1024
CID = bytes(range(16))
encode = msgspec.msgpack.encode


def array32(count: int, body: bytes = b"") -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + body


def filled(item: bytes, head: bytes) -> bytes:
    """A payload of one whole frame: head, then an array of as many items as fit."""
    count = (FRAME_BYTES - len(head) - 5) // len(item)
    return head + array32(count, item * count)


def peak_bytes(payload: bytes, codec: Codec = MSGPACK) -> int:
    """Most memory that decoding took, beyond the payload itself."""
    tracemalloc.start()
    try:
        codec.decode_client(payload)
    except ProtocolError:
        pass
    finally:
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def test_the_bomb_would_explode_without_types() -> None:
    payload = filled(b"\x80", b"\x93\x05\x01")
    tracemalloc.start()
    bomb = msgspec.msgpack.decode(payload)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(bomb) == 3
    assert peak > 3_000_000


@pytest.mark.parametrize(
    "item", [b"\x80", b"\x90", b"\x00", b"\xa0"], ids=["map", "list", "0", "text"]
)
@pytest.mark.parametrize(
    "head",
    [
        b"\x93\x05\x01",
        b"\x94\x20\x07\x0a",
        b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00",
        b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00\xa1x\x81\xa8mentions",
        b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00\xa1x\x81\xa4meta",
        b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00\xa1x\x81\xa1?",
        b"\x93\x0c\x07\x95\x00\x00",
    ],
    ids=["extra element", "seqs", "text", "mentions", "meta", "unknown key", "heads"],
)
def test_an_allocation_bomb_allocates_nothing(head: bytes, item: bytes) -> None:
    assert peak_bytes(filled(item, head)) < 20_000


def test_list_limits_fire_before_the_items_are_decoded() -> None:
    heads = filled(b"\x92\x01\x01", b"\x93\x0c\x07\x95\x00\x00")
    allowed = b"\x93\x0c\x07\x95\x00\x00" + array32(1000, b"\x92\x01\x01" * 1000) + b"\x90\x00"
    assert MSGPACK.decode_client(allowed).q.heads[999].rev == 1
    assert peak_bytes(heads) < 20_000 < peak_bytes(allowed)


def test_the_dearest_valid_frame_is_bounded() -> None:
    # Wide letters take four bytes each on the wire and in memory.
    meta = {f"{number:02}" + "😀" * 62: "😀" * 256 for number in range(16)}
    payload = encode([20, 7, 10, CID, 0, "😀" * 10_000, {"meta": meta}])
    assert len(payload) <= FRAME_BYTES
    assert MSGPACK.decode_client(payload).x.meta == meta
    assert peak_bytes(payload) < 4 * FRAME_BYTES


JSON_BOMBS = {
    "extra key": ('{"t":"ping","n":1,"z":[', "{}", "]}"),
    "seqs": ('{"t":"get","rid":7,"conv":1,"seqs":[', "1", "]}"),
    "rid": ('{"t":"conv_get","conv":1,"rid":[', "{}", "]}"),
    "rid of an unknown message": ('{"t":"react","conv":1,"rid":[', "[]", "]}"),
    "name": ('{"n":1,"t":[', "{}", "]}"),
    "heads": ('{"t":"sync","rid":7,"q":{"heads":[', '{"conv":1,"rev":1}', "]}}"),
}


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_an_allocation_bomb_in_json_stays_small(name: str) -> None:
    head, item, tail = JSON_BOMBS[name]
    items = ",".join([item] * (FRAME_BYTES // (len(item) + 1)))
    # A list in JSON does not announce its length: its items are decoded first, typed and small.
    assert peak_bytes(f"{head}{items}{tail}".encode(), JSON) < 8 * FRAME_BYTES


# Python 3.11 gives up near 1,000 levels, 3.12 near 10,000.
@pytest.mark.parametrize("depth", [40_000, FRAME_BYTES - 10])
@pytest.mark.parametrize(
    "opening", [b"\x91", b"\x81\xa0", b"\x81\x91"], ids=["lists", "maps", "keys"]
)
def test_deep_nesting_is_told_apart(opening: bytes, depth: int) -> None:
    with pytest.raises(TooDeep) as caught:
        MSGPACK.decode_client(b"\x93\x05\x01" + (opening * depth)[:depth] + b"\x01")
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_in_json_is_told_apart(opening: str) -> None:
    with pytest.raises(TooDeep):
        JSON.decode_client(b'{"t":"ping","n":1,"z":' + opening.encode() * 30_000)


def test_honest_nesting_passes() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert MSGPACK.decode_client(encode([5, 1, deep])).n == 1


def test_decoding_still_works_at_the_bottom_of_a_deep_stack() -> None:
    def descend(levels: int) -> int:
        if levels:
            return descend(levels - 1)
        return int(MSGPACK.decode_client(encode([5, 1])).n)

    assert descend(500) == 1


@pytest.mark.parametrize(
    "lie",
    [
        b"\xdd\xff\xff\xff\xff\x05\x01",
        b"\x92\x05\xdd\xff\xff\xff\xff",
        b"\x93\x05\x01\xdf\xff\xff\xff\xff",
        b"\x93\x05\x01\xc6\xff\xff\xff\xff",
        b"\x93\x05\x01\xc9\xff\xff\xff\xff\x01",
        b"\x94\x20\x07\x0a\xdd\xff\xff\xff\xff\x01",
        b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00\xdb\xff\xff\xff\xff",
        b"\x97\x14\x07\x0a\xc6\xff\xff\xff\xff",
        b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00\xa0\xdf\xff\xff\xff\xff",
    ],
)
def test_lying_lengths_fail_without_allocating(lie: bytes) -> None:
    with pytest.raises(Malformed):
        MSGPACK.decode_client(lie)
    assert peak_bytes(lie) < 10_000


@pytest.mark.parametrize("number", [-1, MAX_INT + 1, 2**63 - 1, 2**64 - 1, -(2**63)])
def test_numbers_outside_the_bounds_are_refused(number: int) -> None:
    with pytest.raises(Malformed):
        MSGPACK.decode_client(encode([5, number]))
    with pytest.raises(Malformed):
        JSON.decode_client(b'{"t":"ping","n":%d}' % number)


@pytest.mark.parametrize("text", ["1" + "0" * 30_000, "-" + "9" * 5_000, "1e400", "0x10", "1_000"])
def test_numbers_that_python_would_take_are_refused(text: str) -> None:
    started = time.process_time()
    with pytest.raises(Malformed):
        JSON.decode_client(f'{{"t":"ping","n":{text}}}'.encode())
    assert time.process_time() - started < 0.05  # int() of 30,000 digits is quadratic


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.1, 2.1])
def test_temperatures_outside_the_bounds_are_refused(number: float) -> None:
    with pytest.raises(Malformed) as caught:
        MSGPACK.decode_client(encode([66, 7, 10, CID, 1, 0, None, {"temperature": number}]))
    assert caught.value.rid == 7


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xbd"]
)
def test_bad_utf8_is_malformed(bad: bytes) -> None:
    packed = bytes([0xA0 + len(bad)]) + bad
    with pytest.raises(Malformed) as caught:
        MSGPACK.decode_client(b"\x97\x14\x07\x0a\xc4\x10" + CID + b"\x00" + packed + b"\xc0")
    assert (caught.value.code, caught.value.rid) == (Code.MALFORMED, 7)
    with pytest.raises(Malformed):
        JSON.decode_client(
            b'{"t":"conv_list","rid":7,"archived":false,"cursor":"' + bad + b'","limit":1}'
        )


def test_a_refusal_is_as_cheap_as_an_acceptance() -> None:
    """A peer must not be able to buy much work with bad frames."""
    payload = encode([20, 7, 10, CID, 0, "x" * 60_000])
    started = time.process_time()
    for _ in range(100):
        with pytest.raises(Malformed):
            MSGPACK.decode_client(payload)
    assert time.process_time() - started < 0.1
