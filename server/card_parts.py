"""What of a character card reaches a model, beside the persona's own row."""

import math
import re
from typing import Any, Final

from msgspec import Struct

from ai_bridge.group import DEFAULT_TALK
from ai_bridge.lore import (
    DEFAULT_DEPTH,
    DEFAULT_TOKENS,
    MAX_CONTENT_CHARS,
    MAX_ENTRIES,
    MAX_KEYS,
    Logic,
    LoreBook,
    LoreEntry,
)
from ai_bridge.types import PersonaSpec
from protocol.rows import Persona
from server.cards import Card, tidy

MAX_TEXT_CHARS: Final = 16_000
MAX_BUDGET_TOKENS: Final = 4_000
_PATTERN: Final = "\\^$*+?()[]{}|"
"""Characters that make a key a pattern."""


class CardParts(Struct, frozen=True):
    """The parts of one card, ready for use.

    `prompt` is the card's own where a row could not hold it whole, and `row_prompt` what the row
    then holds. `talk` is the chance, 0 to 1, that it speaks uncalled where several do.
    `skipped_keys`: keys that are patterns, which are never run.
    """

    row_prompt: str
    prompt: str
    system_prompt: str
    nickname: str
    examples: str
    post_history: str
    depth_prompt: str
    depth: int
    talk: float
    lore: LoreBook | None
    greetings: tuple[str, ...]
    skipped_keys: int

    def spec(self, id: int, row: Persona, user_name: str, extra: str = "") -> PersonaSpec:
        """Return who answers: the persona's row, and behind it what its card says more.

        Args:
            extra: what the conversation adds to the prompt.
        """
        prompt = row.prompt or ""
        if prompt == self.row_prompt:
            prompt = self.prompt
        return PersonaSpec(
            id,
            row.name or "",
            "\n\n".join(part for part in (self.system_prompt, prompt, extra) if part),
            nickname=self.nickname,
            user_name=user_name,
            examples=self.examples,
            post_history=self.post_history,
            depth_prompt=self.depth_prompt,
            depth=self.depth,
            lore=self.lore,
        )


def parts_of(card: Card) -> CardParts:
    """Return what a card brings to a context. Takes milliseconds: not for the event loop."""
    depth_prompt = card.extensions.get("depth_prompt")
    depth_prompt = depth_prompt if isinstance(depth_prompt, dict) else {}
    reader = _BookReader(card.data.get("character_book"))
    return CardParts(
        row_prompt=card.row().prompt or "",
        prompt=card.prompt,
        system_prompt=_bounded(card.text("system_prompt")),
        nickname=card.text("nickname")[:64],
        examples=_bounded(card.text("mes_example")),
        post_history=_bounded(card.text("post_history_instructions")),
        depth_prompt=_bounded(tidy(depth_prompt.get("prompt"))),
        depth=min(100, max(0, _int(depth_prompt.get("depth"), 4))),
        talk=_share(card.extensions.get("talkativeness"), DEFAULT_TALK),
        lore=reader.book,
        greetings=tuple(card.greetings),
        skipped_keys=reader.skipped,
    )


class _BookReader:
    """Reads a `character_book`; what is of a wrong type counts as missing."""

    def __init__(self, raw: Any) -> None:
        self.skipped = 0
        self.book: LoreBook | None = None
        entries = raw.get("entries") if isinstance(raw, dict) else None
        if isinstance(entries, dict):  # as standalone lorebooks have them
            entries = list(entries.values())
        if not isinstance(entries, list):
            return
        read = [self._entry(one) for one in entries[: 2 * MAX_ENTRIES] if isinstance(one, dict)]
        kept = [one for one in read if one is not None]
        if kept:
            self.book = LoreBook(
                kept,
                depth=_int(raw.get("scan_depth"), DEFAULT_DEPTH),
                token_budget=min(MAX_BUDGET_TOKENS, _int(raw.get("token_budget"), DEFAULT_TOKENS)),
                recursive=raw.get("recursive_scanning") is True,
            )

    def _entry(self, raw: dict[str, Any]) -> LoreEntry | None:
        content = tidy(raw.get("content"))[:MAX_CONTENT_CHARS]
        words = _decorators(content)
        content = _without_decorators(content)
        if not content or raw.get("enabled") is False or "dont_activate" in words:
            return None
        extensions = raw.get("extensions")
        extensions = extensions if isinstance(extensions, dict) else {}
        patterns = raw.get("use_regex") is True
        selective = raw.get("selective") is True
        return LoreEntry(
            content=content,
            keys=self._keys(raw.get("keys"), patterns),
            secondary=self._keys(raw.get("secondary_keys"), patterns) if selective else (),
            logic=_logic(extensions.get("selectiveLogic")),
            constant=raw.get("constant") is True or not words.isdisjoint(_ALWAYS),
            case_sensitive=raw.get("case_sensitive") is True,
            order=_int(raw.get("insertion_order"), 100),
            priority=_int(raw.get("priority"), 0),
            before=raw.get("position") != "after_char",
            direct=extensions.get("exclude_recursion") is True,
            silent=extensions.get("prevent_recursion") is True,
        )

    def _keys(self, raw: Any, patterns: bool) -> tuple[str, ...]:
        keys: list[str] = []
        for key in raw[: 4 * MAX_KEYS] if isinstance(raw, list) else ():
            text = tidy(key)
            if _is_pattern(text) or (patterns and any(char in _PATTERN for char in text)):
                self.skipped += 1
            elif text:
                keys.append(text)
        return tuple(keys)


_match_head: Final = re.compile(r"(?:@@[^\n]*\n?)*").match
_ALWAYS: Final = frozenset(("constant", "activate"))


def _decorators(content: str) -> frozenset[str]:
    """Return the words of the lines at the head that begin with @@ (card specification V3)."""
    words: list[str] = []
    for line in content.split("\n", 64)[:64]:
        if not line.startswith("@@"):
            break
        words.append(line.lstrip("@").split(" ", 1)[0].strip())
    return frozenset(words)


def _without_decorators(content: str) -> str:
    head = _match_head(content)
    return content[head.end() :].strip() if head is not None else content


def _is_pattern(key: str) -> bool:
    """Tell whether a key is written as /pattern/flags."""
    head, slash, flags = key.rpartition("/")
    return bool(slash) and len(head) > 1 and head[0] == "/" and (not flags or flags.isalpha())


def _logic(raw: Any) -> Logic:
    return Logic(raw) if type(raw) is int and 0 <= raw <= 3 else Logic.AND_ANY


def _int(raw: Any, default: int) -> int:
    return int(max(-1e9, min(1e9, raw))) if type(raw) in (int, float) else default


def _share(raw: Any, default: float) -> float:
    """Return a number from 0 to 1; some programs write it as text."""
    if type(raw) not in (int, float, str):
        return default
    try:
        found = float(raw)
    except ValueError:
        return default
    return min(1.0, max(0.0, found)) if math.isfinite(found) else default


def _bounded(text: str) -> str:
    return text[:MAX_TEXT_CHARS]
