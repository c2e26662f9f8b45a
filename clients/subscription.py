"""Events for one reader who takes them at their own pace."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from clients.events import Event, Lagged

EVENTS_MAX: Final = 10_000


class Subscription:
    """An endless asynchronous iterator over events from the moment it was made.

    Holds at most `limit` events. A reader who falls further behind loses them all and gets one
    `Lagged` in their place: what counts is in the views. Ends when the client is closed.
    """

    def __init__(self, leave: Callable[["Subscription"], None], limit: int = EVENTS_MAX) -> None:
        self._leave = leave
        self._limit = limit
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, events: Iterable[Event]) -> None:
        """Append events; called by the client only."""
        self._events.extend(events)
        if len(self._events) > self._limit:
            self._dropped += len(self._events)
            self._events.clear()
        self._wake.set()

    def close(self) -> None:
        """End the iteration after what is held; repeated calls do nothing."""
        if not self._closed:
            self._closed = True
            self._leave(self)
            self._wake.set()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return Lagged(dropped)
            if self._events:
                return self._events.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
