"""parlance tools …"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.context import day, fail, run_with_store, say_when, show, table

if TYPE_CHECKING:
    from ai_bridge.tools.registry import ToolRegistry
    from server.config import Config
    from server.config_sections import AiConfig, McpConfig
    from server.mcp_servers import SeenTool
    from storage.mcp_servers import McpRow
    from storage.store import Store

_SOON = "it takes this within a few seconds."

tools_app = typer.Typer(
    no_args_is_help=True, help="Tools that models may call: what there is, what is approved."
)

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@tools_app.command("list")
def list_tools(context: typer.Context) -> None:
    """List all tools, as they were last seen, and what becomes of them.

    A tool is offered to models if its state is "ready". "needs approval": its MCP server
    describes it in words that nobody has approved; read them with: parlance tools approve SERVER
    """

    async def work(store: "Store", config: "Config") -> None:
        from rich.markup import escape

        from ai_bridge.tools.builtin import builtin_tools
        from server.mcp_servers import read_seen
        from storage.mcp_servers import mcp_server

        made = table("server", "tool", "name for models", "effect", "state")
        for spec in builtin_tools():
            state = _unused(config.ai, "", spec.name) or "ready"
            made.add_row("(built in)", spec.name, spec.name, spec.effect.value, state)
        remarks = []
        for given in config.ai.mcp:
            row = await store.read(mcp_server(given.name))
            for tool in read_seen(row):
                names = (_plain(tool.name), _plain(tool.offered))
                state = _state(config.ai, row, tool)
                made.add_row(given.name, *map(escape, names), tool.effect, escape(state))
            remarks += _remarks(given.name, row)
        show(made)
        for remark in remarks:
            typer.echo(remark)

    run_with_store(context, work)


def _state(ai: "AiConfig", row: "McpRow", tool: "SeenTool") -> str:
    pinned = (row.pins or {}).get(tool.name)
    if pinned != tool.digest:
        return "new: needs approval" if pinned is None else "changed: needs approval"
    if tool.dropped:
        return f"dropped: {tool.dropped}"
    state = _unused(ai, row.name, tool.offered) or "ready"
    if tool.not_for:
        state += ", not for " + ", ".join(f"{one} ({why})" for one, why in tool.not_for.items())
    return f"{state}, server down" if row.problem else state


def _unused(ai: "AiConfig", server: str, tool: str) -> str:
    lists = [ai.tools, *(one.tools for one in ai.tool_lists)]
    named = any(tool in names or (server and server in names) for names in lists)
    return "" if named else "unused: no list names it (ai.tools)"


def _remarks(name: str, row: "McpRow") -> list[str]:
    if row.problem:
        return [f"{name} cannot be used since {day(row.updated)}: {row.problem}"]
    if row.pins is None:
        return [f"{name} was never asked for its tools; do it with: parlance tools refresh {name}"]
    return []


@tools_app.command("refresh")
def refresh(
    context: typer.Context,
    server: Annotated[str, typer.Argument(help="One MCP server; else all.")] = "",
) -> None:
    """Ask MCP servers for their tools now, from here, and have running servers do so too.

    Example: parlance tools refresh weather
    """

    async def work(store: "Store", config: "Config") -> None:
        from storage.mcp_servers import ask_for_lists

        chosen = [_find(config, server)] if server else config.ai.mcp
        if not chosen:
            fail("there are no MCP servers in the settings; add [[ai.mcp]] to the file")
        failed = [given.name for given in chosen if not await _read(store, config, given)]
        await store.change((), ask_for_lists)
        if failed:
            fail(f"not read: {', '.join(failed)}")

    run_with_store(context, work)


async def _read(store: "Store", config: "Config", given: "McpConfig") -> bool:
    from ai_bridge.tools.mcp import McpFailure
    from ai_bridge.tools.servers import McpServers
    from server.mcp_servers import McpLists, to_mcp, waiting_of

    registry = _registry()
    servers = McpServers(registry)
    servers.add(to_mcp(given))
    lists = McpLists(servers, registry, store)
    try:
        tools, row = await lists.read(given)
    except McpFailure as failure:
        await lists.note(given, failure.reason)
        typer.echo(f"{given.name}: {failure.text} ({failure.reason})", err=True)
        return False
    finally:
        await servers.aclose()
    typer.echo(f"{given.name}: {len(tools)} tools, {len(waiting_of(row))} wait for approval.")
    return True


def _registry() -> "ToolRegistry":
    """Return a registry as a server has it before any MCP server is asked."""
    from ai_bridge.tools.builtin import builtin_tools
    from ai_bridge.tools.registry import ToolRegistry

    registry = ToolRegistry()
    for spec in builtin_tools():
        registry.add(spec)
    return registry


def _find(config: "Config", name: str) -> "McpConfig":
    for given in config.ai.mcp:
        if given.name == name:
            return given
    known = ", ".join(given.name for given in config.ai.mcp) or "none"
    fail(f"there is no MCP server {name!r} in the settings; there are: {known}")


@tools_app.command("approve")
def approve(
    context: typer.Context,
    server: Annotated[str, typer.Argument(help="Name of the MCP server.")],
    tool: Annotated[str, typer.Argument(help="One tool; else all that wait.")] = "",
    yes: Yes = False,
) -> None:
    """Show what an MCP server says of its new and changed tools, and approve it.

    Read it as if a stranger were to speak to your model: that is what happens. Only these words
    are approved; if the server changes them again, the tool waits again.

    Example: parlance tools approve weather forecast
    """

    async def work(store: "Store", config: "Config") -> None:
        from server.mcp_servers import waiting_of
        from storage.mcp_servers import mcp_server, pin_tools

        row = await store.read(mcp_server(_find(config, server).name))
        waiting = [one for one in waiting_of(row) if tool in ("", one.name, one.offered)]
        if not waiting:
            fail(f"nothing of {server} waits for approval; see: parlance tools list")
        for one in waiting:
            _show_words(one, changed=one.name in (row.pins or {}))
        if not yes:
            typer.confirm(f"Approve these {len(waiting)} tools of {server}?", abort=True)
        digests = {one.name: one.digest for one in waiting}
        await store.change((), lambda tx: pin_tools(tx, server, digests))
        typer.echo(f"Approved {len(waiting)} tools of {server}.")
        say_when(config, _SOON)

    run_with_store(context, work)


def _show_words(tool: "SeenTool", *, changed: bool) -> None:
    typer.echo(f"{_plain(tool.name)} ({'changed' if changed else 'new'}, effect: {tool.effect})")
    typer.echo(f"  {_plain(tool.description)}")
    typer.echo(f"  arguments: {_plain(tool.json_schema)}")
    if tool.dropped:
        typer.echo(f"  It will not be offered even then: {tool.dropped}")
    typer.echo("")


def _plain(text: str) -> str:
    """Return a stranger's text so that it cannot move about the terminal."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tools_app, name="tools")
