"""How each kind of server is initialised, started and asked whether it is ready.

A server's `home` is a directory of its own: `data/`, `tmp/`, the socket, and for SQL servers the
statements that every start runs (`setup.sql`).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Protocol

from tests.support.programs import Kind, Program, ServerUnavailable

USER = "parlance"
DATABASE = "parlance"
RUN_AS = "nobody"  # servers refuse to run as root


class Engine(Protocol):
    """What differs between the kinds."""

    def initialise(self, program: Program, home: Path) -> None:
        """Fill `home`/data with what a first start needs; called once per program version."""

    def prepare(self, home: Path, password: str) -> None:
        """Write what the next start reads."""

    def command(self, program: Program, home: Path, port: int) -> list[str]:
        """Return the command that runs the server in the foreground, logging to its output."""

    def is_ready(self, port: int) -> bool:
        """Tell whether the server answers now."""

    def url(self, port: int, password: str) -> str:
        """Return the address for clients."""


def as_unprivileged(command: list[str]) -> list[str]:
    """Return the command that runs `command`; not as root, whoever we are."""
    if os.geteuid() != 0:
        return command
    who = ["--reuid", RUN_AS, "--regid", str(_group_id()), "--clear-groups", "--no-new-privs"]
    return ["setpriv", *who, "--", *command]


def own(path: Path) -> None:
    """Give `path` to the user that servers run as."""
    if os.geteuid() == 0:
        shutil.chown(path, RUN_AS, _group_id())


def _group_id() -> int:
    import pwd

    return pwd.getpwnam(RUN_AS).pw_gid


def _initialise(command: list[str], home: Path, text: str | None = None) -> None:
    done = subprocess.run(
        as_unprivileged(command), input=text, capture_output=True, text=True, cwd=home, check=False
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ServerUnavailable(f"initialising {command[0]} failed:\n{tail}")


class SqlEngine:
    """What MySQL and MariaDB share."""

    # Durable at every commit, as production must be. No binary log: one server has no replica to
    # feed, and the log would only add a second fsync to each commit that the figures then show.
    # The pool and the redo log hold a whole test run, so nothing but commits waits for the disk.
    options: tuple[str, ...] = (
        "--skip-log-bin",
        "--innodb-flush-log-at-trx-commit=1",
        "--innodb-buffer-pool-size=256M",
        "--character-set-server=utf8mb4",
        "--skip-name-resolve",
        "--max-connections=500",
        "--bind-address=127.0.0.1",
    )
    share_names = ("mysql", "mariadb")

    def prepare(self, home: Path, password: str) -> None:
        """Write the statements that make the account; each start repeats them harmlessly."""
        path = home / "setup.sql"
        path.touch(mode=0o600)
        own(path)
        path.write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4;\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
            "ALTER USER 'root'@'localhost' ACCOUNT LOCK;\n"
        )

    def command(self, program: Program, home: Path, port: int) -> list[str]:
        return [
            *self.base(program, home),
            *self.options,
            f"--port={port}",
            f"--socket={home}/server.sock",
            f"--pid-file={home}/server.pid",
            f"--init-file={home}/setup.sql",
            f"--secure-file-priv={home}/tmp",
        ]

    def base(self, program: Program, home: Path) -> list[str]:
        """Return program and options that initialising and running have in common."""
        words = [*program.prefix, "--no-defaults"]
        if program.root is not None:
            share = self.share(program)
            words += [
                f"--basedir={program.root}/usr",
                f"--lc-messages-dir={share}",
                f"--character-sets-dir={share}/charsets",
            ]
            plugins = [program.root / "usr/lib" / name / "plugin" for name in self.share_names]
            words += [f"--plugin-dir={path}" for path in plugins if path.is_dir()][:1]
        return [*words, f"--datadir={home}/data", f"--tmpdir={home}/tmp"]

    def share(self, program: Program) -> Path:
        top = (program.root or Path("/")) / "usr/share"
        for name in self.share_names:
            if (top / name).is_dir():
                return top / name
        raise ServerUnavailable(f"{top} holds no data files of the server")

    def is_ready(self, port: int) -> bool:
        """Tell whether a connection is greeted, which comes only after start-up statements ran."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                greeting = connection.recv(5)
        except OSError:
            return False
        return len(greeting) == 5 and greeting[4] == 10  # protocol version of the handshake

    def url(self, port: int, password: str) -> str:
        return f"mysql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"


class MysqlEngine(SqlEngine):
    """MySQL 8.4 or 9."""

    options = (
        *SqlEngine.options,
        "--innodb-redo-log-capacity=512M",
        "--ngram-token-size=2",  # cannot be changed while running
        "--mysqlx=OFF",
        "--performance-schema=OFF",  # 200 MB of memory and a second of start-up
    )

    def initialise(self, program: Program, home: Path) -> None:
        _initialise([*self.base(program, home), "--initialize-insecure"], home)


class MariadbEngine(SqlEngine):
    """MariaDB 10.11 or later."""

    options = (*SqlEngine.options, "--innodb-log-file-size=512M")
    # The same files that mariadb-install-db feeds, in its order; that script itself calls programs
    # in a way that a private loader cannot follow. Later releases renamed the files.
    _scripts = (
        r"(mysql|mariadb)_system_tables\.sql",
        r"(mysql|mariadb)_performance_tables\.sql",
        r"(mysql|mariadb)_system_tables_data\.sql",
        r"maria_add_gis_sp_bootstrap\.sql",
        r"(mysql|mariadb)_sys_schema\.sql",
    )

    def initialise(self, program: Program, home: Path) -> None:
        share = self.share(program)
        lines = [
            "CREATE DATABASE IF NOT EXISTS mysql;",
            "USE mysql;",
            "SET @auth_root_socket=NULL;",
        ]
        for pattern in self._scripts:
            found = [path for path in share.glob("*.sql") if re.fullmatch(pattern, path.name)]
            if not found:
                raise ServerUnavailable(f"{share} holds no script like {pattern}")
            lines += found[0].read_text().splitlines()
        text = "\n".join(line for line in lines if "@current_hostname" not in line)
        limits = ["--max_allowed_packet=8M", "--log-warnings=0", "--enforce-storage-engine="]
        _initialise([*self.base(program, home), *limits, "--bootstrap"], home, text + "\n")


class RedisEngine:
    """Redis 7 or later, without persistence: it is never the truth."""

    databases = 1024

    def initialise(self, program: Program, home: Path) -> None:
        """Nothing: an empty directory will do."""

    def prepare(self, home: Path, password: str) -> None:
        """Write the password where command lines do not show it."""
        path = home / "redis.conf"
        path.touch(mode=0o600)
        own(path)
        path.write_text(f"requirepass {password}\n")

    def command(self, program: Program, home: Path, port: int) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": port,
            "unixsocket": home / "server.sock",
            "dir": home / "data",
            "save": "",
            "appendonly": "no",
            "databases": self.databases,
            "set-proc-title": "no",  # the command line tells which server this is
        }
        words = [[f"--{name}", str(value)] for name, value in settings.items()]
        return [*program.prefix, f"{home}/redis.conf", *(word for pair in words for word in pair)]

    def is_ready(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def url(self, port: int, password: str) -> str:
        return f"redis://:{password}@127.0.0.1:{port}/0"


ENGINES: dict[Kind, Engine] = {
    "mysql": MysqlEngine(),
    "mariadb": MariadbEngine(),
    "redis": RedisEngine(),
}
