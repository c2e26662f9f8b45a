"""Characters beyond U+FFFF that arrive in two halves, as two JSON escapes in two events."""

from __future__ import annotations


class HalfCarrier:
    """Joins the halves of one text that comes in pieces."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def join(self, piece: str | None) -> str:
        """Return the whole characters; a first half at the end waits for the next piece."""
        if not piece:
            return ""
        if not self._half and piece.isascii():
            return piece
        text = self._half + piece
        self._half = ""
        if "\ud800" <= text[-1] <= "\udbff":
            self._half = text[-1]
            text = text[:-1]
        return without_halves(text)


def without_halves(text: str) -> str:
    """Return the text with halves joined; one without its partner means nothing and is dropped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return text
