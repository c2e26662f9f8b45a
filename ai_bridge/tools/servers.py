"""Tools of MCP servers in the registry: only those whose descriptions are as approved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ai_bridge.errors import BridgeError
from ai_bridge.tools.mcp import McpClient, McpFailure, McpServer, McpTool
from ai_bridge.tools.pins import PendingTool, judge
from ai_bridge.tools.registry import Effect, ToolContext, ToolRegistry, ToolSpec, safe_name
from protocol.codes import Code

MAX_SERVERS = 100


class McpServers:
    """All MCP servers of the process: their clients, and their tools in the registry.

    Args:
        on_change: told the name of a server whose list should be read again: it said so, or a
            call met a server that does not work.
    """

    def __init__(
        self, registry: ToolRegistry, on_change: Callable[[str], None] = lambda name: None
    ) -> None:
        self._registry = registry
        self._on_change = on_change
        self._clients: dict[str, McpClient] = {}
        self._offered: dict[str, list[str]] = {}

    def add(self, server: McpServer) -> None:
        """Take a server; it is asked for nothing yet.

        Raises:
            ValueError: its address is not usable.
            BridgeError: SIZE_LIMIT, too many; INVALID, the name is taken.
        """
        if server.name in self._clients:
            raise BridgeError(Code.INVALID, "There is a tool server of this name already.")
        if len(self._clients) >= MAX_SERVERS:
            raise BridgeError(Code.SIZE_LIMIT, "Too many tool servers. Remove some first.")
        self._clients[server.name] = McpClient(server, partial(self._on_change, server.name))

    async def tools(self, name: str) -> list[McpTool]:
        """Ask a server what it has; nothing of it is offered yet.

        Raises:
            BridgeError: NOT_FOUND.
            McpFailure: the server could not be used.
        """
        return await self._client(name).tools()

    def offer(
        self, name: str, tools: Sequence[McpTool], pinned: Mapping[str, str]
    ) -> list[PendingTool]:
        """Put a server's approved tools in the place of those before; return those that wait.

        Turns that run keep the tools they began with.

        Args:
            pinned: digests of the approved tools by name.
        """
        client = self._client(name)
        approved, waiting = judge(pinned, tools)
        digests = [tool.digest for tool in approved]
        if self._offered.get(name) != digests:
            specs = [self.spec(name, tool) for tool in approved]
            self._registry.replace_source(source_of(client.server.name), specs)
            self._offered[name] = digests
        return waiting

    def withdraw(self, name: str) -> None:
        """Offer none of a server's tools until `offer` is called again."""
        self._offered.pop(name, None)
        self._registry.replace_source(source_of(name), ())

    def tells_changes(self, name: str) -> bool:
        """Whether `listen` is worth while; known once the server was asked for its tools."""
        return self._client(name).tells_changes

    async def listen(self, name: str) -> None:
        """Hear a server until it ends the stream; see `McpClient.listen`."""
        await self._client(name).listen()

    def spec(self, name: str, tool: McpTool) -> ToolSpec:
        """Return a server's tool as the registry takes it."""
        server = self._client(name).server
        reads = tool.name in server.read_tools or (server.believe_hints and tool.read_only)
        return ToolSpec(
            name=safe_name(f"{server.name}_{tool.name}"),
            description=tool.description,
            schema=tool.schema,
            effect=Effect.READ if reads else Effect.WRITE,
            timeout_s=server.timeout_s,
            handler=partial(self._handle, name, tool.name),
            trusted=False,
            source=source_of(name),
        )

    async def aclose(self) -> None:
        """End all sessions and connections; a server that is slow to take its leave is left."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    def _client(self, name: str) -> McpClient:
        if name not in self._clients:
            raise BridgeError(Code.NOT_FOUND, "There is no tool server of this name.")
        return self._clients[name]

    async def _handle(
        self, name: str, tool: str, args: dict[str, Any], _context: ToolContext
    ) -> str:
        try:
            return await self._client(name).call(tool, args)
        except McpFailure as failure:
            if failure.reason != "refused":  # which is an answer
                self._on_change(name)
            raise


def source_of(name: str) -> str:
    """Return what the registry calls a server's tools together."""
    return f"mcp:{name}"
