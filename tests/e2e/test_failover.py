"""Faults of AI services as a person meets them, through a real server with two services."""

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason
from tests.e2e.harness import Process, answers, ask, ended, expected, free_port, talk
from tests.support.eventually import eventually

SPARE = """
[[ai.providers]]
name = "spare"
base_url = "http://127.0.0.1:{port}/v1"
models = ["spare-model", "tokens=4"]
tier = 1

[[ai.providers]]
name = "hurried"
base_url = "http://127.0.0.1:{first}/v1"
models = ["silent"]
tier = 2
ttft_s = 1.5

[ai.routes]
{routes}
"""
WELL = "spare/tokens=4"
FAULTS = {
    "unwell": "scripted/status=500",
    "overloaded": "scripted/status=529",
    "busy": "scripted/status=429,retry_after=3600",
    "reset": "scripted/reset=0",
    "broken": "scripted/error=0",
    "keyless": "scripted/status=403",
    "silent": "hurried/silent",
    "rejected": "scripted/status=400",
    "late": "scripted/tokens=6,rate=100,close=3",
}
ELSEWHERE = ("unwell", "overloaded", "busy", "reset", "broken", "keyless", "silent")


class Pair(NamedTuple):
    """A server that knows two services; the second one's port."""

    server: Process
    spare_port: int


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A server with routes for each fault: `x` to it and then to a service that is well, `only-x`
    to it alone."""
    routes = "\n".join(
        f'{name} = ["{fault}", "{WELL}"]\nonly-{name} = ["{fault}"]'
        for name, fault in FAULTS.items()
    )
    first, port = free_port(), free_port()
    process = Process(
        tmp_path_factory.mktemp("failover"),
        provider_port=first,
        more=SPARE.format(first=first, port=port, routes=routes),
    )
    process.start()
    yield Pair(process, port)
    assert process.stop() == 0


@pytest.fixture
async def services(pair: Pair) -> AsyncIterator[tuple[ScriptedProvider, ScriptedProvider]]:
    """The two services, the first with the faults."""
    first, spare = ScriptedProvider(), ScriptedProvider()
    await first.start(pair.server.provider_port)
    await spare.start(pair.spare_port)
    yield first, spare
    await first.aclose()
    await spare.aclose()


Services = tuple[ScriptedProvider, ScriptedProvider]


@pytest.mark.parametrize("fault", ELSEWHERE)
async def test_another_service_answers_and_nobody_notices(
    fault: str, pair: Pair, services: Services
) -> None:
    async with pair.server.online() as client:
        conv = await talk(client)
        with client.events() as events:
            sent = await ask(client, conv, fault)
            end = await ended(events, sent.sid)
        assert (end.reason, end.text) == (EndReason.STOP, expected("tokens=4"))
        await eventually(lambda: answers(client, conv))
        assert [row.text for row in answers(client, conv)] == [expected("tokens=4")]
    assert [service.stats.requests for service in services] == [1, 1]


@pytest.mark.parametrize("fault", ["unwell", "busy", "reset", "keyless", "rejected"])
async def test_what_nobody_can_mend_is_told_with_what_to_do(
    fault: str, pair: Pair, services: Services
) -> None:
    async with pair.server.online() as client:
        conv = await talk(client)
        with client.events() as events:
            sent = await ask(client, conv, f"only-{fault}")
            end = await ended(events, sent.sid)
        assert end.reason is EndReason.ERROR
        assert end.text == ""
        assert any(hint in end.detail for hint in ("Ask again", "operator", "Check"))
        for quoted in ("secret", "sk-", "127.0.0.1", FAULTS[fault].partition("/")[2]):
            assert quoted not in end.detail
        assert answers(client, conv) == []
        # It is over: the same person asks again and is answered.
        with client.events() as events:
            sent = await ask(client, conv, WELL)
            assert (await ended(events, sent.sid)).reason is EndReason.STOP


async def test_after_the_first_text_the_partial_answer_stays(
    pair: Pair, services: Services
) -> None:
    async with pair.server.online() as client:
        conv = await talk(client)
        with client.events() as events:
            sent = await ask(client, conv, "late")
            end = await ended(events, sent.sid)
        assert (end.reason, end.code) == (EndReason.ERROR, Code.MODEL_UNAVAILABLE)
        await eventually(lambda: answers(client, conv))
        (row,) = answers(client, conv)
        assert row.text == expected("tokens=3")
        assert row.x is not None
        assert row.x.finish == EndReason.ERROR
    assert services[1].stats.requests == 0
