"""What a client tells its user, in the order in which it became true."""

from enum import Enum

from msgspec import Struct

from protocol.codes import EndReason, Settled
from protocol.rows import Msg, Persona, Pres, SendX, User


class Link(Enum):
    """How the connection to the server is doing.

    CATCHING_UP lasts from the sign-in until everything that was missed is there; OFFLINE until
    the next attempt; STOPPED for good, see the reason.
    """

    CONNECTING = "connecting"
    CATCHING_UP = "catching up"
    ONLINE = "online"
    OFFLINE = "offline"
    STOPPED = "stopped"


class Event(Struct, frozen=True, gc=False):
    """Base of all events."""


class LinkChanged(Event, frozen=True):
    """The connection's state changed.

    Attributes:
        retry_s: seconds until the next attempt, when OFFLINE.
        reason: short plain words; for STOPPED, what to do about it.
        code: number of the server's `bye` or `goaway`, 0 when there was none.
    """

    link: Link
    retry_s: float = 0.0
    reason: str = ""
    code: int = 0


class MessageAdded(Event, frozen=True):
    """A message that was not known before, new or from older pages."""

    conv: int
    msg: Msg


class MessageChanged(Event, frozen=True):
    """A known message was edited, recalled or completed."""

    conv: int
    msg: Msg


class ConvChanged(Event, frozen=True):
    """A conversation's row, members or own view changed; read it from the view."""

    conv: int


class ConvReset(Event, frozen=True):
    """Too much was missed: the messages held before were dropped, newer ones follow."""

    conv: int


class ConvGone(Event, frozen=True):
    """The user is not in the conversation any more."""

    conv: int


class Forgotten(Event, frozen=True):
    """The server's store was replaced by another: everything held was dropped."""


class PersonaChanged(Event, frozen=True):
    persona: Persona


class ProfileChanged(Event, frozen=True):
    user: User


class DevicesChanged(Event, frozen=True):
    """The list of the user's own devices changed."""


class StreamStarted(Event, frozen=True):
    """An answer is being made; `ask` is the seq of the question, 0 when unknown."""

    sid: int
    conv: int
    persona: int
    ask: int


class StreamText(Event, frozen=True):
    """The answer grew by `text`, which begins at byte `off` of `part`."""

    sid: int
    conv: int
    part: int
    off: int
    text: str


class StreamMoved(Event, frozen=True):
    """A waiting answer has another place in the queue: 1 is next, 0 when it waits no more."""

    sid: int
    conv: int
    place: int


class ToolAsked(Event, frozen=True):
    """A tool wants to run for an answer of the user's own: say so with `Client.confirm`.

    Attributes:
        name, args: the tool, and the beginning of what it is given; text of a model, not to be
            trusted.
        left: characters of `args` that are not shown.
        until_ms: when it is too late, Unix milliseconds.
    """

    sid: int
    conv: int
    call: int
    name: str
    args: str
    left: int
    until_ms: int


class ToolSettled(Event, frozen=True):
    """A question needs no answer any more, whoever gave it; None: it is not known how it ended."""

    sid: int
    call: int
    name: str
    outcome: Settled | None


class StreamEnded(Event, frozen=True):
    """The answer is over.

    Attributes:
        seq: its message, which is in the view or about to come; 0 when nothing was stored.
        reason: None when the end was missed; the message, if any, says more.
        detail: what a person may do about an error.
        text: of the answer, as far as it had arrived; empty when it was taken back (FILTERED with
            seq 0): remove what was shown.
    """

    sid: int
    conv: int
    seq: int
    reason: EndReason | None
    code: int = 0
    detail: str = ""
    text: str = ""


class TypingSeen(Event, frozen=True):
    conv: int
    user: int
    state: int


class PresenceSeen(Event, frozen=True):
    items: tuple[Pres, ...]


class ReadSeen(Event, frozen=True):
    """Somebody in the conversation has read more."""

    conv: int


class SendQueued(Event, frozen=True):
    """A message is in the outbox and will be sent until it is acknowledged or refused."""

    conv: int
    cid: bytes
    text: str


class SendDone(Event, frozen=True):
    conv: int
    cid: bytes
    seq: int
    sid: int


class SendFailed(Event, frozen=True):
    """The server refused the message for good; it is out of the outbox, but here to be changed.

    Attributes:
        detail: what a person may do about it; may be empty.
    """

    conv: int
    cid: bytes
    text: str
    x: SendX | None
    code: int
    reason: str
    detail: str = ""


class NoticeSeen(Event, frozen=True):
    """The server has something to say.

    Attributes:
        kind: of `protocol.codes.NoticeKind`, or a newer one.
        expires_ms: when it is no longer true, Unix milliseconds; 0 when it does not end.
    """

    kind: int
    text: str
    expires_ms: int = 0


class StateUnsaved(Event, frozen=True):
    """The outbox could not be saved; its messages are sent all the same."""

    reason: str


class Lagged(Event, frozen=True):
    """The reader of events was too slow and `dropped` events are gone: read the views again."""

    dropped: int
