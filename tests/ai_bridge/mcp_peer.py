"""A tool server made with the official `mcp` package; run as a program, it prints its port."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context


def build() -> MCPServer:
    server = MCPServer("peer", log_level="ERROR")
    cancelled: list[str] = []

    @server.tool(description="Adds two numbers.")
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
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("endless")
        return ""

    @server.tool(description="Tells what was cancelled.")
    def ended() -> list[str]:
        return cancelled

    return server


async def serve(*, json_response: bool) -> None:
    options: dict[str, Any] = {"json_response": json_response}
    app = build().streamable_http_app(**options)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve(json_response="json" in sys.argv))
