"""Writes that could not be made: poison rows, and what still waited at shutdown.

They lie in a table, or in `dead-letters.jsonl` while the database is away; the file is taken
into the table at the next start. Their senders were told that the write failed (or that its
outcome is unknown), so a replay relies on the idempotency key: it is stored once in any case.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.rows import MsgX
from storage.ids import new_id
from storage.ops import Op, Row, Statement, in_list
from storage.rows import DeadLetter, EndTurn, NewTurn
from storage.writes import Append, Change, Tx, Write

FILE_NAME: Final = "dead-letters.jsonl"

_COLUMN_NAMES: Final = ("id", "created", "kind", "reason", "payload", "replayed_at")
_SELECT: Final = f"SELECT {', '.join(_COLUMN_NAMES)} FROM dead_letter"
_MAX_REASON: Final = 500


# content


def letter_from(write: Write, reason: str, clock: Callable[[], float] = time.time) -> DeadLetter:
    """Describe a write. Any text survives, also what no database takes (half surrogates)."""
    kind, content = "unknown", {}
    if isinstance(write, Append):
        kind, content = "append", _append_content(write)
    elif isinstance(write, Change):
        kind = f"change:{getattr(write.make, '__qualname__', '')}"[:128]
        content = {"feeds": list(write.feeds)}
    payload = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return DeadLetter(new_id(), int(clock() * 1000), kind, reason[:_MAX_REASON], payload)


def _append_content(append: Append) -> dict[str, Any]:
    return {
        "conv": append.conv,
        "sender": append.sender,
        "cid": append.cid.hex(),
        "kind": append.kind,
        "text": append.text,
        "x": _builtins(append.x),
        "new_turn": _builtins(append.new_turn),
        "end_turn": _builtins(append.end_turn),
    }


def _builtins(value: msgspec.Struct | None) -> Any:
    return None if value is None else msgspec.to_builtins(value)


def append_from(letter: DeadLetter, make: Callable[..., Append] = Append) -> Append:
    """Build the message of a letter again, to be submitted with its old cid.

    Raises:
        ValueError: the letter is no message.
    """
    if letter.kind != "append":
        raise ValueError("only messages can be replayed")
    content = json.loads(letter.payload)
    return make(
        content["conv"],
        content["sender"],
        bytes.fromhex(content["cid"]),
        content["kind"],
        content["text"],
        _convert(content["x"], MsgX),
        new_turn=_convert(content["new_turn"], NewTurn),
        end_turn=_convert(content["end_turn"], EndTurn),
    )


def _convert(value: Any, kind: type[Any]) -> Any:
    return None if value is None else msgspec.convert(value, kind)


# table


def add_dead(tx: Tx, letters: Sequence[DeadLetter]) -> Op[int]:
    """Store letters; those that are there already are left alone. Return how many are new."""
    if not letters:
        return 0
    marks, args = in_list(letter.id for letter in letters)
    rows = yield Statement(f"SELECT id FROM dead_letter WHERE id IN ({marks})", args)
    known = {row[0] for row in rows}
    new = [msgspec.structs.astuple(letter) for letter in letters if letter.id not in known]
    if new:
        yield tx.dialect.insert("dead_letter", _COLUMN_NAMES, new)
    return len(new)


def list_dead(limit: int, before: int = 0) -> Op[list[DeadLetter]]:
    """Return letters, newest first; before: an id to go on from."""
    where = "WHERE id < ? " if before else ""
    rows = yield Statement(
        f"{_SELECT} {where}ORDER BY id DESC LIMIT ?", (before, limit) if before else (limit,)
    )
    return [_letter(row) for row in rows]


def unplayed_dead(limit: int, after: int = 0) -> Op[list[DeadLetter]]:
    """Return messages that were not replayed, oldest first: the order of a replay."""
    rows = yield Statement(
        f"{_SELECT} WHERE id > ? AND replayed_at = 0 AND kind = 'append' ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [_letter(row) for row in rows]


def show_dead(id: int) -> Op[DeadLetter | None]:
    rows = yield Statement(f"{_SELECT} WHERE id = ?", (id,))
    return _letter(rows[0]) if rows else None


def mark_replayed(tx: Tx, ids: Sequence[int]) -> Op[None]:
    if ids:
        marks, args = in_list(ids)
        yield Statement(
            f"UPDATE dead_letter SET replayed_at = ? WHERE id IN ({marks})", (tx.ts, *args)
        )


def drop_dead(tx: Tx, ids: Sequence[int]) -> Op[int]:
    """Delete letters; return how many there were."""
    if not ids:
        return 0
    marks, args = in_list(ids)
    rows = yield Statement(f"SELECT COUNT(*) FROM dead_letter WHERE id IN ({marks})", args)
    yield Statement(f"DELETE FROM dead_letter WHERE id IN ({marks})", args)
    return int(rows[0][0])


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(*row)


# file; these block


def append_to_file(folder: Path, letters: Iterable[DeadLetter]) -> Path:
    """Add letters to the file, durably; readable by its owner only."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    data = b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def read_file(folder: Path) -> list[DeadLetter]:
    """Return the letters of the file; a line that was cut off at its end is left out."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    letters = []
    for line in path.read_bytes().split(b"\n"):
        try:
            letters.append(msgspec.json.decode(line, type=DeadLetter))
        except msgspec.DecodeError:
            continue
    return letters


def remove_file(folder: Path) -> None:
    """Delete the file, once its letters are in the table."""
    (folder / FILE_NAME).unlink(missing_ok=True)
