"""Waiting for something that another task, thread or process brings about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WAIT_S: Final = 60.0
"""How long to wait for what should come true. It costs nothing when it does, and a machine that is
busy with other tests may stand still for seconds: never a measure of how fast something is."""


async def eventually(condition: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Return as soon as `condition()` is true; it is asked every few milliseconds.

    Only for states that offer nothing to await (counters, another process).

    Raises:
        AssertionError: it did not become true in time.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + within_s
    while not condition():
        if loop.time() > until_s:
            raise AssertionError(f"did not come true within {within_s} s")
        await asyncio.sleep(0.002)
