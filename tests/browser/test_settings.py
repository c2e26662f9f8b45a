"""One's own settings: what is chosen stays, what is erased is gone."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser.harness import PHONE, Window, forgive_refusals, nameless, overflows, shot, window
from tests.e2e.harness import PASSWORD, Process

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload, Page, Route

pytestmark = pytest.mark.asyncio(loop_scope="session")

NEW_PASSWORD: Final = "another right long password"
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)
LET_EXPIRE: Final = """
const tokens = JSON.parse(localStorage.getItem("parlance.tokens"));
if (tokens) localStorage.setItem("parlance.tokens", JSON.stringify({...tokens, expires_ms: 0}));
"""


async def show(page: Page) -> None:
    """Go to the settings and wait until they are read."""
    await page.evaluate("location.hash = '#/settings'")
    await page.get_by_text("Parlance 0.").wait_for()
    await page.get_by_text("Loading", exact=True).first.wait_for(state="detached")


async def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_label("Password", exact=True).fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def stored(visitor: Window, path: str, **options: Any) -> Any:
    """Ask the server as who is signed in."""
    tokens = json.loads(await visitor.page.evaluate("localStorage.getItem('parlance.tokens')"))
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    answer = await visitor.context.request.fetch(f"{visitor.url}{path}", headers=headers, **options)
    assert answer.ok, await answer.text()
    return await answer.json()


async def test_a_profile_is_saved_and_shown_everywhere(visitor: Window) -> None:
    page = await visitor.guest()
    await show(page)
    file: FilePayload = {"name": "me.png", "mimeType": "image/png", "buffer": PNG}
    await page.locator(".avatar-picker input[type=file]").set_input_files(file)
    await page.locator(".settings .avatar img").wait_for()
    await page.get_by_label("Display name").fill("安娜 <b>")
    await page.get_by_label("About you").fill("Hello")
    await page.get_by_role("button", name="Save", exact=True).click()
    await page.get_by_text("Saved", exact=True).wait_for()
    await page.locator(".side .side-name", has_text="安娜 <b>").wait_for()
    await page.reload()
    await page.locator(".side img").wait_for()
    me = await stored(visitor, "/api/v1/me")
    assert (me["nick"], me["bio"], me["avatar"] > 0) == ("安娜 <b>", "Hello", True)


async def test_another_language_redraws_everything_and_stays(visitor: Window) -> None:
    page = await visitor.guest()
    await show(page)
    await page.get_by_role("radio", name="中文").check(force=True)
    await page.get_by_role("heading", name="设置").wait_for()
    assert not re.search(
        r"\b(Profile|Conversations?|Memories|Sign out)\b", await page.inner_text("body")
    )
    assert await page.evaluate("document.documentElement.lang") == "zh-CN"
    await page.reload()
    await page.get_by_role("heading", name="设置").wait_for()


async def test_the_appearance_is_chosen_and_stays(visitor: Window) -> None:
    page = await visitor.guest()
    await show(page)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.get_by_role("radio", name="Dark").check(force=True)
    dark = await page.evaluate(ground)
    assert dark != light
    await page.reload()
    await page.locator(".side").wait_for()
    assert await page.evaluate(ground) == dark


async def test_a_device_is_signed_out_from_another(
    visitor: Window, browser: Browser, live: Process
) -> None:
    page = await visitor.sign_up("two-devices")
    async with window(browser, live) as other:
        there = await other.open()
        await sign_in(there, "two-devices")
        await there.locator(".side").wait_for()
        await show(page)
        devices = page.get_by_role("region", name="Where you are signed in")
        await devices.get_by_role("listitem").nth(1).wait_for()
        assert await devices.get_by_role("listitem").count() == 2
        await devices.get_by_role("button", name="Sign out").click()
        await page.get_by_role("alertdialog").get_by_role("button", name="Sign out").click()
        await there.get_by_text("You were signed out here").wait_for()
        assert await there.evaluate("localStorage.getItem('parlance.tokens')") is None
        forgive_refusals(other)
    await devices.get_by_role("listitem").nth(1).wait_for(state="detached")
    forgive_refusals(visitor)


async def test_the_windows_of_a_browser_are_listed_once(visitor: Window) -> None:
    page = await visitor.guest()
    second = await visitor.tab()
    await second.locator(".side").wait_for()
    for tab in (page, second):
        await show(tab)
        entries = tab.get_by_role("region", name="Where you are signed in").get_by_role("listitem")
        await entries.wait_for()  # just one
        assert "this browser" in await entries.inner_text()
    assert await page.get_by_role("button", name=re.compile("^Sign out Parlance")).count() == 0


@pytest.mark.parametrize("state", ["token", "expired"])
async def test_a_browser_that_was_closed_when_it_was_signed_out_elsewhere_stays_out(
    visitor: Window, browser: Browser, live: Process, state: str
) -> None:
    name = f"closed-{state}"
    page = await visitor.sign_up(name)
    async with window(browser, live) as other:
        there = await other.open()
        await sign_in(there, name)
        second = await other.tab()
        for tab in (there, second):
            await tab.locator(".side").wait_for()
            await tab.goto("about:blank")
        await show(page)
        devices = page.get_by_role("region", name="Where you are signed in")
        await devices.get_by_role("listitem").nth(1).wait_for()
        await devices.get_by_role("button", name="Sign out").click()
        await page.get_by_role("alertdialog").get_by_role("button", name="Sign out").click()
        await devices.get_by_role("listitem").nth(1).wait_for(state="detached")
        if state == "expired":
            await there.add_init_script(LET_EXPIRE)
        await there.goto(f"{other.url}/")
        said = {"token": "You were signed out here", "expired": "Your sign-in has ended"}
        await there.get_by_text(said[state]).wait_for()
        assert await there.evaluate("localStorage.getItem('parlance.tokens')") is None
        # A fresh window finds nobody either, and the person can sign in again.
        await second.goto(f"{other.url}/")
        await sign_in(second, name)
        await second.locator(".side").wait_for()
        forgive_refusals(other)
    await page.locator(".side").wait_for()
    assert (await stored(visitor, "/api/v1/me"))["name"] == name
    forgive_refusals(visitor)


async def test_a_new_password_keeps_this_browser_in_and_ends_the_others(
    visitor: Window, browser: Browser, live: Process
) -> None:
    page = await visitor.sign_up("new-password")
    second = await visitor.tab()
    await second.locator(".side").wait_for()
    async with window(browser, live) as other:
        there = await other.open()
        await sign_in(there, "new-password")
        await there.locator(".side").wait_for()
        await show(page)
        await page.get_by_label("Present password").fill("wrong password")
        await page.get_by_label("New password").fill(NEW_PASSWORD)
        await page.get_by_role("button", name="Change the password").click()
        await page.get_by_text("The password is not right.").wait_for()
        await page.get_by_label("Present password").fill(PASSWORD)
        await page.get_by_role("button", name="Change the password").click()
        await page.get_by_text("The password is changed.").wait_for()
        await there.get_by_text("You were signed out here").wait_for()
        await sign_in(there, "new-password", NEW_PASSWORD)
        await there.locator(".side").wait_for()
        forgive_refusals(other)
    for tab in (page, second):
        await tab.reload()
        await tab.locator(".side").wait_for()
    forgive_refusals(visitor)


async def test_memories_are_corrected_pinned_erased_and_switched_off(visitor: Window) -> None:
    page = await visitor.guest()
    persona = (await stored(visitor, "/api/v1/personas?scope=2"))["personas"][0]["id"]
    for text in ("住在上海", "<img src=x onerror='window.hit=1'>", "likes tea"):
        body = {"persona": persona, "text": text}
        await stored(visitor, "/api/v1/memories", method="POST", data=body)
    await show(page)
    memories = page.get_by_role("region", name="Memories")
    rows = memories.get_by_role("listitem")
    await rows.nth(2).wait_for()
    assert await rows.count() == 3
    assert await page.evaluate("window.hit") is None
    first = rows.filter(has_text="住在上海")
    await first.get_by_role("button", name="More about this memory").click()
    await page.get_by_role("menuitem", name="Edit").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("What is remembered").fill("住在北京")
    await form.get_by_role("button", name="Save").click()
    changed = rows.filter(has_text="住在北京")
    await changed.get_by_role("button", name="More about this memory").click()
    await page.get_by_role("menuitem", name="Always keep in mind").click()
    await changed.get_by_text("always kept in mind").wait_for()
    await rows.filter(has_text="tea").get_by_role("button", name="More about this memory").click()
    await page.get_by_role("menuitem", name="Erase").click()
    await rows.nth(2).wait_for(state="detached")
    kept = (await stored(visitor, "/api/v1/memories"))["memories"]
    assert [row["text"] for row in kept if row.get("pinned")] == ["住在北京"]
    await memories.get_by_role("button", name="Erase all").click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Erase all").click()
    await memories.get_by_text("Nothing is remembered about you.").wait_for()
    assert (await stored(visitor, "/api/v1/memories"))["memories"] == []
    await memories.get_by_label("Personas may remember things about me").uncheck()
    await page.reload()
    await show(page)
    assert not await memories.get_by_label("Personas may remember things about me").is_checked()
    assert (await stored(visitor, "/api/v1/memories/settings")) == {"off": True}


async def test_a_request_whose_token_is_refused_comes_again_with_a_new_one(visitor: Window) -> None:
    page = await visitor.guest()
    used: list[str] = []

    async def refuse_the_first(route: Route) -> None:
        used.append(route.request.headers["authorization"])
        if len(used) == 1:
            await route.fulfill(status=401, json={"error": {"code": 201, "reason": "expired"}})
        else:
            await route.continue_()

    await page.route("**/api/v1/memories/settings", refuse_the_first)
    await show(page)
    await page.get_by_text("Nothing is remembered about you.").wait_for()
    assert len(set(used)) == len(used) == 2
    forgive_refusals(visitor)


async def test_an_erased_account_leaves_nothing_in_the_browser(visitor: Window) -> None:
    page = await visitor.sign_up("to-be-erased")
    user = await visitor.user_id()
    second = await visitor.tab()
    await second.locator(".side").wait_for()
    await show(page)
    await page.get_by_role("button", name="Erase the account").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("Type to-be-erased to confirm").fill("to-be")
    await form.get_by_label("Password", exact=True).fill("wrong password")
    assert await form.get_by_role("button", name="Erase for good").is_disabled()
    await form.get_by_label("Type to-be-erased to confirm").fill("to-be-erased")
    await form.get_by_role("button", name="Erase for good").click()
    await form.get_by_text("The password is not right.").wait_for()
    await form.get_by_label("Password", exact=True).fill(PASSWORD)
    await form.get_by_role("button", name="Erase for good").click()
    await page.get_by_text("Your account is being erased.").wait_for()
    await second.get_by_label("Password", exact=True).wait_for()
    await second.close()
    for _ in range(100):
        keys = await page.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]")
        left = [key for key in keys if str(user) in key or "tokens" in key]
        if not left:
            break
        await asyncio.sleep(0.05)
    assert left == []
    await sign_in(page, "to-be-erased")
    await page.get_by_text("The name or the password is not right.").wait_for()
    forgive_refusals(visitor)


async def test_a_guest_is_warned_that_everything_is_lost(visitor: Window) -> None:
    page = await visitor.guest()
    await show(page)
    assert await page.get_by_label("Present password").count() == 0
    await page.get_by_role("button", name="Sign out", exact=True).click()
    await page.get_by_text("nobody can sign in to these conversations again").wait_for()
    await page.get_by_role("alertdialog").get_by_role("button", name="Cancel").click()
    assert await visitor.user_id() > 0


CRAMPED: Final = """() => [...document.querySelectorAll(".settings-part p")]
  .filter((text) => text.checkVisibility() && text.scrollWidth > text.clientWidth + 1)
  .map((text) => text.innerText)"""
"""Texts that stand out of the place they have."""


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_settings_fit_a_desktop_and_a_phone(
    browser: Browser, live: Process, theme: str
) -> None:
    for size in ((1280, 800), PHONE, (360, 640)):
        async with window(browser, live, size, color_scheme=theme) as visitor:
            page = await visitor.guest()
            await show(page)
            await shot(page, f"settings-{theme}-{size[0]}")
            assert not await overflows(page)
            assert await nameless(page) == []
            assert await page.evaluate(CRAMPED) == []
