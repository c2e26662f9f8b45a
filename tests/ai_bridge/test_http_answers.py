"""A turn's text on its way into an HTTP response: slow, silent and vanished readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiohttp import web

from ai_bridge.http.answers import (
    COMMENT_S,
    PULSE_S,
    STALL_S,
    Pulse,
    StreamedAnswer,
    WholeAnswer,
)
from ai_bridge.http.hosts import is_local_name
from ai_bridge.http.openai_shapes import Completion
from ai_bridge.http.problems import Problem
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome, PersonaSpec, TurnRequest
from protocol.codes import Code, EndReason, StreamPart
from tests.support.eventually import eventually


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def abort(self) -> None:
        self.aborted = True


class FakeProtocol:
    def __init__(self) -> None:
        self.transport: FakeTransport | None = FakeTransport()
        self.writing_paused = False


class FakeRequest:
    def __init__(self) -> None:
        self.protocol = FakeProtocol()

    @property
    def transport(self) -> FakeTransport | None:
        return self.protocol.transport


class FakeResponse:
    """Says that it is prepared."""

    chunked = True

    async def prepare(self, request: object) -> FakeResponse:
        return self


class FakePulse:
    """A clock that tests move."""

    now = 100.0


class Reader:
    """One streamed answer with everything around it faked but the turn."""

    def __init__(self) -> None:
        self.request = FakeRequest()
        self.wire = cast(FakeTransport, self.request.protocol.transport)
        self.pulse = FakePulse()
        self.stops = 0
        self.answer = StreamedAnswer(
            cast(web.Request, self.request),
            Completion(1, "ada", 0, False),
            cast(Pulse, self.pulse),
            asyncio.get_running_loop(),
        )
        self.answer.cancel = self._stop
        self.turn = Turn(
            TurnRequest(turn_id=1, tenant=1, user=1, conv=0, persona=PersonaSpec(1, ""), history=())
        )

    def _stop(self) -> None:
        self.stops += 1

    def say(self, text: str) -> None:
        self.turn.append(StreamPart.ANSWER, text)
        self.answer.turn_changed(self.turn)

    def end(self, reason: EndReason = EndReason.STOP, **fields: Any) -> None:
        self.answer.turn_ended(self.turn, Outcome(reason=reason, **fields))

    def beat(self, after_s: float = PULSE_S) -> None:
        self.pulse.now += after_s
        self.answer.beat(self.pulse.now)

    async def open(self) -> asyncio.Task[None]:
        """Begin to send; return the task that ends with the last byte."""
        await self.answer.begun()
        task = asyncio.create_task(self.answer.send(cast(web.StreamResponse, FakeResponse())))
        await asyncio.sleep(0)
        return task

    def pieces(self) -> list[str]:
        """Return the texts of the chunks written so far."""
        found = []
        for line in self.wire.written.decode().split("\n"):
            if line.startswith("data: {"):
                delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
                found.append(delta.get("content") or "")
        return found


@pytest.fixture
async def reader() -> Reader:
    return Reader()


async def test_each_change_is_one_write(reader: Reader) -> None:
    reader.say("one ")
    sending = await reader.open()
    before = reader.wire.writes
    for number in range(10):
        reader.say(f"{number} ")
    assert reader.wire.writes == before + 10
    reader.end()
    await sending
    assert reader.wire.writes == before + 11, "the end mark goes with the last chunk"
    assert "".join(reader.pieces()) == "one 0 1 2 3 4 5 6 7 8 9 "


async def test_a_slow_reader_is_sent_the_rest_in_one_piece(reader: Reader) -> None:
    reader.say("begin ")
    sending = await reader.open()
    reader.request.protocol.writing_paused = True
    written = len(reader.wire.written)
    for number in range(1000):
        reader.say(f"{number} ")
    reader.beat()
    assert len(reader.wire.written) == written, "nothing queues"
    reader.request.protocol.writing_paused = False
    reader.beat()
    assert reader.pieces()[-1] == "".join(f"{number} " for number in range(1000))
    reader.say("end")
    reader.end()
    await sending
    assert "".join(reader.pieces()) == reader.turn.text()
    assert reader.stops == 0


async def test_who_waits_reads_the_place_in_the_queue_between_the_events(reader: Reader) -> None:
    reader.answer.turn_queued(reader.turn, 3)
    reader.beat(COMMENT_S)
    sending = await reader.open()
    assert reader.wire.written.endswith(b": place 3 in the queue\n\n\r\n")
    reader.answer.turn_queued(reader.turn, 2)
    assert reader.wire.written.endswith(b": place 2 in the queue\n\n\r\n")
    reader.beat(COMMENT_S)
    assert reader.wire.written.count(b": place 2 ") == 2, "in the place of the keep-alive"
    reader.answer.turn_started(reader.turn)
    reader.beat(COMMENT_S)
    assert reader.wire.written.endswith(b": keep-alive\n\n\r\n")
    before = reader.wire.writes
    reader.answer.turn_queued(reader.turn, 0)
    reader.request.protocol.writing_paused = True
    reader.say("Hi")
    reader.answer.turn_queued(reader.turn, 1)
    assert reader.wire.writes == before, "nothing for a reader that is behind"
    reader.request.protocol.writing_paused = False
    reader.end()
    await sending
    assert "".join(reader.pieces()) == "Hi"


async def test_the_end_reaches_a_slow_reader_after_the_text(reader: Reader) -> None:
    reader.say("begin ")
    sending = await reader.open()
    reader.request.protocol.writing_paused = True
    reader.say("more")
    reader.end()
    assert not sending.done()
    reader.request.protocol.writing_paused = False
    reader.beat()
    await sending
    assert "".join(reader.pieces()) == "begin more"
    assert reader.wire.written.endswith(b"data: [DONE]\n\n\r\n")


async def test_a_reader_that_takes_nothing_is_dropped(reader: Reader) -> None:
    reader.say("begin ")
    sending = await reader.open()
    reader.request.protocol.writing_paused = True
    reader.say("more")
    reader.beat(STALL_S)
    assert (reader.wire.aborted, reader.stops) == (False, 0)
    reader.beat()
    assert (reader.wire.aborted, reader.stops) == (True, 1)
    await sending


async def test_a_reader_that_left_stops_the_turn(reader: Reader) -> None:
    reader.say("begin ")
    sending = await reader.open()
    reader.request.protocol.transport = None
    reader.beat()
    assert reader.stops == 1
    await sending
    reader.say("nobody reads this")
    reader.end(EndReason.CANCELLED)


async def test_a_turn_that_is_over_is_not_stopped(reader: Reader) -> None:
    reader.say("begin ")
    sending = await reader.open()
    reader.end()
    await sending
    reader.request.protocol.transport = None
    reader.beat()
    assert reader.stops == 0


async def test_silence_is_filled_with_a_comment(reader: Reader) -> None:
    reader.say("begin ")
    sending = await reader.open()
    reader.beat(COMMENT_S - 1)
    assert b": keep-alive" not in reader.wire.written
    reader.beat(1)
    assert reader.wire.written.count(b": keep-alive\n\n") == 1
    reader.beat(1)
    assert reader.wire.written.count(b": keep-alive\n\n") == 1
    reader.end()
    await sending


async def test_a_long_wait_for_the_first_word_opens_the_stream(reader: Reader) -> None:
    waiting = asyncio.create_task(reader.answer.begun())
    await asyncio.sleep(0)
    reader.beat(COMMENT_S - 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    reader.beat(1)
    await waiting
    sending = await reader.open()
    assert b'"role":"assistant"' in reader.wire.written
    reader.end(EndReason.ERROR, code=Code.MODEL_UNAVAILABLE, error="Ask again.")
    await sending
    assert b'data: {"error":{"message":"Ask again."' in reader.wire.written
    assert b"[DONE]" not in reader.wire.written


async def test_a_failure_before_the_first_word_is_raised(reader: Reader) -> None:
    reader.end(EndReason.ERROR, code=Code.BUSY, error="Ask again.", retry_ms=1500)
    with pytest.raises(Problem) as caught:
        await reader.answer.begun()
    assert (caught.value.status, caught.value.retry_ms) == (503, 1500)
    assert reader.wire.written == b""


async def test_a_failure_after_the_first_word_keeps_the_text(reader: Reader) -> None:
    reader.say("half")
    reader.end(EndReason.ERROR, code=Code.MODEL_UNAVAILABLE, error="Ask again.")
    sending = await reader.open()
    await sending
    assert b'"content":"half"' in reader.wire.written
    assert b'data: {"error":' in reader.wire.written


async def test_chinese_text_is_never_cut_inside_a_character(reader: Reader) -> None:
    reader.say("今")
    sending = await reader.open()
    for character in "天的风很轻😀":
        reader.say(character)
    reader.end()
    await sending
    assert "".join(reader.pieces()) == "今天的风很轻😀"


async def test_one_that_fails_does_not_stop_the_others() -> None:
    beats: list[str] = []

    class Member:
        def __init__(self, beat: Callable[[], None]) -> None:
            self._beat = beat

        def beat(self, now: float) -> None:
            self._beat()

    def fail() -> None:
        raise RuntimeError("broken")

    pulse = Pulse(asyncio.get_running_loop())
    members = [Member(fail), Member(lambda: beats.append("alive"))]
    for member in members:
        pulse.add(member)
    await eventually(lambda: beats)
    for member in members:
        pulse.discard(member)
        pulse.discard(member)
    assert len(pulse) == 0


async def test_a_whole_answer_is_stopped_when_its_reader_left() -> None:
    request = FakeRequest()
    whole = WholeAnswer(cast(web.Request, request), asyncio.get_running_loop())
    stops: list[bool] = []
    whole.cancel = lambda: stops.append(True)
    whole.beat(0)
    assert not stops
    request.protocol.transport = None
    whole.beat(0)
    assert stops


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("localhost:8420", True),
        ("127.0.0.1:8420", True),
        ("127.9.9.9", True),
        ("[::1]:8420", True),
        ("::1", True),
        ("example.com:8420", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com:80", False),
        ("[2001:db8::1]:80", False),
        ("", False),
    ],
)
def test_names_of_this_machine_are_known(host: str, local: bool) -> None:
    assert is_local_name(host) is local
