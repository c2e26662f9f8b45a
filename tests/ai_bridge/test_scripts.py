"""Where a word stands in a text, in scripts with spaces, without, and mixed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.scripts import Script, normal, places, runs, script_of


@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("art", "art, party, start, art", [0, 19]),
        ("art", "我爱art呢", [2]),
        ("art", "_art_", [1]),
        ("p1", "p10 p1", [4]),
        ("小美", "我想问小美一件事", [3]),
        ("龙龙", "龙龙龙", [0, 1]),
        ("さくら", "これはさくらです", [3]),
        ("サクラ", "私のサクラさん", [2]),
        ("แมว", "ฉันรักแมวมาก", [6]),
        ("서울", "서울에서 북서울 서울", [0, 9]),
        ("nova", "nova는 supernova", [0]),
        ("龙palace", "龙palaces 龙palace", [9]),
        ("nova 一号", "去nova 一号吧", [1]),
        ("@ann", "me@ann @anna", [2]),
        ("🐉", "a🐉b", [1]),
        ("𠮷野", "在𠮷野家", [1]),
        ("", "anything", []),
        ("x", "", []),
    ],
)
def test_a_word_stands_whole_begun_or_anywhere_as_its_script_is_written(
    word: str, text: str, expected: list[int]
) -> None:
    assert list(places(text, word)) == expected


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("Ｎｏｖａ　Ｏｎｅ", "nova one"),
        ("ｻｸﾗ", "サクラ"),
        ("ｶﾞ", "ガ"),
        ("＠小美", "@小美"),
        (" a \n b ", "a b"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("\u1112\u1161\u11ab", "한"),
    ],
)
def test_width_case_and_spaces_do_not_count(given: str, plain: str) -> None:
    assert normal(given) == plain


def test_a_text_falls_into_runs_of_one_script() -> None:
    assert list(runs("我爱Nova一号, 서울에서_x แมว!")) == [
        ("我爱", Script.SIGNS),
        ("Nova", Script.SPACED),
        ("一号", Script.SIGNS),
        ("서울에서", Script.HANGUL),
        ("x", Script.SPACED),
        ("แมว", Script.LETTERS),
    ]
    assert [script_of(char) for char in ("", " ", "_", "，")] == [Script.NONE] * 4


@given(st.text("ab 龙青サ서울แม_1", max_size=30), st.text("ab龙サ서แ", min_size=1, max_size=3))
def test_a_word_between_spaces_is_found_and_every_place_holds_it(text: str, word: str) -> None:
    assert len(text) + 1 in places(f"{text} {word} {text}", word)
    assert all(text.startswith(word, at) for at in places(text, word))
