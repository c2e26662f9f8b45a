"""A TCP proxy that misbehaves on purpose.

    async with FaultProxy("127.0.0.1", server_port) as proxy:
        ...connect to proxy.host, proxy.port...
        proxy.to_server.cut_after(100)      # reset the connection in the middle of a frame
        proxy.to_client.delay_s = 0.05

Each direction has its own faults; they hold for open and for later connections, and count bytes
over all of them. The proxy lives in the test's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Literal, TypeAlias

_READ_BYTES = 64 * 1024
_WAITING_PIECES = 64

_Waiting: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"  # when it is due (loop time), and what


class Direction:
    """The faults of one direction of flow.

    Attributes:
        delay_s: how long each piece rests in the proxy; pieces keep their order.
        rate_bytes_s: most bytes a second and connection; 0 is no limit.
        forwarded_bytes: bytes handed on so far, over all connections.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.rate_bytes_s = 0
        self.forwarded_bytes = 0
        self._cut_at_bytes: int | None = None
        self._open = asyncio.Event()
        self._open.set()

    def cut_after(self, count_bytes: int) -> None:
        """Reset the connection that carries the last of the next `count_bytes`; once.

        Those bytes still arrive; with 0, the next bytes that come are lost instead.
        """
        self._cut_at_bytes = self.forwarded_bytes + count_bytes

    def blackhole(self, on: bool = True) -> None:
        """Stop handing on, without closing anything; what waits is handed on when switched off.

        The sender notices nothing until a few megabytes wait.
        """
        if on:
            self._open.clear()
        else:
            self._open.set()

    async def pass_gate(self) -> None:
        """Wait while this direction is a black hole."""
        await self._open.wait()

    def take_allowance(self, wanted_bytes: int) -> tuple[int, bool]:
        """Return how many of these bytes may pass, and whether the connection is cut after them."""
        if self._cut_at_bytes is None:
            return wanted_bytes, False
        allowed = self._cut_at_bytes - self.forwarded_bytes
        if wanted_bytes < allowed:
            return wanted_bytes, False
        self._cut_at_bytes = None
        return allowed, True


class FaultProxy:
    """Forwards connections to one target, with faults.

    Args:
        target_host, target_port: where to; may be changed while running (a failover).

    Attributes:
        to_server, to_client: the faults of the two directions.
        accepted: connections taken so far.
        refused: connections reset at once because of `refuse`.
    """

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target_host = target_host
        self.target_port = target_port
        self.to_server = Direction()
        self.to_client = Direction()
        self.accepted = 0
        self.refused = 0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._listener: socket.socket | None = None
        self._port = 0
        self._accepting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FaultProxy:
        self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop_listening()
        self.cut_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._port

    @property
    def open_links(self) -> int:
        """Connections that pass through now."""
        return len(self._links)

    def cut_all(self) -> None:
        """Reset every open connection, on both sides, at once (RST)."""
        for link in list(self._links):
            link.reset()

    def blackhole(self, on: bool = True) -> None:
        """Stop handing on in both directions, without closing anything."""
        self.to_server.blackhole(on)
        self.to_client.blackhole(on)

    def half_close(self, side: Literal["client", "server"]) -> None:
        """End the flow towards `side` of every open connection; the other flow goes on."""
        for link in list(self._links):
            link.half_close(side)

    def refuse(self, on: bool = True) -> None:
        """Reset new connections as soon as they come; open ones go on."""
        self._refusing = on

    async def listen(self, on: bool = True) -> None:
        """Close the listening port (connects fail at once), or open the same one again."""
        if on and self._listener is None:
            self._listen()
        elif not on:
            await self._stop_listening()

    def _listen(self) -> None:
        listener = socket.create_server((self.host, self._port), backlog=1024)
        listener.setblocking(False)
        self._listener = listener
        self._port = listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(listener), name="proxy accept")

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            if self._refusing:
                self.refused += 1
                _reset(client)
                continue
            self.accepted += 1
            task = loop.create_task(self._serve(client), name="proxy link")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Carry one connection until both its directions end or it is cut."""
        client.setblocking(False)
        server = socket.socket()
        server.setblocking(False)
        try:
            target = (self.target_host, self.target_port)
            await asyncio.get_running_loop().sock_connect(server, target)
        except BaseException as error:
            _reset(client)
            server.close()
            if isinstance(error, OSError):
                return  # the target is down: so is the connection
            raise
        link = _Link(client, server)
        self._links.add(link)
        try:
            await link.carry(self.to_server, self.to_client)
        finally:
            self._links.discard(link)


class _Link:
    """One connection through the proxy; owns both sockets.

    Sockets are closed only after the loop has stopped watching them.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._ended: set[socket.socket] = set()
        self._carrier: asyncio.Task[None] | None = None
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def carry(self, to_server: Direction, to_client: Direction) -> None:
        """Carry both directions to their ends; reset both sides if it is cancelled or one fails."""
        self._carrier = asyncio.current_task()
        close: Callable[[socket.socket], None] = _reset
        try:
            async with asyncio.TaskGroup() as group:
                for source, target, direction in (
                    (self._client, self._server, to_server),
                    (self._server, self._client, to_client),
                ):
                    # A queue in between, so that delay does not limit the rate.
                    waiting: _Waiting = asyncio.Queue(maxsize=_WAITING_PIECES)
                    group.create_task(_take_in(waiting, source, direction))
                    group.create_task(self._hand_on(waiting, target, direction))
            close = socket.socket.close
        except* OSError:
            pass  # cut on purpose, or by a peer: the other side learns it by the reset
        finally:
            close(self._client)
            close(self._server)

    def reset(self) -> None:
        """Reset both sides, within this turn of the loop."""
        if self._carrier is not None:
            self._carrier.cancel()

    def half_close(self, side: Literal["client", "server"]) -> None:
        """Send the end of the stream towards one side; what still comes for it is dropped."""
        target = {"client": self._client, "server": self._server}[side]
        if target not in self._ended:
            self._ended.add(target)
            target.shutdown(socket.SHUT_WR)

    async def _hand_on(
        self, waiting: _Waiting, target: socket.socket, direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, data = await waiting.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await direction.pass_gate()
            if not data:
                if target not in self._ended:
                    target.shutdown(socket.SHUT_WR)
                return
            await self._write(data, target, direction)

    async def _write(self, data: bytes, target: socket.socket, direction: Direction) -> None:
        loop = asyncio.get_running_loop()
        while data and target not in self._ended:
            # With a rate, in slices of a hundredth of a second.
            rate = direction.rate_bytes_s
            piece = data[: max(1, rate // 100)] if rate else data
            allowed, cut = direction.take_allowance(len(piece))
            await loop.sock_sendall(target, piece[:allowed])
            direction.forwarded_bytes += allowed
            if cut:
                raise ConnectionResetError("cut on purpose")
            data = data[len(piece) :]
            if rate:
                await asyncio.sleep(len(piece) / rate)


async def _take_in(waiting: _Waiting, source: socket.socket, direction: Direction) -> None:
    """Read until the source ends; an empty piece says so."""
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(source, _READ_BYTES)
        await waiting.put((loop.time() + direction.delay_s, data))
        if not data:
            return


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of the orderly end of the stream."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
