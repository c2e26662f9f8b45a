"""A long story: ten thousand messages, of which a page is read and a window's worth is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import pytest_asyncio

from clients.auth import Account
from protocol.codes import MsgKind
from protocol.rows import MsgX
from storage.ids import new_id
from storage.rows import StoreOptions
from storage.store import Store
from storage.writes import Append
from tests.browser.chatting import enter, go, talk_with
from tests.browser.harness import PHONE, Window, shot, window
from tests.e2e.harness import Process
from tests.support.eventually import WAIT_S

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT: Final = 10_000
QUOTED: Final = 120
"""What the last message answers to."""
ROWS_MAX: Final = 80
HELD_MAX: Final = 900
STORY: Final = "once there was a river and beside it a road that went on for a very long time"

# What is held of the conversation, from outside of the app.
WATCH_FEEDS: Final = """async () => {
  const { Feeds } = await import("/sdk/feeds.js");
  const add = Feeds.prototype.addMessages;
  Feeds.prototype.addMessages = function (...given) {
    globalThis.feeds = this;
    return add.apply(this, given);
  };
}"""
SEEN: Final = """() => {
  const scroller = document.querySelector(".messages-scroller");
  const box = scroller.getBoundingClientRect();
  const all = [...scroller.querySelectorAll("article[data-seq]")];
  const inView = all.filter((one) => {
    const own = one.getBoundingClientRect();
    return own.bottom > box.top && own.top < box.bottom;
  });
  const waits = [...scroller.querySelectorAll(".more-line")].some((one) => {
    const own = one.getBoundingClientRect();
    return own.bottom > box.top - 300 && own.top < box.bottom + 300;
  });
  return {
    waits,
    drawn: all.length,
    seqs: inView.map((one) => Number(one.dataset.seq)),
    tops: Object.fromEntries(
      inView.map((one) => [one.dataset.seq, Math.round(one.getBoundingClientRect().top)])),
    elements: scroller.querySelectorAll("*").length,
    held: globalThis.feeds
      ? Math.max(...[...globalThis.feeds.convs.values()].map((view) => view.messages.size)) : 0,
  };
}"""


class Story(NamedTuple):
    server: Process
    account: Account
    conv: int


def text_of(seq: int) -> str:
    """Return the text of message `seq`: short and long ones, some with code."""
    text = f"{seq}: " + STORY * (1 + (seq * 7919) % 6)
    return text + "\n\n```python\nprint(1)\n```" if seq % 50 == 0 else text


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def story(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    """A server on which somebody has talked with a persona for a long time."""
    server = Process(tmp_path_factory.mktemp("story"))
    server.start()
    account = await server.newcomer("Ada")
    async with server.online(account) as client:
        conv = await talk_with(client, "")
        persona = client.feeds.convs[conv].row.persona or 0
        user = client.user
    server.stop()
    store = await Store.open(StoreOptions(url=f"sqlite:///{server.data / 'parlance.db'}"))
    for seq in range(1, COUNT + 1):
        own = seq % 2 == 1
        kind = MsgKind.TEXT if own else MsgKind.AI_REPLY
        x = MsgX(quote=QUOTED) if seq == COUNT - 1 else None
        sender = user if own else persona
        cid = new_id().to_bytes(16, "big")
        store.submit(Append(conv, sender, cid, int(kind), text_of(seq), x))
    await store.close(30)
    server.start()
    yield Story(server, account, conv)
    assert server.stop() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def reader(browser: Browser, story: Story) -> AsyncIterator[Window]:
    """One device for all tests: an account may have only so many."""
    async with window(browser, story.server) as found:
        yield found


async def opened(reader: Window, story: Story, path: str = "") -> Page:
    """Open the story and wait for its messages."""
    page = await enter(reader, story.account, f"/c/{story.conv}{path}")
    await page.reload()
    await page.locator("article[data-seq]").first.wait_for()
    await page.evaluate(WATCH_FEEDS)
    return page


async def seen(page: Page) -> dict[str, Any]:
    """Return what is in view once nothing is being loaded, and how much is drawn and held."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(WAIT_S):
        while True:
            before, found = found, await page.evaluate(SEEN)
            if found == before and found["seqs"] and not found["waits"]:
                return found
            await asyncio.sleep(0.06)


async def scroll(page: Page, by: int) -> None:
    """Scroll as with a wheel, and wait until that has happened."""
    await page.evaluate(
        """async (by) => {
          document.querySelector(".messages-scroller").scrollTop += by;
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        }""",
        by,
    )


async def test_a_long_story_opens_at_its_end_with_a_page_of_it(
    reader: Window, story: Story
) -> None:
    page = await opened(reader, story)
    found = await seen(page)
    assert found["seqs"][-1] == COUNT
    assert found["drawn"] < ROWS_MAX
    await scroll(page, -10)
    assert (await seen(page))["held"] <= 200
    await shot(page, "history-end")


async def test_scrolling_up_brings_older_messages_and_what_is_read_stays(
    reader: Window, story: Story
) -> None:
    page = await opened(reader, story)
    lowest = COUNT
    for _ in range(40):
        before = await seen(page)
        await scroll(page, -200)
        after = await page.evaluate(SEEN)
        both = set(before["tops"]) & set(after["tops"])
        assert both
        moved = [after["tops"][one] - before["tops"][one] for one in both]
        assert all(abs(by - 200) <= 1 for by in moved)
        assert after["drawn"] < ROWS_MAX
        lowest = min(lowest, *after["seqs"])
        await scroll(page, -1200)
    found = await seen(page)
    assert found["seqs"][0] < COUNT - 300
    assert 0 < found["held"] <= HELD_MAX
    assert found["seqs"] == list(range(found["seqs"][0], found["seqs"][-1] + 1))


async def test_a_far_jump_shows_the_place_and_goes_on_to_both_sides(
    reader: Window, story: Story
) -> None:
    page = await opened(reader, story, "/at/5000")
    target = page.locator("article.target[data-seq='5000']")
    await target.wait_for()
    assert await target.evaluate("(one) => one === document.activeElement")
    await shot(page, "history-jump")
    for _ in range(12):
        await scroll(page, 3000)
        assert (await seen(page))["drawn"] < ROWS_MAX
    below = await seen(page)
    assert below["seqs"][0] > 5100
    for _ in range(16):
        await scroll(page, -3000)
        await seen(page)
    above = await seen(page)
    assert above["seqs"][-1] < 4950
    assert above["seqs"] == list(range(above["seqs"][0], above["seqs"][-1] + 1))
    assert above["held"] <= HELD_MAX


async def test_the_end_of_a_middle_part_is_no_end_that_is_followed(
    reader: Window, story: Story
) -> None:
    page = await opened(reader, story, "/at/5000")
    await scroll(page, 10**7)
    found = await seen(page)
    await asyncio.sleep(0.5)
    assert (await seen(page))["seqs"] == found["seqs"]
    assert found["seqs"][-1] < 5400


async def test_one_button_leads_to_the_newest_message(reader: Window, story: Story) -> None:
    page = await opened(reader, story, "/at/300")
    await page.locator("article[data-seq='300']").wait_for()
    await page.get_by_role("button", name="To the newest message").click()
    await page.locator(f"article[data-seq='{COUNT}']").wait_for()
    assert (await seen(page))["seqs"][-1] == COUNT
    assert await page.evaluate("location.hash") == f"#/c/{story.conv}"
    await page.get_by_role("button", name="To the newest message").wait_for(state="detached")


async def test_a_quote_leads_to_the_message_it_answers(reader: Window, story: Story) -> None:
    page = await opened(reader, story)
    quote = page.locator(".message-quote")
    await quote.get_by_text(f"{QUOTED}: once").wait_for()
    await quote.click()
    await page.locator(f"article.target[data-seq='{QUOTED}']").wait_for()
    found = await seen(page)
    assert QUOTED in found["seqs"]
    for _ in range(4):
        await scroll(page, -(10**6))
        found = await seen(page)
    assert found["seqs"][0] == 1


async def test_a_jump_to_what_is_not_there_says_so_and_shows_messages(
    reader: Window, story: Story
) -> None:
    page = await opened(reader, story, "/at/99999")
    await page.get_by_text("This message is not here.").wait_for()
    assert (await seen(page))["seqs"]


async def test_on_a_phone_old_messages_come_by_scrolling_too(
    browser: Browser, story: Story
) -> None:
    async with window(browser, story.server, PHONE, has_touch=True, is_mobile=True) as phone:
        page = await opened(phone, story)
        for _ in range(10):
            await scroll(page, -2500)
            assert (await seen(page))["drawn"] < ROWS_MAX
        assert (await seen(page))["seqs"][0] < COUNT - 50
        await go(page, f"/c/{story.conv}/at/250")
        await page.locator("article.target[data-seq='250']").wait_for()
        await shot(page, "history-phone")
