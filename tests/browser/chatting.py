"""What tests of a conversation in the browser have in common."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from bench.provider.server import ScriptedProvider
from clients.auth import Account
from clients.client import Client
from protocol.codes import ConvKind, Scope
from protocol.rows import GenOpt, Persona
from tests.browser.harness import Window
from tests.e2e.harness import Process
from tests.support.eventually import WAIT_S

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

MESSAGES: Final = "article.message[data-seq]"


async def enter(window: Window, account: Account, path: str = "") -> Page:
    """Open the app, signed in as an account that was made elsewhere."""
    kept = json.dumps(msgspec.to_builtins(account.tokens))
    await window.page.goto(f"{window.url}/icon.svg")
    await window.page.evaluate("(kept) => localStorage.setItem('parlance.tokens', kept)", kept)
    return await window.open(path)


async def go(page: Page, path: str) -> None:
    """Go to an address within the app, such as /c/12."""
    await page.evaluate("(path) => { location.hash = path; }", path)


@asynccontextmanager
async def somebody(live: Process, nick: str = "Ada") -> AsyncIterator[tuple[Account, Client]]:
    """A fresh account with a client of its own beside the browser's."""
    account = await live.newcomer(nick)
    async with live.online(account) as client:
        yield account, client


async def talk_with(client: Client, model: str, name: str = "Echo") -> int:
    """Begin a conversation with a persona of its own.

    Args:
        model: its name says what is answered; "" for the server's default.
    """
    opt = GenOpt(model=model) if model else None
    persona = await client.save_persona(
        Persona(name=name, prompt="You answer.", scope=Scope.PRIVATE, opt=opt)
    )
    info = await client.create_conversation(ConvKind.AI, persona=persona.p.id)
    return info.row.id or 0


@asynccontextmanager
async def talking(visitor: Window, live: Process, model: str) -> AsyncIterator[Page]:
    """The page of somebody who has a conversation open that a model answers in."""
    async with somebody(live) as (account, client):
        conv = await talk_with(client, model)
        yield await enter(visitor, account, f"/c/{conv}")


def messages(page: Page) -> Locator:
    """Return the stored messages in the document."""
    return page.locator(MESSAGES)


def message(page: Page, seq: int) -> Locator:
    """Return the stored message of that number."""
    return page.locator(f"article.message[data-seq='{seq}']")


def text_of(page: Page, seq: int) -> Locator:
    return message(page, seq).locator(".message-text")


def running(page: Page) -> Locator:
    return page.locator("article.message.streaming")


async def write(page: Page, text: str) -> None:
    """Send a message as a person does."""
    field = page.get_by_label("Write a message")
    await field.fill(text)
    await field.press("Enter")


async def holds(field: Locator, text: str) -> None:
    """Wait until this is written in a field."""
    from playwright.async_api import expect

    await expect(field).to_have_value(text)


async def act(page: Page, seq: int, name: str) -> None:
    """Choose something from the menu of a message, with the keyboard."""
    more = message(page, seq).get_by_role("button", name="What to do with the message")
    await more.focus()
    await more.press("Enter")
    await page.get_by_role("menuitem", name=name, exact=True).press("Enter")


async def begun(page: Page) -> Locator:
    """Wait for some text of an answer on its way; return it."""
    text = running(page).locator(".message-text")
    await text.wait_for()
    return text


async def answered_twice(page: Page, service: ScriptedProvider) -> None:
    """Ask twice; then messages 2 and 4 are answers."""
    service.replies.extend(["the first answer", "and more"])
    await write(page, "one")
    await text_of(page, 2).get_by_text("the first answer").wait_for()
    await write(page, "two")
    await text_of(page, 4).get_by_text("and more").wait_for()


async def types_until(client: Client, conv: int, shown: Locator) -> None:
    """Write until it shows: a sign of it is lost on who does not follow the conversation yet."""
    async with asyncio.timeout(WAIT_S):
        while not await shown.is_visible():
            client.typing(conv)
            await asyncio.sleep(0.3)
