"""Which engine answers whom. Who asks for a change and who makes it may be different processes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

from msgspec import Struct

from storage.errors import LimitReached
from storage.ops import Op, Statement
from storage.revisions import note_revision
from storage.writes import Tx

ENGINES: Final = "engines"
"""Subject of `storage.revisions`."""
MAX_CHOICES: Final = 1_000
"""Per tenant, and for those that name none."""
MAX_REASON_CHARS: Final = 500

_COLUMNS: Final = "tenant, persona, engine, asked, state, reason, updated"


class ChoiceState(IntEnum):
    """What became of the last change that was asked for."""

    ASKED = 0
    """No server has looked at it yet."""
    TAKEN = 1
    REFUSED = 2
    """The engine before stays."""
    UNDONE = 3
    """Taken, and given up again because most turns failed."""


class EngineChoice(Struct, frozen=True):
    """Who answers in a scope; tenant or persona 0 stands for all.

    `engine` answers, "" is whoever answers in the wider scope. `asked` was asked for last.
    `updated` is another number for each time that somebody asked (Unix ms).
    """

    tenant: int
    persona: int
    engine: str
    asked: str
    state: ChoiceState
    reason: str = ""
    updated: int = 0


def ask_engine(tx: Tx, tenant: int, persona: int, engine: str) -> Op[EngineChoice]:
    """Ask servers for an engine in a scope, "" for the one of the wider scope.

    Raises:
        LimitReached: the tenant has MAX_CHOICES already.
    """
    rows = yield Statement(
        f"SELECT {_COLUMNS} FROM engine_choice WHERE tenant = ? AND persona = ?"
        f"{tx.dialect.for_update}",
        (tenant, persona),
    )
    if rows:
        before = _choice(rows[0])
        updated = max(tx.ts, before.updated + 1)
        yield Statement(
            "UPDATE engine_choice SET asked = ?, state = ?, reason = '', updated = ?"
            " WHERE tenant = ? AND persona = ?",
            (engine, int(ChoiceState.ASKED), updated, tenant, persona),
        )
    else:
        yield from _make_room(tenant)
        before, updated = EngineChoice(tenant, persona, "", "", ChoiceState.ASKED), tx.ts
        names = _COLUMNS.split(", ")
        values = (tenant, persona, "", engine, int(ChoiceState.ASKED), "", updated)
        yield tx.dialect.insert("engine_choice", names, [values])
    yield from note_revision(tx, ENGINES)
    return EngineChoice(tenant, persona, before.engine, engine, ChoiceState.ASKED, updated=updated)


def _make_room(tenant: int) -> Op[None]:
    """Forget choices that were reset, if there are too many."""
    rows = yield Statement(
        "SELECT COUNT(*), SUM(CASE WHEN engine = '' AND state <> 0 THEN 1 ELSE 0 END)"
        " FROM engine_choice WHERE tenant = ?",
        (tenant,),
    )
    count, reset = int(rows[0][0]), int(rows[0][1] or 0)
    if count - reset >= MAX_CHOICES:
        raise LimitReached("too many choices of engines")
    if count >= MAX_CHOICES:
        yield Statement(
            "DELETE FROM engine_choice WHERE tenant = ? AND engine = '' AND state <> 0", (tenant,)
        )


def settle_engine(tx: Tx, choice: EngineChoice) -> Op[None]:
    """Store what became of a change; nothing happens if somebody has asked again meanwhile."""
    yield Statement(
        "UPDATE engine_choice SET engine = ?, state = ?, reason = ?"
        " WHERE tenant = ? AND persona = ? AND updated = ?",
        (
            choice.engine,
            int(choice.state),
            choice.reason[:MAX_REASON_CHARS],
            choice.tenant,
            choice.persona,
            choice.updated,
        ),
    )


def engine_choices(after: tuple[int, int] = (-1, -1), limit: int = 2_000) -> Op[list[EngineChoice]]:
    """Return a page of the choices of all tenants, by tenant and persona.

    Args:
        after: tenant and persona of the last one of the page before.
    """
    tenant, persona = after
    rows = yield Statement(
        f"SELECT {_COLUMNS} FROM engine_choice"
        " WHERE tenant >= ? AND (tenant > ? OR persona > ?)"
        " ORDER BY tenant, persona LIMIT ?",
        (tenant, tenant, persona, limit),
    )
    return [_choice(row) for row in rows]


def tenant_choices(tenant: int) -> Op[list[EngineChoice]]:
    """Return what was chosen for a tenant as a whole and for personas in it."""
    rows = yield Statement(
        f"SELECT {_COLUMNS} FROM engine_choice WHERE tenant = ? ORDER BY persona LIMIT ?",
        (tenant, MAX_CHOICES),
    )
    return [_choice(row) for row in rows]


def engine_choice(tenant: int, persona: int) -> Op[EngineChoice | None]:
    """Return what was chosen for one scope."""
    rows = yield Statement(
        f"SELECT {_COLUMNS} FROM engine_choice WHERE tenant = ? AND persona = ?",
        (tenant, persona),
    )
    return _choice(rows[0]) if rows else None


def _choice(row: Sequence[Any]) -> EngineChoice:
    tenant, persona, engine, asked, state, reason, updated = row
    return EngineChoice(tenant, persona, engine, asked, ChoiceState(state), reason, updated)
