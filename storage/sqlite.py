"""SQLite: one writer thread that takes whole batches, and reader threads beside it (WAL).

The loop hands over once per batch and once per read, never per row. In the writer thread each
statement gives the interpreter lock away and must win it back against a busy loop, so few large
statements beat many small ones (docs/decisions/0003).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from storage.dialect import SQLITE
from storage.errors import (
    Duplicate,
    OpenFailed,
    OutcomeUnknown,
    StatementFailed,
    StorageError,
    StoreUnavailable,
)
from storage.ops import Bulk, Op, Rows, Statement, drive

T = TypeVar("T")

_BULK_SIZES: Final = (256, 64, 16, 4, 1)
"""Rows per piece of a Bulk: few sizes, so that the statements stay prepared."""

_WRITER_PRAGMAS: Final = (
    "journal_mode = WAL",
    # A commit that returned must survive a power cut: FULL syncs the log each time.
    "synchronous = FULL",
    # 32 MB instead of 4: pages that change in every batch are copied back less often. Measured
    # at 400,000 messages: 15 instead of 19 µs of CPU per message.
    "wal_autocheckpoint = 8000",
    "cache_size = -32768",
)
_BUSY_MS: Final = 5_000
_LOOK_AGAIN_S: Final = 0.01
_MIN_VERSION: Final = (3, 35, 0)
"""UPDATE … FROM is of 3.33, RETURNING of 3.35."""

_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_UNIQUE: Final = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
    }
)


def translate(error: Exception) -> StorageError:
    """Return what an error of the driver means; texts stay behind, they may quote data."""
    if isinstance(error, StorageError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _UNIQUE:
        return Duplicate(f"sqlite: {name}")
    if code is not None and code & 0xFF in _TRANSIENT:
        return StoreUnavailable(f"sqlite: {name}")
    return StatementFailed(f"sqlite: {name}")


class Connection:
    """One connection, used by one thread; runs statements and cuts up bulks."""

    def __init__(self, path: Path, *, writer: bool) -> None:
        self._db = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        self._texts: dict[tuple[str, str, int, int], str] = {}
        self.statements = 0
        for pragma in (
            f"busy_timeout = {_BUSY_MS}",
            "foreign_keys = ON",
            "temp_store = MEMORY",
            *(_WRITER_PRAGMAS if writer else ("query_only = ON", "cache_size = -4096")),
        ):
            self._set(pragma)

    def _set(self, pragma: str) -> None:
        """Set what holds for the connection.

        Changing a new file to WAL fails at once while another process does the same: SQLite does
        not wait there as it does elsewhere.
        """
        until = time.monotonic() + _BUSY_MS / 1000
        while True:
            try:
                self._db.execute(f"PRAGMA {pragma}")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    def execute(self, command: Statement | Bulk) -> Rows:
        """Run one command.

        Raises:
            StorageError: see `translate`.
        """
        try:
            if isinstance(command, Bulk):
                self._execute_bulk(command)
                return ()
            self.statements += 1
            return self._db.execute(command.sql, command.args).fetchall()
        except Exception as error:
            raise translate(error) from error

    def transact(self, make: Callable[[], Op[T]]) -> T:
        self.execute(Statement("BEGIN IMMEDIATE"))
        try:
            result = drive(make(), self.execute)
        except BaseException:
            self._roll_back()
            raise
        try:
            self.execute(Statement("COMMIT"))
        except StorageError as error:
            self._roll_back()
            # The log may have been written and only its sync have failed.
            raise OutcomeUnknown(str(error)) from error
        return result

    def read(self, op: Op[T], *, snapshot: bool) -> T:
        if not snapshot:
            return drive(op, self.execute)
        self.execute(Statement("BEGIN"))
        try:
            return drive(op, self.execute)
        finally:
            self._roll_back()

    def close(self) -> None:
        self._db.close()

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.rollback()

    def _execute_bulk(self, bulk: Bulk) -> None:
        rows, done = bulk.rows, 0
        while done < len(rows):
            left = len(rows) - done
            if bulk.repeatable:
                size = next((s for s in reversed(_BULK_SIZES) if s >= left), _BULK_SIZES[0])
            else:
                size = next(s for s in _BULK_SIZES if s <= left)
            piece = list(rows[done : done + size])
            done += len(piece)
            piece.extend(piece[-1:] * (size - len(piece)))
            self.statements += 1
            sql = self._bulk_text(bulk, len(piece[0]), size)
            self._db.execute(sql, list(chain.from_iterable(piece)))

    def _bulk_text(self, bulk: Bulk, width: int, size: int) -> str:
        key = (bulk.head, bulk.tail, width, size)
        text = self._texts.get(key)
        if text is None:
            row = bulk.row_open + ",".join("?" * width) + bulk.row_close
            text = bulk.head + bulk.separator.join([row] * size) + bulk.tail
            self._texts[key] = text
        return text


class _Job:
    """One piece of work for a thread, and the future that waits for it on the loop."""

    __slots__ = ("future", "run")

    def __init__(self, run: Callable[[Connection], Any], future: asyncio.Future[Any]) -> None:
        self.run = run
        self.future = future


class _Threads:
    """Threads with a connection each, fed from one queue; results come back in bunches."""

    def __init__(self, name: str, path: Path, *, count: int, writer: bool) -> None:
        self._name = name
        self._path = path
        self._writer = writer
        self._count = count
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[_Job, Any, BaseException | None]] = deque()
        self._wake_sent = False
        self._threads: list[threading.Thread] = []
        self._connections: list[Connection] = []
        self._loop = asyncio.get_running_loop()
        self.waiting = 0

    def start(self) -> None:
        """Connect and start; blocks for file access, so call it in a thread."""
        for number in range(self._count):
            connection = Connection(self._path, writer=self._writer)
            self._connections.append(connection)
            thread = threading.Thread(
                target=self._work, args=(connection,), name=f"{self._name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Finish what is queued and join; blocks."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    @property
    def statements(self) -> int:
        return sum(connection.statements for connection in self._connections)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in a thread. A cancelled wait leaves work to finish unheard."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.waiting += 1
        self._jobs.put(_Job(work, future))
        return await future

    def _work(self, connection: Connection) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            if not job.future.cancelled():  # only a hint: it may be cancelled while we work
                try:
                    result = job.run(connection)
                except BaseException as raised:
                    error = raised
            self._done.append((job, result, error))
            del job, result, error
            # The flag is cleared before the results are taken, so none is left behind.
            if not self._wake_sent:
                self._wake_sent = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        self._wake_sent = False
        while self._done:
            job, result, error = self._done.popleft()
            self.waiting -= 1
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)


class SqliteEngine:
    """See `storage.engine.Engine`. The file is created readable by its owner only."""

    name = "sqlite"
    dialect = SQLITE
    durable = True

    def __init__(self, path: Path, *, readers: int = 2, queue_reads: int = 4_096) -> None:
        self.path = path
        self.version = sqlite3.sqlite_version
        self._writer = _Threads("sqlite-writer", path, count=1, writer=True)
        self._readers = _Threads("sqlite-reader", path, count=readers, writer=False)
        self._queue_reads = queue_reads
        self._is_open = False

    async def open(self) -> None:
        if sqlite3.sqlite_version_info < _MIN_VERSION:
            raise OpenFailed(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 is needed")
        try:
            await asyncio.to_thread(self._start)
        except (OSError, sqlite3.Error) as error:
            await asyncio.to_thread(self._stop)
            raise OpenFailed(f"cannot open {self.path}: {error}") from error
        self._is_open = True

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._writer.start()
        self._readers.start()

    def _stop(self) -> None:
        self._readers.stop()
        self._writer.stop()

    async def transact(self, make: Callable[[], Op[T]]) -> T:
        if not self._is_open:
            raise StoreUnavailable("the store is closed")
        return await self._writer.run(lambda connection: connection.transact(make))

    async def read(self, op: Op[T], *, snapshot: bool) -> T:
        if not self._is_open:
            raise StoreUnavailable("the store is closed")
        if self._readers.waiting >= self._queue_reads:
            raise StoreUnavailable("too many reads are waiting")
        return await self._readers.run(lambda connection: connection.read(op, snapshot=snapshot))

    async def check(self) -> str:
        try:
            await self._readers.run(lambda connection: connection.execute(Statement("SELECT 1")))
        except StorageError as error:
            return str(error)
        return ""

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await asyncio.to_thread(self._stop)

    @property
    def statements(self) -> int:
        return self._writer.statements
