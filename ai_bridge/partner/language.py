"""Which of its two languages the partner answers in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Lang = Literal["en", "zh"]

_CHINESE_CHAR = re.compile(r"[\u3400-\u9fff]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")
_WANTS_ENGLISH = re.compile(r"\bin english\b|speak english|用英语|用英文|说英语|说英文", re.I)
_WANTS_CHINESE = re.compile(
    r"\bin (?:chinese|mandarin)\b|speak (?:chinese|mandarin)|用中文|说中文|讲中文|用汉语", re.I
)


def language_of(texts: Sequence[str], setting: str = "") -> Lang:
    """Return the language of the newest text that tells, else of the setting, else English.

    Args:
        texts: what the person wrote, oldest first.
    """
    if texts and _WANTS_ENGLISH.search(texts[-1]):
        return "en"
    if texts and _WANTS_CHINESE.search(texts[-1]):
        return "zh"
    for text in reversed(texts):
        chinese = len(_CHINESE_CHAR.findall(text))
        latin = len(_LATIN_WORD.findall(text))
        if chinese or latin:
            # A Chinese sentence with English terms in it has more characters than terms.
            return "zh" if chinese >= latin else "en"
    return "zh" if setting.lower().startswith("zh") else "en"
