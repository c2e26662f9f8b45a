"""Private MySQL, MariaDB and Redis servers for tests and benches.

From the command line (names default to "default"; such a server lives until stopped):

    python -m tests.support.servers fetch                  programs of all three kinds
    python -m tests.support.servers start KIND [NAME] [SERVER OPTIONS]
    python -m tests.support.servers env                    addresses, for eval or .env files
    python -m tests.support.servers stop|kill|restart|destroy [KIND [NAME]]
    python -m tests.support.servers purge                  destroy all; forget programs too

From Python: `start`, `private`, and `open_server`, which prefers a server of the developer's own
(PARLANCE_TEST_MYSQL_URL, PARLANCE_TEST_MARIADB_URL, PARLANCE_TEST_REDIS_URL).

All calls block (a start takes about a second): in a running event loop use `asyncio.to_thread`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.engines import ENGINES, RedisEngine, as_unprivileged, own
from tests.support.programs import (
    KINDS,
    TITLES,
    Kind,
    Program,
    ServerUnavailable,
    announce,
    cache_dir,
    find_program,
    locked,
)
from tests.support.sql import run_statements

__all__ = ["KINDS", "TITLES", "Kind", "Server", "ServerHandle", "ServerUnavailable"]
__all__ += ["announce", "open_server", "prepare", "private", "start"]

READY_WITHIN_S = 60.0
_numbers = itertools.count(1)


class Server:
    """A server that tests may use; owned by somebody else unless it is a ServerHandle."""

    def __init__(self, kind: Kind, url: str) -> None:
        self.kind = kind
        self.url = url

    @property
    def external(self) -> bool:
        """Whether databases made here must be dropped again, since the server outlives us."""
        return True

    def create_database(self) -> str:
        """Make a fresh empty database; return its URL.

        Redis has numbered databases only: the next one of a private server; the given one of an
        external server, whose keys are not ours to clear.
        """
        if self.kind == "redis":
            if self.external:
                return self.url
            number = next(_numbers) % RedisEngine.databases
            return urlsplit(self.url)._replace(path=f"/{number}").geturl()
        name = f"parlance_test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop_database(self, url: str) -> None:
        """Remove a database made by `create_database`; waits at most 5 s for its users to leave."""
        name = urlsplit(url).path.lstrip("/")
        if self.kind != "redis" and name.startswith("parlance_test_"):
            self.execute("SET lock_wait_timeout = 5", f"DROP DATABASE IF EXISTS {name}")

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Run SQL statements as the administrator; return the rows of the last one."""
        return run_statements(self.url, statements)


@dataclass
class _Settings:
    """What a server needs to come back as the same server."""

    port: int
    password: str
    options: list[str]
    owner_pid: int  # 0: lives until somebody destroys it


class ServerHandle(Server):
    """A private server with its own data directory, port and password.

    The port stays the same across `kill`, `stop` and `start`. Handles hold no process: another
    handle, or the command line, may work on the same server.
    """

    def __init__(self, kind: Kind, name: str) -> None:
        self.name = name
        self._dir = cache_dir() / "run" / kind / name
        self._home = self._dir / "home"
        self._engine = ENGINES[kind]
        settings = json.loads((self._dir / "settings.json").read_text())
        self._settings = _Settings(**settings)
        super().__init__(kind, self._url())

    @property
    def external(self) -> bool:
        return False

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return self._settings.port

    @property
    def socket(self) -> Path:
        """The Unix socket, beside the TCP port."""
        return self._home / "server.sock"

    @property
    def ca(self) -> Path | None:
        """The certificate authority that MySQL made for itself; others speak no TLS."""
        path = self._home / "data/ca.pem"
        return path if path.exists() else None

    @property
    def log(self) -> Path:
        """What the server printed, over all its starts."""
        return self._dir / "log"

    @property
    def pid(self) -> int | None:
        """The running process; None when there is none."""
        try:
            pid = int((self._dir / "pid").read_text())
            # Empty for a dead process that nobody reaped; another's for a number used again.
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._home) in words else None

    def start(self) -> None:
        """Return once the server answers; at once when it already does.

        Raises:
            ServerUnavailable: it did not start; the text ends with its log.
        """
        with self._alone():
            if self.pid is not None:
                return
            self.kill()  # waits for one that is still dying
            # Another process may take a port between choosing and binding: try a new server thrice.
            for _ in range(3 if not self.port else 1):
                port = self.port or _free_port()
                self._launch(port)
                if self._wait_until_ready(port):
                    self._settings.port = port
                    self._save()
                    return
                self.kill()
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise ServerUnavailable(f"{TITLES[self.kind]} did not start:\n{tail}")

    def stop(self, within_s: float = 30.0) -> None:
        """Shut down cleanly, or kill after `within_s`."""
        if not self._end(signal.SIGTERM, within_s):
            self.kill()

    def kill(self) -> None:
        """End the process at once, as a crash would (SIGKILL)."""
        if not self._end(signal.SIGKILL, 10.0):
            raise RuntimeError(f"process {self.pid} does not die")

    def restart(self) -> None:
        """Shut down cleanly and start again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open, nothing answers (SIGSTOP)."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGCONT)

    def destroy(self) -> None:
        """Kill the server and delete its data."""
        self.kill()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _alone(self) -> AbstractContextManager[None]:
        """Hold this server's lock, if others may know it."""
        shared = self._settings.owner_pid == 0
        return locked(f"{self.kind}-{self.name}") if shared else nullcontext()

    def _url(self) -> str:
        return self._engine.url(self._settings.port, self._settings.password)

    def _save(self) -> None:
        _write_settings(self._dir, self._settings)
        self.url = self._url()

    def _launch(self, port: int) -> None:
        self._engine.prepare(self._home, self._settings.password)
        command = self._engine.command(find_program(self.kind), self._home, port)
        command = as_unprivileged([*command, *self._settings.options])
        # In a session of its own: an interrupt typed at the tests must not end the server before
        # they do. The process number is on disk before the server runs.
        pid_file = self._dir / "pid"
        wrapper = ["setsid", "--fork", "sh", "-c", 'echo $$ >"$0"; exec "$@"', str(pid_file)]
        # MySQL refuses a socket whose lock names a process that nobody has reaped yet.
        for stale in (pid_file, self.socket, self.socket.with_suffix(".sock.lock")):
            stale.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            subprocess.run(
                [*wrapper, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                check=True,
            )

    def _wait_until_ready(self, port: int) -> bool:
        started_s = time.monotonic()
        while time.monotonic() - started_s < READY_WITHIN_S:
            if self._engine.is_ready(port):
                return self.pid is not None
            # The first moments belong to setsid and sh, before the process number is written.
            if self.pid is None and time.monotonic() - started_s > 1.0:
                return False
            time.sleep(0.02)
        return False

    def _end(self, number: signal.Signals, within_s: float) -> bool:
        """Send a signal and wait for the end; False when the process lives on.

        Through a process descriptor: it tells when the last thread is gone and every file and lock
        is released. A process looks dead in /proc some milliseconds earlier.
        """
        try:
            pid = int((self._dir / "pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return True
        try:
            if words and os.fsencode(self._home) not in words:
                return True  # the number belongs to another process now
            signal.pidfd_send_signal(descriptor, number)
            waiter = select.poll()
            waiter.register(descriptor, select.POLLIN)
            return bool(waiter.poll(within_s * 1000))
        finally:
            os.close(descriptor)


def start(kind: Kind, name: str = "default", *options: str) -> ServerHandle:
    """Return a running server; made, or started again with the data it has, if it is not.

    Args:
        name: lower-case letters, digits and dashes, a letter first.
        options: the server's own options, after ours; those given when it was made count.

    Raises:
        ServerUnavailable: this machine cannot run one.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):  # digits first belong to `private`
        raise ValueError(f"not a name for a server: {name!r}")
    with locked(f"{kind}-create"):
        if not (cache_dir() / "run" / kind / name).exists():
            _create(kind, name, options, owner_pid=0)
    handle = ServerHandle(kind, name)
    handle.start()
    return handle


@contextmanager
def private(kind: Kind, *options: str) -> Iterator[ServerHandle]:
    """Run a server that nobody else knows; destroyed at the end.

    What a killed process left behind is destroyed by the next call of anybody.

    Raises:
        ServerUnavailable: this machine cannot run one.
    """
    name = f"{os.getpid()}-{next(_numbers)}"
    with locked(f"{kind}-create"):
        _sweep(kind)
        _create(kind, name, options, owner_pid=os.getpid())
    handle = ServerHandle(kind, name)
    try:
        handle.start()
        yield handle
    finally:
        handle.destroy()


@contextmanager
def open_server(kind: Kind) -> Iterator[Server]:
    """Yield the developer's own server when an address is set, else a private one.

    Raises:
        ServerUnavailable: neither is to be had.
    """
    if url := os.environ.get(f"PARLANCE_TEST_{kind.upper()}_URL"):
        yield Server(kind, url)
        return
    with private(kind) as handle:
        yield handle


def prepare(kind: Kind) -> None:
    """Fetch the program and make its template, unless an address of an own server is set.

    Raises:
        ServerUnavailable: this machine cannot run one.
    """
    if not os.environ.get(f"PARLANCE_TEST_{kind.upper()}_URL"):
        with locked(f"{kind}-create"):
            _template(kind, find_program(kind))


def _create(kind: Kind, name: str, options: Sequence[str], *, owner_pid: int) -> None:
    template = _template(kind, find_program(kind))
    folder = cache_dir() / "run" / kind / name
    fresh = folder.with_name(f".{name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    subprocess.run(["cp", "-a", "--reflink=auto", template, fresh / "home"], check=True)
    settings = _Settings(0, secrets.token_hex(12), list(options), owner_pid)
    _write_settings(fresh, settings)
    fresh.rename(folder)


def _template(kind: Kind, program: Program) -> Path:
    """Return a home with an initialised data directory, to be copied: initialising takes longer."""
    key = hashlib.sha256(program.version.encode()).hexdigest()[:12]
    home = cache_dir() / "templates" / f"{kind}-{key}"
    if home.exists():
        return home
    announce(f"initialising {TITLES[kind]} …")
    started_s = time.monotonic()
    fresh = home.with_name(home.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for path in (fresh, fresh / "data", fresh / "tmp"):
        path.mkdir(mode=0o700, parents=True)
        own(path)
    home.parent.chmod(0o755)
    ENGINES[kind].initialise(program, fresh)
    fresh.rename(home)
    announce(f"{TITLES[kind]} is initialised: {time.monotonic() - started_s:.1f} s")
    return home


def _write_settings(folder: Path, settings: _Settings) -> None:
    path = folder / "settings.json"
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(asdict(settings)))
    fresh.rename(path)


def _sweep(kind: Kind) -> None:
    """Destroy private servers whose owner is gone."""
    for folder in sorted((cache_dir() / "run" / kind).glob("[0-9]*-*")):
        try:
            handle = ServerHandle(kind, folder.name)
        except (OSError, ValueError):
            continue  # being deleted by its owner
        owner_pid = handle._settings.owner_pid
        if owner_pid and not Path(f"/proc/{owner_pid}").exists():
            announce(f"removing {TITLES[kind]} left behind by process {owner_pid}")
            handle.destroy()


def _free_port() -> int:
    """Return a free port below the range from which outgoing connections take theirs.

    A port of that range could be taken while its server is down in a fault test.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _known(kind: Kind) -> list[ServerHandle]:
    folder = cache_dir() / "run" / kind
    return [ServerHandle(kind, path.name) for path in sorted(folder.glob("[a-z]*"))]


def _fetch_all() -> int:
    for kind in KINDS:
        try:
            prepare(kind)
        except ServerUnavailable as error:
            announce(f"NOT AVAILABLE, its tests will be skipped: {error}")
    return 0


def _print_addresses() -> int:
    for kind in KINDS:
        for handle in _known(kind):
            if handle.pid is not None and handle.name == "default":
                print(f"export PARLANCE_TEST_{kind.upper()}_URL={handle.url}")
    return 0


def main(words: Sequence[str]) -> int:
    """Carry out one command line; return the exit status."""
    match list(words):
        case ["fetch"]:
            return _fetch_all()
        case ["env"]:
            return _print_addresses()
        case ["purge"]:
            _change("destroy", [])
            shutil.rmtree(cache_dir())
            return 0
        case ["start", ("mysql" | "mariadb" | "redis") as kind, *rest]:
            named = bool(rest) and not rest[0].startswith("-")
            name = rest.pop(0) if named else "default"
            print(start(kind, name, *rest).url)
            return 0
        case [("stop" | "kill" | "restart" | "destroy") as verb, *rest]:
            return _change(verb, rest)
    print(__doc__, file=sys.stderr)
    return 2


def _change(verb: str, rest: list[str]) -> int:
    """Do `verb` to one server (KIND [NAME]), or without words to all that have a name."""
    wanted = rest[1] if len(rest) > 1 else "default"
    for kind in KINDS:
        for handle in _known(kind):
            if not rest or (kind, handle.name) == (rest[0], wanted):
                getattr(handle, verb)()
                announce(f"{verb}: {TITLES[kind]} {handle.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ServerUnavailable as unavailable:
        sys.exit(f"[servers] {unavailable}")
