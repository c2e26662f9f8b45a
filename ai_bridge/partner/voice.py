"""How the partner speaks: in which language, as whom, and never twice the same."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from ai_bridge.partner.language import Lang
from ai_bridge.types import PersonaSpec

Trade = Literal["code", "poem", "story", "lesson"]
Tone = Literal["warm", "playful", "formal", "brief", "cat"]

_TONES: tuple[tuple[Tone, re.Pattern[str]], ...] = (
    (
        "cat",
        re.compile(r"you(?:'re| are) an? (?:\w+ )?(?:cat|kitten)\b|你是[^。，]{0,6}猫|喵", re.I),
    ),
    ("brief", re.compile(r"\b(?:brief|terse|concise|short answers)\b|简短|简洁|话少|寡言", re.I)),
    (
        "playful",
        re.compile(r"\b(?:playful|funny|cheeky|humou?r|jokes?)\b|调皮|幽默|活泼|搞笑", re.I),
    ),
    (
        "formal",
        re.compile(r"\b(?:formal|professional|expert|butler|polite)\b|正式|专业|严谨|管家", re.I),
    ),
)
_TRADES: tuple[tuple[Trade, re.Pattern[str]], ...] = (
    ("code", re.compile(r"\b(?:engineer|programmer|developer)\b|工程师|程序员", re.I)),
    ("poem", re.compile(r"\bpoet\b|诗人|词人", re.I)),
    ("story", re.compile(r"\b(?:storyteller|novelist|fiction)\b|讲故事|小说家|说书", re.I)),
    ("lesson", re.compile(r"\b(?:teacher|tutor|coach)\b|老师|教师|导师", re.I)),
)
_SIGNATURES: dict[Lang, dict[Tone, tuple[str, ...]]] = {
    "en": {"cat": ("Meow.", "Purr.", "*tail swish*"), "playful": ("😄", "😉", "Ha!")},
    "zh": {"cat": ("喵～", "喵呜～", "（甩了甩尾巴）"), "playful": ("嘿嘿～", "😄", "😉")},
}
_PLACEHOLDER = re.compile(r"\{\w+\}")


def tone_of(persona: PersonaSpec) -> Tone:
    """Read the manner of a persona from its prompt; warm unless it says otherwise."""
    described = f"{persona.name} {persona.prompt}"
    return next((tone for tone, words in _TONES if words.search(described)), "warm")


def trade_of(persona: PersonaSpec) -> Trade | None:
    """Read from a persona's prompt what it is good at, as far as the partner can play it."""
    return next((trade for trade, words in _TRADES if words.search(persona.prompt)), None)


class Voice:
    """Chooses among wordings. The same talk gives the same words; earlier ones are avoided.

    Args:
        said: what the persona said before in this talk.
        seed: differs from talk to talk and from turn to turn.
    """

    def __init__(self, lang: Lang, persona: PersonaSpec, said: Sequence[str], seed: str) -> None:
        self.lang: Lang = lang
        self.name = persona.name or ("Demo" if lang == "en" else "小演")
        self.tone = tone_of(persona)
        self.dice = random.Random(seed)
        self._said = "\n".join(said)

    def pick(self, wordings: Sequence[str], **values: str) -> str:
        """Return one wording, filled in; one that was not used yet as long as there is any."""
        order = list(wordings)
        self.dice.shuffle(order)
        chosen = next((wording for wording in order if not self._was_used(wording)), order[0])
        return chosen.format(name=self.name, **values)

    def _was_used(self, wording: str) -> bool:
        """Look for the longest fixed piece of the wording in what was said."""
        return max(_PLACEHOLDER.split(wording), key=len) in self._said

    def signed(self, text: str) -> str:
        """Add the small habit of the persona's tone, now and then."""
        habits = _SIGNATURES[self.lang].get(self.tone)
        if habits is None or (self.tone != "cat" and self.dice.random() < 0.5):
            return text
        return f"{text} {self.dice.choice(habits)}"
