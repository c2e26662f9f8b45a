"""Text for a terminal: harmless, and broken into lines that fit, wide characters included."""

import re
from collections.abc import Iterable, Iterator

from prompt_toolkit.utils import get_cwidth

Fragment = tuple[str, str]
Line = list[Fragment]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"\*\*(?P<bold>[^*\n]+)\*\*|`(?P<code>[^`\n]+)`")
_PIECES = re.compile(r"[ ]+|[!-~\u00c0-\u024f\u0400-\u04ff]+|.", re.DOTALL)


def harmless(text: str) -> str:
    """Return text without anything that could steer a terminal or turn its writing direction."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\t", "    "))


def styled(text: str, base: str = "") -> Iterator[Line]:
    """Yield the lines of a message with the little Markdown that terminals can show."""
    in_code = False
    for raw in harmless(text).split("\n"):
        if raw.lstrip().startswith("```"):
            in_code = not in_code
            yield [(f"{base} class:dim", raw)]
        elif in_code:
            yield [(f"{base} class:code", raw)]
        elif re.match(r"#{1,6} ", raw):
            yield [(f"{base} bold", raw.lstrip("# "))]
        else:
            yield list(_inline(raw, base))


def _inline(raw: str, base: str) -> Iterator[Fragment]:
    at = 0
    for found in _MARKUP.finditer(raw):
        if found.start() > at:
            yield base, raw[at : found.start()]
        if found["bold"] is not None:
            yield f"{base} bold", found["bold"]
        else:
            yield f"{base} class:code", found["code"]
        at = found.end()
    if at < len(raw) or not raw:
        yield base, raw[at:]


def wrapped(lines: Iterable[Line], width: int, indent: int = 0) -> list[Line]:
    """Break lines that are wider than `width` columns: between words, or anywhere in Chinese."""
    room = max(4, width - indent)
    margin: list[Fragment] = [("", " " * indent)] if indent else []
    out: list[Line] = []
    for line in lines:
        out.extend([*margin, *part] for part in _break(line, room))
    return out


def _break(line: Line, room: int) -> Iterator[Line]:
    current: Line = []
    used = 0
    for style, text in line:
        for piece in _PIECES.findall(text):
            size = get_cwidth(piece)
            if used + size > room and current:
                yield current
                current, used = [], 0
                if piece.isspace():
                    continue
            while size > room:  # one word wider than the screen
                head = _fitting(piece, room)
                yield [(style, head)]
                piece = piece[len(head) :]
                size = get_cwidth(piece)
            if current and current[-1][0] == style:
                current[-1] = (style, current[-1][1] + piece)
            else:
                current.append((style, piece))
            used += size
    yield current or [("", "")]


def _fitting(piece: str, room: int) -> str:
    used = 0
    for at, char in enumerate(piece):
        used += get_cwidth(char)
        if used > room:
            return piece[: max(1, at)]
    return piece


def clipped(text: str, width: int) -> str:
    """Return text cut to `width` columns, on one line."""
    text = harmless(text).replace("\n", " ")
    if get_cwidth(text) <= width:
        return text
    used = 0
    for at, char in enumerate(text):
        used += get_cwidth(char)
        if used > width - 1:
            return text[:at] + "…"
    return text
