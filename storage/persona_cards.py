"""The character cards that personas came from, whole, so that an export loses nothing."""

from __future__ import annotations

from typing import Final

from storage.ops import Op, Statement
from storage.writes import Tx

MAX_PICTURE_BYTES: Final = 4 << 20
"""Pictures of cards are larger than the avatars that people upload."""


def get_card(persona: int) -> Op[str | None]:
    """Return the JSON of a persona's card, None if it came from none."""
    rows = yield Statement("SELECT card FROM persona_card WHERE persona = ?", (persona,))
    return str(rows[0][0]) if rows else None


def save_card(tx: Tx, persona: int, card: str) -> Op[None]:
    """Keep a persona's card; a former one is replaced."""
    columns = ("persona", "card", "updated")
    yield tx.dialect.upsert("persona_card", columns, [(persona, card, tx.ts)])


def add_card_picture(tx: Tx, tenant: int, owner: int, mime: str, data: bytes, id: int) -> Op[None]:
    """Store a card's picture, at most `MAX_PICTURE_BYTES`, as an avatar of owner."""
    columns = ("id", "tenant", "owner", "mime", "data", "created")
    yield tx.dialect.insert("avatar", columns, [(id, tenant, owner, mime, data, tx.ts)])
