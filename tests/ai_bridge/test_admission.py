"""Who starts, who waits and who is refused. Time is injected; nothing sleeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_bridge.admission import Admission
from ai_bridge.config import BridgeConfig, TenantShare
from ai_bridge.errors import BridgeError
from ai_bridge.turn import Turn
from ai_bridge.types import Priority
from bench.provider.server import ScriptedProvider
from protocol.codes import Code, EndReason, StreamState
from tests.ai_bridge.conftest import MakeRig
from tests.ai_bridge.fakes import Clock, Watcher, request

INTERACTIVE, FACADE, BACKGROUND = Priority


class Desk:
    """An admission with numbered turns."""

    def __init__(
        self,
        *,
        has_room: Callable[[Turn], bool] = lambda turn: True,
        is_closed: Callable[[Turn], bool] = lambda turn: False,
        **limits: Any,
    ) -> None:
        self.clock = Clock()
        self.admission = Admission(
            BridgeConfig(**limits), has_room=has_room, clock=self.clock, is_closed=is_closed
        )
        self._next = 0

    def offer(self, **fields: Any) -> Turn:
        self._next += 1
        turn = Turn(request(self._next, **fields))
        self._started = self.admission.offer(turn)
        return turn

    def waiting(self) -> list[int]:
        """Return the turns that wait, the next to start first."""
        return [turn.id for turn in self.admission.in_order()]

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
    assert refusal.value.code is Code.RATE
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
    assert single.id in desk.waiting()[:2]
    second = desk.finish(running)
    assert second is not None
    assert single in (second, desk.finish(second))


def test_turns_start_in_the_order_that_is_told() -> None:
    desk = Desk(max_streams=1, user_queued=10)
    running = desk.offer(user=9)
    for n in range(9):
        desk.offer(tenant=1 + n % 2, user=1 + n % 3)
    told = desk.waiting()
    order = []
    current: Turn | None = running
    while current is not None:
        current = desk.finish(current)
        if current is not None:
            order.append(current.id)
    assert len(told) == 9
    assert order == told


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
    assert desk.waiting() == [third.id]
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


STEP = st.tuples(
    st.sampled_from(
        ["offer", "offer", "offer", "finish", "finish", "withdraw", "toggle", "second"]
    ),
    st.integers(0, 200),
)


@given(st.lists(STEP, max_size=150))
def test_whoever_may_start_does_and_each_user_in_order(steps: list[tuple[str, int]]) -> None:
    """With several models, priorities, tenants with limits, and a queue in either order."""
    shut: set[str | None] = set()
    desk = Desk(
        max_streams=4,
        user_running=1,
        facade_running=2,
        user_queued=3,
        facade_queued=3,
        queue=30,
        tenants=(TenantShare(tenant=0, max_streams=1), TenantShare(tenant=1, weight=5)),
        has_room=lambda turn: turn.request.params.model not in shut,
    )
    running: list[Turn] = []
    waiting: list[Turn] = []
    for step, number in steps:
        if step == "offer":
            try:
                turn = desk.offer(
                    tenant=number % 3,
                    user=number % 5,
                    model="abc"[number % 7 % 3],
                    priority=Priority(number % 11 % 3),
                )
            except BridgeError:
                continue
            (running if desk.did_start() else waiting).append(turn)
        elif step == "withdraw" and waiting:
            assert desk.admission.withdraw(waiting.pop(number % len(waiting)))
        elif step == "finish" and running:
            desk.admission.release(running.pop(number % len(running)))
        elif step == "toggle":
            shut ^= {"abc"[number % 3]}
        elif step == "second":
            desk.clock.advance(1)
            desk.admission.sweep(0.0)
            desk.admission.standing = number % 2 == 0
        while (started := desk.admission.pop()) is not None:
            own = [turn for turn in waiting if _owner(turn) == _owner(started)]
            assert started is own[0]
            waiting.remove(started)
            running.append(started)
        _check_room(desk, running, waiting, shut)
    assert {turn.id for turn in desk.admission.in_order()} == {turn.id for turn in waiting}
    assert sum(desk.admission.depth().values()) == len(waiting) == desk.admission.queued


def _owner(turn: Turn) -> tuple[int, int, int]:
    request = turn.request
    return request.tenant, request.user, request.priority


def _check_room(
    desk: Desk, running: list[Turn], waiting: list[Turn], shut: set[str | None]
) -> None:
    """Everybody who waits has a reason."""
    assert desk.admission.running == len(running) <= 4
    owners = [_owner(turn) for turn in running]
    tenants = [turn.request.tenant for turn in running]
    assert tenants.count(0) <= 1
    seen: set[tuple[int, int, int]] = set()
    for turn in waiting if len(running) < 4 else []:
        owner = _owner(turn)
        first = owner not in seen
        seen.add(owner)
        limit = 2 if turn.request.priority is FACADE else 1
        held = owners.count(owner) >= limit or (turn.request.tenant == 0 and 0 in tenants)
        assert not first or held or turn.request.params.model in shut


async def test_the_bridge_starts_what_waits_when_a_turn_ends(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, user_running=1)
    asked = [rig.ask(model="tokens=2") for _ in range(4)]
    assert [turn.state for turn, _ in asked[1:]] == [StreamState.QUEUED] * 3
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
    rig.ask(model="stall=1")
    with pytest.raises(BridgeError) as refusal:
        rig.ask(model="fake")
    assert refusal.value.code is Code.RATE
    assert (rig.bridge.running, rig.bridge.queued) == (1, 0)
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


# --- fair by cost --------------------------------------------------------------------------------


def starts(desk: Desk, current: Turn | None, count: int) -> list[Turn]:
    """Let one turn after the other end; return those that start."""
    order = []
    for _ in range(count):
        assert current is not None
        current = desk.finish(current)
        if current is not None:
            order.append(current)
    return order


def test_tenants_share_by_weight() -> None:
    desk = Desk(
        max_streams=1,
        user_queued=100,
        tenants=(TenantShare(tenant=1, weight=3.0), TenantShare(tenant=2, weight=1.0)),
    )
    running = desk.offer(tenant=9)
    for _ in range(60):
        desk.offer(tenant=1)
        desk.offer(tenant=2)
    first = starts(desk, running, 40)
    assert sum(turn.request.tenant == 1 for turn in first) == 30


def test_a_tenant_pays_for_long_answers() -> None:
    desk = Desk(max_streams=1, user_queued=100)
    running = desk.offer(tenant=9)
    for _ in range(60):
        desk.offer(tenant=1, max_tokens=4000)
        desk.offer(tenant=2, max_tokens=1000)
    first = starts(desk, running, 40)
    assert sum(turn.request.tenant == 1 for turn in first) in (8, 9)  # a fifth: 1 to 4 in cost


def test_nobody_saves_up_for_later() -> None:
    desk = Desk(max_streams=1, user_queued=100)
    running = desk.offer(tenant=1)
    for _ in range(30):
        desk.offer(tenant=1)
    running = starts(desk, running, 20)[-1]
    for _ in range(10):
        desk.offer(tenant=2)
    first = starts(desk, running, 8)
    assert [turn.request.tenant for turn in first].count(1) == 4


def test_a_single_request_waits_one_answer_behind_ten_thousand_of_another_tenant() -> None:
    """B5: every answer takes ten seconds at the only place there is."""
    desk = Desk(max_streams=1, queue=12_500, user_queued=10, queue_wait_s=10**6)
    running = desk.offer(tenant=1, user=0)
    for number in range(10_000):
        desk.offer(tenant=1, user=1 + number // 4)
    for _ in range(25):
        desk.clock.advance(10)
        after = desk.finish(running)
        assert after is not None
        running = after
    desk.clock.advance(3)
    asked_at = desk.clock()
    single = desk.offer(tenant=2)
    desk.clock.advance(7)
    assert desk.finish(running) is single
    assert desk.clock() - asked_at <= 10


def test_a_tenant_keeps_to_its_own_limit_of_streams() -> None:
    desk = Desk(tenants=(TenantShare(tenant=1, max_streams=2),))
    turns = [desk.offer(tenant=1, user=user) for user in range(4)]
    assert desk.admission.running == 2
    other = desk.offer(tenant=2)
    assert desk.admission.pop() is other
    assert desk.admission.pop() is None
    assert desk.finish(turns[0]) is turns[2]
    assert desk.finish(turns[1]) is turns[3]


def test_people_go_before_programs_and_those_before_background_work() -> None:
    desk = Desk(max_streams=1)
    running = desk.offer(user=9)
    for user, priority in enumerate([BACKGROUND, FACADE, INTERACTIVE, BACKGROUND, INTERACTIVE]):
        desk.offer(user=user, priority=priority)
    first = starts(desk, running, 5)
    assert [turn.request.priority for turn in first] == [
        INTERACTIVE,
        INTERACTIVE,
        FACADE,
        BACKGROUND,
        BACKGROUND,
    ]
    assert desk.admission.depth() == {"interactive": 0, "facade": 0, "background": 0}


def test_a_program_may_have_more_turns_than_a_person() -> None:
    desk = Desk(user_running=2, facade_running=5, facade_queued=1)
    for _ in range(5):
        desk.offer(priority=FACADE)
        assert desk.did_start()
    desk.offer(priority=FACADE)
    with pytest.raises(BridgeError):
        desk.offer(priority=FACADE)
    desk.offer()  # the same user in person
    assert desk.did_start()


def test_a_newcomer_does_not_overtake_those_who_wait_for_the_same_model() -> None:
    busy = {"m"}
    desk = Desk(has_room=lambda turn: turn.request.params.model not in busy)
    first = desk.offer(user=1, model="m")
    busy.clear()  # room came up, and before anybody looked somebody else asks
    desk.offer(user=2, model="m")
    assert not desk.did_start()
    assert desk.admission.pop() is first


# --- a queue that does not get shorter -----------------------------------------------------------


def crowd(desk: Desk, *, per_s: int, seconds: int, served: int) -> tuple[list[Turn], list[Turn]]:
    """More people ask than are served; return who waits and who was served in the last second."""
    running = [desk.offer(user=10_000 + number) for number in range(served)]
    late: list[Turn] = []
    number = 0
    for _ in range(seconds):
        late = []
        for _ in range(per_s):
            number += 1
            desk.offer(user=number)
        desk.clock.advance(1)
        for at, turn in enumerate(running):
            following = desk.finish(turn)
            assert following is not None
            running[at] = following
            late.append(following)
        stale = desk.admission.sweep(0.0)
        for turn in stale:
            assert desk.admission.withdraw(turn)
    return desk.admission.waiting(), late


def test_in_a_standing_queue_the_newest_are_served_and_the_old_sent_away() -> None:
    desk = Desk(max_streams=20, queue=5000, queue_wait_s=10**6)
    waiting, served = crowd(desk, per_s=40, seconds=8, served=20)
    assert desk.admission.standing
    newest = max(turn.id for turn in waiting + served)
    assert sorted(turn.id for turn in served) == list(range(newest - 19, newest + 1))
    assert len(waiting) <= 60  # of two seconds
    desk.clock.advance(3)
    for turn in desk.admission.sweep(0.0):
        desk.admission.withdraw(turn)
    desk.admission.sweep(0.0)
    assert not desk.admission.standing


def test_the_order_of_one_user_holds_in_a_standing_queue() -> None:
    desk = Desk(max_streams=20, queue=5000, user_running=1, queue_wait_s=10**6)
    _, running = crowd(desk, per_s=40, seconds=8, served=20)
    assert desk.admission.standing
    own = [desk.offer(user=77_777) for _ in range(3)]
    served: list[Turn] = []
    while running and desk.admission.queued:
        following = desk.finish(running.pop())
        if following is not None:
            running.append(following)
            served.append(following)
    assert [turn for turn in served if turn.request.user == 77_777] == own


def test_a_slow_server_keeps_its_queue() -> None:
    """One answer in four seconds: everybody waits long, and nobody is sent away for it."""
    desk = Desk(max_streams=1, queue_wait_s=10**6)
    running = desk.offer(user=99)
    for user in range(10):
        desk.offer(user=user)
    order = []
    for _ in range(10):
        for _ in range(4):
            desk.clock.advance(1)
            assert desk.admission.sweep(0.0) == []
        after = desk.finish(running)
        assert after is not None
        running = after
        order.append(after.request.user)
    assert order == list(range(10))


def test_waiting_for_a_closed_provider_is_not_the_queues_fault() -> None:
    closed = True
    desk = Desk(has_room=lambda turn: not closed, is_closed=lambda turn: closed, queue_wait_s=10**6)
    for user in range(50):
        desk.offer(user=user)
    for _ in range(30):
        desk.clock.advance(1)
        desk.admission.sweep(0.0)
    closed = False
    first = [desk.admission.pop() for _ in range(20)]
    assert [turn.request.user for turn in first if turn] == list(range(20))
    desk.clock.advance(1)
    assert desk.admission.sweep(0.0) == []
    assert not desk.admission.standing


# --- a late loop ---------------------------------------------------------------------------------


def test_a_late_loop_takes_fewer_streams_and_more_again_when_it_is_well() -> None:
    desk = Desk(max_streams=100)
    running = [desk.offer(user=user) for user in range(60)]
    limits = []
    for _ in range(5):
        desk.admission.sweep(80.0)
        limits.append(round(desk.admission.limit))
    assert limits == [54, 49, 44, 39, 35]
    desk.admission.release(running.pop())
    desk.offer(user=999)
    assert not desk.did_start()
    for _ in range(60):
        desk.admission.sweep(80.0)
    assert desk.admission.limit == 16
    for _ in range(60):
        desk.admission.sweep(10.0)
    assert desk.admission.limit == 100


async def test_the_watcher_hears_of_its_place_once_a_second(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    class Queued(Watcher):
        def __init__(self) -> None:
            super().__init__()
            self.places: list[int] = []

        def turn_queued(self, turn: Turn, place: int) -> None:
            self.places.append(place)

    rig = await make_rig(provider, user_running=1, user_queued=10)
    turns = [rig.ask(model="stall=1", user=1)[0] for _ in range(3)]
    watcher = Queued()
    rig.watchers.append(watcher)
    rig.bridge.submit(request(99, user=1, model="tokens=1"), watcher)
    for _ in range(3):
        rig.bridge.sweep()
    assert watcher.places == [3]
    rig.bridge.cancel(turns[1].id)
    rig.bridge.sweep()
    rig.bridge.cancel(turns[2].id)
    rig.bridge.sweep()
    assert watcher.places == [3, 2, 1]


async def test_background_work_gets_a_fifth_of_a_provider(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, provider={"limit": "fixed", "max_streams": 10})
    for user in range(5):
        rig.ask(user=user, model="stall=1", priority=BACKGROUND)
    assert (rig.bridge.running, rig.bridge.queued) == (2, 3)
    for user in range(8):
        rig.ask(user=user, model="stall=1")
    assert (rig.bridge.running, rig.bridge.queued) == (10, 3)


async def test_who_waits_in_a_standing_queue_is_told_to_come_back(
    provider: ScriptedProvider, make_rig: MakeRig
) -> None:
    rig = await make_rig(provider, max_streams=10, queue_wait_s=10**6)
    running = [rig.ask(user=user, model="stall=1")[0] for user in range(10)]
    waiting = [rig.ask(user=100 + user, model="stall=1") for user in range(30)]
    rig.clock.advance(3)
    for turn in running:
        rig.bridge.cancel(turn.id)
    await waiting[9][1].change()
    rig.bridge.sweep()
    for _, watcher in waiting[10:]:
        outcome = await watcher.end()
        assert (outcome.reason, outcome.code) == (EndReason.ERROR, Code.BUSY)
        assert outcome.retry_ms > 0
        assert watcher.started == 0
    assert rig.bridge.stats.refused_by == {"busy": 20}
