"""A small server on a real socket that speaks the protocol over TCP and WebSocket.

Its store is `tests.clients.model.ModelServer`; its one user is the model's. Tests make it cut,
fall silent, refuse, lose acknowledgements, and stream answers.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable
from typing import Any, cast

import msgspec

from protocol import envelopes as e
from protocol.codec import JSON, MSGPACK, Codec
from protocol.codes import MsgKind, StreamState
from protocol.frames import PREFACE, FrameDecoder
from protocol.handshake import OriginPolicy, accept_upgrade
from protocol.http_head import HeadReader, join_head, parse_request
from protocol.rows import Conv, Limits, Member, Msg, MsgX, MyConv, Persona, StreamPos, Use
from protocol.websocket import BINARY, PING, TEXT, WebSocketDecoder, encode_frame
from tests.clients.model import ME, ModelConv, ModelServer


class FakeStream:
    """One answer being made."""

    def __init__(self, sid: int, conv: int, ask: int) -> None:
        self.sid = sid
        self.conv = conv
        self.ask = ask
        self.text = ""

    @property
    def size(self) -> int:
        return len(self.text.encode())


class FakePeer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None
        self.codec: Codec = MSGPACK
        self.hello: e.Hello | None = None
        self.kind = ""
        self._raw = b""
        self._head = HeadReader()
        self._frames = FrameDecoder(1 << 20)
        self._messages = WebSocketDecoder(1 << 20)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.server.peers.remove(self)

    def data_received(self, data: bytes) -> None:
        if not self.kind:
            self._raw += data
            if self._raw[0] == PREFACE[0]:
                if len(self._raw) < len(PREFACE):
                    return
                assert self._raw.startswith(PREFACE)
                self.kind, data = "tcp", self._raw[len(PREFACE) :]
            else:
                data = self._http(data)
        if self.kind == "tcp":
            self._take(self._frames.feed(data))
        elif self.kind == "ws":
            for opcode, payload in self._messages.feed(data):
                if opcode == BINARY:
                    self._take(self._frames.feed(payload))
                elif opcode == TEXT:
                    self._take([payload])

    def _http(self, data: bytes) -> bytes:
        if not self._head.feed(data):
            return b""
        request = parse_request(self._head.head)
        assert self.transport is not None
        if request.method == "POST":
            wanted = int(request.fields.values("content-length")[0])
            if len(self._head.rest) >= wanted:
                self.server.http_bearers += request.fields.values("authorization")
                self._answer_http(request.path, self._head.rest)
            return b""
        upgrade = accept_upgrade(
            request, subprotocols=("pwp1.msgpack", "pwp1.json"), origins=OriginPolicy()
        )
        self.codec = JSON if upgrade.subprotocol == "pwp1.json" else MSGPACK
        self.transport.write(upgrade.response)
        self.kind = "ws"
        return self._head.rest

    def _answer_http(self, path: str, body: bytes) -> None:
        status, answer = self.server.http(path, msgspec.json.decode(body))
        content = msgspec.json.encode(answer)
        head = join_head(
            f"HTTP/1.1 {status} Whatever",
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
        )
        assert self.transport is not None
        self.transport.write(head + content)
        self.transport.close()

    def _take(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            self.server.received(self, self.codec.decode_client(payload))

    def send(self, *frames: Any) -> None:
        if self.transport is None or self.server.silent:
            return
        for frame in frames:
            encoded = self.codec.encode(frame)
            if self.kind == "ws":
                opcode = TEXT if self.codec.is_text else BINARY
                encoded = encode_frame(opcode, encoded)
            self.transport.write(encoded)

    def ping(self) -> None:
        """Send a WebSocket ping, which the client's transport layer must answer."""
        assert self.transport is not None
        self.transport.write(encode_frame(PING, b"are you there"))

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class FakeServer:
    """Attributes:
    silent: accepts and reads, but never writes.
    refusal: what every hello gets in place of `welcome`.
    lose_acks: so many sends are stored and their connection cut before the answer.
    send_errors: answers to the next sends, in place of storing them.
    answers: what the persona says to the next sends, piece by piece; the last piece None leaves
        the answer running.
    """

    def __init__(self) -> None:
        self.model = ModelServer()
        self.port = 0
        self.peers: list[FakePeer] = []
        self.hellos: list[e.Hello] = []
        self.frames: list[Any] = []
        self.silent = False
        self.refusal: e.Bye | None = None
        self.lose_acks = 0
        self.send_errors: list[e.Err] = []
        self.answers: list[list[str | None]] = []
        self.streams: dict[int, FakeStream] = {}
        self.personas: list[Persona] = []
        self.used = (Use(0, 0, 0, 0, 0), Use(0, 0, 0, 0, 0))
        self.hb = 30
        self.tokens: set[str] = {"token"}
        self.http_answers: dict[str, tuple[int, Any]] = {}
        self.http_requests: list[tuple[str, Any]] = []
        self.http_bearers: list[str] = []
        self._server: asyncio.Server | None = None
        self._sid = 1000

    @property
    def url(self) -> str:
        return f"parlance://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: FakePeer(self), "127.0.0.1", self.port, reuse_address=True, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and cut everybody, as a killed process would."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        while self.peers:  # noqa: ASYNC110 - the loop's next turns close them
            await asyncio.sleep(0)

    async def __aenter__(self) -> FakeServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def cut(self) -> None:
        for peer in list(self.peers):
            peer.cut()

    def http(self, path: str, body: Any) -> tuple[int, Any]:
        self.http_requests.append((path, body))
        return self.http_answers.get(path, (404, {"reason": "not found"}))

    # what tests do

    def create(self) -> ModelConv:
        self.publish(self.model.create())
        return self.model.convs[len(self.model.convs)]

    def say(self, conv: ModelConv, text: str, sender: int = 2) -> None:
        cid = f"{sender}{conv.seq:015}".encode()
        self.publish(self.model.send(conv, sender, text, cid)[1])

    def publish(self, frames: list[Any], but: FakePeer | None = None) -> None:
        for peer in self.peers:
            if peer.hello is not None and peer is not but:
                peer.send(*frames)

    def begin_stream(self, conv: int, ask: int = 0) -> FakeStream:
        self._sid += 1
        stream = self.streams[self._sid] = FakeStream(self._sid, conv, ask)
        state = int(StreamState.RUNNING)
        self.publish([e.StreamStart(stream.sid, conv, 7, ask, self.model.now, state)])
        return stream

    def stream_text(self, stream: FakeStream, text: str, *, lost: bool = False) -> None:
        off = stream.size
        stream.text += text
        if not lost:
            self.publish([e.StreamDelta(stream.sid, 0, off, text)])

    def end_stream(self, stream: FakeStream, reason: int = 0, *, as_msg: bool = False) -> None:
        del self.streams[stream.sid]
        conv = self.model.convs[stream.conv]
        conv.seq += 1
        x = MsgX(persona=7, sid=stream.sid, finish=reason)
        kind = int(MsgKind.AI_REPLY)
        msg = Msg(conv.seq, conv.bump(), self.model.now, 7, kind, stream.text, x)
        conv.messages[msg.seq] = msg
        octets = stream.text.encode()
        crc = zlib.crc32(octets)
        if as_msg:
            push: Any = e.MsgPush(conv.id, msg.rev, msg.seq, msg.ts, 7, kind, msg.text, x)
        else:
            push = e.StreamEnd(
                stream.sid, conv.id, reason, msg.rev, msg.seq, msg.ts, len(octets), crc
            )
        self.publish([push])

    def take_back(self, stream: FakeStream, detail: str) -> None:
        """End a stream whose text must not stand."""
        del self.streams[stream.sid]
        ts = self.model.now
        self.publish([e.StreamEnd(stream.sid, stream.conv, 3, 0, 0, ts, 0, 0, None, 601, detail)])

    # what clients ask

    def received(self, peer: FakePeer, frame: Any) -> None:
        self.frames.append(frame)
        if isinstance(frame, e.Hello):
            self._hello(peer, frame)
        elif isinstance(frame, e.Send):
            self._send(peer, frame)
        else:
            answer = _ANSWERS.get(type(frame))
            if answer is not None:
                peer.send(answer(self, frame))

    def _hello(self, peer: FakePeer, f: e.Hello) -> None:
        self.hellos.append(f)
        if self.refusal is not None:
            peer.send(self.refusal)
            assert peer.transport is not None
            peer.transport.close()
            return
        if f.secret not in self.tokens:
            peer.send(e.Bye(200, "bad credentials", -1))
            return
        peer.hello = f
        now, epoch = self.model.now, self.model.epoch
        peer.send(e.Welcome(0, 1, ME, 1, "", 0, self.hb, now, epoch, f.caps, Limits(), 0, 0))
        if f.sync is not None:
            peer.send(self._synced(f.sync, 0))
            for pos in f.sync.streams:
                self._catch_up(peer, pos.sid, pos.off)

    def _catch_up(self, peer: FakePeer, sid: int, off: int) -> None:
        stream = self.streams.get(sid)
        if stream is not None and off < stream.size:
            rest = stream.text.encode()[off:].decode()
            peer.send(e.StreamDelta(sid, 0, off, rest))

    def _synced(self, q: Any, rid: int) -> e.Synced:
        synced = self.model.sync(q)
        synced.rid = rid
        synced.streams = [StreamPos(s.sid, s.conv, 7, 0, s.size) for s in self.streams.values()]
        return synced

    def _send(self, peer: FakePeer, f: e.Send) -> None:
        if self.send_errors:
            error = self.send_errors.pop(0)
            error.rid = f.rid
            peer.send(error)
            return
        conv = self.model.convs[f.conv]
        sent, pushes = self.model.send(conv, ME, f.text, f.cid)
        sent.rid = f.rid
        self.publish(pushes, but=peer)
        if self.lose_acks:
            self.lose_acks -= 1
            peer.cut()
            return
        if not self.answers or sent.dup:
            peer.send(sent)
            return
        stream = self.begin_stream(conv.id, sent.seq)
        sent.sid = stream.sid
        peer.send(sent)
        pieces = self.answers.pop(0)
        for piece in pieces:
            if piece is not None:
                self.stream_text(stream, piece)
        if pieces[-1] is not None:
            self.end_stream(stream)

    def _history(self, f: e.History) -> e.Page:
        conv = self.model.convs[f.conv]
        msgs = self.model.page(conv, f.anchor or conv.seq + 1, f.limit)
        return e.Page(f.rid, f.conv, msgs, bool(msgs) and msgs[0].seq > 1)

    def _open(self, f: e.Open) -> e.Reply:
        stream = self.streams.get(f.sid)
        if stream is None:
            return e.Err(f.rid, 300, "stream not found", -1)
        text = stream.text.encode()[f.off :].decode()
        return e.Opened(f.rid, f.sid, stream.conv, 1, f.part, f.off, text, stream.size)

    def _cancel(self, f: e.Cancel) -> e.Done:
        stream = self.streams.get(f.sid)
        if stream is not None:
            self.end_stream(stream, 2)
        return e.Done(f.rid)

    def _conv_create(self, f: e.ConvCreate) -> e.ConvInfo:
        conv = self.create()
        self.publish(self.model.rename(conv, f.title))
        row = Conv(
            id=conv.id,
            kind=f.kind,
            title=f.title or "New",
            persona=f.persona,
            rev=conv.rev,
            last_seq=0,
        )
        return e.ConvInfo(f.rid, row, MyConv(conv=conv.id, role=3), [Member(user=ME, role=3)])

    def _conv_list(self, f: e.ConvList) -> e.ConvPage:
        rows = [conv.row() for conv in self.model.convs.values()]
        return e.ConvPage(f.rid, rows, [conv.my() for conv in self.model.convs.values()], "")

    def _personas(self, f: e.PersonaList) -> e.PersonaPage:
        return e.PersonaPage(f.rid, self.personas, "")

    def _persona(self, f: e.PersonaGet) -> e.Reply:
        for persona in self.personas:
            if persona.id == f.persona:
                return e.PersonaInfo(f.rid, persona, 1)
        return e.Err(f.rid, 300, "persona not found", -1)


_ANSWERS: dict[type[Any], Callable[[FakeServer, Any], Any]] = {
    e.Ping: lambda server, f: e.Pong(f.n, server.model.now),
    e.SyncRequest: lambda server, f: server._synced(f.q, f.rid),
    e.WatchRequest: lambda server, f: e.Watching(f.rid, [], []),
    e.History: FakeServer._history,
    e.Open: FakeServer._open,
    e.Cancel: FakeServer._cancel,
    e.ConvCreate: FakeServer._conv_create,
    e.ConvList: FakeServer._conv_list,
    e.PersonaList: FakeServer._personas,
    e.PersonaGet: FakeServer._persona,
    e.ProfileSet: lambda server, f: e.Changed(f.rid, 0, 0, server.model.now),
    e.UserGet: lambda server, f: e.Users(f.rid, [], ""),
    e.Edit: lambda server, f: server_edit(server, f),
    e.Confirm: lambda server, f: e.Done(f.rid),
    e.Usage: lambda server, f: e.UsageInfo(f.rid, *server.used),
    e.Auth: lambda server, f: e.Authed(f.rid, server.model.now + 1000),
}


def server_edit(server: FakeServer, f: e.Edit) -> e.Changed:
    conv = server.model.convs[f.conv]
    server.publish(server.model.edit(conv, f.seq, f.text))
    return e.Changed(f.rid, f.conv, conv.rev, server.model.now)
