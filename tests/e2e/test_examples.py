"""The examples, started by the commands that the documents give, against a real server."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bench.provider.server import ScriptedProvider
from tests.e2e.bot_process import direct, find, hears, running, said_by
from tests.e2e.checkout import blocks, command_with, make_checkout
from tests.e2e.harness import ROOT, Process, environment, expected
from tests.support.eventually import WAIT_S, eventually

FOLDER: Final = ROOT / "examples"
LIST: Final = FOLDER / "README.md"
READMES: Final = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PROGRAMS: Final = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".mjs"))
ANSWER: Final = expected("tokens=20")
"""What the server's default model says (tests.e2e.harness)."""
ANSWER_S: Final = 120.0
"""For several programs, one after the other, on a busy machine."""

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed (apt: nodejs)"
)


def source(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def code_lines(text: str) -> list[str]:
    """Return what is left without the head, comments and empty lines."""
    text = re.sub(r'\A""".*?"""', "", text, flags=re.S)
    return [line for line in text.splitlines() if line and not line.startswith("//")]


# what the documents say


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_example_is_listed_and_says_how_it_is_run(name: str) -> None:
    said = re.search(r"Run: ((?:.*\n)+?)(?:\"\"\"|\n)", source(name))
    assert said is not None
    commands = [line.removeprefix("//").strip() for line in said[1].splitlines()]
    listed = [block.splitlines() for block in blocks(LIST, "sh")]
    assert [line for line in commands if line] in listed
    assert f"[{name}]({name})" in LIST.read_text("utf-8")


@pytest.mark.parametrize("name", ["dice_bot.py", "clock_bot.mjs"])
def test_the_bots_have_ten_lines_at_most(name: str) -> None:
    assert len(code_lines(source(name))) <= 10


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
@pytest.mark.parametrize(("name", "language"), [("dice_bot.py", "python"), ("clock_bot.mjs", "js")])
def test_the_readme_shows_the_bots_as_they_are(page: Path, name: str, language: str) -> None:
    shown = [code_lines(block) for block in blocks(page, language)]
    assert code_lines(source(name)) in shown


# bots


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of the module's own, which a test may kill; the built-in demo answers."""
    process = Process(tmp_path_factory.mktemp("demo"))
    process.start()
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="module")
def checkout(demo: Process, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"), demo.port)


def is_sum(reply: str) -> bool:
    """Tell whether a reply to 2d6 adds up."""
    found = re.fullmatch(r"2d6: ([1-6]) \+ ([1-6]) = (\d+)", reply)
    return found is not None and int(found[1]) + int(found[2]) == int(found[3])


def start_of(name: str) -> str:
    """Return the command that starts a bot, which is the same on every page."""
    (command,) = {command_with(page, name) for page in (*READMES, LIST)}
    return f"exec {command}"


async def test_the_bot_in_python_answers_before_and_after_the_server_was_killed(
    demo: Process, checkout: Path, tmp_path: Path
) -> None:
    words = ("sh", "-c", start_of("dice_bot"))
    async with running(*words, home=tmp_path, cwd=checkout) as bot, demo.online() as ada:
        await bot.says("Dice is online")
        user = await find(ada, "dice")
        conv = await direct(ada, user)
        await ada.send(conv, "请掷2d6，谢谢")
        await eventually(lambda: said_by(ada, conv, user), WAIT_S)
        (reply,) = said_by(ada, conv, user)
        assert is_sum(reply)
        await asyncio.to_thread(demo.kill)
        ada.post(conv, "3d1!")
        await asyncio.to_thread(demo.start)
        await hears(ada, conv, user, reply, "3d1: 1 + 1 + 1 = 3")
        assert await bot.interrupt() == 0


@needs_node
async def test_the_bot_in_javascript_answers_before_and_after_the_server_was_killed(
    demo: Process, checkout: Path, tmp_path: Path
) -> None:
    words = ("sh", "-c", start_of("clock_bot"))
    async with running(*words, home=tmp_path, cwd=checkout) as bot, demo.online() as ada:
        await bot.says("Clock is online")
        user = await find(ada, "clock")
        conv = await direct(ada, user)
        await ada.send(conv, "time Asia/Shanghai")
        await eventually(lambda: said_by(ada, conv, user), WAIT_S)
        (reply,) = said_by(ada, conv, user)
        assert re.fullmatch(r"\w+day,? \d+ \w+ \d{4}.* \d\d:\d\d", reply)
        await asyncio.to_thread(demo.kill)
        ada.post(conv, "time Atlantis")
        await asyncio.to_thread(demo.start)
        await hears(ada, conv, user, reply, "No time zone is called Atlantis.")
        assert await bot.interrupt() == 0


# programs that ask


@pytest.fixture
def asked(server: Process, provider: ScriptedProvider, tmp_path: Path) -> "Asking":
    return Asking(make_checkout(tmp_path, server.port), server, provider)


class Asking:
    """Runs examples beside a server whose AI service says `ANSWER`."""

    def __init__(self, checkout: Path, server: Process, provider: ScriptedProvider) -> None:
        self.checkout = checkout
        self.server = server
        self.provider = provider

    async def run(self, command: str) -> str:
        """Return what the command printed."""
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.checkout,
            env=environment(PARLANCE_CONFIG=str(self.server.config)),
            start_new_session=True,
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(process.communicate(), ANSWER_S)
        finally:
            if process.returncode is None:  # a program left alone disturbs the tests that follow
                os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()


async def test_the_client_prints_the_answer(asked: Asking) -> None:
    assert await asked.run(command_with(LIST, "examples.ask")) == f"{ANSWER}\n"


@needs_node
async def test_plain_json_prints_the_answer(asked: Asking) -> None:
    assert await asked.run(command_with(LIST, "plain_json")) == f"{ANSWER}\n"
    assert asked.provider.requests[-1].body["messages"][-1]["content"] == "What can you do?"


async def test_the_shop_asks_once_however_often_it_is_asked(asked: Asking) -> None:
    command = command_with(LIST, "shop_backend")
    again = command.splitlines()[-1]
    other = again.replace("question-4711", "question-4712")
    assert await asked.run(f"{command}\n{again}\n{other}") == f"{ANSWER}\n" * 3
    assert len(asked.provider.requests) == 2
    talk = asked.provider.requests[-1].body["messages"]
    assert [row["content"] for row in talk].count("Where is my parcel?") == 2


async def test_the_package_of_openai_prints_the_answer(asked: Asking) -> None:
    install, *command = command_with(LIST, "openai_client").splitlines()
    assert install.endswith("pip install openai")  # it is among what the tests need
    assert await asked.run("\n".join(command)) == f"{ANSWER}\n"
    assert asked.provider.requests[-1].body["messages"][-1]["content"].endswith("about rain.")
