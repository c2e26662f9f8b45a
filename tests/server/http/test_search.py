"""Searching a conversation over HTTP."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from protocol.codes import Code
from server.errors import ServiceError
from server.http import search_routes
from tests.server.http.api_desk import Guest, guest, stranger
from tests.server.http.conftest import Site


async def filled(who: Guest, *texts: str) -> str:
    """Make a group of one with these messages; return its path."""
    room = await who.group()
    for text in texts:
        await who.post(room + "/messages", {"text": text})
    return room


async def found(who: Guest, room: str, query: str, **more: Any) -> list[str]:
    asked = urlencode({"query": query, **more})
    answer = await who.get(f"{room}/search?{asked}")
    return [message["text"] for message in answer["messages"]]


async def test_what_contains_the_words_is_found_newest_first(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await filled(anna, "The Harbour at dawn", "nothing", "a harbour, then", "HARBOURS")
    all_three = ["HARBOURS", "a harbour, then", "The Harbour at dawn"]
    assert await found(anna, room, "harbour") == all_three
    assert await found(anna, room, "  Dawn ") == ["The Harbour at dawn"]
    assert await found(anna, room, "harbor") == []


@pytest.mark.parametrize("query", ["海", "上海", "上海东边", "海东"])
async def test_chinese_words_of_any_length_are_found(site: Site, query: str) -> None:
    anna = await guest(site, "Anna")
    room = await filled(anna, "我家在上海东边。", "北京")
    assert await found(anna, room, query) == ["我家在上海东边。"]


async def test_accents_are_one_however_they_are_typed(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await filled(anna, "a caf\u00e9 by the sea")
    assert await found(anna, room, "cafe\u0301") == ["a caf\u00e9 by the sea"]


async def test_pages_go_on_where_the_last_one_ended_and_tell_when_that_is_all(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_routes, "MAX_MESSAGES", 4)
    monkeypatch.setattr(search_routes, "FIRST_READ", 4)
    anna = await guest(site, "Anna")
    room = await filled(anna, *(f"{'yes' if n % 3 else 'no'} {n}" for n in range(1, 11)))
    texts: list[str] = []
    before = asked = 0
    while True:
        answer = await anna.get(f"{room}/search?query=yes&limit=2&before={before}")
        texts += [message["text"] for message in answer["messages"]]
        asked += 1
        before = answer["before"]
        if not before:
            break
    assert texts == [f"yes {n}" for n in (10, 8, 7, 5, 4, 2, 1)]
    assert 4 <= asked <= 6


async def test_one_search_looks_through_a_bounded_amount_of_text(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_routes, "MAX_CHARS", 1_000)
    monkeypatch.setattr(search_routes, "READ_CHARS", 500)
    monkeypatch.setattr(search_routes, "FIRST_READ", 2)
    anna = await guest(site, "Anna")
    room = await filled(anna, "yes", *("海" * 300 for _ in range(8)))
    answer = await anna.get(f"{room}/search?query=yes")
    assert answer["messages"] == []
    assert 1 < answer["before"] <= 6
    answer = await anna.get(f"{room}/search?query=yes&before={answer['before']}")
    assert answer["messages"] == []
    assert answer["before"] > 1
    answer = await anna.get(f"{room}/search?query=yes&before={answer['before']}")
    assert [message["text"] for message in answer["messages"]] == ["yes"]
    assert answer["before"] == 0


async def test_what_is_found_is_no_more_than_one_page_of_text(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_routes, "PAGE_BYTES", 1_000)
    anna = await guest(site, "Anna")
    room = await filled(anna, *("海" * 300 for _ in range(4)))
    answer = await anna.get(f"{room}/search?query=%E6%B5%B7&limit=100")
    assert len(answer["messages"]) == 2
    assert answer["before"] == answer["messages"][-1]["seq"] == 3


async def test_searches_run_one_at_a_time_and_those_that_wait_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_routes, "WAITING", 3)
    monkeypatch.setattr(search_routes, "USER_AT_ONCE", 2)
    gate = search_routes.SearchGate()
    order: list[int] = []
    running = 0

    async def search(user: int) -> None:
        nonlocal running
        async with gate.place(user):
            running += 1
            assert running == 1
            order.append(user)
            await asyncio.sleep(0)
            running -= 1

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(search(user)) for user in (1, 1, 2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(ServiceError) as own:
            await search(1)
        with pytest.raises(ServiceError) as everybody:
            await search(4)
    assert all(one.done() for one in waiting)
    assert order == [1, 1, 2, 3]
    assert (own.value.code, everybody.value.code) == (Code.RATE, Code.OVERLOADED)
    assert own.value.retry_ms > 0
    assert everybody.value.retry_ms > 0
    assert [figure.value for figure in gate.figures()] == [0, 2]


async def test_what_was_taken_back_is_not_found(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await filled(anna, "a secret")
    await anna.ask("DELETE", f"{room}/messages/1")
    assert await found(anna, room, "secret") == []


async def test_strangers_find_nothing_and_see_nothing(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await filled(anna, "a secret")
    for other in (await guest(site, "Bela"), await stranger(site)):
        assert (await other.ask("GET", f"{room}/search?query=secret")).status == 404


@pytest.mark.parametrize("query", ["", "%20%20", "x" * 129])
async def test_a_search_for_nothing_or_too_much_is_refused(site: Site, query: str) -> None:
    anna = await guest(site, "Anna")
    room = await filled(anna, "x")
    answer = await anna.ask("GET", f"{room}/search?query={query}")
    assert answer.status == 400
