"""Every state meets every message of either side."""

import pytest

from protocol.codec import CLIENT_FRAMES, NAMES, SERVER_FRAMES
from protocol.codes import Code
from protocol.envelopes import Auth, Bye, Frame, GoAway, Hello, Send, Welcome
from protocol.errors import ProtocolError
from protocol.states import RECEIVED, SENT, State, next_state

ALL_FRAMES = tuple(dict.fromkeys((*CLIENT_FRAMES, *SERVER_FRAMES)))


def expected(state: State, kind: type[Frame]) -> State | Code:
    """The rule in words, not the table again."""
    if kind not in CLIENT_FRAMES or state is State.CLOSED:
        return Code.WRONG_STATE
    if kind is Bye:
        return State.CLOSED
    if kind is Hello:
        return State.ATTACHING if state is State.NEW else Code.WRONG_STATE
    return state if state in (State.OPEN, State.DRAINING) else Code.WRONG_STATE


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", ALL_FRAMES, ids=lambda kind: NAMES[kind])
def test_every_message_in_every_state(state: State, kind: type[Frame]) -> None:
    outcome: State | Code
    try:
        outcome = next_state(state, kind)
    except ProtocolError as error:
        outcome = error.code
    assert outcome is expected(state, kind)


def test_a_session_can_walk_from_new_to_closed() -> None:
    state = next_state(State.NEW, Hello)
    state = SENT[Welcome][state]
    state = next_state(state, Auth)
    state = next_state(state, Send)
    state = SENT[GoAway][state]
    assert next_state(state, Send) is State.DRAINING
    assert next_state(state, Bye) is State.CLOSED


def test_only_an_attaching_session_can_be_welcomed() -> None:
    assert set(SENT[Welcome]) == {State.ATTACHING}


def test_the_server_can_end_a_session_in_any_state() -> None:
    assert set(SENT[Bye]) == set(State)


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        RECEIVED[State.NEW][Send] = State.OPEN  # type: ignore[index]  # the point of the test
