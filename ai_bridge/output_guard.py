"""Looks at an answer while it is made: people read on meanwhile, and a block ends it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ai_bridge.moderation import Action, Moderation, Stage, Subject, Verdict
from ai_bridge.scripts import Script, script_of
from ai_bridge.turn import Turn
from protocol.codes import StreamPart

WINDOW_CHARS = 200
"""New text after which it is looked at."""
OVERLAP_BYTES = 600
"""Of the text before, so that a phrase on the border is seen: 150 characters or more."""
LAST_CHARS = 10_000
"""Of the whole answer, looked at once more when it is over."""
MAX_WORD_CHARS = 64
PARTS = (StreamPart.ANSWER, StreamPart.REASONING)


class OutputGuard:
    """Checks one answer, one window at a time. Owns the check that runs.

    What a checker would replace is blocked: people have read it already.

    Args:
        on_block: called once, when a window is blocked; it stops the turn.
    """

    def __init__(self, moderation: Moderation, turn: Turn, on_block: Callable[[], None]) -> None:
        self._moderation = moderation
        self._turn = turn
        self._subject = Subject.of(turn.request)
        self._on_block = on_block
        self._pending = 0
        self._looked_at = dict.fromkeys(PARTS, 0)
        self._task: asyncio.Task[None] | None = None
        self._blocked: Verdict | None = None

    def grew(self, chars: int) -> None:
        """The answer or its reasoning has so many characters more. Called for every token."""
        self._pending += chars
        if self._pending >= WINDOW_CHARS and self._task is None and self._blocked is None:
            self._pending = 0
            self._task = asyncio.get_running_loop().create_task(self._windows())

    async def finish(self) -> Verdict | None:
        """Look at the whole when no more will come; return why it must be taken back, or None.

        Who cancels this waits all the same: what is stored depends on it, and checks are short.
        """
        task = asyncio.get_running_loop().create_task(self._last())
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                continue
        task.result()
        return self._blocked

    async def _windows(self) -> None:
        """Look at what is new; go on while there is more."""
        try:
            for part in PARTS:
                await self._look(part)
        finally:
            self._task = None
        if self._blocked is not None:
            self._on_block()
        else:
            self.grew(0)

    async def _look(self, part: StreamPart) -> None:
        turn = self._turn
        before = self._looked_at[part]
        if turn.size(part) <= before or self._blocked is not None:
            return
        start, text = turn.text_from(part, before - OVERLAP_BYTES)
        text = _to_border(text)
        self._looked_at[part] = max(before, start + len(text.encode()))
        await self._judge(_from_border(text) if start else text)

    async def _last(self) -> None:
        if self._task is not None:
            await asyncio.wait((self._task,))
        for part in PARTS:
            size = self._turn.size(part)
            if size and self._blocked is None:
                start, text = self._turn.text_from(part, size - 4 * LAST_CHARS)
                await self._judge(_from_border(text) if start else text)

    async def _judge(self, text: str) -> None:
        verdict = await self._moderation.check(Stage.OUTPUT, text, self._subject)
        if verdict.action >= Action.REPLACE:
            self._blocked = verdict


def _to_border(text: str) -> str:
    """Leave out a last word that may go on in the next piece."""
    end = len(text)
    least = max(0, end - MAX_WORD_CHARS)
    while end > least and script_of(text[end - 1]) is Script.SPACED:
        end -= 1
    return text[:end] if end > least else text


def _from_border(text: str) -> str:
    """Leave out a first word that may have begun before."""
    at = 0
    most = min(len(text), MAX_WORD_CHARS)
    while at < most and script_of(text[at]) in (Script.SPACED, Script.HANGUL):
        at += 1
    return text[at:] if at < most else text
