"""Bots in processes of their own, and people who write to them."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from clients.client import Client
from protocol.codes import ConvKind
from tests.e2e.harness import ROOT, environment, rows
from tests.support.eventually import WAIT_S, eventually


class BotProcess:
    """A bot that runs as it would for anybody; what it says on its outputs is kept in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8")

    async def says(self, text: str, times: int = 1) -> None:
        """Return once it has said this so often."""

        def heard() -> bool:
            assert self.process.returncode is None, self.said
            return self.said.count(text) >= times

        await eventually(heard, WAIT_S)

    async def interrupt(self) -> int:
        """Press Ctrl-C; return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), WAIT_S)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process.returncode is None:
            self.process.kill()


@asynccontextmanager
async def running(
    *words: str, home: Path, cwd: Path = ROOT, env: Mapping[str, str] = {}
) -> AsyncIterator[BotProcess]:
    """Run a bot, which keeps its account below `home`; it is killed at the end."""
    log = home / "bot.log"
    with log.open("ab") as out:
        log.write_bytes(b"")
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            cwd=cwd,
            env=environment(XDG_STATE_HOME=str(home), **env),
        )
    bot = BotProcess(process, log)
    try:
        yield bot
    finally:
        bot.kill()
        await process.wait()


async def find(client: Client, name: str) -> int:
    """Return the only account of this name."""
    (found,) = await client.find_users(name)
    return found.id or 0


async def direct(client: Client, user: int) -> int:
    """Open the conversation with this user; return its id."""
    info = await client.create_conversation(ConvKind.DIRECT, members=[user])
    return info.row.id or 0


def said_by(client: Client, conv: int, user: int) -> list[str]:
    """Return what somebody has written."""
    return [row.text for row in rows(client, conv) if row.sender == user]


async def hears(client: Client, conv: int, user: int, *texts: str) -> None:
    """Return once somebody has written exactly this."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: len(said_by(client, conv, user)) >= len(texts), WAIT_S)
    heard = said_by(client, conv, user)
    assert heard == list(texts), heard
