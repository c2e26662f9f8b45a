"""Conversations, their members and people over HTTP, next to the socket."""

from typing import Any

import pytest

from protocol.codes import Code
from protocol.envelopes import ConvPush, MemberPush, MyConvPush
from storage.personas import all_personas
from tests.server.http.api_desk import CONVERSATIONS, Guest, expect, guest, stranger
from tests.server.http.conftest import Site
from tests.server.http.openai_site import new_key


async def builtin(site: Site) -> int:
    return (await site.core.store.read(all_personas(0)))[0].row.id or 0


async def listed(who: Guest, query: str = "") -> list[str]:
    page = await who.get(CONVERSATIONS + query)
    return [one["conversation"].get("title", "") for one in page["conversations"]]


async def test_a_conversation_with_a_persona_is_made_listed_and_found(site: Site) -> None:
    anna = await guest(site, "Anna")
    body = {"title": "第一次", "persona": await builtin(site)}
    answer = await anna.ask("POST", CONVERSATIONS, body)
    assert answer.status == 201
    made = answer.json
    assert made["conversation"]["title"] == "第一次"
    assert [one["user"] for one in made["members"]] == [anna.id]
    found = await anna.get(f"{CONVERSATIONS}/{made['conversation']['id']}")
    assert found["conversation"]["persona"] == body["persona"]
    assert await listed(anna) == ["第一次"]


async def test_the_same_idempotency_key_makes_one_conversation(site: Site) -> None:
    anna = await guest(site, "Anna")
    body = {"kind": 3, "title": "room"}
    made = [
        (await anna.post(CONVERSATIONS, body, Idempotency_Key=key))["conversation"]["id"]
        for key in ("one", "one", "two")
    ]
    assert made[0] == made[1] != made[2]
    answer = await anna.ask("POST", CONVERSATIONS, body, Idempotency_Key="x" * 257)
    assert (answer.status, answer.error["code"]) == (400, Code.INVALID)


async def test_the_list_goes_on_at_the_cursor_and_leaves_nothing_out(site: Site) -> None:
    anna = await guest(site, "Anna")
    for number in range(5):
        await anna.group(title=f"room {number}")
    seen: list[str] = []
    cursor = ""
    while True:
        page = await anna.get(f"{CONVERSATIONS}?limit=2&cursor={cursor}")
        assert len(page["conversations"]) <= 2
        seen += [one["conversation"]["title"] for one in page["conversations"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert sorted(seen) == [f"room {number}" for number in range(5)]
    answer = await anna.ask("GET", f"{CONVERSATIONS}?cursor=nonsense")
    assert answer.status == 400


async def test_a_change_reaches_the_sockets_of_all_members(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    room = await anna.group(bela)
    peer = await bela.connect("tcp")
    assert (await anna.put(room, {"title": "茶馆"}))["rev"] > 0
    pushed = await expect(peer, ConvPush)
    assert pushed.row.title == "茶馆"
    assert (await bela.get(room))["conversation"]["title"] == "茶馆"
    answer = await bela.ask("PUT", room, {"title": "mine"})
    assert (answer.status, answer.error["code"]) == (403, Code.NOT_PERMITTED)
    await peer.close()


async def test_archiving_is_ones_own_affair(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    room = await anna.group(bela)
    peer = await anna.connect("ws")
    await anna.put(room + "/mine", {"archived": True, "remark": "old"})
    assert (await expect(peer, MyConvPush)).my.archived
    assert await listed(anna) == []
    assert await listed(anna, "?archived=true") == ["room"]
    assert await listed(bela) == ["room"]
    await peer.close()


async def test_members_come_get_a_role_leave_and_are_removed(site: Site) -> None:
    anna, bela, cleo = [await guest(site, name) for name in ("Anna", "Bela", "Cleo")]
    room = await anna.group(bela)
    peer = await anna.connect("tcp")
    await anna.post(room + "/members", {"users": [cleo.id]})
    assert (await expect(peer, MemberPush)).m.user == cleo.id
    first = await anna.get(room + "/members?limit=2")
    rest = await anna.get(f"{room}/members?limit=2&cursor={first['cursor']}")
    users = [one["user"] for one in first["members"] + rest["members"]]
    assert sorted(users) == sorted([anna.id, bela.id, cleo.id])
    await anna.put(f"{room}/members/{bela.id}", {"role": 2})
    assert (await bela.get(room))["my"]["role"] == 2
    answer = await cleo.ask("DELETE", f"{room}/members/{bela.id}")
    assert answer.status == 403
    assert (await bela.ask("DELETE", f"{room}/members/{cleo.id}")).status == 200
    assert (await cleo.ask("GET", room)).status == 404
    assert (await bela.ask("DELETE", f"{room}/members/{bela.id}")).status == 200
    assert await listed(bela) == []
    await peer.close()


async def test_what_an_owner_deletes_comes_back_whole(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    room = await anna.group(bela)
    await anna.post(room + "/delete")
    assert (await listed(anna), await listed(bela)) == ([], [])
    assert await listed(anna, "?archived=true") == ["room"]
    await anna.post(room + "/restore")
    assert (await listed(anna), await listed(bela)) == (["room"], ["room"])
    await bela.post(room + "/delete")
    assert (await listed(anna), await listed(bela)) == (["room"], [])


async def test_two_people_have_one_direct_conversation_which_each_may_hide(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    made = [
        (await one.post(CONVERSATIONS, {"kind": 2, "members": [other.id]}))["conversation"]["id"]
        for one, other in ((anna, bela), (bela, anna))
    ]
    assert made[0] == made[1]
    await anna.post(f"{CONVERSATIONS}/{made[0]}/delete")
    assert len(await listed(anna)) == 0
    assert len(await listed(bela)) == 1
    await anna.post(f"{CONVERSATIONS}/{made[0]}/restore")
    assert len(await listed(anna)) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "", {"title": "x"}),
        ("PUT", "/mine", {"archived": True}),
        ("POST", "/delete", None),
        ("POST", "/restore", None),
        ("POST", "/read", {"read": 1}),
        ("GET", "/members", None),
        ("POST", "/members", {"users": [1]}),
        ("PUT", "/members/1", {"role": 2}),
        ("DELETE", "/members/1", None),
    ],
)
async def test_others_and_other_tenants_find_nothing(
    site: Site, method: str, path: str, body: Any
) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    for other in (await guest(site, "Bela"), await stranger(site)):
        answer = await other.ask(method, room + path, body)
        assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND)


async def test_a_stranger_cannot_be_drawn_into_a_group(site: Site) -> None:
    anna, mallory = await guest(site, "Anna"), await stranger(site)
    answer = await anna.ask("POST", CONVERSATIONS, {"kind": 3, "members": [mallory.id]})
    assert answer.status == 404
    room = await anna.group()
    answer = await anna.ask("POST", room + "/members", {"users": [mallory.id]})
    assert answer.status == 404


async def test_a_key_is_told_that_it_owns_nothing(site: Site) -> None:
    key = await new_key(site)
    answer = await site.ask("GET", CONVERSATIONS, headers={"X-API-Key": key})
    assert (answer.status, answer.error["code"]) == (403, Code.NOT_PERMITTED)
    assert "exchange" in answer.error["message"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"kind": 7}, "kind"),
        ({"kind": 3, "title": "x" * 129}, "title"),
        ({"kind": 3, "members": ["Anna"]}, "members"),
        ({"kind": 3, "set": {"opt": {"temperature": 9}}}, "temperature"),
        ({"kind": 1}, "persona"),
        ([], "object"),
    ],
)
async def test_a_body_that_cannot_be_is_refused(site: Site, body: Any, word: str) -> None:
    anna = await guest(site, "Anna")
    answer = await anna.ask("POST", CONVERSATIONS, body)
    assert (answer.status, answer.error["code"]) == (400, Code.INVALID)
    assert word in answer.error["reason"] + answer.error["message"]


@pytest.mark.parametrize("settings", [{"limits.rate": 1.0, "limits.burst": 8.0}])
async def test_the_rate_of_the_socket_holds_and_says_when_to_come_again(site: Site) -> None:
    anna = await guest(site, "Anna")
    statuses = [(await anna.ask("GET", CONVERSATIONS)).status for _ in range(6)]
    assert statuses[:4] == [200] * 4  # listing weighs 2
    answer = await anna.ask("GET", CONVERSATIONS)
    assert (answer.status, answer.error["code"]) == (429, Code.RATE)
    assert int(answer.headers["Retry-After"]) >= 1
    bela = await guest(site, "Bela")
    assert (await bela.ask("GET", CONVERSATIONS)).status == 200


# people and personas


async def test_people_see_and_change_themselves_and_find_others(site: Site) -> None:
    anna, bela = await guest(site, "安娜"), await guest(site, "Bela")
    persona = await builtin(site)
    mine = await anna.put("/api/v1/me", {"bio": "茶", "persona": persona})
    assert (mine["id"], mine["nick"], mine["bio"]) == (anna.id, "安娜", "茶")
    assert await anna.get("/api/v1/me") == mine
    seen = await bela.get(f"/api/v1/users/{anna.id}")
    assert seen["bio"] == "茶"
    assert "persona" not in seen
    found = await bela.get("/api/v1/users?q=安")
    assert [one["id"] for one in found["users"]] == [anna.id]
    mallory = await stranger(site)
    assert (await mallory.ask("GET", f"/api/v1/users/{anna.id}")).status == 404
    assert (await mallory.get("/api/v1/users?q=安"))["users"] == []


async def test_a_persona_is_made_changed_listed_and_removed(site: Site) -> None:
    anna, bela = await guest(site, "Anna"), await guest(site, "Bela")
    path = "/api/v1/personas"
    body = {"name": "林", "prompt": "secret", "tags": ["tea"], "scope": 1}
    answer = await anna.ask("POST", path, body)
    assert answer.status == 201
    one = f"{path}/{answer.json['id']}"
    assert (await anna.get(one))["prompt"] == "secret"
    assert "prompt" not in await bela.get(one)
    assert (await anna.put(one, {"name": "林老师"}))["tags"] == ["tea"]
    assert [row["name"] for row in (await anna.get(path))["personas"]] == ["林老师"]
    assert (await bela.ask("PUT", one, {"name": "mine"})).status == 403
    assert (await (await stranger(site)).ask("GET", one)).status == 404
    assert (await anna.ask("DELETE", one)).status == 204
    assert (await anna.get(path))["personas"] == []
