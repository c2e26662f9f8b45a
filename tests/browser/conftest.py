"""A real browser, which `bench.chromium` finds, and servers that it visits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web

from bench.provider.server import ScriptedProvider
from server.http import static
from tests.browser.harness import Window, started_browser, window
from tests.e2e.harness import Process, free_port
from tests.e2e.serving import answering, serving

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, Request, Route

EMPTY_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Test</title>
<link rel="icon" href="data:,"></head>
<body><main id="root"></main></body></html>
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each opens pages of its own."""
    async with started_browser() as browser:
        yield browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site() -> AsyncIterator[str]:
    """The address of a server that hands out the app's files, and an empty page at /empty."""

    async def empty(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": static.page_policy(request)}
        return web.Response(text=EMPTY_PAGE, content_type="text/html", headers=headers)

    app = web.Application()
    static.install(app)
    app.router.add_get("/empty", empty)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class Ground:
    """An empty page under the app's own policy, and all that happens on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[str] = []
        self.trouble: list[str] = []
        """Errors, dialogs, windows that opened, and what the policy had to stop."""

    async def watch(self) -> None:
        """Note from now on what the page asks for and what goes wrong."""
        page = self.page
        page.on("request", self._note_request)
        page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        page.on("popup", lambda _: self.trouble.append("a window opened"))
        page.on("dialog", self._dismiss)
        page.on("console", self._note_message)
        await page.route(lambda url: not url.startswith(self.url), self._stop)

    async def clear(self) -> None:
        """Load the empty page, and forget what was before."""
        await self.page.goto(f"{self.url}/empty")
        self.requests.clear()
        self.trouble.clear()

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.trouble.append(message.text)

    async def _stop(self, route: Route) -> None:
        self.trouble.append(f"asked for {route.request.url}")
        await route.abort()

    async def _dismiss(self, dialog: Dialog) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    @property
    def foreign(self) -> list[str]:
        """What was asked for and is no file of the app."""
        allowed = (f"{self.url}/app/", f"{self.url}/vendor/", f"{self.url}/empty")
        return [url for url in self.requests if not url.startswith((*allowed, "data:"))]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _only_ground(browser: Browser, site: str) -> AsyncIterator[Ground]:
    context = await browser.new_context(viewport={"width": 800, "height": 600})
    ground = Ground(await context.new_page(), site)
    await ground.watch()
    yield ground
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def ground(_only_ground: Ground) -> Ground:
    """An empty page, loaded anew; the window is the same for all tests, which is faster."""
    await _only_ground.clear()
    return _only_ground


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of its own for the tests of the app; its AI service is `service`."""
    with serving(Process(tmp_path_factory.mktemp("browser"), free_port())) as process:
        yield process


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(live: Process) -> AsyncIterator[ScriptedProvider]:
    """The AI service of that server: the model's name says what it answers."""
    async with answering(live.provider_port) as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(
    browser: Browser, live: Process, service: ScriptedProvider
) -> AsyncIterator[Window]:
    """A fresh browser on a desktop, not signed in; trouble in it fails the test."""
    async with window(browser, live) as found:
        yield found
