"""The JSON door of a whole server: what docs/json-door.md shows works as it is written there."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from bench.provider.server import ScriptedProvider
from protocol.codes import MsgKind
from tests.e2e.harness import DOORS, ROOT, Process, expected, group, rows
from tests.support.eventually import WAIT_S, eventually

PAGE: Final = ROOT / "docs" / "json-door.md"
SCRIPT: Final = "tokens=20"
"""What the server's default model does (tests.e2e.harness)."""
NODE: Final = shutil.which("node")
CURL: Final = shutil.which("curl")


def block(language: str, server: Process) -> str:
    """Return the first block of this language, with the address of this server."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert found is not None
    return found[1].replace("127.0.0.1:8420", f"127.0.0.1:{server.port}")


async def hear(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of this type that is no piece of an answer."""
    async with asyncio.timeout(WAIT_S):
        while True:
            told: dict[str, Any] = json.loads(await socket.recv())
            if told["type"] == kind and told.get("done", True):
                return told


async def guest(server: Process) -> tuple[str, dict[str, str]]:
    """Return the address and the header of a newcomer."""
    address = f"http://127.0.0.1:{server.port}/api/v1/auth/guest"
    async with aiohttp.ClientSession() as http, http.post(address, json={}) as answer:
        made = await answer.json()
    url = f"ws://127.0.0.1:{server.port}/ws/{made['user']['id']}"
    return url, {"Authorization": f"Bearer {made['token']}"}


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
async def test_the_talk_of_the_page_goes_as_it_is_printed(
    server: Process, provider: ScriptedProvider
) -> None:
    commands = block("sh", server).splitlines()
    done = await asyncio.to_thread(
        subprocess.run, commands[0], shell=True, capture_output=True, check=True, timeout=WAIT_S
    )
    made = json.loads(done.stdout)
    wscat = commands[1].replace("USER_ID", str(made["user"]["id"])).replace("TOKEN", made["token"])
    found = re.fullmatch(r"wscat -c (\S+) -H '(.+?): (.+)'", wscat)
    assert found is not None
    async with connect(found[1], additional_headers={found[2]: found[3]}) as socket:
        for line in block("text", server).splitlines():
            if line.startswith("> "):
                await socket.send(line[2:])
                continue
            printed = json.loads(line[2:])
            if printed.get("done") is False:
                continue
            told = await hear(socket, printed["type"])
            assert told.keys() == printed.keys()
    assert told["content"] == expected(SCRIPT)


@pytest.mark.skipif(NODE is None, reason="node is not installed (apt: nodejs)")
async def test_ten_lines_of_javascript_print_an_answer(
    server: Process, provider: ScriptedProvider, tmp_path: Path
) -> None:
    program = block("js", server)
    assert len(program.splitlines()) <= 10
    file = tmp_path / "talk.mjs"
    file.write_text(program, "utf-8")
    done = await asyncio.to_thread(
        subprocess.run,
        [NODE or "", "--experimental-websocket", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == expected(SCRIPT) + "\n", done.stderr


@pytest.mark.parametrize("other", DOORS)
async def test_everybody_in_a_room_hears_what_is_said_here_and_is_heard(
    server: Process, other: str
) -> None:
    url, headers = await guest(server)
    me = int(url.rpartition("/")[2])
    async with (
        server.online(door=other) as client,
        connect(url, additional_headers=headers) as door,
    ):
        await hear(door, "welcome")
        room = await group(client, me)
        await client.send(room, "你好，door")
        heard = await hear(door, "message")
        assert heard["message"]["content"] == "你好，door"
        await door.send(json.dumps({"type": "chat", "conversation_id": room, "content": "你好 🙂"}))
        taken = await hear(door, "chat_accepted")
        await eventually(lambda: len(rows(client, room)) == 2)
        row = rows(client, room)[-1]
        assert (str(row.seq), row.sender, row.kind) == (taken["message_id"], me, MsgKind.TEXT)
        assert row.text == "你好 🙂"
        await door.send('{"type":"history_request"}')
        past = await hear(door, "history_response")
        assert [m["content"] for m in past["messages"]] == [r.text for r in rows(client, room)]


async def test_a_restart_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.start()
    try:
        url, headers = await guest(process)
        async with connect(url, additional_headers=headers) as door:
            await hear(door, "welcome")
            await door.send('{"type":"chat","content":"remember me","client_id":"first"}')
            taken = await hear(door, "chat_accepted")
        process.kill()
        process.start()
        async with connect(url, additional_headers=headers) as door:
            await hear(door, "welcome")
            await door.send('{"type":"chat","content":"remember me","client_id":"first"}')
            again = await hear(door, "chat_accepted")
            assert again["repeated"]
            assert again["message_id"] == taken["message_id"]
            await door.send('{"type":"history_request"}')
            past = await hear(door, "history_response")
            said = [m["content"] for m in past["messages"] if m["sender_type"] == 0]
            assert said == ["remember me"]
    finally:
        process.kill()
