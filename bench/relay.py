"""A relay between clients and server that cuts connections when told to, as a bad network does.

Neither side is told in advance. Half of the cuts come at once and lose what is under way; the other
half wait until the client says something, hand that on and lose the answer: the hard case, where
the client cannot know whether its message was stored.
"""

import asyncio
import random
from typing import cast


class _Side(asyncio.Protocol):
    """One of the two sockets of a link."""

    def __init__(self, relay: "Relay", peer: "_Side | None" = None) -> None:
        self._relay = relay
        self.peer = peer
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self.doomed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.peer is None:
            self._relay.extend(self)
        else:
            for data in self._early:
                self.transport.write(data)
            self._early.clear()

    def data_received(self, data: bytes) -> None:
        peer = self.peer
        if peer is None:
            return
        if peer.transport is None:
            peer._early.append(data)
        else:
            peer.transport.write(data)
            if self.doomed:
                self.abort_client()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.forget(self)
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()

    def abort_client(self) -> None:
        """Drop the client; what it said before still reaches the server."""
        if self.transport is not None:
            self.transport.abort()

    def abort(self) -> None:
        """Drop both sides at once."""
        for side in (self, self.peer):
            if side is not None and side.transport is not None:
                side.transport.abort()


class Relay:
    """Listens on a port of its own and hands everything on to a port of this machine.

    Attributes:
        cuts: links that were cut so far.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._links: set[_Side] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cuts = 0

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), "127.0.0.1", 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything and stop listening."""
        if self._server is not None:
            self._server.close()
        for dial in list(self._dials):
            dial.cancel()
        for link in list(self._links):
            link.abort()

    def extend(self, side: _Side) -> None:
        """Connect a new client's link to the server."""
        self._links.add(side)
        side.peer = _Side(self, side)
        dial = asyncio.get_running_loop().create_task(self._dial(side, side.peer))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _dial(self, side: _Side, peer: _Side) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: peer, "127.0.0.1", self._to_port)
        except OSError:
            side.abort()

    def forget(self, side: _Side) -> None:
        """Drop a link that ended."""
        self._links.discard(side)

    def cut(self, count: int, rng: random.Random) -> None:
        """Cut so many links, picked by chance."""
        links = list(self._links)
        for link in rng.sample(links, min(count, len(links))):
            self.cuts += 1
            if rng.random() < 0.5:
                link.abort()
            else:
                link.doomed = True
