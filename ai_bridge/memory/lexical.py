"""How near two texts are by the words they share: the fallback where there is no vector.

Chinese is written without spaces, so its words are stood for by pairs of neighbours, and, with
less weight, by single characters ("猫" alone is a word); Korean likewise, because its words change
their ends. Thai letters say less: there it is three neighbours. Case and width do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ai_bridge.scripts import Script, normal, runs, script_of

CHARACTER_WEIGHT = 0.4
MIN_WEIGHT = 2.0
"""Texts of less are taken to weigh this much: one shared character is no resemblance."""

_COMMON_CHARACTERS = frozenset(
    "的了是我你他她它们这那在有和与就都也很不没吗呢吧啊呀哦嗯么什怎为一个上下来去到说要会能可以"
    "得着过还又再给把被让对从但而或因所如果啦嘛用户户"
)
_COMMON_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could did do does for from had has have he her his"
        " how i if in is it its me my of on or our she so that the their them they this to was we"
        " were what when where which who why will with would you your user person s t m re ve ll d",
    )
)


def squeezed(text: str) -> str:
    """Return text in one width and case, without any white space."""
    return normal(text).replace(" ", "")


def features(text: str) -> frozenset[str]:
    """Return the words, pairs and characters that a text is compared by."""
    found: set[str] = set()
    for run, script in runs(normal(text)):
        if script is Script.SPACED:
            if run not in _COMMON_WORDS:
                # The plural counts as the singular, so that "dogs" finds "dog".
                plural = len(run) > 3 and run[-1] == "s" and run[-2] != "s"
                found.add(run[:-1] if plural else run)
            continue
        if script is not Script.LETTERS:
            found.update(c for c in run if c not in _COMMON_CHARACTERS)
        size = 3 if script is Script.LETTERS else 2
        parts = (run[at : at + size] for at in range(len(run) - size + 1))
        found.update(part for part in parts if _COMMON_CHARACTERS.isdisjoint(part))
    return frozenset(found)


def weight(found: frozenset[str]) -> float:
    """Return how much there is to share."""
    return sum(map(_weight, found))


class WordIndex:
    """Texts by their words; a search looks only at those that share one with the question."""

    __slots__ = ("_places", "_weights")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._places: dict[str, list[int]] = {}
        self._weights: list[float] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Take one more text; its place is the number of those before it."""
        found = features(text)
        for feature in found:
            self._places.setdefault(feature, []).append(len(self._weights))
        self._weights.append(weight(found))

    def resemblances(self, text: str) -> list[float]:
        """Return for each text 0 (nothing shared) to 1: the shared part of the lighter one."""
        sought = features(text)
        own = weight(sought)
        shared = [0.0] * len(self._weights)
        for feature in sought:
            heavy = _weight(feature)
            for place in self._places.get(feature, ()):
                shared[place] += heavy
        return [
            min(1.0, part / max(MIN_WEIGHT, min(own, other))) if part else 0.0
            for part, other in zip(shared, self._weights, strict=True)
        ]


def _weight(feature: str) -> float:
    alone = len(feature) == 1 and script_of(feature) is not Script.SPACED
    return CHARACTER_WEIGHT if alone else 1.0
