"""The server under test: a process of its own on a core of its own, with a fresh database.

Everything is removed again at the end, whatever happens in between.
"""

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from ai_bridge.secrets import Secret
from bench.processes import OTHER_CORE, SERVER_CORE, can_pin, cpu_s, pin, rss_bytes
from protocol.codec import MSGPACK
from protocol.codes import AuthMethod, UserKind
from protocol.envelopes import Bye, Hello, Welcome
from protocol.frames import PREFACE, FrameDecoder
from server.auth import Tokens
from server.config_sections import KeyConfig

if TYPE_CHECKING:
    from tests.support.servers import ServerHandle

StoreKind = Literal["sqlite", "mysql", "mariadb"]
STORES: Final[tuple[StoreKind, ...]] = ("sqlite", "mysql", "mariadb")
TENANT: Final = 1
AUDIENCE: Final = "parlance"
TOKEN_TTL_S: Final = 86_400
READY_WITHIN_S: Final = 120.0
STOP_WITHIN_S: Final = 20.0
SERVER_COMMAND: Final = ("-m", "server", "serve")

# One generator is thousands of users at one address who never pause. Only what guards against
# that is lifted; bounds of memory, frames, batches and queues stay as they are shipped.
RAISED_LIMITS: Final[dict[str, object]] = {
    "rate": 1e9,
    "burst": 1e9,
    "bytes_per_s": 1 << 40,
    "bytes_burst": 1 << 40,
    "unauthenticated_per_ip": 100_000,
    "unauthenticated": 100_000,
    "handshakes_per_s": 100_000,
    "handshakes_waiting": 100_000,
    "user_handshakes_per_min": 100_000,
    "conversation_per_s": 1e9,
    "conversation_burst": 1e9,
    "inflight": 1024,
}


class ServerFailed(Exception):
    """The server under test did not start or ended by itself; the text ends with its log."""


@dataclass
class Setup:
    """How the server under test is made.

    Attributes:
        overrides: settings by section and name, over those of the benches.
        profile: file for a report of pyinstrument; the server is slower then.
        parent: folder for the data; its file system takes part in what is measured.
    """

    store: StoreKind = "sqlite"
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    profile: Path | None = None
    parent: Path | None = None


class Place:
    """A data folder and an empty database, before and after the server has it."""

    def __init__(self, setup: Setup, folder: Path, database: "Database | None") -> None:
        self.setup = setup
        self.folder = folder
        self.database = database
        self.url = database.url if database else f"sqlite:///{folder / 'data' / 'bench.db'}"
        (folder / "data").mkdir()
        self._key = KeyConfig(kid="bench", alg="HS256", secret=Secret(secrets.token_hex(32)))
        self._tokens = Tokens([self._key], AUDIENCE, TOKEN_TTL_S, 60)

    def tokens(self, users: Sequence[int]) -> list[str]:
        """Return a sign-in token for each user, good for a day."""
        now_ms = int(time.time() * 1000)
        return [
            self._tokens.issue(user, TENANT, UserKind.PERSON, None, now_ms)[0] for user in users
        ]

    def write_config(self, port: int) -> Path:
        """Write the configuration file; it holds a key, so only its owner can read it."""
        key = {"kid": self._key.kid, "alg": "HS256", "secret": self._key.secret.reveal()}
        sections: dict[str, dict[str, object]] = {
            "server": {"port": port, "data_dir": str(self.folder / "data"), "drain_s": 1},
            "limits": dict(RAISED_LIMITS),
            "storage": {"url": self.url},
            "auth": {"keys": [key], "audience": AUDIENCE},
            "ai": {"detect": False},
        }
        for section, values in self.setup.overrides.items():
            sections.setdefault(section, {}).update(values)
        path = self.folder / "parlance.toml"
        path.touch(mode=0o600)
        path.write_text(
            "".join(
                f"[{section}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in values.items())
                for section, values in sections.items()
            )
        )
        return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # TOML spells strings, numbers and truth as JSON does, but wants a point in 1e+09.
    return repr(value) if isinstance(value, float) else json.dumps(value)


class Database:
    """A private database server, on the core of the load generator."""

    def __init__(
        self, kind: Literal["mysql", "mariadb"], url: str, pid: int, handle: "ServerHandle"
    ) -> None:
        self.kind = kind
        self.url = url
        self.pid = pid
        self.handle = handle


class ServerUnderTest:
    """A running server.

    Attributes:
        ready_s: from the start of the process until a signed-in connection was welcomed.
        base_rss_bytes: memory half a second after that, without connections.
        stopped: whether it was ended on purpose.
    """

    def __init__(self, place: Place, user: int) -> None:
        self.place = place
        self.port = _free_port()
        self.stopped = False
        self._log = place.folder / "server.log"
        self._process = self._spawn()
        self.ready_s = self._wait_until_ready(place.tokens([user])[0])
        time.sleep(0.5)
        self.base_rss_bytes = self.rss_bytes()

    @property
    def pid(self) -> int:
        return self._process.pid

    def rss_bytes(self) -> int:
        """Return the memory that the server has resident now."""
        self.check()
        return rss_bytes(self.pid)

    def cpu_s(self) -> float:
        """Return the processor time that the server has used."""
        self.check()
        return cpu_s(self.pid)

    @property
    def database_pid(self) -> int | None:
        """The process of its database server; None for SQLite."""
        return self.place.database.pid if self.place.database else None

    def metrics(self) -> str:
        """Return what `/metrics` says, "" when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except OSError:
            return ""
        finally:
            connection.close()

    def check(self) -> None:
        """Raise ServerFailed when the process has ended."""
        if (status := self._process.poll()) is not None:
            raise ServerFailed(f"the server ended with status {status}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of what the server printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Shut the server down, and kill it when it does not go."""
        self.stopped = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                # The profiler makes its report only now, which takes a while.
                self._process.wait(120 if self._is_profiled else STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self.stopped = True
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        """Start it once more after `kill`, on the same port and data; returns at once."""
        self._process = self._spawn()
        self.stopped = False

    @property
    def _is_profiled(self) -> bool:
        return self.place.setup.profile is not None

    def _spawn(self) -> subprocess.Popen[bytes]:
        config = self.place.write_config(self.port)
        command = [sys.executable]
        if self.place.setup.profile is not None:
            command += ["-m", "pyinstrument", "-r", "text", "-o", str(self.place.setup.profile)]
        command += SERVER_COMMAND
        env = {k: v for k, v in os.environ.items() if not k.startswith("PARLANCE_")}
        env["PARLANCE_CONFIG"] = str(config)
        self._started_s = time.monotonic()
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=Path(__file__).parent.parent,
            )
        if can_pin():
            os.sched_setaffinity(process.pid, {SERVER_CORE})
        return process

    def _wait_until_ready(self, token: str) -> float:
        try:
            while time.monotonic() - self._started_s < READY_WITHIN_S:
                self.check()
                if _is_welcome(self.port, token):
                    return time.monotonic() - self._started_s
                time.sleep(0.005)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.kill()
        raise ServerFailed(f"not ready after {READY_WITHIN_S:.0f} s:\n{self.log_tail()}")


def _is_welcome(port: int, token: str) -> bool:
    """Sign in once; False while nobody listens."""
    hello = Hello(0, AuthMethod.JWT, token, b"bench-probe-0000", "probe", 0, 30, 1 << 20, "en")
    decoder = FrameDecoder(1 << 20)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(PREFACE + MSGPACK.encode(hello))
            while data := sock.recv(65536):
                for payload in decoder.feed(data):
                    frame = MSGPACK.decode_server(payload)
                    if isinstance(frame, Welcome):
                        return True
                    if isinstance(frame, Bye):
                        raise ServerFailed(f"sign-in refused: bye {frame.code} {frame.reason}")
    except OSError:
        pass
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


@contextmanager
def place(setup: Setup) -> Iterator[Place]:
    """Yield a fresh place for a server; it is deleted at the end, its database server too."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="parlance-bench-", dir=setup.parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = None
        if setup.store != "sqlite":
            database = stack.enter_context(_database(setup.store))
        yield Place(setup, folder, database)


@contextmanager
def _database(kind: Literal["mysql", "mariadb"]) -> Iterator[Database]:
    from tests.support import servers  # only where a database server is wanted

    with servers.private(kind) as handle:
        url = handle.create_database()
        if (pid := handle.pid) is None:
            raise ServerFailed(f"{kind} ended by itself")
        pin(pid, OTHER_CORE)
        yield Database(kind, url, pid, handle)


@contextmanager
def serving(where: Place, user: int) -> Iterator[ServerUnderTest]:
    """Run the server in a place; user must exist and is signed in once to see that it answers.

    Raises:
        ServerFailed: it did not get ready.
    """
    server = ServerUnderTest(where, user)
    try:
        yield server
        if not server.stopped:
            server.check()
    finally:
        server.stop()
