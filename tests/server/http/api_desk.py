"""People who use the HTTP API, and connections of the socket to compare with."""

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

from protocol.codes import Caps
from protocol.envelopes import Frame, Hello, Welcome
from protocol.frames import PREFACE
from protocol.handshake import build_request, make_key
from storage.people import create_tenant
from tests.server.harness import Peer, device
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import bearer
from tests.support.eventually import WAIT_S

F = TypeVar("F", bound=Frame)

CONVERSATIONS = "/api/v1/conversations"


class Guest:
    """Somebody with a token."""

    def __init__(self, site: Site, made: Any) -> None:
        self.site = site
        self.id: int = made["user"]["id"]
        self.token: str = made["token"]
        self._document: dict[str, Any] = {}

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send one request; header names are written with underscores.

        Every answer must be one that the document names.
        """
        sent = bearer(self.token) | {name.replace("_", "-"): one for name, one in headers.items()}
        answer = await self.site.ask(method, path, json=body, headers=sent)
        assert answer.status in await self._documented(method, path), (method, path, answer)
        return answer

    async def _documented(self, method: str, path: str) -> set[int]:
        """Return the statuses that the document names for a request."""
        if not self._document:
            self._document = (await self.site.ask("GET", "/api/openapi.json")).json["paths"]
        plain = path.partition("?")[0]
        for pattern, methods in sorted(self._document.items()):  # words before parameters
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), plain):
                responses = methods[method.lower()]["responses"]
                return {int(status) for status in responses if status.isdecimal()}
        raise AssertionError(f"{path} is not in the document")

    async def get(self, path: str) -> Any:
        """Return what a GET answers, which must succeed."""
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """Return what a POST answers, which must succeed."""
        answer = await self.ask("POST", path, body, **headers)
        assert answer.status in (200, 201, 204), answer
        return answer.json

    async def put(self, path: str, body: Any) -> Any:
        """Return what a PUT answers, which must succeed."""
        answer = await self.ask("PUT", path, body)
        assert answer.status == 200, answer
        return answer.json

    async def group(self, *others: "Guest", title: str = "room") -> str:
        """Make a group; return its path."""
        body = {"kind": 3, "title": title, "members": [one.id for one in others]}
        made = await self.post(CONVERSATIONS, body)
        return f"{CONVERSATIONS}/{made['conversation']['id']}"

    async def connect(self, transport: str, number: int = 1) -> Peer:
        """Return a signed-in connection of the socket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.port)
        peer = Peer(None, transport, reader, writer)  # type: ignore[arg-type] # never settled
        self.site.closing.append(peer.close)
        if transport == "tcp":
            peer.write(PREFACE)
        else:
            host = f"127.0.0.1:{self.site.port}"
            peer.write(build_request(host, "/ws", make_key(), subprotocols=["pwp1.msgpack"]))
            await reader.readuntil(b"\r\n\r\n")
        caps = int(Caps.AI_DELTAS | Caps.PRESENCE | Caps.RECEIPTS)
        peer.send(Hello(0, 1, self.token, device(number), "test/py", caps, 30, 1 << 20, "en"))
        await peer.expect(Welcome)
        return peer


async def guest(site: Site, nick: str) -> Guest:
    """Return somebody new of the everyday tenant."""
    answer = await site.auth("guest", nick=nick)
    assert answer.status == 201, answer
    return Guest(site, answer.json)


async def stranger(site: Site) -> Guest:
    """Return somebody of another tenant."""
    tenant = await site.core.store.change([], lambda tx: create_tenant(tx, "acme", "Acme"))
    _, key = await site.accounts.api_keys.create(tenant.id, "site", ["exchange"])
    answer = await site.auth("exchange", key, user="mallory")
    assert answer.status == 200, answer
    return Guest(site, answer.json)


async def expect(peer: Peer, kind: type[F], want: Callable[[F], bool] = lambda f: True) -> F:
    """Return the first frame of this kind."""
    return await asyncio.wait_for(peer.expect(kind, want), WAIT_S)
