"""The macros of character cards: {{char}}, {{user}} and comments. Nothing else is replaced or run.

The name of a user is somebody's free text, so it is made one line of bounded length, and what it
holds is not looked at again for macros.
"""

from __future__ import annotations

import re

MAX_NAME_CHARS = 64

# <BOT> and <USER> are the first cards' spelling; only in capitals, as <user> may be a tag.
_MACRO = re.compile(
    r"\{\{ ?(?i:(?P<char>char|bot)|(?P<user>user)|//[^{}]*|comment:[^{}]*|original) ?\}\}"
    r"|<(?:(?P<BOT>BOT|CHAR)|(?P<USER>USER))>"
)


def one_line(name: str) -> str:
    """Return a name that cannot pass for anything but a name: one line, at most 64 characters."""
    return " ".join(name[: 4 * MAX_NAME_CHARS].split())[:MAX_NAME_CHARS]


def fill_macros(text: str, char: str, user: str) -> str:
    """Return text with {{char}} and {{user}} replaced and comments left out.

    {{original}} (the platform's own prompt, in cards) becomes nothing: the platform's rules stand
    first whatever a card says.
    """
    if "{{" not in text and "<" not in text:
        return text
    char = one_line(char)
    user = one_line(user) or "User"

    def replace(match: re.Match[str]) -> str:
        if match["char"] or match["BOT"]:
            return char
        return user if match["user"] or match["USER"] else ""

    return _MACRO.sub(replace, text)
