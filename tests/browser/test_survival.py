"""What people have in front of them stays true when the server dies or the network goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.browser.chatting import MESSAGES, enter, somebody, talk_with, write
from tests.browser.harness import Window, shot, window
from tests.e2e.harness import Process, expected
from tests.e2e.serving import answering
from tests.support.turns import until_kept

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "tokens=400,rate=40"
SHORT = "tokens=150,rate=30"
TINY = "tokens=3"
# All models are named: a server that starts again asks the service which it has.
SERVICE = f"""
[[ai.providers]]
name = "scripted"
base_url = "http://127.0.0.1:PORT/v1"
api_key = "sk-secret-of-the-test"
models = ["{LONG}", "{SHORT}", "{TINY}"]
"""


@pytest_asyncio.fixture(loop_scope="session")
async def mortal(tmp_path: Path) -> AsyncIterator[Process]:
    """A server that a test may kill, and its AI service, which stays."""
    async with answering(0) as provider:
        server = Process(tmp_path, more=SERVICE.replace("PORT", str(provider.port)))
        await asyncio.to_thread(server.start)
        yield server
        await asyncio.to_thread(server.kill)


@asynccontextmanager
async def talking(
    browser: Browser, server: Process, model: str
) -> AsyncIterator[tuple[Window, Page]]:
    """A fresh browser, and its page with a conversation that a model answers in."""
    async with somebody(server) as (account, client):
        conv = await talk_with(client, model)
    async with window(browser, server) as visitor:
        yield visitor, await enter(visitor, account, f"/c/{conv}")


async def texts(page: Page) -> list[str]:
    """Return the stored messages as they are read, oldest first."""
    return await page.locator(f"{MESSAGES} .message-text").all_inner_texts()


async def growing(page: Page) -> None:
    """Wait until some of an answer is to be seen."""
    words = page.locator("article.message.streaming .message-text")
    await words.filter(has_text="word3").wait_for()


async def test_a_server_killed_in_mid_answer_and_started_again_leaves_nothing_lost_or_double(
    browser: Browser, mortal: Process
) -> None:
    async with talking(browser, mortal, LONG) as (_, page):
        await write(page, "a long story, please")
        await growing(page)
        await until_kept(f"sqlite:///{mortal.data / 'parlance.db'}", 1)
        await asyncio.to_thread(mortal.kill)
        banner = page.get_by_role("status").filter(has_text="Offline")
        await banner.wait_for()
        await write(page, "written while the server was away")
        await page.get_by_text("1 message waits").wait_for()
        await shot(page, "offline-desktop")
        await asyncio.to_thread(mortal.start)
        await page.get_by_text("The answer was interrupted").wait_for()
        await page.locator(f"{MESSAGES}[data-seq='3']").wait_for()
        await banner.wait_for(state="hidden")
        read = await texts(page)
        assert read[0] == "a long story, please"
        assert read[1].startswith("word0 word1 word2 word3")
        assert read.count("written while the server was away") == 1
        await shot(page, "back-again-desktop")
        await page.reload()
        await page.locator(f"{MESSAGES}[data-seq='3']").wait_for()
        again = await texts(page)
        assert again[:3] == read[:3]


async def test_a_tab_without_network_in_mid_answer_shows_the_whole_answer_once(
    browser: Browser, mortal: Process
) -> None:
    async with talking(browser, mortal, SHORT) as (visitor, page):
        await write(page, "tell me")
        await growing(page)
        async with visitor.without_network(page):
            await asyncio.sleep(1)
        answer = page.locator(f"{MESSAGES}[data-seq='2']:not(.streaming) .message-text")
        await answer.wait_for()
        assert await texts(page) == ["tell me", expected(SHORT).strip()]


async def test_a_killed_browser_leaves_its_unsent_message_to_the_next_start(
    browser: Browser, mortal: Process
) -> None:
    async with talking(browser, mortal, TINY) as (visitor, page):
        await write(page, "before")
        await page.locator(f"{MESSAGES}[data-seq='2']").wait_for()
        await asyncio.to_thread(mortal.kill)
        await page.get_by_role("status").filter(has_text="Offline").wait_for()
        await write(page, "kept through all of it")
        await page.get_by_text("1 message waits").wait_for()
        address = page.url
        await page.close(run_before_unload=False)
        await asyncio.to_thread(mortal.start)
        page = await visitor.context.new_page()
        await page.goto(address)
        await page.locator(f"{MESSAGES}[data-seq='4']").wait_for()
        assert (await texts(page)).count("kept through all of it") == 1
