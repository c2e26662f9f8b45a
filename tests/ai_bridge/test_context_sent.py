"""What really arrives at a provider: the whole way from a turn to the body of its request."""

from __future__ import annotations

import pytest
from msgspec import structs

from ai_bridge.fences import BACKGROUND_FRAME, SUMMARY_FRAME
from ai_bridge.lore import LoreBook, LoreEntry
from ai_bridge.types import ChatMessage, GenParams, PersonaSpec, Priority, Role, TurnRequest
from bench.provider.server import ScriptedProvider
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Watcher

REQUEST = TurnRequest(
    turn_id=1,
    tenant=1,
    user=1,
    conv=1,
    persona=PersonaSpec(
        5,
        "小红",
        "你是{{char}}。",
        user_name="小明",
        post_history="Answer briefly.",
        lore=LoreBook([LoreEntry(content="青龙住在山里。", keys=("龙",))]),
    ),
    history=(
        ChatMessage(Role.USER, "你好"),
        ChatMessage(Role.ASSISTANT, "你好，小明"),
        ChatMessage(Role.USER, "巨龙在哪里？"),
    ),
    summary="他们在里昂认识。",
    memories=("喜欢喝茶",),
    params=GenParams(model="fake"),
)


async def test_the_body_of_a_chat_request(provider: ScriptedProvider, make_rig: MakeRig) -> None:
    rig = await make_rig(provider)
    watcher = Watcher()
    rig.bridge.submit(REQUEST, watcher)
    assert (await watcher.end()).code is None
    assert provider.requests[-1].body["messages"] == [
        {"role": "system", "content": "你是小红。"},
        {
            "role": "user",
            "content": f"{SUMMARY_FRAME}\n<summary>\n他们在里昂认识。\n</summary>",
        },
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好，小明"},
        {
            "role": "user",
            "content": f"{BACKGROUND_FRAME}\n<memory>\n- 喜欢喝茶\n</memory>\n"
            "<lore>\n青龙住在山里。\n</lore>",
        },
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "巨龙在哪里？"},
    ]


RULES = "You work for the town library. 不谈政治。"


async def test_the_rules_of_the_platform_stand_before_every_persona(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, rules=f"{RULES}\n")
    prompts = []
    lore = LoreBook([LoreEntry(content="山里有龙。", constant=True)])
    for turn_id, prompt in ((1, "你是{{char}}。"), (2, ""), (3, "你是{{char}}。")):
        persona = PersonaSpec(5, "小红", prompt, lore=lore if turn_id == 3 else None)
        for priority in (Priority.INTERACTIVE, Priority.FACADE):
            watcher = Watcher()
            wish = structs.replace(
                REQUEST, turn_id=turn_id, persona=persona, priority=priority, summary="",
                memories=(), history=REQUEST.history[-1:],
            )  # fmt: skip
            rig.bridge.submit(wish, watcher)
            assert (await watcher.end()).code is None
            turn_id += 10
            prompts.append(provider.requests[-1].body["messages"])
    question = {"role": "user", "content": "巨龙在哪里？"}
    assert prompts == [
        [{"role": "system", "content": f"{RULES}\n\n{text}"}, question]
        for text in ("你是小红。", "You are 小红.", "山里有龙。\n\n你是小红。")
        for _ in range(2)
    ]


@pytest.mark.parametrize("kind", ["openai_responses", "anthropic", "gemini"])
async def test_the_rules_come_first_in_every_dialect(
    provider: ScriptedProvider, make_rig: MakeRig, kind: str
) -> None:
    rig = await make_rig(provider, provider={"kind": kind}, rules=RULES)
    watcher = Watcher()
    rig.bridge.submit(REQUEST, watcher)
    assert (await watcher.end()).code is None
    body = provider.requests[-1].body
    first = {
        "openai_responses": lambda: body["instructions"],
        "anthropic": lambda: body["system"],
        "gemini": lambda: body["systemInstruction"]["parts"][0]["text"],
    }[kind]()
    assert str(first).count("town library") == 1
    assert RULES in str(first)
    assert str(body).count("town library") == 1


async def test_a_bare_model_and_work_behind_the_scenes_see_no_rules(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, rules=RULES)
    bare = structs.replace(REQUEST, turn_id=1, persona=PersonaSpec(0, "", "Be brief."))
    behind = structs.replace(REQUEST, turn_id=2, priority=Priority.BACKGROUND)
    for wish in (bare, behind):
        watcher = Watcher()
        rig.bridge.submit(wish, watcher)
        assert (await watcher.end()).code is None
        assert "town library" not in str(provider.requests[-1].body)


@pytest.mark.parametrize("kind", ["openai_responses", "anthropic", "gemini"])
async def test_every_dialect_is_sent_all_of_it_in_this_order(
    provider: ScriptedProvider, make_rig: MakeRig, kind: str
) -> None:
    rig = await make_rig(provider, provider={"kind": kind})
    watcher = Watcher()
    rig.bridge.submit(REQUEST, watcher)
    assert (await watcher.end()).code is None
    body = str(provider.requests[-1].body)
    order = ["里昂认识", "'你好'", "你好，小明", "喜欢喝茶", "青龙住", "Answer briefly.", "巨龙在"]
    places = [body.index(text) for text in order]
    assert places == sorted(places)
    assert "你是小红。" in body
