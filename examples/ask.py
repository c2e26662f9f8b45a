"""Asks a persona and prints the answer while it is written.

Run: .venv/bin/python -m examples.ask
"""

import asyncio

from clients.auth import Account
from clients.client import Client
from clients.events import StreamEnded, StreamText
from protocol.codes import ConvKind, Scope

URL = "parlance://127.0.0.1:8420"


async def main() -> None:
    account = Account(URL)
    await account.guest("Ada")
    async with Client(URL, account.token) as client:
        persona = (await client.persona_page(Scope.PUBLIC)).items[0]
        talk = await client.create_conversation(ConvKind.AI, persona=persona.id)
        conv = talk.row.id or 0
        await client.watch([conv])
        with client.events() as events:
            await client.send(conv, "Hello! What can you do?")
            async for event in events:
                if isinstance(event, StreamText):
                    print(event.text, end="", flush=True)
                elif isinstance(event, StreamEnded):
                    break
    print()


asyncio.run(main())
