"""What only a database server can do to us: cancel, restart, refuse, encrypt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from storage.errors import NotDurable, OpenFailed, StatementFailed, StoreUnavailable
from storage.mysql import MysqlEngine, parse_url
from storage.mysql_text import encode_bulk, encode_statement, literal
from storage.ops import Bulk, Op, Rows, Statement
from storage.rows import StoreOptions
from storage.store import Store
from tests.conftest import CHOSEN_ENGINES
from tests.storage.world import World, cid
from tests.support.eventually import WAIT_S
from tests.support.servers import Kind, ServerHandle, ServerUnavailable, private

ENGINES = [
    pytest.param(name, marks=getattr(pytest.mark, name))
    for name in ("mysql", "mariadb")
    if name in CHOSEN_ENGINES
]


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[ServerHandle]:
    """A server of our own, which tests may kill."""
    kind: Kind = request.param
    try:
        with private(kind) as handle:
            yield handle
    except ServerUnavailable as error:
        pytest.skip(f"SERVER MISSING: {error}")


@pytest.fixture
async def own(server: ServerHandle) -> AsyncIterator[Store]:
    await asyncio.to_thread(server.start)
    url = await asyncio.to_thread(server.create_database)
    store = await Store.open(StoreOptions(url=url, readers=2))
    yield store
    await store.close(2)


def query(sql: str, *args: Any) -> Op[Rows]:
    return (yield Statement(sql, args))


async def test_a_cancelled_read_leaves_a_clean_pool(own: Store) -> None:
    for snapshot in (False, True):
        waiting = asyncio.create_task(
            own.read(query("SELECT SLEEP(?), 'stale'", 5), snapshot=snapshot)
        )
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        answers = await asyncio.gather(
            *(own.read(query("SELECT ?", number), snapshot=snapshot) for number in range(20))
        )
        assert [rows[0][0] for rows in answers] == list(range(20))


async def test_readers_are_bounded_and_share_their_sessions(own: Store) -> None:
    rows = await asyncio.gather(*(own.read(query("SELECT CONNECTION_ID()")) for _ in range(40)))
    assert len({row[0][0] for row in rows}) <= 2


async def test_an_idle_session_that_the_server_closed_is_replaced(own: Store) -> None:
    await own.read(query("SET SESSION wait_timeout = 1"))
    await asyncio.sleep(1.3)
    assert (await own.read(query("SELECT 7")))[0][0] == 7


async def test_a_session_that_was_killed_unnoticed_is_replaced(own: Store) -> None:
    ids = {(await own.read(query("SELECT CONNECTION_ID()")))[0][0] for _ in range(3)}
    engine: Any = own._engine
    for number in ids:
        await engine.transact(lambda number=number: query(f"KILL {number}"))
    assert (await own.read(query("SELECT 7")))[0][0] == 7
    writer = (await engine.transact(lambda: query("SELECT CONNECTION_ID()")))[0][0]
    await own.read(query(f"KILL {writer}"))
    user = await World(own).user()
    assert user


async def test_messages_survive_kill_9_exactly_once(own: Store, server: ServerHandle) -> None:
    world = World(own)
    users = await world.users(3)
    convs = [await world.conv(users) for _ in range(4)]
    futures = []
    for number in range(600):
        futures.append(world.submit(convs[number % 4], users[number % 3], str(number)))
        if number == 300:
            await asyncio.sleep(0.02)
            await asyncio.to_thread(server.kill)
    await asyncio.sleep(0.05)
    health = await own.health()
    assert not health.ok
    with pytest.raises(StoreUnavailable):
        await own.read(query("SELECT 1"))
    await asyncio.to_thread(server.start)
    sent = await asyncio.wait_for(asyncio.gather(*futures), WAIT_S)
    for index, conv in enumerate(convs):
        msgs = await world.all_messages(conv)
        assert [int(m.text) for m in msgs] == list(range(index, 600, 4))
        assert [m.seq for m in msgs] == list(range(1, 151))
        assert [s.seq for s in sent[index::4]] == list(range(1, 151))
    assert (await own.health()).ok


async def test_weak_durability_is_refused_unless_allowed(own: Store, server: ServerHandle) -> None:
    url = await asyncio.to_thread(server.create_database)
    await asyncio.to_thread(server.execute, "SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        with pytest.raises(NotDurable, match="innodb_flush_log_at_trx_commit is 2, not 1"):
            await Store.open(StoreOptions(url=url))
        health = await own.health()
        assert (health.ok, health.durable) == (False, False), "noticed while running, too"
        store = await Store.open(StoreOptions(url=url, allow_weak_durability=True))
        health = await store.health()
        assert (health.ok, health.durable) == (True, False)
        await store.close(1)
    finally:
        await asyncio.to_thread(server.execute, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    assert (await own.health()).durable


async def test_a_wrong_password_is_refused_without_saying_it(server: ServerHandle) -> None:
    await asyncio.to_thread(server.start)
    address = parse_url(server.url)
    url = f"mysql://{address.user}:wr0ng@{address.host}:{address.port}/{address.database}"
    with pytest.raises(OpenFailed, match="1045") as refused:
        await Store.open(StoreOptions(url=url))
    assert "wr0ng" not in str(refused.value)


async def test_sessions_can_be_encrypted(own: Store, server: ServerHandle) -> None:
    plain = await own.read(query("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
    assert plain[0][1] == ""
    if server.ca is None:
        pytest.skip("this server speaks no TLS")
    address = parse_url(server.url)
    base = f"mysql://{address.user}:{address.password}@{address.host}:{address.port}"
    store = await Store.open(StoreOptions(url=f"{base}/{address.database}?ssl=on"))
    cipher = await store.read(query("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
    assert cipher[0][1]
    world = World(store)
    user = await world.user()
    conv = await world.conv([user])
    await world.send(conv, user, "加密 🔐" * 10_000)
    assert len((await world.all_messages(conv))[0].text) == 40_000
    await store.close(1)
    # The certificate that the server made for itself names no host.
    strict = StoreOptions(url=f"{base}/{address.database}?ssl=verify&ssl_ca={server.ca}")
    with pytest.raises(OpenFailed, match="SSLCertVerificationError"):
        await Store.open(strict)


async def test_two_writers_share_conversations_without_holes(own: Store) -> None:
    engine: Any = own._engine
    options = StoreOptions(url="", readers=2)
    others = [own]
    database = engine._address.database
    address = engine._address
    url = f"mysql://{address.user}:{address.password}@{address.host}:{address.port}/{database}"
    others += [await Store.open(StoreOptions(url=url, readers=options.readers)) for _ in range(2)]
    worlds = [World(store) for store in others]
    users = await worlds[0].users(3)
    convs = [await worlds[0].conv(users) for _ in range(6)]
    futures = [
        worlds[number % 3].submit(convs[number % 6 if number % 5 else 0], users[0], cid_=cid())
        for number in range(900)
    ]
    # The same message by two processes: stored once.
    twins = [world.submit(convs[1], users[1], "twin", cid(4_242)) for world in worlds]
    await asyncio.gather(*futures)
    outcome = await asyncio.gather(*twins)
    assert sorted(t.dup for t in outcome) == [False, True, True]
    assert len({t.seq for t in outcome}) == 1
    total = 0
    for conv in convs:
        msgs = await worlds[0].all_messages(conv)
        assert [m.seq for m in msgs] == list(range(1, len(msgs) + 1))
        total += len(msgs)
    assert total == 901
    for store in others[1:]:
        await store.close(2)


# text


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (5, "5"),
        (-(2**53), "-9007199254740992"),
        (True, "1"),
        (None, "NULL"),
        (0.5, "0.5"),
        (b"\x00'\\", "x'00275c'"),
        ("it's", r"'it\'s'"),
        ("a\\b\0\n\x1a", r"'a\\b\0\n\Z'"),
        ("😀", "'😀'"),
    ],
)
def test_values_are_written_by_their_type(value: object, sql: str) -> None:
    assert literal(value) == sql


def test_what_has_no_sql_form_is_refused() -> None:
    for value in (float("nan"), float("inf"), object(), [1]):
        with pytest.raises(StatementFailed):
            literal(value)
    with pytest.raises(StatementFailed):
        encode_statement(Statement("SELECT ?", (1, 2)))
    with pytest.raises(StatementFailed):
        encode_statement(Statement("SELECT ?", ("\ud800",)))


def test_a_question_mark_in_a_value_stays_a_value() -> None:
    text = encode_statement(Statement("SELECT ?, ?", ("?", "%s")))
    assert text == b"SELECT '?', '%s'"


def test_many_rows_are_cut_by_size_and_never_lost() -> None:
    rows = [(number, "x" * 100) for number in range(50)]
    pieces = list(encode_bulk(Bulk("INSERT ", rows, " END"), 1_000))
    assert len(pieces) > 5
    assert all(p.startswith(b"INSERT (") and p.endswith(b") END") for p in pieces)
    assert all(len(p) <= 1_100 for p in pieces)
    assert sum(p.count(b"(") for p in pieces) == 50
    assert len(list(encode_bulk(Bulk("I ", [("x" * 5_000,)]), 1_000))) == 1


def test_an_engine_hides_its_password() -> None:
    engine = MysqlEngine(StoreOptions(url="mysql://u:s3cret@h/d"))
    assert "s3cret" not in repr(engine._address)
