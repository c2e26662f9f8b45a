"""The event-stream parser: cut anywhere, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.transport.sse import EventTooLarge, SseParser


def parse(*reads: bytes, eof: bool = True) -> list[bytes]:
    found: list[bytes] = []
    parser = SseParser()
    for read in reads:
        parser.feed(read, found.append)
    if eof:
        parser.eof(found.append)
    return found


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": comment\n\ndata: a\n\n: more\n\n", [b"a"]),
        (b"event: ping\nid: 7\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"", []),
        (b"\n\n\n", []),
        ("data: 你好\n\n".encode(), ["你好".encode()]),
    ],
)
def test_events_are_the_same_whole_and_bytewise(body: bytes, events: list[bytes]) -> None:
    assert parse(body) == events
    assert parse(*(body[at : at + 1] for at in range(len(body)))) == events


def test_one_event_per_read_is_bounded_as_any_other() -> None:
    found: list[bytes] = []
    parser = SseParser(max_event_bytes=20)
    parser.feed(b"data: fits\n\n", found.append)
    with pytest.raises(EventTooLarge):
        parser.feed(b"data: is longer than that\n\n", found.append)


@given(
    st.lists(st.text(st.characters(blacklist_characters="\r\n", codec="utf-8")), max_size=6),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_characters_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    body = b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)
    places = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    reads = [body[start:end] for start, end in pairwise(places)]
    assert [data.decode() for data in parse(*reads)] == texts


def test_an_event_comes_with_the_byte_that_completes_it() -> None:
    found: list[bytes] = []
    parser = SseParser()
    parser.feed(b"data: a\n", found.append)
    assert found == []
    parser.feed(b"\n", found.append)
    assert found == [b"a"]


@pytest.mark.parametrize("body", [b"x" * 101, b"data: " + b"x" * 96, b"data: x\n" * 20])
def test_an_endless_event_is_refused(body: bytes) -> None:
    parser = SseParser(max_event_bytes=100)
    with pytest.raises(EventTooLarge):
        parser.feed(body, lambda data: None)


def test_a_long_line_in_small_reads_is_read_in_linear_time() -> None:
    found: list[bytes] = []
    parser = SseParser()
    parser.feed(b"data: ", found.append)
    for _ in range(4_000):
        parser.feed(b"x" * 1_000, found.append)
    parser.feed(b"\n\n", found.append)
    assert len(found[0]) == 4_000_000


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_random_bytes_only_make_events(reads: list[bytes]) -> None:
    assert all(isinstance(data, bytes) for data in parse(*reads))
