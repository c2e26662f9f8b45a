"""Who speaks next in a room of several people and several personas. Pure: dice are given.

Called by mention, a persona answers. Called by name, it answers where the room is lively. Not
called, each one rolls its talkativeness. What personas say to each other dies out by itself: the
odds halve with every round and end after two.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ai_bridge.scripts import normal, places
from protocol.codes import TalkMode

MAX_ANSWERS = 3
"""Personas that answer one message of a person."""
MAX_ROUNDS = 2
"""Rounds of personas answering personas after it."""
DEFAULT_TALK = 0.5


class Voice(Struct, frozen=True):
    """A persona in a room. `talk` is the chance, 0 to 1, that it speaks uncalled."""

    id: int
    name: str
    talk: float = DEFAULT_TALK


def mentioned(voices: Iterable[Voice], text: str, ids: Iterable[int] = ()) -> list[int]:
    """Return who is called by id or by "@name", ids first, then in the order of the text."""
    by_id = {voice.id: voice for voice in voices}
    called = [voice for voice in dict.fromkeys(ids) if voice in by_id]
    found = _first_places(by_id.values(), text, "@")
    return list(dict.fromkeys((*called, *sorted(found, key=found.__getitem__))))


def named(voices: Iterable[Voice], text: str) -> list[int]:
    """Return whose names stand in the text as words of their script, in its order."""
    found = _first_places(voices, text, "")
    return sorted(found, key=found.__getitem__)


def _first_places(voices: Iterable[Voice], text: str, before: str) -> dict[int, int]:
    read = normal(text)
    found: dict[int, int] = {}
    taken: set[int] = set()
    # The longest name first: "Ann Lee" is not also a call of "Ann".
    for voice in sorted(voices, key=lambda voice: -len(voice.name)):
        name = normal(voice.name)
        for at in places(read, before + name) if name else ():
            if at not in taken:
                taken.add(at)
                found.setdefault(voice.id, at)
    return found


class TurnTaker:
    """Picks speakers.

    Args:
        dice: source of chance; a test gives a seeded one.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def answer(
        self,
        voices: Sequence[Voice],
        mode: TalkMode,
        text: str,
        *,
        ids: Iterable[int] = (),
        last: int = 0,
        spoke: Mapping[int, int] | None = None,
    ) -> list[int]:
        """Return who answers what a person said, in order; at most three.

        Args:
            ids: mentions that came as ids.
            last: the persona that spoke last; it does not speak again uncalled.
            spoke: when each persona spoke last, in any growing measure; absent: never.
        """
        called = mentioned(voices, text, ids)
        if not called and mode is not TalkMode.CALLED:
            called = named(voices, text)
        if called or mode is TalkMode.CALLED:
            return called[:MAX_ANSWERS]
        willing = [voice for voice in voices if voice.id != last and self._rolls(voice.talk)]
        if not willing and mode is TalkMode.ALWAYS and voices:
            spoke = spoke or {}
            willing = [min(voices, key=lambda voice: spoke.get(voice.id, 0))]
        self._dice.shuffle(willing)
        return [voice.id for voice in willing[:MAX_ANSWERS]]

    def follow(
        self, voices: Sequence[Voice], mode: TalkMode, text: str, *, speaker: int, round: int
    ) -> int:
        """Return which other persona answers a persona's words, 0 for none.

        Args:
            round: answers of personas to personas since a person spoke.
        """
        if round >= MAX_ROUNDS or mode is TalkMode.CALLED:
            return 0
        others = [voice for voice in voices if voice.id != speaker]
        called = mentioned(others, text) or named(others, text)
        if called:
            return called[0] if self._rolls(0.5**round) else 0
        self._dice.shuffle(others)
        chance = 0.5 ** (round + 1)
        return next((voice.id for voice in others if self._rolls(voice.talk * chance)), 0)

    def _rolls(self, chance: float) -> bool:
        return self._dice.random() < chance
