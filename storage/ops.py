"""Operations are plain generators: they yield statements, receive rows, and know no engine.

So the logic exists once; an engine drives it synchronously (a SQLite thread) or asynchronously
(MySQL on the loop). SQL is written with `?` for every value.
"""

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = Sequence[Row]


class Statement(NamedTuple):
    """One statement; the answer is its rows, empty for a write."""

    sql: str
    args: Sequence[Any] = ()


class Bulk(NamedTuple):
    """One statement over many rows; the engine cuts it into as few pieces as its bounds allow.

    The text becomes head, rows joined by `separator`, tail. `repeatable` says that naming a row
    twice changes nothing, so a piece may be filled up with its last row to a size that is
    prepared already.
    """

    head: str
    rows: Sequence[Sequence[Any]]
    tail: str = ""
    row_open: str = "("
    row_close: str = ")"
    separator: str = ","
    repeatable: bool = False


Op: TypeAlias = Generator[Statement | Bulk, Rows, T]
"""An operation that results in T."""


def drive(op: Op[T], execute: Callable[[Statement | Bulk], Rows]) -> T:
    """Run op to its end; errors of execute are raised inside op, which may handle them."""
    try:
        command = next(op)
        while True:
            try:
                rows = execute(command)
            except Exception as error:
                command = op.throw(error)
            else:
                command = op.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


async def drive_async(op: Op[T], execute: Callable[[Statement | Bulk], Awaitable[Rows]]) -> T:
    """Like `drive`. A cancellation closes op at its current statement."""
    try:
        command = next(op)
        while True:
            try:
                rows = await execute(command)
            except Exception as error:
                command = op.throw(error)
            else:
                command = op.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        op.close()


def in_list(values: Iterable[Any]) -> tuple[str, list[Any]]:
    """Return "?,?,…" and its arguments, filled up to a power of two with the last value.

    Few different texts keep the cache of prepared statements small. Values must not be empty.
    """
    args = _filled_up(values)
    return ",".join("?" * len(args)), args


def in_rows(keys: Iterable[Sequence[Any]]) -> tuple[str, list[Any]]:
    """Return "(?,?),(?,?),…" and its flat arguments, filled up like `in_list`."""
    rows = _filled_up(keys)
    mark = "(" + ",".join("?" * len(rows[0])) + ")"
    return ",".join([mark] * len(rows)), [value for row in rows for value in row]


def _filled_up(values: Iterable[T]) -> list[T]:
    found = list(values)
    size = 1 << (len(found) - 1).bit_length()
    return found + found[-1:] * (size - len(found))
