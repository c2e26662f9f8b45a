"""Reads and writes the lines of vector files; long runs are written once, with a count.

A text or hex value may be a list of parts, joined in order; a part is a string, or a string with
how often it stands there. In JSON forms, `{"$repeat": [value, times]}` stands for the value,
a text or a list, so many times over.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
_LEAST_RUN: Final = 48
_find_runs: Final = re.compile(rb"(.{1,24}?)\1{%d,}" % (_LEAST_RUN - 1), re.DOTALL).finditer

Line = dict[str, Any]


def read_lines(name: str) -> list[Line]:
    """Return the lines of one vector file with everything written out."""
    text = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    return [_expand_line(json.loads(line)) for line in text.splitlines()]


def dump_lines(lines: list[Line]) -> str:
    """Return the text of a vector file."""
    return "".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines
    )


def shorten_hex(data: bytes) -> str | list[Any]:
    """Return data as hex, with long runs counted."""
    parts: list[Any] = []
    at = 0
    for run in _find_runs(data):
        parts += [data[at : run.start()].hex()] if run.start() > at else []
        parts.append([run[1].hex(), len(run[0]) // len(run[1])])
        at = run.end()
    if not parts:
        return data.hex()
    return [*parts, data[at:].hex()] if at < len(data) else parts


def shorten_json(value: Any) -> Any:
    """Return a JSON form with long uniform texts and lists counted."""
    if isinstance(value, dict):
        return {key: shorten_json(inner) for key, inner in value.items()}
    if isinstance(value, str | list) and len(value) > _LEAST_RUN:
        one = value[:1]
        if one * len(value) == value:
            return {"$repeat": [one, len(value)]}
    if isinstance(value, list):
        return [shorten_json(inner) for inner in value]
    return value


def _expand_line(line: Line) -> Line:
    for key in ("hex", "text"):
        if key in line:
            line[key] = _join_parts(line[key])
    for key in ("chunks", "payloads"):
        if key in line:
            line[key] = [_join_parts(parts) for parts in line[key]]
    if "json" in line:
        line["json"] = _expand_json(line["json"])
    return line


def _join_parts(parts: str | list[Any]) -> str:
    if isinstance(parts, str):
        return parts
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


def _expand_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_expand_json(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$repeat"}:
        one, times = value["$repeat"]
        return one * times
    return {key: _expand_json(inner) for key, inner in value.items()}
