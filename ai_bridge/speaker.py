"""In a room models like to write their own name first, and then to speak for the others too."""

from __future__ import annotations

from collections.abc import Iterable

MAX_STOPS = 4
"""Stop sequences that one request may have; more are refused by some services."""
MAX_HELD_CHARS = 256
_MARKS = "*_[]【】「」 \t\n"
_COLONS = ":："


class NamePrefix:
    """Takes "Name: " off the beginning of an answer, however it is cut into pieces.

    Markdown emphasis and brackets around the name go with it. Nothing is held back any longer
    than the text could still be such a beginning.
    """

    __slots__ = ("_done", "_held", "_name")

    def __init__(self, name: str) -> None:
        self._name = " ".join(name.split()).casefold()
        self._held = ""
        self._done = not self._name

    def feed(self, piece: str) -> str:
        """Return what may be shown by now."""
        if self._done:
            return piece
        self._held += piece
        rest = self._after_name(self._held)
        if rest is None:
            if len(self._held) < MAX_HELD_CHARS:
                return ""
            rest = self._held
        self._done = True
        self._held = ""
        return rest

    def eof(self) -> str:
        """The answer is over: return what was still held back."""
        held, self._held = self._held, ""
        self._done = True
        return held

    def _after_name(self, text: str) -> str | None:
        """Return the text behind the name, all of it if there is none, None while undecided."""
        opened = text.lstrip(_MARKS)
        folded = opened.casefold()
        name = self._name
        if not folded.startswith(name):
            return None if name.startswith(folded) else text
        # Folding may change lengths ("ß"): then the name is cut where it ends in the original.
        tail = opened[_length_of(opened, name) :].lstrip(_MARKS)
        if not tail:
            return None
        if tail[0] not in _COLONS:
            return text
        said = tail[1:].lstrip(_MARKS)
        return said or None


def _length_of(text: str, folded: str) -> int:
    """Return how many characters of text fold to `folded`, which it begins with."""
    if text[: len(folded)].casefold() == folded:
        return len(folded)
    size = 1
    while len(text[:size].casefold()) < len(folded):
        size += 1
    return size


def stops_for(others: Iterable[str]) -> tuple[str, ...]:
    """Return what ends an answer that begins to speak for somebody else.

    Args:
        others: names of those in the room, the likeliest first.
    """
    names = dict.fromkeys(" ".join(name.split()) for name in others)
    return tuple(f"\n{name}:" for name in names if name)[:MAX_STOPS]
