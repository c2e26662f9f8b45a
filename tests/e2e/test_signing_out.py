"""A device that is signed out from another one stays out, whether it was connected or not."""

from __future__ import annotations

import asyncio

import pytest

from clients.auth import Account
from clients.client import Client
from clients.errors import SignInFailed, Stopped
from clients.events import Link
from protocol.codes import Code
from tests.e2e.harness import PASSWORD, Process, group
from tests.support.eventually import WAIT_S, eventually


async def signed_in(server: Process, name: str) -> Account:
    """Return one more sign-in of somebody."""
    account = Account(server.url())
    await account.login(name, PASSWORD)
    return account


async def listed(client: Client, count: int) -> set[bytes | None]:
    """Return the devices shown once they are so many: each is stored behind its welcome."""
    async with asyncio.timeout(WAIT_S):
        while len(found := await client.list_devices()) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # a request each time: within the rate
        return {item.device for item in found}


async def refused(client: Client) -> int:
    """Return why a client that starts is sent away for good."""
    with pytest.raises((Stopped, SignInFailed)) as caught:
        async with client:
            await client.wait_online(WAIT_S)
    assert isinstance(caught.value, Stopped | SignInFailed)
    return caught.value.code


async def test_who_was_away_while_being_signed_out_elsewhere_cannot_come_back(
    server: Process,
) -> None:
    name = "Away"
    await Account(server.url()).register(name, PASSWORD)
    here, lost, third = [await signed_in(server, name) for _ in range(3)]
    for _ in range(3):  # the sign-in outlives its tokens
        await lost.token(renew=True)
    async with server.online(here) as client, server.online(third, "ws") as other:
        async with server.online(lost) as one_tab, server.online(lost, "ws") as next_tab:
            tabs = {one_tab.device, next_tab.device}
        (entry,) = tabs & await listed(client, 3)
        await client.drop_device(entry)
        assert len(await listed(client, 2)) == 2

        # Its last token has not ended yet, on a known device or on a fresh one.
        assert await refused(server.client(lost)) == Code.REVOKED
        assert await refused(server.client(lost, "ws")) == Code.REVOKED
        with pytest.raises(SignInFailed):
            await lost.token(renew=True)

        # The others never notice.
        conv = await group(client)
        assert (await client.send(conv, "still here")).seq == 1
        assert await here.token(renew=True)
        assert await third.token(renew=True)
        await eventually(lambda: conv in other.feeds.convs)
        # The person signs in there again.
        async with server.online(await signed_in(server, name)) as back:
            assert back.user == client.user


async def test_connections_of_a_sign_in_close_when_one_of_its_devices_is_signed_out(
    server: Process,
) -> None:
    name = "Connected"
    await Account(server.url()).register(name, PASSWORD)
    here, there = [await signed_in(server, name) for _ in range(2)]
    async with (
        server.online(here) as client,
        server.online(there) as tab,
        server.online(there, "json") as next_tab,
    ):
        await listed(client, 2)
        await client.drop_device(tab.device)
        for gone in (tab, next_tab):
            await eventually(lambda gone=gone: gone.link is Link.STOPPED)  # type: ignore[misc]
        await listed(client, 1)
    with pytest.raises(SignInFailed):
        await there.token(renew=True)


async def test_a_new_password_ends_every_sign_in_but_the_one_that_set_it(server: Process) -> None:
    name = "Renewed"
    await Account(server.url()).register(name, PASSWORD)
    here, there = [await signed_in(server, name) for _ in range(2)]
    await here.token(renew=True)
    await here.change_password(PASSWORD, "another right long password")
    assert await refused(server.client(there)) == Code.REVOKED
    with pytest.raises(SignInFailed):
        await there.token(renew=True)
    async with server.online(here):
        pass
    assert await here.token(renew=True)
