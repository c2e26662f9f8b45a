"""What people are told and asked while an answer is made, and what it used in the end."""

import json
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from bench.provider.reply import Said
from bench.provider.server import ScriptedProvider
from clients.events import StreamMoved, ToolAsked, ToolSettled
from protocol.codes import EndReason, Settled, StreamState
from tests.e2e.harness import (
    DOORS,
    Process,
    answers,
    ask,
    ended,
    first,
    talk,
)
from tests.e2e.serving import answering, serving
from tests.e2e.with_tools import one_at_a_time, tools_offered
from tests.support.eventually import eventually
from tests.support.tool_server import tool_server

SLOW = "tokens=10000,rate=20"
PRICED = "tokens=30"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server where one answer of a user runs at a time, and models have tools."""
    folder = tmp_path_factory.mktemp("narrow")
    with tool_server() as port, serving(one_at_a_time(folder, port)) as process:
        yield process


@pytest.fixture
async def service(narrow: Process) -> AsyncIterator[ScriptedProvider]:
    """The scripted service of that server."""
    async with answering(narrow.provider_port) as provider:
        yield provider


@pytest.mark.parametrize("door", ["tcp", "json"])
async def test_who_waits_sees_the_place_and_so_does_a_device_that_comes_later(
    narrow: Process, service: ScriptedProvider, door: str
) -> None:
    account = await narrow.newcomer()
    async with narrow.online(account, door) as client:
        conv = await talk(client)
        with client.events() as events:
            running, second, third = [(await ask(client, conv, SLOW)).sid or 0 for _ in range(3)]
            moved = await first(events, StreamMoved, sid=third)
            assert moved.place == 2
            async with narrow.online(account, "tcp") as late:
                watched = await late.watch([conv])
                assert watched is not None
                assert {pos.sid: pos.place for pos in watched.streams} == {
                    running: 0,
                    second: 1,
                    third: 2,
                }
                stream = late.streams.running[third]
                assert (stream.place, stream.state) == (2, StreamState.QUEUED)
                opened = await late.open_stream(third)
                assert (opened.state, opened.place) == (StreamState.QUEUED, 2)
                await client.cancel(running)
                assert (await first(events, StreamMoved, sid=second)).place == 0
                assert (await first(events, StreamMoved, sid=third)).place == 1
                await eventually(lambda: late.streams.running[third].place == 1)
            for sid in (second, third):
                await client.cancel(sid)
            await ended(events, third)


@pytest.mark.parametrize(("yes", "told"), [(True, "42"), (False, "nobody confirmed")])
async def test_a_tool_that_may_change_something_asks_first_after_text_from_outside(
    narrow: Process, service: ScriptedProvider, yes: bool, told: str
) -> None:
    await tools_offered(narrow, service)
    account = await narrow.newcomer()
    async with (
        narrow.online(account, confirms=True) as desk,
        narrow.online(account, "json", confirms=True) as phone,
        narrow.online(account, "ws") as cannot,
    ):
        conv = await talk(desk)
        with desk.events() as at_desk, phone.events() as at_phone, cannot.events() as elsewhere:
            service.replies.extend(
                [
                    Said(calls=(("peer_greet", '{"name": "小明"}'),)),
                    Said(calls=(("peer_add", '{"left": 40, "right": 2}'),)),
                    Said(text="So it is."),
                ]
            )
            sent = await ask(desk, conv, "tokens=1")
            asked = await first(at_phone, ToolAsked, sid=sent.sid)
            assert (asked.name, asked.left) == ("peer_add", 0)
            assert json.loads(asked.args) == {"left": 40, "right": 2}
            assert desk.questions.open == phone.questions.open == [asked]
            before = len(service.requests)
            await phone.confirm(asked.sid, asked.call, yes=yes)
            settled = await first(at_desk, ToolSettled, sid=sent.sid)
            assert settled.outcome is (Settled.YES if yes else Settled.NO)
            end = await ended(at_desk, sent.sid)
            assert (end.reason, end.text) == (EndReason.STOP, "So it is.")
        assert len(service.requests) == before + 1
        assert told in service.requests[-1].body["messages"][-1]["content"]
        assert desk.questions.open == phone.questions.open == []
        assert not [event async for event in elsewhere if isinstance(event, ToolAsked)]


async def test_where_nobody_can_be_asked_the_answer_is_no(
    narrow: Process, service: ScriptedProvider
) -> None:
    await tools_offered(narrow, service)
    async with narrow.online() as client:
        conv = await talk(client)
        with client.events() as events:
            service.replies.extend(
                [
                    Said(calls=(("peer_greet", "{}"),)),
                    Said(calls=(("peer_add", '{"left": 40, "right": 2}'),)),
                    Said(text="Not without you."),
                ]
            )
            sent = await ask(client, conv, "tokens=1")
            assert (await ended(events, sent.sid)).text == "Not without you."
        assert "nobody confirmed" in service.requests[-1].body["messages"][-1]["content"]


@pytest.mark.parametrize("door", DOORS)
async def test_people_see_what_their_answers_used_on_every_door(
    narrow: Process, service: ScriptedProvider, door: str
) -> None:
    account = await narrow.newcomer()
    async with narrow.online(account, door) as client, narrow.online() as other:
        before = await client.usage()
        assert (before.today.used_in, before.month.spent, before.today.quota) == (0, 0, 500_000)
        conv = await talk(client)
        with client.events() as events:
            sent = await ask(client, conv, PRICED)
            await ended(events, sent.sid)
        (row,) = answers(client, conv)
        assert row.x is not None
        assert row.x.usage is not None
        used_in, used_out = row.x.usage
        after = await client.usage()
        for use in (after.today, after.month):
            assert (use.used_in, use.used_out) == (used_in, used_out)
            assert use.spent == used_in + 2 * used_out
        assert after.today.resets <= after.month.resets
        assert (await other.usage()).month.used_in == 0
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{narrow.port}/api/v1/usage"
        headers = {"Authorization": f"Bearer {await account.token()}"}
        async with session.get(url, headers=headers) as response:
            told = await response.json()
    assert told["today"] == {
        "tokens_in": used_in,
        "tokens_out": used_out,
        "spent_micro": after.today.spent,
        "limit_micro": 500_000,
        "resets": after.today.resets,
    }
