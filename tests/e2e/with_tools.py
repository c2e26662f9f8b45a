"""Servers whose models have the tools of a tool server (tests.support.tool_server)."""

import asyncio
from pathlib import Path

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import Process, ask, ended, free_port, talk
from tests.support.eventually import WAIT_S

MORE = """
user_day_usd = 0.5
tools = ["peer"]

[ai.prices]
"scripted/tokens=30" = {{ input = 1, output = 2 }}

[[ai.mcp]]
name = "peer"
url = "http://127.0.0.1:PORT/mcp"
allow_private = true
read_tools = ["greet"]
"""


def one_at_a_time(folder: Path, tool_port: int) -> Process:
    """Return a server where one answer of a user runs at a time, and models have tools."""
    process = Process(folder, free_port(), MORE.replace("PORT", str(tool_port)))
    process.template = process.template.replace("user_running = 100", "user_running = 1")
    return process


async def tools_offered(server: Process, provider: ScriptedProvider) -> None:
    """Wait until the tools of the tool server are offered to models."""
    async with server.online() as client, asyncio.timeout(WAIT_S):
        conv = await talk(client)
        while True:
            with client.events() as events:
                sent = await ask(client, conv, "tokens=1")
                await ended(events, sent.sid)
            if provider.requests[-1].body.get("tools"):
                return
            await asyncio.sleep(0.1)
