"""A small world to test storage in: users, conversations, and messages that wait for their fate."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

from protocol.codes import ConvKind
from protocol.rows import Msg, MsgX
from storage.accounts import create_user
from storage.conversations import create_conversation
from storage.errors import StorageError
from storage.ids import new_id
from storage.messages import history
from storage.rows import CreatedConversation, NewConversation
from storage.store import Store
from storage.writes import Append

_numbers = itertools.count(1)


def cid(number: int | None = None) -> bytes:
    """Return a client id: a new one, or the one with this number."""
    return (next(_numbers) if number is None else number + (1 << 60)).to_bytes(16, "big")


class Sending(Append):
    """A message whose outcome a test waits for."""

    __slots__ = ("future",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.future: asyncio.Future[Sending] = asyncio.get_running_loop().create_future()

    def settle(self, error: StorageError | None) -> None:
        assert not self.future.done(), "settled twice"
        if error is None:
            self.future.set_result(self)
        else:
            self.future.set_exception(error)


class World:
    """Short ways to say what a test needs of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def user(self, name: str | None = None, tenant: int = 1) -> int:
        user = new_id()
        await self.store.change(
            (), partial(create_user, tenant=tenant, name=name or f"user-{user}", id=user)
        )
        return user

    async def users(self, count: int) -> list[int]:
        return [await self.user() for _ in range(count)]

    async def create(
        self,
        members: Sequence[int],
        kind: int = ConvKind.GROUP,
        *,
        id: int | None = None,
        cid_: bytes | None = None,
        tenant: int = 1,
        **fields: Any,
    ) -> CreatedConversation:
        new = NewConversation(
            id or new_id(),
            tenant,
            int(kind),
            members[0],
            cid_ or cid(),
            fields.pop("title", "a title"),
            list(members[1:]),
            **fields,
        )
        return await self.store.change(members, partial(create_conversation, new=new))

    async def conv(self, members: Sequence[int], **fields: Any) -> int:
        conv = (await self.create(members, **fields)).record.row.id
        assert conv is not None
        return conv

    def submit(
        self,
        conv: int,
        sender: int,
        text: str = "hello",
        cid_: bytes | None = None,
        x: MsgX | None = None,
        **options: Any,
    ) -> asyncio.Future[Sending]:
        sending = Sending(conv, sender, cid_ or cid(), 0, text, x, **options)
        self.store.submit(sending)
        return sending.future

    async def send(self, conv: int, sender: int, text: str = "hello", **options: Any) -> Sending:
        return await self.submit(conv, sender, text, **options)

    async def all_messages(self, conv: int) -> list[Msg]:
        found: list[Msg] = []
        more = True
        while more:
            anchor = found[-1].seq if found else 0
            page, more = await self.store.read(history(conv, anchor, False, 1000, 0))
            found += page
        return found
