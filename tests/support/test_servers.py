"""The private servers themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncmy
import pytest
import redis.asyncio

from tests.support import servers
from tests.support.servers import Kind, Server, ServerHandle, ServerUnavailable
from tests.support.sql import run_statements


async def _answer(url: str) -> object:
    """Connect as the server's users will, by asyncmy or redis; return what is one."""
    parts = urlsplit(url)
    if parts.scheme == "redis":
        client = redis.asyncio.Redis.from_url(url)
        try:
            return int(await client.ping())
        finally:
            await client.aclose()
    connection = await asyncmy.connect(
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        db=parts.path.lstrip("/"),
    )
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT 1")
            return (await cursor.fetchone())[0]
    finally:
        connection.close()


def skip_unless_private(server: Server) -> None:
    """Skip where a server of the developer's own stands in for those that cannot run here."""
    if server.external:
        pytest.skip("the address of an own server is set")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("mysql", marks=pytest.mark.mysql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
        pytest.param("redis", marks=pytest.mark.redis),
    ],
)
async def test_server_answers_again_on_its_port_after_kill_and_restart(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    skip_unless_private(request.getfixturevalue(f"{kind}_server"))
    with servers.private(kind) as handle:
        url = handle.create_database()
        assert await _answer(url) == 1
        pids = [handle.pid]
        await asyncio.to_thread(handle.kill)
        pids.append(handle.pid)
        with pytest.raises((OSError, redis.exceptions.ConnectionError, asyncmy.errors.Error)):
            await _answer(url)
        await asyncio.to_thread(handle.start)
        assert await _answer(url) == 1
        pids.append(handle.pid)
        await asyncio.to_thread(handle.restart)
        assert await _answer(url) == 1
        pids.append(handle.pid)
    assert pids[1] is None
    assert len(set(pids)) == 4
    assert handle.pid is None
    assert not handle.log.exists()


def test_each_created_database_is_empty_and_apart(store_engine: str, store_url: str) -> None:
    if store_engine == "sqlite":
        assert not Path(urlsplit(store_url).path).exists()
        return
    assert run_statements(store_url, ["SHOW TABLES"]) == []


def test_created_databases_differ(new_store_url: Callable[[], str], store_url: str) -> None:
    assert new_store_url() != store_url


@pytest.mark.parametrize("fixture", ["mysql_server", "mariadb_server"])
def test_sql_servers_are_durable_at_every_commit(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(fixture)
    rows = server.execute(
        "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@innodb_doublewrite"
    )
    assert rows in ([(1, 0, 1)], [(1, 0, "ON")])


def test_paused_server_keeps_connections_and_says_nothing(redis_server: Server) -> None:
    skip_unless_private(redis_server)
    with servers.private("redis") as handle:
        handle.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            redis.Redis.from_url(handle.url, socket_timeout=0.05, retry=None).ping()
        handle.resume()
        with redis.Redis.from_url(handle.url) as client:
            assert client.ping()


def test_servers_of_a_dead_owner_are_swept(redis_server: Server) -> None:
    skip_unless_private(redis_server)
    code = (
        "import os; from tests.support import servers; manager = servers.private('redis'); "
        "print(manager.__enter__().name, flush=True); os._exit(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    orphan = ServerHandle("redis", done.stdout.strip())
    pids = [orphan.pid]
    with servers.private("redis"):
        pids.append(orphan.pid)
    assert pids[0] is not None
    assert pids[1] is None


def test_own_address_is_used_instead_of_a_private_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLANCE_TEST_MYSQL_URL", "mysql://me@127.0.0.1:1/db")
    with servers.open_server("mysql") as server:
        assert server.external
        assert server.url == "mysql://me@127.0.0.1:1/db"


def test_cache_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("PARLANCE_TEST_SERVERS_DIR", str(tmp_path))
    monkeypatch.delenv("PARLANCE_TEST_REDIS_URL", raising=False)
    with pytest.raises(ServerUnavailable, match="only this user"):
        servers.prepare("redis")


@pytest.mark.parametrize("name", ["", "../up", "1", "Upper"])
def test_server_names_that_could_leave_the_cache_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        servers.start("redis", name)


def test_wrong_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert servers.main(["start", "oracle"]) == 2
    assert "start KIND" in capsys.readouterr().err
