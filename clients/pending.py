"""Requests that wait for their replies on one connection."""

import asyncio
from collections.abc import Callable
from typing import Any

from clients.errors import ClientError, Disconnected, ServerError
from protocol.envelopes import Err, Reply
from protocol.types import MAX_RID

Settle = Callable[[Any], None]
"""Takes the reply, or the error in its place."""


class Pending:
    """Hands out request ids and brings every reply to whoever asked. Each is settled once."""

    def __init__(self) -> None:
        self._rid = 0
        self._waiting: dict[int, Settle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, settle: Settle) -> int:
        """Return a request id whose reply or error `settle` is to be given."""
        self._rid = self._rid % MAX_RID + 1
        self._waiting[self._rid] = settle
        return self._rid

    def future(self) -> tuple[int, "asyncio.Future[Any]"]:
        """Return a request id and the future of its reply."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(outcome: Any) -> None:
            if future.done():
                return
            if isinstance(outcome, ClientError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        return self.expect(settle), future

    def forget(self, rid: int) -> None:
        """Nobody waits for this reply any more."""
        self._waiting.pop(rid, None)

    def answered(self, reply: Reply) -> None:
        """Bring a reply or an `err` to whoever asked; one that nobody waits for is dropped."""
        settle = self._waiting.pop(reply.rid, None)
        if settle is None:
            return
        if isinstance(reply, Err):
            settle(ServerError(reply.code, reply.reason, reply.retry, reply.detail))
        else:
            settle(reply)

    def connection_lost(self) -> None:
        """No reply will come to any of them."""
        waiting, self._waiting = self._waiting, {}
        for settle in waiting.values():
            settle(Disconnected("the connection was lost before the answer came"))
