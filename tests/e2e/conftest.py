"""One server for most tests, and the scripted AI service that it asks, fresh for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import Process, free_port


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server shared by the session; its AI service lives in the tests' own loops."""
    process = Process(tmp_path_factory.mktemp("e2e"), provider_port=free_port())
    process.start()
    yield process
    assert process.stop() == 0


@pytest.fixture
async def provider(server: Process) -> AsyncIterator[ScriptedProvider]:
    """The AI service of the shared server; its figures count this test only."""
    provider = ScriptedProvider()
    await provider.start(server.provider_port)
    yield provider
    await provider.aclose()
