"""Tools, pictures and forms of the answer that callers bring: OpenAI's own client, each dialect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from ai_bridge.backends import provider_of
from ai_bridge.config import ProviderConfig, Quirks, Route, Target
from ai_bridge.run import TurnRun
from ai_bridge.turn import Turn
from ai_bridge.watchdog import Deadlines
from bench.provider.reply import Said
from bench.provider.server import ScriptedProvider
from tests.ai_bridge.facade import DIALECTS, PNG, Facade, dialects, serving
from tests.ai_bridge.fakes import Clock, Sink, Watcher, request
from tests.ai_bridge.scripted import ask

CITY = '{"city":"巴黎"}'
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "title": "City"}},
    "required": ["city"],
}
TOLD = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS},
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
EMPTY = {"type": "object", "properties": {}}


@pytest.fixture
async def facade(provider: ScriptedProvider) -> AsyncIterator[Facade]:
    async with serving(*dialects(provider)) as facade:
        yield facade


def asked(text: str = "天气?") -> list[Any]:
    return [{"role": "user", "content": text}]


# tools


async def call_whole(facade: Facade, **wishes: Any) -> Any:
    """Ask; return the message of the answer and why it ended."""
    done = await facade.client.chat.completions.create(**wishes)
    return done.choices[0].message, done.choices[0].finish_reason


async def call_streamed(facade: Facade, **wishes: Any) -> Any:
    """The same through the client's own collector of streams, which wants strict tools."""
    tools = [
        {"type": "function", "function": {**tool["function"], "strict": True}}
        for tool in wishes.pop("tools")
    ]
    wishes["tools"] = tools
    async with facade.client.chat.completions.stream(**wishes) as stream:
        done = await stream.get_final_completion()
    return done.choices[0].message, done.choices[0].finish_reason


CALLERS = {"whole": call_whole, "streamed": call_streamed}


@pytest.mark.parametrize("how", CALLERS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_callers_tools_are_called_and_their_results_answered(
    facade: Facade, provider: ScriptedProvider, dialect: str, how: str
) -> None:
    ask = CALLERS[how]
    model = f"{dialect}/tool,calls=2,tokens=2,args={CITY}"
    talk = asked()
    message, finish = await ask(facade, model=model, messages=talk, tools=[WEATHER, CLOCK])
    assert (message.content or None, finish) == (None, "tool_calls")
    assert [(c.type, c.function.name) for c in message.tool_calls] == [("function", "weather")] * 2
    assert [json.loads(c.function.arguments) for c in message.tool_calls] == [json.loads(CITY)] * 2
    first, second = (call.id for call in message.tool_calls)
    assert first
    assert first != second
    talk.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
    for number, call_id in enumerate((first, second)):
        talk.append({"role": "tool", "tool_call_id": call_id, "content": f"晴 {number}"})
    message, finish = await ask(facade, model=model, messages=talk, tools=[WEATHER, CLOCK])
    assert (message.content, finish) == ("word0 word1 ", "stop")
    assert not message.tool_calls
    assert results_in(dialect, provider.requests[-1].body) == ["晴 0", "晴 1"]


def results_in(dialect: str, body: dict[str, Any]) -> list[str]:
    """Return what the tools said, in the request of a dialect."""
    if dialect == "chat":
        return [one["content"] for one in body["messages"] if one["role"] == "tool"]
    if dialect == "responses":
        return [one["output"] for one in body["input"] if one["type"] == "function_call_output"]
    if dialect == "anthropic":
        return [one["content"] for one in body["messages"][-1]["content"]]
    found = [part["functionResponse"] for part in body["contents"][-1]["parts"]]
    assert [one["name"] for one in found] == ["weather"] * 2, "the name is that of the call"
    return [one["response"]["result"] for one in found]


async def test_a_streamed_call_has_the_vendors_deltas(
    facade: Facade, provider: ScriptedProvider
) -> None:
    stream = await facade.client.chat.completions.create(
        model=f"chat/tool,before=1,args={CITY}", messages=asked(), tools=[WEATHER], stream=True
    )
    chunks = [chunk.choices[0] async for chunk in stream]
    assert "".join(one.delta.content or "" for one in chunks) == "word0 "
    deltas = [one.delta.tool_calls[0] for one in chunks if one.delta.tool_calls]
    begin, *rest = deltas
    assert (begin.index, begin.type) == (0, "function")
    assert begin.id
    assert begin.function is not None
    assert (begin.function.name, begin.function.arguments) == ("weather", "")
    assert [(one.index, one.id, one.type) for one in rest] == [(0, None, None)] * len(rest)
    assert "".join(one.function.arguments or "" for one in rest if one.function) == CITY
    assert [one.finish_reason for one in chunks if one.finish_reason] == ["tool_calls"]


CHOICES: dict[str, dict[str, Any]] = {
    "chat": {
        "none": "none",
        "required": "required",
        "weather": {"type": "function", "function": {"name": "weather"}},
    },
    "responses": {
        "none": "none",
        "required": "required",
        "weather": {"type": "function", "name": "weather"},
    },
    "anthropic": {
        "none": {"type": "none"},
        "required": {"type": "any", "disable_parallel_tool_use": True},
        "weather": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "auto": {"type": "auto", "disable_parallel_tool_use": True},
    },
    "gemini": {
        "none": {"mode": "NONE"},
        "required": {"mode": "ANY"},
        "weather": {"mode": "ANY", "allowedFunctionNames": ["weather"]},
    },
}


@pytest.mark.parametrize("choice", ["auto", "none", "required", "weather"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_choice_among_the_tools_is_told_in_each_dialect(
    facade: Facade, provider: ScriptedProvider, dialect: str, choice: str
) -> None:
    chosen: Any = choice
    if choice == "weather":
        chosen = {"type": "function", "function": {"name": choice}}
    await facade.client.chat.completions.create(
        model=f"{dialect}/tokens=1",
        messages=asked(),
        tools=[WEATHER, CLOCK],
        tool_choice=chosen,
        parallel_tool_calls=False,
    )
    sent = provider.requests[-1].body
    if dialect == "gemini":
        told = sent.get("toolConfig", {}).get("functionCallingConfig")
    else:
        told = sent.get("tool_choice")
    assert told == CHOICES[dialect].get(choice)
    assert sent.get("parallel_tool_calls") == (False if dialect in ("chat", "responses") else None)


def told_in(dialect: str, body: dict[str, Any]) -> list[Any]:
    """Return the tools as (name, description, schema)."""
    tools = body["tools"]
    if dialect == "gemini":
        tools = tools[0]["functionDeclarations"]
    if dialect == "chat":
        tools = [tool["function"] for tool in tools]
    schema = {"anthropic": "input_schema", "gemini": "parametersJsonSchema"}
    key = schema.get(dialect, "parameters")
    return [(tool["name"], tool["description"], tool[key]) for tool in tools]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_schemas_are_told_as_each_dialect_takes_them(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    await facade.client.chat.completions.create(
        model=f"{dialect}/tokens=1", messages=asked(), tools=[WEATHER, CLOCK]
    )
    told = told_in(dialect, provider.requests[-1].body)
    assert told == [("weather", "Tells it.", TOLD), ("clock", "", EMPTY)]


@pytest.mark.parametrize("dialect", ["chat", "responses"])
async def test_a_strict_tool_is_strict_where_the_service_can_promise_it(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    strict: Any = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    await facade.client.chat.completions.create(
        model=f"{dialect}/tokens=1", messages=asked(), tools=[strict, CLOCK]
    )
    tools = provider.requests[-1].body["tools"]
    first, second = (tool.get("function", tool) for tool in tools)
    assert first["strict"] is True
    assert first["parameters"] == {**TOLD, "additionalProperties": False}
    assert not second.get("strict")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_who_wants_one_call_gets_one(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    message, _ = await call_whole(
        facade,
        model=f"{dialect}/tool,calls=3",
        messages=asked(),
        tools=[WEATHER],
        parallel_tool_calls=False,
    )
    assert len(message.tool_calls) == 1


async def test_a_call_that_was_cut_off_is_left_out_and_said_to_be_cut(
    facade: Facade, provider: ScriptedProvider
) -> None:
    message, finish = await call_whole(
        facade, model="chat/tool,before=2,finish=length,args={oops", messages=asked(),
        tools=[WEATHER],
    )  # fmt: skip
    assert (message.content, finish) == ("word0 word1 ", "length")
    assert not message.tool_calls


async def test_a_tool_that_gemini_cannot_take_is_refused_and_no_health_suffers(
    facade: Facade, provider: ScriptedProvider
) -> None:
    odd: Any = {"type": "function", "function": {"name": "3d-model"}}
    with pytest.raises(openai.BadRequestError, match="3d-model"):
        await facade.client.chat.completions.create(
            model="gemini/fake", messages=asked(), tools=[odd]
        )
    assert provider.stats.requests == 0
    assert facade.bridge.health()["gemini"]["calls_failed"] == 0
    message, _ = await call_whole(facade, model="chat/tool", messages=asked(), tools=[odd])
    assert message.tool_calls[0].function.name == "3d-model"


# the form of the answer


CITY_FORM: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {**TOLD, "properties": {"city": {"type": "string", "minLength": 2}}},
    },
}
PLAIN_FORM: Any = {"type": "json_object"}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_schema_of_the_answer_is_told_in_each_dialect(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    provider.replies.append(CITY)
    done = await facade.client.chat.completions.create(
        model=f"{dialect}/fake", messages=asked(), response_format=CITY_FORM
    )
    assert done.choices[0].message.content == CITY
    sent = provider.requests[-1].body
    wanted = CITY_FORM["json_schema"]
    if dialect == "chat":
        assert sent["response_format"] == CITY_FORM
    elif dialect == "responses":
        assert sent["text"] == {"format": {"type": "json_schema", **wanted}}
    elif dialect == "anthropic":
        told = {**TOLD, "additionalProperties": False}
        assert sent["output_config"] == {"format": {"type": "json_schema", "schema": told}}
    else:
        settings = sent["generationConfig"]
        assert settings["responseMimeType"] == "application/json"
        assert settings["responseJsonSchema"] == TOLD


async def test_any_json_is_told_where_there_is_such_a_mode(
    facade: Facade, provider: ScriptedProvider
) -> None:
    told: dict[str, Any] = {
        "chat": ("response_format", PLAIN_FORM),
        "responses": ("text", {"format": PLAIN_FORM}),
        "gemini": ("generationConfig", {"responseMimeType": "application/json"}),
    }
    for dialect, (field, value) in told.items():
        await facade.client.chat.completions.create(
            model=f"{dialect}/tokens=1", messages=asked(), response_format=PLAIN_FORM
        )
        assert provider.requests[-1].body[field] == value
    count = provider.stats.requests
    with pytest.raises(openai.BadRequestError, match="json_schema"):
        await facade.client.chat.completions.create(
            model="anthropic/tokens=1", messages=asked(), response_format=PLAIN_FORM
        )
    assert provider.stats.requests == count


async def test_who_cannot_answer_in_json_is_passed_over(
    provider: ScriptedProvider, second_provider: ScriptedProvider
) -> None:
    """Also when the one who could fails: that is why there is no answer."""
    plain = ProviderConfig(
        name="plain", base_url=provider.base_url, quirks=Quirks(answer_format="none")
    )
    able = ProviderConfig(name="able", base_url=second_provider.base_url)
    targets = {
        "well": ("plain", "able", "tokens=1"),
        "ill": ("able", "plain", "status=500"),
    }
    routes = tuple(
        Route(name=name, targets=tuple(Target(provider=one, model=model) for one in order))
        for name, (*order, model) in targets.items()
    )
    async with serving(plain, able, routes=routes, max_retries=0) as facade:
        ask = facade.client.chat.completions.create
        done = await ask(model="well", messages=asked(), response_format=PLAIN_FORM)
        assert done.choices[0].message.content == "word0 "
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(model="ill", messages=asked(), response_format=PLAIN_FORM)
        assert caught.value.code == "provider_down"
        with pytest.raises(openai.BadRequestError):
            await ask(model="plain/fake", messages=asked(), response_format=PLAIN_FORM)
    assert provider.stats.requests == 0


async def test_a_service_without_schemas_says_so(provider: ScriptedProvider) -> None:
    config = ProviderConfig(
        name="one", base_url=provider.base_url, quirks=Quirks(answer_format="object")
    )
    async with serving(config) as facade:
        ask = facade.client.chat.completions.create
        with pytest.raises(openai.BadRequestError, match="json_object"):
            await ask(model="one/fake", messages=asked(), response_format=CITY_FORM)
        await ask(model="one/tokens=1", messages=asked(), response_format=PLAIN_FORM)
    assert provider.requests[-1].body["response_format"] == PLAIN_FORM


# wishes


WISHES: dict[str, Any] = {"seed": 2**40 + 7, "frequency_penalty": 0.5, "presence_penalty": -1}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_wishes_reach_who_knows_them_and_are_left_out_elsewhere(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    await facade.client.chat.completions.create(
        model=f"{dialect}/tokens=1", messages=asked(), **WISHES
    )
    sent = provider.requests[-1].body
    if dialect == "chat":
        assert {name: sent[name] for name in WISHES} == WISHES
    elif dialect == "gemini":
        told = {"seed": 7, "frequencyPenalty": 0.5, "presencePenalty": -1}
        assert sent["generationConfig"] == told
    else:
        assert not sent.keys() & WISHES.keys()


async def test_the_seed_has_another_name_where_the_service_wants_one(
    provider: ScriptedProvider,
) -> None:
    quirks = Quirks(seed_field="random_seed", penalties=False)
    async with serving(
        ProviderConfig(name="one", base_url=provider.base_url, quirks=quirks)
    ) as facade:
        await facade.client.chat.completions.create(
            model="one/tokens=1", messages=asked(), **WISHES
        )
    sent = provider.requests[-1].body
    assert sent["random_seed"] == WISHES["seed"]
    assert not sent.keys() & WISHES.keys()


# pictures


LINK = "https://example.org/猫.png"
PIXEL = f"data:image/jpeg;base64,{PNG}"  # that it is no JPEG is found out


def shown(url: str, text: str = "什么?") -> list[Any]:
    parts = [{"type": "text", "text": text}] if text else []
    return [{"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": url}}]}]


def pictures_in(dialect: str, body: dict[str, Any]) -> Any:
    """Return the parts of the last message."""
    if dialect == "responses":
        return body["input"][-1]["content"]
    if dialect == "gemini":
        return body["contents"][-1]["parts"]
    return body["messages"][-1]["content"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_picture_is_shown_with_its_question(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    await facade.client.chat.completions.create(model=f"{dialect}/tokens=1", messages=shown(PIXEL))
    url = f"data:image/png;base64,{PNG}"
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    assert (
        pictures_in(dialect, provider.requests[-1].body)
        == {
            "chat": [
                {"type": "text", "text": "什么?"},
                {"type": "image_url", "image_url": {"url": url}},
            ],
            "responses": [
                {"type": "input_text", "text": "什么?"},
                {"type": "input_image", "image_url": url, "detail": "auto"},
            ],
            "anthropic": [{"type": "image", "source": source}, {"type": "text", "text": "什么?"}],
            "gemini": [{"inlineData": {"mimeType": "image/png", "data": PNG}}, {"text": "什么?"}],
        }[dialect]
    )


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_address_is_passed_on_to_who_opens_it_and_never_opened_here(
    facade: Facade, provider: ScriptedProvider, dialect: str
) -> None:
    ask = facade.client.chat.completions.create(
        model=f"{dialect}/tokens=1", messages=shown(LINK, "")
    )
    if dialect == "gemini":
        with pytest.raises(openai.BadRequestError, match="data:image"):
            await ask
        assert provider.stats.requests == 0
        return
    await ask
    source = {"type": "url", "url": LINK}
    assert (
        pictures_in(dialect, provider.requests[-1].body)
        == {
            "chat": [{"type": "image_url", "image_url": {"url": LINK}}],
            "responses": [{"type": "input_image", "image_url": LINK, "detail": "auto"}],
            "anthropic": [{"type": "image", "source": source}],
        }[dialect]
    )


async def test_more_pictures_than_the_window_holds_are_refused_before_anybody_is_asked(
    provider: ScriptedProvider,
) -> None:
    config = ProviderConfig(name="one", base_url=provider.base_url, window_tokens=6_000)
    async with serving(config, answer_tokens=500) as facade:
        ask = facade.client.chat.completions.create
        await ask(model="one/tokens=1", messages=shown(PIXEL) * 6)
        messages = provider.requests[-1].body["messages"]
        assert 1 < len(messages) < 6, "earlier messages go with their pictures"
        assert all(isinstance(message["content"], list) for message in messages)
        content = shown(PIXEL)[0]["content"] * 6
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(model="one/tokens=1", messages=[{"role": "user", "content": content}])
    assert caught.value.code == "context_length_exceeded"
    assert provider.stats.requests == 1


# the demo


async def test_the_demo_partner_answers_without_tools_and_does_not_pretend_to_know_json() -> None:
    async with serving() as facade:
        ask = facade.client.chat.completions.create
        done = await ask(model="demo", messages=asked(), tools=[WEATHER], tool_choice="required")
        assert done.choices[0].message.content
        assert done.choices[0].finish_reason == "stop"
        done = await ask(model="demo", messages=shown(PIXEL, ""))
        assert done.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="JSON"):
            await ask(model="demo", messages=asked(), response_format=PLAIN_FORM)


async def test_thoughts_text_and_calls_come_together(
    facade: Facade, provider: ScriptedProvider
) -> None:
    provider.replies.append(Said(text="Let me look.", calls=(("clock", "{}"),)))
    message, finish = await call_streamed(
        facade, model="chat/fake", messages=asked(), tools=[CLOCK]
    )
    assert (message.content, finish) == ("Let me look.", "tool_calls")
    assert message.tool_calls[0].function.name == "clock"


# long arguments


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_call_that_is_being_written_is_a_sign_of_life(
    provider: ScriptedProvider, dialect: str
) -> None:
    (config,) = (one for one in dialects(provider) if one.name == dialect)
    raw = (await ask(provider, dialect, f"tool,args={CITY}", offer=True)).raw
    sink = Sink()
    decoder = provider_of(config).decoder(sink)
    for event in raw.splitlines(keepends=True):
        decoder.feed(event)
    assert sink.writing >= (1 if dialect == "gemini" else 2), "Gemini never cuts a call"
    assert not sink.calls
    decoder.eof()
    assert [call.args.replace(" ", "") for call in sink.calls] == [CITY]


def test_a_model_that_writes_long_arguments_is_not_taken_for_dead() -> None:
    clock = Clock()
    run = TurnRun(
        Turn(request(1)),
        Watcher(),
        clock=clock,
        deadlines=Deadlines(ttft_s=20, gap_s=30, total_s=300, reasoning_tokens=0),
        on_watcher_error=lambda: None,
    )
    run.start()
    run.begin_attempt("one", "m", 0)
    for _ in range(5):
        clock.advance(19)
        assert run.watch.verdict(clock()) is None
        run.writing_call()
    assert not run.visible, "nothing was seen: a retry is still possible"
    clock.advance(31)
    verdict = run.watch.verdict(clock())
    assert verdict is not None
    assert verdict.kind == "stalled"
