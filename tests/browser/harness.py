"""The web app as people see it: a real server process, and browser windows that visit it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from bench.chromium import BrowserMissing, chromium
from tests.e2e.harness import PASSWORD, ROOT, Process
from tests.support.eventually import WAIT_S

if TYPE_CHECKING:
    from playwright.async_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Locator,
        Page,
        Request,
    )

T = TypeVar("T")

DESKTOP: Final = (1280, 800)
PHONE: Final = (390, 844)
ARTEFACTS: Final = Path(os.environ.get("PARLANCE_SCREENSHOTS") or ROOT / "test-artefacts")
SLOW: Final = "tokens=200,rate=40"
"""A model whose answer takes five seconds: a page that stands still for one sees it grow."""
# What Chromium says about requests that fail while the server is away, as some tests have it, and
# of a header that means nothing without https.
_EXPECTED = re.compile(
    r"ERR_CONNECTION_(REFUSED|RESET|CLOSED)|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED_ENCODING|"
    r"WebSocket connection to .* failed|"
    r"Cross-Origin-Opener-Policy header has been ignored"
)


@dataclass
class Window:
    """One browser of its own, with its own storage; `page` is its first tab.

    Attributes:
        trouble: errors of scripts, what the policy had to stop, dialogs, foreign requests.
    """

    context: BrowserContext
    page: Page
    url: str
    trouble: list[str] = field(default_factory=list)

    async def open(self, path: str = "") -> Page:
        """Load the app in the first tab; `path` is what follows the #, such as /personas."""
        await self.page.goto(f"{self.url}/#{path}" if path else f"{self.url}/")
        return self.page

    async def tab(self, path: str = "") -> Page:
        """Open another tab of this browser: it shares the storage."""
        page = await self.context.new_page()
        await page.goto(f"{self.url}/#{path}" if path else f"{self.url}/")
        return page

    async def guest(self) -> Page:
        """Come in without an account."""
        page = await self.open()
        await page.get_by_role("button", name="Try it without an account").click()
        await page.locator(".side").wait_for()
        return page

    async def sign_up(self, name: str, password: str = PASSWORD) -> Page:
        """Make an account in the form, as a person does."""
        page = await self.open()
        await page.get_by_role("button", name="Create an account").click()
        await page.get_by_label("Name", exact=True).fill(name)
        await page.get_by_label("Password", exact=True).fill(password)
        await page.get_by_role("button", name="Create an account").click()
        await page.locator(".side").wait_for()
        return page

    async def user_id(self) -> int:
        """Return who is signed in."""
        tokens = await self.page.evaluate("localStorage.getItem('parlance.tokens')")
        found = re.search(r'"id":\s*(\d+)', tokens)
        assert found is not None, tokens
        return int(found[1])

    @asynccontextmanager
    async def without_network(self, page: Page) -> AsyncIterator[None]:
        """Cut a tab off as a sleeping machine is: open sockets are silent, no new ones come."""
        network = await self.context.new_cdp_session(page)
        await network.send("Network.enable")
        gone = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        await network.send("Network.emulateNetworkConditions", gone)
        await page.evaluate("window.dispatchEvent(new Event('offline'))")
        yield
        back = gone | {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        await network.send("Network.emulateNetworkConditions", back)
        await page.evaluate("window.dispatchEvent(new Event('online'))")

    def note(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        page.on("popup", lambda _: self.trouble.append("a window opened"))
        page.on("console", self._note_message)
        page.on("request", self._note_request)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not _EXPECTED.search(message.text):
            self.trouble.append(message.text)

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.trouble.append(f"asked for {request.url}")


@asynccontextmanager
async def started_browser() -> AsyncIterator[Browser]:
    """The browser of this machine; where there is none, the test is skipped."""
    try:
        async with chromium() as browser:
            yield browser
    except BrowserMissing as error:
        pytest.skip(f"BROWSER MISSING: {error}")


# A refusal is an answer like any other, but browsers log it.
_REFUSED: Final = "the server responded with a status of"


def forgive_refusals(visitor: Window) -> None:
    """What the browser logs of answers with a status from 400 on is no trouble."""
    visitor.trouble[:] = [line for line in visitor.trouble if _REFUSED not in line]


@asynccontextmanager
async def window(
    browser: Browser,
    server: Process,
    size: tuple[int, int] = DESKTOP,
    *,
    language: str = "en-US",
    host: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[Window]:
    """A fresh browser that looks at a server; anything that went wrong in it fails the test.

    Args:
        host: what the server is called; by a name below .test it is one that has no https.
    """
    from playwright.async_api import expect

    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]}, locale=language, **options
    )
    context.set_default_timeout(WAIT_S * 1000)
    expect.set_options(timeout=WAIT_S * 1000)
    visitor = Window(context, await context.new_page(), f"http://{host}:{server.port}")
    visitor.note(visitor.page)
    context.on("page", visitor.note)
    try:
        yield visitor
    finally:
        await context.close()
    assert visitor.trouble == [], visitor.trouble


async def shot(page: Page, name: str) -> Path:
    """Save what is seen in ARTEFACTS, for people to look at."""
    path = ARTEFACTS / f"{name}.png"
    await page.screenshot(path=path)
    return path


async def until_true(page: Page, expression: str, arg: object = None) -> Any:
    """Return what an expression is worth once that is true.

    Playwright's own `wait_for_function` asks again by `eval`, which the app's policy forbids.
    """
    return await until(lambda: page.evaluate(expression, arg))


async def until(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what is answered once that is true."""
    async with asyncio.timeout(WAIT_S):
        while not (found := await ask()):  # noqa: ASYNC110 - nothing of the page can be awaited
            await asyncio.sleep(0.02)
        return found


async def shows(locator: Locator, *expected: str) -> None:
    """Wait until the elements have these texts, in this order."""
    from playwright.async_api import expect

    await expect(locator).to_have_text(list(expected))


async def overflows(page: Page) -> bool:
    """Tell whether the page is wider than its window."""
    found: bool = await page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    return found


async def nameless(page: Page) -> list[str]:
    """Return what can be clicked or filled in and has no name for a screen reader."""
    found: list[str] = await page.evaluate("""() => {
      const named = (element) =>
        element.ariaLabel ||
        element.innerText?.trim() ||
        [...(element.labels ?? [])].some((label) => label.innerText.trim()) ||
        element.getAttribute("aria-labelledby");
      const all = document.querySelectorAll("a, button, input, select, textarea, [role=menuitem]");
      return [...all]
        .filter((element) => element.checkVisibility() && !named(element))
        .map((element) => element.outerHTML);
    }""")
    return found
