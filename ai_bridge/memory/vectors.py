"""Vectors of float32, kept at length 1 so that a cosine is a sum of products.

With numpy one search over 500 vectors of 256 numbers takes 0.04 ms, over 1,000 of 1,024 numbers
0.09 ms; without it 2.5 and 20 ms, cut into pieces so that the event loop is never held longer than
about 1 ms (docs/decisions/0011-vectors-without-a-database.md). numpy is taken when it is installed.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import sys
from array import array
from collections.abc import Sequence
from operator import mul
from typing import Any

from ai_bridge.memory.types import Embedding

PIECE_PRODUCTS = 50_000
"""Multiplications between two chances for others; about 1 ms."""
MAX_DIMENSIONS = 4_096


def _load_numpy() -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError:
        return None


_numpy: Any = _load_numpy()


def pack(vector: Embedding) -> bytes:
    """Return a vector as it is stored: float32, little endian, of length 1.

    Raises:
        ValueError: it is empty, too long, has no direction or numbers that are none.
    """
    if isinstance(vector, bytes):
        if len(vector) % 4:
            raise ValueError("not float32")
        numbers = _unpack(vector)
    else:
        numbers = array("f", vector)
    if not 0 < len(numbers) <= MAX_DIMENSIONS:
        raise ValueError("a vector has 1 to 4096 numbers")
    length = math.sqrt(sum(map(mul, numbers, numbers)))
    if not math.isfinite(length) or length < 1e-12:
        raise ValueError("a vector without direction")
    scaled = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        scaled.byteswap()
    return scaled.tobytes()


def _unpack(vector: bytes) -> array[float]:
    numbers = array("f")
    numbers.frombytes(vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


class Matrix:
    """Packed vectors of one model, to be compared with one at a time.

    A row that is empty or of another dimension than the first one has no cosine.

    Args:
        use_numpy: False to do without it where it is installed.
    """

    __slots__ = ("_array", "_dimensions", "_numpy", "_places", "_rows", "nbytes", "size")

    def __init__(self, vectors: Sequence[bytes], *, use_numpy: bool = True) -> None:
        self.size = len(vectors)
        length = next((len(vector) for vector in vectors if vector), 0)
        self._places = [i for i, vector in enumerate(vectors) if vector and len(vector) == length]
        self._dimensions = length // 4
        self.nbytes = len(self._places) * length
        self._numpy: Any = _numpy if use_numpy else None
        self._rows: list[array[float]] = []
        self._array: Any = None
        if self._numpy is not None:
            joined = b"".join(vectors[i] for i in self._places)
            flat = self._numpy.frombuffer(joined, dtype="<f4")
            self._array = flat.reshape(len(self._places), self._dimensions)
        else:
            self._rows = [_unpack(vectors[i]) for i in self._places]

    async def cosines(self, query: bytes) -> list[float | None]:
        """Return the cosine of each row with a packed query, None where there is none."""
        found: list[float | None] = [None] * self.size
        if not self._places or len(query) != self._dimensions * 4:
            return found
        if self._array is not None:
            scores = (self._array @ self._numpy.frombuffer(query, dtype="<f4")).tolist()
        else:
            scores = await self._products(_unpack(query).tolist())
        for place, score in zip(self._places, scores, strict=True):
            found[place] = score
        return found

    async def _products(self, query: list[float]) -> list[float]:
        piece = max(1, PIECE_PRODUCTS // self._dimensions)
        scores: list[float] = []
        for start in range(0, len(self._rows), piece):
            if start:
                await asyncio.sleep(0)
            scores += [sum(map(mul, row, query)) for row in self._rows[start : start + piece]]
        return scores
