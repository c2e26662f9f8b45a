"""The tool server of the official package in a process of its own, and servers that ask it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import ROOT, Process, ask, ended, free_port, talk
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


@contextmanager
def tool_server() -> Iterator[int]:
    """Run the tool server; the port it listens on."""
    pytest.importorskip("mcp")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ai_bridge.mcp_peer", "json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


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
