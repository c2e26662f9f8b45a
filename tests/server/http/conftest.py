"""A whole server in this process, and a client that talks HTTP to it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from server.accounts import Accounts
from server.app import App
from server.config import load
from server.core import Core
from server.passwords import Passwords


class Answer(NamedTuple):
    """One HTTP answer, read whole."""

    status: int
    headers: Any
    body: bytes
    json: Any

    @property
    def error(self) -> Any:
        return self.json["error"]


class Site:
    """A running server and a session towards it."""

    def __init__(self, app: App, session: aiohttp.ClientSession) -> None:
        self.app = app
        self.session = session
        self.closing: list[Callable[[], Awaitable[None]]] = []
        self.port = app.port
        self.url = f"http://127.0.0.1:{app.port}"

    @property
    def core(self) -> Core:
        assert self.app.core is not None
        return self.app.core

    @property
    def accounts(self) -> Accounts:
        assert self.app._accounts is not None
        return self.app._accounts

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send one request; return the answer."""
        async with self.session.request(method, self.url + path, **options) as response:
            body = await response.read()
            is_json = response.content_type == "application/json"
            content = await response.json() if is_json else None
            return Answer(response.status, response.headers, body, content)

    async def auth(self, door: str, token: str = "", **body: Any) -> Answer:
        """POST to a door of /api/v1/auth."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.ask("POST", f"/api/v1/auth/{door}", json=body, headers=headers)

    async def register(self, name: str = "Anna", password: str = "right password") -> Any:
        """Return what a new account is told."""
        answer = await self.auth("register", name=name, password=password)
        assert answer.status == 201, answer
        return answer.json


@pytest.fixture
def settings() -> dict[str, object]:
    """Settings of the server under test; tests may add to them by parametrising."""
    return {}


@pytest.fixture
async def site(
    tmp_path: Path, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """A server on a free port with an SQLite file, and a client session."""
    # The real cost of a hash is tested elsewhere; here it would be most of the time.
    monkeypatch.setattr("server.accounts.Passwords", lambda workers: Passwords(workers, 64))
    base: dict[str, object] = {
        "server.port": 0,
        "server.data_dir": str(tmp_path),
        "server.gc_freeze": False,
        "server.drain_s": 0,
        "ai.detect": False,
    }
    app = App(load(None, {}, base | settings))
    await app.start()
    async with aiohttp.ClientSession() as session:
        site = Site(app, session)
        yield site
        for close in site.closing:  # what a failed test left open would keep the loop
            await close()
    await app.stop()
