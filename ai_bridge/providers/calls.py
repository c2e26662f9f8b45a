"""Tool calls out of the pieces in which a model writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import msgspec
from msgspec import Struct, field

from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.halves import without_halves
from ai_bridge.providers.lenient import UNREADABLE
from ai_bridge.types import ToolCall

MAX_CALLS = 64
MAX_ARGS_CHARS = 256 * 1024
"""Bound of the arguments of all calls of one answer together."""


class _Draft(Struct):
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def args(self) -> str:
        return without_halves("".join(self.pieces)).strip()


class CallCollector:
    """The calls of one answer, in order of appearance. The pieces of one call share a key.

    Attributes:
        chars: of all arguments so far.
    """

    __slots__ = ("_by_key", "_drafts", "chars")

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._by_key: dict[Hashable, _Draft] = {}
        self.chars = 0

    def __bool__(self) -> bool:
        return bool(self._drafts)

    def add(self, key: Hashable, call_id: str | None, name: str | None, args: object) -> None:
        """Take a piece of a call.

        Args:
            key: None means the call that came last.
            args: text to append, or a whole object.

        Raises:
            ProviderFailure: more calls or longer arguments than anybody could mean.
        """
        draft = self._drafts[-1] if key is None and self._drafts else self._by_key.get(key)
        if draft is None:
            draft = self._begin(key)
        draft.id = draft.id or call_id or ""
        draft.name = draft.name or name or ""
        self._append(draft, args)

    def part(self, key: Hashable, call_id: str | None, name: str | None) -> None:
        """Let the key stand for a new call if the piece that comes cannot belong to the old one.

        Several services number all their calls 0.
        """
        draft = self._by_key.get(key)
        if draft is None or not name or not draft.name:
            return
        if call_id != draft.id if call_id else is_json(draft.args):
            del self._by_key[key]

    def replace_args(self, key: Hashable, args: object) -> None:
        """Take the whole arguments in place of the pieces that came before."""
        draft = self._by_key.get(key)
        if draft is not None and args:
            self.chars -= sum(map(len, draft.pieces))
            draft.pieces.clear()
            self._append(draft, args)

    def take(self, response_id: str, *, cut: bool) -> list[ToolCall]:
        """Return the calls, each with an id of its own, and forget them.

        Args:
            response_id: goes into made-up ids, so that two answers do not share one.
            cut: the answer did not come to its end: a call without valid arguments was cut off
                and is left out.
        """
        calls: list[ToolCall] = []
        taken: set[str] = set()
        for position, draft in enumerate(self._drafts):
            args = draft.args or "{}"
            if not draft.name or (cut and not is_json(args)):
                continue
            call_id = without_halves(draft.id)
            if not call_id or call_id in taken:
                call_id = _made_up_id(response_id, position, draft.name, args)
            taken.add(call_id)
            calls.append(ToolCall(call_id, without_halves(draft.name), args))
        self._drafts.clear()
        self._by_key.clear()
        return calls

    def _begin(self, key: Hashable) -> _Draft:
        if len(self._drafts) == MAX_CALLS:
            raise _too_much()
        draft = _Draft()
        self._drafts.append(draft)
        self._by_key[key] = draft
        return draft

    def _append(self, draft: _Draft, args: object) -> None:
        piece = args if isinstance(args, str) else _as_text(args)
        self.chars += len(piece)
        if self.chars > MAX_ARGS_CHARS:
            raise _too_much()
        if piece:
            draft.pieces.append(piece)


def is_json(text: str) -> bool:
    """Whether the text is one whole JSON value."""
    try:
        msgspec.json.decode(text)
    except UNREADABLE:
        return False
    return True


def _as_text(args: object) -> str:
    if args is None:
        return ""
    try:
        return msgspec.json.encode(args).decode()
    except UnicodeEncodeError:  # half a character in a value
        return msgspec.json.encode(_mended(args)).decode()


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return without_halves(value)
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(one) for name, one in value.items()}
    return value


def _made_up_id(response_id: str, position: int, name: str, args: str) -> str:
    """Return an id that is the same however the answer was cut, and another in each answer."""
    source = "\0".join((response_id, str(position), name, args))
    digest = hashlib.blake2s(source.encode("utf-8", "replace"), digest_size=8)
    return "call_" + digest.hexdigest()


def _too_much() -> ProviderFailure:
    text = "The model asked for more tools than can be run. Ask again or choose another model."
    return ProviderFailure("too_many_calls", text, remedy=Remedy.NEXT)
