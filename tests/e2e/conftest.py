"""One server for most tests, and the scripted AI service that it asks, fresh for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from bench.provider.server import ScriptedProvider
from tests.e2e.harness import Process, free_port
from tests.e2e.serving import answering, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server shared by the session; its AI service lives in the tests' own loops."""
    with serving(Process(tmp_path_factory.mktemp("e2e"), free_port())) as process:
        yield process


@pytest.fixture
async def provider(server: Process) -> AsyncIterator[ScriptedProvider]:
    """The AI service of the shared server; its figures count this test only."""
    async with answering(server.provider_port) as provider:
        yield provider
