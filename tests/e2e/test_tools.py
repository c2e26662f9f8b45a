"""An approval by command reaches a running server, and its personas use the tool."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import ROOT, Process, answers, ask, command, expected, free_port, talk
from tests.support.eventually import WAIT_S, eventually

SCRIPT = 'tool=peer_add,args={"left":19,"right":23},tokens=3'
SETTINGS = """
tools = ["peer"]

[[ai.mcp]]
name = "peer"
url = "http://127.0.0.1:%d/mcp"
allow_private = true
trust_first = false
"""


@pytest.fixture
def peer_port() -> Iterator[int]:
    """The port of the official MCP server."""
    pytest.importorskip("mcp")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ai_bridge.mcp_peer", "json"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    yield int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


async def test_an_approved_tool_is_used_by_a_server_that_runs(
    tmp_path: Path, peer_port: int
) -> None:
    server = Process(tmp_path, free_port(), SETTINGS % peer_port)
    provider = ScriptedProvider()
    await provider.start(server.provider_port)
    server.start()
    server.write_config()  # with the port
    try:
        for _ in range(10):  # until the server has asked the MCP server
            said = command("tools", "list", config=server.config).stdout
            if "new: needs approval" in said:
                break
        done = command("tools", "approve", "peer", "add", "--yes", config=server.config)
        assert "A server is running here" in done.stdout, done.stderr
        approved = "mcp_tools_waiting 6"
        await eventually(lambda: approved in metrics(server))
        async with server.online() as client:
            conv = await talk(client)
            await ask(client, conv, SCRIPT)
            await eventually(lambda: answers(client, conv))
            (row,) = answers(client, conv)
        assert row.text == expected("tokens=3")
        assert provider.requests[0].talk.tools == ("peer_add",)
        assert "42" in json.dumps(provider.requests[-1].body["messages"][-1])
        assert 'parlance_tool_calls_total{outcome="done"} 1' in metrics(server)
    finally:
        code = server.stop()
        await provider.aclose()
    assert code == 0
    assert "Unclosed" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def metrics(server: Process) -> str:
    """Return the page of figures."""
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=WAIT_S) as page:
        text: str = page.read().decode()
    return text
