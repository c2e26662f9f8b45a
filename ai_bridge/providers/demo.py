"""The built-in offline partner as a backend: what it says is `ai_bridge.partner`'s business."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import datetime

from ai_bridge.partner.partner import answer
from ai_bridge.providers.base import CallEnd, CallSink, ModelCall
from ai_bridge.tokens import estimate_tokens
from protocol.codes import EndReason

DEMO_MODEL = "demo"


class DemoBackend:
    """Streams the partner's answer at a human pace. Needs no network and no key.

    Args:
        words_per_s: speed for Latin text; Chinese goes at two thirds of it in characters.
            0 sends everything at once.
    """

    def __init__(self, *, words_per_s: float = 12.0) -> None:
        self._words_per_s = words_per_s

    async def stream(self, call: ModelCall, sink: CallSink) -> CallEnd:
        text = answer(call.request, now=datetime.now().astimezone())
        dice = random.Random(call.request.turn_id)
        finish = EndReason.STOP
        limit = call.request.params.max_tokens
        if limit is not None and estimate_tokens(text) > limit:
            text = text[: len(text) * limit // estimate_tokens(text)]
            finish = EndReason.LENGTH
        for piece in _pieces(text, dice):
            if self._words_per_s > 0:
                await asyncio.sleep(self._pause_s(piece) * dice.uniform(0.6, 1.4))
            sink.text(piece)
            sink.flush()
        return CallEnd(finish)

    async def aclose(self) -> None:
        """Nothing is open."""

    def _pause_s(self, piece: str) -> float:
        wide = sum(char > "\u2e7f" for char in piece)
        words = (len(piece) - wide) / 5.5 + wide * 1.5
        pause = 2.0 if piece.endswith("\n") else 0.0
        return (words + pause) / self._words_per_s


def _pieces(text: str, dice: random.Random) -> Iterator[str]:
    """Cut into small pieces of uneven size, as models send them."""
    at = 0
    while at < len(text):
        size = dice.randint(1, 3) if text[at] > "\u2e7f" else dice.randint(2, 9)
        yield text[at : at + size]
        at += size
