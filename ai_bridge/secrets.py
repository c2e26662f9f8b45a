"""Keys and passwords that cannot be printed by accident."""

from __future__ import annotations

from typing import Any


class Secret:
    """A text that is printed as "(set)", whoever prints it, and that no encoder takes.

    Equal to another Secret of the same text. Truthy when not empty.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text; call it only where the text is used."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "(set)" if self._text else "(not set)"

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not copied to disk or to another process")
