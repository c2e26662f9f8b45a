"""Random byte streams through the frame cutter, against a slow and obvious one."""

from hypothesis import example, given
from hypothesis import strategies as st

from protocol.codes import Code
from protocol.frames import HEADER_BYTES, MAX_LENGTH, FrameDecoder

headers = st.integers(0, 40).map(lambda size: size.to_bytes(HEADER_BYTES, "big"))
streams = st.lists(st.binary(max_size=30) | headers, max_size=20).map(b"".join)


def cut_slowly(stream: bytes, limit: int) -> tuple[list[bytes], Code | None, int]:
    """Return the payloads, the error, and how many bytes of an unfinished frame are left."""
    payloads: list[bytes] = []
    while len(stream) >= HEADER_BYTES:
        word = int.from_bytes(stream[:HEADER_BYTES], "big")
        if word > MAX_LENGTH or word == 0:
            return payloads, Code.FRAMING, 0
        if word > limit:
            return payloads, Code.TOO_LARGE, 0
        if len(stream) < HEADER_BYTES + word:
            break
        payloads.append(stream[HEADER_BYTES : HEADER_BYTES + word])
        stream = stream[HEADER_BYTES + word :]
    return payloads, None, len(stream)


@given(streams, st.lists(st.integers(0, 200), max_size=12), st.integers(1, 64))
@example(b"\x00\x00\x00\x01a\x00\x00\x00", [5, 6, 7], 1)
@example(b"\x00\x00\x00\x20" + bytes(32), [], 1)  # a lone small frame above a smaller limit
def test_any_stream_in_any_pieces(stream: bytes, places: list[int], limit: int) -> None:
    decoder = FrameDecoder(limit)
    ends = sorted({min(place, len(stream)) for place in places} | {len(stream)})
    payloads: list[bytes] = []
    for begin, end in zip([0, *ends], ends, strict=False):
        lone = decoder.lone(stream[begin:end])
        payloads += decoder.feed(stream[begin:end]) if lone is None else [lone]
        assert decoder.buffered_bytes < HEADER_BYTES + limit
    code = None if decoder.error is None else decoder.error.code
    assert (payloads, code, decoder.buffered_bytes) == cut_slowly(stream, limit)
