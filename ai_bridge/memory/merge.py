"""Facts that say the same become one memory, the newest wording winning."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ai_bridge.memory.lexical import squeezed
from ai_bridge.memory.types import Fact, Memory

SAME_COSINE = 0.92
"""From here on two texts are taken to say the same, without asking a model."""


class Decision(Struct, frozen=True):
    """A fact to store, with its vector (empty: none yet) and the memories that it replaces."""

    fact: Fact
    vector: bytes
    replaces: tuple[int, ...]


def merge(
    facts: Sequence[Fact],
    vectors: Sequence[bytes],
    cosines: Sequence[Sequence[float | None]],
    among: Sequence[Sequence[float | None]],
    known: Sequence[Memory],
    shown: Sequence[Memory],
) -> tuple[list[Decision], int]:
    """Return what to store, and how many facts fell together with another text.

    Args:
        cosines: of each fact with each known memory; None: not to be compared.
        among: of each fact with each fact.
        shown: the memories that the model could name in `Fact.replaces`.
    """
    texts = [squeezed(memory.text) for memory in known]
    merged = 0
    kept: dict[int, Decision] = {}
    for place, fact in enumerate(facts):
        replaces = set() if fact.replaces is None else {shown[fact.replaces].id}
        same = _same(squeezed(fact.text), texts, cosines[place])
        alike = {known[i].id for i in same} - replaces
        merged += bool(alike)
        replaces |= alike
        for earlier in list(kept):
            if _says_the_same(kept[earlier].fact, fact, among[place][earlier]):
                # Its own predecessors go with it to the later wording.
                replaces.update(kept.pop(earlier).replaces)
                merged += 1
        kept[place] = Decision(fact, vectors[place], tuple(sorted(replaces)))
    return list(kept.values()), merged


def _same(text: str, texts: Sequence[str], cosines: Sequence[float | None]) -> list[int]:
    return [
        i
        for i, (other, cosine) in enumerate(zip(texts, cosines, strict=True))
        if other == text or (cosine is not None and cosine >= SAME_COSINE)
    ]


def _says_the_same(one: Fact, other: Fact, cosine: float | None) -> bool:
    if cosine is not None and cosine >= SAME_COSINE:
        return True
    return squeezed(one.text) == squeezed(other.text)
