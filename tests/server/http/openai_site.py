"""A site whose answers come from the scripted service, and ways to ask it for them."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from protocol.codes import ConvKind, Scope
from protocol.rows import GenOpt, Persona
from storage.conversations import create_conversation
from storage.ids import new_id
from storage.personas import save_persona
from storage.rows import NewConversation, TurnRow
from tests.server.http.conftest import Answer, Site
from tests.support.eventually import WAIT_S, eventually
from tests.support.turns import turns_of

COMPLETIONS = "/v1/chat/completions"

_numbers = itertools.count(1)


def settings_for(port: int) -> dict[str, object]:
    """Return settings with the scripted service on this port as the only provider."""
    return {
        "ai.default_model": "tokens=5",
        "ai.user_running": 100,
        "ai.user_queued": 100,
        "ai.ttft_s": 1.5,
        "ai.gap_s": 1.0,
        "ai.providers": [
            {
                "name": "scripted",
                "base_url": f"http://127.0.0.1:{port}/v1",
                "api_key": "sk-secret-of-the-test",
            }
        ],
    }


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def talk(text: str = "tell me", **more: Any) -> dict[str, Any]:
    """Return the body of a request."""
    return {"model": "nova", "messages": [{"role": "user", "content": text}], **more}


async def new_key(site: Site, *scopes: str, tenant: int = 1) -> str:
    """Return the text of a new API key."""
    return (await site.accounts.api_keys.create(tenant, "test", scopes or ("chat", "models")))[1]


async def complete(site: Site, secret: str, body: Any, **headers: str) -> Answer:
    """Ask for a completion."""
    sent = bearer(secret) | {name.replace("_", "-"): value for name, value in headers.items()}
    return await site.ask("POST", COMPLETIONS, json=body, headers=sent)


async def persona(site: Site, owner: int, *, tenant: int = 1, model: str = "tokens=3") -> str:
    """Make a persona of the tenant; return its name as a model."""
    row = Persona(
        name="Ada", prompt="You are Ada.", opt=GenOpt(model=model), scope=int(Scope.TENANT)
    )
    cid = next(_numbers).to_bytes(16, "big")
    saved, _ = await site.core.store.change(
        (owner,), lambda tx: save_persona(tx, tenant, owner, None, cid, row)
    )
    site.core.personas.put(tenant, saved)
    return f"persona:{saved.id}"


async def conversation(site: Site, user: int, name: str, tenant: int = 1) -> int:
    """Make an AI conversation of a user with the persona of this name."""
    new = NewConversation(
        id=new_id(),
        tenant=tenant,
        kind=int(ConvKind.AI),
        creator=user,
        cid=next(_numbers).to_bytes(16, "big"),
        title="t",
        members=[user],
        persona=int(name.removeprefix("persona:")),
        set=None,
    )
    made = await site.core.store.change((user,), lambda tx: create_conversation(tx, new))
    return made.record.row.id or 0


async def records(site: Site, count: int, conv: int = 0) -> list[TurnRow]:
    """Return the newest turns, once so many are final."""
    found: list[TurnRow] = []

    async def look() -> None:
        nonlocal found
        found = await site.core.store.read(turns_of(conv))

    for _ in range(500):
        await look()
        if sum(row.finished > 0 for row in found) >= count:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError(f"never {count} final turns: {found}")


class Raw:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def post(self, secret: str, body: Any, path: str = COMPLETIONS, version: str = "1.1") -> None:
        """Send a request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {secret}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self.writer.write(head.encode() + data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read status and headers."""
        text = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        first, *lines = text.decode().strip().split("\r\n")
        fields = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in fields}

    async def chunk(self) -> bytes:
        """Read one chunk; b"" is the end."""
        size = int(await asyncio.wait_for(self.reader.readline(), WAIT_S), 16)
        data = await asyncio.wait_for(self.reader.readexactly(size + 2), WAIT_S)
        return data[:-2]

    async def chunk_after_head(self) -> bytes:
        """Read the head and the first chunks up to one with text."""
        status, _ = await self.head()
        assert status == 200
        data = b""
        while b'"content":"word' not in data:
            data = await self.chunk()
        return data

    async def body(self) -> bytes:
        """Read chunks up to the end."""
        found = b""
        while data := await self.chunk():
            found += data
        return found


@asynccontextmanager
async def raw(site: Site) -> AsyncIterator[Raw]:
    """A connection of one's own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def events(body: bytes) -> list[Any]:
    """Return the events of a stream; the end mark as text."""
    found: list[Any] = []
    for event in body.decode().split("\n\n"):
        if event.startswith("data: "):
            data = event.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


async def settled(site: Site) -> None:
    """Wait until nothing is under way."""
    await eventually(lambda: not site.core.bridge.running and not site.core.busy)
