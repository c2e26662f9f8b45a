"""A hand-written MCP server, whose answers a test may replace one method at a time."""

from __future__ import annotations

import json
from typing import Any

from ai_bridge.tools.mcp import VERSION, McpClient, McpServer
from tests.ai_bridge.odd_http import Answer, Asked, OddHttpServer, Writer, reply


class Odd:
    """A well-behaved server until a test puts something else in place of one method's answer."""

    def __init__(self) -> None:
        self.server = OddHttpServer(self.answer)
        self.methods: dict[str, Answer] = {}
        self.pages: list[list[dict[str, Any]]] = [[tool("echo")]]
        self.clients: list[McpClient] = []

    def client(self, **fields: Any) -> McpClient:
        fields = {"allow_private": True, "timeout_s": 2.0, **fields}
        client = McpClient(McpServer(name="odd", url=self.server.url + "/mcp", **fields))
        self.clients.append(client)
        return client

    def heard(self, method: str) -> list[Asked]:
        return [asked for asked in self.server.asked if asked.message.get("method") == method]

    async def answer(self, asked: Asked, writer: Writer) -> None:
        message = asked.message
        method = message.get("method", "")
        if method in self.methods:
            await self.methods[method](asked, writer)
        elif "id" not in message or not method:
            reply(writer, status=202)
        elif method == "initialize":
            info = {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {}}
            reply(writer, result(asked, info), mcp_session_id="s-1")
        elif method == "tools/list":
            page = int(message["params"].get("cursor", "0"))
            found: dict[str, Any] = {"tools": self.pages[page]}
            if page + 1 < len(self.pages):
                found["nextCursor"] = str(page + 1)
            reply(writer, result(asked, found))
        else:
            reply(writer, result(asked, text("ok")))


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"Does {name}.",
        "inputSchema": {"type": "object"},
        **fields,
    }


def result(asked: Asked, value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": asked.message["id"], "result": value}


def text(*parts: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": part} for part in parts]}


def event(value: Any) -> bytes:
    return b"event: message\ndata: " + json.dumps(value).encode() + b"\n\n"


def stream(writer: Writer, *pieces: bytes) -> None:
    """Begin an event stream that ends with the connection."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(pieces))
