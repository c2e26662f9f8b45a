"""What people do with what personas remember of them: see, add, change, pin, take away, erase."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ai_bridge.memory.extract import clean_memory_text
from ai_bridge.memory.retrieve import MAX_ITEMS, MAX_TOKENS, may_pin
from ai_bridge.memory.types import MAX_TEXT_CHARS, Kind
from protocol.codes import Code
from server.errors import ServiceError, invalid
from storage.errors import LimitReached
from storage.ids import new_id
from storage.memories import (
    Memory,
    add_memory,
    change_memory,
    erase_memories,
    erase_memory,
    is_off,
    list_memories,
    set_off,
)

if TYPE_CHECKING:
    from storage.store import Store

MAX_PAGE: Final = 200
_EXPORT_PAGE: Final = 200


class MemoryView(Struct, omit_defaults=True):
    """A memory as its owner sees it.

    `conv`, `seq` and `quote` tell where it was learnt, missing for what the owner wrote; `uses`
    counts answers it was recalled for. `replaced_by` is set in exports only.
    """

    id: int
    persona: int
    kind: str
    text: str
    created: int
    updated: int
    pinned: bool = False
    conv: int = 0
    seq: int = 0
    quote: str = ""
    uses: int = 0
    last_used: int = 0
    replaced_by: int = 0


class MemoryPage(Struct):
    """A part of the list; `cursor` asks for the next one, "" at the end."""

    memories: list[MemoryView]
    cursor: str


def view_of(memory: Memory) -> MemoryView:
    """Return what the owner of a memory sees."""
    return MemoryView(**{name: getattr(memory, name) for name in MemoryView.__struct_fields__})


class MemoryBook:
    """The owner's hand on the memories. Keeps nothing: whoever recalls sees every change at once.

    All methods act for one user and reach that user's memories only.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def page(self, user: int, persona: int, cursor: str, limit: int) -> MemoryPage:
        """Return memories that hold, oldest first; persona 0 for all personas."""
        after = int(cursor) if cursor.isascii() and cursor.isdecimal() else 0
        limit = max(1, min(limit, MAX_PAGE))
        rows = await self._store.read(list_memories(user, persona, after, limit + 1))
        views = [view_of(row) for row in rows[:limit]]
        return MemoryPage(views, str(views[-1].id) if len(rows) > limit else "")

    async def add(
        self, user: int, tenant: int, persona: int, text: str, kind: str, pinned: bool
    ) -> MemoryView:
        """Store what the user wants a persona to know.

        Raises:
            ServiceError: INVALID (text or kind), SIZE_LIMIT (too much is pinned).
        """
        text, kind = _clean(text), _kind(kind)
        made = new_id()
        try:
            memory = await self._store.change(
                [user],
                lambda tx: add_memory(
                    tx, tenant, user, persona, kind, text, pinned=pinned, may_pin=may_pin, id=made
                ),
            )
        except LimitReached as error:
            raise _too_much(error) from None
        return view_of(memory)

    async def change(
        self, user: int, id: int, text: str | None, kind: str | None, pinned: bool | None
    ) -> MemoryView:
        """Change the given fields.

        Raises:
            NotFound: no such memory of this user.
            ServiceError: as for `add`.
        """
        text = None if text is None else _clean(text)
        kind = None if kind is None else _kind(kind)
        try:
            memory = await self._store.change(
                [user],
                lambda tx: change_memory(
                    tx, user, id, text=text, kind=kind, pinned=pinned, may_pin=may_pin
                ),
            )
        except LimitReached as error:
            raise _too_much(error) from None
        return view_of(memory)

    async def erase(self, user: int, id: int) -> None:
        """Erase one memory, and the older ones that it had replaced.

        Raises:
            NotFound: no such memory of this user.
        """
        await self._store.change([user], lambda tx: erase_memory(tx, user, id))

    async def erase_all(self, user: int, persona: int = 0) -> int:
        """Erase what a persona (0: every persona) knows, and leave unread what was said so far."""
        return await self._store.change([user], lambda tx: erase_memories(tx, user, persona))

    async def export(self, user: int, persona: int = 0) -> AsyncIterator[list[MemoryView]]:
        """Yield everything that is stored, page by page, replaced memories included."""
        after = 0
        while rows := await self._store.read(
            list_memories(user, persona, after, _EXPORT_PAGE, replaced=True)
        ):
            after = rows[-1].id
            yield [view_of(row) for row in rows]

    async def is_off(self, user: int) -> bool:
        """Tell whether the user wants nothing to be remembered."""
        return await self._store.read(is_off(user))

    async def set_off(self, user: int, off: bool) -> None:
        """Stop learning and recalling, or start again. What is stored stays until it is erased."""
        await self._store.change([user], lambda tx: set_off(tx, user, off))


def _clean(text: str) -> str:
    cleaned = clean_memory_text(text)
    if not cleaned or len(cleaned) > MAX_TEXT_CHARS:
        raise invalid("text", f"A memory has 1 to {MAX_TEXT_CHARS} characters.")
    return cleaned


def _kind(kind: str) -> str:
    try:
        return Kind(kind).value
    except ValueError:
        raise invalid("kind", f"Kinds are {', '.join(Kind)}.") from None


def _too_much(error: LimitReached) -> ServiceError:
    return ServiceError(
        Code.SIZE_LIMIT,
        str(error),
        f"Up to {MAX_ITEMS} memories of about {MAX_TOKENS} tokens together can be pinned for one"
        " persona. Unpin or shorten another one first.",
    )
