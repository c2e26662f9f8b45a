"""Memories over HTTP: everybody's own, and nobody else's."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from ai_bridge.memory.types import MAX_TEXT_CHARS
from protocol.codes import Code
from storage.errors import StoreUnavailable
from storage.ops import Op, Statement
from tests.server.http.conftest import Answer, Site

PATH = "/api/v1/memories"


class Desk:
    """The memory routes alone on a port, beside the server that knows the people."""

    def __init__(self, site: Site, url: str) -> None:
        self.site = site
        self.url = url
        self.persona = next(iter(site.core.personas._rows))
        self.tokens: dict[str, str] = {}

    async def sign_up(self, name: str) -> None:
        self.tokens[name] = (await self.site.register(name))["token"]

    async def ask(self, name: str, method: str, path: str = "", **options: Any) -> Answer:
        headers = {"Authorization": f"Bearer {self.tokens[name]}"} if name else {}
        url = self.url + PATH + path
        async with self.site.session.request(method, url, headers=headers, **options) as response:
            body = await response.read()
            content = await response.json() if body else None
            return Answer(response.status, response.headers, body, content)

    async def add(self, name: str, text: str, **more: Any) -> Any:
        body = {"persona": self.persona, "text": text} | more
        answer = await self.ask(name, "POST", json=body)
        assert answer.status == 201, answer
        return answer.json

    async def texts(self, name: str, query: str = "") -> list[str]:
        answer = await self.ask(name, "GET", query)
        assert answer.status == 200, answer
        return [one["text"] for one in answer.json["memories"]]


@pytest.fixture
async def desk(site: Site) -> Desk:
    made = Desk(site, f"http://127.0.0.1:{site.app.port}")
    await made.sign_up("Anna")
    await made.sign_up("Bert")
    return made


async def test_people_see_what_is_remembered_of_them_only(desk: Desk) -> None:
    made = await desk.add("Anna", "我养了一只猫叫年糕", kind="relation")
    answer = await desk.ask("Anna", "GET")
    assert answer.json == {"memories": [made], "cursor": ""}
    assert answer.headers["Cache-Control"] == "no-store"
    assert made["kind"] == "relation"
    assert made["persona"] == desk.persona
    assert await desk.texts("Bert") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("DELETE", "?all=1"),
        ("GET", "/export"),
        ("GET", "/settings"),
        ("PUT", "/settings"),
        ("PUT", "/5"),
        ("DELETE", "/5"),
    ],
)
async def test_without_a_token_nothing_is_told(desk: Desk, method: str, path: str) -> None:
    answer = await desk.ask("", method, path, json={"off": True})
    assert (answer.status, answer.error["code"]) == (401, Code.BAD_CREDENTIALS)


async def test_anothers_memory_looks_like_none(desk: Desk) -> None:
    made = await desk.add("Anna", "mine")
    for method in ("PUT", "DELETE"):
        answers = [
            await desk.ask("Bert", method, f"/{id}", json={"text": "stolen"})
            for id in (made["id"], 12345, 0, 2**53)
        ]
        for answer in answers:
            assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND)
    assert (await desk.ask("Bert", "DELETE", "?all=1")).json == {"erased": 0}
    assert await desk.texts("Anna") == ["mine"]


async def test_a_memory_is_changed_and_pinned(desk: Desk) -> None:
    made = await desk.add("Anna", "lives in Rome")
    path = f"/{made['id']}"
    changed = await desk.ask("Anna", "PUT", path, json={"text": " lives\nin Oslo ", "pinned": True})
    assert changed.status == 200
    assert (changed.json["text"], changed.json["pinned"]) == ("lives in Oslo", True)
    assert changed.json["kind"] == made["kind"]
    assert await desk.texts("Anna") == ["lives in Oslo"]


@pytest.mark.parametrize(
    "body",
    [
        {"text": ""},
        {"text": " \n "},
        {"text": "x" * (MAX_TEXT_CHARS + 1)},
        {"text": "x" * 100_000},
        {"text": "x", "kind": "gossip"},
        {"text": "x", "kind": 5},
        {"text": 5},
        {"kind": "other"},
    ],
)
async def test_bad_memories_are_refused_with_advice(desk: Desk, body: dict[str, Any]) -> None:
    answer = await desk.ask("Anna", "POST", json={"persona": desk.persona} | body)
    assert answer.status in (400, 413)
    assert answer.error["message"]
    assert await desk.texts("Anna") == []


async def test_a_persona_that_cannot_be_used_learns_nothing(desk: Desk) -> None:
    answer = await desk.ask("Anna", "POST", json={"persona": 987654321, "text": "x"})
    assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND)


async def test_pins_have_a_bound_that_is_explained(desk: Desk) -> None:
    for number in range(8):
        await desk.add("Anna", f"pin {number}", pinned=True)
    body = {"persona": desk.persona, "text": "one more", "pinned": True}
    answer = await desk.ask("Anna", "POST", json=body)
    assert (answer.status, answer.error["code"]) == (409, Code.SIZE_LIMIT)
    assert "Unpin" in answer.error["message"]


async def test_the_list_comes_in_pages(desk: Desk) -> None:
    for number in range(5):
        await desk.add("Anna", f"memory {number}")
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await desk.ask("Anna", "GET", f"?limit=2&cursor={cursor}")).json
        seen += [one["text"] for one in page["memories"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert seen == [f"memory {n}" for n in range(5)]
    assert await desk.texts("Anna", "?persona=12345") == []
    assert len(await desk.texts("Anna", f"?persona={desk.persona}")) == 5
    for query in ("?persona=x", "?limit=-1", "?persona=" + "9" * 40):
        assert (await desk.ask("Anna", "GET", query)).status == 400


async def test_erasing_needs_to_say_what(desk: Desk) -> None:
    first = await desk.add("Anna", "one")
    await desk.add("Anna", "two")
    answer = await desk.ask("Anna", "DELETE")
    assert (answer.status, answer.error["code"]) == (400, Code.INVALID)
    assert (await desk.ask("Anna", "DELETE", f"/{first['id']}")).status == 204
    assert await desk.texts("Anna") == ["two"]
    assert (await desk.ask("Anna", "DELETE", "?persona=12345")).json == {"erased": 0}
    assert (await desk.ask("Anna", "DELETE", f"?persona={desk.persona}")).json == {"erased": 1}
    await desk.add("Anna", "three")
    assert (await desk.ask("Anna", "DELETE", "?all=1")).json == {"erased": 1}
    assert await desk.texts("Anna") == []


async def test_everything_can_be_taken_away_as_one_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.memory_book._EXPORT_PAGE", 2)
    assert (await desk.ask("Anna", "GET", "/export")).json == {"memories": []}
    for number in range(5):
        await desk.add("Anna", f"记忆 {number}")
    answer = await desk.ask("Anna", "GET", "/export")
    assert [one["text"] for one in answer.json["memories"]] == [f"记忆 {n}" for n in range(5)]
    assert "attachment" in answer.headers["Content-Disposition"]
    assert (await desk.ask("Bert", "GET", "/export")).json == {"memories": []}


async def test_a_store_in_trouble_is_an_error_not_half_a_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Op[Any]:
        yield Statement("SELECT 1")
        raise StoreUnavailable("closing")

    monkeypatch.setattr("server.memory_book.list_memories", refuse)
    assert (await desk.ask("Anna", "GET", "/export")).status == 503


async def test_people_choose_whether_anything_is_remembered(desk: Desk) -> None:
    assert (await desk.ask("Anna", "GET", "/settings")).json == {"off": False}
    assert (await desk.ask("Anna", "PUT", "/settings", json={"off": True})).json == {"off": True}
    assert (await desk.ask("Anna", "GET", "/settings")).json == {"off": True}
    assert (await desk.ask("Bert", "GET", "/settings")).json == {"off": False}
    assert (await desk.ask("Anna", "PUT", "/settings", json={"off": "yes"})).status == 400


async def test_pages_of_other_origins_change_nothing(desk: Desk) -> None:
    await desk.add("Anna", "kept")
    headers = {
        "Authorization": f"Bearer {desk.tokens['Anna']}",
        "Origin": "https://evil.example",
    }
    async with aiohttp.ClientSession() as session:
        async with session.delete(f"{desk.url}{PATH}?all=1", headers=headers) as response:
            assert response.status == 403
    assert await desk.texts("Anna") == ["kept"]
