"""The one place where the server's objects are built, joined, started and stopped."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import uvloop

from ai_bridge.bridge import Bridge
from ai_bridge.tools.registry import ToolContext
from ai_bridge.types import ToolCall
from protocol.codes import Code
from server.accounts import Accounts
from server.ai_providers import AiRefresh, added_providers, reload_providers
from server.ai_setup import load_budgets, make_billing, make_bridge, reload_prices
from server.auth import make_tokens
from server.builtin import install_builtins
from server.config import storage_url
from server.config_sections import Config
from server.core import Core
from server.http.app import HttpParts, HttpServer
from server.listening import Address, drop_address, note_address
from server.logs import install
from server.metrics import LoopLag
from server.reactor import listen, open_socket
from server.upkeep import Upkeep
from server.vault import Vault, make_vault
from storage.accounts import purge_refresh
from storage.engines import ENGINES
from storage.erasure import SUBJECT as ERASURES
from storage.mcp_servers import MCP
from storage.personas import all_personas
from storage.prices import PRICES
from storage.revisions import BUDGETS, PROVIDERS, revisions
from storage.rows import StoreOptions
from storage.store import Store

log = logging.getLogger("parlance.app")

DRAIN_SPREAD_MS = 2_000
RECOVER_EVERY_S = 15.0
GC_THRESHOLDS = (20_000, 20, 20)
"""Python's own (700, 10, 10) are for programs that leave many circles behind."""
REFRESH_EVERY_S = 5.0
"""How often AI services, budgets and prices are looked for that a command has changed."""
PURGE_EVERY_S = 600.0
"""How often expired refresh tokens are deleted, up to a thousand at a time."""


def store_options(config: Config) -> StoreOptions:
    """Return how the store is opened."""
    storage = config.storage
    return StoreOptions(
        url=storage_url(config),
        batch_rows=storage.batch_rows,
        batch_bytes=storage.batch_bytes,
        queue_rows=storage.queue_rows,
        queue_bytes=storage.queue_bytes,
        readers=storage.readers,
        migrate=storage.migrate,
        allow_weak_durability=storage.allow_weak_durability,
        dead_letter_dir=str(Path(config.server.data_dir).expanduser()),
    )


async def fill_personas(core: Core, store: Store) -> None:
    """Load all personas, a page at a time."""
    after = 0
    while page := await store.read(all_personas(after)):
        core.personas.fill(page)
        after = page[-1].row.id or 0


class App:
    """One server process, from its start to its end.

    Attributes:
        port: the port it listens on, once started.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._data_dir = Path(config.server.data_dir).expanduser()
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._listener: asyncio.Server | None = None
        self._seconds: asyncio.Task[None] | None = None
        self._accounts: Accounts | None = None
        self._http: HttpServer | None = None
        self._lag = LoopLag()
        self.port = 0
        self._socket: socket.socket | None = None
        self._store: Store | None = None
        self._bridge: Bridge | None = None
        self._refresh: AiRefresh | None = None
        self.core: Core | None = None

    async def start(self) -> None:
        """Open, join and start everything; on return connections are served.

        Raises:
            OSError: the address cannot be listened on.
            OpenFailed: the database cannot be used; the text says what to do.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        self._socket = open_socket(config.server.host, config.server.port, config.server.backlog)
        self.port = self._socket.getsockname()[1]
        tokens = make_tokens(config.auth, self._data_dir)
        store = self._store = await Store.open(store_options(config))
        refresh = AiRefresh(store, await store.read(revisions()))
        billing = await make_billing(config.ai, store, Core.now_ms, loop.time)
        vault = await asyncio.to_thread(self._vault)
        added = await added_providers(store, vault)
        bridge = self._bridge = make_bridge(
            config.ai, billing, added, lambda: self._lag.recent_ms, self._confirm
        )
        await bridge.start()
        refresh.add(BUDGETS, partial(load_budgets, billing.ledger, store))
        refresh.add(PRICES, partial(reload_prices, config.ai, store, billing))
        refresh.add(PROVIDERS, partial(reload_providers, config.ai, store, bridge, vault))
        self._refresh = refresh
        node = config.server.node or f"{socket.gethostname()}:{self.port}"
        core = self.core = Core(
            config, loop, store, bridge, tokens, node, lambda: self._lag.recent_ms
        )
        await core.engines.restore()
        refresh.add(ENGINES, core.engines.reload)
        refresh.add(ERASURES, core.erasures.look)
        await core.erasures.mem0.prepare()
        await install_builtins(store)
        await fill_personas(core, store)
        self._accounts = Accounts(store, tokens, config.auth)
        self._http = HttpServer(
            HttpParts(config, core, self._accounts, self._lag, vault, refresh.run)
        )
        await self._http.start()
        core.http_factory = self._http.factory
        core.http_make_room = self._http.make_room
        core.mcp.start()
        refresh.add(MCP, core.mcp.refresh)
        self._lag.start(loop)
        core.stats.orphans += await core.turns.recover(starting=True)
        core.spawn(core.engines.reload())  # what was asked for while no server ran
        self._seconds = loop.create_task(self._every_second(core))
        if config.server.gc_freeze:
            # A full collection with many connections takes tens of milliseconds.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
        await self._note_address()
        self._listener = await listen(core, self._socket)
        log.info("server.ready", extra={"port": self.port, "node": node})

    async def _confirm(self, call: ToolCall, context: ToolContext) -> bool:
        """Ask whom a tool's turn belongs to; the bridge exists before who can ask."""
        return self.core is not None and await self.core.confirmations.ask(call, context)

    def _vault(self) -> Vault:
        auth = self._config.auth
        return make_vault(auth.master_key, auth.old_master_keys, self._data_dir)

    async def _note_address(self) -> None:
        """Let commands find this server; they can do without."""
        try:
            await asyncio.to_thread(note_address, self._data_dir, self._address)
        except OSError as error:
            log.warning("server.address_not_noted", extra={"reason": error.strerror})

    @property
    def _address(self) -> Address:
        return Address(self._config.server.host, self.port)

    async def stop(self) -> None:
        """Take nobody in, finish what is under way, say goodbye, close everything."""
        core, drain_s = self.core, self._config.server.drain_s
        if core is not None:
            core.draining = True
        if self._listener is not None:
            self._listener.close()
        elif self._socket is not None:
            self._socket.close()
        if core is not None:
            await self._drain(core, drain_s)
        if self._http is not None:
            await self._http.stop()
        if self._seconds is not None:
            self._seconds.cancel()
        await asyncio.to_thread(drop_address, self._data_dir, self._address)
        self._lag.close()
        if self._accounts is not None:
            self._accounts.close()
        if self._store is not None:
            await self._store.close(deadline_s=drain_s)
        log.info("server.stopped")

    async def _drain(self, core: Core, drain_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        core.gate.close()
        for session in core.hub:
            session.go_away(Code.DRAINING, "restart", int(drain_s * 1000), DRAIN_SPREAD_MS)
        await core.end_background()
        if self._bridge is not None:
            await self._bridge.aclose(grace_s=drain_s)
        await core.mcp.aclose()  # turns that ran until now could still use their tools
        core.marks.flush()
        await core.finish(max(1.0, deadline - loop.time()))
        for session in core.hub:
            session.bye(Code.DRAINING, "restart", 0, DRAIN_SPREAD_MS)
        # One turn of the loop for the last writes.
        await asyncio.sleep(0.05)

    async def _every_second(self, core: Core) -> None:
        """Drive the deadlines; one failing part must not stop the others for good."""
        upkeep = self._upkeep(core)
        while True:
            await asyncio.sleep(1)
            try:
                core.second()
                for work in upkeep:
                    work.look()
            except Exception:
                log.exception("second.failed")

    def _upkeep(self, core: Core) -> list[Upkeep]:
        async def recover() -> None:
            core.stats.orphans += await core.turns.recover()

        async def purge() -> None:
            await core.store.change((), purge_refresh)

        works: list[tuple[str, float, Callable[[], Awaitable[object]]]] = [
            ("recover", RECOVER_EVERY_S, recover),
            ("purge", PURGE_EVERY_S, purge),
        ]
        if self._refresh is not None:
            works.append(("refresh", REFRESH_EVERY_S, self._refresh.run))
        return [Upkeep(*work, core.spawn, core.clock) for work in works]


def run(config: Config, announce: Callable[[int], None] = lambda port: None) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit code.

    Args:
        announce: called with the port once connections are served.
    """
    logs = install(config.log)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, announce))
    finally:
        logs.close()


async def _serve(config: Config, announce: Callable[[int], None]) -> int:
    app = App(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await app.start()
        announce(app.port)
        await stopping.wait()
    finally:
        await app.stop()
    return 0
