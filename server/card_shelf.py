"""The cards of the personas that talk, ready for their contexts."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ai_bridge.group import DEFAULT_TALK
from ai_bridge.types import PersonaSpec
from protocol.rows import Persona
from server.card_errors import CardError
from server.card_parts import CardParts, parts_of
from server.cards import parse_card
from storage.persona_cards import get_card

if TYPE_CHECKING:
    from storage.store import Store

MAX_CARDS: Final = 256
MAX_KNOWN: Final = 20_000
"""Personas of which is known whether they have a card, and how talkative it says they are."""


class ShelfStats(Struct):
    """Totals: cards read from the store, and cards put away for others."""

    read: int = 0
    put_away: int = 0


class CardShelf:
    """Owns the prepared cards of the personas asked for last, 256 at most.

    A persona's card never changes while the server runs: importing again makes another persona.
    """

    def __init__(self, store: "Store", cards: int = MAX_CARDS) -> None:
        self._store = store
        self._cards = cards
        self._parts: OrderedDict[int, CardParts] = OrderedDict()
        self._talk: OrderedDict[int, float | None] = OrderedDict()  # None: has no card
        self.stats = ShelfStats()

    async def spec(
        self, id: int, row: Persona | None, user_name: str, extra: str = ""
    ) -> PersonaSpec:
        """Return who answers, from a persona's row and its card if it has one.

        Args:
            user_name: what {{user}} stands for.
            extra: what the conversation adds to the prompt.

        Raises:
            StorageError: the store cannot be read.
        """
        parts = await self.get(id) if row is not None else None
        if parts is not None and row is not None:
            return parts.spec(id, row, user_name, extra)
        prompt = "\n\n".join(part for part in (row and row.prompt, extra) if part)
        name = (row.name if row is not None else None) or "Assistant"
        return PersonaSpec(id, name, prompt, user_name=user_name)

    async def ask_talk(self, personas: Iterable[int]) -> None:
        """Read the cards of those whose talkativeness is not known yet.

        Raises:
            StorageError: the store cannot be read.
        """
        for persona in personas:
            if persona not in self._talk:
                await self.get(persona)

    def talk(self, persona: int) -> float:
        """Return the chance, 0 to 1, that a persona speaks uncalled, as far as is known."""
        known = self._talk.get(persona)
        return DEFAULT_TALK if known is None else known

    async def get(self, persona: int) -> CardParts | None:
        """Return what a persona's card brings to a context, None if it has none.

        Raises:
            StorageError: the store cannot be read.
        """
        parts = self._parts.get(persona)
        if parts is not None:
            self._parts.move_to_end(persona)
            return parts
        if self._talk.get(persona, DEFAULT_TALK) is None:
            return None
        text = await self._store.read(get_card(persona))
        self.stats.read += 1
        parts = await asyncio.to_thread(_prepare, text) if text is not None else None
        self._talk[persona] = parts.talk if parts is not None else None
        while len(self._talk) > MAX_KNOWN:
            self._talk.popitem(last=False)
        if parts is None:
            return None
        self._parts[persona] = parts
        while len(self._parts) > self._cards:
            self._parts.popitem(last=False)
            self.stats.put_away += 1
        return parts


def _prepare(text: str) -> CardParts | None:
    try:
        return parts_of(parse_card(text))
    except CardError:
        return None  # kept by a version with wider bounds: the persona's own row must do
