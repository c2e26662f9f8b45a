"""MCP servers of the settings: their lists read again and again, their approvals in the store.

Turns that begin get the tools of servers that work, as far as they are approved. The store has
what was seen last, so that commands can show and approve it without asking a server.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct, field

from ai_bridge.secrets import Secret
from ai_bridge.tools.mcp import McpFailure, McpServer, McpTool
from ai_bridge.tools.pins import PendingTool
from ai_bridge.tools.registry import DIALECTS, ToolRegistry, schema_problems
from ai_bridge.tools.schema import MAX_DESCRIPTION_CHARS
from ai_bridge.tools.servers import McpServers
from server.config_sections import McpConfig
from storage.errors import StorageError
from storage.mcp_servers import McpRow, mcp_server, note_problem, note_tools

if TYPE_CHECKING:
    from storage.store import Store

log = logging.getLogger("parlance.ai")

MAX_SCHEMA_CHARS: Final = 16_000
"""Of a tool's schema that is kept to be shown to people."""

MAX_LOGGED: Final = 10
"""Names of tools in one line of the log."""

Wait = Callable[[asyncio.Event, float], Awaitable[None]]
"""Returns when the event is set, or after so many seconds."""


class McpLimits(Struct, frozen=True, kw_only=True):
    """Waits, in seconds.

    Attributes:
        refresh_s: a list is read again after so long,
        retry_s: one that could not be read after this, which doubles
        retry_max_s: up to this.
        gap_s: shortest time between two readings of one list, whoever wants them.
        steady_s: a server's stream of news that ends after so long was a good one: something
            has happened to the server.
    """

    refresh_s: float = 300.0
    retry_s: float = 1.0
    retry_max_s: float = 60.0
    gap_s: float = 1.0
    steady_s: float = 10.0


class SeenTool(Struct, frozen=True):
    """A tool as its server described it last.

    Attributes:
        offered: its name for models.
        description, json_schema: cut to what a person can read.
        dropped: why it cannot be offered, "" if it can.
        not_for: dialects that cannot be told of it, with the reason.
    """

    name: str
    digest: str
    offered: str
    effect: str
    description: str
    json_schema: str
    dropped: str = ""
    not_for: dict[str, str] = {}


_decode_seen: Final = msgspec.json.Decoder(list[SeenTool]).decode


def to_mcp(given: McpConfig) -> McpServer:
    """Return a server of the settings as the bridge knows it."""
    headers = dict(given.headers)
    if given.api_key:
        headers["authorization"] = Secret(f"Bearer {given.api_key.reveal()}")
    return McpServer(
        name=given.name,
        url=given.url,
        headers=headers,
        allow_private=given.allow_private,
        read_tools=tuple(given.read_tools),
        believe_hints=given.believe_hints,
        timeout_s=given.timeout_s,
    )


def read_seen(row: McpRow) -> list[SeenTool]:
    """Return the tools of a server's last list; none if another version wrote it."""
    try:
        return _decode_seen(row.seen) if row.seen else []
    except msgspec.DecodeError:
        return []


def waiting_of(row: McpRow) -> list[SeenTool]:
    """Return the tools of a server's last list that are not approved as they are."""
    pins = row.pins or {}
    return [tool for tool in read_seen(row) if pins.get(tool.name) != tool.digest]


class McpLists:
    """Reads lists of tools and keeps them in the store."""

    def __init__(self, servers: McpServers, registry: ToolRegistry, store: "Store") -> None:
        self._servers = servers
        self._registry = registry
        self._store = store

    async def read(self, given: McpConfig) -> tuple[list[McpTool], McpRow]:
        """Ask a server for its tools and keep the list; return both, with the approvals.

        Raises:
            McpFailure: the server cannot be used.
            StorageError: the store cannot.
        """
        tools = await self._servers.tools(given.name)
        seen = msgspec.json.encode(await self._describe(given.name, tools)).decode()
        row = await self._store.read(mcp_server(given.name))
        if row.pins is None or row.seen != seen or row.problem:
            first = {tool.name: tool.digest for tool in tools} if given.trust_first else {}
            noted = partial(note_tools, name=given.name, seen=seen, first=first)
            row = await self._store.change((), noted)
        return tools, row

    async def note(self, given: McpConfig, problem: str) -> None:
        """Keep why a server cannot be used.

        Raises:
            StorageError: the store cannot be used either.
        """
        row = await self._store.read(mcp_server(given.name))
        if row.problem != problem:
            await self._store.change((), partial(note_problem, name=given.name, problem=problem))

    async def _describe(self, server: str, tools: Sequence[McpTool]) -> list[SeenTool]:
        specs = [self._servers.spec(server, tool) for tool in tools]
        refusals = [self._registry.refusal(spec) for spec in specs]
        # Schemas of strangers may take long to look through.
        problems = await asyncio.to_thread(lambda: [schema_problems(s.schema) for s in specs])
        found = []
        for tool, spec, refusal, bad in zip(tools, specs, refusals, problems, strict=True):
            everywhere = len(bad) == len(set(DIALECTS.values()))
            found.append(
                SeenTool(
                    name=tool.name,
                    digest=tool.digest,
                    offered=spec.name,
                    effect=spec.effect.value,
                    description=tool.description[:MAX_DESCRIPTION_CHARS],
                    json_schema=msgspec.json.encode(tool.schema).decode()[:MAX_SCHEMA_CHARS],
                    dropped=refusal or (next(iter(bad.values())) if everywhere else ""),
                    not_for={dialect.value: why for dialect, why in bad.items()},
                )
            )
        return found


class McpStats(Struct):
    """Totals since the start. `withheld`: descriptions that waited for approval when first seen."""

    refreshes: Counter[str] = field(default_factory=lambda: Counter({"done": 0, "failed": 0}))
    withheld: int = 0


class _Link:
    """One server, as far as this process knows."""

    def __init__(self, given: McpConfig) -> None:
        self.given = given
        self.news = asyncio.Event()
        self.up = False
        self.problem = ""
        self.waiting: frozenset[PendingTool] = frozenset()
        self.listener: asyncio.Task[None] | None = None


async def _wait(event: asyncio.Event, span_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(span_s):
            await event.wait()


class McpSupervisor:
    """Keeps the tools of all MCP servers in the registry. One task per server, and its stream.

    A server that does not work costs nobody anything: its tools are withdrawn until it is back.

    Attributes:
        stats: what happened so far.
    """

    def __init__(
        self,
        given: Iterable[McpConfig],
        registry: ToolRegistry,
        store: "Store",
        *,
        limits: McpLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = _wait,
    ) -> None:
        """Raises: ValueError: an address is not usable."""
        self.stats = McpStats()
        self._limits = limits or McpLimits()
        self._clock = clock
        self._wait = wait
        self._servers = McpServers(registry, self._suspect)
        self._lists = McpLists(self._servers, registry, store)
        self._links = {one.name: _Link(one) for one in given}
        self._tasks: list[asyncio.Task[None]] = []
        for link in self._links.values():
            self._servers.add(to_mcp(link.given))

    def start(self) -> None:
        """Begin to connect; nothing waits for it."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(link)) for link in self._links.values()]

    async def refresh(self) -> None:
        """Have all lists and approvals read again, soon."""
        for link in self._links.values():
            link.news.set()

    async def aclose(self) -> None:
        """End the sessions; at most a few seconds for servers that are slow to answer."""
        tasks = [*self._tasks, *(link.listener for link in self._links.values() if link.listener)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._servers.aclose()

    @property
    def up(self) -> int:
        """How many servers work."""
        return sum(link.up for link in self._links.values())

    @property
    def down(self) -> int:
        """How many do not, or not yet."""
        return len(self._links) - self.up

    @property
    def waiting(self) -> int:
        """How many tools wait for approval."""
        return sum(len(link.waiting) for link in self._links.values())

    # --- one server --------------------------------------------------------------------------

    async def _keep(self, link: _Link) -> None:
        """Read a list for ever: at an interval, when there is news, and often while it fails."""
        limits = self._limits
        retry_s = limits.retry_s
        while True:
            link.news.clear()
            if await self._refresh(link):
                pause_s, retry_s = limits.refresh_s, limits.retry_s
            else:
                pause_s, retry_s = retry_s, min(retry_s * 2, limits.retry_max_s)
            await asyncio.sleep(limits.gap_s)
            await self._wait(link.news, pause_s)

    async def _refresh(self, link: _Link) -> bool:
        try:
            tools, row = await self._lists.read(link.given)
        except McpFailure as failure:
            await self._fell(link, failure.reason)
        except StorageError:
            # What is offered was approved; it stays until the approvals can be read again.
            log.warning("mcp.unread", extra={"server": link.given.name})
        except Exception:
            log.exception("mcp.crashed", extra={"server": link.given.name})
            await self._fell(link, "crashed")
        else:
            self._rose(link, self._servers.offer(link.given.name, tools, row.pins or {}))
            self.stats.refreshes["done"] += 1
            return True
        self.stats.refreshes["failed"] += 1
        return False

    def _rose(self, link: _Link, waiting: list[PendingTool]) -> None:
        name = link.given.name
        if not link.up:
            log.info("mcp.up", extra={"server": name})
        link.up, link.problem = True, ""
        fresh = [tool.name[:64] for tool in waiting if tool not in link.waiting]
        if fresh:
            self.stats.withheld += len(fresh)
            told = {"server": name, "count": len(fresh), "tools": ", ".join(fresh[:MAX_LOGGED])}
            log.warning("mcp.tools_withheld", extra=told)
        link.waiting = frozenset(waiting)
        silent = link.listener is None or link.listener.done()
        if silent and self._servers.tells_changes(name):
            link.listener = asyncio.get_running_loop().create_task(self._listen(link))

    async def _fell(self, link: _Link, problem: str) -> None:
        self._servers.withdraw(link.given.name)
        if problem != link.problem:
            log.warning("mcp.down", extra={"server": link.given.name, "reason": problem})
        link.up, link.problem = False, problem
        if link.listener is not None:
            link.listener.cancel()
        try:
            await self._lists.note(link.given, problem)
        except StorageError:
            log.warning("mcp.unread", extra={"server": link.given.name})

    async def _listen(self, link: _Link) -> None:
        """Hear a server's news; if its stream was a good one, its end is news as well."""
        began = self._clock()
        with suppress(McpFailure):  # the list is read at the interval
            await self._servers.listen(link.given.name)
        if self._clock() - began >= self._limits.steady_s:
            link.news.set()

    def _suspect(self, name: str) -> None:
        self._links[name].news.set()
