"""Writing in the web app: the field, what belongs to it, and what one may do with a message."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
import pytest_asyncio

from bench.provider.server import ScriptedProvider
from clients.client import Client
from clients.events import TypingSeen
from protocol.codes import ConvKind, EndReason, Role, Scope, TypingState
from protocol.rows import ConvSet, GenOpt, Msg, Persona
from tests.browser.chatting import holds
from tests.browser.harness import PHONE, SLOW, Window, overflows, shot, window
from tests.e2e.harness import Process, answers, first, group, rows
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAYLOAD: Final = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@asynccontextmanager
async def person(visitor: Window, server: Process, nick: str = "Ada") -> AsyncIterator[Client]:
    """Sign a newcomer in, in the browser and with a client beside it, as another device."""
    account = await server.newcomer(nick)
    kept = msgspec.to_builtins(account.tokens)
    script = f"localStorage.setItem('parlance.tokens', {json.dumps(json.dumps(kept))})"
    await visitor.page.goto(f"{visitor.url}/icon.svg")
    await visitor.page.evaluate(script)
    async with server.online(account) as client:
        yield client


async def persona(client: Client, name: str = "Nova", model: str = "tokens=20") -> int:
    """Make a persona; return its id."""
    made = await client.save_persona(
        Persona(name=name, prompt="You help.", scope=Scope.PRIVATE, opt=GenOpt(model=model))
    )
    return made.p.id or 0


async def talk(client: Client, model: str = "tokens=20") -> int:
    """Begin a conversation with a persona; return its id."""
    info = await client.create_conversation(ConvKind.AI, persona=await persona(client, model=model))
    return info.row.id or 0


async def room(client: Client, *others: int) -> int:
    """Make a room and watch it; return its id."""
    conv = await group(client, *others)
    await client.watch([conv])
    return conv


async def show(visitor: Window, conv: int, label: str = "Write a message") -> Locator:
    """Open a conversation; return the field."""
    page = await visitor.open(f"/c/{conv}")
    field = page.get_by_label(label)
    await field.wait_for()
    return field


def message(page: Page, text: str) -> Locator:
    """Return the message that shows a text."""
    return page.locator("article.message", has_text=text).first


async def do(page: Page, row: Locator, action: str) -> None:
    """Choose from what may be done with a message."""
    await row.hover()
    await row.get_by_role("button", name="What to do with the message").click()
    await page.get_by_role("menuitem", name=action, exact=True).click()


def siblings(client: Client, conv: int, seq: int) -> list[int]:
    """Return the answers that stand beside one, itself included; none when it is the only one."""
    row = next(row for row in rows(client, conv) if row.seq == seq)
    return list(row.x.alts or ()) if row.x is not None else []


async def stored(client: Client, conv: int, text: str) -> Msg:
    """Return the message with a text once it has arrived at a client."""
    await eventually(lambda: text in [row.text for row in rows(client, conv)])
    return next(row for row in rows(client, conv) if row.text == text)


async def test_enter_and_the_button_send_and_shift_with_enter_breaks_the_line(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        field = await show(visitor, conv)
        send = visitor.page.get_by_role("button", name="Send", exact=True)
        assert await send.is_disabled()
        await field.press_sequentially("one")
        await field.press("Shift+Enter")
        await field.press_sequentially("two")
        await field.press("Enter")
        await stored(ada, conv, "one\ntwo")
        await holds(field, "")
        await field.fill("  \n ")
        assert await send.is_disabled()
        await field.press("Enter")
        await field.fill("\n\n  three\x1b \n\n")
        await send.click()
        await stored(ada, conv, "  three")
        assert [row.text for row in rows(ada, conv)] == ["one\ntwo", "  three"]


async def test_half_a_word_of_an_input_method_is_never_sent(visitor: Window, live: Process) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        field = await show(visitor, conv)
        await field.focus()
        keys = await visitor.context.new_cdp_session(visitor.page)
        for typed in ("n", "ni", "ni'hao"):
            await keys.send(
                "Input.imeSetComposition",
                {"text": typed, "selectionStart": len(typed), "selectionEnd": len(typed)},
            )
        for kind in ("rawKeyDown", "keyUp"):  # the method takes the word with Enter
            key = {"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
            await keys.send("Input.dispatchKeyEvent", key)
        await keys.send("Input.insertText", {"text": "你好"})
        await holds(field, "你好")
        assert rows(ada, conv) == []
        await field.press_sequentially("，世界")
        await field.press("Enter")
        await stored(ada, conv, "你好，世界")
        assert len(rows(ada, conv)) == 1


async def test_drafts_survive_a_reload_each_in_its_conversation(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        here, there = await room(ada), await room(ada)
        await (await show(visitor, here)).fill("半句话 here")
        await (await show(visitor, there)).fill("half there")
        await visitor.page.reload()
        await holds(await show(visitor, there), "half there")
        field = await show(visitor, here)
        await holds(field, "半句话 here")
        await field.press("Enter")
        await stored(ada, here, "半句话 here")
        await visitor.page.reload()
        await holds(await show(visitor, here), "")


async def test_a_message_is_quoted_and_escape_takes_the_quote_off(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        quoted = await ada.send(conv, f"to be quoted {PAYLOAD}")
        field = await show(visitor, conv)
        page = visitor.page
        bar = page.locator(".composer-bar")
        await do(page, message(page, "to be quoted"), "Quote")
        await bar.wait_for()
        assert PAYLOAD in await bar.inner_text()
        await shot(page, "composer-quote")
        assert await field.evaluate("(field) => field === document.activeElement")
        await field.press("Escape")
        await bar.wait_for(state="detached")
        await do(page, message(page, "to be quoted"), "Quote")
        await field.fill("an answer")
        await field.press("Enter")
        row = await stored(ada, conv, "an answer")
        assert row.x is not None
        assert row.x.quote == quoted.seq
        await bar.wait_for(state="detached")


async def test_arrow_up_changes_the_last_message_and_escape_brings_the_draft_back(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        sent = await ada.send(conv, "frist")
        field = await show(visitor, conv)
        page = visitor.page
        await message(page, "frist").wait_for()
        await field.press("ArrowUp")
        await holds(field, "frist")
        await page.get_by_text("Changing a message").wait_for()
        await field.press("Escape")
        await holds(field, "")
        await field.fill("a draft")
        await do(page, message(page, "frist"), "Edit")
        await holds(field, "frist")
        await field.fill("first")
        await page.get_by_role("button", name="Save", exact=True).click()
        await eventually(lambda: rows(ada, conv)[0].text == "first")
        await page.locator(".composer-bar").wait_for(state="detached")
        await holds(field, "a draft")
        assert [row.seq for row in rows(ada, conv)] == [sent.seq]


async def test_what_was_changed_elsewhere_meanwhile_is_not_overwritten(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        sent = await ada.send(conv, "first")
        field = await show(visitor, conv)
        await message(visitor.page, "first").wait_for()
        await field.press("ArrowUp")
        await field.fill("mine")
        await ada.edit(conv, sent.seq, "theirs")
        await message(visitor.page, "theirs").wait_for()
        await field.press("Enter")
        await visitor.page.locator(".toast.error").wait_for()
        await holds(field, "mine")
        assert rows(ada, conv)[0].text == "theirs"


async def test_a_message_is_taken_back_once_that_was_confirmed(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        await ada.send(conv, "too much said")
        await show(visitor, conv)
        page = visitor.page
        row = page.locator("article.message").first
        await do(page, row, "Take back")
        dialog = page.get_by_role("alertdialog")
        await dialog.get_by_role("button", name="Cancel").click()
        assert rows(ada, conv)[0].text == "too much said"
        await do(page, row, "Take back")
        await dialog.get_by_role("button", name="Take back").click()
        await eventually(lambda: rows(ada, conv)[0].text == "")
        await message(page, "too much said").wait_for(state="detached")


async def test_text_and_link_of_a_message_are_copied(visitor: Window, live: Process) -> None:
    await visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    async with person(visitor, live) as ada:
        conv = await room(ada)
        sent = await ada.send(conv, f"复制 **this** {PAYLOAD}")
        await show(visitor, conv)
        page = visitor.page
        for action, expected in (
            ("Copy", f"复制 **this** {PAYLOAD}"),
            ("Copy link", f"{visitor.url}/#/c/{conv}/at/{sent.seq}"),
        ):
            await do(page, message(page, "复制"), action)
            await page.get_by_text("Copied").last.wait_for()
            assert await page.evaluate("navigator.clipboard.readText()") == expected


async def test_a_running_answer_is_stopped_and_asked_for_again(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await talk(ada, SLOW)
        field = await show(visitor, conv)
        page = visitor.page
        stop = page.get_by_role("button", name="Stop", exact=True)
        await field.fill("tell me")
        await field.press("Enter")
        await stop.first.wait_for()
        # Another message may be written meanwhile.
        await field.fill("and")
        await page.get_by_role("button", name="Send", exact=True).wait_for()
        await field.fill("")
        await page.locator("article.message.streaming").wait_for()
        await page.locator(".composer").get_by_role("button", name="Stop", exact=True).click()
        await eventually(lambda: answers(ada, conv))
        (cut,) = answers(ada, conv)
        assert cut.x is not None
        assert cut.x.finish == EndReason.CANCELLED
        await page.locator(".composer").get_by_role("button", name="Send").wait_for()
        await do(page, page.locator(f"article.message[data-seq='{cut.seq}']"), "Answer again")
        await eventually(lambda: len(answers(ada, conv)) == 2)
        again = answers(ada, conv)[-1]
        await eventually(lambda: siblings(ada, conv, again.seq) == [cut.seq, again.seq])


async def test_an_answer_that_was_cut_goes_on(visitor: Window, live: Process) -> None:
    async with person(visitor, live) as ada:
        conv = await talk(ada, SLOW)
        await ada.watch([conv])
        sent = await ada.send(conv, "tell me")
        await eventually(
            lambda: sent.sid in ada.streams.running and ada.streams.running[sent.sid].text()
        )
        await ada.cancel(sent.sid or 0)
        await eventually(lambda: answers(ada, conv))
        await show(visitor, conv)
        page = visitor.page
        cut = page.locator(f"article.message[data-seq='{answers(ada, conv)[0].seq}']")
        await do(page, cut, "Go on")
        await eventually(lambda: len(answers(ada, conv)) == 2)
        assert siblings(ada, conv, answers(ada, conv)[-1].seq) == []


async def test_a_persona_and_a_person_are_mentioned_by_keyboard_and_the_persona_answers(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada, live.online(await live.newcomer("王小明")) as ming:
        conv = await room(ada, ming.user)
        nova = await persona(ada, "Nova 助手", "tokens=5")
        await ada.change_conversation(conv, ConvSet(personas=[nova]))
        await ming.watch([conv])
        field = await show(visitor, conv)
        page = visitor.page
        box = page.get_by_role("listbox", name="Who is meant")
        await field.press_sequentially("hello @")
        await box.wait_for()
        for name in ("王小明", "Nova 助手"):
            await box.get_by_role("option", name=name).wait_for()
        names = await box.get_by_role("option").all_inner_texts()
        assert names[-1].splitlines()[-1] == "王小明"
        await field.press("Escape")
        await box.wait_for(state="detached")
        await holds(field, "hello @")
        await field.press_sequentially(" @小")
        await box.wait_for()
        assert await field.get_attribute("aria-expanded") == "true"
        active = await field.get_attribute("aria-activedescendant")
        assert await page.locator(f"[id='{active}']").get_attribute("aria-selected") == "true"
        await field.press("Enter")
        await holds(field, "hello @ @王小明 ")
        await field.press_sequentially("and @no")
        await field.press("ArrowDown")
        await field.press("Tab")
        await holds(field, "hello @ @王小明 and @Nova 助手 ")
        await field.press("Home")  # edits of the text around them do not matter
        await field.press_sequentially("so: ")
        await field.press("Enter")
        row = await stored(ada, conv, "so: hello @ @王小明 and @Nova 助手")
        assert row.x is not None
        assert row.x.mentions == [ming.user, nova]
        await eventually(lambda: answers(ming, conv))


async def test_a_name_that_was_rubbed_out_is_not_mentioned(visitor: Window, live: Process) -> None:
    async with person(visitor, live) as ada, live.online(await live.newcomer("Ann")) as ann:
        conv = await room(ada, ann.user)
        field = await show(visitor, conv)
        await field.press_sequentially("@an")
        await visitor.page.get_by_role("option", name="Ann").click()
        await holds(field, "@Ann ")
        for _ in range(3):
            await field.press("Backspace")
        await field.press_sequentially("other")
        await field.press("Escape")
        await field.press("Enter")
        row = await stored(ada, conv, "@Aother")
        assert row.x is None or not row.x.mentions


async def test_on_a_touch_screen_a_name_is_chosen_with_a_finger(
    browser: Browser, live: Process, service: ScriptedProvider
) -> None:
    async with (
        window(browser, live, PHONE, language="zh-CN", has_touch=True, is_mobile=True) as phone,
        person(phone, live) as ada,
        live.online(await live.newcomer("王小明")) as ming,
    ):
        conv = await room(ada, ming.user)
        field = await show(phone, conv, "输入消息")
        await field.tap()
        await field.press_sequentially("你好@明")
        option = phone.page.get_by_role("listbox").get_by_role("option", name="王小明")
        await option.wait_for()
        await shot(phone.page, "composer-mention-phone")
        await option.tap()
        await holds(field, "你好@王小明 ")
        assert await field.evaluate("(field) => field === document.activeElement")
        assert not await overflows(phone.page)


async def test_names_are_inert_in_the_list_of_those_who_may_be_meant(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        hostile = await persona(ada, "<img src=x onerror=alert(1)>", "tokens=5")
        await ada.change_conversation(conv, ConvSet(personas=[hostile]))
        field = await show(visitor, conv)
        await field.press_sequentially("@<im")
        option = visitor.page.get_by_role("option")
        await option.wait_for()
        assert "<img src=x onerror=alert(1)>" in await option.inner_text()
        assert await visitor.page.locator("img[src='x']").count() == 0


async def test_who_writes_is_seen_in_another_browser_and_by_a_client(
    browser: Browser, visitor: Window, live: Process
) -> None:
    async with (
        window(browser, live) as other,
        person(visitor, live, "Ada") as ada,
        person(other, live, "Ben") as ben,
    ):
        conv = await room(ada, ben.user)
        await ben.watch([conv])
        field = await show(visitor, conv)
        there = await show(other, conv)
        await there.fill("here I am")
        await there.press("Enter")
        await stored(ada, conv, "here I am")  # what the page watches was told before
        line = other.page.locator(".typing-line")
        with ben.events() as events:
            await field.press_sequentially("hel")
            seen = await first(events, TypingSeen, conv=conv)
            assert (seen.user, seen.state) == (ada.user, TypingState.TEXT)
            await line.get_by_text("Ada is typing").wait_for()
            await field.fill("")
            await first(events, TypingSeen, state=TypingState.STOP)
            await line.get_by_text("Ada is typing").wait_for(state="detached")
        ben.typing(conv)
        await visitor.page.locator(".typing-line").get_by_text("Ben is typing").wait_for()


async def test_a_persona_that_has_said_nothing_yet_is_thinking(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await talk(ada, "tokens=60,rate=60,first=0.8")
        field = await show(visitor, conv)
        await field.fill("tell me")
        await field.press("Enter")
        thinking = visitor.page.locator(".typing-line").get_by_text("Nova is thinking")
        await thinking.wait_for()
        await thinking.wait_for(state="detached")
        await eventually(lambda: answers(ada, conv))


async def test_a_refused_message_stays_and_is_tried_again(visitor: Window, live: Process) -> None:
    async with live.online(await live.newcomer("Boss")) as boss, person(visitor, live) as ada:
        conv = await room(boss, ada.user)
        field = await show(visitor, conv)
        page = visitor.page
        marks = "e" + "\u0323\u0302" * 20
        await field.fill(f"too many marks {marks}")
        await field.press("Enter")
        refused = message(page, "too many marks")
        await refused.get_by_role("button", name="Try again").wait_for()
        await holds(field, "")
        await refused.get_by_role("button", name="Try again").click()
        await message(page, "too many marks").get_by_role("button", name="Try again").wait_for()
        assert rows(boss, conv) == []
        await refused.get_by_role("button", name="Edit", exact=True).click()
        await page.locator("article.failed").wait_for(state="detached")
        assert (await field.input_value()).startswith("too many marks")
        await field.fill("fewer marks")
        await field.press("Enter")
        await stored(boss, conv, "fewer marks")


async def test_who_is_muted_is_told_until_when_and_keeps_the_draft(
    visitor: Window, live: Process
) -> None:
    async with live.online(await live.newcomer("Boss")) as boss, person(visitor, live) as ada:
        conv = await room(boss, ada.user)
        field = await show(visitor, conv)
        await field.fill("a draft")
        page = visitor.page
        await boss.set_member(conv, ada.user, Role.MEMBER, mute_ms=3_600_000)
        await page.get_by_text("You are muted here until").wait_for()
        assert await field.count() == 0
        await boss.set_member(conv, ada.user, Role.MEMBER, mute_ms=0)
        await field.wait_for()
        await holds(field, "a draft")


async def test_a_deleted_conversation_can_be_written_in_once_it_is_restored(
    visitor: Window, live: Process
) -> None:
    async with person(visitor, live) as ada:
        conv = await room(ada)
        field = await show(visitor, conv)
        await ada.change_conversation(conv, ConvSet(deleted=True))
        await visitor.page.wait_for_url(f"{visitor.url}/#/")
        await visitor.open(f"/c/{conv}")
        await visitor.page.get_by_text("This conversation was deleted").wait_for()
        await ada.change_conversation(conv, ConvSet(deleted=False))
        await field.fill("back")
        await field.press("Enter")
        await stored(ada, conv, "back")


@pytest.mark.parametrize(("letter", "most"), [("a", 32_000), ("汉", 32_000)])
async def test_a_text_that_is_too_long_is_told_before_it_is_sent(
    visitor: Window, live: Process, letter: str, most: int
) -> None:
    """The server takes 32,000 characters of any language."""
    async with person(visitor, live) as ada:
        conv = await room(ada)
        field = await show(visitor, conv)
        page = visitor.page
        await field.fill(letter * (most + 3))
        await page.get_by_text("Too long by 3 characters").wait_for()
        assert await page.get_by_role("button", name="Send", exact=True).is_disabled()
        await field.press("Enter")
        assert len(await field.input_value()) == most + 3
        box = await field.bounding_box()
        assert box is not None
        assert box["height"] <= 260
        await field.fill(letter * most)
        await page.get_by_text("0 characters left").wait_for()
        await field.press("Enter")
        await stored(ada, conv, letter * most)


async def test_on_a_touch_screen_enter_breaks_the_line_and_the_button_sends(
    browser: Browser, live: Process, service: ScriptedProvider
) -> None:
    async with window(browser, live, PHONE, has_touch=True, is_mobile=True) as phone:
        async with person(phone, live) as ada:
            conv = await room(ada)
            field = await show(phone, conv)
            await field.tap()
            await field.press_sequentially("one")
            await field.press("Enter")
            await field.press_sequentially("two")
            send = phone.page.get_by_role("button", name="Send", exact=True)
            box = await send.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 40
            await send.tap()
            await stored(ada, conv, "one\ntwo")
            assert await field.evaluate("(field) => field === document.activeElement")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shaky(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    """A server that tests may stop and start again."""
    process = Process(tmp_path_factory.mktemp("shaky"))
    process.start()
    yield process
    process.kill()


async def test_what_is_sent_offline_waits_and_arrives_once_after_a_restart(
    browser: Browser, shaky: Process
) -> None:
    async with window(browser, shaky) as visitor, person(visitor, shaky) as ada:
        conv = await room(ada)
        field = await show(visitor, conv)
        page = visitor.page
        await field.fill("before")
        await field.press("Enter")
        await stored(ada, conv, "before")
        shaky.kill()
        await page.get_by_text("Your message waits here and goes by itself").wait_for()
        for text in ("离线写的", "and one more"):
            await field.fill(text)
            await field.press("Enter")
        await page.get_by_text("2 messages wait").wait_for()
        await page.goto("about:blank")  # the page is left before anything could be sent
        shaky.start()
        field = await show(visitor, conv)
        await stored(ada, conv, "and one more")
        assert [row.text for row in rows(ada, conv)] == ["before", "离线写的", "and one more"]
        await page.get_by_text("messages wait").wait_for(state="detached")
