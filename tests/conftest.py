"""What every test shares: event loop, servers, hypothesis profiles, a word on what was skipped.

PARLANCE_TEST_ENGINES      engines to run storage tests on (default "sqlite,mysql,mariadb")
PARLANCE_TEST_LOOP         "uvloop" (default) or "asyncio", which also turns asyncio's debug mode on
PARLANCE_HYPOTHESIS_PROFILE  "default" (50 inputs a property) or "fuzz" (20,000)
PARLANCE_TEST_MYSQL_URL    a server of your own instead of a private one; also …_MARIADB_URL and
                           …_REDIS_URL. The account must be allowed to create databases.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support.servers import (
    KINDS,
    TITLES,
    Kind,
    Server,
    ServerUnavailable,
    announce,
    open_server,
    prepare,
)

if TYPE_CHECKING:
    from bench.provider.mem0 import FakeMem0
    from bench.provider.server import ScriptedProvider

# Deadlines measure this machine's load, not the code; bounds on time have tests of their own.
settings.register_profile("default", max_examples=50, deadline=None)
settings.register_profile(
    "fuzz",
    max_examples=20_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("PARLANCE_HYPOTHESIS_PROFILE", "default"))

SQL_ENGINES = ("sqlite", "mysql", "mariadb")
CHOSEN_ENGINES = [
    name.strip()
    for name in os.environ.get("PARLANCE_TEST_ENGINES", ",".join(SQL_ENGINES)).split(",")
    if name.strip()
]
_MISSING = "SERVER MISSING: "
_unavailable: dict[Kind, str] = {}


def _debug_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on the loop that the server runs on."""
    name = os.environ.get("PARLANCE_TEST_LOOP", "uvloop")
    if name == "uvloop":
        return {"uvloop": uvloop.new_event_loop}
    if name == "asyncio":
        return {"asyncio": _debug_loop}
    raise pytest.UsageError(f"PARLANCE_TEST_LOOP: no loop is named {name!r}")


def pytest_configure() -> None:
    if unknown := set(CHOSEN_ENGINES) - set(SQL_ENGINES):
        raise pytest.UsageError(f"PARLANCE_TEST_ENGINES: unknown engine {sorted(unknown)}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch what the chosen tests need now: inside a test it would run into the test's timeout."""
    if session.config.option.collectonly:
        return
    for kind in KINDS:
        if any(_needs(item, kind) for item in session.items):
            try:
                prepare(kind)
            except ServerUnavailable as error:
                _unavailable[kind] = str(error)
                announce(f"NOT AVAILABLE, its tests are skipped: {error}")


def _needs(item: pytest.Item, kind: Kind) -> bool:
    by_fixture = f"{kind}_server" in getattr(item, "fixturenames", ())
    return by_fixture or item.get_closest_marker(kind) is not None


def _server_or_skip(kind: Kind) -> Iterator[Server]:
    if kind in _unavailable:
        pytest.skip(_MISSING + _unavailable[kind])
    try:
        opened = open_server(kind)
        server = opened.__enter__()
    except ServerUnavailable as error:
        _unavailable[kind] = str(error)
        pytest.skip(_MISSING + str(error))
    try:
        yield server
    finally:
        opened.__exit__(None, None, None)


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server]:
    """A MySQL server; shared by the session, so never to be stopped by a test."""
    yield from _server_or_skip("mysql")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A MariaDB server; shared by the session, so never to be stopped by a test."""
    yield from _server_or_skip("mariadb")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis server; shared by the session, so never to be stopped by a test."""
    yield from _server_or_skip("redis")


@pytest.fixture(scope="session")
def mysql_url(mysql_server: Server) -> Iterator[str]:
    """The URL of a database that starts empty and is shared by the session."""
    yield from _fresh_database(mysql_server)


@pytest.fixture(scope="session")
def mariadb_url(mariadb_server: Server) -> Iterator[str]:
    """The URL of a database that starts empty and is shared by the session."""
    yield from _fresh_database(mariadb_server)


@pytest.fixture(scope="session")
def redis_url(redis_server: Server) -> Iterator[str]:
    """The URL of a numbered database, shared by the session; channels reach all numbers."""
    yield from _fresh_database(redis_server)


def _fresh_database(server: Server) -> Iterator[str]:
    url = server.create_database()
    yield url
    if server.external:
        server.drop_database(url)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=getattr(pytest.mark, name), id=name) for name in CHOSEN_ENGINES
    ],
)
def store_engine(request: pytest.FixtureRequest) -> str:
    """The storage engine of this round: sqlite, mysql or mariadb."""
    return str(request.param)


@pytest.fixture(scope="module")
def new_store_url(
    store_engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    """A function that makes one more empty database on the round's engine and returns its URL."""
    if store_engine == "sqlite":
        yield lambda: sqlite_url(tmp_path_factory.mktemp("store"))
        return
    server: Server = request.getfixturevalue(f"{store_engine}_server")
    made: list[str] = []

    def create() -> str:
        made.append(server.create_database())
        return made[-1]

    yield create
    if server.external:
        for url in made:
            server.drop_database(url)


@pytest.fixture(scope="module")
def store_url(new_store_url: Callable[[], str]) -> str:
    """The URL of a database that starts empty and is shared by the module's tests, per engine."""
    return new_store_url()


def sqlite_url(folder: Path) -> str:
    """Return the URL of a new SQLite file in `folder`."""
    return f"sqlite:///{folder.absolute()}/parlance.db"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which engines did not run: a green line must not hide it."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if _MISSING in reason:
            text = reason.split(_MISSING, 1)[1]
            reasons[text] = reasons.get(text, 0) + 1
    left_out = [name for name in SQL_ENGINES if name not in CHOSEN_ENGINES]
    if not reasons and not left_out:
        return
    terminalreporter.section("SERVERS THAT DID NOT TAKE PART", sep="!", yellow=True, bold=True)
    for text, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} tests skipped: {text}", yellow=True)
    for name in left_out:
        title = "SQLite" if name == "sqlite" else TITLES[KINDS[KINDS.index(name)]]
        terminalreporter.write_line(f"{title}: left out by PARLANCE_TEST_ENGINES", yellow=True)


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """An AI service that takes any model name, and with it any behaviour."""
    from bench.provider.server import ScriptedProvider

    provider = ScriptedProvider()
    provider.models = []
    await provider.start()
    yield provider
    await provider.aclose()


@pytest.fixture
async def mem0() -> AsyncIterator[FakeMem0]:
    """A mem0 server that wants no key."""
    from bench.provider.mem0 import FakeMem0

    mem0 = FakeMem0()
    await mem0.start()
    yield mem0
    await mem0.aclose()
