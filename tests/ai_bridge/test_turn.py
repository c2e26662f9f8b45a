"""The text of a turn: kept once, bounded, read by byte offset without splitting a character."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.run import TurnRun
from ai_bridge.turn import Turn
from ai_bridge.watchdog import Deadlines, is_loop
from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason, StreamPart
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Clock, Watcher, request

ANSWER = StreamPart.ANSWER


@given(st.lists(st.text(max_size=12), max_size=8), st.integers(-5, 200))
def test_reading_from_any_offset_continues_what_came_before(pieces: list[str], offset: int) -> None:
    turn = Turn(request(1))
    for piece in pieces:
        assert turn.append(ANSWER, piece)
    data = "".join(pieces).encode()
    start, rest = turn.text_from(ANSWER, offset)
    assert start <= max(0, offset)
    assert max(0, min(offset, len(data))) - start < 4
    assert data[:start] + rest.encode() == data
    assert turn.size() == len(data)
    assert turn.crc() == crc32(data)
    assert turn.text() == "".join(pieces)


@given(st.text(max_size=60), st.integers(0, 200), st.integers(4, 20))
def test_pieces_laid_side_by_side_are_the_text(text: str, offset: int, max_bytes: int) -> None:
    turn = Turn(request(1))
    turn.append(ANSWER, text)
    data = text.encode()
    begin, end, read = *turn.text_from(ANSWER, offset), b""
    at = offset
    while at < turn.size():
        start, piece, at = turn.piece(ANSWER, at, max_bytes)
        assert start == begin + len(read)
        assert len(piece.encode()) <= max_bytes + 3
        read += piece.encode()
    assert read == end.encode() == data[begin:]


@given(st.text(min_size=1, max_size=40), st.integers(0, 60))
def test_the_bound_never_splits_a_character(text: str, bound: int) -> None:
    turn = Turn(request(1), max_bytes=bound)
    fits = turn.append(ANSWER, text)
    assert turn.size() <= bound
    assert fits == (len(text.encode()) <= bound)
    assert text.startswith(turn.text())
    assert turn.crc() == crc32(turn.text().encode())


def test_the_parts_are_apart() -> None:
    turn = Turn(request(1))
    turn.append(ANSWER, "a")
    turn.append(StreamPart.REASONING, "bb")
    assert [turn.size(part) for part in StreamPart] == [1, 2, 0]


def test_half_a_character_is_left_out() -> None:
    turn = Turn(request(1))
    turn.append(ANSWER, "a\ud83db")
    assert turn.text() == "ab"


async def test_an_answer_ends_with_length_at_the_bound(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="tokens=60000")
    outcome = await watcher.end()
    assert (outcome.reason, outcome.code) == (EndReason.LENGTH, None)
    assert turn.size() == 256 * 1024
    assert outcome.attempts == 1


def test_a_watcher_is_told_the_end_once() -> None:
    watcher = Watcher()
    run = TurnRun(
        Turn(request(1)),
        watcher,
        clock=Clock(),
        deadlines=Deadlines(1, 1, 1),
        on_watcher_error=lambda: None,
    )
    run.text("x")
    run.end(run.outcome(EndReason.STOP))
    run.end(run.outcome(EndReason.CANCELLED))
    assert [outcome.reason for outcome in watcher.outcomes] == [EndReason.STOP]
    assert watcher.changes == 1  # what was not flushed is told before the end


def test_loops_are_told_from_ordinary_text() -> None:
    assert is_loop("I start well. " + "and then the wheel went round again " * 9)
    assert is_loop("哈" * 300)
    assert is_loop("let me think about this. wait, " * 10)
    assert not is_loop("and then the wheel went round again " * 7)
    assert not is_loop("-" * 2000)
    assert not is_loop("| a | b |\n" + "|---|---|\n")
    assert not is_loop(" ".join(str(number) for number in range(600)))
    assert not is_loop("")
    assert not is_loop("short")
