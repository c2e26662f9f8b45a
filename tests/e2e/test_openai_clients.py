"""The packages `openai` and `langchain-openai`, unmodified, against the real server."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr

from bench.provider.reply import Said
from bench.provider.server import ScriptedProvider
from protocol.codes import MsgKind, Scope
from protocol.rows import GenOpt, Persona
from tests.ai_bridge.facade import PNG
from tests.e2e.harness import READY_S, ROOT, Process, environment, expected, rows, talk
from tests.support.eventually import WAIT_S, eventually

PERSONA = "nova"
DEFAULT_SCRIPT = "tokens=20"
"""What the server's default model does (tests.e2e.harness)."""


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


WEATHER_ARGS = '{"city":"巴黎","degrees":21}'


def new_key(server: Process, *scopes: str) -> str:
    """Make an API key with the command line, beside the running server."""
    words = [f"--scope={scope}" for scope in scopes]
    done = subprocess.run(
        [sys.executable, "-m", "server", "token", "key", "add", "test", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(PARLANCE_CONFIG=str(server.config)),
        timeout=READY_S,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def key(server: Process) -> str:
    """A key that may name personas and models."""
    return new_key(server, "chat", "models")


@pytest.fixture
async def ai(server: Process, provider: ScriptedProvider, key: str) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client with the key, that asks once only."""
    async with openai_client(server, key) as client:
        yield client


@pytest.fixture(scope="module")
def hasty(server: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that does not wait long for the same AI service."""
    process = Process(tmp_path_factory.mktemp("hasty"), provider_port=server.provider_port)
    process.patience_s = 1.5
    process.start()
    yield process
    assert process.stop() == 0


def openai_client(server: Process, key: str, retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.port}/v1",
        api_key=key,
        max_retries=retries,
        timeout=WAIT_S,
    )


def question(text: str = "tell me") -> Any:
    return [{"role": "user", "content": text}]


# openai


async def test_the_list_of_models_names_personas_and_models(ai: AsyncOpenAI) -> None:
    listed = [model async for model in ai.models.list()]
    assert PERSONA in {model.id for model in listed}
    one = await ai.models.retrieve(PERSONA)
    assert (one.id, one.object, one.owned_by) == (PERSONA, "model", "parlance")
    with pytest.raises(openai.NotFoundError) as caught:
        await ai.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


async def test_a_persona_answers_whole(ai: AsyncOpenAI, provider: ScriptedProvider) -> None:
    done = await ai.chat.completions.create(
        model=PERSONA,
        messages=[{"role": "system", "content": "Rhyme."}, *question()],
        temperature=0.5,
        max_completion_tokens=77,
    )
    assert done.model == PERSONA
    choice = done.choices[0]
    assert choice.message.content == expected(DEFAULT_SCRIPT)
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (7, 20)
    sent = provider.requests[-1].body
    assert sent["messages"][0]["content"].startswith("You are Nova")
    assert "Rhyme." in sent["messages"][0]["content"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.5, 77)


async def test_a_persona_answers_as_a_stream(ai: AsyncOpenAI) -> None:
    stream = await ai.chat.completions.create(
        model=PERSONA,
        messages=question("你好"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected(DEFAULT_SCRIPT)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_usage_comes_only_when_it_is_asked_for(ai: AsyncOpenAI) -> None:
    stream = await ai.chat.completions.create(model=PERSONA, messages=question(), stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_key_with_the_scope_names_a_model_of_a_provider(ai: AsyncOpenAI) -> None:
    done = await ai.chat.completions.create(
        model="scripted/tokens=3,lang=zh", messages=question(), user="customer-7"
    )
    assert done.choices[0].message.content == "今天的"


async def test_leaving_a_stream_stops_it_at_the_provider(
    ai: AsyncOpenAI, provider: ScriptedProvider
) -> None:
    stream = await ai.chat.completions.create(
        model="scripted/tokens=10000,rate=50", messages=question(), stream=True
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert provider.stats.streaming == 1
    await stream.close()
    await eventually(lambda: provider.stats.aborted == 1)
    assert provider.stats.streaming == 0


FAILURES = {
    "status=400,code=context_length_exceeded": (openai.BadRequestError, "context_length_exceeded"),
    "status=400,code=content_filter": (openai.BadRequestError, "content_filter"),
    "status=429,retry_after=300": (openai.InternalServerError, "queue_full"),
    "status=500": (openai.InternalServerError, "provider_down"),
    "reset=0": (openai.InternalServerError, "provider_down"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", FAILURES)
async def test_a_failure_before_the_first_word_is_an_error_of_the_right_kind(
    ai: AsyncOpenAI, script: str, stream: bool
) -> None:
    kind, code = FAILURES[script]
    with pytest.raises(openai.APIStatusError) as caught:
        await ai.chat.completions.create(
            model=f"scripted/{script},first=0", messages=question(), stream=stream
        )
    assert isinstance(caught.value, kind)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
    if code == "queue_full":
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_service_that_says_nothing_is_a_timeout(
    hasty: Process, provider: ScriptedProvider, stream: bool
) -> None:
    async with openai_client(hasty, new_key(hasty, "chat", "models")) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="scripted/silent", messages=question(), stream=stream
            )
    assert caught.value.code == "timeout"
    await eventually(lambda: provider.stats.streaming == 0)


async def test_a_failure_after_the_first_word_is_told_within_the_stream(ai: AsyncOpenAI) -> None:
    stream = await ai.chat.completions.create(
        model="scripted/tokens=20,reset=5,rate=100", messages=question(), stream=True
    )
    said: list[str] = []

    async def listen() -> None:
        async for chunk in stream:
            said.extend(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(openai.APIError) as caught:
        await listen()
    assert "".join(said) == "word0 word1 word2 word3 word4 "
    assert caught.value.code == "provider_down"


async def test_the_client_asks_again_by_itself_and_gets_the_answer(
    server: Process, provider: ScriptedProvider, key: str
) -> None:
    async with openai_client(server, key, retries=3) as client:
        done = await client.chat.completions.create(
            model="scripted/tokens=2,status=500,failures=4", messages=question()
        )
    assert done.choices[0].message.content == "word0 word1 "
    assert provider.stats.refused == 4


async def test_a_wrong_key_is_an_authentication_error(server: Process, key: str) -> None:
    async with openai_client(server, "pk_wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model=PERSONA, messages=question())
    assert caught.value.code == "invalid_api_key"


async def test_openai_parses_answers_into_a_type_whole_and_streamed(
    ai: AsyncOpenAI, provider: ScriptedProvider
) -> None:
    provider.replies += [WEATHER_ARGS, WEATHER_ARGS]
    done = await ai.chat.completions.parse(
        model=PERSONA, messages=question(), response_format=Weather
    )
    assert done.choices[0].message.parsed == Weather(city="巴黎", degrees=21)
    async with ai.chat.completions.stream(
        model=PERSONA, messages=question(), response_format=Weather
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Weather(city="巴黎", degrees=21)
    assert {"chunk", "content.delta", "content.done"} <= kinds


async def test_openai_runs_a_call_and_sends_its_result(
    ai: AsyncOpenAI, provider: ScriptedProvider
) -> None:
    tools: Any = [openai.pydantic_function_tool(Weather)]
    provider.replies.append(Said(calls=(("Weather", WEATHER_ARGS),)))
    async with ai.chat.completions.stream(
        model=PERSONA, messages=question(), tools=tools
    ) as stream:
        kinds = [event.type async for event in stream]
        message = (await stream.get_final_completion()).choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.function.parsed_arguments == Weather(city="巴黎", degrees=21)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "晴"}
    back: Any = {"role": "assistant", "tool_calls": [call.model_dump(exclude={"parsed"})]}
    done = await ai.chat.completions.create(
        model=PERSONA, messages=[*question(), back, result], tools=tools
    )
    assert done.choices[0].message.content == expected(DEFAULT_SCRIPT)


async def test_the_raw_answer_has_the_id_of_the_request(ai: AsyncOpenAI) -> None:
    headers = {"X-Request-ID": "my-request-17"}
    raw = await ai.chat.completions.with_raw_response.create(
        model=PERSONA, messages=question(), extra_headers=headers
    )
    assert raw.headers["x-request-id"] == "my-request-17"
    assert raw.parse().choices[0].message.content == expected(DEFAULT_SCRIPT)


# conversations


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [openai.pydantic_function_tool(Weather)]},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {
            "url": f"data:image/png;base64,{PNG}"}}]}]},
    ],
)  # fmt: skip
async def test_what_a_stored_conversation_cannot_keep_is_refused(
    server: Process, provider: ScriptedProvider, more: Any
) -> None:
    account = await server.newcomer()
    async with server.online(account) as watching:
        conv = await talk(watching)
        async with openai_client(server, await account.token()) as client:
            wishes = {"model": PERSONA, "messages": question(), **more}
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(
                    **wishes, metadata={"conversation_id": str(conv)}
                )
    assert caught.value.code == "unsupported_in_conversation"
    assert caught.value.param == next(iter(more))
    assert provider.stats.requests == 0


async def test_a_stored_conversation_goes_on_and_everybody_sees_it(
    server: Process, provider: ScriptedProvider
) -> None:
    account = await server.newcomer()
    async with server.online(account) as watching:
        conv = await talk(watching)
        page = await watching.persona_page(Scope.PUBLIC)
        persona = page.items[0]
        token = await account.token()
        async with openai_client(server, token) as client:
            for number in range(2):
                stream = await client.chat.completions.create(
                    model=f"persona:{persona.id}",
                    messages=question(f"问题 {number}"),
                    stream=True,
                    metadata={"conversation_id": str(conv)},
                )
                said = "".join([c.choices[0].delta.content or "" async for c in stream])
                assert said == expected(DEFAULT_SCRIPT)
            await eventually(lambda: len(rows(watching, conv)) >= 4)
        told = [(row.kind, row.text) for row in rows(watching, conv) if row.text]
    answer = (MsgKind.AI_REPLY, expected(DEFAULT_SCRIPT))
    assert told[-4:] == [(MsgKind.TEXT, "问题 0"), answer, (MsgKind.TEXT, "问题 1"), answer]
    shown = [m["content"] for m in provider.requests[-1].body["messages"]]
    assert shown[-3:] == ["问题 0", expected(DEFAULT_SCRIPT), "问题 1"], "history is the store's"


async def test_another_persons_conversation_is_not_there(
    server: Process, provider: ScriptedProvider
) -> None:
    async with server.online() as owner:
        conv = await talk(owner)
    stranger = await server.newcomer()
    async with openai_client(server, await stranger.token()) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(
                model=PERSONA, messages=question(), metadata={"conversation_id": str(conv)}
            )
    assert provider.stats.requests == 0


async def test_a_persons_own_persona_is_theirs_alone(
    server: Process, provider: ScriptedProvider
) -> None:
    owner, stranger = await server.newcomer(), await server.newcomer()
    async with server.online(owner) as client:
        row = Persona(name="Ada", prompt="You are Ada.", opt=GenOpt(model="tokens=4"))
        persona = (await client.save_persona(row)).p.id
    name = f"persona:{persona}"
    async with openai_client(server, await owner.token()) as mine:
        assert name in {model.id async for model in mine.models.list()}
        done = await mine.chat.completions.create(model=name, messages=question())
        assert done.choices[0].message.content == expected("tokens=4")
    async with openai_client(server, await stranger.token()) as theirs:
        assert name not in {model.id async for model in theirs.models.list()}
        with pytest.raises(openai.NotFoundError):
            await theirs.chat.completions.create(model=name, messages=question())


# langchain


@pytest.fixture
async def http() -> AsyncIterator[Any]:
    """Connections of this test's loop; LangChain otherwise shares them between all loops."""
    async with openai.DefaultAsyncHttpxClient() as client:
        yield client


def langchain(server: Process, key: str, http: Any, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=options.pop("model", PERSONA),
        base_url=f"http://127.0.0.1:{server.port}/v1",
        api_key=SecretStr(key),
        max_retries=0,
        timeout=WAIT_S,
        http_async_client=http,
        **options,
    )


async def test_langchain_asks_and_streams(
    server: Process, provider: ScriptedProvider, key: str, http: Any
) -> None:
    chat = langchain(server, key, http, temperature=0.1, stop=["END"])
    talk_so_far = [SystemMessage("Be kind."), HumanMessage("hi"), AIMessage("yes?")]
    said = await chat.ainvoke([*talk_so_far, HumanMessage("tell me")])
    assert said.content == expected(DEFAULT_SCRIPT)
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] == 20
    pieces = [piece async for piece in chat.astream("tell me")]
    assert "".join(str(piece.content) for piece in pieces) == expected(DEFAULT_SCRIPT)
    sent = provider.requests[0].body
    assert [m["content"] for m in sent["messages"]][1:] == ["hi", "yes?", "tell me"]


async def test_langchain_binds_tools_runs_them_and_gets_the_answer(
    server: Process, provider: ScriptedProvider, key: str, http: Any
) -> None:
    """A persona takes part as any model does; with the program's tools it has no others."""

    @tool
    def weather(city: str, degrees: int) -> str:
        """Tells the weather."""
        return f"{city}: {degrees}°"

    chat = langchain(server, key, http).bind_tools([weather], parallel_tool_calls=False)
    provider.replies.append(Said(calls=(("weather", WEATHER_ARGS),)))
    talk_so_far: list[Any] = [HumanMessage("巴黎天气?")]
    asked = await chat.ainvoke(talk_so_far)
    assert isinstance(asked, AIMessage)
    assert asked.response_metadata["finish_reason"] == "tool_calls"
    talk_so_far.append(asked)
    talk_so_far += [await weather.ainvoke(call) for call in asked.tool_calls]
    said = await chat.ainvoke(talk_so_far)
    assert said.content == expected(DEFAULT_SCRIPT)
    sent = provider.requests[-1].body
    assert [one["function"]["name"] for one in sent["tools"]] == ["weather"]
    assert sent["messages"][0]["content"].startswith("You are Nova")
    assert sent["messages"][-1]["content"] == "巴黎: 21°"


async def test_langchain_gathers_streamed_calls(
    server: Process, provider: ScriptedProvider, key: str, http: Any
) -> None:
    chat = langchain(server, key, http).bind_tools([Weather])
    provider.replies.append(Said(text="Wait.", calls=(("Weather", WEATHER_ARGS),) * 2))
    whole: Any = None
    async for piece in chat.astream("巴黎?"):
        whole = piece if whole is None else whole + piece
    assert whole.content == "Wait."
    assert [call["args"] for call in whole.tool_calls] == [{"city": "巴黎", "degrees": 21}] * 2
    assert len({call["id"] for call in whole.tool_calls}) == 2


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
async def test_langchain_gets_structured_output(
    server: Process, provider: ScriptedProvider, key: str, http: Any, method: Any
) -> None:
    chat = langchain(server, key, http).with_structured_output(Weather, method=method)
    by_call = method == "function_calling"
    provider.replies.append(
        Said(calls=(("Weather", WEATHER_ARGS),)) if by_call else Said(text=WEATHER_ARGS)
    )
    assert await chat.ainvoke("巴黎? JSON") == Weather(city="巴黎", degrees=21)
    sent = provider.requests[-1].body
    if by_call:
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "Weather"}}
    else:
        kind = "json_schema" if method == "json_schema" else "json_object"
        assert sent["response_format"]["type"] == kind


async def test_langchain_shows_a_picture(
    server: Process, provider: ScriptedProvider, key: str, http: Any
) -> None:
    image = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    parts: list[Any] = [{"type": "text", "text": "什么?"}, image]
    await langchain(server, key, http).ainvoke([HumanMessage(content=parts)])
    shown = provider.requests[-1].body["messages"][-1]["content"]
    assert shown[0] == {"type": "text", "text": "什么?"}
    assert shown[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"


async def test_langchain_goes_on_with_a_stored_conversation(
    server: Process, provider: ScriptedProvider, http: Any
) -> None:
    account = await server.newcomer()
    async with server.online(account) as watching:
        conv = await talk(watching)
        chat = langchain(
            server, await account.token(), http, default_headers={"X-Conversation-ID": str(conv)},
            model=f"persona:{(await watching.persona_page(Scope.PUBLIC)).items[0].id}",
        )  # fmt: skip
        await chat.ainvoke("first")
        await chat.ainvoke([HumanMessage("first"), AIMessage("x"), HumanMessage("second")])
        await eventually(lambda: len(rows(watching, conv)) >= 4)
        spoken = [row.text for row in rows(watching, conv) if row.kind == MsgKind.TEXT]
    assert spoken == ["first", "second"]


async def test_langchain_understands_a_refusal(
    server: Process, provider: ScriptedProvider, key: str, http: Any
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await langchain(server, key, http, model="scripted/status=500").ainvoke("hi")
    assert caught.value.status_code == 502


# many at once


async def test_fifty_streams_at_once_never_mix(
    server: Process, provider: ScriptedProvider, key: str
) -> None:
    async with openai_client(server, key) as client:

        async def one(number: int) -> tuple[int, str]:
            stream = await client.chat.completions.create(
                model=f"scripted/tokens={10 + number},rate=400",
                messages=question(),
                stream=True,
                user=f"user-{number}",
            )
            return number, "".join([c.choices[0].delta.content or "" async for c in stream])

        found = await asyncio.gather(*map(one, range(50)))
    for number, text in found:
        assert text == expected(f"tokens={10 + number}")
