"""Vectors from a service over a real socket, and vectors without one."""

from __future__ import annotations

import asyncio
import math
import struct
from array import array
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.config import ProviderConfig
from ai_bridge.embeddings import (
    HASH_DIMENSIONS,
    HASH_TEXT_CHARS,
    MAX_TEXT_CHARS,
    HashEmbedder,
    HttpEmbedder,
    hashed,
)
from ai_bridge.errors import ProviderFailure
from ai_bridge.secrets import Secret
from bench.provider.server import ScriptedProvider
from protocol.codes import Code
from tests.ai_bridge.conftest import closed
from tests.ai_bridge.raw_server import answering, sized
from tests.support.eventually import WAIT_S


def config(base_url: str, **fields: object) -> ProviderConfig:
    return ProviderConfig(name="x", base_url=base_url, api_key=Secret("sk-key"), **fields)  # type: ignore[arg-type]


def numbers(vector: bytes) -> array[float]:
    return array("f", vector)


def cosine(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(numbers(one), numbers(other), strict=True))


@pytest.fixture
async def embedder(provider: ScriptedProvider) -> AsyncIterator[HttpEmbedder]:
    made = HttpEmbedder(config(provider.base_url), "dim=32", batch=3, at_once=1, waiting=1)
    yield made
    await made.aclose()
    await closed(provider)


# --- from a service ------------------------------------------------------------------------------


async def test_each_text_gets_its_vector_in_order(
    embedder: HttpEmbedder, provider: ScriptedProvider
) -> None:
    texts = [
        "绿茶 every morning",
        "a dog named Rex",
        "绿茶 every morning",
        "snow",
        "a dog named Bo",
    ]
    vectors = await embedder.embed(texts)
    assert [len(vector) for vector in vectors] == [4 * 32] * 5
    assert all(cosine(vector, vector) == pytest.approx(1) for vector in vectors)
    assert vectors[0] == vectors[2] != vectors[1]
    assert cosine(vectors[1], vectors[4]) > cosine(vectors[1], vectors[3])
    assert [len(sent.body["input"]) for sent in provider.requests] == [3, 2]
    assert provider.requests[0].headers["authorization"] == "Bearer sk-key"
    assert embedder.prompt_tokens > 0
    assert embedder.gate.inside == 0


async def test_no_text_asks_nobody(embedder: HttpEmbedder, provider: ScriptedProvider) -> None:
    assert await embedder.embed([]) == []
    assert not provider.requests


async def test_long_texts_are_cut_and_empty_ones_are_sent_as_a_space(
    embedder: HttpEmbedder, provider: ScriptedProvider
) -> None:
    await embedder.embed(["x" * (MAX_TEXT_CHARS + 1), ""])
    long, empty = provider.requests[-1].body["input"]
    assert (len(long), empty) == (MAX_TEXT_CHARS, " ")


@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("status=401", "bad_key", Code.MODEL_UNAVAILABLE),
        ("status=429,retry_after=7", "rate_limited", Code.BUSY),
        ("status=500", "provider_error", Code.MODEL_UNAVAILABLE),
    ],
)
async def test_a_refusal_is_a_typed_failure(
    model: str, kind: str, code: Code, provider: ScriptedProvider
) -> None:
    embedder = HttpEmbedder(config(provider.base_url), model)
    with pytest.raises(ProviderFailure) as caught:
        await embedder.embed(["x"])
    assert (caught.value.kind, caught.value.code) == (kind, code)
    await embedder.aclose()


VECTOR = b'{"data":[{"index":0,"embedding":[3.0,4.0]}]}'
IN_BASE64 = b'{"data":[{"index":0,"embedding":"AABAQAAAgEA="}]}'


@pytest.mark.parametrize("body", [VECTOR, IN_BASE64, b'{"data":[{"embedding":[3,4]}],"x":1}'])
async def test_vectors_come_as_numbers_or_as_base64_and_leave_at_length_1(body: bytes) -> None:
    async with answering(sized(body)) as server:
        embedder = HttpEmbedder(config(f"http://127.0.0.1:{server.port}/v1"), "m")
        (vector,) = await embedder.embed(["x"])
        assert struct.unpack("<2f", vector) == pytest.approx((0.6, 0.8))
        await embedder.aclose()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "malformed"),
        (b'{"data":[]}', "malformed"),
        (b'{"data":[{"index":7,"embedding":[1]}]}', "malformed"),
        (b'{"data":[{"index":0,"embedding":[0,0]}]}', "malformed"),
        (b'{"data":[{"index":0,"embedding":[]}]}', "malformed"),
        (b'{"data":[{"index":0,"embedding":"@@"}]}', "malformed"),
        (b'{"data":[{"index":0,"embedding":"AAA="}]}', "malformed"),
        (b'{"data":[{"index":0,"embedding":[1e300]}]}', "malformed"),
        (b'{"error":{"code":"rate_limit_exceeded"}}', "rate_limited"),
    ],
)
async def test_an_answer_without_usable_vectors_is_a_failure(body: bytes, kind: str) -> None:
    async with answering(sized(body)) as server:
        embedder = HttpEmbedder(config(f"http://127.0.0.1:{server.port}/v1"), "m")
        with pytest.raises(ProviderFailure) as caught:
            await embedder.embed(["x"])
        assert caught.value.kind == kind
        await embedder.aclose()


async def test_a_silent_service_is_left_at_the_deadline(provider: ScriptedProvider) -> None:
    embedder = HttpEmbedder(config(provider.base_url), "silent", deadline_s=0.02)
    with pytest.raises(ProviderFailure) as caught:
        await embedder.embed(["x"])
    assert caught.value.kind == "embedding_late"
    await closed(provider)
    await embedder.aclose()


async def test_who_finds_every_place_taken_is_refused(
    embedder: HttpEmbedder, provider: ScriptedProvider
) -> None:
    slow = HttpEmbedder(config(provider.base_url), "silent", at_once=1, waiting=1)
    first, second = (asyncio.create_task(slow.embed(["x"])) for _ in range(2))
    async with asyncio.timeout(WAIT_S):
        await provider.arrived.wait()
    with pytest.raises(ProviderFailure) as caught:
        await slow.embed(["x"])
    assert (caught.value.kind, caught.value.code) == ("embedding_busy", Code.BUSY)
    assert (slow.gate.inside, slow.gate.refused) == (2, 1)
    for task in (second, first):
        task.cancel()
        await asyncio.wait([task])
    assert slow.gate.inside == 0
    assert len(provider.requests) == 1
    await slow.aclose()


async def test_a_tenant_with_many_texts_leaves_places_to_others(
    provider: ScriptedProvider,
) -> None:
    slow = HttpEmbedder(config(provider.base_url), "silent", at_once=1, waiting=2)
    many = [asyncio.create_task(slow.embed_counted(["x"], 1, user)) for user in range(3)]
    async with asyncio.timeout(WAIT_S):
        await provider.arrived.wait()
    other = asyncio.create_task(slow.embed_counted(["x"], 2, 9))
    await asyncio.wait([many[2]])
    failure = many[2].exception()
    assert isinstance(failure, ProviderFailure)
    assert failure.kind == "embedding_busy"
    assert slow.gate.inside == 3, "the other tenant waits in its place"
    for task in (other, *many[:2]):
        task.cancel()
    await asyncio.wait([other, *many[:2]])
    await slow.aclose()


def test_models_whose_vectors_differ_have_different_names() -> None:
    openai = config("https://api.openai.com/v1")
    names = {
        HttpEmbedder(openai, "text-embedding-3-small").model,
        HttpEmbedder(openai, "text-embedding-3-small", dimensions=256).model,
        HttpEmbedder(openai, "text-embedding-3-large").model,
        HashEmbedder().model,
    }
    assert len(names) == 4


def test_only_services_that_shorten_vectors_are_asked_to() -> None:
    openai = HttpEmbedder(
        config("https://api.openai.com/v1"), "text-embedding-3-small", dimensions=9
    )
    ollama = HttpEmbedder(config("http://127.0.0.1:11434/v1"), "bge-m3", dimensions=9)
    assert (openai.model, ollama.model) == ("text-embedding-3-small:9", "bge-m3")


def test_a_service_that_cannot_embed_is_refused_at_once() -> None:
    for kind in ("anthropic", "gemini"):
        with pytest.raises(ValueError, match="embeddings"):
            HttpEmbedder(config("https://x", kind=kind), "m")
    with pytest.raises(ValueError, match="model"):
        HttpEmbedder(config("https://x"), "")
    with pytest.raises(ValueError, match="base_url"):
        HttpEmbedder(config(""), "m")


# --- without a service ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("我喜欢吃四川菜", "她很喜欢四川菜", "今天天气很好"),
        ("My dog Rex was walking", "she walked her dog", "the stock market fell"),
        ("毎朝コーヒーを飲む", "コーヒーが好き", "犬を飼っている"),
        ("ＧＰＴ", "gpt", "cat"),
        ("喜欢 jazz music", "jazz music tonight", "喝茶"),
    ],
)
def test_texts_that_share_words_are_near(text: str, near: str, far: str) -> None:
    assert cosine(hashed(text), hashed(near)) > cosine(hashed(text), hashed(far)) + 0.05


@given(st.text(max_size=50))
def test_any_text_has_a_vector_of_length_1(text: str) -> None:
    vector = hashed(text)
    assert len(vector) == 4 * HASH_DIMENSIONS
    assert math.isclose(cosine(vector, vector), 1.0, abs_tol=1e-5)
    assert vector == hashed(text)


async def test_the_offline_vectors_stay_what_they_are() -> None:
    """They are stored: whoever changes them has to change the model's name."""
    embedder = HashEmbedder()
    first, second = await embedder.embed(["我喜欢 green tea", "x" * (HASH_TEXT_CHARS + 9)])
    assert embedder.model == "hashed-words-1:256"
    strongest = sorted(range(256), key=lambda at: -abs(numbers(first)[at]))[:3]
    assert (sorted(strongest), len(second)) == (STRONGEST, 1024)


STRONGEST = [13, 22, 33]
