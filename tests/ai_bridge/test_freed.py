"""What an answer took is free again when it ends, not when the garbage collector comes by."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest

from bench.provider.server import ScriptedProvider
from protocol.codes import EndReason
from tests.ai_bridge.conftest import MakeRig


@pytest.mark.parametrize("transport", ["aio", "raw"])
@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses", "anthropic", "gemini"])
async def test_nothing_of_an_ended_answer_is_left_to_the_collector(
    transport: str, kind: str, provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, provider={"transport": transport, "kind": kind})

    async def talk(model: str) -> None:
        turn, watcher = rig.ask(model=model)
        if "rate" in model:
            await watcher.change(2)
            rig.bridge.cancel(turn.id)
        outcome = await watcher.end()
        assert outcome.reason is (EndReason.CANCELLED if "rate" in model else EndReason.STOP)
        for _ in range(20):  # the turn's task ends behind its answer
            await asyncio.sleep(0)

    await talk("tokens=5")  # what is made once is made now
    gc.collect()
    gc.disable()
    try:
        for model in ("tokens=5", "tokens=5", "tokens=1000,rate=50"):
            await talk(model)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        left = Counter(
            type(thing).__name__
            for thing in gc.garbage
            if type(thing).__module__.startswith("ai_bridge")
        )
    finally:
        gc.garbage.clear()
        gc.enable()
    assert not left
