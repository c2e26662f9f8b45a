"""Values of the memory, and what it asks of an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, TypeAlias

from msgspec import Struct

MAX_TEXT_CHARS = 300
"""Of one memory: one statement, not a story."""
MAX_QUOTE_CHARS = 500

Embedding: TypeAlias = bytes | Sequence[float]
"""One vector: numbers, or float32 little endian in bytes. Its length does not matter."""


class Kind(StrEnum):
    """What a memory is about."""

    PROFILE = "profile"
    PREFERENCE = "preference"
    RELATION = "relation"
    EVENT = "event"
    OTHER = "other"


class Embedder(Protocol):
    """Makes vectors whose cosine tells how near two texts are in meaning.

    Vectors of different `model` are never compared.
    """

    @property
    def model(self) -> str:
        """Name that changes whenever its vectors do."""
        ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Embedding]:
        """Return one vector for each text, all of one dimension.

        May raise anything; a cancelled call leaves nothing behind.
        """
        ...


class Memory(Struct, frozen=True, kw_only=True):
    """One memory as retrieval and merging see it; times are Unix milliseconds, 0 = never.

    `vector` is float32, little endian, of length 1, made by `model`; both empty: none yet.
    `conv` is the conversation it was learnt in, 0 for what its owner wrote into the list.
    """

    id: int
    text: str
    conv: int = 0
    kind: str = Kind.OTHER
    pinned: bool = False
    created_ms: int = 0
    last_used_ms: int = 0
    uses: int = 0
    vector: bytes = b""
    model: str = ""


class Fact(Struct, frozen=True):
    """What a model found: `message` is the place of its source among those it was shown.

    `replaces` is the place of the known memory that it outdates, None for a new one.
    """

    kind: Kind
    text: str
    quote: str
    message: int
    replaces: int | None = None
