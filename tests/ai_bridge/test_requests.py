"""The exact request that each dialect makes of one and the same call."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from ai_bridge.backends import provider_of
from ai_bridge.config import ProviderConfig, Quirks
from ai_bridge.providers.base import HttpRequest, ModelCall, ToolDef
from ai_bridge.secrets import Secret
from ai_bridge.types import ChatMessage, Role, ToolCall
from tests.ai_bridge.fakes import request

KEY = Secret("sk-private")
PLAIN = Quirks()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolDef("weather", "Tells the weather.", SCHEMA)
CALLS = (
    ToolCall("call:1", "weather", '{"city":"巴黎"}'),
    ToolCall("call:2", "weather", "{oops"),
)
TALK = (
    ChatMessage(Role.SYSTEM, "You are Mira."),
    ChatMessage(Role.SYSTEM, "Earlier: they met."),
    ChatMessage(Role.USER, "巴黎?"),
    ChatMessage(Role.ASSISTANT, "Let me look.", calls=CALLS),
    ChatMessage(Role.TOOL, "sunny", name="weather", call_id="call:1"),
    ChatMessage(Role.TOOL, "bad arguments", name="weather", call_id="call:2"),
    ChatMessage(Role.SYSTEM, "Answer briefly."),
    ChatMessage(Role.USER, "Well?"),
)


def build(
    kind: str,
    messages: tuple[ChatMessage, ...] = TALK,
    *,
    base_url: str = "http://x/v1",
    model: str = "m",
    stream: bool = True,
    tools: tuple[ToolDef, ...] = (),
    tool_choice: Literal["auto", "none"] = "auto",
    quirks: Quirks = PLAIN,
    **params: Any,
) -> HttpRequest:
    config = ProviderConfig(name="x", kind=kind, base_url=base_url, quirks=quirks)  # type: ignore[arg-type]
    call = ModelCall(
        request=request(1, **params), model=model, messages=messages, tools=tools, stream=stream,
        tool_choice=tool_choice,
    )  # fmt: skip
    return provider_of(config).build(call, KEY)


def body(kind: str, *args: Any, **fields: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(build(kind, *args, **fields).body)
    return parsed


WISHES: dict[str, Any] = {
    "max_tokens": 99,
    "temperature": 1.5,
    "top_p": 0.5,
    "stop": ("\nBob:", "  ", "\nEve:"),
}


def test_openai_chat() -> None:
    built = build("openai_chat", tools=(WEATHER,), **WISHES)
    assert built.url == "http://x/v1/chat/completions"
    assert built.headers == {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "authorization": "Bearer sk-private",
        "x-request-id": "req-1",
    }
    function = {"name": "weather", "arguments": '{"city":"巴黎"}'}
    broken = {"name": "weather", "arguments": "{oops"}
    assert json.loads(built.body) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You are Mira."},
            {"role": "system", "content": "Earlier: they met."},
            {"role": "user", "content": "巴黎?"},
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [
                    {"id": "call:1", "type": "function", "function": function},
                    {"id": "call:2", "type": "function", "function": broken},
                ],
            },
            {"role": "tool", "tool_call_id": "call:1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "call:2", "content": "bad arguments"},
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "Well?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 99,
        "temperature": 1.5,
        "top_p": 0.5,
        "stop": ["\nBob:", "\nEve:"],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Tells the weather.",
                    "parameters": SCHEMA,
                },
            }
        ],
    }


def test_openai_responses() -> None:
    built = build("openai_responses", tools=(WEATHER,), **WISHES)
    assert built.url == "http://x/v1/responses"
    assert built.headers["authorization"] == "Bearer sk-private"
    call = {"type": "function_call", "name": "weather"}
    assert json.loads(built.body) == {
        "model": "m",
        "instructions": "You are Mira.\n\nEarlier: they met.",
        "input": [
            {"type": "message", "role": "user", "content": "巴黎?"},
            {"type": "message", "role": "assistant", "content": "Let me look."},
            {**call, "call_id": "call:1", "arguments": '{"city":"巴黎"}'},
            {**call, "call_id": "call:2", "arguments": "{oops"},
            {"type": "function_call_output", "call_id": "call:1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "call:2", "output": "bad arguments"},
            {"type": "message", "role": "system", "content": "Answer briefly."},
            {"type": "message", "role": "user", "content": "Well?"},
        ],
        "stream": True,
        "store": False,
        "max_output_tokens": 99,
        "temperature": 1.5,
        "top_p": 0.5,
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "description": "Tells the weather.",
                "parameters": SCHEMA,
                "strict": False,
            }
        ],
    }


def test_anthropic() -> None:
    built = build("anthropic", tools=(WEATHER,), **WISHES)
    assert built.url == "http://x/v1/messages"
    assert built.headers == {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "anthropic-version": "2023-06-01",
        "x-api-key": "sk-private",
        "x-request-id": "req-1",
    }
    cached = {"cache_control": {"type": "ephemeral"}}
    assert json.loads(built.body) == {
        "model": "m",
        "max_tokens": 99,
        "system": [
            {"type": "text", "text": "You are Mira.", **cached},
            {"type": "text", "text": "Earlier: they met.", **cached},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "巴黎?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather",
                     "input": {"city": "巴黎"}},
                    {"type": "tool_use", "id": "call_2", "name": "weather",
                     "input": {"invalid_arguments": "{oops"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": "bad arguments"},
                    {"type": "text", "text": "Answer briefly."},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
        "stream": True,
        "temperature": 1.0,
        "stop_sequences": ["\nBob:", "\nEve:"],
        "tools": [
            {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}
        ],
    }  # fmt: skip


def test_gemini() -> None:
    built = build("gemini", base_url="http://x/v1beta", tools=(WEATHER,), **WISHES)
    assert built.url == "http://x/v1beta/models/m:streamGenerateContent?alt=sse"
    assert built.headers["x-goog-api-key"] == "sk-private"
    assert json.loads(built.body) == {
        "systemInstruction": {"parts": [{"text": "You are Mira."}, {"text": "Earlier: they met."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "巴黎?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "Let me look."},
                    {"functionCall": {"name": "weather", "args": {"city": "巴黎"}}},
                    {"functionCall": {"name": "weather",
                                      "args": {"invalid_arguments": "{oops"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "weather", "response": {"result": "sunny"}}},
                    {"functionResponse": {"name": "weather",
                                          "response": {"result": "bad arguments"}}},
                    {"text": "Answer briefly."},
                    {"text": "Well?"},
                ],
            },
        ],
        "generationConfig": {
            "temperature": 1.5,
            "topP": 0.5,
            "maxOutputTokens": 99,
            "stopSequences": ["\nBob:", "\nEve:"],
        },
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "Tells the weather.",
                     "parametersJsonSchema": SCHEMA}
                ]
            }
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("openai_chat", "http://x/v1/chat/completions"),
        ("openai_responses", "http://x/v1/responses"),
        ("anthropic", "http://x/v1/messages"),
        ("gemini", "http://x/v1/models/m:generateContent"),
    ],
)
def test_a_call_without_streaming(kind: str, url: str) -> None:
    built = build(kind, stream=False)
    assert built.url == url
    assert built.headers["accept"] == "application/json"
    sent = json.loads(built.body)
    assert not sent.get("stream")
    assert "stream_options" not in sent


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses", "anthropic", "gemini"])
def test_nothing_is_sent_that_nobody_wished(kind: str) -> None:
    sent = body(kind, (ChatMessage(Role.USER, "Hi"),))
    unasked = {"temperature", "top_p", "stop", "stop_sequences", "tools", "generationConfig",
               "system", "systemInstruction", "instructions", "max_output_tokens"}  # fmt: skip
    assert not unasked & sent.keys()


@pytest.mark.parametrize("kind", ["anthropic", "gemini"])
def test_a_talk_of_two_sides_begins_with_the_person_and_alternates(kind: str) -> None:
    talk = (
        ChatMessage(Role.ASSISTANT, "Good evening."),
        ChatMessage(Role.ASSISTANT, "Are you there?"),
        ChatMessage(Role.USER, "Ann: hi"),
        ChatMessage(Role.USER, "  "),
        ChatMessage(Role.USER, "Bob: hello"),
    )
    sent = body(kind, talk)
    sides = sent["messages"] if kind == "anthropic" else sent["contents"]
    inner = "content" if kind == "anthropic" else "parts"
    assert [side["role"] for side in sides] == [
        "user",
        "assistant" if kind == "anthropic" else "model",
        "user",
    ]
    assert [[part["text"] for part in side[inner]] for side in sides] == [
        ["…"],
        ["Good evening.", "Are you there?"],
        ["Ann: hi", "Bob: hello"],
    ]


def test_an_answer_to_be_continued_ends_without_white_space_for_anthropic() -> None:
    talk = (ChatMessage(Role.USER, "Go on"), ChatMessage(Role.ASSISTANT, "Once upon \n"))
    assert body("anthropic", talk)["messages"][-1]["content"][0]["text"] == "Once upon"


def test_tools_without_a_system_prompt_carry_the_mark_of_the_cache() -> None:
    other = ToolDef("clock", "Tells the time.", {"type": "object", "properties": {}})
    sent = body("anthropic", (ChatMessage(Role.USER, "Hi"),), tools=(WEATHER, other))
    assert ["cache_control" in tool for tool in sent["tools"]] == [False, True]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("openai_chat", "tool_choice", "none"),
        ("openai_responses", "tool_choice", "none"),
        ("anthropic", "tool_choice", {"type": "none"}),
        ("gemini", "toolConfig", {"functionCallingConfig": {"mode": "NONE"}}),
    ],
)
def test_a_last_call_shows_the_tools_and_forbids_them(kind: str, field: str, value: Any) -> None:
    last = body(kind, tools=(WEATHER,), tool_choice="none")
    assert last["tools"] == body(kind, tools=(WEATHER,))["tools"]
    assert last[field] == value
    assert field not in body(kind, tools=(WEATHER,))
    assert field not in body(kind, tool_choice="none")


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses"])
@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        ("http://127.0.0.1:11434/v1", "qwen3"),
        ("https://open.bigmodel.cn/api/paas/v4", "glm-5"),
        ("https://openrouter.ai/api/v1", "z-ai/glm-5.3-flash"),
    ],
)
def test_where_the_choice_is_unknown_a_last_call_tells_of_no_tools(
    kind: str, base_url: str, model: str
) -> None:
    last = body(kind, base_url=base_url, model=model, tools=(WEATHER,), tool_choice="none")
    assert {"tools", "tool_choice"} & set(last) == set()
    assert "tools" in body(kind, base_url=base_url, model=model, tools=(WEATHER,))


def test_anthropic_gets_a_bound_for_the_answer_in_any_case() -> None:
    assert body("anthropic")["max_tokens"] == 4096
    assert body("anthropic", top_p=0.3)["top_p"] == 0.3


def test_responses_are_asked_for_no_fewer_tokens_than_the_service_takes() -> None:
    assert body("openai_responses", max_tokens=5)["max_output_tokens"] == 16


@pytest.mark.parametrize(
    "model", ["models/gemini-2.5-pro", "../../evil", "a/b?key=x", "模型", "x:generateContent#"]
)
def test_no_model_name_leaves_its_place_in_the_address(model: str) -> None:
    url = build("gemini", model=model).url
    place = url.removeprefix("http://x/v1/models/").removesuffix(":streamGenerateContent?alt=sse")
    assert not set(place) & set("/?#:&")
    assert place.isascii()


def test_thoughts_are_asked_for_where_that_takes_a_field() -> None:
    thinking = body("gemini", model="gemini-2.5-flash", base_url="")
    assert thinking["generationConfig"]["thinkingConfig"] == {"includeThoughts": True}
    assert "generationConfig" not in body("gemini", model="gemini-2.0-flash", base_url="")
    asked = body("openai_responses", quirks=Quirks(ask_reasoning=True))
    assert asked["reasoning"] == {"summary": "auto"}


def test_an_earlier_call_is_signed_for_the_models_that_want_it() -> None:
    contents = body("gemini", model="gemini-3-pro-preview", base_url="")["contents"]
    calls = [part for part in contents[1]["parts"] if "functionCall" in part]
    assert [part.get("thoughtSignature") for part in calls] == [
        "skip_thought_signature_validator",
        None,
    ]


def test_ids_of_calls_get_the_length_that_mistral_wants_and_stay_matched() -> None:
    messages = body("openai_chat", base_url="https://api.mistral.ai/v1")["messages"]
    made = [call["id"] for call in messages[3]["tool_calls"]]
    assert [message["tool_call_id"] for message in messages[4:6]] == made
    assert all(len(one) == 9 and one.isalnum() for one in made)
    assert len(set(made)) == 2


def test_reasoning_models_of_openai_are_spared_what_they_refuse() -> None:
    base_url = "https://api.openai.com/v1"
    sent = body("openai_chat", base_url=base_url, model="gpt-5-mini", **WISHES)
    assert sent["max_completion_tokens"] == 99
    assert not {"temperature", "top_p", "stop", "max_tokens"} & sent.keys()
    assert sent["messages"][0]["role"] == "developer"
    plain = body("openai_chat", base_url=base_url, model="gpt-4o", **WISHES)
    assert (plain["temperature"], plain["messages"][0]["role"]) == (1.5, "system")


@pytest.mark.parametrize(
    "base_url",
    ["", "ftp://x", "https://x/v1?key=sk-1", "https://me:sk-1@x/v1", "https://x/v1#sk-1"],
)
def test_an_address_that_no_path_fits_or_that_holds_a_key_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        provider_of(ProviderConfig(name="x", base_url=base_url))
    assert "sk-1" not in str(caught.value)
