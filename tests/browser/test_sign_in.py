"""Coming in, going out, and who one is then."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.chatting import holds
from tests.browser.harness import PHONE, Window, forgive_refusals, overflows, shot, window
from tests.e2e.harness import PASSWORD, Process, free_port

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

_numbers: Final = itertools.count(1)


def fresh_name() -> str:
    return f"sign-in-{next(_numbers)}"


async def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_label("Password", exact=True).fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def sign_out(page: Page, *, guest: bool = False) -> None:
    await page.evaluate("location.hash = '#/settings'")
    await page.get_by_role("button", name="Sign out", exact=True).click()
    if guest:
        sure = page.get_by_role("alertdialog").get_by_role("button", name="Sign out", exact=True)
        await sure.click()
    await page.get_by_label("Password", exact=True).wait_for()


async def test_who_signed_up_signs_out_and_in_again(visitor: Window) -> None:
    name = fresh_name()
    page = await visitor.sign_up(name)
    user = await visitor.user_id()
    await sign_out(page)
    assert await page.evaluate("localStorage.getItem('parlance.tokens')") is None
    await sign_in(page, name)
    await page.locator(".side").wait_for()
    assert await visitor.user_id() == user


async def test_a_wrong_password_is_told_and_the_name_stays(visitor: Window) -> None:
    page = await visitor.open()
    await sign_in(page, "nobody at all", "not the password")
    await page.get_by_text("The name or the password is not right.").wait_for()
    await holds(page.get_by_label("Name", exact=True), "nobody at all")
    forgive_refusals(visitor)


async def test_a_taken_name_is_told_beside_the_name(
    visitor: Window, browser: Browser, live: Process
) -> None:
    name = fresh_name()
    await visitor.sign_up(name)
    async with window(browser, live) as other:
        page = await other.open()
        await page.get_by_role("button", name="Create an account").click()
        await page.get_by_label("Name", exact=True).fill(name.upper())
        await page.get_by_label("Password", exact=True).fill(PASSWORD)
        await page.get_by_role("button", name="Create an account").click()
        await page.get_by_text("This name is taken").wait_for()
        field = page.get_by_label("Name", exact=True)
        assert await field.get_attribute("aria-invalid") == "true"
        assert await field.evaluate("field => document.activeElement === field")
        forgive_refusals(other)


async def test_what_the_server_would_refuse_is_told_before_it_is_asked(visitor: Window) -> None:
    page = await visitor.open()
    await page.get_by_role("button", name="Create an account").click()
    await page.get_by_label("Name", exact=True).fill("x")
    await page.get_by_label("Password", exact=True).fill("short")
    await page.get_by_role("button", name="Create an account").click()
    await page.get_by_text("A name has 2 to 32 visible characters.").wait_for()
    await page.get_by_text("A password has 8 to 256 characters.").wait_for()


async def test_a_password_can_be_looked_at_and_managers_know_the_fields(visitor: Window) -> None:
    page = await visitor.open()
    password = page.get_by_label("Password", exact=True)
    assert await password.get_attribute("autocomplete") == "current-password"
    assert await password.get_attribute("type") == "password"
    await page.get_by_role("button", name="Show what is typed").click()
    assert await password.get_attribute("type") == "text"
    await page.get_by_role("button", name="Create an account").click()
    assert await password.get_attribute("autocomplete") == "new-password"
    name = page.get_by_label("Name", exact=True)
    assert await name.get_attribute("autocomplete") == "username"


async def test_a_server_that_takes_nobody_says_so_once(browser: Browser, tmp_path: Path) -> None:
    closed = "\n[auth]\nguests = false\nregistration = false\n"
    server = Process(tmp_path, provider_port=free_port(), more=closed)
    server.start()
    try:
        async with window(browser, server) as visitor:
            page = await visitor.open()
            await page.get_by_role("button", name="Try it without an account").click()
            await page.get_by_text("This server takes no guests.").wait_for()
            assert await page.get_by_role("button", name="Try it without an account").count() == 0
            await page.get_by_role("button", name="Create an account").click()
            await page.get_by_label("Name", exact=True).fill("newcomer")
            await page.get_by_label("Password", exact=True).fill(PASSWORD)
            await page.get_by_role("button", name="Create an account").click()
            await page.get_by_text("New accounts are made by the administrator").wait_for()
            assert await page.get_by_role("button", name="Create an account").count() == 0
            forgive_refusals(visitor)
    finally:
        assert server.stop() == 0


async def test_what_one_tab_does_the_others_follow(visitor: Window) -> None:
    first = await visitor.guest()
    second = await visitor.tab()
    await second.locator(".side").wait_for()
    await sign_out(first, guest=True)
    await second.get_by_text("You signed out in another tab.").wait_for()
    await second.get_by_role("button", name="Try it without an account").click()
    await second.locator(".side").wait_for()
    await first.locator(".side").wait_for()


async def test_one_tab_too_many_says_so_and_goes_on_when_there_is_room(visitor: Window) -> None:
    first = await visitor.guest()
    user = await visitor.user_id()
    await first.evaluate(
        """(user) => {
          const held = new Promise((resolve) => { window.letGo = resolve; });
          for (let slot = 0; slot < 8; slot += 1) {
            navigator.locks.request(`parlance.${user}.state.${slot}`, () => held);
          }
        }""",
        user,
    )
    second = await visitor.tab()
    await second.get_by_text("Too many tabs are open.").wait_for()
    await first.evaluate("window.letGo()")
    await second.get_by_role("button", name="Go on as guest-").click()
    await second.locator(".side").wait_for()


async def test_two_accounts_in_one_browser_do_not_mix(visitor: Window) -> None:
    one, other = fresh_name(), fresh_name()
    page = await visitor.sign_up(one)
    await sign_out(page)
    await visitor.sign_up(other)
    await page.evaluate("location.hash = '#/settings'")
    await page.get_by_text(f"@{other}").wait_for()
    assert await page.get_by_text(f"@{one}", exact=True).count() == 0
    keys = await page.evaluate("Object.keys(localStorage).filter(key => key.includes('.state.'))")
    assert len({key.split(".")[1] for key in keys}) == 2
    # A request that is on its way as somebody signs out comes too late.
    forgive_refusals(visitor)


async def test_the_language_of_the_browser_can_be_changed_before_signing_in(
    browser: Browser, live: Process
) -> None:
    async with window(browser, live, language="zh-CN") as visitor:
        page = await visitor.open()
        await page.get_by_role("button", name="注册账号").wait_for()
        await page.get_by_role("radio", name="English").check(force=True)
        await page.get_by_role("button", name="Create an account").wait_for()
        await page.reload()
        await page.get_by_role("button", name="Create an account").wait_for()
        assert await page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_signing_in_fits_a_desktop_and_a_phone(
    browser: Browser, live: Process, theme: str
) -> None:
    for size in ((1280, 800), PHONE, (360, 560)):
        async with window(browser, live, size, color_scheme=theme) as visitor:
            page = await visitor.open()
            await page.get_by_role("button", name="Create an account").click()
            await shot(page, f"sign-in-{theme}-{size[0]}")
            assert not await overflows(page)
