"""Operations on accounts and personas as a whole, which no client may ask for."""

from typing import NamedTuple

from storage.ops import Op, Statement
from storage.writes import Tx


def revoke_everything(tx: Tx, user: int) -> Op[None]:
    """Delete all refresh tokens of a user: every sign-in ends when its sign-in token does."""
    yield Statement("DELETE FROM refresh_token WHERE user = ?", (user,))


class Account(NamedTuple):
    """One user, as an administrator sees it."""

    id: int
    name: str
    nick: str
    kind: int
    created: int
    disabled: int


def list_accounts(tenant: int, after: int, limit: int) -> Op[list[Account]]:
    """Return a page of the tenant's users by id, also disabled ones; go on after the last id."""
    rows = yield Statement(
        "SELECT id, name, nick, kind, created, disabled FROM user"
        " WHERE id > ? AND tenant = ? ORDER BY id LIMIT ?",
        (after, tenant, limit),
    )
    return [Account(*row) for row in rows]


def set_public_deleted(tx: Tx, slug: str, deleted: bool) -> Op[None]:
    """Take a persona that belongs to nobody away from everybody, or bring it back."""
    yield Statement(
        "UPDATE persona SET deleted = ?, updated = ? WHERE slug = ?",
        (tx.ts if deleted else 0, tx.ts, slug),
    )


def set_persona_created(tx: Tx, persona: int, created_ms: int) -> Op[None]:
    """Give an imported persona the age that its file says."""
    yield Statement("UPDATE persona SET created = ? WHERE id = ?", (created_ms, persona))
