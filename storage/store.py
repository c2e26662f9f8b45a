"""The store: what the server sees of the database, whichever it is."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from storage.batcher import Batcher, Stats
from storage.committer import Committer
from storage.dead_letters import (
    add_dead,
    append_from,
    append_to_file,
    letter_from,
    list_dead,
    mark_replayed,
    read_file,
    remove_file,
    unplayed_dead,
)
from storage.engine import Engine
from storage.errors import OpenFailed, Poison, StorageError
from storage.migrate import SCHEMA_DIR, load_migrations, prepare_schema
from storage.ops import Op
from storage.rows import DeadLetter, StoreHealth, StoreOptions
from storage.sqlite import SqliteEngine
from storage.writes import Append, Change, Tx, Write

__all__ = ["Store", "StoreOptions"]

T = TypeVar("T")

_CHECK_TIMEOUT_S: Final = 2.0
_PAGE: Final = 500

log: Final = logging.getLogger("parlance.storage")


class Store:
    """One open database. Everything is called on the loop that opened it.

    Owns the engine and the batcher. Made by `open`, ended by `close`.
    """

    def __init__(self, engine: Engine, batcher: Batcher, epoch: int, folder: Path | None) -> None:
        self._engine = engine
        self._batcher = batcher
        self._folder = folder
        self.epoch = epoch
        """Random number of this database; changes when it is made anew."""
        self.submit: Callable[[Write], None] = batcher.submit
        """Queue one write; never waits. Writes are committed in arrival order.

        Raises:
            StoreOverloaded: the queue is full; try again after its `retry_ms`.
            StoreUnavailable: the store is closing.
        """

    @classmethod
    async def open(
        cls,
        options: StoreOptions,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        schema_dir: Path = SCHEMA_DIR,
    ) -> Store:
        """Connect, bring the schema up to date if options allow, take in spilled dead letters.

        Raises:
            OpenFailed, NotDurable: with one line on what to do; nothing is left open.
        """
        engine, folder = make_engine(options)
        await engine.open()
        try:
            migrations = load_migrations(engine.dialect.name, schema_dir)
            epoch = await engine.transact(
                lambda: prepare_schema(
                    engine.dialect,
                    migrations,
                    apply=options.migrate,
                    now_ms=int(clock() * 1000),
                )
            )
        except OpenFailed:
            await engine.close()
            raise
        except StorageError as error:
            await engine.close()
            raise OpenFailed(f"cannot prepare the schema: {error}") from error
        committer = Committer(
            engine.dialect, cache_heads=isinstance(engine, SqliteEngine), clock=clock
        )
        morgue = Morgue(engine, folder, clock)
        batcher = Batcher(engine, committer, options, morgue.bury, sleep=sleep)
        store = cls(engine, batcher, epoch, folder)
        try:
            await store._take_in_file()
        except BaseException:
            await store.close(0)
            raise
        return store

    @property
    def stats(self) -> Stats:
        """Counters for the metrics page."""
        return self._batcher.stats

    @property
    def statements(self) -> int:
        """Statements sent by transactions so far."""
        return self._engine.statements

    @property
    def engine_name(self) -> str:
        return self._engine.name

    async def read(self, op: Op[T], snapshot: bool = False) -> T:
        """Run a reading operation; with snapshot, all its statements see one moment.

        Sees every write that was settled before. Cancellation leaves nothing behind.

        Raises:
            StorageError: what op raises.
            StoreUnavailable: the database cannot be reached, or too many reads wait.
        """
        return await self._engine.read(op, snapshot=snapshot)

    async def change(
        self,
        feeds: Sequence[int],
        make: Callable[[Tx], Op[T]],
        publish: Callable[[T], None] | None = None,
    ) -> T:
        """Submit a Change and wait until it is durable; see `Change` for the arguments.

        Cancelling the waiter does not cancel the write.

        Raises:
            StorageError: what the operation raises, or what `submit` and the commit raise.
        """
        write = Change(feeds, make, publish)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write.future = future
        self.submit(write)
        return await future

    def on_unsure(self, tell: Callable[[set[int]], None]) -> None:
        """Have tell called with feeds whose changes nobody may have been told of.

        That is so when the reply to a commit was lost: the batch ran again and found its work
        done, so its messages count as repeats and its changes give revision 0. Called on the
        loop, after all writes of the batch were settled.
        """
        self._batcher.on_unsure = tell

    async def health(self) -> StoreHealth:
        """Ask the database; answers within seconds whatever its state."""
        try:
            detail = await asyncio.wait_for(self._engine.check(), _CHECK_TIMEOUT_S)
        except TimeoutError:
            detail = "no answer"
        detail = detail or self._batcher.trouble
        stats = self.stats
        return StoreHealth(
            ok=not detail,
            engine=self._engine.name,
            version=self._engine.version,
            durable=self._engine.durable,
            queue_rows=stats.queued_rows,
            queue_bytes=stats.queued_bytes,
            oldest_ms=self._batcher.oldest_ms,
            detail=detail,
        )

    async def replay(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Submit dead messages again, one after another; return those that failed.

        A message that was stored meanwhile is recognised by its cid. One that is refused again
        has a new letter; the old one counts as replayed.
        """
        failed = []
        for letter in letters:
            append = append_from(letter, _Replayed)
            assert isinstance(append, _Replayed)
            self.submit(append)
            error = await append.future
            if error is not None:
                failed.append(letter)
            if error is None or isinstance(error, Poison):
                await self.change((), partial(mark_replayed, ids=[letter.id]))
        return failed

    async def replay_all(self) -> tuple[int, int]:
        """Replay the dead messages there are now; return how many went and how many failed."""
        newest = await self.read(list_dead(1))
        until = newest[0].id if newest else 0
        after = gone = failed = 0
        while letters := await self.read(unplayed_dead(_PAGE, after)):
            after = letters[-1].id
            # Not the letters that failed replays leave behind.
            letters = [letter for letter in letters if letter.id <= until]
            bad = await self.replay(letters)
            gone += len(letters) - len(bad)
            failed += len(bad)
            if after >= until:
                break
        return gone, failed

    async def close(self, deadline_s: float = 5.0) -> None:
        """Commit what can be committed by the deadline; write the rest to the dead-letter file.

        Writes that are left are settled with an error.
        """
        left = await self._batcher.close(deadline_s)
        try:
            if left:
                await self._spill(left)
        finally:
            await self._engine.close()

    async def _spill(self, writes: Sequence[Write]) -> None:
        letters = [letter_from(write, "not committed at shutdown") for write in writes]
        if self._folder is None:
            log.error("store.writes_lost", extra={"rows": len(letters)})
            return
        path = await asyncio.to_thread(append_to_file, self._folder, letters)
        log.warning("store.spilled", extra={"rows": len(letters), "path": str(path)})

    async def _take_in_file(self) -> None:
        folder = self._folder
        if folder is None:
            return
        letters = await asyncio.to_thread(read_file, folder)
        for start in range(0, len(letters), _PAGE):
            page = letters[start : start + _PAGE]
            await self.change((), partial(add_dead, letters=page))
        if letters:
            await asyncio.to_thread(remove_file, folder)
            log.warning("store.dead_letters_taken_in", extra={"rows": len(letters)})


class _Replayed(Append):
    """A message whose outcome somebody waits for."""

    __slots__ = ("future",)

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # passed through
        self.future: asyncio.Future[StorageError | None] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, error: StorageError | None) -> None:
        if not self.future.done():
            self.future.set_result(error)


class Morgue:
    """Where the batcher leaves poison writes: the table, else the file, else the log."""

    def __init__(
        self, engine: Engine, folder: Path | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._clock = clock

    async def bury(self, write: Write, error: StorageError) -> None:
        letter = letter_from(write, str(error), self._clock)
        tx = Tx(letter.created, self._engine.dialect, {})
        try:
            await self._engine.transact(lambda: add_dead(tx, [letter]))
            return
        except StorageError:
            log.warning("store.dead_letter_table_failed")
        try:
            if self._folder is not None:
                await asyncio.to_thread(append_to_file, self._folder, [letter])
                return
        except OSError:
            log.exception("store.dead_letter_file_failed")
        log.error("store.writes_lost", extra={"rows": 1})


def make_engine(options: StoreOptions) -> tuple[Engine, Path | None]:
    """Choose the engine by the URL; return it and the folder for spilled writes.

    Raises:
        OpenFailed: the URL is of no kind that we know.
    """
    parts = urlsplit(options.url)
    folder = Path(options.dead_letter_dir) if options.dead_letter_dir else None
    if parts.scheme == "sqlite":
        # Three slashes and a relative path, or four and an absolute one.
        name = unquote(parts.path[1:])
        if not options.url.startswith("sqlite:///") or not name:
            raise OpenFailed("a SQLite URL is sqlite:///relative/path or sqlite:////absolute/path")
        path = Path(os.path.abspath(name))
        engine = SqliteEngine(path, readers=options.readers or 2, queue_reads=options.queue_reads)
        return engine, folder or path.parent
    if parts.scheme in ("mysql", "mariadb"):
        # Imported here: asyncmy is not needed, and not loaded, without MySQL.
        from storage.mysql import MysqlEngine

        return MysqlEngine(options), folder
    raise OpenFailed(f"unknown kind of database {parts.scheme!r}: use sqlite:// or mysql://")
