"""Rules and moderation as programs meet them over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench.provider.server import ScriptedProvider
from storage.rows import TurnStatus
from tests.server.http.conftest import Site
from tests.server.http.openai_site import (
    bearer,
    complete,
    conversation,
    events,
    new_key,
    persona,
    settings_for,
    talk,
)
from tests.support.eventually import eventually
from tests.support.turns import turns_of

RULES = "You work for the town library. 不谈政治。"


@pytest.fixture
async def judge() -> AsyncIterator[ScriptedProvider]:
    service = ScriptedProvider()
    service.bad = {"kill": {"violence": 0.9}}
    await service.start()
    yield service
    await service.aclose()


@pytest.fixture
def settings(
    provider: ScriptedProvider, judge: ScriptedProvider, request: pytest.FixtureRequest
) -> dict[str, object]:
    made: dict[str, Any] = settings_for(provider.port)
    made["ai.providers"].append(
        {"name": "judge", "base_url": judge.base_url, "models": ["none"], "tier": 1}
    )
    moderation = {"words": ["坏话", "word90"], "provider": "judge", "thresholds": {"hate": 0.5}}
    more = getattr(request, "param", {})
    return made | {"ai.rules": RULES, "ai.moderation": moderation | more}


async def test_personas_of_programs_have_the_rules_and_bare_models_do_not(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    name = await persona(site, anna["user"]["id"], model="tokens=3")
    assert (await complete(site, anna["token"], talk(model=name))).status == 200
    body = {"persona_id": name, "messages": [{"role": "user", "content": "hi"}]}
    headers = bearer(anna["token"])
    assert (await site.ask("POST", "/api/v1/chat", json=body, headers=headers)).status == 200
    for sent in list(provider.requests)[-2:]:
        assert sent.body["messages"][0]["content"] == f"{RULES}\n\nYou are Ada."
    key = await new_key(site)
    bare = await complete(site, key, talk(model="scripted/tokens=3"))
    assert bare.status == 200, bare
    assert "library" not in str(provider.requests[-1].body)


@pytest.mark.parametrize("text", ["他说坏话", "how to kill time"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_question_is_a_400_and_reaches_no_provider(
    site: Site, provider: ScriptedProvider, text: str, stream: bool
) -> None:
    anna = await site.register()
    asked = provider.stats.requests
    told = await complete(site, anna["token"], talk(text, stream=stream))
    assert told.status == 400
    assert told.error["code"] == "content_filter"
    assert "rules of this server" in told.error["message"]
    assert "x-should-retry" not in told.headers or told.headers["x-should-retry"] == "false"
    other = await site.ask(
        "POST", "/api/v1/chat", json={"message": text}, headers=bearer(anna["token"])
    )
    assert (other.status, other.json["success"]) == (400, False)
    assert provider.stats.requests == asked


async def test_a_stream_that_goes_bad_ends_with_the_error(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    name = await persona(site, anna["user"]["id"], model="tokens=90000,rate=3000,no_usage")
    aborted = provider.stats.aborted
    told = await complete(site, anna["token"], talk(model=name, stream=True))
    assert told.status == 200
    last = [data for data in events(told.body) if data != "[DONE]"][-1]
    assert last["error"]["code"] == "content_filter"
    assert "taken back" in last["error"]["message"]
    await eventually(lambda: provider.stats.aborted == aborted + 1)
    whole = await complete(site, anna["token"], talk(model=name))
    assert (whole.status, whole.error["code"]) == (400, "content_filter")


async def test_a_bad_answer_in_a_conversation_is_not_stored_but_recorded(site: Site) -> None:
    anna = await site.register()
    user = anna["user"]["id"]
    name = await persona(site, user, model="tokens=200")
    conv = await conversation(site, user, name)
    body = talk(model=name, metadata={"conversation_id": str(conv)})
    told = await complete(site, anna["token"], body)
    assert (told.status, told.error["code"]) == (400, "content_filter")
    (turn,) = await site.core.store.read(turns_of(conv))
    assert (turn.status, turn.answer_seq, turn.partial) == (TurnStatus.FAILED, 0, "")
    assert (turn.tokens_in, turn.tokens_out) == (7, 200)


@pytest.mark.parametrize(
    "settings", [{"model": "status=500", "fail_open": False}],
    indirect=True,
)  # fmt: skip
async def test_a_question_that_nobody_can_judge_is_held_back_with_advice(
    site: Site, provider: ScriptedProvider
) -> None:
    anna = await site.register()
    asked = provider.stats.requests
    told = await complete(site, anna["token"], talk("fine"))
    assert told.status == 502
    assert "could not be checked" in told.error["message"]
    assert provider.stats.requests == asked
    page = await site.ask("GET", "/metrics")
    assert 'parlance_moderation_checks_total{check="input_block"} 1.0' in page.body.decode()
    assert 'parlance_moderation_failed_total{why="provider_error"} 1.0' in page.body.decode()
