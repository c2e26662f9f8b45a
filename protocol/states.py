"""Which message is allowed when: the life of one session, as seen by the server.

    NEW --hello--> ATTACHING --welcome--> OPEN --goaway--> DRAINING
     any state ------------------bye-----------------------> CLOSED

A server reads nothing while ATTACHING: what a client sent behind its `hello` waits, unread, for
OPEN. DRAINING differs from OPEN only in that the client has been asked to leave: a request or an
`auth` that crossed the `goaway` on its way is still answered.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from protocol.codec import CLIENT_FRAMES
from protocol.codes import Code
from protocol.envelopes import Bye, Frame, GoAway, Hello, Welcome
from protocol.errors import ProtocolError


class State(Enum):
    """How far one session has come."""

    NEW = auto()
    ATTACHING = auto()
    OPEN = auto()
    DRAINING = auto()
    CLOSED = auto()


_Row = dict[type[Frame], State]
_WORKING: Final = [cls for cls in CLIENT_FRAMES if cls not in (Hello, Bye)]


def _row(row: _Row) -> Mapping[type[Frame], State]:
    return MappingProxyType(row)


RECEIVED: Final[Mapping[State, Mapping[type[Frame], State]]] = MappingProxyType(
    {
        State.NEW: _row({Hello: State.ATTACHING, Bye: State.CLOSED}),
        State.ATTACHING: _row({Bye: State.CLOSED}),
        State.OPEN: _row({**dict.fromkeys(_WORKING, State.OPEN), Bye: State.CLOSED}),
        State.DRAINING: _row({**dict.fromkeys(_WORKING, State.DRAINING), Bye: State.CLOSED}),
        State.CLOSED: _row({}),
    }
)
"""Session state, message from the client -> next state. What is missing is a wrong state."""

SENT: Final[Mapping[type[Frame], Mapping[State, State]]] = MappingProxyType(
    {
        Welcome: MappingProxyType({State.ATTACHING: State.OPEN}),
        GoAway: MappingProxyType({State.OPEN: State.DRAINING, State.DRAINING: State.DRAINING}),
        Bye: MappingProxyType(dict.fromkeys(State, State.CLOSED)),
    }
)
"""The three messages of the server that move a session; all others leave it where it is."""


def next_state(state: State, received: type[Frame]) -> State:
    """Return the state after a message of this type from the client.

    Raises:
        ProtocolError: code WRONG_STATE, which closes the connection.
    """
    following = RECEIVED[state].get(received)
    if following is None:
        raise ProtocolError("not now", Code.WRONG_STATE)
    return following
