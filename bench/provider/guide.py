"""The script language, told from the very Struct that reads it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import get_type_hints

import msgspec

from bench.provider import script
from bench.provider.headers import LIMITS
from bench.provider.script import Answer, Behaviour, Calls, Delays, Oddities

SECTIONS = (Answer, Calls, Delays, Oddities, Behaviour)
PATHS = """\
POST /v1/chat/completions      OpenAI chat
POST /v1/responses             OpenAI responses
POST /v1/messages              Anthropic
POST /v1beta/models/MODEL:streamGenerateContent?alt=sse, :generateContent   Gemini
POST /v1/embeddings            vectors by shared words (Chinese: shared pairs of signs)
POST /v1/moderations           flags the words that a test calls bad (none by itself)
POST /v1/audio/transcriptions  a form; the text tells name, size and language
GET  /v1/models, /v1beta/models, /api/tags   lists; Anthropic's by its version header
GET  /stats, /aborts           figures; the streams that clients left
"""


def words(section: type[msgspec.Struct]) -> dict[str, str]:
    """Return the docs of the words that a section itself brings, in their order."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name] = " ".join(str(node.value.value).split())
    return found


def guide() -> str:
    """Return the whole language as text."""
    return "\n".join([str(script.__doc__).strip(), "", "Paths", PATHS, *_sections(), *_limits()])


def _sections() -> Iterator[str]:
    for section in SECTIONS:
        yield str(section.__doc__)
        kinds = get_type_hints(section)
        defaults = _defaults(section)
        for name, text in words(section).items():
            kind = kinds[name]
            wanted = "" if kind is bool else f"={_shown(defaults[name])}"
            yield textwrap.fill(
                text, 96, initial_indent=f"  {name + wanted:<18} ", subsequent_indent=" " * 21
            )
        yield ""


def _limits() -> Iterator[str]:
    for name, headers in LIMITS.items():
        yield f"limits={name}: " + ", ".join(f"{one}: {value}" for one, value in headers.items())


def _defaults(section: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.default for field in msgspec.structs.fields(section)}


def _shown(default: object) -> str:
    return str(default) if isinstance(default, (int, float, str)) and default != "" else "…"
