"""What people write is cleaned the same way everywhere, fast, and without surprises."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import Code
from protocol.errors import ProtocolError
from protocol.text import MAX_KEY, MAX_MARKS, clean_name, clean_text, name_key
from protocol.types import MAX_TEXT

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
ZALGO = "a" + "\u0301\u0316" * 15_999


def refused(text: str) -> Code:
    with pytest.raises(ProtocolError) as caught:
        clean_text(text)
    return caught.value.code


@pytest.mark.parametrize(
    "text", ["", "hello", "tab\there", "two\nlines", "你好,世界", "👨‍👩‍👧 \u3000é"]
)
def test_clean_text_comes_back_as_the_same_object(text: str) -> None:
    assert clean_text(text) is text


def test_text_is_composed() -> None:
    assert clean_text("e\u0301") == "é"


def test_line_ends_become_newlines() -> None:
    assert clean_text("a\r\nb\r\n") == "a\nb\n"


@pytest.mark.parametrize("code", sorted(set(range(32)) - {9, 10}))
def test_control_characters_are_refused(code: int) -> None:
    assert refused(f"a{chr(code)}b") is Code.INVALID


@pytest.mark.parametrize("half", ["\ud800", "ok \udc00"])
def test_halves_of_surrogate_pairs_are_refused(half: str) -> None:
    assert refused(half) is Code.INVALID


def test_direction_marks_stay_in_text() -> None:
    assert clean_text("שלום\u200f!") == "שלום\u200f!"


def test_text_that_composing_makes_too_long_is_refused() -> None:
    grows = "\ufb2c"  # three code points in NFC
    assert len(clean_text(grows)) == 3
    assert refused(grows * MAX_TEXT) is Code.INVALID
    with pytest.raises(ProtocolError):
        clean_text(grows * 10, max_code_points=29)


@pytest.mark.parametrize(
    "text",
    [
        ZALGO,
        "a" + "\u0301" * 16_000 + "\u0316" * 15_999,
        "\u0f73\u0f72" * 16_000,
        "\U0001d165\U0001d16e" * 16_000,
        "a" * 31_000 + "\u0301\u0316" * 16,
    ],
    ids=["alternating", "descending", "tibetan", "musical", "late"],
)
def test_long_runs_of_marks_are_refused_before_they_cost_anything(text: str) -> None:
    started = time.process_time()
    assert refused(text) is Code.INVALID
    assert time.process_time() - started < 0.05  # composing the first takes 0.8 s


def test_ordinary_marks_pass() -> None:
    assert clean_text("a" + "\u0300" * MAX_MARKS).startswith("à")
    assert clean_text("\U00010330" * 100) == "\U00010330" * 100  # Gothic letters are no marks


@given(ANY_TEXT)
def test_text_is_clean_after_one_pass(text: str) -> None:
    try:
        once = clean_text(text)
    except ProtocolError:
        return
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once.encode("utf-8", "strict") == once.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Ada", "Ada"),
        ("  Ada \t\n Lovelace ", "Ada Lovelace"),
        ("ad\u200bmin", "admin"),
        ("\u202enimda\u202c", "nimda"),
        ("\ufeffAda\u2066", "Ada"),
        ("Zoe\u0308", "Zoë"),
        ("e\u200d\u0301", "é"),
        ("小\u3000明", "小 明"),
    ],
)
def test_names_lose_what_does_not_show(raw: str, clean: str) -> None:
    assert clean_name(raw, 64) == clean


@pytest.mark.parametrize(
    "raw", ["", "  ", "\u200b\u2060", "\u3164", "a\x00b", "a\x7f", "a\x9b", "\ud800"]
)
def test_names_that_cannot_be_shown_are_refused(raw: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        clean_name(raw, 64)
    assert caught.value.code is Code.INVALID


def test_the_length_of_a_name_counts_what_is_left() -> None:
    assert clean_name("\u200b" * 100 + "x" * 64, 64) == "x" * 64
    with pytest.raises(ProtocolError):
        clean_name("x" * 65, 64)


@given(ANY_TEXT)
def test_names_are_clean_after_one_pass(raw: str) -> None:
    try:
        once = clean_name(raw, 64)
    except ProtocolError:
        return
    assert clean_name(once, 64) == once
    assert once == once.strip()


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ada", "aDA"), ("Straße", "STRASSE"), ("Ada", "Ａｄａ"), ("ﬁsh", "Fish"), ("é", "É")],
)
def test_names_that_look_alike_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


def test_different_names_have_different_keys() -> None:
    assert len({name_key(name) for name in ("Ada", "Eda", "小明", "小 明")}) == 4


@pytest.mark.parametrize("name", ["\ufdfa" * 64, "x" * 400])
def test_keys_have_a_greatest_length(name: str) -> None:
    assert len(name_key(name)) in (MAX_KEY, MAX_KEY - 1)  # a space at the end is cut off
    assert name_key(name_key(name)) == name_key(name)


@given(ANY_TEXT)
def test_a_key_is_its_own_key(raw: str) -> None:
    try:
        key = name_key(clean_name(raw, 64))
    except ProtocolError:
        return
    assert name_key(key) == key
