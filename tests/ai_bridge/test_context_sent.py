"""What really arrives at a provider: the whole way from a turn to the body of its request."""

from __future__ import annotations

import pytest

from ai_bridge.fences import BACKGROUND_FRAME, SUMMARY_FRAME
from ai_bridge.lore import LoreBook, LoreEntry
from ai_bridge.types import ChatMessage, GenParams, PersonaSpec, Role, TurnRequest
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
