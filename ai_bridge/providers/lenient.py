"""JSON of providers, read as typed events even where a field is not what it should be."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from ai_bridge.providers.failures import malformed

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises at bytes or text that are no JSON, or not the JSON that was expected."""

MAX_ODD_FIELDS = 64
"""Fields of a wrong type that are passed over in one event before it counts as unreadable."""

_PATH = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")


def read_event(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode one event; read leniently what the typed decoder refuses.

    Lone surrogates are kept (see halves.py), fields of an unexpected type count as absent.

    Raises:
        ProviderFailure: this is no JSON object at all.
    """
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return _read_odd_event(data, decoder.type)


def _read_odd_event(data: bytes, type_: type[T]) -> T:
    try:
        value = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise malformed() from None
    if not isinstance(value, dict):
        raise malformed()
    for _ in range(MAX_ODD_FIELDS):
        try:
            return msgspec.convert(value, type_, strict=False)
        except msgspec.ValidationError as error:
            _drop(value, str(error))
        except RecursionError:
            break
    raise malformed()


def _drop(value: dict[str, Any], error: str) -> None:
    """Remove what the decoder's message points at.

    Raises:
        ProviderFailure: it points at nothing that could be removed.
    """
    path = _PATH.search(error)
    steps = [name or int(index) for name, index in _STEP.findall(path[1])] if path else []
    if not steps:
        raise malformed() from None
    holder: Any = value
    for step in steps[:-1]:
        holder = holder[step]
    del holder[steps[-1]]


def figure(value: int | None) -> int:
    """Return a count of tokens, 0 for one that makes no sense."""
    return value if value is not None and 0 <= value < 2**53 else 0


def error_object(body: bytes) -> dict[str, Any]:
    """Return the typed error of a body, {} when it has none that we know."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return {}
    if isinstance(value, list) and value:
        value = value[0]  # Gemini's compatible endpoint wraps it in a list
    if not isinstance(value, dict):
        return {}
    error = value.get("error")
    if isinstance(error, dict):
        return error
    # Mistral, vLLM and SiliconFlow put code, type and message at the top.
    return value if error is None and {"code", "type"} & value.keys() else {}
