"""What the page of figures shows of tools and MCP servers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.metrics import Figure

if TYPE_CHECKING:
    from server.core import Core


def tool_figures(core: "Core") -> Iterator[Figure]:
    """Yield the figures."""
    mcp = core.mcp
    states = {"up": mcp.up, "down": mcp.down}
    yield Figure("gauge", "mcp_servers", "MCP servers, by state.", states, "state")
    yield Figure("gauge", "mcp_tools_waiting", "Tools that nobody has approved.", mcp.waiting)
    yield Figure("counter", "mcp_tools_withheld", "Descriptions not approved.", mcp.stats.withheld)
    read = mcp.stats.refreshes
    yield Figure("counter", "mcp_refreshes", "Lists of MCP servers read.", read, "outcome")
    if core.bridge.tools is None:
        return
    stats = core.bridge.tools.stats
    calls = {
        "done": stats.done,
        "failed": stats.failed.total() - stats.timed_out,
        "timed_out": stats.timed_out,
        "refused": stats.refused.total(),
    }
    yield Figure("counter", "tool_calls", "Calls of tools, by outcome.", calls, "outcome")
    yield Figure("counter", "tool_failures", "Tools that failed.", dict(stats.failed), "reason")
    yield Figure("counter", "tool_refusals", "Calls not run.", dict(stats.refused), "reason")
    yield Figure("counter", "tools_dropped", "Tools not offered.", dict(stats.dropped), "reason")
