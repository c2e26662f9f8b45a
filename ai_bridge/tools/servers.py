"""Tools of MCP servers in the registry: only those whose descriptions are as approved."""

from __future__ import annotations

from functools import partial
from typing import Any

from ai_bridge.errors import BridgeError
from ai_bridge.tools.mcp import McpClient, McpServer, McpTool
from ai_bridge.tools.pins import PendingTool, Pins
from ai_bridge.tools.registry import Effect, ToolContext, ToolRegistry, ToolSpec, safe_name
from protocol.codes import Code

MAX_SERVERS = 100


class McpServers:
    """All MCP servers of the process: their clients, their tools, what waits for approval."""

    def __init__(self, registry: ToolRegistry, pins: Pins | None = None) -> None:
        self.pins = pins or Pins()
        self._registry = registry
        self._clients: dict[str, McpClient] = {}
        self._tools: dict[str, list[McpTool]] = {}
        self._pending: dict[str, list[PendingTool]] = {}

    def add(self, server: McpServer) -> None:
        """Take a server; call `refresh` to learn its tools.

        Raises:
            ValueError: its address is not usable.
            BridgeError: SIZE_LIMIT, too many; INVALID, the name is taken.
        """
        if server.name in self._clients:
            raise BridgeError(Code.INVALID, "There is a tool server of this name already.")
        if len(self._clients) >= MAX_SERVERS:
            raise BridgeError(Code.SIZE_LIMIT, "Too many tool servers. Remove some first.")
        self._clients[server.name] = McpClient(server)

    async def remove(self, name: str) -> bool:
        """Forget a server, its tools and its approvals; False if there is none."""
        client = self._clients.pop(name, None)
        if client is None:
            return False
        self._registry.replace_source(_source(name), ())
        self._tools.pop(name, None)
        self._pending.pop(name, None)
        self.pins.forget(name)
        await client.aclose()
        return True

    async def refresh(self, name: str) -> list[PendingTool]:
        """Ask a server for its tools and offer the approved ones; return those that wait.

        Raises:
            BridgeError: NOT_FOUND.
            McpFailure: the server could not be used; what it offered before stays.
        """
        self._tools[name] = await self._client(name).tools()
        return self._offer(name)

    def pending(self, name: str) -> list[PendingTool]:
        return list(self._pending.get(name, ()))

    def approve(self, name: str, tool: str, digest: str) -> bool:
        """Approve what was seen; False if the server describes the tool differently by now."""
        if not any(one.name == tool and one.digest == digest for one in self.pending(name)):
            return False
        self.pins.approve(name, tool, digest)
        self._offer(name)
        return True

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    def _client(self, name: str) -> McpClient:
        if name not in self._clients:
            raise BridgeError(Code.NOT_FOUND, "There is no tool server of this name.")
        return self._clients[name]

    def _offer(self, name: str) -> list[PendingTool]:
        client = self._client(name)
        approved, self._pending[name] = self.pins.judge(name, self._tools[name])
        specs = [_spec(client, tool) for tool in approved]
        self._registry.replace_source(_source(name), specs)
        return self.pending(name)


def _source(name: str) -> str:
    return f"mcp:{name}"


def _spec(client: McpClient, tool: McpTool) -> ToolSpec:
    server = client.server
    return ToolSpec(
        name=safe_name(f"{server.name}_{tool.name}"),
        description=tool.description,
        schema=tool.schema,
        effect=Effect.READ if tool.name in server.read_tools else Effect.WRITE,
        timeout_s=server.timeout_s,
        handler=partial(_handle, client, tool.name),
        trusted=False,
        source=_source(server.name),
    )


async def _handle(client: McpClient, tool: str, args: dict[str, Any], _context: ToolContext) -> str:
    return await client.call(tool, args)
