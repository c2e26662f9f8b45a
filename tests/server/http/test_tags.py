"""Answers that clients poll for carry an entity tag, and are not sent twice."""

from typing import Any

import pytest

from tests.server.http.api_desk import CONVERSATIONS, Guest, guest
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import bearer


async def poll(who: Guest, path: str, tag: str = "") -> Answer:
    headers = bearer(who.token) | ({"If-None-Match": tag} if tag else {})
    return await who.site.ask("GET", path, headers=headers)


async def polled_paths(anna: Guest) -> list[str]:
    """Return an address of every route that the document says can be polled."""
    room = await anna.group()
    sent = await anna.post(f"{room}/messages", {"text": "你好"})
    persona = await anna.post("/api/v1/personas", {"name": "Own", "prompt": "Be brief."})
    public = (await anna.get("/api/v1/personas?scope=2"))["personas"][0]["id"]
    talk = (await anna.post(CONVERSATIONS, {"persona": public}))["conversation"]["id"]
    turn = await anna.post(f"{CONVERSATIONS}/{talk}/messages?wait=answer", {"text": "hi"})
    conv = room.rpartition("/")[2]
    filled = {
        "/api/v1/personas/{id}": f"/api/v1/personas/{persona['id']}",
        "/api/v1/users/{id}": f"/api/v1/users/{anna.id}",
        "/api/v1/turns/{id}": f"/api/v1/turns/{turn['turn']}",
        "/api/message/{id}": f"/api/message/{sent['message']['id']}",
        "/api/message/list": f"/api/message/list?conversation_id={conv}",
    }
    document = (await anna.site.ask("GET", "/api/openapi.json")).json
    polled = [
        path
        for path, methods in document["paths"].items()
        if "304" in methods.get("get", {}).get("responses", {}) and methods["get"]["security"]
    ]
    return [filled.get(path) or path.replace("{id}", conv).replace("{seq}", "1") for path in polled]


async def test_what_has_not_changed_is_not_sent_again(site: Site) -> None:
    anna = await guest(site, "Anna")
    paths = await polled_paths(anna)
    assert len(paths) >= 12
    for path in paths:
        first = await poll(anna, path)
        assert first.status == 200, (path, first)
        tag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "private, no-cache"
        assert "Authorization" in first.headers["Vary"]
        again = await poll(anna, path, tag)
        assert (again.status, again.body) == (304, b""), path
        assert (again.headers["ETag"], len(again.headers["X-Request-ID"])) == (tag, 16)
        other = await poll(anna, path, '"other"')
        assert (other.status, other.body) == (200, first.body)


async def test_a_change_is_sent(site: Site) -> None:
    anna = await guest(site, "Anna")
    room = await anna.group()
    before = {path: (await poll(anna, path)).headers["ETag"] for path in (room, CONVERSATIONS)}
    await anna.put(room, {"title": "新名"})
    for path, tag in before.items():
        after = await poll(anna, path, tag)
        assert (after.status, "新名".encode() in after.body) == (200, True)
        assert after.headers["ETag"] != tag


@pytest.mark.parametrize(
    ("header", "status"),
    [("{tag}", 304), ("W/{tag}", 304), ('"x", {tag}', 304), ("*", 304), ("x", 200), ('"x"', 200)],
)
async def test_tags_are_compared_as_the_standard_says(site: Site, header: str, status: int) -> None:
    """RFC 9110 §13.1.2: weakly, any of a list, or a star."""
    anna = await guest(site, "Anna")
    tag = (await poll(anna, "/api/v1/me")).headers["ETag"]
    assert (await poll(anna, "/api/v1/me", header.replace("{tag}", tag))).status == status


async def test_somebody_elses_tag_tells_nothing(site: Site) -> None:
    anna, bert = await guest(site, "Anna"), await guest(site, "Bert")
    tag = (await poll(anna, "/api/v1/me")).headers["ETag"]
    assert (await poll(bert, "/api/v1/me", tag)).json["nick"] == "Bert"
    refused: Any = await site.ask("GET", "/api/v1/me", headers={"If-None-Match": tag})
    assert refused.status == 401
