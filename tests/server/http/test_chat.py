"""POST /api/v1/chat in both its bodies, and the page /test."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
from typing import Any

import pytest

from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from server.config_sections import ServerConfig
from server.http.test_page import is_offered
from storage.messages import history
from tests.ai_bridge.facade import PNG
from tests.server.http.conftest import Answer, Site
from tests.server.http.openai_site import (
    bearer,
    conversation,
    events,
    new_key,
    persona,
    raw,
    settings_for,
)
from tests.support.eventually import eventually

CHAT = "/api/v1/chat"
USAGE = '{"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}'
SAID = answer_text(parse_model("tokens=5"))


@pytest.fixture
def settings(provider: ScriptedProvider, request: pytest.FixtureRequest) -> dict[str, object]:
    return settings_for(provider.port) | getattr(request, "param", {})


async def chat(site: Site, secret: str, **body: Any) -> Answer:
    return await site.ask("POST", CHAT, json=body, headers=bearer(secret))


async def curl(site: Site, secret: str, body: str) -> str:
    """Run the command line that people copy; return what it prints."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-X", "POST", f"{site.url}{CHAT}",
        "-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {secret}",
        "-d", body,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode()


async def test_one_message_by_curl(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    body = '{"message": "你好", "model": "tokens=5", "provider": "scripted"}'
    printed = await curl(site, anna["token"], body)
    assert printed == f'{{"success": true, "response": "{SAID}", "usage": {USAGE}}}'
    sent = provider.requests[-1].body
    assert sent["model"] == "tokens=5"
    assert sent["messages"][0]["content"].startswith("You are Nova")
    assert sent["messages"][-1]["content"] == "你好"


async def test_a_talk_with_a_persona_by_curl(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    name = await persona(site, anna["user"]["id"], model="tokens=5")
    number = name.removeprefix("persona:")
    for wanted in (number, f'"{number}"', f'"{name}"'):
        body = f'{{"persona_id": {wanted}, "messages": [{{"role": "user", "content": "hi"}}]}}'
        printed = await curl(site, anna["token"], body)
        assert printed == f'{{"success": true, "response": "{SAID}", "usage": {USAGE}}}'
    assert provider.requests[-1].body["messages"][0]["content"] == "You are Ada."


async def test_a_failure_by_curl(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    printed = await curl(site, anna["token"], '{"message": "hi", "provider": "nobody"}')
    failure = json.loads(printed)
    assert printed.startswith('{"success": false, "error": "')
    assert failure == {"success": False, "error": failure["error"]}
    assert "nobody" in failure["error"]


async def test_without_a_name_the_everyday_persona_answers(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    assert (await chat(site, anna["token"], message="hi")).json["response"] == SAID
    assert (await chat(site, anna["token"], message="hi", model="iris")).status == 200
    assert provider.requests[-1].body["messages"][0]["content"].startswith("You are Iris")


async def test_a_stream_of_this_route(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    answer = await chat(site, anna["token"], message="hi", stream=True)
    *deltas, last, done = events(answer.body)
    assert "".join(event["delta"] for event in deltas) == SAID
    assert last == {"success": True, "usage": json.loads(USAGE)}
    assert done == "[DONE]"
    broken = await chat(
        site, anna["token"], message="hi", model="tokens=9,reset=2,rate=100", stream=True
    )
    assert broken.status == 200
    assert events(broken.body)[-1]["success"] is False


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"message": ""}, 400),
        ({"message": "hi", "messages": [{"role": "user", "content": "hi"}]}, 400),
        ({"messages": [{"role": "system", "content": "hi"}], "persona_id": "nova"}, 400),
        ({"messages": [{"role": "user", "content": "hi"}], "persona_id": 1}, 404),
        ({"messages": [{"role": "user", "content": "hi"}], "persona_id": []}, 400),
        ({"message": "hi", "conversation_id": 1}, 404),
        ({"message": "hi", "conversation_id": "x"}, 404),
        ({"message": "hi", "model": "status=500"}, 502),
    ],
)
async def test_refusals_have_two_fields_and_a_status(
    site: Site, provider: ScriptedProvider, body: dict[str, Any], status: int
) -> None:
    anna = await site.register()
    answer = await chat(site, anna["token"], **body)
    assert answer.status == status, answer
    assert set(answer.json) == {"success", "error"}
    assert answer.json["success"] is False


async def test_nobody_is_served_without_proof(site: Site, provider: ScriptedProvider) -> None:
    answer = await site.ask("POST", CHAT, json={"message": "hi"})
    assert answer.status == 401
    assert answer.json["success"] is False
    assert (await chat(site, await new_key(site, "metrics"), message="hi")).status == 403
    assert (await chat(site, await new_key(site, "chat"), message="hi")).status == 200


async def test_a_conversation_goes_on(site: Site, provider: ScriptedProvider) -> None:
    anna, eve = await site.register(), await site.register("Eve")
    me = anna["user"]["id"]
    name = await persona(site, me)
    conv = await conversation(site, me, name)
    first = await chat(site, anna["token"], message="one", conversation_id=conv)
    assert first.json["response"] == answer_text(parse_model("tokens=3"))
    second = await chat(
        site, anna["token"], message="two", conversation_id=str(conv), model="tokens=1"
    )
    assert second.json["response"] == "word0 "
    assert (await chat(site, eve["token"], message="x", conversation_id=conv)).status == 404
    rows, _ = await site.core.store.read(history(conv, 0, True, 10, 0))
    assert [row.text for row in rows] == ["one", "word0 word1 word2 ", "two", "word0 "]
    assert provider.requests[-1].body["messages"][0]["content"] == "You are Ada."


# the page


async def test_the_page_brings_everything_with_it(site: Site) -> None:
    answer = await site.ask("GET", "/test")
    page = answer.body.decode()
    assert answer.status == 200
    assert not re.search(r"(src|href|action)\s*=|@import|url\(|https?://", page)
    assert not re.search(r"\son\w+\s*=", page), "no inline handlers"
    assert "innerHTML" not in page
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert ">Nova</option>" in page
    assert "试聊角色" in page


async def test_the_page_asks_without_sign_in_on_this_machine_only(
    site: Site, provider: ScriptedProvider
) -> None:
    body = {"persona_id": "nova", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = await site.ask("POST", "/test/api/chat", json=body)
    assert answer.status == 200
    assert events(answer.body)[-1] == "[DONE]"
    asked = provider.stats.requests
    for headers in (
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Host": "evil.example"},
        {"Host": f"evil.example:{site.port}"},
        {"Authorization": "Bearer wrong"},
    ):
        answer = await site.ask("POST", "/test/api/chat", json=body, headers=headers)
        assert answer.status == 401, headers
    text = await site.ask("POST", "/test/api/chat", data=json.dumps(body))
    assert text.status == 401, "a form of another page can send text, but not JSON"
    assert provider.stats.requests == asked
    anna = await site.register()
    forwarded = bearer(anna["token"]) | {"X-Forwarded-For": "203.0.113.9"}
    answer = await site.ask("POST", "/test/api/chat", json=body, headers=forwarded)
    assert answer.status == 200


async def test_somebody_unknown_sees_no_conversation(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    conv = await conversation(site, anna["user"]["id"], await persona(site, anna["user"]["id"]))
    body = {"message": "hi", "conversation_id": conv}
    assert (await site.ask("POST", "/test/api/chat", json=body)).status == 404


@pytest.mark.parametrize("settings", [{"server.test_page": "off"}], indirect=True)
async def test_the_page_can_be_switched_off(site: Site, provider: ScriptedProvider) -> None:
    assert (await site.ask("GET", "/test")).status == 404
    assert (await site.ask("POST", "/test/api/chat", json={"message": "hi"})).status == 404
    assert provider.stats.requests == 0


@pytest.mark.parametrize(
    ("config", "offered"),
    [
        (ServerConfig(), True),
        (ServerConfig(host="::1"), True),
        (ServerConfig(host="0.0.0.0"), False),
        (ServerConfig(allow_cleartext=True), False),
        (ServerConfig(tls_cert="cert.pem"), False),
        (ServerConfig(host="0.0.0.0", test_page="on"), True),
        (ServerConfig(test_page="off"), False),
    ],
)
def test_the_page_is_for_a_server_that_only_this_machine_reaches(
    config: ServerConfig, offered: bool
) -> None:
    assert is_offered(config) is offered


async def test_leaving_the_page_stops_the_answer(site: Site, provider: ScriptedProvider) -> None:
    async with raw(site) as line:
        body = {"message": "hi", "model": "tokens=10000,rate=50", "stream": True}
        line.post((await site.register())["token"], body, path="/test/api/chat")
        assert (await line.head())[0] == 200
        await line.chunk()
    await eventually(lambda: provider.stats.aborted == 1)


async def test_a_picture_is_shown_to_the_persona_and_a_bad_one_refused(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()

    def shown(url: str) -> list[Any]:
        image = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [{"type": "text", "text": "什么?"}, image]}]

    good = f"data:image/png;base64,{PNG}"
    answer = await chat(site, anna["token"], persona_id="nova", messages=shown(good))
    assert answer.status == 200
    content = provider.requests[-1].body["messages"][-1]["content"]
    assert content[1]["image_url"]["url"] == good
    bad = await chat(site, anna["token"], persona_id="nova", messages=shown("data:image/png,x"))
    assert (bad.status, bad.json["success"]) == (400, False)
    assert provider.stats.requests == 1


async def test_a_provider_that_is_named_is_kept_to_also_in_a_conversation(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    talk = await conversation(site, anna["user"]["id"], await persona(site, anna["user"]["id"]))
    for more in ({}, {"conversation_id": str(talk)}):
        answer = await chat(
            site, anna["token"], message="hi", model="tokens=5", provider="scripted", **more
        )
        assert answer.status == 200, answer
        assert provider.requests[-1].body["model"] == "tokens=5"
        refused = await chat(site, anna["token"], message="hi", model="m", provider="no", **more)
        assert refused.status == 404
