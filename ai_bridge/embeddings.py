"""Vectors whose cosine tells how near two texts are: from a service, or without any.

A vector is float32, little endian, of length 1. Vectors of two models are never compared, so
each embedder tells a name that changes whenever its vectors do.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import re
import sys
import unicodedata
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from ai_bridge.backends import check_base_url, transport_of
from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.fair_gate import FairGate, GateFull
from ai_bridge.memory import types as memory
from ai_bridge.providers.base import HttpRequest, Transport
from ai_bridge.providers.body import BodyDecoder
from ai_bridge.providers.failures import failure_of, malformed
from ai_bridge.providers.lenient import UNREADABLE, error_object, figure
from ai_bridge.providers.openai_chat import bearer
from ai_bridge.providers.request import own_headers
from ai_bridge.providers.services import base_url_of, first_key, traits_of
from protocol.codes import Code

MAX_TEXT_CHARS = 8_000
"""Of one text; what is longer counts by its beginning. Services take about 8,000 tokens."""
BATCH = 32
AT_ONCE = 4
WAITING = 64
DEADLINE_S = 30.0
_YIELD_EVERY = 8
"""Vectors that are unpacked or made before other work of the loop gets its turn."""

HASH_DIMENSIONS = 256
HASH_TEXT_CHARS = 2_000
"""Of one text for the offline embedder, which works on the event loop: under 2 ms."""


class Embedder(memory.Embedder, Protocol):
    """What the memory asks of an embedder, and its end."""

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """Return one vector for each text, all of one length.

        Cancelling it leaves nothing behind.

        Raises:
            ProviderFailure: there are none to be had now.
        """
        ...

    async def aclose(self) -> None:
        """Close idle connections; calls must have ended."""


# --- from a service ------------------------------------------------------------------------------


class _Vector(Struct):
    embedding: list[float] | str
    index: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None


class _List(Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_lists = msgspec.json.Decoder(_List)


class HttpEmbedder:
    """Asks an OpenAI-shaped `/embeddings`. Owns its connections; made anywhere, used on one loop.

    Texts go in batches, one after the other per call; `at_once` requests run at a time, `waiting`
    calls wait for a place, tenants in turn, the next one is refused.

    Args:
        dimensions: wanted length of the vectors, where the service can shorten them; 0: its own.
        deadline_s: for one call of `embed`, all batches together.

    Attributes:
        prompt_tokens: what the service has counted so far.
        gate: how many are at work, and how many were refused.

    Source: platform.openai.com/docs/api-reference/embeddings.
    """

    def __init__(
        self,
        config: ProviderConfig,
        model: str,
        *,
        dimensions: int = 0,
        batch: int = BATCH,
        at_once: int = AT_ONCE,
        waiting: int = WAITING,
        deadline_s: float = DEADLINE_S,
        transport: Transport | None = None,
    ) -> None:
        if config.kind not in ("openai_chat", "openai_responses"):
            raise ValueError(f"AI provider {config.name!r} has no OpenAI-shaped embeddings")
        if not model:
            raise ValueError("embeddings need the name of a model")
        check_base_url(config)
        self.prompt_tokens = 0
        self.gate = FairGate(at_once, waiting)
        self._config = config
        self._model = model
        shortened = dimensions if traits_of(config, model).embedding_size else 0
        self._dimensions = shortened
        self._batch = batch
        self._deadline_s = deadline_s
        self._transport = transport if transport is not None else transport_of(config)

    @property
    def model(self) -> str:
        return f"{self._model}:{self._dimensions}" if self._dimensions else self._model

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """See `Embedder`."""
        vectors, _ = await self.embed_counted(texts)
        return vectors

    async def embed_counted(
        self, texts: Sequence[str], tenant: int = 0, user: int = 0
    ) -> tuple[list[bytes], int]:
        """Return the vectors, and the tokens that the service counted for them; 0: it did not.

        Args:
            tenant, user: who waits for a place.

        Raises:
            ProviderFailure: see `Embedder`.
        """
        tokens = 0
        try:
            async with self.gate.enter(tenant, user), asyncio.timeout(self._deadline_s):
                vectors: list[bytes] = []
                for at in range(0, len(texts), self._batch):
                    more, counted = await self._embed_batch(texts[at : at + self._batch])
                    vectors += more
                    tokens += counted
        except TimeoutError:
            raise _late() from None
        except GateFull:
            raise _busy() from None
        if len({len(vector) for vector in vectors}) > 1:
            raise malformed()
        return vectors, tokens

    async def aclose(self) -> None:
        """Close idle connections; calls must have ended."""
        await self._transport.aclose()

    async def _embed_batch(self, texts: Sequence[str]) -> tuple[list[bytes], int]:
        decoder = BodyDecoder()
        await self._transport.stream(self._request(texts), decoder, _classify)
        try:
            listed = _lists.decode(decoder.body)
        except UNREADABLE:
            raise _unreadable(decoder.body) from None
        tokens = figure(listed.usage.prompt_tokens) if listed.usage is not None else 0
        self.prompt_tokens += tokens
        return await _in_order(listed.data, len(texts)), tokens

    def _request(self, texts: Sequence[str]) -> HttpRequest:
        body: dict[str, Any] = {
            "model": self._model,
            # An empty text is refused, and with it the whole batch.
            "input": [text[:MAX_TEXT_CHARS] or " " for text in texts],
        }
        if self._dimensions:
            body["dimensions"] = self._dimensions
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            **own_headers(self._config),
            **bearer(first_key(self._config)),
        }
        url = base_url_of(self._config) + "/embeddings"
        return HttpRequest(url, headers, msgspec.json.encode(body))


def _classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
    return failure_of(status, headers, error_object(body))


async def _in_order(data: list[_Vector], count: int) -> list[bytes]:
    """Return the vectors by their index, where they have one.

    Raises:
        ProviderFailure: they are not one for each text.
    """
    if len(data) != count:
        raise malformed()
    placed: dict[int, bytes] = {}
    for position, one in enumerate(data, 1):
        place = position - 1 if one.index is None else one.index
        placed[place] = _packed(_floats(one.embedding))
        if position % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
    if sorted(placed) != list(range(count)):
        raise malformed()
    return [placed[place] for place in range(count)]


def _floats(given: list[float] | str) -> array[float]:
    """Read a vector: numbers, or float32 little endian in base64."""
    try:
        if not isinstance(given, str):
            return array("f", given)
        numbers = array("f", base64.b64decode(given, validate=True))
    except (binascii.Error, ValueError, OverflowError):
        raise malformed() from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _packed(numbers: array[float]) -> bytes:
    """Return the vector at length 1.

    Raises:
        ProviderFailure: it has no direction.
    """
    length = math.sqrt(sum(number * number for number in numbers))
    if not 0 < length < math.inf:
        raise malformed()
    scaled = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        scaled.byteswap()
    return scaled.tobytes()


def _unreadable(body: bytes) -> ProviderFailure:
    """Explain a 200 that brings no vectors: an error in its place, or nonsense."""
    error = error_object(body)
    return failure_of(0, {}, error) if error else malformed()


def _late() -> ProviderFailure:
    text = "The embedding service took too long. Try again in a moment."
    return ProviderFailure("embedding_late", text, code=Code.TIMEOUT)


def _busy() -> ProviderFailure:
    text = "Too many texts wait for the embedding service. Try again in a moment."
    return ProviderFailure("embedding_busy", text, code=Code.BUSY)


# --- without a service ---------------------------------------------------------------------------

# Another cut makes other vectors, and so needs another name of the model.
_WORDS = re.compile(r"[^\W_]+")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_SHORT_WORD = 3


class HashEmbedder:
    """Words, their parts, and pairs of Chinese, Japanese or Korean signs, hashed to a vector.

    Finds texts that share words, not ones that only mean the same. Needs no network and no
    model, and gives the same vectors everywhere and always.
    """

    model = f"hashed-words-1:{HASH_DIMENSIONS}"

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """See `Embedder`; never fails."""
        vectors = []
        for position, text in enumerate(texts, 1):
            vectors.append(hashed(text))
            if position % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return vectors

    async def aclose(self) -> None:
        """Nothing is open."""


def hashed(text: str) -> bytes:
    """Return the offline vector of a text; one without a word gets a direction of its own."""
    sums = array("f", bytes(4 * HASH_DIMENSIONS))
    plain = unicodedata.normalize("NFKC", text[:HASH_TEXT_CHARS]).casefold()
    counted = Counter(_features(plain)) or Counter({("", 1.0): 1})
    for (feature, weight), count in counted.items():
        # The lowest bits choose the place, the highest the sign, so that collisions cancel out.
        code = zlib.crc32(feature.encode("utf-8", "replace"))
        sign = 1.0 if code & 0x8000_0000 else -1.0
        sums[code % HASH_DIMENSIONS] += sign * weight * (1 + math.log(count))
    if not any(sums):
        sums[0] = 1.0
    return _packed(sums)


def _features(text: str) -> Iterator[tuple[str, float]]:
    """Yield what a text is made of, each with its weight."""
    for run in _WIDE.findall(text):
        for sign in run:
            yield sign, 0.5
        for at in range(len(run) - 1):
            yield run[at : at + 2], 1.0
    for word in _WORDS.findall(_WIDE.sub(" ", text)):
        if len(word) <= _SHORT_WORD:
            yield word, 0.4  # mostly what every sentence has
            continue
        yield word, 1.0
        for at in range(len(word) - 2):  # "walked" and "walking" share four of them
            yield "~" + word[at : at + 3], 0.3
