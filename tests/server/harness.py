"""A real server in the test's own loop, and a client that knows frames and nothing else.

Everything that the application joins is here except the once-a-second task: `Server.advance`
moves the clock and does a second's work instead, so that no test waits for a deadline.
"""

import asyncio
import contextlib
import itertools
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

from msgspec import structs

from ai_bridge.billing import Billing
from ai_bridge.tools.registry import ToolContext
from ai_bridge.types import ToolCall
from protocol.codec import JSON, MSGPACK, Codec
from protocol.codes import Caps, Code, ConvKind, Scope
from protocol.envelopes import (
    Bye,
    ConvCreate,
    ConvInfo,
    Err,
    Frame,
    Hello,
    Ping,
    Pong,
    Reply,
    Request,
    Send,
    Sent,
    Welcome,
)
from protocol.frames import PREFACE, FrameDecoder
from protocol.handshake import build_request, make_key
from protocol.rows import ConvSet, Persona, SendX, Sync, User, Watch
from protocol.websocket import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    WebSocketDecoder,
    encode_frame,
    parse_close,
)
from server.ai_setup import make_billing, make_bridge
from server.app import store_options
from server.auth import make_tokens
from server.config_sections import (
    AiConfig,
    Config,
    LimitsConfig,
    MessagesConfig,
    ServerConfig,
    WebSocketConfig,
)
from server.core import Core
from server.reactor import listen, open_socket
from storage.accounts import create_user
from storage.personas import all_personas, save_persona
from storage.store import Store
from tests.support.eventually import WAIT_S, eventually

F = TypeVar("F", bound=Frame)

ALL_CAPS: Final = int(Caps.AI_DELTAS | Caps.PRESENCE | Caps.RECEIPTS)
MASK: Final = b"\x11\x22\x33\x44"
TRANSPORTS: Final = ("tcp", "ws", "json")

_numbers = itertools.count(1)


def cid() -> bytes:
    """Return an idempotency key never used before in this run."""
    return next(_numbers).to_bytes(16, "big")


def device(number: int) -> bytes:
    """Return the id of a device."""
    return b"device" + number.to_bytes(10, "big")


class Person(NamedTuple):
    """A user in the store."""

    id: int
    tenant: int
    name: str


class Peer:
    """One connection, as its client sees it. Reads only when asked to.

    Attributes:
        inbox: frames that have been read and not been asked for, in order of arrival.
        close_code: what the server's WebSocket close frame said.
        ended: the server has closed its side.
    """

    def __init__(
        self,
        server: "Server",
        transport: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._rids = itertools.count(1)
        self._decoder = FrameDecoder((1 << 24) - 1)
        self._ws = None if transport == "tcp" else WebSocketDecoder(1 << 24, require_mask=False)
        self.codec: Codec = JSON if transport == "json" else MSGPACK
        self.inbox: deque[Any] = deque()
        self.welcome: Welcome | None = None
        self.close_code = 0
        self.pings = 0
        self.ended = False

    # out

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    def pack(self, *frames: Frame) -> bytes:
        """Return the bytes of frames, as this transport carries them."""
        return b"".join(self.wrap(self.codec.encode(frame)) for frame in frames)

    def wrap(self, data: bytes) -> bytes:
        """Return encoded frames inside a WebSocket message, where there is one."""
        if self._ws is None:
            return data
        return encode_frame(TEXT if self.codec is JSON else BINARY, data, mask=MASK)

    def send(self, *frames: Frame) -> None:
        """Send frames in one write."""
        self.write(self.pack(*frames))

    def rid(self) -> int:
        """Return a fresh request id."""
        return next(self._rids)

    def half_close(self) -> None:
        """Say that nothing more will come."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Vanish with a RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self._writer.transport.abort()

    async def close(self) -> None:
        """Leave."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    # in

    async def read(self) -> bool:
        """Read once into the inbox; False when the server has ended the connection."""
        if self.close_code:
            return False
        try:
            data = await asyncio.wait_for(self._reader.read(1 << 18), WAIT_S)
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        payloads: list[bytes] = []
        if self._ws is None:
            payloads = self._decoder.feed(data)
        else:
            for opcode, payload in self._ws.feed(data):
                if opcode == CLOSE:
                    self.close_code = parse_close(payload)[0]
                elif opcode == PING:
                    self.pings += 1
                elif opcode == TEXT:
                    payloads.append(payload)
                else:
                    payloads += self._decoder.feed(payload)
        self.inbox.extend(map(self.codec.decode_server, payloads))

    async def next(self) -> Any:
        """Return the next frame."""
        while not self.inbox:
            assert await self.read(), "the server has closed the connection"
        return self.inbox.popleft()

    async def expect(self, kind: type[F], want: Callable[[F], bool] = lambda f: True) -> F:
        """Return the first frame of this kind; those before it stay in the inbox."""
        seen = 0
        while True:
            for at in range(seen, len(self.inbox)):
                frame = self.inbox[at]
                if isinstance(frame, kind) and want(frame):
                    del self.inbox[at]
                    return frame
            seen = len(self.inbox)
            assert await self.read(), f"no {kind.__name__} before the end: {list(self.inbox)}"

    async def ask(self, request: type[Request], *args: object, **options: object) -> Any:
        """Send a request and return its reply, which may be an Err."""
        rid = self.rid()
        self.send(request(rid, *args, **options))
        return await self.expect(Reply, lambda reply: reply.rid == rid)

    async def refused(self, request: type[Request], *args: object, **options: object) -> int:
        """Send a request that must be refused; return the code."""
        reply = await self.ask(request, *args, **options)
        assert isinstance(reply, Err), reply
        return reply.code

    async def settled(self) -> list[Any]:
        """Return all that has come once the requests so far are done; it leaves the inbox."""
        await self._pong()
        await self._server.idle()
        await self._pong()
        frames = list(self.inbox)
        self.inbox.clear()
        return frames

    async def _pong(self) -> None:
        number = next(_numbers)
        self.send(Ping(number))
        await self.expect(Pong, lambda pong: pong.n == number)

    async def end(self) -> list[Any]:
        """Read up to the server's end of the connection; return what came before it."""
        while await self.read():
            pass
        frames = list(self.inbox)
        self.inbox.clear()
        return frames

    async def bye(self) -> Bye:
        """Read up to the end, which must have been announced; return how."""
        frames = await self.end()
        assert frames, "closed without a word"
        assert isinstance(frames[-1], Bye), frames
        return frames[-1]

    # often used

    def hello(self, person: Person, number: int = 1, **options: Any) -> Hello:
        """Return what signs a person in on a device."""
        fields: dict[str, Any] = {"caps": ALL_CAPS, "hb": 30, "max_frame": 1 << 20, "lang": "en"}
        fields |= options
        secret = fields.pop("secret", None) or self._server.token(person)
        return Hello(0, 1, secret, device(number), "test/py", **fields)

    async def send_text(self, conv: int, text: str = "hello", x: SendX | None = None) -> Sent:
        """Send a message and return its acknowledgement."""
        reply = await self.ask(Send, conv, cid(), 0, text, x)
        assert isinstance(reply, Sent), reply
        return reply

    async def create(
        self,
        kind: ConvKind,
        *members: Person,
        persona: int | None = None,
        title: str = "",
        given: ConvSet | None = None,
    ) -> ConvInfo:
        """Make a conversation."""
        reply = await self.ask(
            ConvCreate, cid(), int(kind), title, [m.id for m in members], persona, given
        )
        assert isinstance(reply, ConvInfo), reply
        return reply


class Server:
    """The joined parts of one server, listening on a port of its own."""

    billing: Billing

    def __init__(self, core: Core, listener: asyncio.Server, port: int) -> None:
        self.core = core
        self.port = port
        self.store = core.store
        self._listener = listener
        self._peers: list[Peer] = []
        self._shift_s = 0.0
        core.clock = lambda: core.loop.time() + self._shift_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for peer in self._peers:
                await peer.close()
            if error is None:
                await self.empty()
        finally:
            core = self.core
            self._listener.close()
            core.gate.close()
            await core.end_background()
            await core.bridge.aclose()
            await core.finish(1.0)
            await self.store.close(1.0)

    async def empty(self) -> None:
        """Wait until nothing is left of any connection."""
        core = self.core
        await eventually(lambda: self.connections == 0 and core.strangers.open == 0)
        assert core.hub.size == 0
        assert not list(core.hub)
        assert core.flusher.backlog_bytes == 0
        assert not core.flusher.paused
        await eventually(lambda: core.busy == 0)

    async def idle(self) -> None:
        """Wait until no request and no write is under way; running answers do not count."""
        core = self.core
        stats = self.store.stats
        await eventually(lambda: not stats.queued_rows and not core.busy)

    @property
    def connections(self) -> int:
        """Connections that speak PWP."""
        return sum(self.core.stats.connections.values())

    def advance(self, seconds: float) -> None:
        """Let time pass for deadlines, and do what happens once a second."""
        self._shift_s += seconds
        self.core.second()

    # people

    async def person(self, name: str, tenant: int = 1) -> Person:
        """Make a user."""
        user = await self.store.change((), lambda tx: create_user(tx, tenant, name))
        return Person(user.id or 0, tenant, name)

    async def people(self, names: str, tenant: int = 1) -> list[Person]:
        """Make several users; names are separated by spaces."""
        return [await self.person(name, tenant) for name in names.split()]

    def token(self, person: Person, **options: Any) -> str:
        """Return a sign-in token."""
        now_ms = options.pop("now_ms", None) or self.core.now_ms()
        return self.core.tokens.issue(person.id, person.tenant, 0, None, now_ms, **options)[0]

    async def persona(
        self, owner: Person, name: str = "Ada", scope: Scope = Scope.TENANT, **fields: Any
    ) -> int:
        """Make a persona; return its id."""
        given = Persona(name=name, prompt="Be kind.", scope=int(scope), **fields)
        saved, _ = await self.store.change(
            (owner.id,),
            lambda tx: save_persona(tx, owner.tenant, owner.id, None, cid(), given),
        )
        self.core.personas.put(owner.tenant, saved)
        return saved.id or 0

    # connections

    async def dial(self, transport: str = "tcp", *, preface: bool = True) -> Peer:
        """Return a connection that is not signed in."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        peer = Peer(self, transport, reader, writer)
        self._peers.append(peer)
        if transport == "tcp":
            if preface:
                peer.write(PREFACE)
        else:
            protocol = "pwp1.json" if transport == "json" else "pwp1.msgpack"
            host = f"127.0.0.1:{self.port}"
            peer.write(build_request(host, "/ws", make_key(), subprotocols=[protocol]))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
            assert head.startswith(b"HTTP/1.1 101 "), head
        return peer

    async def connect(
        self, person: Person, transport: str = "tcp", number: int = 1, **options: Any
    ) -> Peer:
        """Return a signed-in connection."""
        peer = await self.dial(transport)
        peer.send(peer.hello(person, number, **options))
        peer.welcome = await peer.expect(Welcome)
        if not options.get("sync"):
            # The device row is written behind the welcome; tests that count want it done.
            await peer.settled()
        return peer

    async def everybody(self, people: Iterable[Person], transport: str = "tcp") -> list[Peer]:
        """Return a signed-in connection for each."""
        return [await self.connect(person, transport) for person in people]


def watching(*convs: int, users: Iterable[int] = ()) -> Watch:
    """Return what watches these conversations and people."""
    return Watch(list(convs), list(users))


def fresh_sync(**options: Any) -> Sync:
    """Return the Sync of a client that knows nothing."""
    fields: dict[str, Any] = {"me_rev": 0, "since": 0, "heads": [], "streams": []}
    return Sync(**({"budget": 1 << 19} | fields | options))


def codes_of(frames: Iterable[Any]) -> list[Code]:
    """Return the codes of the errors among frames."""
    return [Code(frame.code) for frame in frames if isinstance(frame, Err | Bye)]


_LIMITS: Final = LimitsConfig(
    rate=100_000.0,
    burst=100_000.0,
    bytes_per_s=1 << 30,
    bytes_burst=1 << 30,
    conversation_per_s=100_000.0,
    conversation_burst=100_000.0,
    handshakes_per_s=100_000,
    user_handshakes_per_min=100_000,
    lookups_per_min=1_000,
)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *,
    ai: AiConfig | None = None,
    websocket: WebSocketConfig | None = None,
    messages: MessagesConfig | None = None,
    **limits: Any,
) -> AsyncIterator[Server]:
    """Run a server on an SQLite file in folder; limits that are not given are out of the way."""
    config = Config(
        server=ServerConfig(port=0, data_dir=str(folder), gc_freeze=False),
        limits=structs.replace(_LIMITS, **limits),
        websocket=websocket or WebSocketConfig(json=True),
        messages=messages or MessagesConfig(),
        ai=ai or AiConfig(detect=False, demo_words_per_s=0),
    )
    async with await start(config, folder) as server:
        yield server


async def start(config: Config, folder: Path) -> Server:
    """Join the parts as the application does."""
    loop = asyncio.get_running_loop()
    listener = open_socket("127.0.0.1", 0, 256)
    store = await Store.open(store_options(config))
    billing = await make_billing(config.ai, store, Core.now_ms, loop.time)
    joined: list[Core] = []

    async def confirm(call: ToolCall, context: ToolContext) -> bool:
        return await joined[0].confirmations.ask(call, context)

    bridge = make_bridge(config.ai, billing, confirm=confirm)
    await bridge.start()
    core = Core(config, loop, store, bridge, make_tokens(config.auth, folder), "test", lambda: 0.0)
    joined.append(core)
    await core.erasures.mem0.prepare()
    core.personas.fill(await store.read(all_personas(0)))
    port = listener.getsockname()[1]
    server = Server(core, await listen(core, listener), port)
    server.billing = billing
    return server


def user_ids(users: Iterable[User]) -> set[int]:
    """Return the ids of users."""
    return {user.id or 0 for user in users}
