"""Schema changes are applied once, checked, and safe against two processes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from storage.dialect import MYSQL
from storage.errors import OpenFailed
from storage.migrate import SCHEMA_DIR, Migration, load_migrations, prepare_schema
from storage.ops import Op, Rows, Statement
from storage.rows import StoreOptions
from storage.store import Store

SQL = "CREATE TABLE IF NOT EXISTS extra_{0} (id INTEGER NOT NULL PRIMARY KEY);\n"


def query(sql: str) -> Op[Rows]:
    return (yield Statement(sql))


def release(folder: Path, count: int) -> Path:
    """Copy the released scripts and add count more of our own."""
    folder.mkdir(exist_ok=True)
    for path in SCHEMA_DIR.glob("*.sql"):
        (folder / path.name).write_bytes(path.read_bytes())
    base = len(list(SCHEMA_DIR.glob("*.sqlite.sql")))
    for number in range(base + 1, base + count + 1):
        for engine in ("sqlite", "mysql"):
            (folder / f"{number:04}_extra.{engine}.sql").write_text(SQL.format(number))
    return folder


async def open_close(url: str, folder: Path, *, migrate: bool = True) -> int:
    store = await Store.open(StoreOptions(url=url, migrate=migrate), schema_dir=folder)
    await store.close(1)
    return store.epoch


async def versions(url: str) -> list[int]:
    store = await Store.open(StoreOptions(url=url))
    rows = await store.read(query("SELECT version FROM schema_version ORDER BY version LIMIT 99"))
    await store.close(1)
    return [row[0] for row in rows]


async def test_opening_again_is_a_no_op_and_keeps_the_epoch(
    new_store_url: Callable[[], str],
) -> None:
    url = new_store_url()
    first = await open_close(url, SCHEMA_DIR)
    assert await open_close(url, SCHEMA_DIR) == first
    assert await open_close(url, SCHEMA_DIR, migrate=False) == first
    assert await versions(url) == list(range(1, len(load_migrations("sqlite")) + 1))
    assert first != await open_close(new_store_url(), SCHEMA_DIR)


async def test_an_older_database_moves_forward_only_when_asked(
    new_store_url: Callable[[], str], tmp_path: Path
) -> None:
    url = new_store_url()
    await open_close(url, SCHEMA_DIR)
    newer = release(tmp_path / "newer", 2)
    with pytest.raises(OpenFailed, match="2 schema changes: run `parlance migrate`"):
        await open_close(url, newer, migrate=False)
    await open_close(url, newer)
    await open_close(url, newer, migrate=False)
    with pytest.raises(OpenFailed, match="use a newer program"):
        await open_close(url, SCHEMA_DIR)


async def test_an_altered_change_is_refused(
    new_store_url: Callable[[], str], tmp_path: Path
) -> None:
    url = new_store_url()
    folder = release(tmp_path / "v", 1)
    await open_close(url, folder)
    for path in folder.glob("*_extra.*"):
        path.write_text(path.read_text() + "-- a harmless comment\n")
    with pytest.raises(OpenFailed, match="differs from the one that was applied"):
        await open_close(url, folder)


async def test_several_processes_may_migrate_at_once(
    new_store_url: Callable[[], str], tmp_path: Path
) -> None:
    url = new_store_url()
    folder = release(tmp_path / "v", 3)
    epochs = await asyncio.gather(*(open_close(url, folder) for _ in range(4)))
    assert len(set(epochs)) == 1


def test_what_was_changed_is_committed_before_others_may_look() -> None:
    op = prepare_schema(MYSQL, [Migration(1, "first", "0" * 64, [])], apply=True, now_ms=0)
    said: list[str] = []
    statement = next(op)
    while not said or not said[-1].startswith("SELECT RELEASE_LOCK"):
        assert isinstance(statement, Statement)
        said.append(statement.sql)
        rows: Rows = [("7",)] if said[-1].startswith("SELECT value") else []
        if said[-1].startswith("SELECT GET_LOCK"):
            rows = [(1,)]
        with suppress(StopIteration):
            statement = op.send(rows)
    assert said[-2] == "COMMIT"
    assert any(sql.startswith("INSERT INTO schema_version") for sql in said[:-2])


async def test_a_change_that_was_cut_off_runs_again(
    new_store_url: Callable[[], str], tmp_path: Path
) -> None:
    url = new_store_url()
    folder = release(tmp_path / "v", 1)
    broken = {path: path.read_text() for path in folder.glob("*_extra.*")}
    for path, text in broken.items():
        path.write_text(text + "CREATE NONSENSE;\n")
    with pytest.raises(OpenFailed, match="cannot prepare the schema"):
        await open_close(url, folder)
    for path, text in broken.items():
        path.write_text(text)
    await open_close(url, folder)


def test_both_engines_have_the_same_changes() -> None:
    names = [[(m.version, m.name) for m in load_migrations(e)] for e in ("sqlite", "mysql")]
    assert names[0] == names[1] != []


def test_numbers_must_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "0002_late.sqlite.sql").write_text("SELECT 1;\n")
    with pytest.raises(OpenFailed, match="without gaps"):
        load_migrations("sqlite", tmp_path)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("postgres://x/y", "unknown kind"),
        ("sqlite:relative", "sqlite:///"),
        ("sqlite://", "sqlite:///"),
        ("mysql://host/db", "mysql://user"),
        ("mysql://u:p@host", "mysql://user"),
        ("mysql://u:p@h/d?sll=on", "unknown options"),
        ("mysql://u:p@h/d?ssl=maybe", "off, on or verify"),
        ("mysql://u:p@h/d?ssl=verify&ssl_ca=/nowhere/ca.pem", "ssl_ca"),
        ("mysql://u:p@127.0.0.1:1/d", "cannot connect"),
        ("sqlite:////proc/nowhere/x.db", "cannot open"),
    ],
)
async def test_a_database_that_cannot_be_opened_says_what_to_do(url: str, hint: str) -> None:
    with pytest.raises(OpenFailed, match=hint) as failed:
        await Store.open(StoreOptions(url=url))
    assert "u:p" not in str(failed.value).replace(hint, "")
