"""Coming in, and still being in after a reload."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.browser.chatting import enter
from tests.browser.harness import Window
from tests.e2e.harness import Process

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_guest_is_still_in_after_a_reload(visitor: Window) -> None:
    page = await visitor.guest()
    guest = await visitor.user_id()
    await page.reload()
    await page.locator(".side").wait_for()
    assert await visitor.user_id() == guest


async def test_one_device_too_many_is_told_what_to_do(visitor: Window, live: Process) -> None:
    account = await live.newcomer("Ada")
    async with AsyncExitStack() as stack:
        for _ in range(32):
            await stack.enter_async_context(live.online(account))
        page = await enter(visitor, account)
        await page.get_by_text("too many devices").wait_for()
