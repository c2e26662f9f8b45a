"""Who starts, who waits and who is refused. Time is injected; nothing sleeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.admission import Admission
from ai_bridge.config import BridgeConfig
from ai_bridge.errors import BridgeError
from ai_bridge.turn import Turn
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamState
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Clock, request


class Desk:
    """An admission with numbered turns."""

    def __init__(
        self, *, has_room: Callable[[Turn], bool] = lambda turn: True, **limits: int
    ) -> None:
        self.clock = Clock()
        self.admission = Admission(BridgeConfig(**limits), has_room=has_room, clock=self.clock)  # type: ignore[arg-type]  # limits are counts
        self._next = 0

    def offer(self, *, tenant: int = 1, user: int = 1, model: str | None = None) -> Turn:
        self._next += 1
        turn = Turn(
            request(self._next, tenant=tenant, user=user, model=model), place=self.admission.place
        )
        self._started = self.admission.offer(turn)
        return turn

    def did_start(self) -> bool:
        """Tell whether the last offered turn started at once."""
        return self._started

    def finish(self, turn: Turn) -> Turn | None:
        self.admission.release(turn)
        return self.admission.pop()


def test_a_user_has_a_share_of_running_and_waiting_turns() -> None:
    desk = Desk(user_running=2, user_queued=4)
    started = []
    for _ in range(6):
        desk.offer()
        started.append(desk.did_start())
    assert started == [True, True, False, False, False, False]
    with pytest.raises(BridgeError) as refusal:
        desk.offer()
    assert refusal.value.code is Code.BUSY
    assert refusal.value.retry_ms > 0
    desk.offer(user=2)
    assert desk.did_start()


def test_turns_of_one_user_start_in_order() -> None:
    desk = Desk(user_running=1)
    first = desk.offer()
    waiting = [desk.offer() for _ in range(4)]
    order: list[Turn] = []
    current: Turn | None = first
    while current is not None and len(order) < 4:
        current = desk.finish(current)
        assert current is not None
        order.append(current)
    assert order == waiting


def test_the_process_has_a_bound() -> None:
    desk = Desk(max_streams=3)
    turns = [desk.offer(user=user) for user in range(5)]
    assert desk.admission.running == 3
    assert desk.admission.queued == 2
    assert desk.finish(turns[0]) is turns[3]


def test_users_of_a_tenant_take_turns() -> None:
    desk = Desk(max_streams=1, user_queued=4)
    current: Turn | None = desk.offer(user=99)
    for user in (1, 1, 1, 2, 2, 3):
        desk.offer(user=user)
    order = []
    while current is not None:
        current = desk.finish(current)
        if current is not None:
            order.append(current.request.user)
    assert order == [1, 2, 3, 1, 2, 1]


def test_ten_thousand_waiting_turns_of_one_tenant_delay_another_by_one_start() -> None:
    desk = Desk(max_streams=1, queue=12_500, user_queued=4)
    running = desk.offer(tenant=1, user=0)
    for user in range(10_000):
        desk.offer(tenant=1, user=user + 1)
    single = desk.offer(tenant=2, user=1)
    assert single.place_in_queue <= 2
    second = desk.finish(running)
    assert second is not None
    assert single in (second, desk.finish(second))


def test_the_place_in_the_queue_is_where_the_turn_starts() -> None:
    desk = Desk(max_streams=1, user_queued=10)
    running = desk.offer(user=9)
    waiting = [desk.offer(tenant=1 + n % 2, user=1 + n % 3) for n in range(9)]
    places = {turn.id: turn.place_in_queue for turn in waiting}
    order = []
    current: Turn | None = running
    while current is not None:
        current = desk.finish(current)
        if current is not None:
            order.append(current.id)
    assert [places[number] for number in order] == list(range(1, 10))


def test_the_queue_is_bounded_and_one_tenant_cannot_fill_it() -> None:
    desk = Desk(max_streams=1, queue=10, user_queued=100)
    desk.offer()
    for _ in range(8):
        desk.offer(tenant=1)
    with pytest.raises(BridgeError):
        desk.offer(tenant=1, user=2)
    for _ in range(2):
        desk.offer(tenant=2)
    with pytest.raises(BridgeError) as refusal:
        desk.offer(tenant=3)
    assert refusal.value.code is Code.BUSY


def test_a_wait_that_would_be_too_long_is_refused_with_the_estimate() -> None:
    desk = Desk(max_streams=1, user_queued=100, queue_wait_s=10)
    current: Turn | None = desk.offer(user=1)
    for user in range(2, 30):
        desk.offer(user=user)
    for _ in range(10):  # one start every two seconds
        assert current is not None
        desk.clock.advance(2)
        current = desk.finish(current)
    with pytest.raises(BridgeError) as refusal:
        desk.offer(user=77)
    assert 20_000 < refusal.value.retry_ms <= 60_000
    desk.offer(tenant=2, user=78)  # would be next: its wait is short
    assert not desk.did_start()


def test_a_full_provider_holds_back_only_its_own_turns() -> None:
    busy = {"slow"}
    desk = Desk(has_room=lambda turn: turn.request.params.model not in busy)
    slow = desk.offer(user=1, model="slow")
    assert not desk.did_start()
    desk.offer(user=2, model="fast")
    assert desk.did_start()
    assert desk.admission.pop() is None
    busy.clear()
    assert desk.admission.pop() is slow


def test_a_withdrawn_turn_never_starts() -> None:
    desk = Desk(user_running=1)
    first = desk.offer()
    second, third = desk.offer(), desk.offer()
    assert desk.admission.withdraw(second)
    assert not desk.admission.withdraw(second)
    assert second.place_in_queue == 0
    assert desk.finish(first) is third
    assert desk.admission.queued == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "finish", "withdraw"]), st.integers(0, 5)), max_size=80
    )
)
def test_nothing_is_lost_whatever_happens(steps: list[tuple[str, int]]) -> None:
    desk = Desk(max_streams=2, user_running=1, user_queued=2, queue=6)
    running: list[Turn] = []
    waiting: list[Turn] = []
    for step, number in steps:
        if step == "offer":
            try:
                turn = desk.offer(tenant=number % 2, user=number)
            except BridgeError:
                continue
            (running if desk.did_start() else waiting).append(turn)
        elif step == "withdraw" and waiting:
            assert desk.admission.withdraw(waiting.pop(number % len(waiting)))
        elif step == "finish" and running:
            desk.admission.release(running.pop(number % len(running)))
        while (turn_or_none := desk.admission.pop()) is not None:
            waiting.remove(turn_or_none)
            running.append(turn_or_none)
        assert (desk.admission.running, desk.admission.queued) == (len(running), len(waiting))
        assert sorted(t.id for t in desk.admission.waiting()) == sorted(t.id for t in waiting)
        assert len(running) <= 2
        if waiting and len(running) < 2:  # then each of them waits for its own user's turn
            busy = {turn.request.user for turn in running}
            assert {turn.request.user for turn in waiting} <= busy


async def test_the_bridge_starts_what_waits_when_a_turn_ends(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, user_running=1)
    asked = [rig.ask(model="tokens=2") for _ in range(4)]
    assert [turn.place_in_queue for turn, _ in asked] == [0, 1, 2, 3]
    for turn, watcher in asked:
        assert (await watcher.end()).reason is EndReason.STOP
        assert turn.state is StreamState.DONE
    assert rig.bridge.stats.ended_stop == 4


async def test_a_provider_takes_no_more_streams_than_it_may(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, provider={"max_streams": 2})
    held = [rig.ask(user=user, model="stall=1") for user in range(4)]
    await held[1][1].change()
    assert provider.stats.streaming == 2
    assert rig.bridge.queued == 2
    rig.bridge.cancel(held[0][0].id)
    await held[2][1].change()
    assert rig.bridge.queued == 1
    assert rig.bridge.health()["p0"]["running"] == 2


async def test_a_refused_turn_leaves_nothing(provider: ScriptedProvider, make_rig: MakeRig) -> None:
    rig = await make_rig(provider, user_running=1, user_queued=0)
    turn, _ = rig.ask(model="stall=1")
    with pytest.raises(BridgeError) as refusal:
        rig.ask(model="fake")
    assert refusal.value.code is Code.BUSY
    assert rig.bridge.active(1) == [turn]
    assert (rig.bridge.stats.submitted, rig.bridge.stats.refused) == (2, 1)


async def test_a_known_turn_id_is_refused(provider: ScriptedProvider, make_rig: MakeRig) -> None:
    rig = await make_rig(provider)
    turn, watcher = rig.ask(model="tokens=1")
    await watcher.end()
    with pytest.raises(BridgeError) as refusal:
        rig.bridge.submit(turn.request, watcher)
    assert refusal.value.code is Code.IN_FLIGHT
    rig.clock.advance(121)
    rig.bridge.sweep()
    assert rig.bridge.get(turn.id) is None


async def test_an_unknown_model_is_refused_with_advice(make_rig: MakeRig) -> None:
    rig = await make_rig()
    with pytest.raises(BridgeError) as refusal:
        rig.ask(model="gpt-99")
    assert refusal.value.code is Code.MODEL_UNAVAILABLE
    assert "leave its model empty" in refusal.value.text
