"""Which memories a model is shown: what fits the question best, then what is fresh and in use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from ai_bridge.memory.types import Memory
from ai_bridge.tokens import estimate_tokens

MAX_ITEMS = 8
MAX_TOKENS = 400
_PER_ITEM_TOKENS = 2
"""Bullet and line break."""

SIMILARITY_SHARE = 0.7
RECENCY_SHARE = 0.2
USE_SHARE = 0.1
HALF_LIFE_MS = 30 * 86_400_000
OFTEN = 20
"""Uses from which on more make no difference."""

MIN_COSINE = 0.25
MIN_RESEMBLANCE = 0.15
"""Thresholds of the similarity alone: freshness must not carry in what does not belong."""


class Found(Struct, frozen=True):
    """A memory and what speaks for it."""

    memory: Memory
    score: float


def rank(
    memories: Sequence[Memory],
    cosines: Sequence[float | None],
    resemblances: Sequence[float],
    now_ms: int,
) -> list[Found]:
    """Return the pinned memories, then those above a threshold, best first.

    What counts is the better of cosine and resemblance: a vector knows what words mean, and the
    words find the rare name that a small embedding model has never seen.

    Args:
        cosines: of each memory with the question; None where there is no vector to compare.
    """
    pinned: list[Found] = []
    found: list[Found] = []
    for memory, cosine, resemblance in zip(memories, cosines, resemblances, strict=True):
        cosine = cosine or 0.0
        score = _score(memory, max(cosine, resemblance), now_ms)
        if memory.pinned:
            pinned.append(Found(memory, score))
        elif cosine >= MIN_COSINE or resemblance >= MIN_RESEMBLANCE:
            found.append(Found(memory, score))
    for group in (pinned, found):
        group.sort(key=lambda one: (-one.score, -one.memory.id))
    return pinned + found


def fitting(found: Iterable[Found]) -> list[Memory]:
    """Return the first ones that fit into `MAX_ITEMS` and `MAX_TOKENS`."""
    shown: list[Memory] = []
    room = MAX_TOKENS
    for one in found:
        cost = cost_tokens(one.memory.text)
        if cost > room:
            continue
        room -= cost
        shown.append(one.memory)
        if len(shown) == MAX_ITEMS:
            break
    return shown


def cost_tokens(text: str) -> int:
    """Return what one memory costs in a prompt."""
    return estimate_tokens(text) + _PER_ITEM_TOKENS


def may_pin(texts: Sequence[str]) -> bool:
    """Tell whether these can all be shown always: they must fit with every question."""
    return len(texts) <= MAX_ITEMS and sum(map(cost_tokens, texts)) <= MAX_TOKENS


def _score(memory: Memory, similarity: float, now_ms: int) -> float:
    age_ms = max(0, now_ms - max(memory.created_ms, memory.last_used_ms))
    recency = math.pow(0.5, age_ms / HALF_LIFE_MS)
    use = min(1.0, math.log1p(memory.uses) / math.log1p(OFTEN))
    return SIMILARITY_SHARE * similarity + RECENCY_SHARE * recency + USE_SHARE * use
