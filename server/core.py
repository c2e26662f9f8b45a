"""The collaborators of one server process, joined: what handlers and sessions reach for.

Built by `server.app`; nothing here starts or stops anything but tasks.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from msgspec import Struct

from ai_bridge.bridge import Bridge
from ai_bridge.embeddings import HashEmbedder
from ai_bridge.tools.registry import ToolRegistry
from protocol.codes import AuthMethod, Code
from protocol.errors import ProtocolError
from protocol.handshake import OriginPolicy
from protocol.states import State
from server.auth import AuthError, Claims, Tokens
from server.background import BackgroundAsk
from server.card_shelf import CardShelf
from server.config_sections import Config
from server.confirmations import Confirmations
from server.delivery import tell_unsure
from server.devices import DeviceBook
from server.directory import Conversation, Directory
from server.embedder import service_embedder
from server.engines import Engines
from server.erasure import Erasures
from server.handlers import build_router
from server.handlers.conversations import unhide
from server.heartbeat import Wheel
from server.hub import Hub
from server.limits import HandshakeGate, StrangerLimit, WindowLimit
from server.marks import Marks
from server.mcp_servers import McpSupervisor
from server.memories import Memories
from server.outbox import Flusher, OutboxLimits
from server.persona_cache import PersonaCache
from server.presence import PresenceBoard
from server.rooms import Rooms
from server.session import Session
from server.signin import renew, sign_in
from server.speech import Speech
from server.stats import Stats
from server.streams import Streams
from server.summaries import Summaries
from server.throttle import Allowance
from server.turn_records import TurnRecords
from server.turns import Turns
from server.usage_sums import UsageSums
from storage.ids import new_id
from storage.store import Store

log = logging.getLogger("parlance.core")

UPLOADS: Final = (0.2, 10.0)
"""Pictures per second, and at once, of one user, by whichever door."""


class Policy(Struct, frozen=True):
    """The limits that are looked at for every frame, copied out of the configuration."""

    rate: float
    burst: float
    bytes_per_s: float
    bytes_burst: float
    rate_pause_s: float
    rate_close_s: float
    inflight: int
    frame_bytes: int
    hello_s: float
    first_byte_s: float
    heartbeat_s: float
    members: int
    devices: int
    lookups_per_min: int
    conversation_per_s: float
    conversation_burst: float

    @classmethod
    def of(cls, config: Config) -> "Policy":
        """Return the policy that a configuration asks for."""
        limits = config.limits
        return cls(*(getattr(limits, name) for name in cls.__struct_fields__))


def _quarter_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class Core:
    """One process's collaborators.

    Attributes:
        clock: monotonic seconds of the event loop.
        lag_ms: how late the loop runs at present.
        draining: the process is about to stop and takes nobody in.
        http_factory: makes the protocol for connections that speak HTTP; set by the application.
        http_make_room: closes an idle one of them for another; False when there is none.
        uploads: the bound on pictures of one user.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        bridge: Bridge,
        tokens: Tokens,
        node: str,
        lag_ms: Callable[[], float],
    ) -> None:
        self.config = config
        self.policy = Policy.of(config)
        self.loop = loop
        self.clock = loop.time
        self.lag_ms = lag_ms
        self.store = store
        self.bridge = bridge
        self.tokens = tokens
        self.default_title = "新对话"
        limits = config.limits
        self.stats = Stats()
        self.router = build_router()
        self.handlers = self.router.handlers
        self.wheel = Wheel(loop.time())
        self.gate = HandshakeGate(loop, limits.handshakes_per_s, limits.handshakes_waiting)
        self.strangers = StrangerLimit(limits.unauthenticated_per_ip, limits.unauthenticated)
        self.user_sign_ins = WindowLimit(limits.user_handshakes_per_min, 60, loop.time)
        self.uploads = Allowance(*UPLOADS, lambda: self.clock())
        self.flusher = Flusher(
            loop,
            OutboxLimits(
                limits.outbox_soft_bytes,
                limits.outbox_hard_bytes,
                limits.outbox_stall_s,
                limits.outbox_total_bytes or _quarter_of_memory(),
            ),
        )
        self.hub = Hub()
        self.personas = PersonaCache()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.directory = Directory(store, self.spawn, config.storage.conversations_cached)
        self.presence = PresenceBoard(self)
        self.marks = Marks(self)
        self.devices = DeviceBook(self)
        self.streams = Streams(self)
        self.confirmations = Confirmations(self)
        self.turns = Turns(self, bridge, node)
        self.rooms = Rooms(self)
        self.records = TurnRecords(self)
        self.ask = BackgroundAsk(self, bridge, self.records)
        self.engines = Engines(store, bridge, self.spawn)
        registry = bridge.tools.registry if bridge.tools is not None else ToolRegistry()
        self.mcp = McpSupervisor(config.ai.mcp, registry, store, clock=loop.time)
        self.speech = Speech(self)
        self.cards = CardShelf(store)
        self.summaries = Summaries(
            store, self.ask, self.spawn, self._persona_name, refused=bridge.refused
        )
        self.usage = UsageSums(store)
        self.embedder = service_embedder(self, self.usage)
        self.memories = Memories(
            store, self.ask, HashEmbedder(), paid=self.embedder, clock=lambda: self.clock()
        )
        self.memories.learner.refused = bridge.refused
        self.erasures = Erasures(self)
        store.on_unsure(partial(tell_unsure, self))
        self.sessions = 0
        self.draining = False
        self.origins = OriginPolicy(config.websocket.origins)
        self.http_factory: Callable[[], asyncio.Protocol] = asyncio.Protocol
        self.http_make_room: Callable[[], bool] = bool

    @staticmethod
    def now_ms() -> int:
        """Return Unix milliseconds."""
        return time.time_ns() // 1_000_000

    @staticmethod
    def new_id() -> int:
        """Return a fresh id of any kind."""
        return new_id()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work as a task that the core owns until it ends; a crash is logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task.crashed", exc_info=error)

    def _persona_name(self, persona: int) -> str:
        row = self.personas.get(persona)
        return (row.name or "") if row is not None else ""

    @property
    def has_model(self) -> bool:
        """False while only the demo partner answers: it can neither fold a talk nor learn."""
        return any(not model.demo for model in self.bridge.models())

    def learn(self, conv: int, persona: int, user: int, seq: int) -> None:
        """A person wrote something to a persona: it may be worth remembering."""
        if self.config.ai.memory and self.has_model:
            self.memories.note(conv, persona, user, seq)

    @property
    def busy(self) -> int:
        """How many pieces of work are under way."""
        return len(self._tasks)

    async def end_background(self) -> None:
        """End what nobody waits for; call it before the bridge closes."""
        await self.speech.aclose()
        await self.summaries.close()
        await self.memories.aclose()
        if self.embedder is not None:
            await self.embedder.aclose()
        await self.usage.aclose()
        await self.erasures.aclose()

    async def finish(self, deadline_s: float) -> None:
        """Wait for the work under way, then cancel what is left."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=max(0.0, deadline_s))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def second(self) -> None:
        """What happens once a second. Driven by the application."""
        now = self.clock()
        self.marks.flush()
        for sweep in (
            self.wheel.turn,
            self.flusher.sweep,
            self.presence.sweep,
            self.turns.checkpoints.sweep,
            self.confirmations.sweep,
            self.memories.sweep,
            self.usage.sweep,
            self.erasures.sweep,
        ):
            try:
                sweep(now)
            except Exception:
                # A part that fails must not stop the deadlines of the others.
                log.exception("second.failed", extra={"part": sweep.__qualname__})

    # signing in

    def sign_in(self, session: Session, hello: Any) -> None:
        """Decide a `hello`; the session is answered when that is done."""
        if session.state is State.ATTACHING:  # it may have given up waiting at the gate
            self.spawn(sign_in(self, session, hello))

    def verify(self, method: int, secret: str) -> Claims:
        """Return what a token says.

        Raises:
            ProtocolError: it is not valid (any more), or not of a kind that is built.
        """
        if method == AuthMethod.TICKET:
            raise ProtocolError("resume tickets are not offered", Code.TICKET_INVALID)
        if method != AuthMethod.JWT:
            raise ProtocolError("unknown method", Code.BAD_CREDENTIALS)
        try:
            return self.tokens.verify(secret, self.now_ms())
        except AuthError as exc:
            raise ProtocolError(exc.reason, exc.code) from None

    async def renew(self, session: Session, method: int, secret: str) -> int:
        """Take a newer token for a session (see `signin.renew`)."""
        return await renew(self, session, method, secret)

    def expiry(self, claims: Claims) -> float:
        """Return the loop time at which a token ends."""
        return self.clock() + (claims.expires_ms - self.now_ms()) / 1000

    # small services

    def unhide(self, entry: Conversation) -> None:
        """Bring a direct conversation back for those who had put it away."""
        self.spawn(unhide(self, entry))

    def knows_model(self, model: str) -> bool:
        """Tell whether a provider serves this model."""
        models = self.bridge.models()
        return not models or any(info.id in (model, "*") for info in models)

    def model_names(self) -> str:
        """Return the models that personas may name, for an error text."""
        return ", ".join(info.id for info in self.bridge.models())
