"""A tool server made with the official `mcp` package; run as a program, it prints its port.

Arguments: json or sse, the port (0: any), what the tool `add` is said to do.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from functools import partial
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.lowlevel import NotificationOptions
from mcp.server.mcpserver import Context

ADDS = "Adds two numbers."


def build(adds: str) -> MCPServer:
    server = MCPServer("peer", log_level="ERROR")
    told_of: list[str] = []
    # The package says that it tells of changed lists only if it is made to.
    low = server._lowlevel_server
    told = partial(low.create_initialization_options, NotificationOptions(tools_changed=True))
    low.create_initialization_options = told  # type: ignore[method-assign]

    @server.tool(description=adds)
    def add(left: int, right: int) -> int:
        return left + right

    @server.tool(description="Says hello.")
    def greet(name: str = "world") -> str:
        return f"Hello, {name}! 你好"

    @server.tool(description="Fails.")
    def fail() -> str:
        raise ValueError("it is broken")

    @server.tool(description="Reports progress first.")
    async def slow(ctx: Context) -> str:
        for step in range(5):
            await ctx.report_progress(step, 5)
            await asyncio.sleep(0.01)
        return "finished"

    @server.tool(description="Never ends.")
    async def endless() -> str:
        told_of.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            told_of.append("cancelled")
        return ""

    @server.tool(description="Learns another tool.")
    async def learn(ctx: Context) -> str:
        server.add_tool(lambda: "learnt", name="learnt", description="Was learnt.")
        await ctx.session.send_tool_list_changed()
        return "done"

    @server.tool(description="Tells what became of the endless calls.")
    def ended() -> list[str]:
        return told_of

    return server


async def serve(mode: str, port: str = "0", adds: str = ADDS) -> None:
    options: dict[str, Any] = {"json_response": mode == "json"}
    app = build(adds).streamable_http_app(**options)
    listener = socket.create_server(("127.0.0.1", int(port)))
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
