"""A server that speaks just enough PWP/1 to try the load generator: no accounts, nothing stored.

    python -m bench.stub_server [--port PORT]

Everybody who presents a token "N" is user N; any conversation exists, and its members are those
named by the plan of `bench.loadgen`. It acknowledges at once: it shows what the generator can do.
"""

import argparse
import asyncio
import base64
import hashlib
import time
from collections import defaultdict
from pathlib import Path
from typing import cast

import uvloop

from protocol.codec import MSGPACK
from protocol.envelopes import Hello, MsgPush, Ping, Pong, Send, Sent, Welcome
from protocol.frames import PREFACE, FrameDecoder
from protocol.rows import Limits

WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Rooms:
    """Who is in which conversation, and how far its numbers are."""

    def __init__(self, plan: Path | None) -> None:
        self.members: dict[int, list[int]] = {}
        self.seqs: defaultdict[int, int] = defaultdict(int)
        self.online: dict[int, Peer] = {}
        self.dirty: set[Peer] = set()
        for line in plan.read_text().splitlines() if plan else ():
            conv, _, *members = map(int, line.split())
            self.members[conv] = members

    def flush(self) -> None:
        """Write what a tick gathered."""
        dirty, self.dirty = self.dirty, set()
        for peer in dirty:
            peer.flush()


class Peer(asyncio.Protocol):
    """One connection, TCP or WebSocket."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.frames: list[bytes] = []
        self.decoder = FrameDecoder(1 << 16)
        self.is_ws: bool | None = None
        self.user = 0
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.is_ws is None:
            data = self.open(data)
        if self.is_ws:
            data = self.unmask(data)
        for payload in self.decoder.feed(data):
            self.handle(MSGPACK.decode_client(payload))

    def open(self, data: bytes) -> bytes:
        self.is_ws = data[:1] == b"G"
        if not self.is_ws:
            return data[len(PREFACE) :]
        head, rest = data.split(b"\r\n\r\n", 1)
        key = next(
            line.split(b":")[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: pwp1.msgpack\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        return rest

    def unmask(self, data: bytes) -> bytes:
        data = self.rest + data
        out = bytearray()
        while len(data) >= 8:
            size, at = data[1] & 127, 2
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 4
            if len(data) < at + 4 + size:
                break
            key = data[at : at + 4] * (size // 4 + 1)
            body = int.from_bytes(data[at + 4 : at + 4 + size], "big")
            out += (body ^ int.from_bytes(key[:size], "big")).to_bytes(size, "big")
            data = data[at + 4 + size :]
        self.rest = data
        return bytes(out)

    def put(self, frame: bytes) -> None:
        if not self.rooms.dirty:
            asyncio.get_running_loop().call_soon(self.rooms.flush)
        self.rooms.dirty.add(self)
        self.frames.append(frame)

    def flush(self) -> None:
        data = b"".join(self.frames)
        self.frames.clear()
        if self.is_ws:
            size = len(data)
            head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
            data = b"\x82" + (head if size < 1 << 16 else b"\x7f" + size.to_bytes(8, "big")) + data
        self.transport.write(data)

    def handle(self, frame: object) -> None:
        rooms = self.rooms
        now = int(time.time() * 1000)
        match frame:
            case Ping(n=n):
                self.put(MSGPACK.encode(Pong(n, now)))
            case Send(rid=rid, conv=conv, kind=kind, text=text):
                seq = rooms.seqs[conv] = rooms.seqs[conv] + 1
                self.put(MSGPACK.encode(Sent(rid, conv, seq, seq, now, False)))
                push = MSGPACK.encode(MsgPush(conv, seq, seq, now, self.user, kind, text))
                for member in rooms.members[conv]:
                    if member != self.user:
                        rooms.online[member].put(push)
            case Hello(secret=secret):
                self.user = int(secret)
                rooms.online[self.user] = self
                welcome = Welcome(0, 1, self.user + 1, 1, "", 0, 30, now, 1, 0, Limits(), 0, 0)
                self.put(MSGPACK.encode(welcome))


async def serve(port: int, plan: Path | None) -> None:
    """Listen on the loopback address until cancelled."""
    rooms = Rooms(plan)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(rooms), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default)")
    parser.add_argument("--plan", type=Path, help="conversations, as the load generator reads them")
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.plan))


if __name__ == "__main__":
    main()
