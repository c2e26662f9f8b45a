"""Pages that a browser trusts less: without https in a network, or told to keep nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from bench.provider.server import ScriptedProvider
from tests.browser.chatting import MESSAGES, enter, messages, somebody, talk_with, write
from tests.browser.harness import Window, shot, until_true, window
from tests.e2e.harness import Process, expected

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

TINY: Final = "tokens=3"
SLOTS: Final = "Object.keys(localStorage).filter((key) => key.includes('.state.')).length"
# As in a browser that is told to let pages keep nothing.
FORBID: Final = """() => {
  for (const name of ["localStorage", "sessionStorage"]) {
    const get = () => { throw new DOMException("The operation is insecure.", "SecurityError"); };
    Object.defineProperty(globalThis, name, { get });
  }
  const request = () => Promise.reject(new DOMException("denied", "SecurityError"));
  Object.defineProperty(navigator, "locks", { value: { request } });
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def neighbour(
    browser: Browser, live: Process, service: ScriptedProvider
) -> AsyncIterator[Window]:
    """A browser on another machine of the network, as far as it knows."""
    async with window(browser, live, host="parlance.test") as found:
        yield found


async def test_over_plain_http_one_talks_and_copies_and_hears_why_nothing_is_notified(
    neighbour: Window, live: Process
) -> None:
    async with somebody(live) as (account, client):
        conv = await talk_with(client, TINY)
    page = await enter(neighbour, account, f"/c/{conv}")
    assert await page.evaluate("isSecureContext || 'locks' in navigator") is False
    await write(page, "你好，世界")
    answer = page.locator(f"{MESSAGES}[data-seq='2']:not(.streaming) .message-text")
    await answer.wait_for()
    await messages(page).first.hover()
    await messages(page).first.get_by_role("button", name="Copy", exact=True).click()
    await page.get_by_text("Copied").wait_for()
    field = page.get_by_label("Write a message")
    await field.press("Control+v")
    assert await field.input_value() == "你好，世界"
    await page.evaluate("location.hash = '#/settings'")
    switch = page.get_by_role("checkbox", name="Notify me")
    await switch.wait_for()
    assert await switch.is_disabled()
    await page.get_by_text("only on pages that come by https").wait_for()
    await shot(page, "settings-plain-http-desktop")


async def test_over_plain_http_tabs_are_told_apart_and_a_new_one_is_no_new_device(
    neighbour: Window, live: Process
) -> None:
    async with somebody(live) as (account, client):
        conv = await talk_with(client, TINY)
    first = await enter(neighbour, account, f"/c/{conv}")
    await first.get_by_label("Write a message").wait_for()
    for turn in range(3):
        second = await neighbour.tab(f"/c/{conv}")
        await write(second, f"from the second, {turn}")
        await first.get_by_text(f"from the second, {turn}").first.wait_for()
        await second.close()
    assert await first.evaluate(SLOTS) == 2
    await write(first, "and the first is still here")
    await messages(first).filter(has_text="and the first is still here").wait_for()


async def test_where_pages_may_keep_nothing_one_talks_until_the_page_is_left(
    visitor: Window,
) -> None:
    await visitor.context.add_init_script(f"({FORBID})()")
    page = await visitor.guest()
    await page.get_by_role("link", name="Personas").first.click()
    # Not just the first: what other tests share stands above.
    nova = page.locator(".persona-card", has_text="Nova")
    await nova.locator(".persona-talk").click()
    await write(page, "hello")
    answer = expected("tokens=20").strip()
    await page.get_by_text(answer).first.wait_for()
    await page.evaluate("location.hash = '#/settings'")
    await page.get_by_role("radio", name="中文").check()
    await until_true(page, "document.documentElement.lang === 'zh-CN'")
