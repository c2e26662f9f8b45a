"""Coming in, and still being in after a reload."""

from __future__ import annotations

import pytest

from tests.browser.harness import Window

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_guest_is_still_in_after_a_reload(visitor: Window) -> None:
    page = await visitor.guest()
    guest = await visitor.user_id()
    await page.reload()
    await page.locator(".side").wait_for()
    assert await visitor.user_id() == guest
