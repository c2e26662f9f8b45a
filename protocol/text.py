"""Cleaning of what people write, before it is stored, compared or shown (docs/protocol.md §15).

Text keeps everything that shows; only its spelling is made uniform. Names lose more, because a
name is what people trust: two names that look alike must not be two people.
"""

import re
import unicodedata
from typing import Final

from protocol.codes import Code
from protocol.errors import ProtocolError
from protocol.types import MAX_TEXT

MAX_MARKS: Final = 30
"""Longest run of combining marks (UAX #15, Stream-Safe Text). Putting a run in order takes time
quadratic in its length: one legal message of 32,000 marks held the event loop for 1.5 s."""

MAX_KEY: Final = 255

# U+0F73, U+0F75 and U+0F81 count as no marks themselves but fall apart into two.
_MARKS: Final = "\u0f73\u0f75\u0f81" + "".join(
    chr(c) for c in range(0x300, 0x1F000) if unicodedata.combining(chr(c))
)
_BMP_MARKS: Final = "".join(c for c in _MARKS if c < "\U00010000")
# Classes above U+FFFF are searched range by range: 240 ns per letter instead of 10. So a coarse
# class (every letter of the rare scripts) is asked first, the exact one only where it hits.
_search_marks_coarsely: Final = re.compile(
    f"[{_BMP_MARKS}\U00010000-\U0001efff]{{{MAX_MARKS + 1}}}"
).search
_search_marks: Final = re.compile(f"[{_MARKS}]{{{MAX_MARKS + 1}}}").search
_search_refused: Final = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff]").search
_search_name_refused: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search

_INVISIBLE: Final = dict.fromkeys(
    (
        0x00AD,  # soft hyphen
        0x034F,  # grapheme joiner
        0x061C,  # Arabic letter mark
        0x115F,  # Hangul fillers
        0x1160,
        0x3164,
        0xFFA0,
        0x17B4,  # Khmer inherent vowels
        0x17B5,
        0x180E,  # Mongolian vowel separator
        *range(0x200B, 0x2010),  # zero-width space and joiners, left-to-right and back
        *range(0x202A, 0x202F),  # embeddings and overrides
        *range(0x2060, 0x2070),  # word joiner, invisible operators, isolates
        0xFEFF,  # zero-width no-break space
        *range(0xFFF9, 0xFFFC),  # interlinear marks
        *range(0xE0000, 0xE0080),  # tags
    )
)
"""What shows nothing or turns the writing direction. Families of emoji fall into their members."""


def clean_text(text: str, max_code_points: int = MAX_TEXT) -> str:
    """Return text in NFC with LF line ends; plain text comes back as the same object.

    NFC can make a text up to three times longer; the result is held to max_code_points, because
    receivers check the same bound again.

    Raises:
        ProtocolError: code INVALID. A control character other than tab and newline, half of a
            surrogate pair, more than `MAX_MARKS` combining marks in a row, or too long.
    """
    # Printable text holds no control characters, surrogates or line ends.
    if not text.isprintable():
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        if _search_refused(text):
            raise ProtocolError("control character in text", Code.INVALID)
    if not text.isascii():
        text = _compose(text)
    if len(text) > max_code_points:
        raise ProtocolError("text too long", Code.INVALID)
    return text


def clean_name(name: str, max_code_points: int) -> str:
    """Return name in NFC without invisible characters, on one line, single spaces between words.

    Raises:
        ProtocolError: code INVALID. Nothing visible is left, more than max_code_points are left,
            a control character other than white space, or what `clean_text` refuses too.
    """
    if not name.isascii():
        name = name.translate(_INVISIBLE)
    name = " ".join(name.split())
    if not name:
        raise ProtocolError("empty name", Code.INVALID)
    if _search_name_refused(name):
        raise ProtocolError("control character in name", Code.INVALID)
    if not name.isascii():
        name = _compose(name)
    if len(name) > max_code_points:
        raise ProtocolError("name too long", Code.INVALID)
    return name


def name_key(name: str) -> str:
    """Return what must be unique where names must be: equal for names that differ only in case,
    width or form of their letters.

    Expects a clean name. Keys are cut at `MAX_KEY` code points: a name of 64 can unfold to 1,152.
    """
    if name.isascii():
        return name.lower()[:MAX_KEY]
    folded = unicodedata.normalize("NFKC", name).casefold()
    # Folding can undo the form, and some forms hold spaces: U+00A8 is a space and a mark.
    words = unicodedata.normalize("NFKC", folded).translate(_INVISIBLE).split()
    return " ".join(words)[:MAX_KEY].rstrip()


def _compose(text: str) -> str:
    if len(text) > MAX_MARKS and _search_marks_coarsely(text) and _search_marks(text):
        raise ProtocolError("too many combining marks", Code.INVALID)
    return unicodedata.normalize("NFC", text)
