"""The JSON door: plain messages on `/ws/{user id}`, with `websockets` and aiohttp as its peers."""

import asyncio
import base64
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from protocol.codec import MSGPACK, SERVER_FRAMES
from protocol.codes import Code, ConvKind, MsgKind, Scope
from protocol.envelopes import MsgPush, Recall, StreamEnd
from protocol.errors import Malformed
from protocol.rows import Msg, Watch
from protocol.vectors.samples import fullest, smallest
from server.json_door_codec import DoorCodec, Translator
from server.json_door_frames import Reader, auth_message
from storage.messages import history
from storage.people import get_avatar
from tests.server.harness import Person, Server, fresh_sync, serving
from tests.support.eventually import WAIT_S, eventually

PNG = b"\x89PNG\r\n\x1a\n"

# As the requirements quote them (A5 to A8): the types, `persona_config` with its three fields, and
# a picture that is no base64. Who it is says the token, whatever `user_id` says.
SEED_CHAT = """{
  "type": "chat",
  "user_id": "user123",
  "content": "你好"
}"""
SEED_CREATE = """{
  "type": "persona_create",
  "persona_config": {
    "name": "小雪",
    "prompt": "你是一个温柔的助手",
    "avatar": "base64数据"
  }
}"""


class Door:
    """One peer: sends objects, and reads answers until the one that is asked for."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def hear(self, *types: str) -> dict[str, Any]:
        """Return the next message of one of these types."""
        async with asyncio.timeout(WAIT_S):
            while True:
                heard: dict[str, Any] = json.loads(await self.socket.recv())
                self.seen.append(heard)
                if heard["type"] in types:
                    return heard

    async def answer(self) -> dict[str, Any]:
        """Return the end of the next answer."""
        while True:
            heard = await self.hear("chat_response")
            if heard["done"]:
                return heard

    async def ask(self, *types: str, **message: Any) -> dict[str, Any]:
        await self.say(**message)
        return await self.hear(*types)

    async def close_code(self) -> int:
        """Read to the end; return the code that the server closed with."""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionClosed):
                async for text in self.socket:
                    self.seen.append(json.loads(text))
        return self.socket.close_code or 0


class Doors:
    """Opens doors of one server and closes them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._open: list[ClientConnection] = []

    def address(self, user: int, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.server.port}/ws/{user}{query}"

    async def dial(self, user: int, query: str = "", **options: Any) -> Door:
        made = await connect(self.address(user, query), **options)
        self._open.append(made)
        return Door(made)

    async def enter(self, person: Person, query: str = "", **options: Any) -> Door:
        """Return a door that somebody has come in by."""
        headers = {"Authorization": f"Bearer {self.server.token(person)}"}
        door = await self.dial(person.id, query, additional_headers=headers, **options)
        assert (await door.hear("welcome", "error"))["type"] == "welcome", door.seen
        return door

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for one in self._open:
            one.transport.abort()  # a close would wait for what nobody reads


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path) as server:
        yield server


@pytest.fixture
async def doors(server: Server) -> AsyncIterator[Doors]:
    async with Doors(server) as doors:
        yield doors


@pytest.fixture
async def ada(server: Server) -> Person:
    return await server.person("ada")


async def stored(server: Server, conv: int | str) -> list[Msg]:
    rows, _ = await server.store.read(history(int(conv), 0, True, 100, 0))
    return rows


# who


async def test_the_first_message_a_header_or_a_subprotocol_says_who_it_is(
    server: Server, doors: Doors, ada: Person
) -> None:
    token = server.token(ada)
    first = await doors.dial(ada.id, "?device=one")
    welcome = await first.ask("welcome", type="auth", token=token)
    assert welcome["user_id"] == str(ada.id)
    await doors.enter(ada, "?device=two")
    offered = [Subprotocol("parlance.json"), Subprotocol("bearer." + token)]
    third = await doors.dial(ada.id, "?device=three", subprotocols=offered)
    await third.hear("welcome")
    assert third.socket.subprotocol == "parlance.json"
    assert len(server.core.hub.sessions_of(ada.id)) == 3


async def test_a_token_opens_the_address_of_its_own_user_only(
    server: Server, doors: Doors, ada: Person
) -> None:
    bob = await server.person("bob")
    door = await doors.dial(bob.id)
    refused = await door.ask("error", type="auth", token=server.token(ada))
    assert (refused["code"], refused["closing"]) == (200, True)
    assert await door.close_code() == 4200
    forged = await doors.dial(ada.id)
    await forged.say(type="auth", token="e30.e30.e30")
    assert await forged.close_code() == 4200
    assert server.core.hub.size == 0


@pytest.mark.parametrize(
    "tail", ["1?token=abc", "1?access_token=abc", "1?device=a%20b", "1x", "0", "99999999999999999"]
)
async def test_no_token_stands_in_the_address_and_no_other_address_is_answered(
    server: Server, tail: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{server.port}/ws/{tail}")
    assert refused.value.response.status_code == 400


async def test_a_foreign_page_is_refused_as_on_the_other_door(
    server: Server, doors: Doors, ada: Person
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await doors.dial(ada.id, origin=Origin("https://evil.example"))
    assert refused.value.response.status_code == 403
    await doors.enter(ada, origin=Origin(f"http://127.0.0.1:{server.port}"))


async def test_whoever_talks_before_signing_in_is_told_how_and_closed(
    doors: Doors, ada: Person
) -> None:
    for text in (SEED_CHAT, "{", '{"type":"dance"}'):
        door = await doors.dial(ada.id)
        await door.socket.send(text)
        assert await door.close_code() == 4104
        assert "auth" in door.seen[-1]["message"]


async def test_a_second_connection_of_one_device_replaces_the_first_and_other_names_do_not(
    doors: Doors, ada: Person
) -> None:
    other = await doors.enter(ada, "?device=phone")
    first = await doors.enter(ada)
    await doors.enter(ada)
    assert await first.close_code() == 4203
    assert (await other.ask("pong", type="ping"))["type"] == "pong"


async def test_a_newer_token_is_taken_in_place(server: Server, doors: Doors, ada: Person) -> None:
    door = await doors.enter(ada)
    told = await door.ask("notice", type="auth", token=server.token(ada))
    assert told["about"] == "sign_in"
    bob = await server.person("bob")
    await door.say(type="auth", token=server.token(bob))
    assert await door.close_code() == 4200


# talking


async def test_the_messages_of_the_paper_are_taken_byte_for_byte(
    server: Server, doors: Doors, ada: Person
) -> None:
    door = await doors.enter(ada)
    await door.socket.send(SEED_CREATE)
    made = await door.hear("persona_list")
    one = next(p for p in made["personas"] if p["id"] == made["persona_id"])
    assert (one["name"], one["prompt"]) == ("小雪", "你是一个温柔的助手")
    assert "avatar" in made["note"]
    await door.socket.send(
        '{"type": "persona_select", "persona_id": "%s"}' % made["persona_id"]  # noqa: UP031
    )
    chosen = await door.hear("persona_list")
    assert chosen["selected_persona_id"] == made["persona_id"]
    await door.socket.send(SEED_CHAT)
    answer = await door.answer()
    assert answer["content"]
    assert answer["persona_id"] == made["persona_id"]
    await door.socket.send('{"type": "history_request"}')
    past = await door.hear("history_response")
    assert [(m["sender_type"], m["content"]) for m in past["messages"]] == [
        (0, "你好"),
        (1, answer["content"]),
    ]
    assert past["conversation_id"] == answer["conversation_id"]


async def test_an_answer_comes_in_pieces_and_once_more_whole(
    server: Server, doors: Doors, ada: Person
) -> None:
    persona = await server.persona(ada)
    door = await doors.enter(ada)
    taken = await door.ask("chat_accepted", type="chat", persona_id=persona, content="Tell me 故事")
    answer = await door.answer()
    pieces = [m for m in door.seen if m["type"] == "chat_response" and not m["done"]]
    assert "".join(m["delta"] for m in pieces) == answer["content"]
    assert {m["stream_id"] for m in pieces} == {answer["stream_id"]} == {taken["stream_id"]}
    assert answer["finish"] == "stop"
    rows = await stored(server, answer["conversation_id"])
    assert [row.text for row in rows] == ["Tell me 故事", answer["content"]]
    assert str(rows[1].seq) == answer["message_id"]


async def test_a_message_said_here_is_the_row_and_the_push_that_tcp_would_make(
    server: Server, doors: Doors, ada: Person
) -> None:
    bob = await server.person("bob")
    tcp, listener = await server.connect(ada), await server.connect(bob)
    room = (await tcp.create(ConvKind.GROUP, bob)).row.id or 0
    await tcp.send_text(room, "same 你好\r\nline")
    door = await doors.enter(ada)
    taken = await door.ask(
        "chat_accepted", type="chat", conversation_id=room, content="same 你好\r\nline"
    )
    by_tcp, by_door = (await stored(server, room))[-2:]
    same = ("sender", "kind", "text", "x")
    assert [getattr(by_tcp, f) for f in same] == [getattr(by_door, f) for f in same]
    assert taken["message_id"] == str(by_door.seq)
    pushes = [await listener.expect(MsgPush) for _ in range(2)]
    assert pushes[0].text == pushes[1].text == "same 你好\nline"
    mine = await tcp.expect(MsgPush)
    assert mine.x is not None
    assert mine.x.cid is not None


async def test_an_answer_begun_here_is_seen_on_other_devices_and_theirs_here(
    server: Server, doors: Doors, ada: Person
) -> None:
    persona = await server.persona(ada)
    phone = await server.connect(ada, number=7)
    door = await doors.enter(ada)
    await door.say(type="chat", persona_id=persona, content="from the door")
    answer = await door.answer()
    conv = int(answer["conversation_id"])
    pushed = await phone.expect(MsgPush, lambda m: m.kind == MsgKind.AI_REPLY)
    assert pushed.text == answer["content"]
    await phone.send_text(conv, "from the phone")
    assert (await door.hear("message"))["message"]["content"] == "from the phone"
    assert (await door.answer())["content"]
    watching = await server.connect(ada, number=8, watch=Watch([conv], []), sync=fresh_sync())
    await door.say(type="chat", persona_id=persona, content="again")
    await door.answer()
    assert (await watching.expect(StreamEnd)).conv == conv


async def test_messages_sent_at_once_keep_their_order_and_one_conversation(
    server: Server, doors: Doors, ada: Person
) -> None:
    persona = await server.persona(ada)
    door = await doors.enter(ada)
    said = [f"number {n}" for n in range(30)]
    for text in said:
        await door.say(type="chat", persona_id=str(persona), message=text)
    taken = [await door.hear("chat_accepted") for _ in said]
    assert len({one["conversation_id"] for one in taken}) == 1
    rows = await stored(server, taken[0]["conversation_id"])
    assert [row.text for row in rows if row.kind == MsgKind.TEXT] == said


async def test_a_repeat_after_a_reconnect_is_stored_once(
    server: Server, doors: Doors, ada: Person
) -> None:
    persona = await server.persona(ada)
    message = {"type": "chat", "persona_id": persona, "text": "once", "client_id": "m1"}
    first = await (await doors.enter(ada)).ask("chat_accepted", **message)
    door = await doors.enter(ada)
    again = await door.ask("chat_accepted", **message)
    assert again["repeated"]
    assert again["message_id"] == first["message_id"]
    assert again["conversation_id"] == first["conversation_id"]


async def test_an_answer_that_runs_is_shown_from_its_beginning_to_who_comes_back(
    server: Server, doors: Doors, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    persona = await server.persona(ada)
    gate = asyncio.Event()
    store = server.core.turns._store_answer

    async def held(*args: Any) -> int:
        await gate.wait()
        return await store(*args)

    monkeypatch.setattr(server.core.turns, "_store_answer", held)
    first = await doors.enter(ada)
    await first.say(type="chat", persona_id=persona, content="hello")
    await first.hear("chat_response")
    door = await doors.enter(ada)
    await door.say(type="history_request")
    assert not (await door.hear("chat_response"))["done"]
    gate.set()
    answer = await door.answer()
    pieces = [m["delta"] for m in door.seen if m["type"] == "chat_response" and not m["done"]]
    assert "".join(pieces) == answer["content"]


async def test_history_pages_backwards_and_lists_the_conversations_of_a_persona(
    server: Server, doors: Doors, ada: Person
) -> None:
    first, second = await server.persona(ada), await server.persona(ada, "Eve")
    door = await doors.enter(ada)
    convs = {}
    for persona in (first, second):
        await door.say(type="chat", persona_id=persona, content="hello")
        convs[persona] = (await door.answer())["conversation_id"]
    newest = await door.ask("history_response", type="history_request")
    assert newest["conversation_id"] == convs[second]
    assert [c["conversation_id"] for c in newest["conversations"]] == [convs[second], convs[first]]
    older = await door.ask("history_response", type="history_request", persona_id=first, limit=1)
    assert older["conversation_id"] == convs[first]
    assert [c["persona_id"] for c in older["conversations"]] == [str(first)]
    assert older["has_more"]
    assert older["messages"][0]["sender_type"] == 1
    before = await door.ask(
        "history_response",
        type="history_request",
        conversation_id=convs[first],
        before=older["messages"][0]["message_id"],
        request_id=7,
    )
    assert [m["content"] for m in before["messages"]] == ["hello"]
    assert not before["has_more"]
    assert before["request_id"] == 7


async def test_history_of_somebody_who_has_said_nothing_is_empty(doors: Doors, ada: Person) -> None:
    door = await doors.enter(ada)
    past = await door.ask("history_response", type="history_request")
    assert past["conversation_id"] is None
    assert past["messages"] == past["conversations"] == []


async def test_a_recalled_message_and_an_answer_without_text_are_told(
    server: Server, doors: Doors, ada: Person
) -> None:
    persona = await server.persona(ada)
    phone = await server.connect(ada, number=7)
    door = await doors.enter(ada)
    taken = await door.ask("chat_accepted", type="chat", persona_id=persona, content="oops")
    await door.answer()
    await phone.ask(Recall, int(taken["conversation_id"]), int(taken["message_id"]))
    gone = await door.hear("message")
    assert gone["message"]["recalled"]
    assert not gone["message"]["content"]
    end = StreamEnd(5, 6, 4, 0, 0, 0, 0, 0, code=600, detail="No service answers. Wait.")
    told = json.loads(Translator(server.core).encode(end))
    assert told["done"]
    assert told["content"] == ""
    assert told["finish"] == "error"
    assert told["error"] == {"code": 600, "message": "No service answers. Wait."}


async def test_a_stopped_answer_ends(server: Server, doors: Doors, ada: Person) -> None:
    persona = await server.persona(ada)
    door = await doors.enter(ada)
    taken = await door.ask("chat_accepted", type="chat", persona_id=persona, content="long")
    stopped = await door.ask("ok", type="chat_stop", stream_id=taken["stream_id"], request_id=3)
    assert stopped["request_id"] == 3
    unknown = await door.ask("error", type="chat_stop", stream_id="4711")
    assert unknown["code"] == 300


# personas


async def test_a_large_avatar_survives_create_restart_and_list(tmp_path: Path) -> None:
    picture = PNG + bytes(range(256)) * 800
    assert len(picture) > 200_000
    config = {
        "name": "小雪",
        "prompt": "Be kind.",
        "avatar": "data:image/png;base64," + base64.b64encode(picture).decode(),
    }
    async with serving(tmp_path) as server, Doors(server) as doors:
        ada = await server.person("ada")
        door = await doors.enter(ada)
        made = await door.ask(
            "persona_list", "error", type="persona_create", persona_config=config, client_id="p"
        )
        again = await door.ask(
            "persona_list", "error", type="persona_create", persona_config=config, client_id="p"
        )
        assert again["persona_id"] == made["persona_id"]
        assert "note" not in made
    async with serving(tmp_path) as server, Doors(server) as doors:
        door = await doors.enter(ada)
        listed = await door.ask("persona_list", type="persona_list")
        (one,) = listed["personas"]
        assert (one["id"], one["name"], one["prompt"]) == (made["persona_id"], "小雪", "Be kind.")
        assert one["create_time"] > 0
        kept = await server.store.read(get_avatar(int(one["avatar"].rpartition("/")[2])))
        assert kept is not None
        assert kept.data == picture


async def test_pictures_are_bounded_per_user_over_all_doors(
    server: Server, doors: Doors, ada: Person
) -> None:
    while not server.core.uploads.admit(ada.id):
        pass  # as uploads over HTTP do
    door = await doors.enter(ada)
    config = {"name": "P", "avatar": base64.b64encode(PNG).decode()}
    refused = await door.ask("error", type="persona_create", persona_config=config)
    assert refused["code"] == 400
    assert refused["retry_ms"] > 0
    assert (await door.ask("persona_list", type="persona_list"))["personas"] == []


async def test_a_choice_survives_a_reconnect_and_follows_to_another_device(
    server: Server, doors: Doors, ada: Person
) -> None:
    await server.persona(ada)
    second = await server.persona(ada, "Eve")
    door = await doors.enter(ada)
    await door.ask("persona_list", type="persona_select", persona_id=second)
    await door.socket.close()
    await eventually(lambda: not server.core.hub.sessions_of(ada.id))
    other = await doors.enter(ada, "?device=other")
    listed = await other.ask("persona_list", type="persona_list")
    assert listed["selected_persona_id"] == str(second)
    await other.say(type="chat", content="hello")
    assert (await other.answer())["persona_id"] == str(second)


async def test_a_removed_persona_is_gone_from_the_list_and_its_history_stays(
    server: Server, doors: Doors, ada: Person
) -> None:
    persona = await server.persona(ada)
    door = await doors.enter(ada)
    await door.say(type="chat", persona_id=persona, content="hello")
    conv = (await door.answer())["conversation_id"]
    listed = await door.ask("persona_list", type="persona_delete", persona_id=persona)
    assert listed["personas"] == []
    assert any(m["type"] == "persona_update" and m["deleted"] for m in door.seen)
    past = await door.ask("history_response", type="history_request", conversation_id=conv)
    assert len(past["messages"]) == 2
    refused = await door.ask("error", type="chat", persona_id=persona, content="still there?")
    assert refused["code"] == 300


async def test_a_long_list_of_personas_comes_in_pages(
    server: Server, doors: Doors, ada: Person
) -> None:
    own = [await server.persona(ada, f"P{n}", Scope(n % 2)) for n in range(130)]
    bob = await server.person("bob")
    shared = await server.persona(bob, "Shared")
    door = await doors.enter(ada)
    found: list[str] = []
    cursor = ""
    pages = 0
    while pages == 0 or cursor:
        page = await door.ask("persona_list", type="persona_list", cursor=cursor)
        found += [p["id"] for p in page["personas"]]
        cursor = page.get("cursor", "")
        pages += 1
    assert pages > 1
    assert sorted(found) == sorted(map(str, [*own, shared]))


async def test_two_tenants_see_nothing_of_each_other(
    server: Server, doors: Doors, ada: Person
) -> None:
    eve = await server.person("eve", tenant=2)
    persona = await server.persona(ada, scope=Scope.TENANT)
    door, foreign = await doors.enter(ada), await doors.enter(eve)
    await door.say(type="chat", persona_id=persona, content="secret")
    conv = (await door.answer())["conversation_id"]
    assert (await foreign.ask("persona_list", type="persona_list"))["personas"] == []
    for message in (
        {"type": "chat", "persona_id": persona, "content": "x"},
        {"type": "chat", "conversation_id": conv, "content": "x"},
        {"type": "history_request", "conversation_id": conv},
        {"type": "persona_select", "persona_id": persona},
        {"type": "persona_delete", "persona_id": persona},
    ):
        assert (await foreign.ask("error", **message))["code"] == 300
    assert not any("secret" in json.dumps(seen) for seen in foreign.seen)


# hostile and slow


BAD = [
    ("", 310),
    ("{", 310),
    ("[]", 310),
    ("null", 310),
    ('"chat"', 310),
    ('{"type":7}', 310),
    ("[" * 20_000, 310),
    ('{"type":"dance","request_id":9}', 102),
    ('{"type":"hello","ver":0}', 102),
    ('{"type":"chat","content":7}', 310),
    ('{"type":"chat","persona_id":-1,"content":"x"}', 310),
    ('{"type":"chat","persona_id":1e300,"content":"x"}', 310),
    ('{"type":"chat","persona_id":"p1","content":"x"}', 300),
    ('{"type":"chat","conversation_id":"99999999999999999999","content":"x"}', 300),
    ('{"type":"chat","content":"' + "x" * 33_000 + '"}', 310),
    ('{"type":"chat","content":"a\\u0000b"}', 310),
    ('{"type":"chat","content":" "}', 310),
    ('{"type":"chat"}', 310),
    ('{"type":"persona_create"}', 310),
    ('{"type":"persona_create","persona_config":{"name":""}}', 310),
    ('{"type":"persona_select"}', 310),
    ('{"type":"history_request","limit":101}', 310),
    ('{"type":"ping","pad":"' + "x" * 170_000 + '"}', 103),
]


async def test_bad_messages_get_an_error_each_and_the_connection_goes_on(
    server: Server, doors: Doors, ada: Person
) -> None:
    await server.persona(ada)
    door = await doors.enter(ada)
    for text, code in BAD:
        await door.socket.send(text)
        told = await door.hear("error", "chat_accepted", "persona_list", "history_response")
        assert (told["type"], told.get("code")) == ("error", code), text[:80]
        assert told["message"]
        assert "closing" not in told
    assert (await door.ask("pong", type="heartbeat", request_id=5))["request_id"] == 5
    assert next(m for m in door.seen if m.get("request_id") == 9)["code"] == 102


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{type: 'chat'}", "object keys must be strings (byte 1)"),
        ('{"type":"ping"} {}', "trailing characters (byte 17)"),
        ('{"type":"chat","content":"\\ud83d"}', "half of a surrogate pair"),
        ('{"type":"chat","content":' + "[" * 30_000, "nested too deeply"),
        ('{"content":"hello"}', "not a JSON object with a type"),
    ],
)
def test_who_writes_json_by_hand_is_told_where_it_breaks(text: str, why: str) -> None:
    reader = Reader("json", 65_536)
    reader.read(auth_message("t"))
    with pytest.raises(Malformed) as caught:
        reader.read(text.encode())
    assert why in caught.value.reason


async def test_a_reader_takes_any_bytes_and_raises_nothing_but_that_they_are_no_message() -> None:
    dice = random.Random(4)
    whole = [SEED_CHAT, SEED_CREATE, '{"type":"history_request","before":"5"}', '{"type":"ping"}']
    reader = Reader("json", 65_536)
    reader.read(auth_message("t"))
    codes = set()
    for _ in range(3_000):
        data = bytearray(dice.choice(whole).encode())
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            reader.read(bytes(data))
        except Malformed as exc:
            codes.add(exc.code)
    assert codes == {Code.INVALID, Code.UNKNOWN_TYPE}


async def test_what_breaks_the_websocket_or_is_too_large_for_any_message_closes(
    server: Server, doors: Doors, ada: Person
) -> None:
    binary = await doors.enter(ada)
    await binary.socket.send(b'{"type":"ping"}')
    assert await binary.close_code() == 4100
    headers = {"Authorization": f"Bearer {server.token(ada)}"}
    address = f"http://127.0.0.1:{server.port}/ws/{ada.id}"
    quick = aiohttp.ClientWSTimeout(ws_close=0.1)
    async with aiohttp.ClientSession() as http:
        # A websockets peer would wait for the end of the socket, for which the server gives time.
        for size, given in ((500_000, headers), (100_000, {})):
            ws = await http.ws_connect(address, headers=given, timeout=quick)
            if given:
                assert (await ws.receive_json())["type"] == "welcome"
            await ws.send_str("x" * size)
            told = await ws.receive(timeout=WAIT_S)
            assert (told.type, told.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_above_the_rate_each_message_is_refused_with_a_wait(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"rate": 0.1, "burst": 5.0, "rate_pause_s": 0.0}
    async with serving(tmp_path, **limits) as server, Doors(server) as doors:
        door = await doors.enter(await server.person("ada"))
        for _ in range(30):
            await door.say(type="persona_list")
        told = [await door.hear("persona_list", "error") for _ in range(30)]
        refused = [one for one in told if one["type"] == "error"]
        assert len(refused) == 28  # a list weighs 2
        assert {one["code"] for one in refused} == {400}
        assert all(one["retry_ms"] > 0 for one in refused)
        assert server.core.stats.refused_rate == 28


async def test_who_does_not_read_gets_a_notice_in_place_of_what_was_dropped(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, outbox_soft_bytes=16_384) as server, Doors(server) as doors:
        ada, bob = await server.people("ada bob")
        tcp = await server.connect(bob)
        room = (await tcp.create(ConvKind.GROUP, ada)).row.id or 0
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", server.port))
        door = await doors.enter(ada, sock=slow, max_queue=1)
        for _ in range(80):
            await tcp.send_text(room, "x" * 8_000)
        assert server.core.flusher.dropped_frames
        assert (await door.hear("notice"))["about"] == "resync"
        assert (await door.ask("pong", type="ping"))["type"] == "pong"


async def test_a_silent_peer_is_asked_below_json_and_one_that_answers_stays(
    server: Server, doors: Doors, ada: Person
) -> None:
    door = await doors.enter(ada)
    server.advance(76)
    assert (await door.ask("pong", type="ping"))["type"] == "pong"
    server.advance(76)
    server.advance(16)
    assert await door.close_code() == 4501


async def test_an_ordinary_client_of_aiohttp_talks(server: Server, ada: Person) -> None:
    persona = await server.persona(ada)
    address = f"http://127.0.0.1:{server.port}/ws/{ada.id}"
    async with aiohttp.ClientSession() as http, http.ws_connect(address) as ws:
        await ws.send_json({"type": "auth", "token": server.token(ada)})
        assert (await ws.receive_json())["type"] == "welcome"
        await ws.send_json({"type": "chat", "persona_id": persona, "content": "你好"})
        while True:
            heard = await ws.receive_json(timeout=WAIT_S)
            if heard["type"] == "chat_response" and heard["done"]:
                break
        assert heard["content"]


async def test_the_request_may_come_byte_by_byte(server: Server, ada: Person) -> None:
    head = (
        f"GET /ws/{ada.id} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for at in range(len(head)):
        writer.write(head[at : at + 1].encode())
        await asyncio.sleep(0)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
    assert answer.startswith(b"HTTP/1.1 101 ")
    writer.close()


async def test_every_message_of_the_server_has_a_translation_or_none_and_never_fails(
    server: Server,
) -> None:
    codec = DoorCodec(Translator(server.core), Reader("json", 65_536))
    told = set()
    for kind in SERVER_FRAMES:
        for make in (smallest, fullest):
            frame = MSGPACK.decode_server(msgspec.msgpack.encode(make(kind)))
            text = codec.encode(frame)
            if text:
                told.add(codec.decode_server(text)["type"])
    assert {"welcome", "chat_accepted", "error", "pong", "message", "notice", "ok"} <= told
