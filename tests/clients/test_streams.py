"""Answers put together by byte offset."""

from __future__ import annotations

import random
import zlib

from clients import events as ev
from clients.streams import STREAMS_MAX, OpenWanted, Streams
from protocol import envelopes as e
from protocol.codes import EndReason, StreamState
from protocol.rows import Msg, MsgX, StreamPos

TEXT = "Grüße, 你好，a story 🦊 of waves"


def started() -> Streams:
    streams = Streams()
    streams.start(e.StreamStart(9, 5, 7, 1, 0, 1))
    return streams


def end(text: str, crc: int | None = None, rev: int = 4) -> e.StreamEnd:
    octets = text.encode()
    return e.StreamEnd(9, 5, 0, rev, 2, 0, len(octets), zlib.crc32(octets) if crc is None else crc)


def test_text_arrives_whole_however_it_is_cut_repeated_and_overlapped() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        streams = started()
        at = 0
        while streams.running[9].text() != TEXT:
            begin = rng.randint(0, at)
            upto = rng.randint(begin, len(TEXT))
            off = len(TEXT[:begin].encode())
            streams.delta(e.StreamDelta(9, 0, off, TEXT[begin:upto]))
            at = max(at, upto)
        assert streams.wanted == []
        _, push, missing = streams.end(end(TEXT))
        assert push is not None
        assert (push.text, push.seq, missing) == (TEXT, 2, False)


def test_missing_text_is_asked_for_once_from_where_it_is_missing() -> None:
    streams = started()
    streams.delta(e.StreamDelta(9, 0, 0, "你"))
    streams.delta(e.StreamDelta(9, 0, 9, "far"))
    streams.delta(e.StreamDelta(9, 0, 12, "farther"))
    assert streams.wanted == [OpenWanted(9, 0, 3)]
    streams.opened(e.Opened(1, 9, 5, 1, 0, 3, "好啊farther", 16))
    assert streams.running[9].text() == "你好啊farther"


def test_parts_do_not_mix() -> None:
    streams = started()
    streams.delta(e.StreamDelta(9, 1, 0, "hm"))
    streams.delta(e.StreamDelta(9, 0, 0, "answer"))
    assert (streams.running[9].text(0), streams.running[9].text(1)) == ("answer", "hm")


def test_end_that_does_not_fit_what_arrived_asks_for_the_message() -> None:
    streams = started()
    streams.delta(e.StreamDelta(9, 0, 0, "other text"))
    assert streams.end(end("right text"))[1:] == (None, True)
    short = started()
    short.delta(e.StreamDelta(9, 0, 0, "half"))
    assert short.end(end("half and half"))[1:] == (None, True)


def test_end_without_a_message_stands_for_none() -> None:
    streams = started()
    events, push, missing = streams.end(end("", rev=0))
    assert (push, missing) == (None, False)
    assert events == [ev.StreamEnded(9, 5, 2, EndReason.STOP)]


def test_text_that_is_taken_back_is_known_no_more() -> None:
    streams = started()
    streams.delta(e.StreamDelta(9, 0, 0, "bad words"))
    taken_back = e.StreamEnd(9, 5, 3, 0, 0, 2, 0, 0, [7, 3], 601, "Ask in other words.")
    events, push, missing = streams.end(taken_back)
    assert (push, missing) == (None, False)
    assert events == [ev.StreamEnded(9, 5, 0, EndReason.FILTERED, 601, "Ask in other words.")]
    assert streams.of(5) == []


def test_an_answer_that_a_service_filtered_keeps_its_stored_beginning() -> None:
    streams = started()
    streams.delta(e.StreamDelta(9, 0, 0, "half"))
    octets = b"half"
    filtered = e.StreamEnd(9, 5, 3, 4, 2, 0, len(octets), zlib.crc32(octets))
    events, push, _ = streams.end(filtered)
    assert push is not None
    assert push.text == "half"
    assert events == [ev.StreamEnded(9, 5, 2, EndReason.FILTERED, text="half")]


def test_stream_that_is_not_running_any_more_has_ended_while_away() -> None:
    streams = started()
    streams.delta(e.StreamDelta(9, 0, 0, "half"))
    assert streams.positions() == [StreamPos(9, 5, 7, 0, 4)]
    streams.start(e.StreamStart(10, 5, 7, 3, 0, 1))  # began after the question was asked
    events = streams.resume([])
    assert events == [ev.StreamEnded(9, 5, 0, None, text="half")]
    assert list(streams.running) == [10]


def test_stream_of_another_device_is_joined_from_its_beginning() -> None:
    streams = Streams()
    streams.positions()
    assert streams.resume([StreamPos(9, 5, 7, 0, 40)]) == [ev.StreamStarted(9, 5, 7, 0)]
    assert streams.positions() == [StreamPos(9, 5, 7, 0, 0)]


def test_stored_message_ends_its_stream() -> None:
    streams = started()
    row = Msg(2, 4, 0, 7, 6, "text", MsgX(sid=9, finish=2))
    ended = ev.StreamEnded(9, 5, 2, EndReason.CANCELLED, text="text")
    assert streams.stored(5, row) == [ended]
    assert streams.stored(5, row) == []


def test_number_of_streams_followed_is_bounded() -> None:
    streams = Streams()
    for sid in range(1, STREAMS_MAX + 3):
        streams.start(e.StreamStart(sid, 5, 7, 1, 0, 1))
    assert len(streams.running) == STREAMS_MAX
    assert streams.dropped == 2


def test_place_in_the_queue_is_told_once_per_change_and_ends_with_the_waiting() -> None:
    streams = Streams()
    streams.start(e.StreamStart(9, 5, 7, 1, 0, 0))
    stream = streams.running[9]
    assert streams.queued(e.StreamQueued(9, 5, 3)) == [ev.StreamMoved(9, 5, 3)]
    assert streams.queued(e.StreamQueued(9, 5, 3)) == []
    assert (stream.state, stream.place) == (StreamState.QUEUED, 3)
    assert streams.queued(e.StreamQueued(9, 5, 0)) == [ev.StreamMoved(9, 5, 0)]
    assert (stream.state, stream.place) == (StreamState.RUNNING, 0)
    streams.queued(e.StreamQueued(9, 5, 2))
    streams.delta(e.StreamDelta(9, 0, 0, "Hi"))
    assert (stream.state, stream.place) == (StreamState.RUNNING, 0)
    assert streams.queued(e.StreamQueued(10, 5, 2)) == [], "a stream that nobody knows"


def test_who_comes_later_learns_the_place_from_the_list_and_the_text() -> None:
    streams = Streams()
    assert streams.join([StreamPos(9, 5, 7, 0, 0, 4)]) == [
        ev.StreamStarted(9, 5, 7, 0),
        ev.StreamMoved(9, 5, 4),
    ]
    assert streams.running[9].state is StreamState.QUEUED
    assert streams.opened(e.Opened(1, 9, 5, 0, 0, 0, "", 0, 3)) == [ev.StreamMoved(9, 5, 3)]
    assert streams.running[9].state is StreamState.QUEUED
    assert streams.join([StreamPos(9, 5, 7, 0, 0)]) == [ev.StreamMoved(9, 5, 0)]
