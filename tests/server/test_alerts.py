"""Rules: told once, over once, to a receiver that may be slow, away, rude or not allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from ai_bridge.secrets import Secret
from server.alerts import PAUSES_S, WAITING, Alerts, check_rule
from server.config import ConfigError, load
from server.config_sections import AlertConfig
from server.sampler import FIGURES
from tests.support.eventually import eventually


class Receiver:
    """A real HTTP server that takes notices, and answers as it is told."""

    def __init__(self) -> None:
        self.port = 0
        self.got: list[Any] = []
        self.answers: list[int] = []
        self.requests = 0

    async def take(self, request: web.Request) -> web.Response:
        self.requests += 1
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            assert request.content_type == "application/json"
            self.got.append(await request.json())
        headers = {"Location": "/elsewhere"} if 300 <= status < 400 else {}
        return web.Response(status=status, headers=headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


class World:
    """Rules, a clock, and pauses that take no time."""

    def __init__(self, *rules: AlertConfig) -> None:
        self.at = 100.0
        self.pauses: list[float] = []
        self.alerts = Alerts(rules, "node", lambda: int(self.at * 1000), self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def pass_s(self, *values: float, figure: str = "p95_ms") -> None:
        """Let a second pass for each value of a figure."""
        for value in values:
            self.at += 1
            self.alerts.look(dict.fromkeys(FIGURES, 0.0) | {figure: value}, self.at)

    @property
    def states(self) -> list[str]:
        return [view.state for view in self.alerts.views()]

    def told(self) -> dict[str, float]:
        (figure,) = [one for one in self.alerts.figures() if one.name == "alert_notices"]
        assert isinstance(figure.value, dict)
        return figure.value


def rule(port: int = 0, **more: Any) -> AlertConfig:
    fields: dict[str, Any] = {
        "name": "slow",
        "figure": "p95_ms",
        "above": 100.0,
        "seconds": 3,
        "allow_private": True,
    }
    if port:
        fields["webhook"] = Secret(f"http://127.0.0.1:{port}/hook")
    return AlertConfig(**(fields | more))


def test_a_rule_fires_only_when_it_was_broken_all_the_time() -> None:
    world = World(rule())
    world.pass_s(500, 500, 500)
    assert world.states == ["pending"]
    world.pass_s(99)
    assert world.states == ["ok"]
    world.pass_s(500, 500, 500, 100.1)
    assert world.states == ["firing"]


def test_a_rule_is_over_only_when_it_was_kept_for_as_long() -> None:
    world = World(rule())
    world.pass_s(500, 500, 500, 500)
    since = world.alerts.views()[0].since
    world.pass_s(0, 0, 500, 0, 0, 0)
    assert world.states == ["firing"]
    assert world.alerts.views()[0].since == since
    world.pass_s(0)
    assert world.states == ["ok"]


def test_a_rule_without_seconds_turns_at_once_and_below_is_the_other_way_round() -> None:
    world = World(rule(above=None, below=5.0, seconds=0, figure="connections"))
    world.pass_s(5.0, figure="connections")
    assert world.states == ["ok"]
    world.pass_s(4.9, figure="connections")
    assert world.states == ["firing"]
    world.pass_s(5.0, figure="connections")
    assert world.states == ["ok"]


async def test_the_webhook_is_told_once_of_the_beginning_and_once_of_the_end(
    receiver: Receiver,
) -> None:
    world = World(rule(receiver.port))
    world.pass_s(*[500.25] * 60)
    await eventually(lambda: len(receiver.got) == 1)
    world.pass_s(*[1.0] * 60)
    await eventually(lambda: len(receiver.got) == 2)
    begin, end = receiver.got
    shown = {name: begin[name] for name in ("alert", "state", "figure", "value", "above", "below")}
    assert shown == {
        "alert": "slow",
        "state": "firing",
        "figure": "p95_ms",
        "value": 500.25,
        "above": 100.0,
        "below": None,
    }
    assert (begin["server"], begin["seconds"], begin["at"]) == ("node", 3, 104_000)
    assert (end["state"], end["value"]) == ("ok", 1.0)
    assert begin["id"] != end["id"]
    await world.alerts.aclose()
    assert world.told() == {"sent": 2, "failed": 0, "dropped": 0}
    assert receiver.requests == 2


async def test_a_receiver_in_trouble_is_tried_again_after_growing_pauses(
    receiver: Receiver,
) -> None:
    receiver.answers = [503, 429, 500]
    world = World(rule(receiver.port, seconds=0))
    world.pass_s(500)
    await eventually(lambda: len(receiver.got) == 1)
    assert receiver.requests == 4
    assert [
        round(pause / wanted) for pause, wanted in zip(world.pauses, PAUSES_S, strict=False)
    ] == [1, 1, 1]
    await world.alerts.aclose()


@pytest.mark.parametrize("status", [302, 400, 404])
async def test_a_receiver_that_does_not_want_it_is_left_alone(
    receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    world = World(rule(receiver.port, seconds=0))
    world.pass_s(500)
    await eventually(lambda: world.told()["failed"])
    assert (receiver.requests, receiver.got, world.pauses) == (1, [], [])
    assert world.alerts.views()[0].untold == 1
    await world.alerts.aclose()


async def test_a_receiver_that_is_away_is_given_up_after_five_tries(receiver: Receiver) -> None:
    receiver.answers = [500] * 5
    world = World(rule(receiver.port, seconds=0))
    world.pass_s(500)
    await eventually(lambda: world.told()["failed"])
    assert receiver.requests == len(PAUSES_S) + 1
    await world.alerts.aclose()


async def test_notices_that_wait_are_bounded_and_the_newest_stay(receiver: Receiver) -> None:
    world = World(rule(receiver.port, seconds=0))
    world.pass_s(*[500, 0] * 10)  # without a turn of the loop in between: all wait
    await eventually(lambda: len(receiver.got) == WAITING)
    assert [one["state"] for one in receiver.got] == ["firing", "ok"] * (WAITING // 2)
    assert receiver.got[-1]["at"] == int(world.at * 1000)
    await world.alerts.aclose()
    assert world.told() == {"sent": WAITING, "failed": 0, "dropped": 20 - WAITING}
    (seen,) = world.alerts.views()
    assert (seen.webhook, seen.untold) == (True, 20 - WAITING)


async def test_a_name_that_stands_for_a_private_address_is_not_connected_to(
    receiver: Receiver,
) -> None:
    hook = Secret(f"https://localhost:{receiver.port}/")
    world = World(rule(webhook=hook, allow_private=False, seconds=0))
    world.pass_s(500)
    await eventually(lambda: world.told()["failed"])
    assert receiver.requests == 0
    await world.alerts.aclose()


async def test_states_are_on_the_metrics_page() -> None:
    world = World(rule(seconds=0), rule(name="other", seconds=99))
    world.pass_s(500)
    figures = {one.name: one.value for one in world.alerts.figures()}
    assert figures["alerts_firing"] == {"slow": 1, "other": 0}
    assert figures["alerts_fired"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"figure": "p95"}, "p95_ms"),
        ({"above": None}, "one of above and below"),
        ({"below": 1.0}, "one of above and below"),
        ({"webhook": Secret("example.org/x")}, "https://"),
        ({"webhook": Secret("ftp://example.org/x")}, "https://"),
        ({"webhook": Secret("http://example.org/x"), "allow_private": False}, "needs https"),
        ({"webhook": Secret("https://10.0.0.1/x"), "allow_private": False}, "allow_private"),
        ({"webhook": Secret("https://localhost/x"), "allow_private": False}, "allow_private"),
        ({"webhook": Secret("https://[::1]/x"), "allow_private": False}, "allow_private"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_and_its_address_is_not_shown(
    change: dict[str, Any], words: str
) -> None:
    complaint = check_rule(rule(**change))
    assert words in complaint
    assert "example" not in complaint
    assert check_rule(rule(webhook=Secret("https://example.org/x"), allow_private=False)) == ""


def test_two_rules_of_one_name_keep_the_server_from_starting() -> None:
    given = {"name": "a", "figure": "p95_ms", "above": 1}
    with pytest.raises(ConfigError, match="two rules are called 'a'"):
        load(None, {}, {"metrics.alerts": [given, given]})
