"""Engines switched while people wait for answers, over HTTP and by command, and a restart."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from bench.provider.mem0 import FakeMem0
from bench.provider.server import ScriptedProvider
from clients.client import Client
from clients.events import StreamText
from protocol.codes import EndReason
from tests.e2e.harness import Process, ask, command, ended, expected, first, free_port, talk

SLOW = "tokens=60,rate=40"


@pytest.fixture
def process(tmp_path: Path, mem0: FakeMem0) -> Iterator[Process]:
    """A server that knows both engines and a scripted service."""
    process = Process(tmp_path, free_port(), f'mem0_url = "{mem0.base_url}"\n')
    yield process
    process.kill()


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[ScriptedProvider]:
    """The server, and then its AI service: who is not asked for its models has any."""
    await asyncio.to_thread(process.start)
    provider = ScriptedProvider()
    await provider.start(process.provider_port)
    try:
        yield provider
        assert await asyncio.to_thread(process.stop) == 0
    finally:
        await provider.aclose()


async def run(process: Process, *words: str) -> str:
    """Run a command beside the server; return what it prints."""
    done = await asyncio.to_thread(command, *words, config=process.config)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


async def switch(process: Process, key: str, engine: str) -> None:
    """Switch the key's tenant over HTTP."""
    url = f"http://127.0.0.1:{process.port}/api/v1/engines/{engine}/switch"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={}, headers={"Authorization": f"Bearer {key}"}) as response,
    ):
        assert response.status == 200, await response.text()


async def whole(client: Client, conv: int, text: str) -> None:
    """Ask, and see the whole answer."""
    with client.events() as events:
        sent = await ask(client, conv, "tokens=3", text)
        end = await ended(events, sent.sid)
    assert (end.reason, end.text) == (EndReason.STOP, expected("tokens=3"))


def learnt(mem0: FakeMem0) -> list[str]:
    """Return the questions that the mem0 server was given to remember."""
    return [text for texts in mem0.memories.values() for text in texts]


async def test_answers_end_where_they_began_and_the_choice_outlives_a_restart(
    process: Process, mem0: FakeMem0
) -> None:
    async with running(process) as provider:
        key = await run(process, "token", "key", "add", "engines", "--scope", "engines")
        account = await process.newcomer("安娜")
        async with process.online(account) as client:
            conv = await talk(client)
            await switched_midway(process, provider, client, conv, key, "mem0_proxy")
            assert not mem0.requests
            await whole(client, conv, "我喜欢喝茶")
            await mem0.until(lambda: learnt(mem0) == ["我喜欢喝茶"])

    async with running(process) as provider, process.online(account) as client:
        await client.watch([conv])
        await whole(client, conv, "after the restart")
        await mem0.until(lambda: learnt(mem0)[-1] == "after the restart")
        await switched_midway(process, provider, client, conv, key, "chat_engine")
        await mem0.until(lambda: learnt(mem0)[-1] == "midway")
        asked = len(mem0.requests)
        await whole(client, conv, "on the other engine")
        assert len(mem0.requests) == asked

        said = await run(process, "engine", "switch", "mem0_proxy", "--tenant", "default")
        assert "mem0_proxy answers the tenant default from now on" in said
        assert "the tenant default" in await run(process, "engine", "list")
        await whole(client, conv, "by command")
        await mem0.until(lambda: learnt(mem0)[-1] == "by command")


async def switched_midway(
    process: Process,
    provider: ScriptedProvider,
    client: Client,
    conv: int,
    key: str,
    engine: str,
) -> None:
    """Switch while an answer streams, which goes on to its end."""
    with client.events() as events:
        sent = await ask(client, conv, SLOW, "midway")
        await first(events, StreamText, sid=sent.sid)
        await switch(process, key, engine)
        assert provider.stats.streaming == 1
        end = await ended(events, sent.sid)
    assert (end.reason, end.text) == (EndReason.STOP, expected(SLOW))


async def test_a_switch_to_an_engine_that_is_ill_changes_nothing(
    process: Process, mem0: FakeMem0
) -> None:
    async with running(process):
        await mem0.aclose()
        words = ("engine", "switch", "mem0_proxy")
        done = await asyncio.to_thread(command, *words, config=process.config)
        assert done.returncode == 1
        assert "mem0 server does not answer" in done.stderr
        async with process.online() as client:
            await whole(client, await talk(client), "still there?")


async def test_what_a_command_erased_while_no_server_ran_is_erased_at_the_mem0_server_too(
    process: Process, mem0: FakeMem0
) -> None:
    async with running(process):
        said = await run(process, "engine", "switch", "mem0_proxy")
        assert "mem0_proxy answers everybody from now on" in said
        async with process.online() as client:
            gone = await talk(client)
            await whole(client, gone, "我喜欢喝茶")
            await whole(client, await talk(client), "kept")
            await mem0.until(lambda: len(learnt(mem0)) == 2)
    await run(process, "conversation", "erase", str(gone), "--yes")
    assert len(learnt(mem0)) == 2
    async with running(process):
        await mem0.until(lambda: learnt(mem0) == ["kept"])
