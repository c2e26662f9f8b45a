"""Named requests: done once, told again, bounded in number, size and time."""

import asyncio

import pytest
from aiohttp import web

from protocol.codes import Code
from server.errors import ServiceError
from server.http.repeats import CAPACITY, KEEP_S, MAX_BYTES, Repeats


class Work:
    """Counts how often it is done; answers its own number, or as it is told."""

    def __init__(self) -> None:
        self.done = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: web.StreamResponse | Exception | None = None

    async def __call__(self) -> web.StreamResponse:
        self.done += 1
        number = self.done
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or web.Response(status=201, text=str(number))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text_of(response: web.StreamResponse) -> str:
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response.body.decode()


async def test_a_repeat_is_told_what_the_first_one_did_until_it_is_forgotten() -> None:
    clock, work = Clock(), Work()
    repeats = Repeats(clock)
    first = await repeats.once(b"a", b"", work)
    clock.now = KEEP_S - 1
    again = await repeats.once(b"a", b"", work)
    assert (text_of(first), text_of(again), again.status) == ("1", "1", 201)
    assert repeats.repeated == 1
    clock.now = KEEP_S + 1
    assert text_of(await repeats.once(b"a", b"", work)) == "2"


async def test_repeats_that_meet_wait_for_one_piece_of_work() -> None:
    work, repeats = Work(), Repeats()
    work.gate.clear()
    asked = [asyncio.create_task(repeats.once(b"a", b"", work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.gate.set()
    assert {text_of(one) for one in await asyncio.gather(*asked)} == {"1"}
    assert (work.done, repeats.repeated) == (1, 4)


async def test_after_a_failure_only_one_of_those_that_wait_tries_again() -> None:
    work, repeats = Work(), Repeats()
    work.gate.clear()
    work.answer = ServiceError(Code.BUSY, "busy")
    asked = [asyncio.create_task(repeats.once(b"a", b"", work)) for _ in range(4)]
    await asyncio.sleep(0)
    work.gate.set()
    with pytest.raises(ServiceError):
        await asked[0]
    work.answer = None
    assert {text_of(one) for one in await asyncio.gather(*asked[1:])} == {"2"}
    assert work.done == 2


async def test_who_leaves_takes_nothing_from_those_that_wait() -> None:
    work, repeats = Work(), Repeats()
    work.gate.clear()
    first = asyncio.create_task(repeats.once(b"a", b"", work))
    waiting = asyncio.create_task(repeats.once(b"a", b"", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert text_of(await waiting) == "2"


async def test_another_request_under_the_same_name_is_refused() -> None:
    work, repeats = Work(), Repeats()
    await repeats.once(b"a", b"one", work)
    with pytest.raises(ServiceError, match="name used twice"):
        await repeats.once(b"a", b"two", work)
    assert work.done == 1


@pytest.mark.parametrize(
    "answer",
    [web.Response(status=404), web.Response(body=bytes(MAX_BYTES + 1)), web.StreamResponse()],
)
async def test_refusals_and_long_answers_are_not_kept(answer: web.StreamResponse) -> None:
    work, repeats = Work(), Repeats()
    work.answer = answer
    await repeats.once(b"a", b"", work)
    assert len(repeats) == 0


async def test_the_oldest_is_forgotten_when_there_are_too_many() -> None:
    work, repeats = Work(), Repeats()
    for number in range(CAPACITY + 1):
        await repeats.once(number.to_bytes(4, "big"), b"", work)
    assert len(repeats) == CAPACITY
    await repeats.once((1).to_bytes(4, "big"), b"", work)
    assert work.done == CAPACITY + 1
    await repeats.once((0).to_bytes(4, "big"), b"", work)
    assert work.done == CAPACITY + 2
