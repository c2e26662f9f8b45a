"""Bots of both SDKs, in processes of their own: what they promise holds when things end."""

import asyncio
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import pytest

from clients.auth import Account
from protocol.codes import ConvKind
from tests.e2e.bot_process import BotProcess, direct, find, hears, running, said_by
from tests.e2e.harness import PASSWORD, ROOT, Process, group
from tests.support.eventually import WAIT_S, eventually

NODE: Final = shutil.which("node")

PYTHON_BOT: Final = """
import os
import sys

from clients.bot import Bot, Message
from clients.timing import Timing


async def answer(message: Message) -> str | None:
    if message.text == "stumble":
        raise ValueError("what a bot may do")
    if message.text == "die" and "FRAGILE" in os.environ:
        await message.reply("dying")
        os._exit(7)
    return {"die": "dying", "nothing": ""}.get(message.text, f"heard {message.text}")


timing = Timing(first_retry_s=0.05, backoff_s=0.1, backoff_max_s=0.3, mark_s=0.05)
password = os.environ.get("PASSWORD", "")
Bot(sys.argv[1], sys.argv[2], password=password, timing=timing).run(answer)
"""

JAVASCRIPT_BOT: Final = """
import { Bot } from "SDK/bot.js";

async function answer(message) {
  if (message.text === "stumble") throw new Error("what a bot may do");
  if (message.text === "die" && process.env.FRAGILE) {
    await message.reply("dying");
    process.exit(7);
  }
  return { die: "dying", nothing: "" }[message.text] ?? `heard ${message.text}`;
}

const timing = { firstRetry: 50, backoff: 100, backoffMax: 300, mark: 50 };
const password = process.env.PASSWORD ?? "";
await new Bot(process.argv[2], process.argv[3], { password, timing }).run(answer);
"""

Start = Callable[..., AbstractAsyncContextManager[BotProcess]]


@pytest.fixture(
    params=[
        "python",
        pytest.param(
            "javascript",
            marks=pytest.mark.skipif(NODE is None, reason="node is not installed (apt: nodejs)"),
        ),
    ]
)
def start(request: pytest.FixtureRequest, server: Process, tmp_path: Path) -> Start:
    """Start a bot of a name in each language; the same name is the same bot."""
    if request.param == "python":
        program = tmp_path / "bot.py"
        program.write_text(PYTHON_BOT, "utf-8")
        words = [sys.executable, str(program)]
    else:
        program = tmp_path / "bot.mjs"
        sdk = (ROOT / "clients" / "web" / "sdk").as_uri()
        program.write_text(JAVASCRIPT_BOT.replace("SDK", sdk), "utf-8")
        words = [NODE or "", str(program)]

    def bot(name: str, **env: str) -> AbstractAsyncContextManager[BotProcess]:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        return running(*words, server.url(), name, home=home, env={**env, "PYTHONPATH": str(ROOT)})

    return bot


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test's bot has."""
    return f"bot {zlib.crc32(request.node.nodeid.encode()):08x}"


async def test_what_came_while_the_bot_was_away_is_answered_in_order_by_the_same_account(
    server: Process, start: Start, name: str
) -> None:
    async with server.online() as ada:
        async with start(name) as bot:
            await bot.says("is online")
            user = await find(ada, name)
            conv = await direct(ada, user)
            await ada.send(conv, "一")
            await hears(ada, conv, user, "heard 一")
            assert await bot.interrupt() == 0
            assert "Traceback" not in bot.said
        for text in ("two", "nothing", "three"):
            await ada.send(conv, text)
        async with start(name):
            await hears(ada, conv, user, "heard 一", "heard two", "heard three")
        assert await find(ada, name) == user


async def test_an_answer_that_fails_is_passed_over(
    server: Process, start: Start, name: str
) -> None:
    async with server.online() as ada, start(name) as bot:
        await bot.says("is online")
        user = await find(ada, name)
        conv = await direct(ada, user)
        await ada.send(conv, "stumble")
        await ada.send(conv, "go on")
        await hears(ada, conv, user, "heard go on")
        assert "what a bot may do" in bot.said


async def test_a_bot_that_dies_before_it_was_done_has_replied_once(
    server: Process, start: Start, name: str
) -> None:
    async with server.online() as ada:
        async with start(name, FRAGILE="1") as bot:
            await bot.says("is online")
            user = await find(ada, name)
            conv = await direct(ada, user)
            await ada.send(conv, "die")
            assert await asyncio.wait_for(bot.process.wait(), WAIT_S) == 7
        async with start(name, FRAGILE="1") as bot:
            # Given to it again: the reply is the one that is stored already.
            assert await asyncio.wait_for(bot.process.wait(), WAIT_S) == 7
        async with start(name):
            await ada.send(conv, "and now")
            await hears(ada, conv, user, "dying", "heard and now")


async def test_in_a_group_a_bot_begins_with_what_was_written_after_it_came_in(
    server: Process, start: Start, name: str
) -> None:
    async with server.online() as ada:
        early, late = await group(ada), await group(ada)
        for conv in (early, late):
            for text in ("before", "long before"):
                await ada.send(conv, text)
        async with start(name) as bot:
            await bot.says("is online")
            user = await find(ada, name)
            await ada.add_members(early, [user])
            await ada.send(early, "welcome")
            await hears(ada, early, user, "heard welcome")
            await ada.drop_member(early, user)
            missed = await ada.send(early, "behind its back")
            # What is written in the millisecond of its coming counts as written after it.
            await eventually(lambda: time.time_ns() // 1_000_000 > missed.ts)
            await ada.add_members(early, [user])
            await ada.send(early, "back")
            await hears(ada, early, user, "heard welcome", "heard back")
        await ada.add_members(late, [user])
        await ada.send(late, "are you there?")
        async with start(name):
            await hears(ada, late, user, "heard are you there?")
            assert said_by(ada, early, user) == ["heard welcome", "heard back"]


async def test_bots_do_not_answer_one_another(server: Process, start: Start, name: str) -> None:
    one, two = f"1 {name}", f"2 {name}"
    async with server.online() as ada, start(one) as first, start(two) as second:
        await first.says("is online")
        await second.says("is online")
        users = [await find(ada, one), await find(ada, two)]
        conv = await group(ada, *users)
        for text in ("a", "b"):
            await ada.send(conv, text)
        for user in users:
            await hears(ada, conv, user, "heard a", "heard b")
        await ada.send(conv, "c")
        for user in users:
            await hears(ada, conv, user, "heard a", "heard b", "heard c")


async def test_a_bot_that_may_not_write_goes_on_elsewhere(
    server: Process, start: Start, name: str
) -> None:
    async with server.online() as ada, start(name) as bot:
        await bot.says("is online")
        user = await find(ada, name)
        room = await group(ada, user)
        await ada.set_member(room, user, 1, mute_ms=600_000)
        await ada.send(room, "can you hear me?")
        conv = await direct(ada, user)
        await ada.send(conv, "and here?")
        await hears(ada, conv, user, "heard and here?")
        assert said_by(ada, room, user) == []
        await ada.drop_member(room, user)
        await ada.send(conv, "still there?")
        await hears(ada, conv, user, "heard and here?", "heard still there?")


async def test_many_messages_are_answered_after_a_long_absence(
    server: Process, start: Start, name: str
) -> None:
    """More than a sync or a page of history brings at once."""
    async with server.online() as ada:
        async with start(name) as bot:
            await bot.says("is online")
            user = await find(ada, name)
        conv = await direct(ada, user)
        texts = [str(number) for number in range(120)]
        await asyncio.gather(*(ada.send(conv, text) for text in texts))
        async with start(name):
            await eventually(lambda: len(said_by(ada, conv, user)) >= len(texts), WAIT_S)
            assert said_by(ada, conv, user) == [f"heard {text}" for text in texts]


async def test_the_same_bot_cannot_run_twice(server: Process, start: Start, name: str) -> None:
    async with start(name) as bot:
        await bot.says("is online")
        async with start(name) as again:
            assert await asyncio.wait_for(again.process.wait(), WAIT_S) == 1
            assert "is used by another running client" in again.said
            assert "Traceback" not in again.said
        assert bot.process.returncode is None


async def test_a_bot_with_a_password_is_the_account_of_that_name(
    server: Process, start: Start, name: str
) -> None:
    account = name.replace(" ", "-") + "-account"
    made = await Account(server.url()).register(account, PASSWORD)
    async with server.online() as ada, start(account, PASSWORD=PASSWORD) as bot:
        await bot.says("is online")
        user = await find(ada, account)
        assert user == made.user.id
        conv = await direct(ada, user)
        await ada.send(conv, "hello")
        await hears(ada, conv, user, "heard hello")


async def test_a_bot_that_is_not_let_in_says_why_and_ends(start: Start, name: str) -> None:
    account = name.replace(" ", "-") + "-nobody"
    async with start(account, PASSWORD="not the right one") as bot:
        assert await asyncio.wait_for(bot.process.wait(), WAIT_S) == 1
        assert bot.said.startswith(f"{account}: ")
        assert "password" in bot.said
        assert "Traceback" not in bot.said
        assert "    at " not in bot.said


def spoil_tokens(folder: Path) -> None:
    """Make what bots have kept worthless, as a new installation of the server does."""
    (file,) = folder.rglob("*.tokens")
    text = file.read_text("utf-8")
    for kind in ("access_token", "refresh_token"):
        assert f'"{kind}":"' in text
        text = text.replace(f'"{kind}":"', f'"{kind}":"x')
    file.write_text(text, "utf-8")


async def test_a_bot_whose_account_is_gone_comes_back_as_a_new_guest(
    start: Start, name: str, tmp_path: Path, server: Process
) -> None:
    async with server.online() as ada:
        async with start(name) as bot:
            await bot.says("is online")
            old = await find(ada, name)
        spoil_tokens(tmp_path)
        async with start(name) as bot:
            await bot.says("is online")
            users = {found.id for found in await ada.find_users(name)}
            assert len(users) == 2
            (new,) = users - {old}
            conv = (await ada.create_conversation(ConvKind.DIRECT, members=[new or 0])).row.id or 0
            await ada.send(conv, "you again?")
            await hears(ada, conv, new or 0, "heard you again?")
