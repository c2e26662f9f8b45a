"""Searching a conversation over HTTP."""

from typing import Any
from urllib.parse import urlencode

import pytest

from protocol.types import MAX_LIMIT
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
    monkeypatch.setattr(search_routes, "MAX_PAGES", 1)
    monkeypatch.setattr(search_routes, "MAX_LIMIT", 4)
    assert MAX_LIMIT > 4
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
