"""A persona's own name in front of its words goes, whatever it is wrapped in; nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.speaker import MAX_STOPS, NamePrefix, stops_for


def shown(name: str, *pieces: str) -> str:
    prefix = NamePrefix(name)
    return "".join(prefix.feed(piece) for piece in pieces) + prefix.eof()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Nova", "Nova: Hello", "Hello"),
        ("Nova", "nova:Hello", "Hello"),
        ("Nova", "**Nova:** Hello", "Hello"),
        ("Nova", "**Nova**: Hello", "Hello"),
        ("Nova", "[Nova]: Hello", "Hello"),
        ("Nova", "\nNova :  Hello", "Hello"),
        ("小美", "小美：你好", "你好"),
        ("小美", "【小美】：你好", "你好"),
        ("Ann Lee", "Ann Lee: Hi", "Hi"),
        ("Straße", "STRASSE: Hi", "Hi"),
        ("Nova", "Nova is here", "Nova is here"),
        ("Nova", "Novalis: poet", "Novalis: poet"),
        ("Nova", "No", "No"),
        ("Nova", "Nova", "Nova"),
        ("Nova", "**bold** words", "**bold** words"),
        ("Nova", "Hello Nova: yes", "Hello Nova: yes"),
        ("", "Nova: Hello", "Nova: Hello"),
        ("Nova", "", ""),
    ],
)
def test_the_own_name_goes(name: str, text: str, expected: str) -> None:
    assert shown(name, text) == expected
    assert shown(name, *text) == expected, "cut into single characters"


@given(st.text(max_size=30), st.lists(st.integers(1, 5), max_size=10))
def test_cutting_makes_no_difference(text: str, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    pieces.append(text[at:])
    assert shown("No", *pieces) == shown("No", text)


def test_an_ordinary_answer_is_not_held_back() -> None:
    prefix = NamePrefix("Nova")
    assert prefix.feed("H") == "H"
    assert prefix.feed("i Nova: you") == "i Nova: you"


def test_blanks_without_end_are_not_held_back_for_ever() -> None:
    prefix = NamePrefix("Nova")
    assert sum(len(prefix.feed(" " * 50)) for _ in range(10)) == 500


def test_the_names_of_others_end_an_answer() -> None:
    assert stops_for(["Ann", "小美", "Ann", " "]) == ("\nAnn:", "\n小美:")
    assert len(stops_for(f"P{n}" for n in range(9))) == MAX_STOPS
