"""The frame cutter: any cutting of the stream gives the same frames, and nothing is hoarded."""

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import Code
from protocol.errors import FrameError, FrameTooLarge
from protocol.frames import HEADER_BYTES, MAX_LENGTH, FrameDecoder, join_frame

LIMIT = 1000
payload_lists = st.lists(st.binary(min_size=1, max_size=60), max_size=8)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(stream)) for place in places} | {len(stream)})
    return [stream[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(payload_lists, st.lists(st.integers(0, 600), max_size=10))
def test_frames_come_out_however_the_stream_is_cut(payloads: list[bytes], at: list[int]) -> None:
    decoder = FrameDecoder(LIMIT)
    stream = b"".join(map(join_frame, payloads))
    assert [one for piece in cut(stream, at) for one in decoder.feed(piece)] == payloads
    assert decoder.error is None
    assert decoder.buffered_bytes == 0


@given(payload_lists)
def test_frames_come_out_byte_by_byte(payloads: list[bytes]) -> None:
    decoder = FrameDecoder(LIMIT)
    stream = b"".join(map(join_frame, payloads))
    assert [one for byte in stream for one in decoder.feed(bytes([byte]))] == payloads


def test_each_frame_comes_out_with_its_last_byte() -> None:
    decoder = FrameDecoder(LIMIT)
    frame = join_frame(b"hello")
    assert decoder.feed(frame[:-1]) == []
    assert decoder.feed(frame[-1:] + frame) == [b"hello", b"hello"]


def test_an_unfinished_frame_is_all_that_is_held() -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(join_frame(b"x" * 500) + join_frame(b"y" * 500)[:100])
    assert decoder.buffered_bytes == 100
    decoder.feed(join_frame(b"y" * 500)[100:])
    assert decoder.buffered_bytes == 0


def test_nothing_in_nothing_out() -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(b"") == []
    assert decoder.buffered_bytes == 0


@pytest.mark.parametrize("size", [1, LIMIT])
def test_sizes_up_to_the_limit_pass(size: int) -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(join_frame(b"x" * size)) == [b"x" * size]


@pytest.mark.parametrize("size", [LIMIT + 1, MAX_LENGTH])
def test_an_oversized_frame_is_refused_by_its_header(size: int) -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(size.to_bytes(HEADER_BYTES, "big")) == []
    assert isinstance(decoder.error, FrameTooLarge)
    assert decoder.error.code is Code.TOO_LARGE


def test_nothing_of_an_oversized_frame_is_kept() -> None:
    decoder = FrameDecoder(LIMIT)
    body = b"x" * 1_000_000
    tracemalloc.start()
    decoder.feed(b"\x00\x00")
    decoder.feed(b"\xff\xff" + body)
    for _ in range(10):
        decoder.feed(body)
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoder.buffered_bytes == 0
    assert held < 10_000


@pytest.mark.parametrize("word", [0, 0x01000001, 0x02000001, 0x80000001, 0xFFFFFFFF])
def test_reserved_flags_and_empty_frames_are_refused(word: int) -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(word.to_bytes(HEADER_BYTES, "big") + b"x") == []
    assert type(decoder.error) is FrameError
    assert decoder.error.code is Code.FRAMING


def test_frames_before_a_broken_one_are_not_lost() -> None:
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(join_frame(b"good") + bytes(4) + join_frame(b"never")) == [b"good"]
    assert decoder.error is not None


@pytest.mark.parametrize("held", [b"", b"\x00\x00"])
def test_a_broken_stream_stays_broken(held: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(held)
    decoder.feed(bytes(4))
    broken = decoder.error
    assert broken is not None
    assert decoder.feed(join_frame(b"good")) == []
    assert decoder.error is broken
    assert decoder.buffered_bytes == 0


def test_the_limit_may_be_raised_between_frames() -> None:
    decoder = FrameDecoder(10)
    assert decoder.feed(join_frame(b"x" * 10)) == [b"x" * 10]
    decoder.max_payload_bytes = LIMIT
    assert decoder.feed(join_frame(b"x" * LIMIT)) == [b"x" * LIMIT]


def bytewise_cost_s(size: int) -> float:
    """CPU time of one frame of this size that arrives byte by byte; the best of three."""
    pieces = [bytes([byte]) for byte in join_frame(b"x" * size)]
    best = float("inf")
    for _ in range(3):
        decoder = FrameDecoder(size)
        started = time.process_time()
        for piece in pieces:
            decoder.feed(piece)
        best = min(best, time.process_time() - started)
    return best


def test_a_frame_that_trickles_in_costs_linear_time() -> None:
    small, large = bytewise_cost_s(16_000), bytewise_cost_s(128_000)
    assert large < 24 * small  # eight times the bytes; a quadratic cost would be 64 times
