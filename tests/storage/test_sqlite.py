"""What only SQLite does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from storage.ops import Statement
from storage.sqlite import Connection

AT_ONCE = 6


def test_a_new_database_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """Each wants to change it to WAL, and SQLite does not wait for the others there."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(20):
            together = Barrier(AT_ONCE)

            def open_one(path: Path = tmp_path / f"{number}.db", start: Barrier = together) -> str:
                start.wait()
                connection = Connection(path, writer=True)
                mode = connection.execute(Statement("PRAGMA journal_mode"))
                connection.close()
                return str(mode[0][0])

            opened = [pool.submit(open_one) for _ in range(AT_ONCE)]
            assert {one.result() for one in opened} == {"wal"}
