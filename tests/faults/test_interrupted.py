"""An answer that the server's death cut off: the person only waits, and everything is in order."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from bench.fixture import Place, ServerUnderTest
from bench.smoke import Crowd
from clients.client import Client
from clients.events import Link
from clients.timing import Timing
from protocol.codes import ConvKind, EndReason, MsgKind, Scope
from protocol.rows import Msg
from tests.faults.test_kill import Store, needs, running
from tests.support.eventually import WAIT_S, eventually
from tests.support.turns import until_kept

QUICK = Timing(backoff_s=0.2, backoff_max_s=1.0, first_retry_s=0.2)
RESTARTED_S = 60.0
QUESTION = "tell me a long story about a lighthouse"


@asynccontextmanager
async def signed_in(server: ServerUnderTest, where: Place, user: int) -> AsyncIterator[Client]:
    async def source(_: bool) -> str:
        return where.tokens([user])[0]

    client = Client(f"parlance://127.0.0.1:{server.port}", source, timing=QUICK)
    await client.start()
    try:
        await client.wait_online(WAIT_S)
        yield client
    finally:
        await client.close()


async def ask(client: Client) -> int:
    """Open a conversation with a persona and ask; return the conversation."""
    page = await client.persona_page(Scope.PUBLIC)
    info = await client.create_conversation(ConvKind.AI, persona=page.items[0].id)
    conv = info.row.id or 0
    await client.watch([conv])
    await client.send(conv, QUESTION)
    return conv


def rows(client: Client, conv: int) -> list[Msg]:
    view = client.feeds.convs.get(conv)
    return [view.messages[seq] for seq in view.seqs] if view else []


def answers_to_question(client: Client, conv: int) -> list[Msg]:
    found = rows(client, conv)
    asked = [row.seq for row in found if row.text == QUESTION]
    return [r for r in found if asked and r.seq > asked[0] and r.kind == MsgKind.AI_REPLY]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "store",
    [pytest.param("sqlite", marks=needs("sqlite")), pytest.param("mysql", marks=needs("mysql"))],
)
def test_a_killed_answer_comes_back_as_partial_and_marked_and_the_talk_goes_on(
    store: Store,
) -> None:
    crowd = Crowd(2, [], [])
    with running(store, crowd, words_per_s=12) as (server, seeded, where):

        async def scene() -> None:
            async with signed_in(server, where, seeded.users[0]) as client:
                conv = await ask(client)
                await eventually(lambda: client.streams.running)
                await until_kept(where.url, 1)
                await asyncio.to_thread(server.kill)
                server.start_again()
                await eventually(lambda: answers_to_question(client, conv), RESTARTED_S)
                (answer,) = answers_to_question(client, conv)
                assert answer.text, "the partial text is kept"
                assert answer.x is not None
                assert answer.x.finish == EndReason.INTERRUPTED
                assert client.link is Link.ONLINE
                assert not client.streams.running
                await client.send(conv, "hello again")
                await eventually(lambda: len(answers_to_question(client, conv)) == 2)
                _, second = answers_to_question(client, conv)
                assert second.x is not None
                assert second.x.finish == EndReason.STOP

        uvloop.run(scene())


@pytest.mark.timeout(300)
@needs("sqlite")
def test_a_question_whose_answer_had_not_begun_is_asked_again_after_the_restart() -> None:
    crowd = Crowd(2, [], [])
    with running("sqlite", crowd, words_per_s=12) as (server, seeded, where):

        async def scene() -> None:
            async with signed_in(server, where, seeded.users[0]) as client:
                conv = await ask(client)
                # At once after the acknowledgement: nothing can have been saved of the answer.
                os.kill(server.pid, 9)
                await asyncio.to_thread(server.kill)
                server.start_again()
                await eventually(lambda: answers_to_question(client, conv), RESTARTED_S)
                (answer,) = answers_to_question(client, conv)
                assert answer.x is not None
                assert answer.x.finish == EndReason.STOP

        uvloop.run(scene())
