"""Personas in the browser: found, talked to, added, changed, removed, and never run."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser import harness
from tests.browser.chatting import holds
from tests.browser.harness import PHONE, Window, nameless, overflows, shot, window
from tests.e2e.harness import PASSWORD, Process, free_port

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

IN_TALK: Final = re.compile(r"#/c/\d+")
# One red point.
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)
SVG: Final = b"""<svg xmlns="http://www.w3.org/2000/svg"><script>parent.hit = 1</script></svg>"""
ONE_MODEL: Final = """
[[ai.providers]]
name = "fixed"
base_url = "http://127.0.0.1:9/v1"
api_key = "sk-of-the-test"
models = ["the-only-one"]
"""
SCRIPT: Final = """<img src=x onerror="window.hit=1"><script>window.hit=1</script>"""


async def gallery(visitor: Window) -> Page:
    """A guest who looks at the personas."""
    page = await visitor.guest()
    await show(page)
    return page


async def show(page: Page) -> None:
    await page.evaluate("location.hash = '#/personas'")
    await page.locator("main .persona-card").first.wait_for()


async def names(page: Page) -> list[str]:
    return await page.locator("main .persona-name").all_inner_texts()


async def shows(page: Page, *expected: str) -> None:
    """Wait until the gallery shows these personas and no others."""
    await harness.shows(page.locator("main .persona-name"), *expected)


async def add(page: Page, name: str, *, picture: bytes = b"", **texts: str) -> None:
    """Add a persona in the form."""
    await page.get_by_role("button", name="Add a persona").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("Name of the persona").fill(name)
    for label, text in texts.items():
        await form.get_by_label(label.replace("_", " ")).fill(text)
    if picture:
        file: FilePayload = {"name": "me.png", "mimeType": "image/png", "buffer": picture}
        await form.locator(".avatar-picker input[type=file]").set_input_files(file)
        await form.locator(".avatar img").wait_for()
    await form.get_by_role("button", name="Save").click()
    await form.wait_for(state="detached")


async def choose(page: Page, name: str, what: str) -> None:
    """Choose something of a persona's menu."""
    await page.locator("main").get_by_role("button", name=f"More about {name}").click()
    await page.get_by_role("menuitem", name=what).click()


async def token(visitor: Window) -> str:
    tokens = json.loads(await visitor.page.evaluate("localStorage.getItem('parlance.tokens')"))
    return str(tokens["access_token"])


async def stored(visitor: Window, path: str, **options: Any) -> Any:
    """Ask the server as who is signed in."""
    headers = {"Authorization": f"Bearer {await token(visitor)}"}
    answer = await visitor.context.request.fetch(f"{visitor.url}{path}", headers=headers, **options)
    assert answer.ok, await answer.text()
    return await answer.json()


async def test_a_persona_with_a_picture_outlives_a_reload_and_a_restart(
    browser: Browser, tmp_path: Path
) -> None:
    server = Process(tmp_path, provider_port=free_port())
    server.start()
    async with window(browser, server) as visitor:
        page = await gallery(visitor)
        await add(page, "小测试", picture=PNG, Greeting="你好!", Tags="测试，coding")
        card = page.locator("main .persona-card", has_text="小测试")
        assert await card.locator(".persona-tags").inner_text() == "测试 · coding"
        await page.reload()
        await card.wait_for()
        assert server.stop() == 0
        server.start()
        await page.reload()
        await card.locator("img").wait_for()
        drawn = await card.locator("img").evaluate(
            "image => image.decode().then(() => image.naturalWidth)"
        )
        assert drawn == 1
    assert server.stop() == 0


async def test_what_is_changed_elsewhere_is_told_and_not_overwritten(visitor: Window) -> None:
    page = await gallery(visitor)
    await add(page, "Before", Greeting="Hello", What_it_is_like="Kind.")
    found = await stored(visitor, "/api/v1/personas?scope=0")
    (row,) = found["personas"]
    await choose(page, "Before", "Edit")
    form = page.get_by_role("dialog")
    await form.get_by_label("Greeting").fill("Good day")
    path = f"/api/v1/personas/{row['id']}"
    await stored(visitor, path, method="PUT", data={"name": "After"})
    await form.get_by_text("This persona was changed elsewhere").wait_for()
    await form.get_by_role("button", name="Save").click()
    await form.wait_for(state="detached")
    row = await stored(visitor, path)
    assert (row["name"], row["greeting"], row["prompt"]) == ("After", "Good day", "Kind.")


async def test_what_is_removed_elsewhere_can_be_saved_as_a_new_one(visitor: Window) -> None:
    page = await gallery(visitor)
    await add(page, "Short-lived")
    (row,) = (await stored(visitor, "/api/v1/personas?scope=0"))["personas"]
    await choose(page, "Short-lived", "Edit")
    form = page.get_by_role("dialog")
    await form.get_by_label("Greeting").fill("Again")
    path = f"/api/v1/personas/{row['id']}"
    await page.evaluate(
        """async ([path, token]) => {
          await fetch(path, { method: "DELETE", headers: { Authorization: `Bearer ${token}` } });
        }""",
        [
            path,
            json.loads(await page.evaluate("localStorage.getItem('parlance.tokens')"))[
                "access_token"
            ],
        ],
    )
    await form.get_by_role("button", name="Save").click()
    await form.get_by_role("button", name="Save as a new persona").click()
    await form.wait_for(state="detached")
    (fresh,) = (await stored(visitor, "/api/v1/personas?scope=0"))["personas"]
    assert fresh["id"] != row["id"]
    assert (fresh["name"], fresh["greeting"]) == ("Short-lived", "Again")


async def test_a_removed_persona_is_gone_after_a_yes(visitor: Window) -> None:
    page = await gallery(visitor)
    await add(page, "Unwanted")
    await choose(page, "Unwanted", "Delete")
    await page.get_by_role("alertdialog").get_by_role("button", name="Cancel").click()
    assert "Unwanted" in await names(page)
    await choose(page, "Unwanted", "Delete")
    await page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Talk to Unwanted").wait_for(state="detached")
    assert (await stored(visitor, "/api/v1/personas?scope=0"))["personas"] == []


async def test_names_and_tags_are_searched_in_both_languages(visitor: Window) -> None:
    page = await gallery(visitor)
    everybody = await names(page)
    search = page.get_by_label("Search names and tags")
    await search.fill("诗词")
    await shows(page, "苏婉")
    await search.fill("ＣＯＤＩＮＧ")
    await shows(page, "Max")
    await search.fill("小光")
    await shows(page, "小光")
    await search.fill("编程 阿")
    await shows(page, "阿锐")
    await search.fill("no such persona")
    await page.get_by_text("No persona has “no such persona” in its name or tags.").wait_for()
    await search.press("Escape")
    await shows(page, *everybody)


async def test_letters_under_composition_are_not_searched_yet(visitor: Window) -> None:
    page = await gallery(visitor)
    everybody = len(await names(page))
    await page.get_by_label("Search names and tags").focus()
    session = await visitor.context.new_cdp_session(page)
    await session.send(
        "Input.imeSetComposition", {"text": "xiao", "selectionStart": 4, "selectionEnd": 4}
    )
    assert len(await names(page)) == everybody
    await session.send("Input.insertText", {"text": "小"})
    await page.locator("main .persona-card").nth(1).wait_for(state="detached")
    await shows(page, "小光")


async def test_scripts_in_what_a_persona_says_of_itself_are_text(visitor: Window) -> None:
    page = await gallery(visitor)
    # A name has up to 64 characters.
    await add(page, SCRIPT[:64], Greeting=SCRIPT, Tags=SCRIPT[:32])
    name = page.locator("main .persona-name", has_text="<img src=x")
    assert await name.inner_text() == " ".join(SCRIPT[:64].split())
    assert (
        await page.locator(
            "main .persona-card .persona-name img, main .persona-greeting img"
        ).count()
        == 0
    )
    await page.get_by_role("button", name="Talk to <img").click()
    await page.locator("main").get_by_text("onerror").first.wait_for()
    assert await page.evaluate("window.hit") is None


@pytest.mark.parametrize("kind", ["image/svg+xml", "image/png", "text/html"])
async def test_a_file_that_is_no_picture_is_refused_at_once(visitor: Window, kind: str) -> None:
    page = await gallery(visitor)
    await page.get_by_role("button", name="Add a persona").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("Name of the persona").fill("x")
    file: FilePayload = {"name": "x.svg", "mimeType": kind, "buffer": SVG}
    await form.locator(".avatar-picker input[type=file]").set_input_files(file)
    await form.get_by_text("This file is no picture that can be shown.").wait_for()
    assert await form.locator(".avatar img").count() == 0


async def test_a_stored_picture_that_cannot_be_drawn_is_the_name_instead(visitor: Window) -> None:
    page = await gallery(visitor)
    avatar = await page.evaluate(
        """async ([token, body]) => {
          const headers = { Authorization: `Bearer ${token}`, "Content-Type": "image/png" };
          const options = { method: "PUT", headers, body: Uint8Array.from(body) };
          return (await (await fetch("/api/v1/avatars", options)).json()).id;
        }""",
        [await token(visitor), list(PNG[:8] + SCRIPT.encode())],
    )
    data = {"name": "无图", "avatar": avatar}
    await stored(visitor, "/api/v1/personas", method="POST", data=data)
    face = page.locator("main .persona-card", has_text="无图").locator(".avatar")
    await face.get_by_text("无图").wait_for()
    assert await page.evaluate("window.hit") is None


async def test_a_large_picture_is_made_square_and_small_here(visitor: Window) -> None:
    page = await gallery(visitor)
    made = await page.evaluate("""async () => {
      const { squarePicture, MAX_BYTES } = await import("/app/picture.js");
      const canvas = Object.assign(document.createElement("canvas"), { width: 1600, height: 900 });
      const pen = canvas.getContext("2d");
      const noise = pen.createImageData(1600, 900);
      let seed = 1;
      for (let i = 0; i < noise.data.length; i += 1) {
        seed = (seed * 48271) % 2147483647;
        noise.data[i] = i % 4 === 3 ? 255 : (seed >> 8) & 255;
      }
      pen.putImageData(noise, 0, 0);
      const large = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      const small = await squarePicture(large);
      const { width, height } = await createImageBitmap(small);
      return { before: large.size, after: small.size, most: MAX_BYTES, width, height };
    }""")
    assert made["after"] <= made["most"] < made["before"]
    assert made["width"] == made["height"] <= 512


async def test_bounds_are_told_while_one_types_and_nothing_is_sent_beyond(visitor: Window) -> None:
    page = await gallery(visitor)
    await page.get_by_role("button", name="Add a persona").click()
    form = page.get_by_role("dialog")
    name = form.get_by_label("Name of the persona")
    await name.fill("字" * 60)
    await form.get_by_text("60 of 64").wait_for()
    await name.fill("字" * 66)
    await form.get_by_text("2 characters too many.").wait_for()
    await form.get_by_role("button", name="Save").click()
    await form.locator("[name=name]:focus").wait_for()
    await name.fill("Fine")
    await form.get_by_label("Tags").fill(",".join(map(str, range(17))))
    await form.get_by_text("Model and temperature").click()
    await form.get_by_label("Temperature").fill("9")
    await form.get_by_role("button", name="Save").click()
    await form.locator("[name=tags]:focus").wait_for()
    # Nothing of it is below the buttons.
    free = """(field) => {
      const { x, bottom } = field.getBoundingClientRect();
      return document.elementFromPoint(x + 9, bottom - 2) === field;
    }"""
    assert await form.get_by_label("Tags").evaluate(free)
    assert await form.get_by_label("Tags").get_attribute("aria-invalid") == "true"
    assert await form.get_by_label("Temperature").get_attribute("aria-invalid") == "true"
    assert (await stored(visitor, "/api/v1/personas?scope=0"))["personas"] == []


async def test_an_unknown_model_is_told_beside_its_field(browser: Browser, tmp_path: Path) -> None:
    server = Process(tmp_path, more=ONE_MODEL)
    server.start()
    async with window(browser, server) as visitor:
        page = await gallery(visitor)
        await page.get_by_role("button", name="Add a persona").click()
        form = page.get_by_role("dialog")
        await form.get_by_label("Name of the persona").fill("Odd")
        await form.get_by_text("Model and temperature").click()
        await form.get_by_label("Model", exact=True).fill("nobody/has-this")
        await form.get_by_role("button", name="Save").click()
        await form.get_by_text("There is no such model. Known: the-only-one").wait_for()
    assert server.stop() == 0


async def test_closing_a_changed_form_asks_first(visitor: Window) -> None:
    page = await gallery(visitor)
    await page.get_by_role("button", name="Add a persona").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("Greeting").fill("Half a sentence")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Go on editing").click()
    await holds(form.get_by_label("Greeting"), "Half a sentence")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Discard").click()
    await form.wait_for(state="detached")


async def test_a_conversation_goes_on_unless_a_new_one_is_wanted(visitor: Window) -> None:
    page = await gallery(visitor)
    await page.get_by_role("button", name="Talk to Nova").click()
    await page.wait_for_url(IN_TALK)
    first = await page.evaluate("location.hash")
    await show(page)
    await page.get_by_role("button", name="Talk to Nova").click()
    await page.wait_for_url(IN_TALK)
    assert await page.evaluate("location.hash") == first
    await show(page)
    await choose(page, "Nova", "New conversation")
    await page.wait_for_url(IN_TALK)
    assert await page.evaluate("location.hash") != first


async def test_a_card_comes_in_and_goes_out_again(visitor: Window) -> None:
    page = await gallery(visitor)
    card = {
        "spec": "chara_card_v2",
        "spec_version": "2.0",
        "data": {"name": "卡片", "description": "Calm.", "first_mes": "In.", "tags": ["card"]},
    }
    await page.get_by_role("button", name="Add a persona").click()
    form = page.get_by_role("dialog")
    wrong: FilePayload = {"name": "x.json", "mimeType": "application/json", "buffer": b"{}"}
    field = form.get_by_label("Import a card").and_(form.locator("input"))
    await field.set_input_files(wrong)
    await form.get_by_text("This file is no character card.").wait_for()
    right: FilePayload = {
        "name": "<img src=x onerror=alert(1)>.json",
        "mimeType": "application/json",
        "buffer": json.dumps(card).encode(),
    }
    await field.set_input_files(right)
    await form.wait_for(state="detached")
    await page.get_by_text("卡片 has been added.").wait_for()
    async with page.expect_download() as coming:
        await choose(page, "卡片", "Save as a card (JSON)")
    path = await (await coming.value).path()
    saved = json.loads(await asyncio.to_thread(path.read_text, "utf-8"))
    assert (saved["data"]["name"], saved["data"]["first_mes"]) == ("卡片", "In.")
    harness.forgive_refusals(visitor)


async def test_what_others_share_is_a_group_of_its_own(
    visitor: Window, browser: Browser, live: Process
) -> None:
    page = await gallery(visitor)
    async with window(browser, live) as other:
        await gallery(other)
        data = {"name": "Shared by another", "scope": 1, "prompt": "A secret."}
        await stored(other, "/api/v1/personas", method="POST", data=data)
    await page.reload()
    team = page.get_by_role("region", name="Shared by others")
    await team.get_by_role("button", name="Talk to Shared by another").wait_for()
    await team.get_by_role("button", name="More about Shared by another").click()
    assert await page.get_by_role("menuitem", name="Edit").count() == 0


async def test_a_thousand_personas_are_drawn_as_they_come_into_view(visitor: Window) -> None:
    page = await gallery(visitor)
    seen = await page.evaluate("""async () => {
      const { grouped } = await import("/app/persona_search.js");
      const all = Array.from({ length: 1000 }, (_, i) => (
        { id: i + 1, owner: 7, name: `角色 ${i}`, tags: [`tag${i % 10}`], scope: 0, updated: i }
      ));
      const asked = [[all, 7], [all, 7, "角色 999"], [all, 7, "TAG3"], [all, 8]];
      return asked.map((each) => grouped(...each).map(({ id, personas }) => [id, personas.length]));
    }""")
    assert seen == [[["own", 1000]], [["own", 1]], [["own", 100]], []]
    await page.evaluate(
        """async (token) => {
          const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
          const add = (i) => fetch("/api/v1/personas",
            { method: "POST", headers, body: JSON.stringify({ name: `多 ${i}` }) });
          for (let i = 0; i < 130; i += 10) {
            await Promise.all(Array.from({ length: 10 }, (_, j) => add(i + j)));
          }
        }""",
        await token(visitor),
    )
    await page.reload()
    cards = page.get_by_role("region", name="Yours").locator(".persona-card")
    await cards.nth(59).wait_for()
    assert await cards.count() < 130
    while await cards.count() < 130:
        await cards.last.scroll_into_view_if_needed()
        await page.wait_for_timeout(20)


async def test_keys_alone_lead_from_signing_up_to_the_first_message(visitor: Window) -> None:
    page = await visitor.open()
    keys = page.keyboard

    async def tab_to(name: str) -> None:
        for _ in range(60):
            active = await page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.innerText || ''"
            )
            if active.strip() == name:
                return
            await keys.press("Tab")
        raise AssertionError(f"no key leads to {name}")

    await tab_to("Create an account")
    await keys.press("Enter")
    await keys.type("only-keys")
    await keys.press("Tab")
    await keys.press("Tab")
    await keys.type(PASSWORD)
    await keys.press("Enter")
    await page.locator(".side").wait_for()
    await page.get_by_role("button", name="Talk to Iris").wait_for()
    await tab_to("Talk to Iris")
    await keys.press("Enter")
    await page.wait_for_url(IN_TALK)
    await page.get_by_label("Write a message").first.wait_for()
    for _ in range(60):
        if await page.evaluate("document.activeElement.tagName") in ("TEXTAREA", "INPUT"):
            break
        await keys.press("Tab")
    await keys.type("Hello by keys")
    await keys.press("Enter")
    await page.get_by_text("Hello by keys").last.wait_for()


async def test_a_form_that_is_put_away_gives_the_focus_back(visitor: Window) -> None:
    page = await gallery(visitor)
    button = page.get_by_role("button", name="Add a persona")
    await button.press("Enter")
    await page.get_by_role("dialog").get_by_label("Name of the persona").wait_for()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="detached")
    assert await button.evaluate("(button) => button === document.activeElement")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_personas_fit_a_desktop_and_a_phone(
    browser: Browser, live: Process, theme: str
) -> None:
    for size, language in (((1280, 800), "en-US"), (PHONE, "zh-CN"), ((360, 640), "en-US")):
        async with window(browser, live, size, language=language, color_scheme=theme) as visitor:
            page = await visitor.open()
            demo = "Try it without an account" if language == "en-US" else "无需账号，先试一试"
            await page.get_by_role("button", name=demo).click()
            await page.locator(".side").wait_for()
            await page.locator(".persona-card:visible").nth(3).wait_for()
            await shot(page, f"welcome-{theme}-{size[0]}")
            assert not await overflows(page)
            await show(page)
            await shot(page, f"personas-{theme}-{size[0]}")
            assert not await overflows(page)
            await page.locator(".personas-head .button.primary").click()
            await page.get_by_role("dialog").locator("form").wait_for()
            await shot(page, f"persona-form-{theme}-{size[0]}")
            assert not await overflows(page)
            assert await nameless(page) == []
