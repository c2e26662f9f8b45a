"""What it costs to make a request's messages: `pytest bench/micro/test_context.py`.

Ten thousand earlier messages, in the default shape (the newest 20) and with as many as the
model's window takes.
"""

import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ai_bridge.context import build_context
from ai_bridge.lore import LoreBook, LoreEntry
from ai_bridge.types import ChatMessage, GenParams, PersonaSpec, Role, TurnRequest

TEXTS = {
    "english": "We talked about the lake house and what to bring along for the weekend there.",
    "chinese": "我们聊了湖边的房子，还有周末要带些什么东西过去，你记得吗？",
}


def talk(text: str, shown: int | None, lore: LoreBook | None = None) -> TurnRequest:
    turns = [
        ChatMessage(Role.ASSISTANT if n % 2 else Role.USER, f"{n} {text}") for n in range(10_001)
    ]
    return TurnRequest(
        turn_id=1,
        tenant=1,
        user=1,
        conv=1,
        persona=PersonaSpec(5, "Mira", "You are Mira.", lore=lore),
        history=tuple(turns),
        params=GenParams(history=shown),
        summary="They planned a weekend. " * 40,
        memories=("likes tea", "lives in Lyon"),
    )


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize(("window", "shown"), [(16_000, None), (32_000, 10_000), (128_000, 10_000)])
def test_build_context(
    benchmark: BenchmarkFixture, window: int, shown: int | None, language: str
) -> None:
    request = talk(TEXTS[language], shown)
    context = benchmark(
        build_context, request, window_tokens=window, answer_tokens=1024, history_messages=20
    )
    assert context.tokens <= window
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["messages"] = len(context.messages)


@pytest.mark.parametrize("recursive", [False, True], ids=["plain", "recursive"])
def test_search_a_thousand_entries(benchmark: BenchmarkFixture, recursive: bool) -> None:
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(5_000)]
    pairs = ["".join(map(chr, chance.choices(range(0x4E00, 0x5200), k=2))) for _ in range(5_000)]
    book = LoreBook(
        (
            LoreEntry(
                content=" ".join(chance.choices(words, k=40)),
                keys=(*chance.choices(words, k=2), chance.choice(pairs)),
            )
            for _ in range(1_000)
        ),
        recursive=recursive,
    )
    texts = [
        " ".join(chance.choices(words, k=40)) + "".join(chance.choices(pairs, k=60))
        for _ in range(4)
    ]
    assert benchmark(book.found_in, texts)
