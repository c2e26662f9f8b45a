"""Rooms and direct conversations: several people and personas, and what each may do."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from clients.client import Client
from clients.events import MessageAdded
from protocol.codes import ConvKind, Role, Scope, TalkMode
from protocol.rows import ConvSet, GenOpt, Persona
from tests.browser.chatting import (
    enter,
    go,
    holds,
    messages,
    somebody,
    talk_with,
    types_until,
    write,
)
from tests.browser.harness import DESKTOP, PHONE, Window, overflows, shot, until_true, window
from tests.e2e.harness import Process, first, texts
from tests.support.eventually import WAIT_S

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload, Locator, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAYLOAD: Final = "<img src=x onerror=alert(1)>"
ANSWER: Final = "tokens=12"
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)


async def persona_of(client: Client, name: str = "Echo") -> int:
    """Make a persona that everybody of the tenant may call."""
    saved = await client.save_persona(
        Persona(name=name, prompt="You answer.", scope=Scope.TENANT, opt=GenOpt(model=ANSWER))
    )
    return saved.p.id or 0


async def room(owner: Client, *others: int, title: str = "Room", personas: int = 0) -> int:
    info = await owner.create_conversation(
        ConvKind.GROUP,
        title=title,
        members=others,
        settings=ConvSet(personas=[personas]) if personas else None,
    )
    return info.row.id or 0


async def seen(page: Page) -> list[tuple[int, str]]:
    """Return number and text of the messages in the document."""
    rows = await messages(page).evaluate_all(
        "(all) => all.map((one) => ["
        "  Number(one.dataset.seq), one.querySelector('.message-body').innerText.trim()])"
    )
    return [(seq, text) for seq, text in rows]


def name_of(client: Client) -> str:
    """Return the sign-in name of who is signed in."""
    assert client.feeds.profile is not None
    return client.feeds.profile.row.name or ""


async def until(client: Client, holds: Callable[[], bool]) -> None:
    """Wait until something holds that a client learns by itself."""
    events = client.events()
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await anext(events)


def panel(page: Page) -> Locator:
    return page.locator(".panel")


async def member_menu(page: Page, name: str, action: str) -> None:
    """Choose from the menu of a member in the panel."""
    await panel(page).get_by_role("button", name=f"More about {name}").click()
    await page.get_by_role("menuitem", name=action, exact=True).click()


async def test_two_browsers_and_a_tcp_client_see_the_same_with_a_persona_that_is_called(
    browser: Browser, visitor: Window, live: Process
) -> None:
    async with somebody(live, "Ada") as (_, ada), somebody(live, "Bo") as (bo_account, bo):
        persona = await persona_of(ada)
        async with window(browser, live) as second:
            carols = await second.guest()
            conv = await room(ada, bo.user, await second.user_id(), personas=persona)
            await ada.watch([conv])
            bos = await enter(visitor, bo_account, f"/c/{conv}")
            await carols.locator(".conv-row a").click()
            await write(bos, "Hello from Bo")
            await messages(carols).filter(has_text="Hello from Bo").wait_for()
            await ada.send(conv, "Hello over TCP")
            await write(carols, "@Echo 你好,请回答")
            for page in (bos, carols):
                await messages(page).nth(3).wait_for()
            here = await seen(bos)
            assert [seq for seq, _ in here] == [1, 2, 3, 4]
            assert here == await seen(carols)
            held = texts(ada, conv)
            assert here == [(seq, text.strip()) for seq, _, text in held]
            assert held[3][1] == persona


async def test_a_group_is_made_with_people_and_personas(visitor: Window, live: Process) -> None:
    async with somebody(live, "Visitor") as (account, _), somebody(live, "王小明") as (_, friend):
        await persona_of(friend, "Helper")
        page = await enter(visitor, account)
        await page.get_by_role("button", name="New conversation").click()
        await page.get_by_role("menuitem", name="New group").click()
        await page.get_by_label("Title").fill("周末去爬山")
        await page.get_by_label("People", exact=True).fill("王小")
        await page.locator(".picker-item").filter(has_text=name_of(friend)).click()
        await page.get_by_role("button", name="Do not take 王小明").wait_for()
        await page.get_by_label("Find a persona").fill("Helper")
        await page.get_by_role("checkbox").check()
        await page.get_by_role("button", name="Create").click()
        await page.get_by_role("heading", name="周末去爬山").wait_for()
        await page.get_by_text("2 members").wait_for()
        events = friend.events()
        await write(page, "Are you coming?")
        came = await first(events, MessageAdded)
        assert (came.msg.text, friend.feeds.convs[came.conv].row.title) == (
            "Are you coming?",
            "周末去爬山",
        )


async def test_people_come_get_rights_and_go_and_see_it_at_once(
    browser: Browser, visitor: Window, live: Process
) -> None:
    async with somebody(live, "Owner") as (account, owner), somebody(live, "Nina") as (guest, nina):
        conv = await room(owner, title="Club")
        page = await enter(visitor, account, f"/c/{conv}/info")
        async with window(browser, live) as second:
            other = await enter(second, guest)
            await other.get_by_text("No conversations yet.").wait_for()
            await panel(page).get_by_role("button", name="Add people").click()
            await page.get_by_label("People", exact=True).fill("nina")
            await page.locator(".picker-item").filter(has_text=name_of(nina)).click()
            await page.get_by_role("button", name="Add", exact=True).click()
            await panel(page).get_by_text("2 members").wait_for()
            await other.locator(".conv-row").filter(has_text="Club").locator("a").click()
            await other.get_by_role("button", name="About this conversation").click()
            await panel(other).get_by_text("2 members").wait_for()
            assert await panel(other).get_by_label("Title").count() == 0
            await member_menu(page, "Nina", "Make administrator")
            await panel(other).get_by_text("you · administrator").wait_for()
            await panel(other).get_by_label("Title").wait_for()
            await member_menu(page, "Nina", "Keep from writing")
            await page.get_by_role("button", name="For an hour").click()
            await panel(other).get_by_text("may not write now").wait_for()
            await member_menu(page, "Nina", "No longer administrator")
            await panel(page).get_by_text("may not write now").wait_for()
            await panel(other).get_by_label("Title").wait_for(state="detached")
            await member_menu(page, "Nina", "Remove from the group")
            await page.get_by_role("alertdialog").get_by_role("button", name="Remove").click()
            await other.get_by_text("You are no longer in “Club”.").wait_for()
            await other.get_by_text("No conversations yet.").wait_for()
            await panel(page).get_by_text("1 member", exact=True).wait_for()
            # Coming back starts anew.
            await owner.add_members(conv, [nina.user])
            await other.locator(".conv-row").filter(has_text="Club").wait_for()


async def test_a_group_is_handed_over_and_left(visitor: Window, live: Process) -> None:
    async with somebody(live, "Owner") as (account, owner), somebody(live, "Heir") as (_, heir):
        conv = await room(owner, heir.user, title="Club")
        page = await enter(visitor, account, f"/c/{conv}/info")
        await member_menu(page, "Heir", "Hand over the group")
        await page.get_by_role("alertdialog").get_by_role("button", name="Hand over").click()
        await panel(page).get_by_text("you · administrator").wait_for()
        await panel(page).get_by_role("button", name="Leave").click()
        await page.get_by_role("alertdialog").get_by_role("button", name="Leave").click()
        await page.get_by_text("You are no longer in “Club”.").wait_for()
        info = await heir.get_conversation(conv)
        assert (info.row.owner, [member.role for member in info.members]) == (
            heir.user,
            [Role.OWNER],
        )


async def test_title_notice_and_the_way_personas_talk_reach_everybody(
    visitor: Window, live: Process
) -> None:
    async with somebody(live, "Owner") as (account, owner), somebody(live, "Bo") as (_, other):
        persona = await persona_of(owner)
        conv = await room(owner, other.user, personas=persona)
        page = await enter(visitor, account, f"/c/{conv}/info")
        await panel(page).get_by_label("Title").fill("读书会")
        await panel(page).get_by_role("button", name="Save").click()
        await page.get_by_role("heading", name="读书会").wait_for()
        await panel(page).get_by_label("Notice").fill("周五晚上八点")
        await panel(page).get_by_role("button", name="Save").click()
        await page.locator(".notice").filter(has_text="周五晚上八点").wait_for()
        await panel(page).get_by_role("radio", name="Lively").check()
        await panel(page).get_by_label("Only administrators add people").check()
        await until(other, lambda: other.feeds.convs[conv].row.flags == 2)
        row = other.feeds.convs[conv].row
        assert (row.title, row.notice, row.talk) == ("读书会", "周五晚上八点", TalkMode.LIVELY)
        await owner.change_conversation(conv, ConvSet(title="Book club", notice=""))
        await page.get_by_role("heading", name="Book club").wait_for()
        await page.locator(".notice").wait_for(state="detached")
        await holds(panel(page).get_by_label("Title"), "Book club")


async def test_escape_closes_the_panel_and_gives_the_focus_back(
    visitor: Window, live: Process
) -> None:
    async with somebody(live, "Owner") as (account, owner):
        conv = await room(owner, title="Club")
        page = await enter(visitor, account, f"/c/{conv}")
        info = page.get_by_role("button", name="About this conversation")
        await info.focus()
        await page.keyboard.press("Enter")
        await panel(page).get_by_label("Notice").fill("half of a thought")
        await page.keyboard.press("Escape")
        await holds(panel(page).get_by_label("Notice"), "half of a thought")
        await panel(page).get_by_role("button", name="Back to the chat").focus()
        await page.keyboard.press("Escape")
        await panel(page).wait_for(state="detached")
        await until_true(
            page, "document.activeElement.getAttribute('aria-label') === 'About this conversation'"
        )


async def test_a_group_has_a_picture_that_all_see(visitor: Window, live: Process) -> None:
    async with somebody(live, "Owner") as (account, owner), somebody(live, "Bo") as (_, other):
        conv = await room(owner, other.user)
        page = await enter(visitor, account, f"/c/{conv}/info")
        field = panel(page).locator(".avatar-picker input[type=file]")
        name = f"{PAYLOAD}.png"
        file: FilePayload = {"name": name, "mimeType": "image/png", "buffer": PNG}
        await field.set_input_files(file)
        await page.locator(".conv-row img").wait_for()
        await page.locator(".chat-head img").wait_for()
        await until(other, lambda: bool(other.feeds.convs[conv].row.avatar))
        await panel(page).get_by_role("button", name="Remove").click()
        await page.locator(".conv-row img").wait_for(state="detached")
        await until(other, lambda: not other.feeds.convs[conv].row.avatar)


async def test_a_talk_with_a_persona_has_instructions_and_a_model_of_its_own(
    visitor: Window, live: Process
) -> None:
    async with somebody(live, "Visitor") as (account, client):
        conv = await talk_with(client, ANSWER)
        page = await enter(visitor, account, f"/c/{conv}/info")

        async def store(label: str, text: str) -> None:
            await panel(page).get_by_label(label, exact=True).fill(text)
            await panel(page).get_by_role("button", name="Save").click()
            await panel(page).get_by_role("button", name="Save").wait_for(state="detached")

        await store("Instructions for this conversation", "用中文回答")
        await store("Model", "tokens=3")
        await store("Temperature", "0.5")
        await store("Earlier messages shown to it", "4")
        row = (await client.get_conversation(conv)).row
        assert (row.prompt, row.opt) == (
            "用中文回答",
            GenOpt(model="tokens=3", temperature=0.5, history=4),
        )
        await page.locator(".chat-subtitle").filter(has_text="tokens=3").wait_for()
        await store("Temperature", "")
        row = (await client.get_conversation(conv)).row
        assert row.opt == GenOpt(model="tokens=3", history=4)


async def test_two_people_write_to_each_other_and_see_who_is_there(
    visitor: Window, live: Process
) -> None:
    async with somebody(live, "Visitor") as (account, me), somebody(live, "李雷") as (_, friend):
        page = await enter(visitor, account)
        await page.get_by_role("button", name="New conversation").click()
        await page.get_by_role("menuitem", name="Write to a person").click()
        await page.get_by_label("People", exact=True).fill("李雷")
        await page.locator(".picker-item").filter(has_text=name_of(friend)).click()
        await page.get_by_role("heading", name="李雷").wait_for()
        await page.locator(".chat-subtitle").filter(has_text="online").wait_for()
        await page.locator(".conv-row .presence.online").wait_for()
        events = friend.events()
        await write(page, "你好")
        conv = int(page.url.rpartition("/")[2])
        assert (await first(events, MessageAdded, conv=conv)).msg.text == "你好"
        await friend.watch([conv], [me.user])
        typing = page.locator(".conv-last.busy").filter(has_text="李雷 is typing")
        await types_until(friend, conv, typing)
        await friend.send(conv, "来了")
        await page.locator(".conv-last.busy").wait_for(state="detached")
        await page.locator(".conv-last").filter(has_text="来了").wait_for()


async def test_payloads_in_titles_notices_and_names_are_text(
    visitor: Window, live: Process
) -> None:
    async with somebody(live, "Visitor") as (account, me), somebody(live, PAYLOAD) as (_, mallory):
        persona = await persona_of(mallory, PAYLOAD)
        conv = await room(mallory, me.user, title=PAYLOAD, personas=persona)
        await mallory.change_conversation(conv, ConvSet(notice=PAYLOAD))
        page = await enter(visitor, account, f"/c/{conv}/info")
        await panel(page).locator(".member").nth(2).wait_for()
        await page.locator(".notice").click()
        await page.get_by_text(PAYLOAD, exact=True).nth(4).wait_for()
        assert await page.locator("img[src=x]").count() == 0


async def test_on_a_phone_one_goes_from_the_list_to_the_chat_to_its_settings_and_back(
    browser: Browser, live: Process, service: object
) -> None:
    async with somebody(live, "Visitor") as (account, client):
        conv = await room(client, title="Room")
        async with window(browser, live, PHONE, has_touch=True) as phone:
            page = await enter(phone, account)
            link = page.locator(".conv-row a")
            back_to_list = page.get_by_role("button", name="Back to the conversations")

            async def shows(where: str) -> None:
                here = "(where) => location.hash.replace(/^#[/]?/, '') === where"
                await until_true(page, here, where)
                await page.locator(".side").wait_for(state="hidden" if where else "visible")
                chat = where == f"c/{conv}"
                await page.locator("main.view").wait_for(state="visible" if chat else "hidden")

            await link.tap()
            await shows(f"c/{conv}")
            await page.get_by_role("button", name="About this conversation").tap()
            await shows(f"c/{conv}/info")
            await page.get_by_role("button", name="Back to the chat").tap()
            await shows(f"c/{conv}")
            await back_to_list.tap()
            await shows("")
            await page.go_forward()
            await shows(f"c/{conv}")
            await page.go_back()
            await shows("")
            await link.tap()
            await page.get_by_role("button", name="About this conversation").tap()
            await shows(f"c/{conv}/info")
            await page.go_back()
            await shows(f"c/{conv}")
            await page.go_back()
            await shows("")
            # Who came by an address has the list above it all the same.
            await go(page, f"/c/{conv}/info")
            await page.reload()
            await page.get_by_role("button", name="Back to the chat").tap()
            await shows(f"c/{conv}")
            await back_to_list.tap()
            await shows("")


async def test_a_room_looks_right_everywhere(
    browser: Browser, live: Process, service: object
) -> None:
    async with somebody(live, "访客小李") as (account, client), somebody(live, "Ada") as (_, ada):
        persona = await persona_of(client, "小助手")
        conv = await room(client, ada.user, title="周末去爬山", personas=persona)
        await client.change_conversation(conv, ConvSet(notice="周六早上八点集合,请带水。"))
        await ada.send(conv, "Hello! Who takes the **car**?")
        await client.send(conv, "我可以开车。")
        for size, scheme, language in (
            (DESKTOP, "light", "en-US"),
            (DESKTOP, "dark", "zh-CN"),
            ((900, 700), "light", "zh-CN"),
            (PHONE, "light", "zh-CN"),
            (PHONE, "dark", "en-US"),
            ((360, 740), "light", "en-US"),
        ):
            async with window(browser, live, size, language=language, color_scheme=scheme) as one:
                page = await enter(one, account, f"/c/{conv}")
                await messages(page).nth(1).wait_for()
                name = f"{size[0]}-{scheme}-{language}"
                await shot(page, f"room-{name}")
                await go(page, f"/c/{conv}/info")
                await panel(page).locator(".member").nth(2).wait_for()
                assert not await overflows(page)
                await shot(page, f"panel-{name}")


async def test_a_panel_that_is_open_from_the_beginning_has_the_focus(
    visitor: Window, live: Process
) -> None:
    async with somebody(live, "Owner") as (account, owner):
        conv = await room(owner)
        page = await enter(visitor, account, f"/c/{conv}/info")
        await panel(page).wait_for()
        await page.get_by_label("Write a message").wait_for()
        await until_true(page, "document.activeElement.closest('.panel') !== null")
        await page.keyboard.press("Escape")
        await panel(page).wait_for(state="detached")
