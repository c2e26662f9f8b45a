"""Character cards over HTTP: in, at once at work, and out again without loss."""

import asyncio
import json
from typing import Any

import pytest

from protocol.codes import Code
from protocol.rows import Persona
from server.card_png import plain_picture
from server.card_shelf import CardShelf
from server.cards import MAX_FILE_BYTES, card_picture, parse_card, read_card_file
from server.http.persona_routes import GATE
from storage.personas import drop_persona, save_persona
from tests.server.http.conftest import Answer, Site
from tests.server.test_cards import V2, V3, as_json, bomb, chunk, png


class Owner:
    """Somebody who is signed in."""

    def __init__(self, site: Site, made: Any) -> None:
        self.site = site
        self.id: int = made["user"]["id"]
        self.headers = {"Authorization": f"Bearer {made['token']}"}

    async def send(self, data: bytes) -> Answer:
        return await self.site.ask(
            "POST", "/api/v1/personas/import", data=data, headers=self.headers
        )

    async def card(self, persona: int, kind: str = "json") -> Answer:
        path = f"/api/v1/personas/{persona}/card?format={kind}"
        return await self.site.ask("GET", path, headers=self.headers)


@pytest.fixture
async def anna(site: Site) -> Owner:
    return Owner(site, await site.register("Anna"))


async def test_a_card_becomes_a_persona_that_is_there_at_once(site: Site, anna: Owner) -> None:
    answer = await anna.send(card_picture(parse_card(as_json(V3)), plain_picture()))
    assert answer.status == 201, answer.body
    made = answer.json
    assert (made["name"], made["version"], made["greetings"]) == ("Aria", 3, 2)
    assert (made["lore"], made["skipped_keys"]) == (5, 2)
    row = site.core.personas.get(made["id"])
    assert row is not None
    assert (row.owner, row.name, row.avatar) == (anna.id, "Aria", made["picture"])
    picture = await site.ask("GET", f"/api/v1/avatars/{row.avatar}")
    assert picture.body == plain_picture()
    parts = await CardShelf(site.core.store).get(made["id"])
    assert parts is not None
    assert parts.nickname == "Ari"


@pytest.mark.parametrize("raw", [V2, V3])
async def test_what_comes_out_is_what_went_in(anna: Owner, raw: Any) -> None:
    made = (await anna.send(as_json(raw))).json
    answer = await anna.card(made["id"])
    assert (answer.status, answer.json) == (200, raw)
    assert "attachment" in answer.headers["Content-Disposition"]
    answer = await anna.card(made["id"], "png")
    assert answer.headers["Content-Type"] == "image/png"
    assert read_card_file(answer.body).card.raw == raw


async def test_the_same_file_again_makes_no_second_persona(site: Site, anna: Owner) -> None:
    first = await anna.send(as_json(V2))
    again = await anna.send(as_json(V2))
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]
    persona = first.json["id"]
    await site.core.store.change([anna.id], lambda tx: drop_persona(tx, persona, anna.id))
    after = await anna.send(as_json(V2))
    assert after.status == 201
    assert after.json["id"] != persona


async def test_changes_and_personas_without_a_card_come_out_too(site: Site, anna: Owner) -> None:
    made = (await anna.send(as_json(V2))).json
    change = Persona(greeting="Changed.")
    await site.core.store.change(
        [anna.id], lambda tx: save_persona(tx, 1, anna.id, made["id"], b"", change)
    )
    out = (await anna.card(made["id"])).json
    assert out == V2 | {"data": V2["data"] | {"first_mes": "Changed."}}  # type: ignore[operator]
    own = Persona(name="小红", prompt="你是小红。")
    saved, _ = await site.core.store.change(
        [anna.id], lambda tx: save_persona(tx, 1, anna.id, None, b"c" * 16, own)
    )
    out = (await anna.card(saved.id or 0)).json
    assert (out["spec"], out["data"]["description"]) == ("chara_card_v2", "你是小红。")


async def test_a_card_is_its_owners_alone(site: Site, anna: Owner) -> None:
    made = (await anna.send(as_json(V2))).json
    other = Owner(site, await site.register("Bert"))
    for persona in (made["id"], 5, 10**16 - 1):
        answer = await other.card(persona)
        assert (answer.status, answer.error["code"]) == (404, Code.NOT_FOUND)
    path = f"/api/v1/personas/{made['id']}/card"
    assert (await site.ask("GET", path)).status == 401
    assert (await site.ask("POST", "/api/v1/personas/import", data=b"{}")).status == 401
    assert (await anna.card(made["id"], "exe")).error["code"] == Code.INVALID


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 100_000, png(), png(chunk(b"zTXt", b"chara\0\0" + bomb()))],
)  # fmt: skip
async def test_a_bad_file_is_refused_with_advice(anna: Owner, data: bytes) -> None:
    answer = await anna.send(data)
    assert (answer.status, answer.error["code"]) == (400, Code.INVALID)
    assert "Send a V1, V2 or V3 card." in answer.error["message"]


async def test_a_file_that_is_too_large_is_not_read(site: Site, anna: Owner) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = (
        "POST /api/v1/personas/import HTTP/1.1", "Host: x", "Connection: close",
        f"Authorization: {anna.headers['Authorization']}",
        f"Content-Length: {MAX_FILE_BYTES + 1}", "", "",
    )  # fmt: skip
    writer.write("\r\n".join(head).encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_imports_of_one_user_and_at_once_are_bounded(site: Site, anna: Owner) -> None:
    gate = site.app._http._runner.app[GATE]  # type: ignore[union-attr]
    for user in range(4):
        gate.enter(1000 + user)
    assert (await anna.send(as_json(V2))).status == 503
    for _ in range(4):
        gate.leave()
    codes = [(await anna.send(b"{}")).status for _ in range(12)]
    assert codes.count(400) == 9
    assert codes[-1] == 429
    assert gate.refused == 4
    gate.enter(1)  # refused and failed files hold no place
    gate.leave()


async def test_the_shelf_keeps_the_cards_asked_for_last(site: Site, anna: Owner) -> None:
    made = []
    for name in ("A", "B"):
        raw = json.loads(as_json(V2))
        raw["data"]["name"] = name
        made.append((await anna.send(as_json(raw))).json["id"])
    shelf = CardShelf(site.core.store, cards=1)
    first = await shelf.get(made[0])
    assert await shelf.get(made[0]) is first
    assert await shelf.get(12345) is None
    assert await shelf.get(12345) is None
    assert shelf.stats.read == 2
    await shelf.get(made[1])
    assert (shelf.stats.read, shelf.stats.put_away) == (3, 1)
    assert await shelf.get(made[0]) is not first


async def test_the_shelf_tells_who_answers_with_a_card_and_without(site: Site, anna: Owner) -> None:
    made = (await anna.send(as_json(V2))).json
    shelf = CardShelf(site.core.store)
    row = site.core.personas.get(made["id"])
    spec = await shelf.spec(made["id"], row, "小明", "Rain.")
    assert (spec.name, spec.user_name, spec.post_history) == ("Aria", "小明", "Stay calm.")
    assert spec.prompt.startswith("{{original}}Play {{char}}.\n\n{{char}} guides")
    assert spec.prompt.endswith("an isle\n\nRain.")
    assert spec.lore is not None
    plain = await shelf.spec(12345, Persona(name="Ida", prompt="Be kind."), "Bob", "Rain.")
    assert (plain.name, plain.prompt, plain.lore) == ("Ida", "Be kind.\n\nRain.", None)
    nobody = await shelf.spec(0, None, "Bob")
    assert (nobody.name, nobody.prompt) == ("Assistant", "")
