"""A conversation as it is read: answers that grow, and what stays true through reloads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chatting import enter, somebody, talk_with, write
from tests.browser.harness import SLOW, Window, shot
from tests.e2e.harness import Process, expected

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_answer_grows_and_ends_as_it_is_stored(
    visitor: Window, live: Process, tmp_path: Path
) -> None:
    async with somebody(live) as (account, client):
        conv = await talk_with(client, SLOW)
        page = await enter(visitor, account, f"/c/{conv}")
        await write(page, "tell me")
        stream = page.locator("article.message.streaming")
        await stream.locator(".message-text").wait_for()
        first = len(await stream.locator(".message-text").inner_text())
        await shot(page, tmp_path, "chat-streaming")
        await page.locator("article.message[data-seq='2']:not(.streaming)").wait_for()
        text = await page.locator("article.message[data-seq='2'] .message-text").inner_text()
        assert 0 < first < len(text)
        assert text == expected(SLOW).strip()
        await shot(page, tmp_path, "chat-answered")
