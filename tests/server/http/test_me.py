"""People erase their account, or one of their conversations, over HTTP."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from protocol.codes import Code, ConvKind
from storage.conversations import create_conversation
from storage.erasure import Erasure, Kind, begin_user, get_erasure
from storage.ids import new_id
from storage.people import get_users
from storage.rows import NewConversation
from storage.writes import Append
from tests.server.http.conftest import Answer, Site
from tests.support.eventually import WAIT_S


async def delete(site: Site, token: str, path: str = "me", **body: Any) -> Answer:
    headers = {"Authorization": f"Bearer {token}"}
    return await site.ask("DELETE", f"/api/v1/{path}", json=body, headers=headers)


async def finished(site: Site, kind: Kind, target: int) -> Erasure:
    """Wait until an erasure is done; return it."""

    async def look() -> Erasure:
        while True:
            job = await site.core.store.read(get_erasure(kind, target))
            if job is not None and job.finished:
                return job
            await asyncio.sleep(0.01)

    return await asyncio.wait_for(look(), WAIT_S)


async def talk(site: Site, kind: ConvKind, *users: int) -> int:
    """Return a conversation with one message of the first user."""
    conv = new_id()
    new = NewConversation(conv, 1, int(kind), users[0], conv.to_bytes(16, "big"), "t", [*users[1:]])
    await site.core.store.change(users, partial(create_conversation, new=new))
    site.core.store.submit(Append(conv, users[0], bytes(16), 0, "words"))
    return conv


async def test_the_password_is_asked_once_more(site: Site) -> None:
    anna = await site.register()
    for body in ({}, {"password": "wrong password"}):
        answer = await delete(site, anna["token"], **body)
        assert (answer.status, answer.error["code"]) == (401, Code.BAD_CREDENTIALS)
    user = anna["user"]["id"]
    assert await site.core.store.read(get_erasure(Kind.USER, user)) is None
    assert (await site.auth("login", name="Anna", password="right password")).status == 200


async def test_an_account_is_erased_and_its_tokens_are_void_at_once(site: Site) -> None:
    anna = await site.register()
    user = anna["user"]["id"]
    answer = await delete(site, anna["token"], password="right password")
    assert (answer.status, answer.json) == (202, {"erasing": user})
    again = await delete(site, anna["token"], password="right password")
    assert (again.status, again.error["code"]) == (401, Code.REVOKED)
    assert (await site.auth("refresh", refresh_token=anna["refresh_token"])).status == 401
    assert (await site.auth("login", name="Anna", password="right password")).status == 401
    await finished(site, Kind.USER, user)
    assert (await site.core.store.read(get_users([user])))[0].name == f"erased-{user}"
    assert (await site.register())["user"]["id"] != user


async def test_guesses_at_the_password_are_slowed_down(site: Site) -> None:
    anna = await site.register()
    codes = [(await delete(site, anna["token"], password=f"guess {n}")).status for n in range(7)]
    assert codes[0] == 401
    assert codes[-1] == 429


async def test_guests_have_no_password_to_be_asked(site: Site) -> None:
    guest = (await site.auth("guest", nick="G")).json
    assert (await delete(site, guest["token"])).status == 202
    await finished(site, Kind.USER, guest["user"]["id"])


async def test_a_token_is_needed(site: Site) -> None:
    assert (await site.ask("DELETE", "/api/v1/me", json={})).status == 401
    assert (await site.ask("DELETE", "/api/v1/conversations/5", json={})).status == 401


async def test_people_erase_their_own_conversation_with_a_persona(site: Site) -> None:
    anna = await site.register()
    conv = await talk(site, ConvKind.AI, anna["user"]["id"])
    answer = await delete(site, anna["token"], f"conversations/{conv}")
    assert (answer.status, answer.json) == (202, {"erasing": conv})
    assert (await finished(site, Kind.CONVERSATION, conv)).done == 1
    assert (await delete(site, anna["token"], f"conversations/{conv}")).status == 404


async def test_nobody_erases_what_is_others_too(site: Site) -> None:
    anna, bert = await site.register(), await site.register("Bert")
    users = [one["user"]["id"] for one in (anna, bert)]
    group = await talk(site, ConvKind.GROUP, *users)
    answer = await delete(site, anna["token"], f"conversations/{group}")
    assert answer.status == 403
    assert "recall" in answer.error["message"]
    alone = await talk(site, ConvKind.AI, users[0])
    for conv in (alone, 5, 2**60):
        assert (await delete(site, bert["token"], f"conversations/{conv}")).status == 404


async def test_a_command_of_another_process_is_noticed(site: Site) -> None:
    anna = await site.register()
    user = anna["user"]["id"]
    refresh = site.app._refresh
    assert refresh is not None
    await refresh.run()
    await site.core.store.change((user,), partial(begin_user, user=user))
    assert "erasures" in await refresh.run()
    await finished(site, Kind.USER, user)
