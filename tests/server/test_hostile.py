"""Hostile input (docs/protocol.md §15) against the real listener, on each transport.

Bounds on frames, floods and silence of a signed-in connection are in `test_session`; what the
decoders do by themselves is in `tests/protocol`.
"""

import asyncio
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import MSGPACK
from protocol.codes import Code, ConvKind, Role
from protocol.envelopes import (
    Auth,
    Bye,
    Cancel,
    ConvChange,
    ConvCreate,
    ConvDrop,
    ConvGet,
    ConvInfo,
    ConvList,
    DeviceList,
    Edit,
    Err,
    Frame,
    Gen,
    Get,
    History,
    Mark,
    MemberAdd,
    MemberDrop,
    Members,
    MemberSet,
    MyChange,
    Open,
    PersonaDrop,
    PersonaGet,
    PersonaList,
    PersonaSave,
    Ping,
    ProfileSet,
    Recall,
    Send,
    Sent,
    SyncRequest,
    Typing,
    UserFind,
    UserGet,
    WatchRequest,
    Welcome,
)
from protocol.frames import BEFORE_WELCOME_BYTES, PREFACE
from protocol.handshake import build_request, make_key
from protocol.rows import ConvSet, GenOpt, Head, MySet, Persona, SendX, StreamPos, User
from protocol.websocket import BINARY, TEXT, encode_frame
from server.config_sections import WebSocketConfig
from tests.server.harness import (
    MASK,
    TRANSPORTS,
    Peer,
    Server,
    cid,
    codes_of,
    fresh_sync,
    serving,
    watching,
)
from tests.support.eventually import WAIT_S, eventually

every_transport = pytest.mark.parametrize("transport", TRANSPORTS)
on_frames = pytest.mark.parametrize("transport", ["tcp", "ws"])


async def knock(server: Server, data: bytes) -> asyncio.StreamReader:
    """Send bytes on a connection of one's own and return what comes back."""
    peer = await server.dial(preface=False)
    peer.write(data)
    return peer._reader


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Tell whether the other end closes without another byte."""
    try:
        return await asyncio.wait_for(reader.read(), WAIT_S) == b""
    except ConnectionResetError:
        return True


def header(length: int, flags: int = 0) -> bytes:
    """Return a frame header."""
    return (flags << 24 | length).to_bytes(4, "big")


def frame(payload: bytes) -> bytes:
    """Return payload as a frame."""
    return header(len(payload)) + payload


async def room(server: Server, peer: Peer) -> int:
    """Return a new group of one."""
    return (await peer.create(ConvKind.GROUP)).row.id or 0


# slow and silent


@pytest.mark.parametrize("bytes_sent", [b"", b"G", b"GET /w"])
async def test_a_connection_that_does_not_say_what_it_wants_is_closed(
    tmp_path: Path, bytes_sent: bytes
) -> None:
    async with serving(tmp_path) as server:
        reader = await knock(server, bytes_sent)
        await eventually(lambda: server.core.strangers.open == 1)
        await asyncio.sleep(0.01)
        server.advance(4)
        assert server.core.strangers.open == 1
        server.advance(2)
        assert await is_closed(reader)


@pytest.mark.parametrize(
    "drip",
    [PREFACE[:3], PREFACE, PREFACE + b"\x00", PREFACE + header(100) + b"\x9b\x01"],
)
async def test_a_hello_that_drips_is_closed(tmp_path: Path, drip: bytes) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial(preface=False)
        peer.write(drip)
        await eventually(lambda: server.connections == 1)
        for _ in range(11):
            server.advance(1)
        assert (await peer.bye()).code == Code.POLICY


async def test_the_steps_to_hello_share_one_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await eventually(lambda: server.core.strangers.open == 1)
        host = f"127.0.0.1:{server.port}"
        request = build_request(host, "/ws", make_key(), subprotocols=["pwp1.msgpack"])
        server.advance(4)
        writer.write(request[:20])
        await asyncio.sleep(0.01)
        server.advance(4)
        writer.write(request[20:])
        await reader.readuntil(b"\r\n\r\n")
        server.advance(1)
        assert server.connections == 1
        server.advance(2)
        assert server.connections == 0, "eleven seconds after the accept"
        writer.close()


async def test_an_upgrade_that_drips_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        reader = await knock(server, b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgra")
        await eventually(lambda: server.core.strangers.open == 1)
        await asyncio.sleep(0.01)
        for _ in range(11):
            server.advance(1)
        assert await is_closed(reader)


async def test_strangers_of_one_address_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, unauthenticated_per_ip=3) as server:
        ann = await server.person("ann")
        strangers = [await server.dial() for _ in range(2)]
        readers = [await knock(server, b"")]
        await eventually(lambda: server.core.strangers.open == 3)
        assert await is_closed(await knock(server, PREFACE))
        assert server.core.strangers.refused == 1
        strangers[0].send(strangers[0].hello(ann))
        await strangers[0].expect(Welcome)
        assert server.core.strangers.open == 2, "who has signed in is no stranger"
        readers.append(await knock(server, b""))
        await eventually(lambda: server.core.strangers.open == 3)


async def test_strangers_are_bounded_in_all(tmp_path: Path) -> None:
    async with serving(tmp_path, unauthenticated=2) as server:
        for transport in ("tcp", "ws"):
            await server.dial(transport)
        await eventually(lambda: server.core.strangers.open == 2)
        assert await is_closed(await knock(server, b""))


async def test_strangers_who_give_up_make_room(tmp_path: Path) -> None:
    async with serving(tmp_path, unauthenticated_per_ip=4) as server:
        for data in (b"", PREFACE[:2], PREFACE, b"GET /ws HT"):
            peer = await server.dial(preface=False)
            peer.write(data)
        await eventually(lambda: server.core.strangers.open == 4)
        for peer in server._peers:
            peer.reset()
        await eventually(lambda: server.core.strangers.open == 0)


# the first bytes


@pytest.mark.parametrize(
    "first", [b"\x00", b"get / HTTP/1.1\r\n", b"\xff\xff", b"\x16\x03\x01", b" "]
)
async def test_garbage_is_closed_without_a_word(tmp_path: Path, first: bytes) -> None:
    async with serving(tmp_path) as server:
        assert await is_closed(await knock(server, first))
        await eventually(lambda: server.core.strangers.open == 0)


@pytest.mark.parametrize("cut", [1, 4, 7, 8])
async def test_another_major_version_is_told_which_one_is_spoken(tmp_path: Path, cut: int) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial(preface=False)
        preface = PREFACE[:6] + b"\x02\x00"
        peer.write(preface[:cut])
        await asyncio.sleep(0.005)
        peer.write(preface[cut:])
        bye = await peer.bye()
        assert (bye.code, bye.retry) == (Code.VERSION, -1)
        assert "1" in bye.reason


async def test_a_mangled_preface_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial(preface=False)
        peer.write(b"\x8bPWP\n\x01\x00\x00\x00")
        assert (await peer.bye()).code == Code.FRAMING


# frames


@pytest.mark.parametrize("signed_in", [False, True])
async def test_an_oversized_frame_is_refused_by_its_header(tmp_path: Path, signed_in: bool) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await (server.connect(ann) if signed_in else server.dial())
        limit = server.core.policy.frame_bytes if signed_in else BEFORE_WELCOME_BYTES
        peer.write(header(limit + 1))
        assert (await peer.bye()).code == Code.TOO_LARGE


@on_frames
@pytest.mark.parametrize(("word", "code"), [(0, Code.FRAMING), (0x01000005, Code.FRAMING)])
async def test_empty_frames_and_reserved_flags_end_the_connection(
    tmp_path: Path, transport: str, word: int, code: Code
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        peer.write(peer.wrap(word.to_bytes(4, "big") + b"\x92\x05\x01zz"))
        assert (await peer.bye()).code == code


@on_frames
async def test_lying_lengths_are_refused_and_the_third_one_closes(
    tmp_path: Path, transport: str
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        # [20, 7, <array that claims 2**32 - 1 elements>
        lie = frame(b"\x95\x14\x07\xdd\xff\xff\xff\xff")
        for _ in range(2):
            peer.write(peer.wrap(lie))
            reply = await peer.expect(Err)
            assert (reply.code, reply.rid) == (Code.MALFORMED, 7)
        peer.write(peer.wrap(lie))
        assert (await peer.bye()).code == Code.MALFORMED


@every_transport
async def test_deep_nesting_ends_the_connection(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        if transport == "json":
            peer.write(peer.wrap(b'{"t":"ping","n":1,"zz":' + b"[" * 60_000))
        else:
            peer.write(peer.wrap(frame(b"\x93\x05\x01" + b"\x91" * 60_000)))
        assert (await peer.bye()).code == Code.MALFORMED


@on_frames
async def test_an_allocation_bomb_is_refused_before_it_is_built(
    tmp_path: Path, transport: str
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        count = 60_000
        # user_get with a list of sixty thousand empty maps
        bomb = b"\x93\x4b\x01\xdc" + count.to_bytes(2, "big") + b"\x80" * count
        peer.write(peer.wrap(frame(bomb)))
        assert (await peer.expect(Err)).code == Code.MALFORMED
        assert await peer.settled() == []


@on_frames
async def test_text_that_is_not_utf8_is_refused(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        conv = await room(server, peer)
        good = MSGPACK.encode(Send(5, conv, cid(), 0, "aQa"))
        for bad in (b"\xff\xfe\xfd", b"\xed\xa0\x80"):
            peer.write(peer.wrap(good.replace(b"aQa", bad)))
            reply = await peer.expect(Err)
            assert (reply.rid, reply.code) == (5, Code.MALFORMED)


async def test_half_a_surrogate_pair_in_json_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "json")
        conv = await room(server, peer)
        good = peer.codec.encode(Send(5, conv, cid(), 0, "aQa"))
        peer.write(peer.wrap(good.replace(b"aQa", b"\\ud800")))
        reply = await peer.expect(Err)
        assert reply.code == Code.MALFORMED


@pytest.mark.parametrize(
    "number", ["100000000000000000000", "-1", "0", "1.5", "NaN", '"1"', "9007199254740992", "1e400"]
)
async def test_numbers_out_of_bounds_are_refused(tmp_path: Path, number: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "json")
        peer.write(peer.wrap(b'{"t":"conv_get","rid":5,"conv":' + number.encode() + b"}"))
        assert (await peer.expect(Err)).code == Code.MALFORMED


@pytest.mark.parametrize("number", [2**53, 2**64 - 1, 0])
async def test_numbers_out_of_bounds_are_refused_in_binary(tmp_path: Path, number: int) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        peer.write(frame(b"\x93\x2a\x05\xcf" + number.to_bytes(8, "big")))
        reply = await peer.expect(Err)
        assert (reply.rid, reply.code) == (5, Code.MALFORMED)


# text


@pytest.mark.parametrize(
    "text", ["a\x00b", "\x07", "a\x1b[31mb", "", " \n\t", "e" + "\u0301" * 40, "\u200b \x08"]
)
async def test_text_with_tricks_is_refused(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = await room(server, peer)
        assert await peer.refused(Send, conv, cid(), 0, text) == Code.INVALID


async def test_text_is_stored_composed_and_names_without_the_invisible(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = await room(server, peer)
        await peer.send_text(conv, "cafe\u0301\r\nx")
        page = await peer.ask(History, conv, 0, True, 1)
        assert page.msgs[0].text == "caf\u00e9\nx"
        await peer.ask(ConvChange, conv, ConvSet(title="\u202eevil\u200b  room\u2066"))
        info = await peer.ask(ConvGet, conv)
        assert info.row.title == "evil room"
        assert await peer.refused(ConvChange, conv, ConvSet(title="\u202e\u200b")) == Code.INVALID


# guessing


async def test_guessing_ids_tells_nothing_and_ends_soon(tmp_path: Path) -> None:
    async with serving(tmp_path, lookups_per_min=30) as server:
        ann, eve = await server.people("ann eve")
        pa, pe = await server.everybody([ann, eve])
        real = await room(server, pa)
        answers = set()
        for guess in [real, real + 1] * 15:
            reply = await pe.ask(ConvGet, guess)
            answers.add((reply.code, reply.reason, reply.detail, reply.retry))
        assert answers == {(Code.NOT_FOUND, "conversation not found", None, -1)}
        pe.send(ConvGet(99, real))
        assert (await pe.bye()).code == Code.RATE


async def test_marks_of_unknown_conversations_count_as_guesses(tmp_path: Path) -> None:
    async with serving(tmp_path, lookups_per_min=5) as server:
        ann, eve = await server.people("ann eve")
        pa, pe = await server.everybody([ann, eve])
        real = await room(server, pa)
        for guess in (real, real + 1, 1, 2, 3):
            pe.send(Mark(guess, 1, 1))
        assert await pe.settled() == []
        pe.send(Mark(real, 1, 1))
        assert (await pe.bye()).code == Code.RATE


async def test_a_few_wrong_ids_a_minute_are_forgiven(tmp_path: Path) -> None:
    async with serving(tmp_path, lookups_per_min=3) as server:
        eve = await server.person("eve")
        peer = await server.connect(eve)
        for _ in range(3):
            for _ in range(3):
                assert await peer.refused(ConvGet, 7) == Code.NOT_FOUND
            server.advance(61)


# browsers


def upgrade(server: Server, *fields: str, path: str = "/ws", start: str = "GET") -> bytes:
    """Return an upgrade request with these fields more."""
    lines = [
        f"{start} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {make_key()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: pwp1.msgpack",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def status_of(reader: asyncio.StreamReader) -> int:
    """Return the status of an HTTP response."""
    line = await asyncio.wait_for(reader.readline(), WAIT_S)
    return int(line.split()[1])


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 101),
        ("http://evil.example", 403),
        ("http://127.0.0.1.evil.example:{port}", 403),
        ("http://127.0.0.1:1", 403),
        ("null", 403),
        ("file://", 403),
    ],
)
async def test_pages_of_strangers_cannot_connect(tmp_path: Path, origin: str, status: int) -> None:
    async with serving(tmp_path) as server:
        asked = upgrade(server, "Origin: " + origin.format(port=server.port), "Cookie: token=abc")
        reader = await knock(server, asked)
        assert await status_of(reader) == status
        if status != 101:
            await eventually(lambda: server.core.strangers.open == 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Length: 5"], 400),
        (["Transfer-Encoding: chunked"], 400),
        (["Sec-WebSocket-Version: 12"], 400),
        (["X-Long: " + "a" * 9000], 431),
        (["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="], 400),
    ],
)
async def test_upgrades_that_two_parsers_could_read_differently_are_refused(
    tmp_path: Path, fields: list[str], status: int
) -> None:
    async with serving(tmp_path) as server:
        reader = await knock(server, upgrade(server, *fields) + b"GET /x HTTP/1.1\r\n\r\n")
        assert await status_of(reader) == status
        rest = await asyncio.wait_for(reader.read(), WAIT_S)
        assert b"HTTP/1.1" not in rest, "what came behind must not be answered"
        await eventually(lambda: server.core.strangers.open == 0)


async def test_an_unknown_subprotocol_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, websocket=WebSocketConfig(json=False)) as server:
        asked = upgrade(server).replace(b"pwp1.msgpack", b"pwp1.json")
        assert await status_of(await knock(server, asked)) == 400


async def test_http_behind_an_upgrade_is_a_broken_websocket(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial("ws")
        peer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await peer.end() == []
        assert peer.close_code == 1002


@pytest.mark.parametrize(
    ("data", "close_code"),
    [
        (b"\x82\x01x", 1002),  # unmasked
        (b"\xc2\x81" + MASK + b"x", 1002),  # RSV1: an extension nobody agreed on
        (b"\x83\x81" + MASK + b"x", 1002),  # reserved opcode
        (b"\x09\x81" + MASK + b"x", 1002),  # fragmented ping
        (b"\x89\xfe\x00\x7e" + MASK, 1002),  # long ping
        (b"\x80\x81" + MASK + b"x", 1002),  # continues nothing
        (b"\x88\x82" + bytes(4) + b"\x03\xed", 1002),  # close code 1005
        (b"\x82\xff" + (1 << 30).to_bytes(8, "big"), 1009),
        (b"\x82\xff" + b"\xff" * 8, 1002),
    ],
)
@pytest.mark.parametrize("signed_in", [False, True])
async def test_a_broken_websocket_is_closed_with_its_code(
    tmp_path: Path, data: bytes, close_code: int, signed_in: bool
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await (server.connect(ann, "ws") if signed_in else server.dial("ws"))
        peer.write(data)
        assert await peer.end() == []
        assert peer.close_code == close_code
        assert server.connections == 0


async def test_fragments_that_add_up_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "ws")
        piece = bytes(server.core.policy.frame_bytes // 2)
        peer.write(encode_frame(BINARY, piece, mask=MASK, fin=False))
        for _ in range(20):
            peer.write(encode_frame(0, piece, mask=MASK, fin=False))
        assert await peer.end() == []
        assert peer.close_code == 1009


async def test_strangers_cannot_make_the_server_hold_large_messages(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        peer = await server.dial("ws")
        peer.write(b"\x82\xff" + (70_000).to_bytes(8, "big") + MASK)
        assert await peer.end() == []
        assert peer.close_code == 1009


@pytest.mark.parametrize(("transport", "opcode"), [("ws", TEXT), ("json", BINARY)])
async def test_the_wrong_kind_of_message_ends_the_connection(
    tmp_path: Path, transport: str, opcode: int
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        peer.write(encode_frame(opcode, b"hello", mask=MASK))
        assert (await peer.bye()).code == Code.FRAMING
        assert peer.close_code == 4000 + Code.FRAMING


async def test_text_messages_must_be_utf8(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "json")
        peer.write(encode_frame(TEXT, b'{"t":"\xff"}', mask=MASK))
        await peer.end()
        assert peer.close_code == 1007


async def test_one_message_may_hold_many_frames_but_no_piece_of_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "ws")
        many = b"".join(MSGPACK.encode(Ping(n)) for n in range(20))
        peer.write(peer.wrap(many))
        assert [(await peer.next()).n for _ in range(20)] == list(range(20))
        whole = MSGPACK.encode(Ping(1))
        peer.write(peer.wrap(whole[:4]) + peer.wrap(whole[4:]))
        assert (await peer.bye()).code == Code.FRAMING


async def test_a_json_message_that_is_too_large_is_not_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "json")
        conv = await room(server, peer)
        padding = b" " * server.core.policy.frame_bytes
        peer.write(peer.wrap(peer.codec.encode(Send(5, conv, cid(), 0, "x")) + padding))
        frames = await peer.end()
        assert codes_of(frames) == [Code.TOO_LARGE]
        again = await server.connect(ann, "json")
        assert (await again.ask(History, conv, 0, True, 5)).msgs == []


async def test_who_pings_and_does_not_read_is_given_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, "ws")
        flood = encode_frame(0x9, b"x" * 125, mask=MASK) * 500
        for _ in range(100):
            peer.write(flood)
            await asyncio.sleep(0.001)
            if server.core.flusher.paused:
                break
        assert server.core.flusher.paused
        for _ in range(25):
            server.advance(1)
        await eventually(lambda: server.connections == 0)
        assert server.core.flusher.slow_closed == 1
        peer.reset()


@every_transport
async def test_who_asks_and_does_not_read_is_given_up(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann, transport)
        conv = await room(server, peer)
        for _ in range(20):
            await peer.send_text(conv, "x" * 15_000)
        peer.send(*[History(n, conv, 0, True, 20) for n in range(1000, 1100)])
        await eventually(lambda: server.core.flusher.slow_closed == 1)
        assert server.connections == 0
        assert server.core.stats.errors[Code.SLOW_CONSUMER] == 1
        peer.reset()


# abuse by people with an account


async def test_sign_ins_of_one_user_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, user_handshakes_per_min=10) as server:
        ann, bob = await server.people("ann bob")
        for _ in range(10):
            await server.connect(ann)
        peer = await server.dial()
        peer.send(peer.hello(ann))
        bye = await peer.bye()
        assert bye.code == Code.RATE
        assert bye.retry > 0
        assert (await server.connect(bob)).welcome


async def test_messages_into_one_conversation_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, conversation_per_s=20.0, conversation_burst=5.0) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        other = await room(server, pb)
        replies = [await peer.ask(Send, conv, cid(), 0, "x") for peer in [pa, pb] * 4]
        refused = [reply for reply in replies if isinstance(reply, Err)]
        assert 1 <= len(refused) <= 3
        assert {reply.code for reply in refused} == {Code.RATE}
        assert isinstance(await pb.ask(Send, other, cid(), 0, "x"), Sent)
        server.advance(1)
        assert isinstance(await pa.ask(Send, conv, cid(), 0, "x"), Sent)


async def test_calling_everybody_is_for_administrators(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        everybody = SendX(mentions=[0])
        assert await pb.refused(Send, conv, cid(), 0, "hey", everybody) == Code.NOT_PERMITTED
        await pa.send_text(conv, "hey", everybody)
        await pa.ask(MemberSet, conv, bob.id, int(Role.ADMIN), 0)
        await pb.send_text(conv, "hey", everybody)


async def test_mentions_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        conv = await room(server, peer)
        await peer.send_text(conv, "hey", SendX(mentions=list(range(1, 51))))
        crowd = SendX(mentions=list(range(1, 52)))
        assert await peer.refused(Send, conv, cid(), 0, "hey", crowd) == Code.MALFORMED


@every_transport
async def test_garbage_of_every_kind_ends_in_a_typed_answer(tmp_path: Path, transport: str) -> None:
    """Whatever a signed-in peer sends, the next peer is served."""
    garbage: list[bytes] = [b"\xc1", b"\x90", b"\x80", b"\x91\xc0", b"\x92\x14\x01", b"{}", b"[]"]
    garbage += [b"null", b'{"t":"send"}', b'{"t":1}', json.dumps({"t": "hello"}).encode()]
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        for payload in garbage:
            if transport == "json" and not payload.isascii():
                continue
            peer = await server.connect(ann, transport)
            data = payload if transport == "json" else frame(payload)
            peer.write(peer.wrap(data))
            answer: Any = await peer.next()
            assert isinstance(answer, Err | Bye)
            assert answer.code in (Code.MALFORMED, Code.UNKNOWN_TYPE, Code.WRONG_STATE)
        other = await server.connect(bob, transport)
        assert isinstance(await other.ask(ConvGet, await room(server, other)), ConvInfo)
        assert (await other.ask(UserGet, [bob.id])).items


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return data with a few bytes changed, cut out or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2 if len(changed) > 2:
                del changed[at]
            case _:
                changed.insert(at, rng.randrange(256))
    return bytes(changed)


def samples(conv: int, persona: int, user: int) -> list[Frame]:
    """Return one of each request, with ids that exist."""
    return [
        Send(5, conv, cid(), 0, "hello", SendX(quote=1, mentions=[user], meta={"a": "b"})),
        Edit(5, conv, 1, "changed", 0),
        Recall(5, conv, 1),
        Mark(conv, 1, 1),
        Typing(conv, 1),
        History(5, conv, 0, True, 10),
        Get(5, conv, [1, 2]),
        ConvCreate(5, cid(), 3, "t", [user], None, ConvSet(notice="n")),
        ConvGet(5, conv),
        ConvList(5, False, "", 10),
        ConvChange(5, conv, ConvSet(title="x", flags=2, opt=GenOpt(model="m", top_p=1.0))),
        MyChange(5, conv, MySet(pinned=True, draft="d")),
        Members(5, conv, "", 10),
        MemberAdd(5, conv, [user]),
        MemberDrop(5, conv, user),
        MemberSet(5, conv, user, 2, 0),
        PersonaSave(5, cid(), Persona(name="P", tags=["a"], opt=GenOpt(temperature=1.0))),
        PersonaGet(5, persona),
        PersonaList(5, 1, "", 10),
        PersonaDrop(5, persona),
        Gen(5, conv, cid(), 1, 1, persona),
        Cancel(5, 12345),
        Open(5, 12345, 0, 0),
        UserGet(5, [user]),
        UserFind(5, "a", 10),
        ProfileSet(5, User(nick="n", persona=persona)),
        DeviceList(5),
        SyncRequest(5, fresh_sync(heads=[Head(conv, 1)], streams=[StreamPos(1, conv, 1, 0, 0)])),
        WatchRequest(5, watching(conv, users=[user])),
        Auth(5, 1, "x.y.z"),
        ConvDrop(5, conv),
    ]


@every_transport
async def test_mutated_requests_crash_nothing(
    tmp_path: Path, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(transport)
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        persona = await server.persona(ann)
        watcher = await server.connect(bob)
        peer = await server.connect(ann, transport)
        conv = (await peer.create(ConvKind.GROUP, bob)).row.id or 0
        await peer.send_text(conv, "first")
        for _ in range(8):
            for request in samples(conv, persona, bob.id):
                data = peer.codec.encode(request)
                if transport == "json":
                    data = mutated(rng, data).decode("latin-1").encode()
                else:
                    data = frame(mutated(rng, data[4:]))
                peer.write(peer.wrap(data))
                try:
                    await peer._pong()
                except AssertionError:
                    peer = await server.connect(ann, transport)
                peer.inbox.clear()
        await server.idle()
        await watcher.settled()
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [(record.name, record.message, record.exc_text) for record in crashes] == []
