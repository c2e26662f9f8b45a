"""What people are asked and told while an answer is made: tools, and the place in the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from bench.provider.reply import Said
from bench.provider.server import ScriptedProvider
from tests.browser.harness import DESKTOP, PHONE, overflows, shot, window
from tests.browser.test_composer import person, show, talk
from tests.e2e.harness import Process, answers
from tests.e2e.serving import answering, serving
from tests.e2e.with_tools import one_at_a_time, tools_offered
from tests.support.eventually import eventually
from tests.support.tool_server import tool_server

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = '{"name": "<img src=x onerror=alert(1)>"}'
HOSTILE_SUM = '{"left": 40, "right": 2, "note": "<img src=x onerror=alert(1)>"}'


@pytest.fixture(scope="module")
def handy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server whose models have tools, where one answer of a user runs at a time."""
    folder = tmp_path_factory.mktemp("handy")
    with tool_server() as port, serving(one_at_a_time(folder, port)) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(handy: Process) -> AsyncIterator[ScriptedProvider]:
    """The AI service of that server, once it is told of the tools."""
    async with answering(handy.provider_port) as provider:
        await tools_offered(handy, provider)
        yield provider


@pytest.mark.parametrize(("button", "told"), [("Yes, this once", "42"), ("No", "nobody confirmed")])
async def test_a_tool_runs_only_after_a_yes(
    browser: Browser, handy: Process, service: ScriptedProvider, button: str, told: str
) -> None:
    service.replies.extend(
        [
            Said(calls=(("peer_greet", HOSTILE),)),
            Said(calls=(("peer_add", '{"left": 40, "right": 2}'),)),
            Said(text="So it is."),
        ]
    )
    async with window(browser, handy) as visitor, person(visitor, handy) as ada:
        conv = await talk(ada, "tokens=1")
        field = await show(visitor, conv)
        page = visitor.page
        await field.fill("add them")
        await field.press("Enter")
        question = page.locator(".tool-question")
        await question.get_by_role("alert").get_by_text("Nova wants to use the tool").wait_for()
        said = await question.inner_text()
        assert "peer_add" in said
        assert '{"left": 40, "right": 2}' in said
        assert "seconds left" in said
        await question.get_by_role("button", name=button, exact=True).click()
        await question.wait_for(state="detached")
        await eventually(lambda: answers(ada, conv))
        assert answers(ada, conv)[-1].text == "So it is."
        assert told in service.requests[-1].body["messages"][-1]["content"]


async def test_a_question_is_seen_wherever_one_is_and_what_it_shows_is_inert(
    browser: Browser, handy: Process, service: ScriptedProvider
) -> None:
    service.replies.extend(
        [
            Said(calls=(("peer_greet", "{}"),)),
            Said(calls=(("peer_add", HOSTILE_SUM),)),
            Said(text="As you wish."),
        ]
    )
    async with window(browser, handy) as visitor, person(visitor, handy) as ada:
        asked, elsewhere = await talk(ada, "tokens=1"), await talk(ada, "tokens=1")
        field = await show(visitor, asked)
        await field.fill("go")
        await field.press("Enter")
        page = visitor.page
        question = page.locator(".tool-question")
        await question.wait_for()
        await show(visitor, elsewhere)
        await question.wait_for()
        assert "<img src=x onerror=alert(1)>" in await question.inner_text()
        assert await page.locator("img[src='x']").count() == 0
        for size in (DESKTOP, PHONE):
            await page.set_viewport_size({"width": size[0], "height": size[1]})
            await shot(page, f"tool-question-{size[0]}")
            assert not await overflows(page)
        await question.get_by_role("button", name="Show the conversation").click()
        await page.wait_for_url(f"{visitor.url}/#/c/{asked}")
        await question.get_by_role("button", name="No", exact=True).click()
        await eventually(lambda: answers(ada, asked))


async def test_who_waits_is_told_the_place_in_the_queue(
    browser: Browser, handy: Process, service: ScriptedProvider
) -> None:
    async with window(browser, handy) as visitor, person(visitor, handy) as ada:
        conv = await talk(ada, "tokens=10000,rate=20")
        field = await show(visitor, conv)
        page = visitor.page
        for text in ("one", "two", "three"):
            await field.fill(text)
            await field.press("Enter")
        line = page.locator(".typing-line")
        await line.get_by_text("Nova has place 2 in the queue").wait_for()
        await page.locator(".composer").get_by_role("button", name="Stop", exact=True).click()
        await line.get_by_text("in the queue").wait_for(state="detached")
        await eventually(lambda: len(answers(ada, conv)) == 1)
        await page.locator(".composer").get_by_role("button", name="Send").wait_for()
