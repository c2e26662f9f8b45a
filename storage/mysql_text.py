"""SQL text for MySQL: the one path on which values become part of a statement.

Every value is escaped by its type. Sessions run with a fixed sql_mode (no NO_BACKSLASH_ESCAPES)
and in utf8mb4, where no byte of a longer character looks like a quote or a backslash.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from asyncmy.converters import escape_string

from storage.errors import StatementFailed
from storage.ops import Bulk, Statement


def _quote(value: str) -> str:
    return f"'{escape_string(value)}'"


def _hex(value: bytes) -> str:
    return f"x'{value.hex()}'"


def _bool(value: bool) -> str:
    return "1" if value else "0"


def _null(value: None) -> str:
    return "NULL"


def _float(value: float) -> str:
    if not isfinite(value):
        raise StatementFailed("mysql: not a finite number")
    return repr(value)


_ENCODERS: Final[dict[type, Callable[[Any], str]]] = {
    int: str,
    str: _quote,
    bytes: _hex,
    type(None): _null,
    bool: _bool,
    float: _float,
}


def literal(value: Any) -> str:
    """Return value as SQL.

    Raises:
        StatementFailed: its type has no place in a statement.
    """
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    # Enumerations and the like: as what they derive from.
    for kind, encode in _ENCODERS.items():
        if isinstance(value, kind):
            return encode(kind(value))
    raise StatementFailed(f"mysql: no SQL form of {type(value).__name__}")


@lru_cache(maxsize=4_096)
def _split(sql: str) -> list[str]:
    return sql.split("?")


def encode_statement(statement: Statement) -> bytes:
    """Return one statement with its values, ready to be sent.

    Raises:
        StatementFailed: a value cannot be written.
    """
    sql, args = statement
    if not args:
        return sql.encode()
    parts = _split(sql)
    if len(parts) != len(args) + 1:
        raise StatementFailed("mysql: wrong number of values")
    pieces = [parts[0]]
    for value, part in zip(args, parts[1:], strict=True):
        pieces.append(literal(value))
        pieces.append(part)
    return _encode("".join(pieces))


def encode_bulk(bulk: Bulk, max_bytes: int) -> Iterator[bytes]:
    """Yield as few statements as hold all rows within max_bytes each (one row may exceed it).

    Raises:
        StatementFailed: a value cannot be written.
    """
    encoders, start, end = _ENCODERS, bulk.row_open, bulk.row_close
    pieces: list[str] = []
    size = 0
    for row in bulk.rows:
        try:
            values = ",".join([encoders[type(value)](value) for value in row])
        except KeyError:
            values = ",".join(map(literal, row))
        text = start + values + end
        length = len(text) * (1 if text.isascii() else 4)
        if pieces and size + length > max_bytes:
            yield _encode(bulk.head + bulk.separator.join(pieces) + bulk.tail)
            pieces, size = [], 0
        pieces.append(text)
        size += length
    yield _encode(bulk.head + bulk.separator.join(pieces) + bulk.tail)


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # The error would quote the text.
        raise StatementFailed("mysql: half of a surrogate pair") from None
