"""What reaches the terminal: harmless, within its width, in two languages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from clients.terminal import words as words_module
from clients.terminal.commands import TABLE
from clients.terminal.words import Words, system_language
from clients.terminal.wrapping import clipped, harmless, styled, wrapped


def width_of(line: list[tuple[str, str]]) -> int:
    return sum(get_cwidth(text) for _, text in line)


def plain(line: list[tuple[str, str]]) -> str:
    return "".join(text for _, text in line)


def test_chinese_is_broken_by_columns_and_english_between_words() -> None:
    lines = wrapped(styled("量子力学从哪里开始 begin with waves"), 12, indent=2)
    assert [plain(line) for line in lines] == [
        "  量子力学从",
        "  哪里开始 ",
        "  begin with",
        "  waves",
    ]


def test_word_wider_than_the_screen_is_cut() -> None:
    lines = wrapped(styled("x" * 25), 10)
    assert [len(plain(line)) for line in lines] == [10, 10, 5]


@given(st.text(max_size=200), st.integers(4, 80), st.integers(0, 2))
def test_no_line_is_wider_than_the_screen(text: str, width: int, indent: int) -> None:
    for line in wrapped(styled(text), width, indent):
        assert width_of(line) <= max(width, 4 + indent)


def test_nothing_that_steers_a_terminal_gets_through() -> None:
    hostile = "a\x1b[2Jb\x07c\u202ed\x9b31m\r"
    shown = harmless(hostile)
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)
    assert "\u202e" not in shown


def test_markdown_shows_as_style() -> None:
    lines = list(styled("a **bold** word\n```\n**code**\n```"))
    assert ("bold" in lines[0][1][0], lines[0][1][1]) == (True, "bold")
    assert plain(lines[2]) == "**code**"


def test_clipped_text_fits_and_says_so() -> None:
    assert clipped("你好世界", 5) == "你好…"
    assert clipped("short\nline", 20) == "short line"


def test_both_languages_say_the_same_things_with_the_same_parts() -> None:
    import re

    english, chinese = words_module._EN, words_module._ZH
    assert english.keys() == chinese.keys()
    for key, sentence in english.items():
        parts = set(re.findall(r"\{(\w+)\}", sentence))
        assert set(re.findall(r"\{(\w+)\}", chinese[key])) == parts, key


def test_every_command_is_explained() -> None:
    for name in TABLE:
        assert Words("en")(f"c {name}")


@pytest.mark.parametrize(
    ("environ", "lang"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_language_follows_the_environment(environ: dict[str, str], lang: str) -> None:
    assert system_language(environ) == lang
