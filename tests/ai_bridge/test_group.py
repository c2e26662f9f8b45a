"""Turn-taking in rooms: who is called, who feels like it, and that it ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.group import (
    MAX_ANSWERS,
    MAX_ROUNDS,
    TurnTaker,
    Voice,
    mentioned,
    named,
)
from protocol.codes import TalkMode

NOVA, ANN, ANN_LEE, MEI = 1, 2, 3, 4
VOICES = (Voice(NOVA, "Nova"), Voice(ANN, "Ann"), Voice(ANN_LEE, "Ann Lee"), Voice(MEI, "小美"))
SOMCHAI, MINSU = 5, 6
EAST = (*VOICES, Voice(SOMCHAI, "สมชาย"), Voice(MINSU, "민수"))


def taker(seed: int = 1) -> TurnTaker:
    return TurnTaker(random.Random(seed))


@pytest.mark.parametrize(
    ("text", "ids", "expected"),
    [
        ("@Nova hello", (), [NOVA]),
        ("hi @ann and @NOVA", (), [ANN, NOVA]),
        ("@Ann Lee, please", (), [ANN_LEE]),
        ("@Ann Lee and @Ann", (), [ANN_LEE, ANN]),
        ("@Annabel", (), []),
        ("你好@小美你怎么看", (), [MEI]),
        ("＠ｎｏｖａ，你说呢", (), [NOVA]),
        ("@민수야 안녕", (), [MINSU]),
        ("nothing", (MEI, NOVA, MEI, 99), [MEI, NOVA]),
        ("@Nova", (MEI,), [MEI, NOVA]),
        ("Nova is named only", (), []),
    ],
)
def test_mentions_call_by_id_first_then_in_order_of_the_text(
    text: str, ids: tuple[int, ...], expected: list[int]
) -> None:
    assert mentioned(EAST, text, ids) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what does nova think", [NOVA]),
        ("a supernova exploded", []),
        ("我想问小美一件事", [MEI]),
        ("小美，Nova你们好", [MEI, NOVA]),
        ("Ann Lee!", [ANN_LEE]),
        ("snake_ann_case", [ANN]),
        ("ฉันอยากถามสมชายหน่อย", [SOMCHAI]),
        ("민수는 어때?", [MINSU]),
        ("Nova는 어때?", [NOVA]),
        ("재민수", []),
        ("", []),
    ],
)
def test_a_latin_name_stands_as_a_word_and_a_chinese_one_anywhere(
    text: str, expected: list[int]
) -> None:
    assert named(EAST, text) == expected


def test_where_only_the_called_answer_a_name_alone_calls_nobody() -> None:
    assert taker().answer(VOICES, TalkMode.CALLED, "Nova?") == []
    assert taker().answer(VOICES, TalkMode.CALLED, "@Nova?") == [NOVA]
    assert taker().answer(VOICES, TalkMode.LIVELY, "Nova?") == [NOVA]


def test_uncalled_each_rolls_its_talkativeness_and_the_last_speaker_rests() -> None:
    voices = (Voice(1, "A", 1.0), Voice(2, "B", 0.0), Voice(3, "C", 1.0))
    assert sorted(taker().answer(voices, TalkMode.LIVELY, "well")) == [1, 3]
    assert taker().answer(voices, TalkMode.LIVELY, "well", last=3) == [1]


def test_where_somebody_always_answers_it_is_the_one_silent_for_longest() -> None:
    voices = (Voice(1, "A", 0.0), Voice(2, "B", 0.0), Voice(3, "C", 0.0))
    assert taker().answer(voices, TalkMode.LIVELY, "well") == []
    spoke = {1: 5, 2: 3, 3: 9}
    assert taker().answer(voices, TalkMode.ALWAYS, "well", spoke=spoke) == [2]
    assert taker().answer(voices, TalkMode.ALWAYS, "well", spoke={1: 5, 2: 3}) == [3]
    assert taker().answer((), TalkMode.ALWAYS, "well") == []


def test_at_most_three_answer_one_message() -> None:
    voices = tuple(Voice(n, f"P{n}", 1.0) for n in range(1, 9))
    assert len(taker().answer(voices, TalkMode.LIVELY, "well")) == MAX_ANSWERS
    text = " ".join(f"@P{n}" for n in range(1, 9))
    assert taker().answer(voices, TalkMode.LIVELY, text) == [1, 2, 3]


@given(st.integers(0, 2**32), st.sampled_from(TalkMode), st.lists(st.booleans(), min_size=9))
def test_personas_left_to_themselves_fall_silent(
    seed: int, mode: TalkMode, names: list[bool]
) -> None:
    voices = tuple(Voice(n, f"P{n}", 1.0) for n in range(1, 4))
    turns = taker(seed)
    speaker, spoken = 1, 0
    for calls in names:
        text = f"@P{speaker % 3 + 1} your turn" if calls else "well"
        following = turns.follow(voices, mode, text, speaker=speaker, round=spoken)
        if not following:
            break
        assert following != speaker
        speaker, spoken = following, spoken + 1
    assert spoken <= MAX_ROUNDS


def test_the_odds_of_an_answer_among_personas_halve_with_each_round() -> None:
    voices = (Voice(1, "A", 1.0), Voice(2, "B", 1.0))
    turns = taker(7)
    spoke = [
        sum(
            bool(turns.follow(voices, TalkMode.LIVELY, "x", speaker=1, round=r)) for _ in range(999)
        )
        for r in range(3)
    ]
    assert 420 < spoke[0] < 580
    assert 190 < spoke[1] < 310
    assert spoke[2] == 0


def test_among_personas_nobody_speaks_uncalled_where_only_the_called_answer() -> None:
    assert taker().follow(VOICES, TalkMode.CALLED, "@Ann you", speaker=NOVA, round=0) == 0
