"""What servers said of their tools when somebody approved them.

A server can describe its tool harmlessly until it is trusted, then slip instructions for the
model into the description. So a description counts only as long as it stays what it was.
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from ai_bridge.errors import BridgeError
from ai_bridge.tools.mcp import McpTool
from protocol.codes import Code

MAX_SERVERS = 500


class PendingTool(Struct, frozen=True):
    """A tool that waits for approval. Approve its `digest`: what was seen, not what comes later."""

    name: str
    description: str
    digest: str
    changed: bool
    """It was approved with another description; False: it is new."""


class Pins:
    """Digests of approved tools by server. Lives in memory; `to_json` is what is stored."""

    def __init__(self) -> None:
        self._pins: dict[str, dict[str, str]] = {}

    @classmethod
    def from_json(cls, data: bytes) -> Pins:
        """Read what `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        pins = cls()
        try:
            pins._pins = msgspec.json.decode(data, type=dict[str, dict[str, str]])
        except msgspec.DecodeError:
            raise ValueError("not a list of approved tools") from None
        return pins

    def to_json(self) -> bytes:
        return msgspec.json.encode(self._pins)

    def judge(self, server: str, tools: list[McpTool]) -> tuple[list[McpTool], list[PendingTool]]:
        """Return the tools that are as approved, and those that wait.

        The first list of a server is taken as it is: whoever set the server up saw it then. A
        tool that goes keeps its pin, so that it cannot come back as another one.

        Raises:
            BridgeError: SIZE_LIMIT, too many servers.
        """
        pinned = self._pins.get(server)
        if pinned is None:
            if len(self._pins) >= MAX_SERVERS:
                raise BridgeError(Code.SIZE_LIMIT, "Too many tool servers. Remove some first.")
            self._pins[server] = {tool.name: digest(tool) for tool in tools}
            return list(tools), []
        approved = [tool for tool in tools if pinned.get(tool.name) == digest(tool)]
        waiting = [
            PendingTool(tool.name, tool.description, digest(tool), tool.name in pinned)
            for tool in tools
            if pinned.get(tool.name) != digest(tool)
        ]
        return approved, waiting

    def approve(self, server: str, tool: str, seen_digest: str) -> None:
        self._pins.setdefault(server, {})[tool] = seen_digest

    def forget(self, server: str) -> None:
        """The server was removed; set up again, it is a new one."""
        self._pins.pop(server, None)


def digest(tool: McpTool) -> str:
    """Return the SHA-256 of all that the server says of the tool."""
    return hashlib.sha256(tool.raw).hexdigest()
