"""Words in any script: where one stands in a text, and the pieces that a text falls into.

Chinese, Japanese, Thai and their neighbours put no spaces between words, so there a word may stand
anywhere. Korean does, but hangs particles on its words: one must stand where a word begins, and may
go on. Everywhere else a word is whole: "art" is not found in "party".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import IntEnum


class Script(IntEnum):
    """How words are written: `SIGNS` and `LETTERS` without spaces, a sign being a syllable or word.

    `NONE` is for characters that belong to no word.
    """

    NONE = 0
    SIGNS = 1
    """Chinese characters, kana, bopomofo."""
    LETTERS = 2
    """Thai, Lao, Burmese, Khmer."""
    HANGUL = 3
    SPACED = 4


_RANGES = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff",
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff",
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff",
)
_PATTERN = re.compile(
    "".join(f"([{part}]+)|" for part in _RANGES) + rf"([^\W_{''.join(_RANGES)}]+)"
)
_SCRIPTS = tuple(Script)


def one_width(text: str) -> str:
    """Return text in one width (NFKC), with single spaces and none at its ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def normal(text: str) -> str:
    """Return text in one width and case, with single spaces and none at its ends."""
    return one_width(text).casefold()


def script_of(char: str) -> Script:
    """Return the script of a character."""
    match = _PATTERN.match(char)
    return _SCRIPTS[match.lastindex or 0] if match else Script.NONE


def runs(text: str) -> Iterator[tuple[str, Script]]:
    """Yield the longest parts of a text that are of one script, without what is of none."""
    for match in _PATTERN.finditer(text):
        yield match[0], _SCRIPTS[match.lastindex or 0]


def places(text: str, word: str) -> Iterator[int]:
    """Yield where a word stands in a text, both of one width and, if that is wanted, one case."""
    first, last = script_of(word[:1]), script_of(word[-1:])
    whole = first in (Script.SPACED, Script.HANGUL)
    at = text.find(word) if word else -1
    while at >= 0:
        end = at + len(word)
        goes_on = last is Script.SPACED and script_of(text[end : end + 1]) is last
        if not goes_on and not (whole and at and script_of(text[at - 1]) is first):
            yield at
        at = text.find(word, at + 1)
