"""Who is meant by what stands behind an @, as the page reads it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.browser.conftest import Ground

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOM: Final = [
    {"id": 1, "kind": "person", "name": "Ann"},
    {"id": 2, "kind": "person", "name": "Ann Lee"},
    {"id": 3, "kind": "person", "name": "小明", "also": "xiaoming"},
    {"id": 4, "kind": "person", "name": "王小明"},
    {"id": 5, "kind": "persona", "name": "Nova"},
    {"id": 6, "kind": "persona", "name": "诺瓦助手"},
    {"id": 7, "kind": "person", "name": "Anton"},
    {"id": 8, "kind": "person", "name": "Joanna"},
    {"id": 0, "kind": "everyone", "name": "everyone"},
]


async def call(ground: Ground, name: str, *args: Any) -> Any:
    """Call a function of the module and return what it returns."""
    script = "async ([name, args]) => (await import('/app/mentions.js'))[name](...args)"
    return await ground.page.evaluate(script, [name, args])


@pytest.mark.parametrize(
    ("before", "query"),
    [
        ("@", ""),
        ("@No", "No"),
        ("hello @No", "No"),
        ("你好@小", "小"),
        ("你好＠小", "小"),
        ("(@Ann Le", "Ann Le"),
        ("first @Ann then @No", "No"),
        ("line\n@No", "No"),
    ],
)
async def test_an_at_begins_a_mention(ground: Ground, before: str, query: str) -> None:
    found = await call(ground, "queryAt", before + " and more", len(before))
    assert found["query"] == query
    assert before[found["begin"] + 1 :] == query


@pytest.mark.parametrize(
    "before", ["", "hello", "ada@example", "x.y+z@host", "@ Ann", "@Ann\nnext", "@" + "a" * 60]
)
async def test_addresses_and_what_lies_behind_begin_none(ground: Ground, before: str) -> None:
    assert await call(ground, "queryAt", before, len(before)) is None


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["everyone", "Nova", "诺瓦助手", "Ann", "Ann Lee", "Anton", "Joanna", "小明"]),
        ("an", ["Ann", "Ann Lee", "Anton", "Joanna"]),
        ("AN", ["Ann", "Ann Lee", "Anton", "Joanna"]),
        ("le", ["Ann Lee"]),
        ("ann l", ["Ann Lee"]),
        ("ann h", []),
        ("小", ["小明", "王小明"]),
        ("助", ["诺瓦助手"]),
        ("xiao", ["小明"]),
        ("Ｎｏ", ["Nova"]),
        ("zzz", []),
    ],
)
async def test_the_likeliest_names_come_first(ground: Ground, query: str, names: list[str]) -> None:
    found = await call(ground, "matching", ROOM, query)
    assert [one["name"] for one in found] == names


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello", []),
        ("@Nova hi", [5]),
        ("hi @nova, @Ann!", [5, 1]),
        ("@Ann Lee", [2]),
        ("@Ann Lee and @Ann", [2, 1]),
        ("@Annette", []),
        ("@Ann你好", [1]),
        ("ada@Ann", []),
        ("你好@小明你在吗", [3]),
        ("@王小明", [4]),
        ("＠小明", [3]),
        ("@诺瓦助手请回答@Nova", [6, 5]),
        ("@everyone look", [0]),
        ("@Nova @Nova", [5]),
    ],
)
async def test_who_is_mentioned_is_read_from_the_text(
    ground: Ground, text: str, ids: list[int]
) -> None:
    assert await call(ground, "mentionedIn", text, ROOM) == ids


async def test_the_choice_decides_between_people_of_one_name(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { mentionedIn, notePick } = await import("/app/mentions.js");
      const room = [{ id: 1, name: "Ann" }, { id: 2, name: "ann" }];
      const picked = new Map();
      notePick(picked, room[1]);
      return [mentionedIn("@Ann", room), mentionedIn("@Ann", room, picked)];
    }""")
    assert seen == [[1, 2], [2]]


async def test_no_more_are_mentioned_than_a_message_may_have(ground: Ground) -> None:
    room = [{"id": number, "name": f"p{number}x"} for number in range(1, 81)]
    text = " ".join(f"@{one['name']}" for one in room)
    assert await call(ground, "mentionedIn", text, room) == list(range(1, 51))


@pytest.mark.parametrize(
    ("text", "caret", "after", "at"),
    [
        ("@no", 3, "@Nova ", 6),
        ("hi @no there", 6, "hi @Nova there", 9),
        ("你好@诺", 4, "你好@Nova ", 8),
    ],
)
async def test_a_choice_takes_the_place_of_what_was_written(
    ground: Ground, text: str, caret: int, after: str, at: int
) -> None:
    query = await call(ground, "queryAt", text, caret)
    assert await call(ground, "withMention", text, query, "Nova") == {"text": after, "caret": at}


async def test_names_of_more_people_than_one_request_takes_are_learnt(ground: Ground) -> None:
    seen = await ground.page.evaluate("""async () => {
      const { Directory } = await import("/app/directory.js");
      const asked = [];
      const directory = new Directory({
        async getUsers(users) {
          asked.push([...users].length);
          if ([...users].length > 100) throw new Error("too many");
          return [...users].map((id) => ({ id, name: `p${id}` }));
        },
      });
      for (let id = 2; id < 252; id++) directory.person(id);
      const turn = () => new Promise((resolve) => setTimeout(resolve));
      for (let turns = 0; directory.people.value.size < 250 && turns < 1000; turns++) await turn();
      return [asked, directory.people.value.size];
    }""")
    assert seen == [[100, 100, 50], 250]
