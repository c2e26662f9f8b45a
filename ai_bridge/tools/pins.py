"""What servers said of their tools when somebody approved them.

A server can describe its tool harmlessly until it is trusted, then slip instructions for the
model into the description. So a description counts only as long as it stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ai_bridge.tools.mcp import McpTool


class PendingTool(Struct, frozen=True):
    """A tool that waits for approval. Approve its `digest`: what was seen, not what comes later."""

    name: str
    digest: str
    changed: bool
    """It was approved with another description; False: it is new."""


def judge(
    pinned: Mapping[str, str], tools: Sequence[McpTool]
) -> tuple[list[McpTool], list[PendingTool]]:
    """Return the tools that are as approved, and those that wait.

    A tool that goes should keep its pin, so that it cannot come back as another one.

    Args:
        pinned: digests of the approved tools by name.
    """
    approved = [tool for tool in tools if pinned.get(tool.name) == tool.digest]
    waiting = [
        PendingTool(tool.name, tool.digest, tool.name in pinned)
        for tool in tools
        if pinned.get(tool.name) != tool.digest
    ]
    return approved, waiting
