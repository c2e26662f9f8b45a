"""An approval by command reaches a running server, and its personas use the tool."""

import json
from pathlib import Path
from urllib.request import urlopen

from tests.e2e.harness import Process, answers, ask, command, expected, free_port, talk
from tests.e2e.serving import answering, serving
from tests.support.eventually import WAIT_S, eventually
from tests.support.tool_server import tool_server

SCRIPT = 'tool=peer_add,args={"left":19,"right":23},tokens=3'
SETTINGS = """
tools = ["peer"]

[[ai.mcp]]
name = "peer"
url = "http://127.0.0.1:%d/mcp"
allow_private = true
trust_first = false
"""


async def test_an_approved_tool_is_used_by_a_server_that_runs(tmp_path: Path) -> None:
    port = free_port()
    async with answering(port) as provider:
        with tool_server() as tools, serving(Process(tmp_path, port, SETTINGS % tools)) as server:
            server.write_config()  # with the port
            await approve(server)
            async with server.online() as client:
                conv = await talk(client)
                await ask(client, conv, SCRIPT)
                await eventually(lambda: answers(client, conv))
                (row,) = answers(client, conv)
            assert row.text == expected("tokens=3")
            assert provider.requests[0].talk.tools == ("peer_add",)
            assert "42" in json.dumps(provider.requests[-1].body["messages"][-1])
            assert 'parlance_tool_calls_total{outcome="done"} 1' in metrics(server)
    assert "Unclosed" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


async def approve(server: Process) -> None:
    """Approve of the tool `add` by command; on return the server knows."""
    known = "new: needs approval"  # once the server has asked the MCP server
    await eventually(lambda: known in command("tools", "list", config=server.config).stdout)
    done = command("tools", "approve", "peer", "add", "--yes", config=server.config)
    assert "A server is running here" in done.stdout, done.stderr
    await eventually(lambda: "mcp_tools_waiting 6" in metrics(server))


def metrics(server: Process) -> str:
    """Return the page of figures."""
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=WAIT_S) as page:
        text: str = page.read().decode()
    return text
