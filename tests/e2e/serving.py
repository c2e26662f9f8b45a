"""Servers and their scripted AI services, for as long as a fixture or a test has them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import Process


@contextmanager
def serving(process: Process) -> Iterator[Process]:
    """Start a server; in the end it has to stop in order."""
    process.start()
    try:
        yield process
    finally:
        code = process.stop()
    assert code == 0


@asynccontextmanager
async def answering(port: int, *models: str) -> AsyncIterator[ScriptedProvider]:
    """The AI service at a port; its figures begin at zero.

    Args:
        models: what it lists, instead of a single one; it answers for any other as well.
    """
    provider = ScriptedProvider()
    provider.models = list(models) or provider.models
    await provider.start(port)
    try:
        yield provider
    finally:
        await provider.aclose()
