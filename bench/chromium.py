"""The Chromium of the system, driven by Playwright: for benches and tests. Nothing is downloaded.

PARLANCE_TEST_CHROMIUM   the program to use, instead of the one found on the PATH
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.async_api import Browser

_PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Names below .test are this machine too, but one that a browser trusts no more than any other.
_NAMES: Final = "--host-resolver-rules=MAP *.test 127.0.0.1"
_FLAGS: Final = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", _NAMES)
_START_MS: Final = 120_000
"""Between two test processes a browser may take long to start, and it costs nothing to wait."""


class BrowserMissing(Exception):
    """There is no browser here, or nothing to drive it; the text says what to install."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser without a window on the screen; whoever visits opens contexts of their own.

    Raises:
        BrowserMissing: see there; before anything is started.
    """
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        raise BrowserMissing("`make test` installs the package playwright") from None
    program = _find_program()
    if program is None:
        raise BrowserMissing("install chromium (on Debian: apt install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=_FLAGS, timeout=_START_MS
        )
        yield browser
        await browser.close()


def _find_program() -> str | None:
    chosen = os.environ.get("PARLANCE_TEST_CHROMIUM")
    found = map(shutil.which, [chosen] if chosen else _PROGRAMS)
    return next(filter(None, found), None)
