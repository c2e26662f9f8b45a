"""The way of a newcomer who has nothing but the README: from the clone to a chat, and to a bot."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from server.config import Config
from tests.browser.harness import Window, started_browser, window
from tests.e2e.bot_process import running
from tests.e2e.checkout import ADDRESS, blocks, command_with, make_checkout
from tests.e2e.harness import READY_S, ROOT, Process, environment, free_port

if TYPE_CHECKING:
    from playwright.async_api import Page

README: Final = ROOT / "README.md"
FIRST, SECOND = blocks(README, "sh")[:2]
INSTALLED: Final = ".venv/.stamp-runtime"
"""What make has to install first; the tests have it."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Newcomer:
    """A checkout in which `make run` runs, and what that has said.

    Attributes:
        page: the address that it names.
    """

    def __init__(self, checkout: Path, port: int, process: "subprocess.Popen[str]") -> None:
        self.checkout = checkout
        self.port = port
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Stop with" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        self.said = "".join(lines)
        self.page = re.findall(r"^ +(http\S+)$", self.said, re.M)[0]


def make(checkout: Path, command: str, args: str) -> list[str]:
    """Return a command of the README, such as `make run`, without its installing."""
    return [*command.split(), "-o", INSTALLED, f"ARGS={args}"]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Who has typed the first command."""
    port, folder = free_port(), tmp_path_factory.mktemp("newcomer")
    checkout = make_checkout(tmp_path_factory.mktemp("checkout"), port)
    args = f"--port {port} --data-dir {folder} --set ai.detect=false --set ai.demo_words_per_s=0"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            make(checkout, FIRST, args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=checkout,
            env=environment(),
            start_new_session=True,
        )
    try:
        yield Newcomer(checkout, port, process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=READY_S)


async def get(address: str) -> tuple[int, str, str]:
    """Return status, type and text of what is there."""
    async with aiohttp.ClientSession() as http, http.get(address) as answer:
        return answer.status, answer.content_type, await answer.text()


# what is read


def test_one_command_stands_between_the_clone_and_the_browser() -> None:
    start, _, rest = README.read_text("utf-8").partition("## Try it")
    assert "```" not in start
    before, _, after = rest.partition("```sh\n")
    assert "git clone" in before
    assert after.startswith("make run\n```\n")
    assert f"http://{ADDRESS}/" in after.partition("```sh")[0]
    config = Config()
    assert f"{config.server.host}:{config.server.port}" == ADDRESS


def test_make_alone_says_how_to_begin() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == (
        f"First: make run, then open http://{ADDRESS}/ in a browser."
    )
    assert {FIRST.strip(), SECOND.strip()} <= set(re.findall(r"make \w+", done.stdout))


# what is typed


async def test_the_address_that_the_server_names_is_a_page_with_all_its_parts(
    newcomer: Newcomer,
) -> None:
    assert newcomer.page == f"http://127.0.0.1:{newcomer.port}/"
    assert "browser" in newcomer.said.partition(newcomer.page)[0]
    status, kind, html = await get(newcomer.page)
    assert (status, kind) == (200, "text/html")
    parts = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert any(part.endswith(".js") for part in parts)
    for part in parts:
        assert part.startswith("/"), "everything comes from this server"
        assert (await get(newcomer.page + part[1:]))[0] == 200, part


async def test_every_other_page_that_the_server_names_is_there(newcomer: Newcomer) -> None:
    named = [found for found in re.findall(r"http://\S+", newcomer.said) if found != newcomer.page]
    assert {address.rpartition("/")[2] for address in named} >= {"dashboard", "docs"}
    for address in named:
        status, kind, _ = await get(address)
        assert (status, kind) == (200, "text/html"), address


async def test_the_terminal_talks_too(newcomer: Newcomer, tmp_path: Path) -> None:
    args = f"--plain --lang en --url 127.0.0.1:{newcomer.port}"
    process = await asyncio.create_subprocess_exec(
        *make(newcomer.checkout, SECOND, args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=newcomer.checkout,
        env=environment(HOME=str(tmp_path), XDG_CONFIG_HOME="", XDG_STATE_HOME=""),
    )
    said, _ = await asyncio.wait_for(process.communicate(b"what is 12 * 12?\n"), READY_S)
    assert process.returncode == 0
    assert "144" in said.decode()


# in the browser


@pytest.fixture
async def visitor(newcomer: Newcomer, tmp_path: Path) -> AsyncIterator[Window]:
    """A fresh browser at the address that the server names."""
    server = Process(tmp_path)
    server.port = newcomer.port
    async with started_browser() as browser, window(browser, server) as visitor:
        yield visitor


async def write(page: "Page", text: str) -> None:
    field = page.get_by_label("Write a message")
    await field.fill(text)
    await field.press("Enter")


async def test_a_guest_talks_with_a_persona_and_then_with_a_bot_of_the_readme(
    visitor: Window, newcomer: Newcomer, tmp_path: Path
) -> None:
    page = await visitor.guest()
    await page.get_by_role("button", name=re.compile("Nova")).first.click()
    await page.get_by_role("heading", name="Nova").wait_for()
    await write(page, "what is 12 * 12?")
    await page.get_by_role("article").filter(has_text="144").wait_for()
    bot = f"exec {command_with(README, 'dice_bot')}"
    async with running("sh", "-c", bot, home=tmp_path, cwd=newcomer.checkout) as dice:
        await dice.says("Dice is online")
        await page.get_by_role("button", name="New conversation").click()
        await page.get_by_text("Write to a person").click()
        await page.get_by_placeholder("How the name begins").fill("Dice")
        await page.get_by_role("dialog").get_by_text("Dice").click()
        await page.get_by_role("heading", name="Dice").wait_for()
        await write(page, "3d1")
        await page.get_by_role("article").filter(has_text="3d1: 1 + 1 + 1 = 3").wait_for()
