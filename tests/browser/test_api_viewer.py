"""The page /docs: the document of the HTTP API to read, and requests to try."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.browser.harness import DESKTOP, PHONE, Window, overflows, shot, window
from tests.e2e.harness import Process

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = f"{MARKUP}<script>alert(2)</script> [link](javascript:alert(3)) `{MARKUP}`"


@pytest_asyncio.fixture(loop_scope="session")
async def reader(browser: Browser, live: Process) -> AsyncIterator[Window]:
    """A fresh browser for a server without visitors."""
    async with window(browser, live) as found:
        yield found


async def read(reader: Window) -> Page:
    """Open the page; on return the document is shown."""
    await reader.page.goto(f"{reader.url}/docs")
    await reader.page.locator(".opblock-tag").first.wait_for()
    return reader.page


async def document(page: Page, url: str) -> dict[str, Any]:
    found: dict[str, Any] = await (await page.request.get(f"{url}/api/openapi.json")).json()
    return found


def me(page: Page) -> Locator:
    """Return the block of GET /api/v1/me, once its tag is open."""
    return page.locator("#operations-people-get_me")


async def open_me(page: Page) -> Locator:
    await page.locator("#operations-tag-people").click()
    await me(page).locator(".opblock-summary-control").click()
    await me(page).locator(".responses-table").first.wait_for()
    return me(page)


async def ask_who_one_is(page: Page) -> Locator:
    """Try the request; return what is shown of the answer."""
    block = await open_me(page)
    await block.get_by_role("button", name="Try it out").click()
    await block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tr.response")
    await answer.wait_for()
    return answer


async def test_its_scripts_are_held_to_what_all_pages_are_held_to(reader: Window) -> None:
    asked = reader.page.request
    policies = {}
    for path in ("docs", "dashboard"):
        policy = (await asked.get(f"{reader.url}/{path}")).headers["content-security-policy"]
        policies[path] = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    docs, dashboard = policies["docs"], policies["dashboard"]
    assert docs["script-src"] == docs["style-src"] == ["'self'"]
    assert docs["require-trusted-types-for"] == ["'script'"]
    assert {name for name in docs if docs[name] != dashboard[name]} == {"trusted-types"}
    assert (docs["trusted-types"], dashboard["trusted-types"]) == (["dompurify"], ["'none'"])


async def test_every_operation_of_the_document_is_shown(reader: Window) -> None:
    page = await read(reader)
    paths = (await document(page, reader.url))["paths"]
    count = sum(len(operations) for operations in paths.values())
    assert count > 50
    for tag in await page.locator(".opblock-tag").all():
        await tag.click()
    await page.locator(".opblock").nth(count - 1).wait_for()
    assert await page.locator(".opblock").count() == count
    shown = await page.locator(".opblock-summary-path").evaluate_all(
        "all => all.map((each) => each.dataset.path)"
    )
    assert set(shown) == set(paths)


async def test_a_request_is_tried_with_a_token_that_is_forgotten_afterwards(
    reader: Window, live: Process
) -> None:
    account = await live.newcomer(f"安娜 {MARKUP}")
    token = await account.token(False)
    page = await read(reader)
    refused = await ask_who_one_is(page)
    assert "401" in await refused.locator(".response-col_status").inner_text()
    await page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".dialog-ux")
    await dialog.locator("#auth-bearer-value").fill(token)
    await dialog.get_by_role("button", name="Apply credentials").first.click()
    await dialog.get_by_role("button", name="Close").first.click()
    async with page.expect_request(f"{reader.url}/api/v1/me") as asking:
        await me(page).get_by_role("button", name="Execute").click()
    assert (await (await asking.value).all_headers())["authorization"] == f"Bearer {token}"
    answer = me(page).locator(".live-responses-table tr.response")
    await answer.get_by_text("200", exact=True).first.wait_for()
    assert f"安娜 {MARKUP}" in await answer.inner_text()
    assert await page.locator("img[src=x]").count() == 0
    kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert token not in kept + page.url
    page = await read(reader)
    again = await ask_who_one_is(page)
    assert "401" in await again.locator(".response-col_status").inner_text()
    reader.trouble[:] = [line for line in reader.trouble if "401" not in line]


async def test_descriptions_are_text_with_code_and_never_markup(reader: Window) -> None:
    page = reader.page
    given = await document(page, reader.url)
    given["info"] |= {"title": HOSTILE, "description": f"{HOSTILE}\n\nSecond `code` here."}
    for operations in given["paths"].values():
        for one in operations.values():
            one |= {"summary": HOSTILE, "description": HOSTILE}
            for answer in one["responses"].values():
                answer["description"] = HOSTILE
    for schema in given["components"]["schemas"].values():
        schema |= {"title": HOSTILE, "description": HOSTILE}
    await page.route("**/api/openapi.json", lambda route: route.fulfill(json=given))
    await read(reader)
    block = await open_me(page)
    about = page.locator(".info .markdown")
    assert await about.locator("p").count() == 2
    assert await about.locator("code").all_inner_texts() == [MARKUP, "code"]
    assert MARKUP in await block.locator(".opblock-description").inner_text()
    assert await page.locator("img[src=x], main script, a[href^=javascript]").count() == 0


async def test_what_is_ours_has_two_languages(reader: Window) -> None:
    page = await read(reader)
    assert "press Authorize" in await page.locator("#hint").inner_text()
    await page.get_by_role("button", name="中文").click()
    assert "再点 Authorize 粘贴" in await page.locator("#hint").inner_text()
    assert await page.locator("#hint").get_attribute("lang") == "zh-CN"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
async def test_it_fits_its_window_in_light_and_dark(
    browser: Browser, live: Process, name: str, size: tuple[int, int], scheme: str
) -> None:
    async with window(browser, live, size, color_scheme=scheme) as reader:
        page = await read(reader)
        dark = "document.documentElement.classList.contains('dark-mode')"
        assert await page.evaluate(dark) is (scheme == "dark")
        await shot(page, f"docs-{name}-{scheme}")
        await open_me(page)
        assert not await overflows(page)
        await shot(page, f"docs-open-{name}-{scheme}")
