"""Thoughts that a model writes into its answer, between `<think>` tags, split out again."""

from __future__ import annotations

from collections.abc import Callable

_OPENERS = ("<think>", "<thinking>")
_CLOSERS = {"<think>": "</think>", "<thinking>": "</thinking>"}


class ThinkSplitter:
    """Sends a leading think block to `reasoning`, all else to `text`.

    Only at the very start of an answer: further on the tags are what somebody talks about.
    Tags may be cut anywhere; at most a tag's length is held back.
    """

    __slots__ = ("_closer", "_held", "_reasoning", "_state", "_text")

    def __init__(self, text: Callable[[str], None], reasoning: Callable[[str], None]) -> None:
        self._text = text
        self._reasoning = reasoning
        self._held = ""
        self._closer = ""
        # Functions, not methods of this object: it would be in a circle with itself.
        self._state: Callable[[ThinkSplitter, str], None] = ThinkSplitter._start

    def feed(self, piece: str) -> None:
        self._state(self, piece)

    def eof(self) -> None:
        """Hand out what was held back."""
        held, self._held = self._held, ""
        if held:
            (self._reasoning if self._closer else self._text)(held)

    def _start(self, piece: str) -> None:
        held = self._held + piece
        bare = held.lstrip()
        for opener in _OPENERS:
            if bare.startswith(opener):
                self._held = ""
                self._closer = _CLOSERS[opener]
                self._state = ThinkSplitter._opened
                self._opened(bare[len(opener) :])
                return
        if any(opener.startswith(bare) for opener in _OPENERS) and len(held) < 256:
            self._held = held  # perhaps the beginning of a tag
            return
        self._held = ""
        self._state = ThinkSplitter._pass_on
        self._text(held)

    def _opened(self, piece: str) -> None:
        """Drop the line breaks between the tag and the thoughts."""
        bare = piece.lstrip("\n")
        if bare:
            self._state = ThinkSplitter._thinking
            self._thinking(bare)

    def _thinking(self, piece: str) -> None:
        held = self._held + piece
        at = held.find(self._closer)
        if at >= 0:
            rest = held[at + len(self._closer) :]
            self._held = self._closer = ""
            self._state = ThinkSplitter._after
            if at:
                self._reasoning(held[:at])
            self._after(rest)
            return
        keep = _possible_start(held, self._closer)
        self._held = held[len(held) - keep :]
        if len(held) > keep:
            self._reasoning(held[: len(held) - keep])

    def _after(self, piece: str) -> None:
        """Drop the blank lines between thoughts and answer."""
        bare = piece.lstrip()
        if bare:
            self._state = ThinkSplitter._pass_on
            self._text(bare)

    def _pass_on(self, piece: str) -> None:
        self._text(piece)


def _possible_start(text: str, tag: str) -> int:
    """Return the length of the longest end of `text` that may begin `tag`."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
