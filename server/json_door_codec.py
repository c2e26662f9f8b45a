"""What the JSON door says: messages of the protocol as plain objects (docs/json-door.md).

Ids are text, times Unix milliseconds. What such a client cannot use becomes no bytes at all, which
the connection leaves out.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, field

from protocol.codes import Code, EndReason, MsgKind, StreamPart
from protocol.envelopes import (
    Authed,
    Bye,
    Done,
    Err,
    Frame,
    GoAway,
    MsgPush,
    Notice,
    PersonaPush,
    Pong,
    Resync,
    Sent,
    StreamDelta,
    StreamEnd,
    Welcome,
)
from protocol.rows import Msg, Persona
from server.json_door_frames import Reader

if TYPE_CHECKING:
    from server.core import Core

AVATARS: Final = "/api/v1/avatars/"
_PERSON: Final = 0
_AI: Final = 1

_CLOSINGS: Final[dict[int, str]] = {
    Code.FRAMING: "Send each object as one text message, not as a binary one.",
    Code.POLICY: "Send the auth message within ten seconds.",
    Code.BAD_CREDENTIALS: "This token does not open this address. Get one of the user in it.",
    Code.EXPIRED: "The token has expired. Get a new one and connect again.",
    Code.REVOKED: "This sign-in has been ended. Sign in and connect again.",
    Code.REPLACED: "Another connection of this device took over. For two, add ?device=NAME.",
    Code.RATE: "Too much in too short a time. Wait a minute and connect again.",
    Code.SIZE_LIMIT: "This user has too many devices. Use ?device= with a name used before.",
    Code.TIMEOUT: "Nothing was heard for too long. Connect again.",
}
"""Why a connection ends and what to do, where the reason of the protocol is for logs."""

_encode: Final = msgspec.json.Encoder().encode


class DoorAnswer(Struct, tag_field="type", omit_defaults=True, gc=False):
    """Base of what the door says."""


class Greeting(DoorAnswer, tag="welcome"):
    user_id: str
    heartbeat_s: int
    time: int


class Accepted(DoorAnswer, tag="chat_accepted"):
    """The message is stored. `stream_id`: an answer has begun."""

    conversation_id: str
    message_id: str
    time: int
    stream_id: str | None = None
    repeated: bool = False
    request_id: int = 0


class Trouble(DoorAnswer, tag="error"):
    """Something was refused; with `closing` the connection ends as well."""

    code: int
    error: str
    message: str
    retry_ms: int = -1
    closing: bool = False
    request_id: int = 0


class AnswerFault(Struct, omit_defaults=True, gc=False):
    code: int
    message: str


class ChatResponse(DoorAnswer, tag="chat_response"):
    """A piece of an answer (`delta`), or its end with the whole text (`content`)."""

    conversation_id: str
    stream_id: str
    done: bool = field(name="done")
    persona_id: str | None = None
    delta: str | None = None
    content: str | None = None
    message_id: str | None = None
    finish: str | None = None
    time: int | None = None
    error: AnswerFault | None = None


class Line(Struct, omit_defaults=True, gc=False):
    """One stored message. `sender_type`: 0 a person, 1 a persona."""

    message_id: str
    sender_id: str
    sender_type: int = field(name="sender_type")
    content: str = field(name="content")
    create_time: int = field(name="create_time")
    edited: bool = False
    recalled: bool = False
    stream_id: str | None = None


class Said(DoorAnswer, tag="message"):
    """A message of somebody else or of another device, or one that has changed."""

    conversation_id: str
    message: Line


class Talk(Struct, omit_defaults=True, gc=False):
    conversation_id: str
    title: str = field(name="title")
    persona_id: str | None = None
    update_time: int | None = None


class HistoryResponse(DoorAnswer, tag="history_response"):
    """`conversations`, newest first, when the request named none."""

    conversation_id: str | None = field(name="conversation_id")
    messages: list[Line] = field(name="messages")
    has_more: bool = field(name="has_more")
    conversations: list[Talk] | None = None
    request_id: int = 0


class PersonaLine(Struct, omit_defaults=True, gc=False):
    """`prompt` is there for its owner only; `avatar` is an address on this server."""

    id: str
    name: str
    prompt: str | None = None
    avatar: str | None = None
    create_time: int | None = None


class PersonaListed(DoorAnswer, tag="persona_list"):
    """`persona_id`: the one this answer is about. `cursor`: there are more."""

    personas: list[PersonaLine]
    selected_persona_id: str | None = None
    persona_id: str | None = None
    cursor: str | None = None
    note: str | None = None
    request_id: int = 0


class PersonaChanged(DoorAnswer, tag="persona_update"):
    persona: PersonaLine
    deleted: bool = False


class PongAnswer(DoorAnswer, tag="pong"):
    time: int
    request_id: int = 0


class Told(DoorAnswer, tag="notice"):
    """Something to know: `about` is sign_in, resync, maintenance or announcement."""

    about: str
    message: str
    time: int | None = None


class Fine(DoorAnswer, tag="ok"):
    request_id: int = 0


def text_id(number: int | None) -> str | None:
    """Return an id as this door writes it, None for none."""
    return str(number) if number else None


def persona_line(row: Persona) -> PersonaLine:
    """Return a persona as this door shows it."""
    avatar = f"{AVATARS}{row.avatar}" if row.avatar else None
    return PersonaLine(str(row.id), row.name or "", row.prompt, avatar, row.created)


def line_of(msg: Msg | MsgPush) -> Line:
    """Return a stored message as this door shows it."""
    x = msg.x
    return Line(
        str(msg.seq),
        str(msg.sender),
        _AI if msg.kind == MsgKind.AI_REPLY else _PERSON,
        msg.text,
        msg.ts,
        edited=x is not None and x.edited is not None,
        recalled=x is not None and x.recalled is not None,
        stream_id=None if x is None else text_id(x.sid),
    )


class Translator:
    """Puts the protocol's messages into this door's words; one for all connections."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._table: dict[type[Frame], Callable[[Any], DoorAnswer | None]] = {
            Welcome: lambda f: Greeting(str(f.user), f.hb, f.now),
            Authed: lambda f: Told("sign_in", "The new token is good until then.", f.expires),
            Pong: lambda f: PongAnswer(f.now, f.n),
            Done: lambda f: Fine(f.rid),
            Err: _trouble,
            Bye: lambda f: Trouble(
                f.code, _name(f.code), _CLOSINGS.get(f.code, f.reason), f.retry, closing=True
            ),
            GoAway: lambda f: Told("maintenance", "Connect again soon: " + f.reason),
            Notice: _notice,
            Resync: lambda f: Told("resync", "Messages were left out. Ask for the history."),
            Sent: _accepted,
            PersonaPush: lambda f: PersonaChanged(persona_line(f.p), bool(f.p.deleted)),
            MsgPush: _pushed,
            StreamDelta: self._delta,
            StreamEnd: _ended,
        }

    def encode(self, frame: Frame) -> bytes:
        """Return one message, or no bytes for what is not told here."""
        translate = self._table.get(type(frame))
        answer = None if translate is None else translate(frame)
        return b"" if answer is None else _encode(answer)

    def _delta(self, f: StreamDelta) -> DoorAnswer | None:
        stream = self._core.streams.get(f.sid)
        if stream is None or f.part != StreamPart.ANSWER:
            return None
        return ChatResponse(
            str(stream.conv), str(f.sid), False, text_id(stream.persona), delta=f.text
        )


class DoorCodec:
    """The encoding of one connection: what it says is read with its own `Reader`.

    Attributes:
        turn: held by the message that is being sent, so that they keep their order.
        talks: the conversation that a message to a persona goes to.
    """

    __slots__ = ("_reader", "encode", "talks", "turn")

    name = "json-door"
    is_text = True

    def __init__(self, translator: Translator, reader: Reader) -> None:
        self._reader = reader
        self.encode = translator.encode
        self.turn = asyncio.Lock()
        self.talks: dict[int, int] = {}

    def decode_client(self, payload: bytes) -> Any:
        """Return what a client says (see `Reader.read`)."""
        return self._reader.read(payload)

    def decode_server(self, payload: bytes) -> Any:
        """Return what the server says, as plain data."""
        return msgspec.json.decode(payload)


def encode_answer(answer: DoorAnswer) -> bytes:
    """Return the text of one message."""
    return _encode(answer)


def _name(code: int) -> str:
    return Code(code).name.lower() if code in set(Code) else "error"


def _trouble(f: Err) -> Trouble:
    return Trouble(f.code, _name(f.code), f.detail or f.reason, f.retry, request_id=f.rid)


def _notice(f: Notice) -> Told:
    about = {1: "sign_in", 2: "maintenance"}.get(f.kind, "announcement")
    return Told(about, f.text, f.expires)


def _accepted(f: Sent) -> Accepted:
    return Accepted(str(f.conv), str(f.seq), f.ts, text_id(f.sid), f.dup, f.rid)


def _pushed(f: MsgPush) -> DoorAnswer:
    x = f.x
    # An answer is pushed once as it ends; later pushes of it say that it has changed.
    changed = x is None or x.edited or x.recalled or x.alts or x.off
    if f.kind != MsgKind.AI_REPLY or x is None or not x.sid or changed:
        return Said(str(f.conv), line_of(f))
    return ChatResponse(
        str(f.conv),
        str(x.sid),
        True,
        text_id(x.persona),
        content=f.text,
        message_id=str(f.seq),
        finish=_finish(x.finish or 0),
        time=f.ts,
    )


def _ended(f: StreamEnd) -> DoorAnswer | None:
    """The end of an answer that left no text; any other end is its message."""
    if f.rev:
        return None
    fault = AnswerFault(f.code, f.detail or "No answer came. Ask again.") if f.code else None
    return ChatResponse(
        str(f.conv), str(f.sid), True, content="", finish=_finish(f.reason), time=f.ts, error=fault
    )


def _finish(reason: int) -> str:
    return EndReason(reason).name.lower()
