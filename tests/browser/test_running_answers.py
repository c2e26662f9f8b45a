"""Where an answer on its way stands, through a reload of the page as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from bench.provider.server import ScriptedProvider
from tests.browser.chatting import act, answered_twice, begun, message, running, talking, write
from tests.browser.harness import Window, until_true
from tests.e2e.harness import Process

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG: Final = "tokens=2000,rate=20"
"""A model that still answers after everything a test does meanwhile."""


async def stand(page: Page, *wanted: str) -> None:
    """Wait until the messages stand like this; "runs" is an answer on its way."""
    await until_true(
        page,
        """(wanted) => {
          const all = document.querySelectorAll("article.message");
          return [...all].map((one) => one.dataset.seq ?? "runs").join() === wanted.join();
        }""",
        list(wanted),
    )


async def test_a_reload_while_an_answer_is_made_again_leaves_it_in_its_place(
    visitor: Window, live: Process, service: ScriptedProvider
) -> None:
    async with talking(visitor, live, LONG) as page:
        await answered_twice(page, service)
        await act(page, 2, "Answer again")
        await begun(page)
        await stand(page, "1", "runs", "3", "4")
        await page.reload()
        await begun(page)
        await stand(page, "1", "runs", "3", "4")
        await running(page).get_by_role("group", name="Answer 2 of 2").wait_for()
        await page.get_by_role("button", name="Stop").click()
        await message(page, 5).get_by_role("group", name="Answer 2 of 2").wait_for()
        await stand(page, "1", "5", "3", "4")


async def test_a_reload_while_an_answer_goes_on_leaves_it_below_what_it_continues(
    visitor: Window, live: Process
) -> None:
    async with talking(visitor, live, LONG) as page:
        await write(page, "tell me")
        await begun(page)
        await page.get_by_role("button", name="Stop").click()
        await message(page, 2).get_by_text("Stopped here.").wait_for()
        await act(page, 2, "Go on")
        await begun(page)
        await stand(page, "1", "2", "runs")
        await page.reload()
        await begun(page)
        await stand(page, "1", "2", "runs")
        await page.get_by_role("button", name="Stop").click()
        await stand(page, "1", "2", "3")
