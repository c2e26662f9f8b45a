"""What services send, as their public documents show it, with what it means.

A file holds lines `Source:` (the vendor's page whose shapes it follows), `Shows:` and `Expect:`
(JSON), a line `---`, and then the body of the response byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

FOLDER = Path(__file__).parent


class Expected(Struct, frozen=True, forbid_unknown_fields=True):
    """How an answer ends: `finish` with the rest, or the kind of `failure`.

    `calls` are id (None: made up), name and arguments; `usage` is prompt, completion, cached,
    reasoning.
    """

    answer: str = ""
    thoughts: str = ""
    calls: list[tuple[str | None, str, dict[str, Any]]] = []
    finish: str = ""
    usage: tuple[int, int, int, int] | None = None
    id: str = ""
    failure: str = ""


class Sample(Struct, frozen=True):
    """One response: the provider kind whose dialect it is, its file, its body."""

    kind: str
    name: str
    source: str
    expected: Expected
    body: bytes


def _read(path: Path) -> Sample:
    head, _, body = path.read_bytes().partition(b"---\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
    expected = msgspec.json.decode(fields["Expect"], type=Expected)
    return Sample(path.parent.name, path.stem, fields["Source"], expected, body)


SAMPLES = [_read(path) for path in sorted(FOLDER.glob("*/*.txt"))]
