"""AI services that were added while the server runs. What they are is not storage's business."""

from __future__ import annotations

from msgspec import Struct

from storage.errors import NotFound
from storage.ops import Op, Statement
from storage.revisions import PROVIDERS, note_revision
from storage.writes import Tx

MAX_PROVIDERS = 200


class ProviderRow(Struct, frozen=True):
    """One service: `config` is JSON without the key, `sealed` the encrypted key, b"" for none."""

    name: str
    config: str
    sealed: bytes


def save_provider(tx: Tx, row: ProviderRow) -> Op[None]:
    """Add a service, or replace the one of this name."""
    columns = ("name", "config", "sealed", "updated", "deleted")
    values = (row.name, row.config, row.sealed, tx.ts, 0)
    yield tx.dialect.upsert("ai_provider", columns, [values])
    yield from note_revision(tx, PROVIDERS)


def drop_provider(tx: Tx, name: str) -> Op[None]:
    """Remove a service; its key is wiped.

    Raises:
        NotFound: there is none of this name.
    """
    rows = yield Statement(
        f"SELECT name FROM ai_provider WHERE name = ? AND deleted = 0{tx.dialect.for_update}",
        (name,),
    )
    if not rows:
        raise NotFound("no such provider")
    yield Statement(
        "UPDATE ai_provider SET config = '{}', sealed = ?, updated = ?, deleted = 1 WHERE name = ?",
        (b"", tx.ts, name),
    )
    yield from note_revision(tx, PROVIDERS)


def providers() -> Op[list[ProviderRow]]:
    """Return the services by name."""
    rows = yield Statement(
        "SELECT name, config, sealed FROM ai_provider WHERE deleted = 0 ORDER BY name LIMIT ?",
        (MAX_PROVIDERS,),
    )
    return [ProviderRow(row[0], row[1], bytes(row[2])) for row in rows]
