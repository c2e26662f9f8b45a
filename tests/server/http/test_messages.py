"""Messages and AI answers over HTTP: the same rows, pushes and bounds as on the socket."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from protocol.codec import JSON
from protocol.codes import Code
from protocol.envelopes import MsgPush, Send, Sent
from server.http import following
from tests.server.harness import cid
from tests.server.http.api_desk import CONVERSATIONS, Guest, expect, guest, stranger
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import settings_for
from tests.support.eventually import WAIT_S, eventually

SAID = answer_text(parse_model("tokens=5"))
EVENTS = "text/event-stream"


@pytest.fixture
def settings(provider: ScriptedProvider, request: pytest.FixtureRequest) -> dict[str, object]:
    return settings_for(provider.port) | getattr(request, "param", {})


async def with_persona(who: Guest, model: str = "tokens=5") -> str:
    """Make a conversation with a persona of this model; return its path."""
    body = {"name": "Ada", "prompt": "You are Ada.", "opt": {"model": model}}
    persona = (await who.post("/api/v1/personas", body))["id"]
    made = await who.post(CONVERSATIONS, {"persona": persona})
    return f"{CONVERSATIONS}/{made['conversation']['id']}"


async def say(who: Guest, room: str, text: str = "hello", **more: Any) -> Any:
    """Send a message; return its row."""
    return (await who.post(room + "/messages", {"text": text, **more}))["message"]


# sending


async def test_a_message_is_the_same_row_and_push_by_every_door(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    room = await anna.group(bela)
    conv = int(room.rpartition("/")[2])
    tcp, ws = await anna.connect("tcp", 1), await anna.connect("ws", 2)
    listener = await bela.connect("tcp", 1)
    pushes, rows = [], []
    for peer in (tcp, ws):
        sent = await peer.ask(Send, conv, cid(), 0, "你好", None)
        assert isinstance(sent, Sent)
        pushes.append(await expect(listener, MsgPush))
        rows.append(await anna.get(f"{room}/messages/{sent.seq}"))
    answer = await anna.ask("POST", room + "/messages", {"text": "你好"})
    assert answer.status == 201
    pushes.append(await expect(listener, MsgPush))
    rows.append(answer.json["message"])
    # The sender's own sockets are told as well, like those of everybody else.
    for peer in (tcp, ws):
        await expect(peer, MsgPush, lambda push: push.seq == rows[2]["seq"])
    shown = [json.loads(JSON.encode(push)) for push in pushes]
    for number, (push, row) in enumerate(zip(pushes, rows, strict=True), 1):
        assert (push.conv, push.seq, push.rev) == (conv, row["seq"], row["rev"])
        assert row["id"] == f"{conv}-{number}"
        assert (row["sender"], row["text"], row["kind"]) == (anna.id, "你好", 0)
        assert push.ts == row["ts"]
    assert len({_shape(push) for push in shown}) == 1
    assert len({frozenset(row) for row in rows}) == 1
    for peer in (tcp, ws, listener):
        await peer.close()


def _shape(value: Any) -> str:
    """Return the structure of a value without its numbers and ids."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_shape(one)}" for key, one in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_shape, value)) + "]"
    return type(value).__name__


async def test_a_repeat_under_the_same_key_is_stored_once(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    answers = [
        await anna.ask("POST", room + "/messages", {"text": "once"}, Idempotency_Key="k")
        for _ in range(2)
    ]
    assert [one.status for one in answers] == [201, 200]
    assert answers[0].json["message"] == answers[1].json["message"]
    assert answers[1].json["repeated"]
    assert len((await anna.get(room + "/messages"))["messages"]) == 1


async def test_while_the_database_does_not_answer_the_sender_is_told_that_nobody_knows(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ACK_S", 0.1)
    anna = await guest(site, "Anna")
    room = await anna.group()

    async def ask() -> Answer:
        return await anna.ask("POST", room + "/messages", {"text": "once"}, Idempotency_Key="k")

    with contextlib.closing(sqlite3.connect(tmp_path / "parlance.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        told = await ask()
        assert told.status == 504
        assert told.error["code"] == Code.TIMEOUT
        assert "Idempotency-Key" in told.error["message"]
        assert (await anna.get(room + "/messages"))["messages"] == []
    monkeypatch.setattr(following, "ACK_S", WAIT_S)
    assert (await ask()).status == 200  # it was stored after all, and is stored once
    assert len((await anna.get(room + "/messages"))["messages"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": "  "}, 400),
        ({"text": "x" * 32_001}, 400),
        ({"text": 1}, 400),
        ({}, 400),
        ({"text": "x", "kind": 1}, 400),
        ({"text": "x", "x": {"mentions": [0] * 51}}, 400),
        ({"text": "x" * 500_000}, 413),
    ],
)
async def test_what_cannot_be_sent_is_refused(site: Site, body: Any, status: int) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    answer = await anna.ask("POST", room + "/messages", body)
    assert answer.status == status
    assert (await anna.get(room + "/messages"))["messages"] == []


async def test_the_longest_text_passes_however_it_is_escaped(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    text = "😀" * 32_000
    row = await say(anna, room, text)  # the client escapes each as 12 bytes
    assert (await anna.get(f"{room}/messages/{row['seq']}"))["text"] == text


@pytest.mark.parametrize(
    "settings",
    [{"limits.conversation_per_s": 1.0, "limits.conversation_burst": 2.0}],
    indirect=True,
)
async def test_the_rate_of_a_conversation_holds(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    answers = [await anna.ask("POST", room + "/messages", {"text": "x"}) for _ in range(3)]
    assert [one.status for one in answers] == [201, 201, 429]
    assert answers[2].headers["Retry-After"]


# reading


async def test_history_is_read_from_any_place_in_both_directions(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    for number in range(1, 8):
        await say(anna, room, f"m{number}")
    messages = room + "/messages"

    async def texts(query: str) -> tuple[list[str], bool]:
        page = await anna.get(messages + query)
        return [one["text"] for one in page["messages"]], page["more"]

    assert await texts("?limit=3") == (["m5", "m6", "m7"], True)
    assert await texts("?limit=3&before=5") == (["m2", "m3", "m4"], True)
    assert await texts("?limit=3&before=2") == (["m1"], False)
    assert await texts("?limit=3&after=0") == (["m1", "m2", "m3"], True)
    assert await texts("?limit=3&after=5") == (["m6", "m7"], False)
    assert (await anna.ask("GET", messages + "?limit=0")).status == 400
    assert (await anna.ask("GET", messages + "/99")).status == 404


async def test_unread_messages_are_counted_until_they_are_marked(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    room = await anna.group(bela)
    row = await say(anna, room)
    assert (await bela.get(room))["unread"] == 1
    assert (await bela.get(CONVERSATIONS))["conversations"][0]["unread"] == 1
    assert (await bela.ask("POST", room + "/read", {"read": row["seq"]})).status == 204
    site.core.marks.flush()

    async def read() -> bool:
        return bool((await bela.get(room))["unread"] == 0)

    for _ in range(200):
        if await read():
            break
        await asyncio.sleep(0.005)
    assert await read()


# changing


async def test_a_message_is_edited_and_taken_back_for_everybody(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    room = await anna.group(bela)
    row = await say(anna, room)
    path = f"{room}/messages/{row['seq']}"
    peer = await bela.connect("tcp")
    changed = await anna.put(path, {"text": "改了", "base": row["rev"]})
    assert (changed["text"], changed["x"]["edited"] > 0) == ("改了", True)
    assert (await expect(peer, MsgPush)).text == "改了"
    stale = await anna.ask("PUT", path, {"text": "late", "base": row["rev"]})
    assert (stale.status, stale.error["code"]) == (409, Code.STALE)
    assert (await bela.ask("PUT", path, {"text": "mine"})).status == 403
    gone = await anna.ask("DELETE", path)
    assert (gone.status, gone.json["text"]) == (200, "")
    assert (await expect(peer, MsgPush)).text == ""
    assert (await anna.ask("PUT", path, {"text": "again"})).status == 410
    await peer.close()


# answers


async def test_who_waits_is_told_the_stored_answer_and_its_record(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna)
    said = await anna.post(room + "/messages?wait=answer", {"text": "你好"})
    assert said["answer"]["text"] == SAID
    assert said["answer"] == await anna.get(f"{room}/messages/{said['answer']['seq']}")
    record = said["record"]
    assert (record["status"], record["question"]) == ("done", said["message"]["seq"])
    assert record["answer"] == said["answer"]["seq"]
    assert await anna.get(f"/api/v1/turns/{said['turn']}") == record


async def test_who_does_not_wait_is_told_the_turn_at_once(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna, "hang")
    said = await anna.post(room + "/messages", {"text": "hi"})
    assert "answer" not in said
    running = (await anna.get(room + "/turns"))["turns"]
    assert [one["turn"] for one in running] == [said["turn"]]
    assert (await anna.ask("POST", f"/api/v1/turns/{said['turn']}/cancel")).status == 204
    await eventually(lambda: not site.core.streams.of(int(room.rpartition("/")[2])))
    assert (await anna.get(f"/api/v1/turns/{said['turn']}"))["status"] == "cancelled"


async def test_an_answer_comes_as_events(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna)
    answer = await anna.ask("POST", room + "/messages", {"text": "hi"}, Accept=EVENTS)
    assert answer.headers["Content-Type"].startswith(EVENTS)
    assert answer.headers["X-Request-ID"]
    events = _events(answer.body)
    assert events[0][0] == "message"
    assert events[0][1]["message"]["text"] == "hi"
    assert "".join(data["text"] for name, data in events if name == "delta") == SAID
    assert events[-1] == ("end", {"turn": events[0][1]["turn"], "reason": "stop"})


def _events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


@pytest.mark.parametrize("accept", ["application/json", EVENTS])
async def test_an_answer_that_fails_leaves_the_message_and_says_why(
    site: Site, accept: str
) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna, "status=401")
    answer = await anna.ask("POST", room + "/messages?wait=answer", {"text": "hi"}, Accept=accept)
    assert answer.status == 201
    assert answer.json["message"]["text"] == "hi"
    assert answer.json["record"]["status"] == "failed"
    assert answer.json["record"]["error_message"]


async def test_a_reader_that_leaves_does_not_stop_the_answer(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna, "tokens=40,rate=200")
    url = f"{site.url}{room}/messages"
    headers = {"Authorization": f"Bearer {anna.token}", "Accept": EVENTS}
    async with site.session.post(url, json={"text": "hi"}, headers=headers) as response:
        await response.content.readline()
        response.close()
    conv = int(room.rpartition("/")[2])
    await eventually(lambda: not site.core.streams.of(conv))
    messages = (await anna.get(room + "/messages"))["messages"]
    assert messages[-1]["text"] == answer_text(parse_model("tokens=40,rate=200"))


async def test_an_answer_is_made_once_more_and_one_is_picked(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna)
    first = (await anna.post(room + "/messages?wait=answer", {"text": "hi"}))["answer"]
    again = await anna.post(room + "/answers?wait=answer", {"mode": 2, "seq": first["seq"]})
    second = again["answer"]
    assert second["seq"] > first["seq"]
    assert (await anna.post(f"{room}/messages/{first['seq']}/pick"))["rev"] > 0
    assert (await anna.get(f"{room}/messages/{second['seq']}"))["x"]["off"]
    assert "off" not in (await anna.get(f"{room}/messages/{first['seq']}"))["x"]


# records


async def test_records_are_found_by_conversation_status_and_time(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    good, bad = await with_persona(anna), await with_persona(anna, "status=401")
    turns = []
    for room in (good, bad, good):
        said = await anna.post(room + "/messages?wait=answer", {"text": "hi"})
        turns.append(said["record"])

    async def ids(query: str, path: str = "/api/v1/turns") -> list[int]:
        return [one["id"] for one in (await anna.get(path + query))["turns"]]

    one, two, three = (turn["id"] for turn in turns)
    conv = good.rpartition("/")[2]
    assert await ids("") == [three, two, one]
    assert await ids("", "/api/ai/records") == [three, two, one]
    assert await ids(f"?conversation={conv}") == [three, one]
    assert await ids("?status=failed") == [two]
    assert await ids(f"?since={turns[2]['created']}") == [three]
    assert await ids(f"?until={turns[0]['created']}") == []
    first = await anna.get("/api/v1/turns?limit=2")
    assert [row["id"] for row in first["turns"]] == [three, two]
    rest = await anna.get(f"/api/v1/turns?limit=2&cursor={first['cursor']}")
    assert ([row["id"] for row in rest["turns"]], rest["cursor"]) == ([one], "")
    assert (await bela.get("/api/v1/turns"))["turns"] == []
    assert (await bela.ask("GET", f"/api/v1/turns/{one}")).status == 404
    for query in ("?cursor=x", "?status=odd", "?since=5&until=5"):
        assert (await anna.ask("GET", "/api/v1/turns" + query)).status == 400


# the short paths


async def test_the_short_paths_do_the_same(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    conv = int(room.rpartition("/")[2])
    body = {"conversation_id": conv, "text": "hi"}
    row = (await anna.post("/api/message/send", body))["message"]
    assert await anna.get(f"/api/message/{row['id']}") == row
    page = await anna.get(f"/api/message/list?conversation_id={conv}")
    assert page == {"messages": [row], "more": False}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "{room}/messages", {"text": "x"}),
        ("GET", "{room}/messages", None),
        ("GET", "{room}/messages/1", None),
        ("PUT", "{room}/messages/1", {"text": "x"}),
        ("DELETE", "{room}/messages/1", None),
        ("POST", "{room}/messages/1/pick", None),
        ("POST", "{room}/answers", {"seq": 1}),
        ("GET", "{room}/turns", None),
        ("POST", "/api/message/send", {"conversation_id": 0, "text": "x"}),
        ("GET", "/api/message/list?conversation_id={conv}", None),
        ("GET", "/api/message/{conv}-1", None),
        ("POST", "/api/v1/turns/{turn}/cancel", None),
    ],
)
async def test_others_and_other_tenants_find_nothing(
    site: Site, method: str, path: str, body: Any
) -> None:
    anna = await guest(site, "Anna")
    room = await with_persona(anna)
    said = await anna.post(room + "/messages", {"text": "hi"})
    conv = int(room.rpartition("/")[2])
    if body is not None and "conversation_id" in body:
        body = body | {"conversation_id": conv}
    address = path.format(room=room, conv=conv, turn=said["turn"])
    for other in (await guest(site, "Bela"), await stranger(site)):
        answer = await other.ask(method, address, body)
        assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND)
