"""Accounts over HTTP, then the same chat whichever door was taken."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from clients.auth import Account
from clients.client import Client
from clients.errors import SignInFailed
from protocol.codes import AiMode, ConvKind, Scope
from protocol.rows import Msg, SendX, User
from tests.e2e.harness import (
    DOORS,
    PASSWORD,
    Process,
    group,
    rows,
    texts,
    view,
)
from tests.support.eventually import WAIT_S, eventually

TEXTS = ("hello", "你好，世界 🙂", "two\nlines", "x" * 4000)


def content(row: Msg) -> tuple[object, ...]:
    """Return what must be the same in every row of one text."""
    return (row.kind, row.text, None if row.x is None else row.x.quote)


@pytest.mark.parametrize("door", DOORS)
async def test_an_account_is_made_signed_in_and_renewed_over_http_and_then_talks(
    server: Process, door: str
) -> None:
    name = f"Anna-{door}"
    made = await Account(server.url()).register(name, PASSWORD, "Anna")
    account = Account(server.url())
    with pytest.raises(SignInFailed):
        await account.login(name, "a wrong long password")
    signed_in = await account.login(name, PASSWORD)
    assert signed_in.user.id == made.user.id
    before = signed_in.access_token
    assert await account.token(renew=True) != before
    async with server.online(account, door) as client:
        assert client.user == made.user.id
        conv = await group(client)
        assert (await client.send(conv, "hello")).seq == 1
    with pytest.raises(SignInFailed):
        await Account(server.url()).register(name, PASSWORD)


async def test_the_same_message_by_each_door_gives_the_same_row_and_the_same_push(
    server: Process,
) -> None:
    async with AsyncExitStack() as stack:
        people = [await stack.enter_async_context(server.online(door=door)) for door in DOORS]
        conv = await group(people[0], *(one.user for one in people[1:]))
        for client in people:
            for text in TEXTS:
                await client.send(conv, text)
        total = len(DOORS) * len(TEXTS)
        for client in people:
            await eventually(lambda c=client: len(rows(c, conv)) == total)  # type: ignore[misc]
        # What was pushed or acknowledged equals what a page reads from the store, for everybody.
        pages = [(await client.history(conv)).msgs for client in people]
        for client, page in zip(people, pages, strict=True):
            assert [(r.seq, r.rev, r.ts, r.sender, r.text) for r in rows(client, conv)] == [
                (r.seq, r.rev, r.ts, r.sender, r.text) for r in page
            ]
            assert page == sorted(page, key=lambda row: row.seq)
        by_sender = [
            [content(row) for row in pages[0] if row.sender == client.user] for client in people
        ]
        assert by_sender[0] == by_sender[1] == by_sender[2]
        assert [text for _, text, _ in by_sender[0]] == list(TEXTS)


def choice(client: Client) -> int | None:
    """Return the persona that this client's user has chosen."""
    profile = client.feeds.profile
    return None if profile is None or profile.row is None else profile.row.persona


async def test_two_devices_of_one_user_see_the_same_and_share_the_choice_of_persona(
    server: Process,
) -> None:
    account = await server.newcomer()
    async with server.online(account) as phone, server.online(account, "ws") as laptop:
        personas = (await phone.persona_page(Scope.PUBLIC)).items
        chosen = personas[-1].id
        await phone.set_profile(User(persona=chosen))
        await eventually(lambda: choice(laptop) == chosen)
        info = await phone.create_conversation(ConvKind.AI, persona=chosen, title="ours")
        conv = info.row.id or 0
        await eventually(lambda: conv in laptop.feeds.convs)
        quiet = SendX(ai=int(AiMode.NONE))
        await asyncio.gather(
            *(phone.send(conv, f"from the phone {n}", x=quiet) for n in range(5)),
            *(laptop.send(conv, f"from the laptop {n}", x=quiet) for n in range(5)),
        )
        await eventually(lambda: len(texts(phone, conv)) == 11)
        await eventually(lambda: texts(laptop, conv) == texts(phone, conv))
        assert view(laptop, conv).row.persona == view(phone, conv).row.persona == chosen
        async with server.online(account, "json") as tablet:
            assert choice(tablet) == chosen


async def test_a_device_that_was_away_finds_everything(
    server: Process,
) -> None:
    account = await server.newcomer()
    async with server.online(account) as here:
        conv = await group(here)
        away = server.client(account, "ws")
        async with away:
            await away.wait_online(WAIT_S)
        for number in range(40):
            await here.send(conv, f"line {number}")
        async with server.online(account, "json") as later:
            await later.history(conv)
            assert [row.text for row in rows(later, conv)] == [f"line {n}" for n in range(40)]
