"""Numbers that rise with every change of something that servers keep in memory."""

from __future__ import annotations

from typing import Final

from storage.ops import Op, Statement
from storage.writes import Tx

PROVIDERS: Final = "providers"
BUDGETS: Final = "budgets"

_MAX_SUBJECTS: Final = 100


def note_revision(tx: Tx, subject: str) -> Op[None]:
    """Count a change of this subject, in the transaction that makes it."""
    yield tx.dialect.add("revision", ("subject", "rev"), [(subject, 1)], keys=1)


def revisions() -> Op[dict[str, int]]:
    """Return the number of each subject; one that never changed is absent."""
    rows = yield Statement(
        "SELECT subject, rev FROM revision ORDER BY subject LIMIT ?", (_MAX_SUBJECTS,)
    )
    return {subject: int(rev) for subject, rev in rows}
