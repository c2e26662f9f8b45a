"""Who is refused over HTTP, with which words, and what OpenAI's own client makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import openai
import pytest

from ai_bridge.account import Ledger, Limits
from ai_bridge.billing import Billing
from ai_bridge.config import ProviderConfig, Route, Target
from ai_bridge.errors import BridgeError
from ai_bridge.http.pictures import PictureRoom, is_base64
from ai_bridge.http.problems import Problem, problem_of_refusal
from ai_bridge.prices import Price, PriceTable
from ai_bridge.types import ChatMessage, Image, Role
from bench.provider.server import ScriptedProvider
from protocol.codes import Code
from tests.ai_bridge.facade import Facade, serving
from tests.ai_bridge.fakes import Clock
from tests.support.eventually import eventually

QUESTION: Any = [{"role": "user", "content": "你好"}]


def service(provider: ScriptedProvider, name: str = "one", **fields: Any) -> ProviderConfig:
    return ProviderConfig(name=name, base_url=provider.base_url, **fields)


# one provider and no other


async def test_a_model_named_with_its_provider_is_asked_of_no_other(
    provider: ScriptedProvider, second_provider: ScriptedProvider
) -> None:
    models = ("tokens=2", "status=500", "two/tokens=2")
    one = service(provider, "one", models=models)
    two = service(second_provider, "two", models=models)
    async with serving(one, two, max_retries=0) as facade:
        ask = facade.client.chat.completions.create
        for _ in range(5):
            await ask(model="two/tokens=2", messages=QUESTION)
        assert (provider.stats.requests, second_provider.stats.requests) == (0, 5)
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(model="two/status=500", messages=QUESTION)
        assert (caught.value.status_code, caught.value.code) == (502, "provider_down")
        assert provider.stats.requests == 0
        for name in ("three/tokens=2", "two/tokens=3", "two/", "/tokens=2", "nothing"):
            with pytest.raises(openai.NotFoundError):
                await ask(model=name, messages=QUESTION)
        listed = {model.id async for model in facade.client.models.list()}
    assert listed == {f"{name}/{model}" for name in ("one", "two") for model in models}


async def test_a_route_is_a_name_of_its_own_and_goes_on_to_the_next(
    provider: ScriptedProvider, second_provider: ScriptedProvider
) -> None:
    targets = (Target(provider="one", model="status=500"), Target(provider="two", model="tokens=1"))
    route = Route(name="everyday", targets=targets)
    providers = (service(provider, "one"), service(second_provider, "two"))
    async with serving(*providers, routes=(route,)) as facade:
        done = await facade.client.chat.completions.create(model="everyday", messages=QUESTION)
        assert done.choices[0].message.content == "word0 "
        assert [model.id async for model in facade.client.models.list()] == ["everyday"]
        with pytest.raises(openai.InternalServerError):  # the provider takes any name
            await facade.client.chat.completions.create(model="one/status=500", messages=QUESTION)


# refusals


async def occupy(facade: Facade, **fields: Any) -> asyncio.Task[Any]:
    """Begin an answer that does not end."""
    stream = facade.client.chat.completions.create(
        model="one/tokens=10000,rate=50", messages=QUESTION, stream=True, **fields
    )
    task = asyncio.create_task(stream)
    await eventually(lambda: facade.bridge.running == 1)
    return task


async def test_a_full_share_of_ones_own_is_429_and_the_client_comes_again(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    async with serving(service(provider), facade_running=1, facade_queued=0) as facade:
        task = await occupy(facade, user="anna")

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                await (await task).close()
                await eventually(lambda: facade.bridge.running == 0)

        monkeypatch.setattr(anyio, "sleep", pause)
        ask = facade.client.chat.completions
        with pytest.raises(openai.RateLimitError) as caught:
            await ask.create(model="one/tokens=1", messages=QUESTION, user="anna")
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) == 2
        done = await ask.create(model="one/tokens=1", messages=QUESTION, user="berta")
        assert done.choices[0].message.content, "it is nobody else's trouble"
        patient = facade.client.with_options(max_retries=3)
        answer = await patient.chat.completions.with_raw_response.create(
            model="one/tokens=1", messages=QUESTION, user="anna"
        )
    assert answer.parse().choices[0].message.content == "word0 "
    assert answer.retries_taken == 2
    assert pauses == [2.0, 2.0], "as long as it was told"


async def test_a_full_queue_is_503_and_the_client_comes_again(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(anyio, "sleep", pause)
    async with serving(service(provider), max_streams=1, queue=0) as facade:
        task = await occupy(facade)
        with pytest.raises(openai.InternalServerError) as caught:
            await facade.client.with_options(max_retries=2).chat.completions.create(
                model="one/tokens=1", messages=QUESTION
            )
        assert (caught.value.status_code, caught.value.code) == (503, "queue_full")
        await (await task).close()
    assert len(pauses) == 2
    assert all(seconds >= 1 for seconds in pauses)


async def test_an_empty_budget_is_429_and_the_client_does_not_come_again(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pause(seconds: float) -> None:
        raise AssertionError("it was told that this does not help")

    monkeypatch.setattr(anyio, "sleep", pause)
    ledger = Ledger(now_ms=lambda: 0, clock=Clock(), user_limits=Limits(day_micro=1))
    prices = PriceTable({"one/tokens=1": Price(input=1.0, output=1.0)})
    async with serving(service(provider)) as facade:
        facade.bridge.billing = Billing(ledger, prices)
        with pytest.raises(openai.RateLimitError) as caught:
            await facade.client.with_options(max_retries=3).chat.completions.create(
                model="one/tokens=1", messages=QUESTION, user="anna"
            )
    assert caught.value.code == "insufficient_quota"
    assert provider.stats.requests == 0


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        (Code.BUSY, 503, "queue_full"),
        (Code.RATE, 429, "rate_limit_exceeded"),
        (Code.QUOTA, 429, "insufficient_quota"),
        (Code.TIMEOUT, 504, "timeout"),
        (Code.MODEL_UNAVAILABLE, 502, "provider_down"),
        (Code.DRAINING, 503, "draining"),
        (Code.CONTEXT_TOO_LONG, 400, "context_length_exceeded"),
        (Code.REFUSED, 400, "content_filter"),
    ],
)
def test_every_refusal_has_its_status_and_word(code: Code, status: int, word: str) -> None:
    problem = problem_of_refusal(BridgeError(code, "Ask again.", 1000))
    assert (problem.status, problem.code) == (status, word)


# room for pictures


def pictured(size: int) -> tuple[ChatMessage, ...]:
    return (ChatMessage(Role.USER, "", images=(Image("image/png", "A" * size),)),)


def test_pictures_of_all_requests_together_are_bounded() -> None:
    room = PictureRoom(100)
    with room.holding(pictured(60)):
        assert room.held == 60
        with pytest.raises(Problem) as caught, room.holding(pictured(41)):
            raise AssertionError("there is no room")
        assert (caught.value.status, room.refused) == (503, 1)
        with room.holding(pictured(40)), room.holding((ChatMessage(Role.USER, "text"),)):
            assert room.held == 100
    assert room.held == 0


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        ("", True),
        ("QUJD", True),
        ("QUI=", True),
        ("QUI", False),
        ("QU I=", False),
        ("QUI=QUJD", False),
        ("Q_-D", False),
        ("A" * 200_000, True),
        ("A" * 65_532 + "QUI=" + "QUJD", False),
        ("A" * 199_999, False),
        ("A" * 100_000 + "\n" + "A" * 99_999, False),
        ("图" * 4, False),
    ],
)
def test_base64_is_told_from_other_text(data: str, whole: bool) -> None:
    assert is_base64(data) is whole
