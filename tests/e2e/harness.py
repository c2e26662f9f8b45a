"""A server process of its own, people who sign in to it, and commands run beside it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.provider.script import answer_text, parse_model
from clients.auth import Account
from clients.client import Client
from clients.events import Event, StreamEnded
from clients.state import MemoryState
from clients.subscription import Subscription
from clients.timing import Timing
from clients.views import ConvView
from protocol.codec import JSON, MSGPACK
from protocol.codes import ConvKind, MsgKind, Scope
from protocol.envelopes import Sent
from protocol.rows import GenOpt, Msg, SendX
from tests.support.eventually import WAIT_S as WAIT_S

ROOT: Final = Path(__file__).parent.parent.parent
QUICK: Final = Timing(backoff_s=0.1, backoff_max_s=0.5, first_retry_s=0.05)
DOORS: Final = ("tcp", "ws", "json")
READY_S: Final = 60.0
PASSWORD: Final = "a right long password"

SETTINGS: Final = """
[server]
port = {port}
data_dir = "{data}"
drain_s = 2

[websocket]
json = true

[limits]
rate = 1000.0
burst = 2000.0
handshakes_per_s = 1000
user_handshakes_per_min = 1000
conversation_per_s = 1000.0
conversation_burst = 1000.0

[ai]
detect = false
default_model = "{model}"
demo_words_per_s = 0
memory = false
summaries = false
user_running = 100
user_queued = 100
ttft_s = {patience}
gap_s = {patience}
"""
PROVIDER: Final = """
[[ai.providers]]
name = "scripted"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "sk-secret-of-the-test"
max_streams = 500
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of Parlance."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARLANCE_")}
    return kept | {"NO_COLOR": "1", "COLUMNS": "200"} | more


def command(
    *words: str, config: Path | None = None, env: Mapping[str, str] = {}, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    line = [sys.executable, "-m", "server", *words]
    if config is not None:
        line += ["--config", str(config)]
    return subprocess.run(
        line,
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env=environment(**env),
        timeout=READY_S,
        check=False,
    )


class Process:
    """`parlance serve` in a folder of its own; start it as often as wanted.

    Attributes:
        port: chosen by the system at the first start, the same at later ones.
        patience_s: how long it waits for a word of the AI service.
        template: of the configuration file.
    """

    def __init__(self, folder: Path, provider_port: int = 0, more: str = "") -> None:
        self.folder = folder
        self.port = 0
        self.config = folder / "parlance.toml"
        self.log = folder / "server.log"
        self.provider_port = provider_port
        self.patience_s = WAIT_S
        self.template = SETTINGS + more
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def write_config(self) -> Path:
        """Write the configuration file."""
        text = self.template.format(
            port=self.port,
            data=self.data,
            patience=self.patience_s,
            model="tokens=20" if self.provider_port else "",
        )
        if self.provider_port:
            text += PROVIDER.format(port=self.provider_port)
        self.config.write_text(text)
        return self.config

    def start(self) -> None:
        """Start it; on return it has said that it runs."""
        self.write_config()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment(),
            )
        said = b""
        assert self._process.stdout is not None
        while b"Stop with" not in said:
            line = self._process.stdout.readline()
            assert line, f"the server did not start:\n{said.decode()}{self.log.read_text()}"
            said += line
        found = re.search(rb"/127\.0\.0\.1:(\d+)/", said)
        assert found is not None, said
        self.port = int(found[1])

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.running.send_signal(number)

    def wait(self, within_s: float = WAIT_S) -> int:
        """Return the exit code once it has ended."""
        code = self.running.wait(within_s)
        assert self.running.stdout is not None
        self.running.stdout.close()
        return code

    def stop(self) -> int:
        """Stop it in order; return the exit code."""
        if self.running.poll() is None:
            self.signal()
        return self.wait()

    def kill(self) -> None:
        """End it as a crash would, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self.wait()

    def url(self, door: str = "tcp", port: int = 0) -> str:
        """Return the address of a door; port: of a relay in between."""
        if door == "tcp":
            return f"parlance://127.0.0.1:{port or self.port}"
        return f"ws://127.0.0.1:{port or self.port}/ws"

    # people

    async def newcomer(self, nick: str = "") -> Account:
        """Return a fresh guest account."""
        account = Account(self.url())
        await account.guest(nick)
        return account

    def client(self, account: Account, door: str = "tcp", **options: Any) -> Client:
        """Return a client of this account that is not started yet.

        Args:
            options: those of `Client`, and `port` of a relay in between, or another `url`.
        """
        port = options.pop("port", 0)
        url = options.pop("url", "") or self.url(door, port)
        return Client(
            url,
            account.token,
            state=MemoryState(),
            codec=JSON if door == "json" else MSGPACK,
            timing=QUICK,
            **options,
        )

    @asynccontextmanager
    async def online(
        self, account: Account | None = None, door: str = "tcp", **options: Any
    ) -> AsyncIterator[Client]:
        """A client that is signed in and complete; without an account, a newcomer."""
        account = account or await self.newcomer()
        async with self.client(account, door, **options) as client:
            await client.wait_online(WAIT_S)
            yield client


def view(client: Client, conv: int) -> ConvView:
    """Return what a client knows of a conversation."""
    found = client.feeds.convs.get(conv)
    assert found is not None, f"the conversation {conv} is not known"
    return found


def rows(client: Client, conv: int) -> list[Msg]:
    """Return the messages that a client holds, in order."""
    found = client.feeds.convs.get(conv)
    return [found.messages[seq] for seq in found.seqs] if found else []


def texts(client: Client, conv: int) -> list[tuple[int, int, str]]:
    """Return number, sender and text of the messages that a client holds."""
    return [(row.seq, row.sender, row.text) for row in rows(client, conv)]


def answers(client: Client, conv: int) -> list[Msg]:
    """Return the generated messages that a client holds; a greeting is none."""
    found = (row for row in rows(client, conv) if row.kind == MsgKind.AI_REPLY)
    return [row for row in found if row.x is not None and row.x.sid]


async def group(client: Client, *others: int) -> int:
    """Make a group; return its id."""
    info = await client.create_conversation(ConvKind.GROUP, title="room", members=others)
    return info.row.id or 0


async def talk(client: Client) -> int:
    """Begin a conversation with a persona and watch it; return its id."""
    page = await client.persona_page(Scope.PUBLIC)
    info = await client.create_conversation(ConvKind.AI, persona=page.items[0].id)
    conv = info.row.id or 0
    await client.watch([conv])
    return conv


async def ask(client: Client, conv: int, script: str, text: str = "tell me") -> Sent:
    """Ask the scripted service, whose model's name says what it does."""
    return await client.send(conv, text, x=SendX(opt=GenOpt(model=script)))


def expected(script: str) -> str:
    """Return the whole answer that a script brings."""
    return answer_text(parse_model(script))


async def first(events: Subscription, kind: type[Event], **fields: object) -> Any:
    """Return the next event of this kind with these values."""
    async with asyncio.timeout(WAIT_S):
        async for event in events:
            if isinstance(event, kind) and all(
                getattr(event, name) == value for name, value in fields.items()
            ):
                return event
    raise AssertionError(f"the client stopped before {kind.__name__}")


async def ended(events: Subscription, sid: int | None) -> StreamEnded:
    """Return how an answer ended."""
    found: StreamEnded = await first(events, StreamEnded, sid=sid)
    return found
