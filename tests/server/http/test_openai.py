"""/v1: what is sent to the model, what comes back, and what is refused with which words."""

import asyncio
import base64
import gzip
import io
from typing import Any

import msgspec
import openai
import pytest
from openai import AsyncOpenAI

from ai_bridge.errors import BridgeError
from ai_bridge.http import answers, bodies
from bench.provider.script import answer_text, parse_model
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, MsgKind
from server.http import callers
from server.http.callers import CALLERS
from server.http.openai_routes import ASKING
from server.turn_records import MAX_WAITING
from storage.accounts import create_user
from storage.messages import history
from storage.rows import TurnStatus
from tests.server.http.conftest import Site
from tests.server.http.openai_site import (
    COMPLETIONS,
    bearer,
    complete,
    conversation,
    events,
    new_key,
    persona,
    raw,
    records,
    settings_for,
    settled,
    talk,
)
from tests.support.eventually import WAIT_S, eventually
from tests.support.turns import turns_of

OTHER_TENANT = 2


@pytest.fixture
def settings(provider: ScriptedProvider, request: pytest.FixtureRequest) -> dict[str, object]:
    return settings_for(provider.port) | getattr(request, "param", {})


def text_of(script: str) -> str:
    return answer_text(parse_model(script))


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(26)).decode()
PIXEL = f"data:image/png;base64,{PNG}"


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    """Return what offers one tool of the caller's."""
    function = {"name": name, "parameters": parameters}
    return {"tools": [{"type": "function", "function": function}]}


def form(schema: Any, name: str = "city") -> dict[str, Any]:
    """Return what asks for JSON by a schema."""
    told = {"name": name, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": told}}


def picture(url: str, role: str = "user") -> dict[str, Any]:
    """Return a talk with one picture."""
    content = [{"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": role, "content": content}]}


# what the model is shown


async def test_instructions_are_added_to_the_personas_prompt(
    site: Site, provider: ScriptedProvider
) -> None:
    messages = [
        {"role": "system", "content": "Say less."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "developer", "content": "Rhyme."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "三"}, {"type": "text", "text": "4"}],
        },
    ]
    anna = await site.register()
    answer = await complete(site, anna["token"], {"model": "nova", "messages": messages})
    assert answer.status == 200
    first, *rest = provider.requests[-1].body["messages"]
    assert first["role"] == "system"
    assert first["content"].startswith("You are Nova")
    assert first["content"].index("Say less.") < first["content"].index("Rhyme.")
    assert [m["content"] for m in rest] == ["one", "two", "三\n4"]


async def test_a_persona_from_a_card_brings_its_lore(
    site: Site, provider: ScriptedProvider
) -> None:
    entry = {"keys": ["龙"], "content": "Dragons are blue.", "enabled": True, "extensions": {}}
    card = {
        "spec": "chara_card_v2",
        "spec_version": "2.0",
        "data": {
            "name": "Aria",
            "description": "A singer.",
            "first_mes": "La.",
            "post_history_instructions": "Always sing.",
            "character_book": {"entries": [entry | {"insertion_order": 1}], "extensions": {}},
        },
    }
    anna = await site.register()
    made = await site.ask(
        "POST", "/api/v1/personas/import", json=card, headers=bearer(anna["token"])
    )
    assert made.status == 201, made
    name = f"persona:{made.json['id']}"
    for text, known in (("说说龙", True), ("hello", False)):
        answer = await complete(site, anna["token"], talk(text, model=name))
        assert answer.status == 200
        sent = str(provider.requests[-1].body["messages"])
        assert "A singer." in sent
        assert "Always sing." in sent
        assert ("Dragons are blue." in sent) is known


async def test_wishes_reach_the_model_and_the_personas_own_fill_the_gaps(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    await complete(
        site,
        anna["token"],
        talk(top_p=0.5, max_tokens=9, tools=[], functions=None, unheard_of=[{}]),
    )
    sent = provider.requests[-1].body
    assert (sent["top_p"], sent["max_tokens"]) == (0.5, 9)
    assert sent["temperature"] == 0.7, "Nova's own"
    await complete(site, anna["token"], talk(temperature=0.1, max_completion_tokens=8))
    sent = provider.requests[-1].body
    assert (sent["temperature"], sent["max_tokens"]) == (0.1, 8)


async def test_stop_words_reach_the_model(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    for given, sent in (("END", ["END"]), (["a", "b"], ["a", "b"])):
        await complete(site, anna["token"], talk(stop=given))
        assert provider.requests[-1].body["stop"] == sent


# the shape of a stream


async def test_a_stream_has_the_vendors_shape(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    async with raw(site) as line:
        line.post(anna["token"], talk(stream=True, stream_options={"include_usage": True}))
        status, headers = await line.head()
        body = await line.body()
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in headers
    assert headers["x-request-id"]
    *chunks, done = events(body)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"nova"}
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(said) == text_of("tokens=5")


async def test_a_connection_serves_the_next_request_after_a_stream(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    async with raw(site) as line:
        for _ in range(3):
            line.post(anna["token"], talk(stream=True))
            assert (await line.head())[0] == 200
            assert events(await line.body())[-1] == "[DONE]"


async def test_an_old_client_gets_the_stream_without_chunks(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    async with raw(site) as line:
        line.post(anna["token"], talk(stream=True), version="1.0")
        _, headers = await line.head()
        body = await asyncio.wait_for(line.reader.read(), WAIT_S)
    assert "transfer-encoding" not in headers
    assert body.startswith(b"data: {")
    assert events(body)[-1] == "[DONE]"


async def test_thoughts_come_in_a_field_of_their_own(
    site: Site, provider: ScriptedProvider
) -> None:
    key = await new_key(site)
    body = talk(model="scripted/think=2,tokens=1")
    whole = await complete(site, key, body)
    assert whole.json["choices"][0]["message"]["reasoning_content"] == "hmm0 hmm1 "
    streamed = await complete(site, key, body | {"stream": True})
    deltas = [event["choices"][0]["delta"] for event in events(streamed.body)[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hmm0 hmm1 "
    assert "".join(delta.get("content", "") for delta in deltas) == "word0 "


async def test_silence_is_filled_with_comments(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "COMMENT_S", 0.05)
    key = await new_key(site)
    answer = await complete(site, key, talk(model="scripted/tokens=1,first=0.4", stream=True))
    assert answer.body.count(b": keep-alive\n\n") >= 2
    assert events(answer.body)[-1] == "[DONE]"


# failures


async def test_a_failure_before_the_first_word_is_a_status(
    site: Site, provider: ScriptedProvider
) -> None:
    key = await new_key(site)
    for stream in (False, True):
        answer = await complete(site, key, talk(model="scripted/status=400,code=x", stream=stream))
        assert answer.status == 400
        assert set(answer.error) == {"message", "type", "param", "code"}
        assert answer.headers["X-Request-ID"]


async def test_a_failure_after_the_first_word_is_an_event(
    site: Site, provider: ScriptedProvider
) -> None:
    key = await new_key(site)
    script = "tokens=9,reset=2,rate=100"
    answer = await complete(site, key, talk(model=f"scripted/{script}", stream=True))
    assert answer.status == 200
    found = events(answer.body)
    assert found[-1]["error"]["code"] == "provider_down"
    assert "secret" not in answer.body.decode()
    (row,) = await records(site, 1)
    assert (row.status, row.reason) == (TurnStatus.FAILED, EndReason.ERROR)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
        (tool("f" * 65), "tools[0].function.name"),
        (tool("none"), "tools[0].function.name"),
        (tool("f", {"type": "array"}), "tools[0].function.parameters"),
        (tool("f", {"$ref": "#/nowhere"}), "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
        ({"tools": tool("f")["tools"] * 2}, "tools"),
        ({"tools": tool("f")["tools"] * 129}, "tools"),
        (tool("f", {"description": "x" * 300_000}), "tools"),
        ({"tools": {}}, "tools"),
        (tool("f") | {"tool_choice": "sometimes"}, "tool_choice"),
        (
            tool("f") | {"tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"metadata": {"conversation_id": {"deep": []}}}, "metadata[...]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}] * 300}]},
            "messages[0].content",
        ),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (form({}, "a b"), "response_format.json_schema.name"),
        (form([]), "response_format.json_schema.schema"),
        (form(None), "response_format.json_schema.schema"),
        (form({"x": "y" * 70_000}), "response_format.json_schema.schema"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 5}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (picture("x"), "messages[0].content[0]"),
        (picture("http://example.org/a.png"), "messages[0].content[0]"),
        (picture("file:///etc/passwd"), "messages[0].content[0]"),
        (picture("data:image/png;base64,"), "messages[0].content[0]"),
        (picture("data:image/png;base64,!!!"), "messages[0].content[0]"),
        (picture("data:image/svg+xml;base64,PHN2Zz48L3N2Zz4="), "messages[0].content[0]"),
        (picture("data:image/png;base64," + PNG[:-4] + "!AAA"), "messages"),
        (picture("data:image/png;base64," + PNG + "\n"), "messages"),
        (picture(PIXEL, "assistant"), "messages[0].content[0]"),
        ({"messages": picture(PIXEL)["messages"] * 17}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "text": "x"}]}]},
            "messages[0].content[0]",
        ),
    ],
)
async def test_what_cannot_be_given_is_refused_by_name(
    site: Site, provider: ScriptedProvider, change: dict[str, Any], param: str
) -> None:
    anna = await site.register()
    answer = await complete(site, anna["token"], talk() | change)
    assert answer.status == 400, answer
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert provider.stats.requests == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b'{"model": "nova", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"model": "nova", "messages": ' + b"[" * 100_000, 400),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "model": "nova", "messages": []}', 400),
        (b'{"model": "nova", "messages": [' + b'{"role":"user"},' * 20_000 + b"{}]}", 400),
        (b" " * (10 * 1024 * 1024 + 1), 413),
        (
            b'{"model": "nova", "messages": [{"role": "user", "content": "'
            + b"x" * (4 * 1024 * 1024 + 1)
            + b'"}]}',
            413,
        ),
    ],
)
async def test_hostile_bodies_are_refused(
    site: Site, provider: ScriptedProvider, body: bytes, status: int
) -> None:
    anna = await site.register()
    data = io.BytesIO(body)
    answer = await site.ask("POST", COMPLETIONS, data=data, headers=bearer(anna["token"]))
    assert answer.status == status
    assert answer.error["message"]
    assert (await complete(site, anna["token"], talk())).status == 200, "the server goes on"


async def test_a_compressed_body_is_refused_as_such(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    headers = {**bearer(anna["token"]), "Content-Encoding": "gzip"}
    body = io.BytesIO(gzip.compress(msgspec.json.encode(talk())))
    answer = await site.ask("POST", COMPLETIONS, data=body, headers=headers)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
    assert provider.stats.requests == 0


async def test_a_full_queue_tells_when_to_come_again(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BridgeError(Code.BUSY, "Too many people are asking. Ask again in a moment.", 2500)

    monkeypatch.setattr(site.core.bridge, "submit", refuse)
    anna = await site.register()
    for stream in (False, True):
        answer = await complete(site, anna["token"], talk(stream=stream))
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        assert answer.headers["Retry-After"] == "3"
        assert answer.headers["retry-after-ms"] == "2500"


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [("RATE", 429, "rate_limit_exceeded"), ("QUOTA", 429, "insufficient_quota")],
)
async def test_limits_have_the_vendors_words(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str, status: int, word: str
) -> None:
    def refuse(*_: object) -> None:
        raise BridgeError(Code[name], "Slow down.", 1000)

    monkeypatch.setattr(site.core.bridge, "submit", refuse)
    anna = await site.register()
    answer = await complete(site, anna["token"], talk())
    assert (answer.status, answer.error["code"]) == (status, word)
    assert (answer.headers.get("x-should-retry") == "false") is (name == "QUOTA")


async def test_requests_are_refused_while_too_many_records_wait(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = site.app._http._runner.app[ASKING].records  # type: ignore[union-attr]
    monkeypatch.setattr(type(waiting), "__len__", lambda _: MAX_WAITING)
    anna = await site.register()
    answer = await complete(site, anna["token"], talk())
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert provider.stats.requests == 0


def refusing(site: Site, monkeypatch: pytest.MonkeyPatch, code: Code, times: int) -> list[int]:
    """Have the bridge refuse so many turns; return a list that grows with each try."""
    submit, tries = site.core.bridge.submit, [0]

    def refuse(request: Any, watcher: Any) -> Any:
        tries[0] += 1
        if tries[0] <= times:
            raise BridgeError(code, "Not now.", 20)
        return submit(request, watcher)

    monkeypatch.setattr(site.core.bridge, "submit", refuse)
    return tries


@pytest.mark.parametrize("code", [Code.RATE, Code.IN_FLIGHT, Code.BUSY, Code.DRAINING])
async def test_openais_client_waits_as_told_and_asks_again(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    tries = refusing(site, monkeypatch, code, 2)
    key = await new_key(site)
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=2) as client:
        done = await client.chat.completions.create(**talk())
    assert done.choices[0].message.content == text_of("tokens=5")
    assert tries == [3]


async def test_openais_client_does_not_ask_again_without_credit(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = refusing(site, monkeypatch, Code.QUOTA, 9)
    key = await new_key(site)
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=2) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**talk())
    assert caught.value.code == "insufficient_quota"
    assert tries == [1]


async def test_a_body_that_trickles_is_given_up(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    key = await new_key(site)
    async with raw(site) as line:
        line.writer.write(
            f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Length: 1000\r\n\r\n{".encode()
        )
        assert (await line.head())[0] == 408


@pytest.mark.parametrize("settings", [{"limits.rate": 1.0, "limits.burst": 2.0}], indirect=True)
async def test_a_person_may_ask_as_often_as_on_the_socket_and_a_key_more_often(
    site: Site, provider: ScriptedProvider
) -> None:
    anna, key = await site.register(), await new_key(site)
    found = [await complete(site, anna["token"], talk()) for _ in range(3)]
    assert [answer.status for answer in found] == [200, 200, 429]
    assert found[-1].error["code"] == "rate_limit_exceeded"
    assert found[-1].headers["Retry-After"] == "1"
    assert {(await complete(site, key, talk())).status for _ in range(4)} == {200}


# leaving


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_turn(
    site: Site, provider: ScriptedProvider, stream: bool
) -> None:
    key = await new_key(site)
    async with raw(site) as line:
        line.post(key, talk(model="scripted/tokens=10000,rate=50", stream=stream))
        await eventually(lambda: provider.stats.streaming == 1)
        if stream:
            await line.chunk_after_head()
    await eventually(lambda: provider.stats.aborted == 1)
    (row,) = await records(site, 1)
    assert row.status == TurnStatus.CANCELLED
    await settled(site)


async def test_a_client_that_leaves_before_the_first_word_stops_the_turn(
    site: Site, provider: ScriptedProvider
) -> None:
    key = await new_key(site)
    async with raw(site) as line:
        line.post(key, talk(model="scripted/first=60", stream=True))
        await eventually(lambda: provider.stats.streaming == 1)
    await eventually(lambda: provider.stats.aborted == 1)


# who may


async def test_nobody_is_served_without_proof(site: Site, provider: ScriptedProvider) -> None:
    for method, path in (("POST", COMPLETIONS), ("GET", "/v1/models"), ("GET", "/v1/models/nova")):
        answer = await site.ask(method, path, json=talk())
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        wrong = await site.ask(method, path, json=talk(), headers=bearer("pk_wrong"))
        assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
    other = await new_key(site, "metrics")
    answer = await complete(site, other, talk())
    assert (answer.status, answer.error["code"]) == (403, "insufficient_permissions")


async def test_models_of_providers_need_their_scope(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    for secret in (anna["token"], await new_key(site, "chat")):
        answer = await complete(site, secret, talk(model="scripted/tokens=1"))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert provider.stats.requests == 0


async def test_a_persona_of_another_tenant_is_not_there(
    site: Site, provider: ScriptedProvider
) -> None:
    stranger = await site.core.store.change((), lambda tx: create_user(tx, OTHER_TENANT, "eve"))
    name = await persona(site, stranger.id or 0, tenant=OTHER_TENANT)
    anna = await site.register()
    for secret in (anna["token"], await new_key(site)):
        answer = await complete(site, secret, talk(model=name))
        unknown = await complete(site, secret, talk(model="persona:1"))
        assert (answer.status, unknown.status) == (404, 404)
        assert answer.error["message"].replace(name, "persona:1") == unknown.error["message"]
        listed = await site.ask("GET", "/v1/models", headers=bearer(secret))
        assert name not in {row["id"] for row in listed.json["data"]}
    key = await new_key(site, tenant=OTHER_TENANT)
    assert (await complete(site, key, talk(model=name))).status == 200


async def test_a_check_is_remembered_and_forgotten_at_once_when_it_is_revoked(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, text = await site.accounts.api_keys.create(1, "test", ("chat",))
    anna = await site.register()
    checks = 0
    check = site.accounts.api_keys.check

    async def count(given: str) -> Any:
        nonlocal checks
        checks += 1
        return await check(given)

    monkeypatch.setattr(site.accounts.api_keys, "check", count)
    await asyncio.gather(*(complete(site, text, talk()) for _ in range(20)))
    assert checks == 1
    assert (await complete(site, anna["token"], talk())).status == 200
    await site.accounts.api_keys.revoke(1, key.id)
    assert (await complete(site, text, talk())).status == 401
    await site.accounts.set_password(anna["user"]["id"], "another password")
    assert (await complete(site, anna["token"], talk())).status == 401


async def test_what_is_remembered_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "CAPACITY", 3)
    for _ in range(5):
        key = await new_key(site, "chat")
        assert (await site.ask("GET", "/v1/models", headers=bearer(key))).status == 200
    assert len(site.app._http._runner.app[CALLERS]) == 3  # type: ignore[union-attr]


async def test_a_key_acts_for_its_tenant_and_its_users_are_told_apart(
    site: Site, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    users: list[int] = []
    submit = site.core.bridge.submit

    def look(request: Any, watcher: Any) -> Any:
        users.append(request.user)
        assert request.tenant == 1
        return submit(request, watcher)

    monkeypatch.setattr(site.core.bridge, "submit", look)
    key, text = await site.accounts.api_keys.create(1, "test", ("chat",))
    for name in ("", "小明", "小红", "小明"):
        assert (await complete(site, text, talk(user=name))).status == 200
    nobody, ming, hong, again = users
    assert nobody == key.id
    assert ming == again != hong
    assert max(ming, hong) < 0, "never the number of a real user"
    rows = await records(site, 4)
    assert {row.user for row in rows} == {key.id}, "the key pays"


# records


async def test_every_answer_has_a_record_in_a_final_state(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    await asyncio.gather(*(complete(site, anna["token"], talk()) for _ in range(30)))
    rows = await records(site, 30)
    assert len(rows) == 30
    for row in rows:
        assert (row.status, row.reason) == (TurnStatus.DONE, EndReason.STOP)
        assert (row.provider, row.model) == ("scripted", "tokens=5")
        assert (row.tokens_in, row.tokens_out, row.usage_source) == (7, 5, "provider")
        assert (row.tenant, row.user) == (1, anna["user"]["id"])
    assert await site.core.turns.recover() == 0
    figures = (await site.ask("GET", "/metrics")).body.decode()
    assert "parlance_http_answers 0.0" in figures
    assert "parlance_http_records_waiting 0.0" in figures
    assert "parlance_http_records_lost_total 0.0" in figures


# conversations


async def test_a_conversation_keeps_the_question_and_the_answer(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    me = anna["user"]["id"]
    name = await persona(site, me, model="tokens=3,lang=zh")
    conv = await conversation(site, me, name)
    body = talk("你好", model=name, metadata={"conversation_id": str(conv)})
    whole = await complete(site, anna["token"], body)
    assert whole.json["choices"][0]["message"]["content"] == "今天的"
    again = await complete(
        site, anna["token"], talk("再见", model=name, stream=True), X_Conversation_ID=str(conv)
    )
    assert events(again.body)[-1] == "[DONE]"
    rows, _ = await site.core.store.read(history(conv, 0, True, 10, 0))
    assert [(row.kind, row.text) for row in rows] == [
        (MsgKind.TEXT, "你好"), (MsgKind.AI_REPLY, "今天的"),
        (MsgKind.TEXT, "再见"), (MsgKind.AI_REPLY, "今天的"),
    ]  # fmt: skip
    shown = [m["content"] for m in provider.requests[-1].body["messages"]]
    assert shown[-3:] == ["你好", "今天的", "再见"]
    assert not await site.core.store.read(turns_of(0))


async def test_a_repeat_with_the_same_key_is_not_sent_twice(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    me = anna["user"]["id"]
    name = await persona(site, me)
    conv = await conversation(site, me, name)
    body = talk(model=name, metadata={"conversation_id": conv})
    found = [await complete(site, anna["token"], body, Idempotency_Key="the one") for _ in range(2)]
    # As after a restart: only the store knows the answer.
    site.core.bridge._kept.clear()
    found.append(await complete(site, anna["token"], body, Idempotency_Key="the one"))
    texts = [answer.json["choices"][0]["message"]["content"] for answer in found]
    assert texts == [text_of("tokens=3")] * 3
    assert provider.stats.requests == 1
    rows, _ = await site.core.store.read(history(conv, 0, True, 10, 0))
    assert len(rows) == 2


async def test_leaving_a_conversation_keeps_what_was_said(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    me = anna["user"]["id"]
    name = await persona(site, me, model="tokens=10000,rate=50")
    conv = await conversation(site, me, name)
    async with raw(site) as line:
        body = talk(model=name, stream=True, metadata={"conversation_id": conv})
        line.post(anna["token"], body)
        await line.chunk_after_head()
    await eventually(lambda: provider.stats.aborted == 1)
    (row,) = await records(site, 1, conv)
    assert row.status == TurnStatus.CANCELLED
    rows, _ = await site.core.store.read(history(conv, 0, True, 10, 0))
    assert rows[-1].kind == MsgKind.AI_REPLY
    assert rows[-1].text.startswith("word0 ")
    assert rows[-1].x is not None
    assert rows[-1].x.finish == EndReason.CANCELLED


async def test_a_conversation_is_its_members_only(site: Site, provider: ScriptedProvider) -> None:
    anna, eve = await site.register(), await site.register("Eve")
    me = anna["user"]["id"]
    name = await persona(site, me)
    conv = await conversation(site, me, name)
    for wanted in (str(conv), "1", "x", "9" * 30):
        body = talk(metadata={"conversation_id": wanted})
        answer = await complete(site, eve["token"], body)
        assert answer.status == 404
    answer = await complete(site, await new_key(site), talk(metadata={"conversation_id": conv}))
    assert (answer.status, answer.error["code"]) == (403, "insufficient_permissions")
    assert provider.stats.requests == 0


async def test_what_a_conversation_does_not_take_is_refused_by_name(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    me = anna["user"]["id"]
    name = await persona(site, me)
    conv = await conversation(site, me, name)
    said = {"role": "assistant", "content": "x"}
    body = talk(model=name, metadata={"conversation_id": conv})
    body["messages"].append(said)
    answer = await complete(site, anna["token"], body)
    assert (answer.status, answer.error["param"]) == (400, "messages")
    rows, _ = await site.core.store.read(history(conv, 0, True, 10, 0))
    assert rows == []


async def test_instructions_hold_for_one_answer_of_a_conversation(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    me = anna["user"]["id"]
    name = await persona(site, me)
    conv = await conversation(site, me, name)
    body = talk(model=name, metadata={"conversation_id": conv}, stop="END")
    body["messages"].insert(0, {"role": "system", "content": "Rhyme."})
    for _ in range(2):  # the second is a repeat: it asks nobody
        await complete(site, anna["token"], body, Idempotency_Key="one")
    sent = provider.requests[-1].body
    assert sent["messages"][0]["content"] == "You are Ada.\n\nRhyme."
    assert sent["stop"] == ["END"]
    await complete(site, anna["token"], talk(model=name, metadata={"conversation_id": conv}))
    sent = provider.requests[-1].body
    assert sent["messages"][0]["content"] == "You are Ada."
    assert "stop" not in sent
    assert provider.stats.requests == 2
    rows, _ = await site.core.store.read(history(conv, 0, True, 10, 0))
    assert "Rhyme." not in [row.text for row in rows]


# models


async def test_models_are_listed_and_found_by_name(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    mine = await persona(site, anna["user"]["id"])
    listed = await site.ask("GET", "/v1/models", headers=bearer(anna["token"]))
    assert listed.json["object"] == "list"
    names = [row["id"] for row in listed.json["data"]]
    assert len(names) == len(set(names))
    assert {"nova", mine} <= set(names)
    for name in ("nova", mine):
        one = await site.ask("GET", f"/v1/models/{name}", headers=bearer(anna["token"]))
        assert one.json in listed.json["data"]
    gone = await site.ask("GET", "/v1/models/nobody", headers=bearer(anna["token"]))
    assert (gone.status, gone.error["code"]) == (404, "model_not_found")


async def test_pages_of_other_origins_are_refused(site: Site, provider: ScriptedProvider) -> None:
    anna = await site.register()
    answer = await complete(site, anna["token"], talk(), Origin="https://evil.example")
    assert answer.status == 403
    streamed = await complete(site, anna["token"], talk(stream=True), Origin=site.url)
    assert streamed.headers["Access-Control-Allow-Origin"] == site.url
    assert events(streamed.body)[-1] == "[DONE]"
