"""Where the engines' SQL differs: one small object, so that no operation exists twice."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from storage.ops import Bulk, Statement, in_rows


class Dialect(NamedTuple):
    """The differences that operations see."""

    name: str
    for_update: str
    """Appended to a SELECT inside a change whose row nobody else may change meanwhile."""

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Bulk:
        """Return an insert of many rows."""
        return Bulk(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ", rows)

    def upsert(
        self,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        keys: int = 1,
    ) -> Bulk:
        """Return an insert that overwrites all columns behind the first `keys` on conflict."""
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
        changed = columns[keys:]
        if self.name == "sqlite":
            sets = ", ".join(f"{name} = excluded.{name}" for name in changed)
            tail = f" ON CONFLICT ({', '.join(columns[:keys])}) DO UPDATE SET {sets}"
        else:
            # VALUES(), because MariaDB has no row alias; MySQL 9 still takes it.
            sets = ", ".join(f"{name} = VALUES({name})" for name in changed)
            tail = f" ON DUPLICATE KEY UPDATE {sets}"
        return Bulk(head, rows, tail, repeatable=True)

    def add(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, keys: int
    ) -> Bulk:
        """Return an insert that adds all columns behind the first `keys` to what is there."""
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
        summed = columns[keys:]
        if self.name == "sqlite":
            sets = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in summed)
            return Bulk(
                head, rows, f" ON CONFLICT ({', '.join(columns[:keys])}) DO UPDATE SET {sets}"
            )
        sets = ", ".join(f"{name} = {table}.{name} + VALUES({name})" for name in summed)
        return Bulk(head, rows, f" ON DUPLICATE KEY UPDATE {sets}")

    def select(
        self, columns: str, table: str, keys: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> Statement:
        """Return a select of the rows of `table AS m` that have one of these keys.

        More conditions may follow, starting with AND. A row may come back more than once.
        """
        marks, args = in_rows(rows)
        if self.name == "sqlite":
            # Row values with IN walk the whole table where it guesses wrong; a join does not.
            on = " AND ".join(f"m.{key} = k.column{i}" for i, key in enumerate(keys, 1))
            sql = f"SELECT {columns} FROM (VALUES {marks}) AS k CROSS JOIN {table} AS m WHERE {on}"
        else:
            names = ", ".join(f"m.{key}" for key in keys)
            sql = f"SELECT {columns} FROM {table} AS m WHERE ({names}) IN ({marks})"
        return Statement(sql, args)

    def update(
        self,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        keys: int = 1,
        where: str = "",
    ) -> Bulk:
        """Return an update of many existing rows, each found by its first `keys` columns.

        `where` (starting with AND, naming columns as `t.column` or `v.column`) narrows further.
        """
        on = " AND ".join(f"t.{name} = v.{name}" for name in columns[:keys])
        if self.name == "sqlite":
            sets = ", ".join(f"{name} = v.{name}" for name in columns[keys:])
            head = f"WITH v ({', '.join(columns)}) AS (VALUES "
            tail = f") UPDATE {table} AS t SET {sets} FROM v WHERE {on} {where}"
            return Bulk(head, rows, tail, repeatable=True)
        sets = ", ".join(f"t.{name} = v.{name}" for name in columns[keys:])
        # The first row only names the columns: no key is NULL.
        names = ", ".join(f"NULL AS {name}" for name in columns)
        head = f"UPDATE {table} AS t JOIN (SELECT {names} UNION ALL "
        tail = f") AS v ON {on} {where} SET {sets}"
        return Bulk(head, rows, tail, "SELECT ", "", " UNION ALL ", repeatable=True)


SQLITE: Final = Dialect("sqlite", "")
MYSQL: Final = Dialect("mysql", " FOR UPDATE")
