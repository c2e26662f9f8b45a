"""Embeddings without a model: equal texts have equal vectors, similar texts similar ones.

Each word, and each pair of neighbouring Chinese signs, adds a direction of its own. Texts that
share words therefore have a cosine near the share of words that they share.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from functools import lru_cache
from typing import Any

_WORDS = re.compile(r"[^\W_\u3400-\u9fff]+")
_CHINESE = re.compile(r"[\u3400-\u9fff]+")
SPREAD = 8
"""Coordinates that one word touches."""


def features(text: str) -> list[str]:
    """Return the words and the Chinese bigrams of a text; a lone sign counts as it is."""
    found = [word.lower() for word in _WORDS.findall(text)]
    for run in _CHINESE.findall(text):
        found += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
    return found or [text]


@lru_cache(maxsize=65_536)
def _direction(feature: str, dim: int) -> tuple[tuple[int, float], ...]:
    digest = hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=4 * SPREAD).digest()
    numbers = struct.unpack(f"<{SPREAD}I", digest)
    return tuple(((number >> 1) % dim, 1.0 if number & 1 else -1.0) for number in numbers)


def vector(text: str, dim: int) -> list[float]:
    """Return the unit vector of a text."""
    sums = [0.0] * dim
    for feature in features(text):
        for at, sign in _direction(feature, dim):
            sums[at] += sign
    length = math.sqrt(sum(one * one for one in sums)) or 1.0
    return [one / length for one in sums]


def answer(body: dict[str, Any], model: str, dim: int) -> dict[str, Any]:
    """Return https://platform.openai.com/docs/api-reference/embeddings/create.

    The `openai` package asks for base64: little-endian floats of four bytes.
    """
    given = body.get("input", "")
    one = isinstance(given, str) or (isinstance(given, list) and given[:1] and _is_tokens(given))
    texts = [str(text) for text in ([given] if one else given)]
    wanted = body.get("dimensions")
    size = wanted if isinstance(wanted, int) and wanted > 0 else dim
    data = []
    for index, text in enumerate(texts):
        values: Any = vector(text, size)
        if body.get("encoding_format") == "base64":
            values = base64.b64encode(struct.pack(f"<{size}f", *values)).decode()
        data.append({"object": "embedding", "index": index, "embedding": values})
    tokens = sum(len(features(text)) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _is_tokens(given: list[Any]) -> bool:
    """Tell a text given as token numbers from a list of texts."""
    return all(isinstance(one, int) for one in given)
