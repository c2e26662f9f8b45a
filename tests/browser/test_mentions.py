"""Who is meant by what stands behind an @, as the page reads it, and how it shows that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from protocol.codes import ConvKind
from protocol.rows import SendX
from tests.browser.chatting import enter, somebody
from tests.browser.conftest import Ground
from tests.browser.harness import Window, shot, shows
from tests.e2e.harness import Process

if TYPE_CHECKING:
    from playwright.async_api import Locator

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


CALLED: Final = [
    {"name": "Ann", "own": True},
    {"name": "Ann Lee", "own": False},
    {"name": "小明", "own": False},
    {"name": "<b>Bo</b>", "own": False},
    {"name": "snake_case_", "own": False},
]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hello", ["hello"]),
        ("@Ann", ["[Ann:@Ann]"]),
        ("hi @ann, hi!", ["hi ", "[Ann:@ann]", ", hi!"]),
        ("@Ann Lee and @Ann", ["[Ann Lee:@Ann Lee]", " and ", "[Ann:@Ann]"]),
        ("@Annette ada@Ann", ["@Annette ada@Ann"]),
        ("你好＠小明你在吗", ["你好", "[小明:＠小明]", "你在吗"]),
        ("①② @Ａｎｎ！", ["①② ", "[Ann:@Ａｎｎ]", "！"]),
        (
            "ﾊﾞ㍿ e\u0301 👩‍👩‍👧 @Ann\n@Ann",
            ["ﾊﾞ㍿ e\u0301 👩‍👩‍👧 ", "[Ann:@Ann]", "\n", "[Ann:@Ann]"],
        ),
        ("@Nova", ["@Nova"]),
        ("", [""]),
    ],
)
async def test_a_text_is_cut_where_it_calls_somebody(
    ground: Ground, text: str, pieces: list[str]
) -> None:
    found = await call(ground, "cutAtMentions", text, CALLED)
    assert [
        f"[{piece['call']['name']}:{piece['text']}]" if piece["call"] else piece["text"]
        for piece in found
        if piece["text"] or not text
    ] == pieces
    assert "".join(piece["text"] for piece in found) == text


async def test_a_name_within_another_is_not_marked_twice(ground: Ground) -> None:
    room = [{"name": "小@明", "own": False}, {"name": "明", "own": True}]
    found = await call(ground, "cutAtMentions", "@小@明 @明", room)
    assert [piece["text"] for piece in found] == ["@小@明", " ", "@明"]


async def test_one_who_shares_a_name_with_others_is_called_too(ground: Ground) -> None:
    room = [{"name": "Ann", "own": True}, {"name": "ann", "own": False}]
    assert (await call(ground, "cutAtMentions", "@Ann", room))[0]["call"]["own"]


MARKED: Final = """async ([text, called]) => {
  const { MarkdownView } = await import("/app/markdown.js");
  const view = new MarkdownView(document.querySelector("#root"));
  view.render(text, { done: false, called: [] });
  view.render(text, { called });
  return [...document.querySelectorAll(".mention")]
    .map((one) => [one.textContent, one.className, one.parentElement.localName]);
}"""


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("hi @Ann", [["@Ann", "mention own", "p"]]),
        ("**@小明你好**", [["@小明", "mention", "strong"]]),
        ("- one\n- @Ann Lee", [["@Ann Lee", "mention", "li"]]),
        ("ask @snake_case_ now", [["@snake_case_", "mention", "p"]]),
        ("`@Ann` and @Ann", [["@Ann", "mention own", "p"]]),
        ("```\n@Ann\n```\n\n    @Ann", []),
        ("[@Ann](https://example.org)", []),
        ("@<b>Bo</b>", [["@<b>Bo</b>", "mention", "p"]]),
    ],
)
async def test_marks_stand_in_markdown_but_not_in_code(
    ground: Ground, text: str, marks: list[list[str]]
) -> None:
    assert await ground.page.evaluate(MARKED, [text, CALLED]) == marks
    assert ground.trouble == []


async def contrast(mark: Locator) -> float:
    """Return the contrast of a text with what is behind it (WCAG 2.2, 1.4.3)."""
    found: float = await mark.evaluate("""(element) => {
      const read = (text) => text.match(/[\\d.]+/g).map(Number);
      const solid = (text) => (read(text)[3] ?? 1) === 1;
      const part = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      const light = (text) => {
        const [r, g, b] = read(text).map(part);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
      };
      let behind = element;
      while (!solid(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
      const both = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
      const [low, high] = both.map(light).sort((a, b) => a - b);
      return high / low;
    }""")
    return found


PAYLOAD: Final = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("fmt", [0, 1])
async def test_people_see_who_is_called_and_above_all_that_they_are(
    visitor: Window, live: Process, fmt: int
) -> None:
    async with (
        somebody(live, "小明") as (account, me),
        somebody(live, PAYLOAD) as (_, other),
    ):
        ids = [me.user, other.user]
        info = await other.create_conversation(ConvKind.GROUP, title="Room", members=[me.user])
        conv = info.row.id or 0
        text = f"@小明你好，@{PAYLOAD} 和 @所有人 看 `@小明`，@Nova 不在"
        await other.send(conv, text, x=SendX(mentions=[*ids, 0], fmt=fmt))
        await me.send(conv, f"@{PAYLOAD} yes", x=SendX(mentions=[other.user], fmt=fmt))
        page = await enter(visitor, account, f"/c/{conv}")
        marks = page.locator(".mention")
        await page.get_by_text("yes", exact=False).last.wait_for()
        payload = f"@{PAYLOAD}"
        plain = ["@小明"] if fmt == 0 else []
        called = ["@小明", payload, "@所有人", *plain, payload]
        await shows(marks, *called)
        own = page.locator(".mention.own")
        await shows(own, "@小明", "@所有人", *plain)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert [each for each in await marks.all() if await contrast(each) < 4.5] == []
            await shot(page, f"mentions-{'markdown' if fmt else 'plain'}-{scheme}")
