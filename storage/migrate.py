"""Numbered schema changes: applied forward, under a lock, each recorded with its checksum.

SQLite applies all of them in one transaction. MySQL commits at every CREATE, so its scripts are
written to be repeated (IF NOT EXISTS, INSERT IGNORE): a change that was cut off runs again.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from storage.dialect import Dialect
from storage.errors import OpenFailed
from storage.ops import Op, Statement

SCHEMA_DIR: Final = Path(__file__).parent / "schema"

_FILE_NAME: Final = re.compile(r"(\d{4})_(\w+)\.(\w+)\.sql")
_LOCK_WAIT_S: Final = 60
_LOCK: Final = "LEFT(CONCAT('parlance:', DATABASE()), 64)"
_FIND_TABLE: Final = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'",
    "mysql": "SELECT 1 FROM information_schema.tables"
    " WHERE table_schema = DATABASE() AND table_name = 'schema_version'",
}
_CREATE_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL PRIMARY KEY,"
    " name VARCHAR(64) NOT NULL, checksum CHAR(64) NOT NULL, applied BIGINT NOT NULL)"
)


class Migration(NamedTuple):
    version: int
    name: str
    checksum: str
    statements: Sequence[str]


def load_migrations(dialect: str, folder: Path = SCHEMA_DIR) -> list[Migration]:
    """Read the scripts of one engine, in order of their numbers."""
    found = []
    for path in sorted(folder.glob(f"*.{dialect}.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise OpenFailed(f"{path.name} is not named NNNN_name.engine.sql")
        text = path.read_text(encoding="utf-8")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        statements = [part.strip() for part in re.split(r";\s*\n", text) if part.strip()]
        found.append(Migration(int(match[1]), match[2], checksum, statements))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise OpenFailed("schema changes must be numbered from 1 without gaps")
    return found


def prepare_schema(
    dialect: Dialect, migrations: Sequence[Migration], *, apply: bool, now_ms: int
) -> Op[int]:
    """Bring the schema up to date, or only check it; return the store's epoch.

    Raises:
        OpenFailed: a recorded change was altered, the database is newer than this program, or
            it is older and `apply` is false.
    """
    if dialect.name == "mysql":
        rows = yield Statement(f"SELECT GET_LOCK({_LOCK}, {_LOCK_WAIT_S})")
        if rows[0][0] != 1:
            raise OpenFailed("another process has been changing the schema for a minute: wait")
    try:
        pending = yield from _find_pending(dialect, migrations)
        if pending and not apply:
            raise OpenFailed(
                f"the database misses {len(pending)} schema changes: run `parlance migrate`"
            )
        for migration in pending:
            for sql in migration.statements:
                yield Statement(sql)
            yield Statement(
                "INSERT INTO schema_version (version, name, checksum, applied) VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, migration.checksum, now_ms),
            )
        epoch = yield from _read_epoch()
        if dialect.name == "mysql":
            # Who has the lock next must see what was done.
            yield Statement("COMMIT")
    finally:
        if dialect.name == "mysql":
            # Not reached when the connection is gone: the server then frees the lock itself.
            yield Statement(f"SELECT RELEASE_LOCK({_LOCK})")
    return epoch


def _find_pending(dialect: Dialect, migrations: Sequence[Migration]) -> Op[Sequence[Migration]]:
    known = {m.version: m for m in migrations}
    if not (yield Statement(_FIND_TABLE[dialect.name])):
        yield Statement(_CREATE_TABLE)
    rows = yield Statement(
        "SELECT version, checksum FROM schema_version ORDER BY version LIMIT 10000"
    )
    for version, checksum in rows:
        if version not in known:
            raise OpenFailed(f"the database has schema {version}: use a newer program")
        if known[version].checksum != checksum:
            raise OpenFailed(
                f"schema change {version} differs from the one that was applied:"
                " restore the released file"
            )
    applied = {row[0] for row in rows}
    return [m for m in migrations if m.version not in applied]


def _read_epoch() -> Op[int]:
    rows = yield Statement("SELECT value FROM setting WHERE name = 'epoch'")
    if rows:
        return int(rows[0][0])
    epoch = secrets.randbits(52) | 1
    yield Statement("INSERT INTO setting (name, value) VALUES ('epoch', ?)", (str(epoch),))
    return epoch
