"""MySQL 8.4 and 9, MariaDB 10.11 and later: one writer connection and a pool of readers.

Everything runs on the loop; asyncmy's cost per row is the bound, so rows travel in few large
statements. A connection whose statement was cancelled or timed out is thrown away: the rest of
an answer may still arrive on it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import asyncmy
from asyncmy.errors import MySQLError
from msgspec import Struct

from storage.dialect import MYSQL
from storage.errors import (
    Duplicate,
    NotDurable,
    OpenFailed,
    OutcomeUnknown,
    StatementFailed,
    StorageError,
    StoreUnavailable,
)
from storage.mysql_text import encode_bulk, encode_statement
from storage.ops import Bulk, Op, Rows, Statement, drive_async
from storage.rows import StoreOptions

T = TypeVar("T")

_CONNECT_TIMEOUT_S: Final = 5
_TRANSACTION_TIMEOUT_S: Final = 60.0
"""Longer than any lock wait: reached only when the server or the network hangs."""

_READ_TIMEOUT_S: Final = 20.0
_READ_LIMIT_MS: Final = 15_000
_LOCK_WAIT_S: Final = 5
_MAX_STATEMENT_BYTES: Final = 8 << 20

_DUPLICATE: Final = frozenset({1062, 1586})
_LOST: Final = frozenset({0, 1053, 1077, 1079, 1158, 1159, 1160, 1161, 1927, 2003, 2006})
_LOST_TOO: Final = frozenset({2013, 2014, 2055, 4031})
_TRANSIENT: Final = frozenset(
    {
        1020,  # MariaDB: row changed since the snapshot
        1021,  # disk full
        1040,  # too many connections
        1041,  # out of memory
        1114,  # table or temporary space full
        1203,  # too many connections of this user
        1205,  # lock wait timeout
        1206,  # too many locks
        1213,  # deadlock
        1226,  # resource limit of this user
        1290,  # read-only server, as after a failover
        1317,  # interrupted
        1792,  # read-only transaction
        1836,  # read-only mode
        3024,  # statement took too long
        3572,  # lock not granted at once
    }
)


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection is gone, so that nothing can be known from it any more."""
    if isinstance(error, MySQLError):
        code = error.args[0] if error.args else 0
        return code in _LOST or code in _LOST_TOO
    return isinstance(error, (OSError, EOFError))


def translate(error: Exception) -> StorageError:
    """Return what an error of the driver means; texts stay behind, they may quote data."""
    if isinstance(error, StorageError):
        return error
    code = error.args[0] if isinstance(error, MySQLError) and error.args else None
    name = f"mysql: {type(error).__name__} {'' if code is None else code}".strip()
    if code in _DUPLICATE:
        return Duplicate(name)
    if is_lost(error) or code in _TRANSIENT:
        return StoreUnavailable(name)
    return StatementFailed(name)


class Address(Struct, frozen=True):
    """Where and as whom to connect, from a URL."""

    host: str
    port: int
    user: str
    password: str
    database: str
    unix_socket: str | None
    tls: ssl.SSLContext | None

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"


def parse_url(url: str) -> Address:
    """Read `mysql://user:password@host:port/database?ssl=off|on|verify&ssl_ca=file&socket=path`.

    `on` encrypts without looking at the certificate; `verify` checks it and the host name.

    Raises:
        OpenFailed: it lacks something, or holds an option that we do not know.
    """
    parts = urlsplit(url)
    database = unquote(parts.path.lstrip("/"))
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = options.keys() - {"ssl", "ssl_ca", "socket"}
    if unknown:
        raise OpenFailed(f"unknown options in the database URL: {', '.join(sorted(unknown))}")
    if not database or not parts.username:
        raise OpenFailed("a MySQL URL is mysql://user:password@host:port/database")
    return Address(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        database=database,
        unix_socket=options.get("socket"),
        tls=_tls_context(options.get("ssl", "off"), options.get("ssl_ca")),
    )


def _tls_context(mode: str, ca: str | None) -> ssl.SSLContext | None:
    if mode in ("off", "0", "false"):
        return None
    if mode not in ("on", "1", "true", "verify"):
        raise OpenFailed("ssl in the database URL is off, on or verify")
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OpenFailed(f"cannot read ssl_ca of the database URL: {error}") from error
    if mode != "verify":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """One session; runs statements and cuts up bulks. Used by one operation at a time."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.max_bytes = _MAX_STATEMENT_BYTES
        self.statements = 0

    @classmethod
    async def connect(cls, address: Address, settings: Sequence[str]) -> Connection:
        """Open a session.

        Raises:
            StoreUnavailable: for any reason; the cause says more.
        """
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S * 2):
                connection = cls(await _connect(address))
                try:
                    for sql in settings:
                        await connection.execute(Statement(sql))
                    rows = await connection.execute(Statement("SELECT @@max_allowed_packet"))
                except BaseException:
                    connection.abort()
                    raise
        except (MySQLError, OSError, TimeoutError, StorageError) as error:
            code = error.args[0] if isinstance(error, MySQLError) and error.args else ""
            cause = "" if error.__cause__ is None else f"({type(error.__cause__).__name__})"
            name = " ".join(filter(None, (type(error).__name__, str(code), cause)))
            raise StoreUnavailable(f"mysql: cannot connect to {address!r}: {name}") from error
        connection.max_bytes = min(_MAX_STATEMENT_BYTES, int(rows[0][0]) - 4_096)
        return connection

    @property
    def broken(self) -> bool:
        """Whether the server or we have closed the stream."""
        return bool(self._raw._stream_broken)

    async def execute(self, command: Statement | Bulk) -> Rows:
        """Run one command.

        Raises:
            StorageError: see `translate`; the cause tells whether the connection is lost.
        """
        try:
            if isinstance(command, Bulk):
                for text in encode_bulk(command, self.max_bytes):
                    self.statements += 1
                    await self._raw.query(text)
                return ()
            self.statements += 1
            await self._raw.query(encode_statement(command))
            return self._raw._result.rows or ()
        except Exception as error:
            raise translate(error) from error

    def abort(self) -> None:
        """Close the stream at once, whatever is under way."""
        transport = self._raw._transport
        if transport is not None:
            transport.abort()
        self._raw.close()

    async def quit(self) -> None:
        """Take leave of the server."""
        try:
            async with asyncio.timeout(1):
                await self._raw.ensure_closed()
        except (MySQLError, OSError, TimeoutError):
            self.abort()


async def _connect(address: Address) -> Any:
    return await asyncmy.connect(
        host=address.host,
        port=address.port,
        unix_socket=address.unix_socket,
        user=address.user,
        password=address.password,
        database=address.database,
        charset="utf8mb4",
        autocommit=False,
        connect_timeout=_CONNECT_TIMEOUT_S,
        ssl=address.tls,
        program_name="parlance",
    )


_SESSION: Final = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"
)


class _Readers:
    """A bounded pool of reading sessions, most recently used first."""

    def __init__(self, connect: Callable[[], Any], *, size: int, queue: int) -> None:
        self._connect = connect
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(size)
        self._queue = queue
        self._waiting = 0
        self._closed = False

    async def read(self, op: Op[T], *, snapshot: bool) -> T:
        if self._waiting >= self._queue:
            raise StoreUnavailable("too many reads are waiting")
        self._waiting += 1
        try:
            async with self._free:
                return await self._read(op, snapshot)
        finally:
            self._waiting -= 1

    async def _read(self, op: Op[T], snapshot: bool) -> T:
        session = _Session(await self._take(), self._connect)
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                if snapshot:
                    # Not READ ONLY as well: MariaDB 10.11 knows the two only apart.
                    await session.execute(Statement("START TRANSACTION WITH CONSISTENT SNAPSHOT"))
                result, failure = await _outcome(op, session.execute)
                if snapshot:
                    await session.execute(Statement("COMMIT"))
        except TimeoutError as error:
            session.connection.abort()
            raise StoreUnavailable("mysql: no answer in time") from error
        except BaseException:
            # Cancelled, or lost: what comes next on this stream is unknown.
            session.connection.abort()
            raise
        if self._closed:
            session.connection.abort()
        else:
            self._idle.append(session.connection)
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]  # set unless failure is

    async def _take(self) -> Connection:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.broken:
                return connection
            connection.abort()
        connection = await self._connect()
        return connection  # type: ignore[no-any-return]  # a Connection by construction

    async def close(self) -> None:
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.quit() for connection in idle))


class _Session:
    """A pooled connection for one operation; replaced once if it turns out to be dead.

    A server that was restarted, or that closed an idle session just now, shows only at the first
    statement. Nothing was read yet, so it may run again elsewhere.
    """

    def __init__(self, connection: Connection, connect: Callable[[], Any]) -> None:
        self.connection = connection
        self._connect = connect
        self._proven = False

    async def execute(self, command: Statement | Bulk) -> Rows:
        try:
            rows = await self.connection.execute(command)
        except StoreUnavailable as error:
            if self._proven or not is_lost(error.__cause__ or error):
                raise
            self.connection.abort()
            self.connection = await self._connect()
            rows = await self.connection.execute(command)
        self._proven = True
        return rows


async def _outcome(op: Op[T], execute: Any) -> tuple[T | None, StorageError | None]:
    """Run op; return its own refusals, which leave the session clean, instead of raising them."""
    try:
        return await drive_async(op, execute), None
    except (StoreUnavailable, StatementFailed, Duplicate):
        raise
    except StorageError as error:
        return None, error


class MysqlEngine:
    """See `storage.engine.Engine`."""

    dialect = MYSQL

    def __init__(self, options: StoreOptions) -> None:
        self._address = parse_url(options.url)
        self._allow_weak = options.allow_weak_durability
        self.name = "mysql"
        self.version = ""
        self.durable = False
        self._writer: Connection | None = None
        self._turn = asyncio.Lock()
        self._readers = _Readers(
            self._connect_reader, size=options.readers or 8, queue=options.queue_reads
        )
        self._closed = False
        self._statements = 0

    async def open(self) -> None:
        try:
            writer = await self._connect_writer()
        except StoreUnavailable as error:
            raise OpenFailed(str(error)) from error
        try:
            weak = await self._inspect(writer)
        except BaseException:
            writer.abort()
            raise
        if weak and not self._allow_weak:
            writer.abort()
            raise NotDurable(f"{weak}: set it, or allow weak durability in the configuration")
        self._writer = writer

    async def transact(self, make: Callable[[], Op[T]]) -> T:
        async with self._turn:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            writer = self._writer
            if writer is None or writer.broken:
                self._drop_writer()
                writer = self._writer = await self._connect_writer()
            before = writer.statements
            try:
                async with asyncio.timeout(_TRANSACTION_TIMEOUT_S):
                    return await self._transact(writer, make)
            except TimeoutError as error:
                self._drop_writer()
                raise OutcomeUnknown("mysql: no answer in time") from error
            except asyncio.CancelledError:
                self._drop_writer()
                raise
            finally:
                self._statements += writer.statements - before

    async def _transact(self, writer: Connection, make: Callable[[], Op[T]]) -> T:
        try:
            result = await drive_async(make(), writer.execute)
        except Exception:
            try:
                await writer.execute(Statement("ROLLBACK"))
            except StorageError:
                self._drop_writer()
            raise
        try:
            await writer.execute(Statement("COMMIT"))
        except StorageError as error:
            self._drop_writer()
            raise OutcomeUnknown(f"at commit: {error}") from error
        return result

    async def read(self, op: Op[T], *, snapshot: bool) -> T:
        return await self._readers.read(op, snapshot=snapshot)

    async def check(self) -> str:
        """Also looks again whether commits are durable: that can be changed while it runs."""
        try:
            connection = await self._connect_reader()
        except StorageError as error:
            return str(error)
        try:
            weak = await self._inspect(connection)
        except StorageError as error:
            connection.abort()
            return str(error)
        await connection.quit()
        return "" if self._allow_weak else weak

    async def close(self) -> None:
        async with self._turn:
            self._closed = True
            writer, self._writer = self._writer, None
        if writer is not None:
            await writer.quit()
        await self._readers.close()

    @property
    def statements(self) -> int:
        return self._statements

    async def _inspect(self, connection: Connection) -> str:
        """Read version and durability; return what is weak, "" if nothing."""
        rows = await connection.execute(
            Statement(
                "SELECT VERSION(), @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog"
            )
        )
        version, flush, log_bin, sync_binlog = rows[0]
        self.version = version
        self.name = "mariadb" if "mariadb" in version.lower() else "mysql"
        weak = ""
        if int(flush) != 1:
            weak = f"innodb_flush_log_at_trx_commit is {flush}, not 1"
        elif int(log_bin) and int(sync_binlog) != 1:
            # Recovery rolls back what the binary log does not hold.
            weak = f"log_bin is on and sync_binlog is {sync_binlog}, not 1"
        self.durable = not weak
        return weak

    async def _connect_writer(self) -> Connection:
        return await Connection.connect(
            self._address,
            (
                _SESSION,
                f"SET SESSION innodb_lock_wait_timeout = {_LOCK_WAIT_S}",
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            ),
        )

    async def _connect_reader(self) -> Connection:
        limit = (
            f"SET SESSION max_statement_time = {_READ_LIMIT_MS / 1000}"
            if self.name == "mariadb"
            else f"SET SESSION max_execution_time = {_READ_LIMIT_MS}"
        )
        return await Connection.connect(
            self._address,
            (
                _SESSION,
                limit,
                "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "SET SESSION autocommit = 1",
            ),
        )

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
