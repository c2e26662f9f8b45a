"""The promise that everything else stands on: acknowledged means stored, whatever is killed.

A crowd talks through a relay while the server, or its database, is killed again and again. At the
end every view equals the store: no hole, no duplicate, every acknowledged message where its
sender was told, no AI turn left open.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import pytest
import uvloop

from bench.fixture import Place, ServerUnderTest, Setup, place, serving
from bench.seed import Seeded, seed
from bench.smoke import Crowd, Party, make_crowd
from bench.smoke_check import Verdict, check_acks, check_stored, check_view, read_store, shown
from clients.events import Link
from tests.conftest import CHOSEN_ENGINES
from tests.support.eventually import eventually
from tests.support.servers import ServerUnavailable

Store = Literal["sqlite", "mysql", "mariadb"]

KILLS = 20
GUESTS = 24
RATE = 8.0


def needs(store: Store) -> "pytest.MarkDecorator":
    chosen = store in CHOSEN_ENGINES
    return pytest.mark.skipif(not chosen, reason=f"{store} is not among PARLANCE_TEST_ENGINES")


@contextmanager
def running(
    store: Store, crowd: Crowd, words_per_s: float = 60.0
) -> Iterator[tuple[ServerUnderTest, Seeded, Place]]:
    """A server of its own process on a fresh database with the crowd's conversations."""
    settings: dict[str, dict[str, object]] = {"ai": {"demo_words_per_s": words_per_s}}
    try:
        with place(Setup(store, settings)) as where:
            seeded = seed(where.url, crowd.users, crowd.groups)
            with serving(where, seeded.users[-1]) as server:
                yield server, seeded, where
    except ServerUnavailable as missing:
        pytest.skip(str(missing))


@asynccontextmanager
async def talking(
    server: ServerUnderTest, seeded: Seeded, crowd: Crowd, seconds: float
) -> AsyncIterator[Party]:
    """The crowd is signed in and talks while the block runs; afterwards it falls silent."""
    party = Party(server, seeded, crowd, 7)
    try:
        await party.open(GUESTS // 2, GUESTS - GUESTS // 2)
        talk = asyncio.get_running_loop().create_task(party.talk(seconds, RATE, 0.0))
        yield party
        await talk
        assert await party.quiet(), "clients still differ or wait for acknowledgements"
        await asyncio.gather(*(guest.load_all() for guest in party.guests))
    finally:
        await party.close()


def online(party: Party) -> int:
    """How many are signed in."""
    return sum(guest.client.link is Link.ONLINE for guest in party.guests)


async def judge(party: Party, url: str, convs: list[int]) -> tuple[Verdict, int]:
    """Compare every view with the store; return the differences and the acknowledged messages."""
    stored, unfinished = await read_store(url, convs)
    verdict = Verdict()
    acks = 0
    for conv, one in stored.items():
        check_stored(conv, one, verdict)
    for number, guest in enumerate(party.guests):
        acks += check_acks(guest.user, guest.acks, stored, verdict)
        for conv in guest.convs:
            view = guest.client.feeds.convs.get(conv)
            rows = {seq: shown(msg) for seq, msg in view.messages.items()} if view else {}
            check_view(str(number), conv, rows, stored[conv], verdict)
    if unfinished:
        verdict.differ("unfinished turns", str(unfinished))
    return verdict, acks


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "store",
    [pytest.param("sqlite", marks=needs("sqlite")), pytest.param("mysql", marks=needs("mysql"))],
)
def test_nothing_acknowledged_is_lost_when_the_server_is_killed_again_and_again(
    store: Store,
) -> None:
    rng = random.Random(11)
    crowd = make_crowd(GUESTS, rng)
    with running(store, crowd) as (server, seeded, where):

        async def scene() -> tuple[Party, Verdict, int]:
            async with talking(server, seeded, crowd, KILLS * 2.0) as party:
                for _ in range(KILLS):
                    await eventually(lambda: online(party) >= GUESTS // 2)
                    await asyncio.sleep(rng.uniform(0.1, 0.6))
                    await asyncio.to_thread(server.kill)
                    server.start_again()
            await asyncio.to_thread(server.stop)
            return party, *await judge(party, where.url, seeded.convs)

        party, verdict, acks = uvloop.run(scene())
    assert not verdict.counts, verdict.examples
    assert acks > KILLS * GUESTS, "too little load to mean anything"
    # Some miss a whole life of the server while they wait for their next attempt.
    assert sum(guest.client.connects for guest in party.guests) > KILLS * GUESTS / 4


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "store",
    [pytest.param("mysql", marks=needs("mysql")), pytest.param("mariadb", marks=needs("mariadb"))],
)
def test_nothing_acknowledged_is_lost_when_the_database_is_killed_under_load(
    store: Store,
) -> None:
    rng = random.Random(12)
    crowd = make_crowd(GUESTS, rng)
    with running(store, crowd) as (server, seeded, where):
        database = where.database
        assert database is not None

        async def scene() -> tuple[Verdict, int]:
            async with talking(server, seeded, crowd, 12) as party:
                for _ in range(4):
                    await asyncio.sleep(rng.uniform(0.5, 1.5))
                    await asyncio.to_thread(database.handle.kill)
                    await asyncio.sleep(rng.uniform(0.1, 0.8))
                    await asyncio.to_thread(database.handle.start)
            server.check()
            await asyncio.to_thread(server.stop)
            return await judge(party, where.url, seeded.convs)

        verdict, acks = uvloop.run(scene())
    assert not verdict.counts, verdict.examples
    assert acks > GUESTS * 10, "too little load to mean anything"
