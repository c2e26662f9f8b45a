"""Signing in over HTTP, and tokens that renew themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from clients.auth import Account, Tokens
from clients.errors import SignInFailed
from protocol.rows import User
from tests.clients.fake_server import FakeServer


def answer(token: str, expires: int = 10_000_000) -> dict[str, Any]:
    return {
        "user": {"id": 1, "name": "ann"},
        "tenant": 1,
        "token": token,
        "expires": expires,
        "refresh_token": f"refresh-{token}",
    }


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


async def test_register_login_and_guest_give_tokens(server: FakeServer) -> None:
    kept: list[Tokens] = []
    for door in ("register", "login", "guest"):
        server.http_answers[f"/api/v1/auth/{door}"] = (200, answer(door))
    account = Account(server.url, changed=kept.append)
    await account.register("ann", "a good password")
    await account.login("ann", "a good password")
    await account.guest()
    assert [tokens.access_token for tokens in kept] == ["register", "login", "guest"]
    assert kept[0].user.name == "ann"
    assert server.http_requests[1][1] == {"name": "ann", "password": "a good password"}


async def test_refusal_carries_the_servers_advice(server: FakeServer) -> None:
    error = {"code": 200, "reason": "bad credentials", "message": "Name or password is wrong."}
    server.http_answers["/api/v1/auth/login"] = (401, {"error": error})
    with pytest.raises(SignInFailed, match="Name or password is wrong") as caught:
        await Account(server.url).login("ann", "wrong")
    assert (caught.value.code, caught.value.tag) == (200, "bad credentials")


async def test_token_is_refreshed_shortly_before_it_expires(server: FakeServer) -> None:
    server.http_answers["/api/v1/auth/refresh"] = (200, answer("fresh"))
    now = 0
    account = Account(
        server.url,
        tokens=Tokens(User(id=1), 1, "old", 100_000, "refresh-old"),
        now_ms=lambda: now,
    )
    assert await account.token() == "old"
    now = 50_000
    assert await account.token() == "fresh"
    assert server.http_requests[0][1]["refresh_token"] == "refresh-old"
    assert account.tokens is not None
    assert account.tokens.refresh_token == "refresh-fresh"


async def test_repeat_of_a_lost_refresh_is_the_same_attempt(server: FakeServer) -> None:
    server.http_answers["/api/v1/auth/refresh"] = (503, {})
    account = Account(server.url, tokens=Tokens(User(id=1), 1, "old", 0, "refresh-old"))
    for _ in range(2):
        with pytest.raises(OSError, match="busy"):
            await account.token()
    attempts = {body["attempt"] for _, body in server.http_requests}
    assert len(attempts) == 1
    server.http_answers["/api/v1/auth/refresh"] = (200, answer("fresh", 0))
    await account.token()
    await account.token()
    assert len({body["attempt"] for _, body in server.http_requests}) == 2


async def test_a_changed_password_signs_in_anew(server: FakeServer) -> None:
    server.http_answers["/api/v1/auth/password"] = (200, answer("new"))
    account = Account(server.url, tokens=Tokens(User(id=1), 1, "old", 10**15, "refresh-old"))
    await account.change_password("an old password", "a new password")
    assert server.http_requests == [
        ("/api/v1/auth/password", {"old": "an old password", "new": "a new password"}),
    ]
    assert server.http_bearers == ["Bearer old"]
    assert account.tokens is not None
    assert account.tokens.refresh_token == "refresh-new"


async def test_who_signs_out_is_out_at_once_and_the_server_hears_of_it() -> None:
    account: Account
    async with FakeServer() as server:
        server.http_answers["/api/v1/auth/logout"] = (204, {})
        account = Account(server.url, tokens=Tokens(User(id=1), 1, "a", 10**15, "refresh-a"))
        await account.logout()
        assert server.http_requests == [
            ("/api/v1/auth/logout", {"refresh_token": "refresh-a"}),
        ]
        with pytest.raises(SignInFailed, match="not signed in"):
            await account.token()
        account.tokens = Tokens(User(id=1), 1, "b", 10**15, "refresh-b")
    with pytest.raises(OSError):
        await account.logout()
    assert account.tokens is None


async def test_server_that_is_not_there_is_an_oserror() -> None:
    server = FakeServer()
    await server.start()
    await server.stop()
    with pytest.raises(OSError):
        await Account(server.url).guest()
