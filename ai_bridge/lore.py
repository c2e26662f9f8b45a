"""Lorebooks: knowledge of a persona's world that is shown when the talk touches it.

The fields are those of the character book in the card specifications V2 and V3. A key matches as
a word of its script (ai_bridge.scripts): "art" is not found in "party" but "龙" in "巨龙来了".
Patterns are never run: a pattern from a stranger's card can take hours.

Matching cuts the text into words and, in unspaced scripts, pairs of characters once, and looks at
those keys only whose first word or pair is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from msgspec import Struct

from ai_bridge.scripts import Script, one_width, places, runs
from ai_bridge.tokens import estimate_tokens

MAX_ENTRIES = 2_000
MAX_KEYS = 64
"""Primary and secondary keys of one entry, each."""
MAX_KEY_CHARS = 128
MAX_CONTENT_CHARS = 16_000
MAX_BOOK_CHARS = 1_000_000
MAX_PLAIN_KEYS = 200
"""Keys without any word or pair to look up by (emoji, punctuation): each is searched by itself."""
SCAN_CHARS = 8_000
"""How much text is looked at in one round, the newest first."""
DEFAULT_DEPTH = 4
MAX_DEPTH = 50
DEFAULT_TOKENS = 1_000
MAX_RECURSIONS = 2


class Logic(IntEnum):
    """What the secondary keys must do once a primary key is found."""

    AND_ANY = 0
    NOT_ALL = 1
    NOT_ANY = 2
    AND_ALL = 3


class LoreEntry(Struct, frozen=True, kw_only=True):
    """One piece of knowledge.

    `constant` is shown always, in front of (`before`) or behind the persona's prompt. Entries are
    shown by rising `order`; when they are too many, those of the lowest `priority` go first.
    `direct` is found by messages only, never by another entry; `silent` finds no others.
    """

    content: str
    keys: tuple[str, ...] = ()
    secondary: tuple[str, ...] = ()
    logic: Logic = Logic.AND_ANY
    constant: bool = False
    case_sensitive: bool = False
    order: int = 100
    priority: int = 0
    before: bool = True
    direct: bool = False
    silent: bool = False


class _Key(NamedTuple):
    text: str
    cased: bool


class LoreBook:
    """The entries of one persona, ready to be searched. Immutable.

    Args:
        entries: those beyond the bounds of this module are left out.
        depth: how many of the newest messages are looked at.
        token_budget: what constant and found entries may cost together.
        recursive: the text of found entries finds further ones, twice at most.

    Attributes:
        left_out: entries and keys that were beyond the bounds.
    """

    def __init__(
        self,
        entries: Iterable[LoreEntry],
        *,
        depth: int = DEFAULT_DEPTH,
        token_budget: int = DEFAULT_TOKENS,
        recursive: bool = False,
    ) -> None:
        self.depth = min(MAX_DEPTH, max(0, depth))
        self.recursive = recursive
        self.left_out = 0
        self.entries = self._bounded(entries)
        self._keys: list[_Key] = []
        self._index: dict[str, list[int]] = {}
        self._plain: list[int] = []
        self._numbers: dict[tuple[str, bool], int] = {}
        self._primary: list[tuple[int, ...]] = []
        self._secondary: list[tuple[int, ...]] = []
        self._users: dict[int, list[int]] = {}
        self._costs = [estimate_tokens(entry.content) + 1 for entry in self.entries]
        for number, entry in enumerate(self.entries):
            self._add(number, entry)
        self._numbers.clear()
        constant = [n for n, entry in enumerate(self.entries) if entry.constant]
        kept, spent = self._within(constant, max(0, token_budget))
        self.constants: tuple[LoreEntry, ...] = tuple(self.entries[n] for n in kept)
        """Entries that are always shown, in their order."""
        self._budget = max(0, token_budget) - spent

    def __len__(self) -> int:
        return len(self.entries)

    def found_in(self, texts: Sequence[str]) -> tuple[LoreEntry, ...]:
        """Return the entries, beside the constant ones, that these messages call up.

        Args:
            texts: newest first; only the first `depth` are looked at.
        """
        if not self._keys:
            return ()
        keys: set[int] = set()
        found: set[int] = set()
        kept: list[int] = []
        looked_at: Iterable[str] = texts[: self.depth]
        for depth in range(1 + (MAX_RECURSIONS if self.recursive else 0)):
            fresh = self._search(looked_at) - keys
            keys |= fresh
            new = self._called_by(fresh, keys, found, recursing=depth > 0)
            if not new:
                break
            found |= new
            kept, _ = self._within(found, self._budget)
            # What is not shown finds nothing, which also bounds the work by the budget.
            shown = [self.entries[n] for n in kept if n in new]
            looked_at = [entry.content for entry in shown if not entry.silent]
        return tuple(self.entries[n] for n in kept)

    # making ready

    def _bounded(self, entries: Iterable[LoreEntry]) -> tuple[LoreEntry, ...]:
        kept: list[LoreEntry] = []
        room = MAX_BOOK_CHARS
        for entry in entries:
            size = len(entry.content)
            if len(kept) >= MAX_ENTRIES or size > min(room, MAX_CONTENT_CHARS):
                self.left_out += 1
                continue
            room -= size
            kept.append(entry)
        return tuple(kept)

    def _add(self, number: int, entry: LoreEntry) -> None:
        if entry.constant:
            self._primary.append(())
            self._secondary.append(())
            return
        primary = self._key_numbers(entry.keys, entry.case_sensitive)
        self._primary.append(primary)
        self._secondary.append(self._key_numbers(entry.secondary, entry.case_sensitive))
        for key in primary:
            self._users.setdefault(key, []).append(number)

    def _key_numbers(self, keys: Sequence[str], cased: bool) -> tuple[int, ...]:
        self.left_out += max(0, len(keys) - MAX_KEYS)
        numbers: set[int] = set()
        for text in keys[:MAX_KEYS]:
            number = self._key_number(one_width(text), cased)
            if number is not None:
                numbers.add(number)
        return tuple(numbers)

    def _key_number(self, text: str, cased: bool) -> int | None:
        if not text:
            return None
        if len(text) > MAX_KEY_CHARS:
            self.left_out += 1
            return None
        folded = text.casefold()
        shown = text if cased else folded
        known = self._numbers.get((shown, cased))
        if known is not None:
            return known
        anchor = _anchor(folded)
        if not anchor and len(self._plain) >= MAX_PLAIN_KEYS:
            self.left_out += 1
            return None
        number = self._numbers[shown, cased] = len(self._keys)
        self._keys.append(_Key(shown, cased))
        if anchor:
            self._index.setdefault(anchor, []).append(number)
        else:
            self._plain.append(number)
        return number

    # searching

    def _search(self, texts: Iterable[str]) -> set[int]:
        """Return the numbers of the keys in these texts."""
        text = _joined(texts)
        if not text:
            return set()
        folded = text.casefold()
        candidates = list(self._plain)
        for anchor in self._index.keys() & _anchors_of(folded):
            candidates += self._index[anchor]
        keys = self._keys
        return {n for n in candidates if _holds(text if keys[n].cased else folded, keys[n].text)}

    def _called_by(
        self, fresh: set[int], keys: set[int], found: set[int], *, recursing: bool
    ) -> set[int]:
        called: set[int] = set()
        for key in fresh:
            for number in self._users.get(key, ()):
                if number in found or (recursing and self.entries[number].direct):
                    continue
                if self._secondary_agrees(number, keys):
                    called.add(number)
        return called

    def _secondary_agrees(self, number: int, keys: set[int]) -> bool:
        wanted = self._secondary[number]
        if not wanted:
            return True
        hits = sum(key in keys for key in wanted)
        match self.entries[number].logic:
            case Logic.AND_ANY:
                return hits > 0
            case Logic.AND_ALL:
                return hits == len(wanted)
            case Logic.NOT_ANY:
                return hits == 0
            case Logic.NOT_ALL:
                return hits < len(wanted)

    def _within(self, numbers: Iterable[int], budget: int) -> tuple[list[int], int]:
        """Return those that fit, in the order they are shown in, and what they cost."""
        entries = self.entries
        kept: list[int] = []
        spent = 0
        for n in sorted(numbers, key=lambda n: (-entries[n].priority, entries[n].order, n)):
            if spent + self._costs[n] <= budget:
                spent += self._costs[n]
                kept.append(n)
        kept.sort(key=lambda n: (entries[n].order, n))
        return kept, spent


def _joined(texts: Iterable[str]) -> str:
    parts: list[str] = []
    room = SCAN_CHARS
    for text in texts:
        if room <= 0:
            break
        parts.append(text[:room])
        room -= len(text)
    # No key holds this character, so none is found across two messages.
    return one_width("\x00".join(parts))[:SCAN_CHARS]


def _anchor(folded: str) -> str:
    """Return the word or pair that a text must have to hold this key; "" if there is none."""
    for run, script in runs(folded):
        return run if script is Script.SPACED else run[:2]
    return ""


def _anchors_of(folded: str) -> set[str]:
    anchors: set[str] = set()
    for run, script in runs(folded):
        if script is Script.SPACED:
            anchors.add(run)
        else:
            anchors.update(run)
            anchors.update(map("".join, pairwise(run)))
    return anchors


def _holds(text: str, word: str) -> bool:
    return any(True for _ in places(text, word))
