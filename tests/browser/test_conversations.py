"""The list of conversations: what is new, in which order, and what one can do with each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from clients.client import Client
from protocol.codes import ConvKind
from protocol.rows import MySet, SendX
from tests.browser.chatting import enter, go, somebody, types_until
from tests.browser.harness import PHONE, Window, overflows, shot, shows, until, until_true, window
from tests.e2e.harness import Process, group
from tests.support.eventually import WAIT_S

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAYLOAD: Final = "<img src=x onerror=alert(1)><script>alert(2)</script>"
MANY: Final = 80


@asynccontextmanager
async def scene(visitor: Window, live: Process) -> AsyncIterator[tuple[Page, Client, Client]]:
    """A page, the same person's other device, and somebody else."""
    async with somebody(live, "Visitor") as (account, device), somebody(live, "Ada") as (_, ada):
        page = await enter(visitor, account)
        await page.locator(".side").wait_for()
        yield page, device, ada


async def room(ada: Client, device: Client, title: str, *said: str) -> int:
    """Make a group of the two, in which Ada says something."""
    info = await ada.create_conversation(ConvKind.GROUP, title=title, members=[device.user])
    for text in said:
        await ada.send(info.row.id or 0, text)
    return info.row.id or 0


def row(page: Page, title: str) -> Locator:
    """Return the row of a conversation."""
    return page.locator(".conv-row").filter(has=page.get_by_text(title, exact=True))


def titles(page: Page) -> Locator:
    return page.locator(".conv-title")


async def choose(page: Page, title: str, action: str) -> None:
    """Choose from the menu of a row."""
    await row(page, title).hover()
    await row(page, title).get_by_role("button", name=f"More about {title}").click()
    await page.get_by_role("menuitem", name=action, exact=True).click()


async def test_what_is_new_is_counted_and_read_wherever_one_reads_it(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, ada):
        first = await room(ada, device, "First", "one", "two", "three")
        second = await room(ada, device, "Second", "uno")
        await shows(row(page, "First").locator(".count"), "33 unread messages")
        await until_true(page, "document.title === '(4) Parlance'")
        assert await page.locator("link[rel=icon]").get_attribute("href") == "/icon_news.svg"
        device.mark(second, 1)
        await row(page, "Second").locator(".count").wait_for(state="detached")
        await row(page, "First").locator("a").click()
        await row(page, "First").locator(".count").wait_for(state="detached")
        await until_true(page, "document.title === 'First · Parlance'")
        assert await page.locator("link[rel=icon]").get_attribute("href") == "/icon.svg"
        await go(page, f"/c/{second}")
        await ada.send(first, "four")
        await row(page, "First").locator(".count").wait_for()
        await choose(page, "First", "Mark as read")
        await row(page, "First").locator(".count").wait_for(state="detached")


async def test_the_latest_comes_first_and_what_is_pinned_before_it(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, ada):
        convs = [await room(ada, device, title, "hello") for title in ("A", "B", "C")]
        await shows(titles(page), "C", "B", "A")
        await ada.send(convs[0], "something new")
        await shows(titles(page), "A", "C", "B")
        await choose(page, "B", "Pin")
        await shows(titles(page), "B", "A", "C")
        await page.reload()
        await shows(titles(page), "B", "A", "C")
        await choose(page, "B", "Unpin")
        await shows(titles(page), "A", "C", "B")
        await device.change_my_view(convs[2], MySet(pinned=True))
        await shows(titles(page), "C", "A", "B")


async def test_the_archive_is_a_list_of_its_own(visitor: Window, live: Process) -> None:
    async with scene(visitor, live) as (page, device, ada):
        for title in ("Kept", "Old"):
            await room(ada, device, title, "hello")
        await choose(page, "Old", "Archive")
        await shows(titles(page), "Kept")
        await until_true(page, "document.title.startsWith('(1)')")
        await page.reload()
        await shows(titles(page), "Kept")
        await page.get_by_role("button", name="Archived").click()
        await shows(titles(page), "Old")
        await choose(page, "Old", "Take out of the archive")
        await page.get_by_text("Nothing is archived.").wait_for()
        await page.get_by_role("button", name="Conversations").click()
        for title in ("Kept", "Old"):
            await row(page, title).wait_for()


async def test_what_is_muted_is_counted_quietly(visitor: Window, live: Process) -> None:
    async with scene(visitor, live) as (page, device, ada):
        await room(ada, device, "Loud", "hello")
        await choose(page, "Loud", "Mute")
        await page.get_by_role("button", name="Until I change it").click()
        await row(page, "Loud").locator(".count.muted").wait_for()
        await until_true(page, "document.title === 'Parlance'")
        await choose(page, "Loud", "Unmute")
        await row(page, "Loud").locator(".count:not(.muted)").wait_for()


async def test_a_name_of_ones_own_is_seen_by_nobody_else(visitor: Window, live: Process) -> None:
    async with scene(visitor, live) as (page, device, ada):
        conv = await room(ada, device, "Room", "hello")
        await choose(page, "Room", "My name for it")
        await page.get_by_label("Name", exact=True).fill("老朋友们")
        await page.get_by_role("button", name="Save").click()
        await shows(titles(page), "老朋友们")
        info = await ada.get_conversation(conv)
        assert (info.row.title, info.my.remark) == ("Room", None)
        await choose(page, "老朋友们", "My name for it")
        await page.get_by_label("Name", exact=True).fill("")
        await page.get_by_role("button", name="Save").click()
        await shows(titles(page), "Room")


async def test_what_was_deleted_comes_back_and_what_was_left_does_not(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, ada):
        mine = await group(device)
        await room(ada, device, "Theirs", "hello")
        await row(page, "room").locator("a").click()
        await choose(page, "room", "Delete")
        await page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
        await shows(titles(page), "Theirs")
        await page.wait_for_url("**/#/")
        assert (await device.get_conversation(mine)).row.deleted
        await page.reload()
        await page.get_by_role("button", name="Archived").click()
        await row(page, "room").get_by_role("button", name="Bring back").click()
        await page.get_by_role("button", name="Conversations").click()
        await choose(page, "Theirs", "Leave")
        await page.get_by_role("alertdialog").get_by_role("button", name="Leave").click()
        await shows(titles(page), "room")


async def test_titles_are_found_in_chinese_and_in_any_case(visitor: Window, live: Process) -> None:
    async with scene(visitor, live) as (page, device, ada):
        for title in ("周末去爬山", "读书会 Book Club", "Work"):
            await room(ada, device, title)
        field = page.get_by_label("Find a conversation")
        await field.fill("爬山")
        await shows(titles(page), "周末去爬山")
        await field.fill("book 读书")
        await shows(titles(page), "读书会 Book Club")
        await field.fill("没有")
        await page.get_by_text("No conversation has this name.").wait_for()
        await field.press("Escape")
        await shows(titles(page), "Work", "读书会 Book Club", "周末去爬山")


async def test_the_last_line_tells_in_plain_text_who_said_what(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, ada):
        conv = await room(ada, device, "Room", "# Hello **all** `of` [you](http://example.org)")
        last = row(page, "Room").locator(".conv-last")
        await shows(last, "Ada: Hello all of you")
        await device.send(conv, "你好")
        await shows(last, "You: 你好")
        async with somebody(live, "王小明") as (_, third):
            await ada.add_members(conv, [third.user])
            await third.send(conv, "大家好")
            await shows(last, "王小明: 大家好")
            sent = await third.send(conv, "oh", x=SendX(mentions=[device.user]))
            await row(page, "Room").get_by_text("You are mentioned").wait_for(state="attached")
            await third.recall(conv, sent.seq)
            await shows(last, "This message was taken back.")


async def test_a_draft_and_somebody_who_writes_show_in_the_list(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, ada):
        conv = await room(ada, device, "Room", "hello")
        other = await room(ada, device, "Other", "hello")
        await row(page, "Room").locator("a").click()
        await page.get_by_role("textbox", name="Write a message").fill("not yet")
        await row(page, "Other").locator("a").click()
        await shows(row(page, "Room").locator(".conv-last"), "Draft: not yet")
        await ada.watch([conv, other])
        typing = row(page, "Room").locator(".conv-last").filter(has_text="Ada is typing")
        await types_until(ada, conv, typing)


async def test_payloads_in_titles_names_and_remarks_are_text(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, _):
        async with somebody(live, f"Eve {PAYLOAD}"[:64]) as (_, mallory):
            conv = await room(mallory, device, PAYLOAD, PAYLOAD)
            await mallory.create_conversation(ConvKind.DIRECT, members=[device.user])
            await row(page, PAYLOAD).wait_for()
            await device.change_my_view(conv, MySet(remark=PAYLOAD[:28] + "x" * 30))
            await row(page, PAYLOAD[:28] + "x" * 30).locator("a").click()
            await go(page, f"/c/{conv}/info")
            await page.locator(".panel .member").first.wait_for()
            assert await page.locator(".side img, .side script, .panel img[src=x]").count() == 0


async def test_arrows_move_through_the_list_and_enter_opens(visitor: Window, live: Process) -> None:
    async with scene(visitor, live) as (page, device, ada):
        for title in ("A", "B", "C"):
            await room(ada, device, title)
        await shows(titles(page), "C", "B", "A")
        await row(page, "C").locator("a").focus()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("Enter")
        await page.locator(".conv-row a[aria-current=page]").filter(has_text="B").wait_for()
        assert await page.locator("[aria-current=page]").count() == 1
        await row(page, "B").locator("a").focus()
        await page.keyboard.press("End")
        assert "A" in await page.evaluate("document.activeElement.textContent")


# Scrolls on, from the end to the top again, and returns when that has been drawn.
ONWARDS: Final = """async (it) => {
  const end = it.scrollTop + it.clientHeight >= it.scrollHeight - 1;
  it.scrollTop = end ? 0 : it.scrollTop + 400;
  for (const _ of "12") await new Promise(requestAnimationFrame);
}"""


async def all_tell_what_was_said(page: Page) -> bool:
    """Tell whether each row of a room that is drawn shows the last line of that room."""
    drawn = await page.locator(".conv-row").evaluate_all("""(all) => all.map((one) =>
      [".conv-title", ".conv-last"].map((part) => one.querySelector(part)?.textContent ?? ""))""")
    rooms = [(title, last) for title, last in drawn if title.startswith("Room ")]
    wanted = [(title, f"Ada: {title.replace('Room', 'said')}") for title, _ in rooms]
    return rooms != [] and rooms == wanted


async def test_a_long_list_is_read_as_one_scrolls_and_only_what_is_in_view_is_drawn(
    visitor: Window, live: Process
) -> None:
    async with scene(visitor, live) as (page, device, ada):
        made = (room(ada, device, f"Room {number}", f"said {number}") for number in range(MANY))
        await asyncio.gather(*made)
        await ada.create_conversation(ConvKind.DIRECT, members=[device.user])
        await page.reload()
        await page.locator(".conv-row").first.wait_for()
        wanted = {f"Room {number}" for number in range(MANY)} | {"Ada"}
        seen: set[str] = set()
        async with asyncio.timeout(WAIT_S):
            while not wanted <= seen:
                assert await page.locator(".conv-row").count() < 40
                seen.update(await titles(page).all_text_contents())
                await page.locator(".conv-scroll").evaluate(ONWARDS)
        # Somebody's name comes after the conversation with them.
        assert seen - wanted <= {"Conversation"}
        # What the list does not carry is fetched for the rows in view.
        await until(lambda: all_tell_what_was_said(page))


async def test_a_filter_finds_what_was_not_read_yet(visitor: Window, live: Process) -> None:
    async with scene(visitor, live) as (page, device, ada):
        await room(ada, device, "最早的群")
        await asyncio.gather(*(room(ada, device, f"Room {number}") for number in range(MANY)))
        await page.reload()
        await page.get_by_label("Find a conversation").fill("最早")
        await shows(titles(page), "最早的群")


async def test_notifications_come_after_a_yes_while_the_page_is_hidden(
    visitor: Window, live: Process
) -> None:
    await visitor.context.add_init_script("""
      globalThis.shown = [];
      globalThis.Notification = class {
        static permission = "default";
        static async requestPermission() { return (this.permission = "granted"); }
        constructor(title, { body, tag }) { shown.push([title, body, tag]); }
        close() {}
      };
    """)
    async with scene(visitor, live) as (page, device, ada):
        conv = await room(ada, device, "Room", "before")
        hide = "Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' })"
        await page.evaluate(hide)
        await ada.send(conv, "nobody asked for this")
        await row(page, "Room").locator(".count").filter(has_text="2").wait_for()
        state = """async () => {
          const { notifications } = await import("/app/notifications.js");
          return [notifications.state.value, await notifications.ask()];
        }"""
        assert await page.evaluate(state) == ["off", "on"]
        await ada.send(conv, "来 **this** one")
        await until_true(page, "shown.length === 1")
        assert await page.evaluate("shown[0]") == [
            "Room",
            "Ada: 来 this one",
            f"parlance.{conv}",
        ]
        await device.change_my_view(conv, MySet(mute_until=9_999_999_999_999))
        await row(page, "Room").locator(".count.muted").wait_for()
        await ada.send(conv, "muted")
        await row(page, "Room").locator(".count").filter(has_text="4").wait_for()
        assert await page.evaluate("shown.length") == 1


async def test_the_list_looks_right_everywhere(
    browser: Browser, live: Process, service: object
) -> None:
    async with somebody(live, "访客小李") as (account, device), somebody(live, "Ada") as (_, ada):
        for title in ("周末去爬山", "A rather long title that does not fit into the list", "Work"):
            await room(ada, device, title, "Hello there", "你好,大家好,今天天气很好,我们出去走走吧")
        direct = await ada.create_conversation(ConvKind.DIRECT, members=[device.user])
        await ada.send(direct.row.id or 0, "Are you there?")
        await device.change_my_view(direct.row.id or 0, MySet(pinned=True))
        for size, scheme, language in (
            ((1280, 800), "light", "en-US"),
            ((1280, 800), "dark", "zh-CN"),
            (PHONE, "light", "zh-CN"),
            (PHONE, "dark", "en-US"),
            ((360, 740), "light", "en-US"),
        ):
            async with window(browser, live, size, language=language, color_scheme=scheme) as one:
                page = await enter(one, account)
                await page.locator(".conv-row").nth(3).wait_for()
                assert not await overflows(page)
                await shot(page, f"list-{size[0]}-{scheme}-{language}")
