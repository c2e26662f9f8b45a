"""What MCP servers offer and what of it somebody approved, as it was last seen.

Digests and lists are made by others; here they are texts that belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct, structs

from storage.ops import Op, Statement
from storage.revisions import note_revision
from storage.writes import Tx

MCP: Final = "mcp"
"""Subject of the revisions: approvals, and wishes that the lists are read again."""
MAX_PROBLEM_CHARS: Final = 64

_SELECT: Final = "SELECT name, pins, seen, problem, updated FROM mcp_server"
_pins: Final = msgspec.json.Decoder(dict[str, str])


class McpRow(Struct, frozen=True):
    """One server. `pins`: digests by tool, None before its first list; `updated`: Unix ms."""

    name: str
    pins: dict[str, str] | None = None
    seen: str = ""
    problem: str = ""
    updated: int = 0


def mcp_server(name: str) -> Op[McpRow]:
    """Return what is known of a server."""
    rows = yield Statement(f"{_SELECT} WHERE name = ?", (name,))
    return _row(*rows[0]) if rows else McpRow(name)


def note_tools(tx: Tx, name: str, seen: str, first: Mapping[str, str]) -> Op[McpRow]:
    """Keep the list that a server has just given; return what is known of it then.

    Args:
        first: what counts as approved if this is its first list.
    """
    row = yield from _locked(tx, name)
    pins = dict(first) if row.pins is None else row.pins
    return (yield from _save(tx, structs.replace(row, pins=pins, seen=seen, problem="")))


def note_problem(tx: Tx, name: str, problem: str) -> Op[McpRow]:
    """Keep why a server cannot be used; its last list and the approvals stay."""
    row = yield from _locked(tx, name)
    return (yield from _save(tx, structs.replace(row, problem=problem[:MAX_PROBLEM_CHARS])))


def pin_tools(tx: Tx, name: str, digests: Mapping[str, str]) -> Op[McpRow]:
    """Approve tools as they were described when they had these digests; servers learn of it."""
    row = yield from _locked(tx, name)
    saved = yield from _save(tx, structs.replace(row, pins={**(row.pins or {}), **digests}))
    yield from note_revision(tx, MCP)
    return saved


def ask_for_lists(tx: Tx) -> Op[None]:
    """Have running servers read all lists again."""
    yield from note_revision(tx, MCP)


def _locked(tx: Tx, name: str) -> Op[McpRow]:
    rows = yield Statement(f"{_SELECT} WHERE name = ?{tx.dialect.for_update}", (name,))
    return _row(*rows[0]) if rows else McpRow(name)


def _save(tx: Tx, row: McpRow) -> Op[McpRow]:
    row = structs.replace(row, updated=tx.ts)
    pins = "" if row.pins is None else msgspec.json.encode(row.pins).decode()
    columns = ("name", "pins", "seen", "problem", "updated")
    values = (row.name, pins, row.seen, row.problem, row.updated)
    yield tx.dialect.upsert("mcp_server", columns, [values])
    return row


def _row(name: str, pins: str, seen: str, problem: str, updated: int) -> McpRow:
    return McpRow(name, _pins.decode(pins) if pins else None, seen, problem, updated)
