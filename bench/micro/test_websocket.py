"""What a WebSocket frame costs: `pytest bench/micro/test_websocket.py`.

The extra column `ns_per_frame` divides by the frames in one read, which the table cannot.
"""

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from websockets.speedups import apply_mask as apply_mask_in_c

from protocol.handshake import OriginPolicy, accept_upgrade
from protocol.http_head import HeadReader, parse_request
from protocol.websocket import (
    BINARY,
    TEXT,
    Masker,
    WebSocketDecoder,
    apply_mask,
    binary_header,
    encode_frame,
)

MASKERS = {"C unmasking": apply_mask_in_c, "Python unmasking": apply_mask}
LIMIT = 1 << 20


@pytest.fixture(params=MASKERS)
def masker(request: pytest.FixtureRequest) -> Masker:
    return MASKERS[request.param]


@pytest.mark.parametrize("frames", [1, 32])
@pytest.mark.parametrize("size", [100, 200, 4096])
def test_decode_whole_frames(
    benchmark: BenchmarkFixture, masker: Masker, size: int, frames: int
) -> None:
    decoder = WebSocketDecoder(LIMIT, unmask=masker)
    payload = os.urandom(size)
    read = encode_frame(BINARY, payload, mask=os.urandom(4)) * frames
    events = benchmark(decoder.feed, read)
    assert events == [(BINARY, payload)] * frames
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["ns_per_frame"] = benchmark.stats.stats.median / frames * 1e9


@pytest.mark.parametrize("text", ["a" * 100, "早" * 33], ids=["ascii", "chinese"])
def test_decode_text(benchmark: BenchmarkFixture, masker: Masker, text: str) -> None:
    decoder = WebSocketDecoder(LIMIT, unmask=masker)
    read = encode_frame(TEXT, text.encode(), mask=os.urandom(4))
    assert benchmark(decoder.feed, read) == [(TEXT, text.encode())]


def test_decode_a_frame_cut_in_two(benchmark: BenchmarkFixture, masker: Masker) -> None:
    decoder = WebSocketDecoder(LIMIT, unmask=masker)
    payload = os.urandom(100)
    read = encode_frame(BINARY, payload, mask=os.urandom(4))
    first, second = read[:50], read[50:]

    def feed_both() -> object:
        decoder.feed(first)
        return decoder.feed(second)

    assert benchmark(feed_both) == [(BINARY, payload)]


def test_decode_as_a_client(benchmark: BenchmarkFixture) -> None:
    decoder = WebSocketDecoder(LIMIT, require_mask=False)
    payload = os.urandom(100)
    assert benchmark(decoder.feed, encode_frame(BINARY, payload)) == [(BINARY, payload)]


def test_header_of_a_tick(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(binary_header, 1000)) == 4


def test_upgrade(benchmark: BenchmarkFixture) -> None:
    request = (
        b"GET /ws HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Origin: https://chat.example\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Protocol: pwp1.msgpack, pwp1.json\r\n\r\n"
    )
    origins = OriginPolicy()

    def upgrade() -> str | None:
        reader = HeadReader()
        reader.feed(request)
        parsed = parse_request(reader.head)
        return accept_upgrade(parsed, subprotocols=("pwp1.msgpack",), origins=origins).subprotocol

    assert benchmark(upgrade) == "pwp1.msgpack"
