"""What AI answers used, per day, and the budgets that bound it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from storage.ops import Op, Row, Statement
from storage.revisions import BUDGETS, note_revision
from storage.writes import Tx

DAY_MS: Final = 86_400_000
MAX_ACCOUNTS: Final = 200_000
"""Users of one tenant whose spending is read at start."""

_KEYS: Final = ("tenant", "day", "user", "persona", "model")
_SUMS: Final = ("turns", "tokens_in", "tokens_out", "cost_micro")
_COLUMNS: Final = ", ".join((*_KEYS, *_SUMS))


class UsageRow(Struct, frozen=True, gc=False):
    """Sums of one user, persona and model on one UTC day (days since 1970)."""

    tenant: int
    day: int
    user: int
    persona: int
    model: str
    turns: int
    tokens_in: int
    tokens_out: int
    cost_micro: int


class DayUse(Struct, frozen=True, gc=False):
    """Sums of one user on one UTC day (days since 1970)."""

    day: int
    turns: int
    tokens_in: int
    tokens_out: int
    cost_micro: int


class BudgetRow(Struct, frozen=True, gc=False):
    """Micro-dollars that may be spent; user 0: the tenant as a whole. 0: without limit."""

    tenant: int
    user: int
    day_micro: int
    month_micro: int


def add_usage(tx: Tx, rows: Iterable[UsageRow]) -> Op[None]:
    """Add to the sums, with one statement."""
    sums: dict[tuple[int, int, int, int, str], list[int]] = {}
    for row in rows:
        key = (row.tenant, row.day, row.user, row.persona, row.model)
        total = sums.setdefault(key, [0, 0, 0, 0])
        for at, name in enumerate(_SUMS):
            total[at] += getattr(row, name)
    if sums:
        values = [(*key, *total) for key, total in sorted(sums.items())]
        yield tx.dialect.add("ai_usage", (*_KEYS, *_SUMS), values, keys=len(_KEYS))


def spent_by_users(tenant: int, since: int, today: int) -> Op[list[tuple[int, int, int, int]]]:
    """Return (tenant, user, spent today, spent since) in micro-dollars for who spent anything."""
    rows = yield Statement(
        "SELECT user, SUM(CASE WHEN day = ? THEN cost_micro ELSE 0 END), SUM(cost_micro)"
        " FROM ai_usage WHERE tenant = ? AND day >= ? GROUP BY user LIMIT ?",
        (today, tenant, since, MAX_ACCOUNTS),
    )
    return [(tenant, row[0], int(row[1]), int(row[2])) for row in rows if row[2]]


def usage_by_day(tenant: int, user: int, first: int, count: int) -> Op[list[DayUse]]:
    """Return what a user's answers used on each of `count` days from `first` on, oldest first.

    Days without use are left out. Days are named one by one: the primary key has the day before
    the user, and a range of days would read what everybody used.
    """
    days = range(first, first + count)
    marks = ",".join("?" * count)
    rows = yield Statement(
        "SELECT day, SUM(turns), SUM(tokens_in), SUM(tokens_out), SUM(cost_micro) FROM ai_usage"
        f" WHERE tenant = ? AND day IN ({marks}) AND user = ? GROUP BY day ORDER BY day LIMIT ?",
        (tenant, *days, user, count),
    )
    return [DayUse(*map(int, row)) for row in rows]


def usage_page(
    tenant: int, since: int, before: int, after: UsageRow | None, limit: int
) -> Op[list[UsageRow]]:
    """Return a page in order of day, user, persona and model; go on after the last row."""
    start = "day >= ?"
    args: Sequence[object] = (since,)
    if after is not None:
        start = (
            "day >= ? AND (day > ? OR (day = ? AND (user > ? OR (user = ? AND"
            " (persona > ? OR (persona = ? AND model > ?))))))"
        )
        args = (after.day, after.day, after.day, after.user, after.user, after.persona,
                after.persona, after.model)  # fmt: skip
    rows = yield Statement(
        f"SELECT {_COLUMNS} FROM ai_usage WHERE tenant = ? AND {start} AND day < ?"
        " ORDER BY day, user, persona, model LIMIT ?",
        (tenant, *args, before, limit),
    )
    return [UsageRow(*row) for row in rows]


def set_budget(tx: Tx, budget: BudgetRow) -> Op[None]:
    """Set what may be spent; both limits 0 remove the bound."""
    columns = ("tenant", "user", "day_micro", "month_micro", "updated")
    row: Row = (budget.tenant, budget.user, budget.day_micro, budget.month_micro, tx.ts)
    yield tx.dialect.upsert("budget", columns, [row], keys=2)
    yield from note_revision(tx, BUDGETS)


def budgets(after: tuple[int, int] = (0, -1), limit: int = 1_000) -> Op[list[BudgetRow]]:
    """Return a page of all budgets by (tenant, user)."""
    tenant, user = after
    rows = yield Statement(
        "SELECT tenant, user, day_micro, month_micro FROM budget"
        " WHERE tenant >= ? AND (tenant > ? OR user > ?) ORDER BY tenant, user LIMIT ?",
        (tenant, tenant, user, limit),
    )
    return [BudgetRow(*row) for row in rows]
