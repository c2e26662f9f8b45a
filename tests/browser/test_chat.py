"""A conversation as it is read: answers that grow, and what stays true through reloads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from bench.provider.server import ScriptedProvider
from clients.auth import Account
from clients.client import Client
from protocol.codes import ConvKind
from protocol.rows import User
from tests.browser.chatting import (
    act,
    answered_twice,
    begun,
    enter,
    go,
    message,
    messages,
    running,
    somebody,
    talk_with,
    talking,
    text_of,
    write,
)
from tests.browser.harness import DESKTOP, PHONE, SLOW, Window, overflows, shot, until, window
from tests.e2e.harness import Process, expected, group, rows, view
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW_TEXT: Final = expected(SLOW).strip()
MARKDOWN: Final = """Here is **what** it does, with `code` and [a link](https://example.org/):

1. first
2. second

```python
def greet(name):
    return f"Hello, {name}"
```

| a | b |
|---|---|
| 1 | 2 |

> 引用一句话。
"""
PAYLOAD: Final = (
    '<img src=x onerror="globalThis.ran=1"><script>globalThis.ran=1</script>'
    "[x](javascript:globalThis.ran=1) ![y](https://evil.example/p.png)"
)


async def at_end(page: Page) -> bool:
    """Tell whether the end of the list is in view."""
    left = await page.locator(".messages-scroller").evaluate(
        "(one) => one.scrollHeight - one.scrollTop - one.clientHeight"
    )
    return bool(left <= 8)


async def stored(page: Page, seq: int) -> None:
    """Wait until an answer is whole and has its number."""
    await message(page, seq).and_(page.locator(":not(.streaming)")).wait_for()


class Room(NamedTuple):
    """Two people in a conversation; the browser may sign in as the first."""

    account: Account
    client: Client
    other: Client
    conv: int


@asynccontextmanager
async def room(live: Process, nick: str = "Ada", another: str = "Bob") -> AsyncIterator[Room]:
    """Two fresh accounts whose clients are online, and an empty room of theirs."""
    async with somebody(live, nick) as (account, client), somebody(live, another) as (_, other):
        yield Room(account, client, other, await group(client, other.user))


def is_off(client: Client, conv: int, seq: int) -> bool:
    """Tell whether another answer was chosen in place of this one."""
    x = view(client, conv).messages[seq].x
    return x is not None and x.off is True


async def fill(client: Client, conv: int, count: int) -> None:
    """Send so many messages of several lines each."""
    for number in range(count):
        await client.send(conv, f"{number}\n\n" + "a line of words " * 12)


async def test_an_answer_grows_and_ends_as_it_is_stored(visitor: Window, live: Process) -> None:
    async with talking(visitor, live, SLOW) as page:
        await write(page, "tell me")
        first = await (await begun(page)).inner_text()
        await shot(page, "chat-streaming")
        # The element that grew is the one that stays.
        await running(page).evaluate("(one) => { one.dataset.mark = 'same'; }")
        await stored(page, 2)
        text = await text_of(page, 2).inner_text()
        assert 0 < len(first) < len(text)
        assert text == SLOW_TEXT
        assert await page.locator("article[data-mark='same'][data-seq='2']").count() == 1
        assert await messages(page).count() == 2


async def test_a_stopped_answer_keeps_its_text_and_says_so(visitor: Window, live: Process) -> None:
    async with talking(visitor, live, SLOW) as page:
        await write(page, "tell me")
        await begun(page)
        await page.get_by_role("button", name="Stop").click()
        await message(page, 2).get_by_text("Stopped here.").wait_for()
        text = await text_of(page, 2).inner_text()
        assert 0 < len(text) < len(SLOW_TEXT)
        assert SLOW_TEXT.startswith(text)


async def test_a_reload_in_mid_answer_ends_with_the_whole_answer_once(
    visitor: Window, live: Process
) -> None:
    async with talking(visitor, live, SLOW) as page:
        await write(page, "tell me")
        await begun(page)
        await page.reload()
        again = await begun(page)
        assert SLOW_TEXT.startswith((await again.inner_text()).strip())
        await stored(page, 2)
        assert await text_of(page, 2).inner_text() == SLOW_TEXT
        assert await page.locator("article.message").count() == 2


async def test_an_answer_is_made_again_in_its_place_and_branches_are_switched(
    visitor: Window, live: Process, service: ScriptedProvider
) -> None:
    async with somebody(live) as (account, client):
        conv = await talk_with(client, "tokens=40,rate=40")
        page = await enter(visitor, account, f"/c/{conv}")
        await answered_twice(page, service)
        await act(page, 2, "Answer again")
        await begun(page)
        order = await page.locator("article.message").evaluate_all(
            "(all) => all.map((one) => one.dataset.seq ?? 'runs')"
        )
        assert order == ["1", "runs", "3", "4"]
        await message(page, 5).get_by_role("group", name="Answer 2 of 2").wait_for()
        assert await messages(page).evaluate_all("(all) => all.map((one) => one.dataset.seq)") == [
            *("1", "5", "3", "4")
        ]
        await shot(page, "chat-branches")
        await message(page, 5).get_by_role("button", name="Answer before").click()
        await text_of(page, 2).get_by_text("the first answer").wait_for()
        await message(page, 2).get_by_role("group", name="Answer 1 of 2").wait_for()
        await eventually(lambda: is_off(client, conv, 5))
        await message(page, 5).wait_for(state="detached")


async def test_another_tab_shows_the_same_while_it_grows(visitor: Window, live: Process) -> None:
    async with somebody(live) as (account, client):
        conv = await talk_with(client, SLOW)
        page = await enter(visitor, account, f"/c/{conv}")
        await page.get_by_label("Write a message").wait_for()
        other = await visitor.tab(f"/c/{conv}")
        await other.get_by_label("Write a message").wait_for()
        await write(page, "tell me 你好")
        await begun(other)
        for tab in (page, other):
            await stored(tab, 2)
            assert await text_of(tab, 1).inner_text() == "tell me 你好"
            assert await text_of(tab, 2).inner_text() == SLOW_TEXT
            assert await tab.locator("article.message").count() == 2


async def test_thoughts_and_tools_of_an_answer_are_there_to_be_opened(
    visitor: Window, live: Process
) -> None:
    async with talking(visitor, live, "think=20,tokens=20,rate=40") as page:
        await write(page, "think first")
        await page.get_by_text("Thoughts", exact=True).wait_for()
        await stored(page, 2)
        assert not await page.locator(".parts-text").is_visible()
        await page.get_by_text("Thoughts", exact=True).click()
        assert len(await page.locator(".parts-text").inner_text()) > 20
        await shot(page, "chat-thoughts")


async def test_an_answer_that_came_to_nothing_says_why_and_can_be_asked_for_again(
    visitor: Window, live: Process, service: ScriptedProvider
) -> None:
    async with talking(visitor, live, "status=400") as page:
        await write(page, "tell me")
        nothing = page.locator("article.came-to-nothing")
        await nothing.get_by_text("There is no answer.").wait_for()
        await shot(page, "chat-error")
        await nothing.get_by_role("button", name="Try again").click()
        await eventually(lambda: len([r for r in service.requests if r.model == "status=400"]) >= 2)
        await nothing.wait_for()
        await nothing.get_by_role("button", name="Close").click()
        await nothing.wait_for(state="detached")


async def test_what_was_not_read_begins_below_a_line_and_is_read_once_it_is_seen(
    visitor: Window, live: Process
) -> None:
    async with room(live) as (account, client, other, conv):
        await client.send(conv, "hello")
        await other.send(conv, "seen before")
        await eventually(lambda: view(client, conv).last_seq == 2)
        client.mark(conv, view(client, conv).last_seq)
        await eventually(lambda: view(client, conv).unread == 0)
        await fill(other, conv, 12)
        page = await enter(visitor, account, f"/c/{conv}")
        line = page.get_by_text("New messages", exact=True)
        await line.wait_for()
        assert await line.is_visible()
        assert not await at_end(page)
        below = page.get_by_role("button", name="To the newest message")
        await below.wait_for()
        await shot(page, "chat-unread")
        await below.click()
        await eventually(lambda: view(client, conv).unread == 0)
        await below.wait_for(state="detached")
        await until(lambda: at_end(page))


async def test_a_tab_that_nobody_sees_reads_nothing(visitor: Window, live: Process) -> None:
    async with room(live) as (account, client, other, conv):
        await other.send(conv, "hello")
        await visitor.page.add_init_script(
            "Object.defineProperty(document, 'hidden', { get: () => globalThis.away ?? true })"
        )
        page = await enter(visitor, account, f"/c/{conv}")
        await messages(page).last.wait_for()
        await asyncio.sleep(1.5)
        assert view(client, conv).unread == 1
        await page.evaluate(
            "globalThis.away = false; document.dispatchEvent(new Event('visibilitychange'))"
        )
        await eventually(lambda: view(client, conv).unread == 0)


async def test_a_reader_at_the_end_follows_and_one_above_is_not_moved(
    visitor: Window, live: Process
) -> None:
    async with room(live) as (account, client, other, conv):
        await fill(client, conv, 20)
        page = await enter(visitor, account, f"/c/{conv}")
        await messages(page).last.wait_for()
        await other.send(conv, "one more")
        await message(page, 21).wait_for()
        await until(lambda: at_end(page))
        await page.locator(".messages-scroller").evaluate("(one) => { one.scrollTop -= 900; }")
        button = page.get_by_role("button", name="To the newest message")
        await button.wait_for()
        top = await page.locator(".messages-scroller").evaluate("(one) => one.scrollTop")
        await other.send(conv, "and another")
        await page.get_by_role("button", name="1 new message").wait_for()
        assert await page.locator(".messages-scroller").evaluate("(one) => one.scrollTop") == top
        # Who writes wants to see it.
        await write(page, "here I am")
        await message(page, 23).wait_for()
        await until(lambda: at_end(page))


async def test_a_growing_answer_is_followed_until_one_scrolls_up(
    visitor: Window, live: Process
) -> None:
    async with talking(visitor, live, "tokens=400,rate=120") as page:
        await write(page, "a long one, please")
        await running(page).locator(".message-text").get_by_text("word200").wait_for()
        await stored(page, 2)
        await until(lambda: at_end(page))
        await write(page, "and another")
        await running(page).locator(".message-text").get_by_text("word40").wait_for()
        await until(lambda: at_end(page))
        top = await page.locator(".messages-scroller").evaluate(
            "(one) => { one.scrollTop -= 150; return one.scrollTop; }"
        )
        await stored(page, 4)
        assert await page.locator(".messages-scroller").evaluate("(one) => one.scrollTop") == top


# Counts how often all that is held of a conversation is dropped, as too much was missed.
COUNT_RESETS: Final = """async () => {
  const { ConvView } = await import("/sdk/feeds.js");
  const forget = ConvView.prototype.forgetMessages;
  globalThis.resets = 0;
  ConvView.prototype.forgetMessages = function () {
    globalThis.resets += 1;
    return forget.call(this);
  };
}"""


async def absent(visitor: Window, page: Page, other: Client, conv: int) -> None:
    """Be without network while more is written than a device is brought at once."""
    await page.evaluate(COUNT_RESETS)
    async with visitor.without_network(page):
        for number in range(40):
            await other.send(conv, f"{number} " + "while you were away " * 500)


async def test_after_a_long_absence_the_newest_is_shown_and_what_was_missed_is_above(
    visitor: Window, live: Process
) -> None:
    async with room(live) as (account, client, other, conv):
        await fill(client, conv, 30)
        page = await enter(visitor, account, f"/c/{conv}")
        await message(page, 30).wait_for()
        await absent(visitor, page, other, conv)
        await message(page, 70).wait_for()
        assert await page.evaluate("globalThis.resets") == 1
        await until(lambda: at_end(page))
        for _ in range(40):
            await page.locator(".messages-scroller").evaluate("(one) => { one.scrollTop = 0; }")
            if await message(page, 1).count():
                break
            await asyncio.sleep(0.1)
        await message(page, 1).wait_for()
        await page.get_by_role("button", name="To the newest message").click()
        await message(page, 70).wait_for()


async def test_after_a_long_absence_one_is_where_one_was_reading(
    visitor: Window, live: Process
) -> None:
    async with room(live) as (account, client, other, conv):
        await fill(client, conv, 30)
        page = await enter(visitor, account, f"/c/{conv}/at/12")
        target = message(page, 12)
        await target.wait_for()
        before = await target.bounding_box()
        await absent(visitor, page, other, conv)
        await page.get_by_role("button", name="40 new messages").wait_for()
        await target.wait_for()
        assert await page.evaluate("globalThis.resets") == 1
        assert before is not None
        after = await target.bounding_box()
        assert after is not None
        assert abs(after["y"] - before["y"]) <= 2


async def test_changes_recalls_and_quotes_are_shown(visitor: Window, live: Process) -> None:
    async with room(live) as (account, client, other, conv):
        await other.send(conv, "a question")
        await client.send(conv, "an ansver")
        await other.send(conv, "something rash")
        page = await enter(visitor, account, f"/c/{conv}")
        await messages(page).last.wait_for()
        await client.edit(conv, 2, "an answer")
        await other.recall(conv, 3)
        await message(page, 2).get_by_text("edited").wait_for()
        await text_of(page, 2).get_by_text("an answer", exact=True).wait_for()
        await message(page, 3).get_by_text("This message was taken back.").wait_for()
        await act(page, 1, "Quote")
        await write(page, "as you asked")
        quote = message(page, 4).locator(".message-quote")
        await quote.get_by_text("Bob", exact=True).wait_for()
        assert await quote.inner_text() == "Bob\na question"
        await quote.click()
        await page.locator("article.target[data-seq='1']").wait_for()
        assert await page.evaluate("location.hash") == f"#/c/{conv}/at/1"
        await shot(page, "chat-room")


async def test_markdown_and_code_are_shown_and_copied(
    browser: Browser, live: Process, service: ScriptedProvider
) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    async with (
        somebody(live) as (account, client),
        window(browser, live, permissions=allowed) as visitor,
    ):
        conv = await talk_with(client, "fake")
        service.replies.append(MARKDOWN)
        page = await enter(visitor, account, f"/c/{conv}")
        await write(page, "show me")
        code = message(page, 2).locator(".code-frame")
        await code.locator(".hljs-keyword").first.wait_for()
        assert await code.locator(".code-head span").inner_text() == "python"
        await code.get_by_role("button", name="Copy code").click()
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == 'def greet(name):\n    return f"Hello, {name}"'
        await shot(page, "chat-markdown")


async def test_payloads_in_names_and_texts_are_inert(
    visitor: Window, live: Process, service: ScriptedProvider
) -> None:
    async with somebody(live, "Ada") as (account, client), somebody(live, "Bob") as (_, other):
        await other.set_profile(User(nick=PAYLOAD[:60]))
        conv = await talk_with(client, "fake", name=PAYLOAD[:60])
        service.replies.append(PAYLOAD)
        await client.send(conv, PAYLOAD)
        room = await group(client, other.user)
        await other.send(room, PAYLOAD)
        page = await enter(visitor, account, f"/c/{conv}")
        await message(page, 2).wait_for()
        await message(page, 2).get_by_text(PAYLOAD[:60]).first.wait_for()
        await act(page, 2, "Quote")
        await write(page, PAYLOAD)
        await message(page, 3).locator(".message-quote").wait_for()
        await go(page, f"/c/{room}")
        await message(page, 1).get_by_text("onerror").first.wait_for()
        await asyncio.sleep(0.3)
        assert await page.evaluate("globalThis.ran") is None
        inside = page.locator("article.message :is(img, script, iframe, [onerror])")
        assert await inside.count() == 0


async def test_another_language_is_shown_at_once_in_what_is_there(
    visitor: Window, live: Process
) -> None:
    async with room(live) as (account, _, other, conv):
        await other.send(conv, "something rash")
        await other.recall(conv, 1)
        page = await enter(visitor, account, f"/c/{conv}")
        await message(page, 1).get_by_text("This message was taken back.").wait_for()
        await go(page, "/settings")
        await page.get_by_label("中文").check()
        await go(page, f"/c/{conv}")
        await message(page, 1).get_by_text("这条消息已撤回。").wait_for()


async def test_a_conversation_that_is_not_there_says_so(visitor: Window, live: Process) -> None:
    async with somebody(live) as (account, _):
        page = await enter(visitor, account, "/c/999999999")
        await page.get_by_text("This conversation is not to be found").wait_for()
        assert await page.get_by_label("Write a message").count() == 0
        assert await page.get_by_role("button", name="About this conversation").count() == 0


async def test_an_empty_conversation_invites_to_write(visitor: Window, live: Process) -> None:
    async with somebody(live) as (account, client), somebody(live, "Bob") as (_, other):
        info = await client.create_conversation(ConvKind.DIRECT, members=[other.user])
        page = await enter(visitor, account, f"/c/{info.row.id}")
        await page.get_by_text("Nothing here yet. Say hello.").wait_for()
        await write(page, "hello")
        await message(page, 1).wait_for()
        await page.get_by_text("Nothing here yet").wait_for(state="detached")
        assert rows(client, info.row.id or 0)[0].text == "hello"


async def test_on_a_phone_what_one_may_do_with_a_message_is_a_tap_away(
    browser: Browser, live: Process
) -> None:
    async with (
        room(live) as (account, client, other, conv),
        window(browser, live, PHONE, has_touch=True, is_mobile=True) as phone,
    ):
        await fill(client, conv, 5)
        await other.send(conv, "the last one")
        page = await enter(phone, account, f"/c/{conv}")
        for seq in (5, 6):
            more = message(page, seq).get_by_role("button", name="What to do with the message")
            box = await more.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 40
            await more.tap()
            menu = await page.get_by_role("menu").bounding_box()
            assert menu is not None
            assert menu["x"] >= 0
            assert menu["y"] >= 0
            assert menu["x"] + menu["width"] <= PHONE[0]
            assert menu["y"] + menu["height"] <= PHONE[1]
            await shot(page, f"chat-phone-menu-{seq}")
            await page.keyboard.press("Escape")
            await page.get_by_role("menu").wait_for(state="detached")
            assert await more.evaluate("(one) => one === document.activeElement")
        assert not await overflows(page)


@pytest.mark.parametrize(
    ("size", "language", "theme"),
    [
        (DESKTOP, "en-US", "light"),
        (DESKTOP, "zh-CN", "dark"),
        (PHONE, "en-US", "dark"),
        (PHONE, "zh-CN", "light"),
    ],
    ids=["desktop-en-light", "desktop-zh-dark", "phone-en-dark", "phone-zh-light"],
)
async def test_it_fits_and_looks_right(
    browser: Browser,
    live: Process,
    service: ScriptedProvider,
    size: tuple[int, int],
    language: str,
    theme: str,
) -> None:
    touch: dict[str, Any] = {"has_touch": True, "is_mobile": True} if size == PHONE else {}
    async with (
        room(live, "小明", "Grace Hopper") as (account, client, other, conv),
        window(browser, live, size, language=language, color_scheme=theme, **touch) as visitor,
    ):
        await client.send(conv, "大家好，今天我们讨论一下新的协议。")
        await other.send(conv, "Hello! Here is what I have:\n\n" + MARKDOWN)
        await other.send(conv, "https://example.org/" + "a-very-long-address/" * 12)
        await client.send(conv, "谢谢，看起来不错。")
        page = await enter(visitor, account, f"/c/{conv}")
        await message(page, 4).wait_for()
        await page.locator(".hljs-keyword").first.wait_for()
        assert not await overflows(page)
        name = f"chat-{'phone' if size == PHONE else 'desktop'}-{language[:2]}-{theme}"
        await shot(page, name)
