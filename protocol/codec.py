"""Turn messages into wire bytes and back, in both encodings, from the one set of Structs.

`MSGPACK` frames carry their length header and go on TCP and on binary WebSocket messages alike.
`JSON` frames are one text message each: an object whose "t" is the message's name and whose
keys are the field names; rows become objects and bytes become base64 (docs/protocol.md §1).
"""

from typing import Any, Final, Protocol, cast, get_args

import msgspec

from protocol.envelopes import ClientFrame, Frame, Reply, Request, ServerFrame
from protocol.errors import Malformed, TooDeep, UnknownType
from protocol.frames import join_frame
from protocol.json_twins import TwinSet
from protocol.types import ReplyRid

NAMES: Final[dict[type[Frame], str]] = {}
"""The JSON name of each message; also what logs and metrics call it."""

_SPECIAL_NAMES: Final = {
    "GoAway": "goaway",
    "SyncRequest": "sync",
    "WatchRequest": "watch",
    "ConvChange": "conv_set",
    "MyChange": "my_set",
    "MsgPush": "msg",
    "ConvPush": "conv",
    "MemberPush": "member",
    "MyConvPush": "my_conv",
    "PersonaPush": "persona",
    "ProfilePush": "profile",
    "DevicePush": "device",
    "StreamStart": "s_start",
    "StreamQueued": "s_queued",
    "StreamDelta": "s_delta",
    "StreamEnd": "s_end",
}


def _wire_name(cls: type[Frame]) -> str:
    name = cls.__name__
    if name in _SPECIAL_NAMES:
        return _SPECIAL_NAMES[name]
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


CLIENT_FRAMES: Final[tuple[type[Frame], ...]] = get_args(ClientFrame)
SERVER_FRAMES: Final[tuple[type[Frame], ...]] = get_args(ServerFrame)
for _cls in (*CLIENT_FRAMES, *SERVER_FRAMES):
    NAMES[_cls] = _wire_name(_cls)

CODES: Final[dict[type[Frame], int]] = {cls: cast(int, cls.__struct_config__.tag) for cls in NAMES}
_CLIENT_CODES: Final = frozenset(CODES[cls] for cls in CLIENT_FRAMES)
_SERVER_CODES: Final = frozenset(CODES[cls] for cls in SERVER_FRAMES)
# Only in these is the element behind the code a request id; in `mark` it is a conversation.
_RID_CODES: Final = frozenset(CODES[cls] for cls in NAMES if issubclass(cls, (Request, Reply)))


class Codec(Protocol):
    """One encoding of the protocol. Stateless; one instance serves all connections."""

    name: str
    is_text: bool

    def encode(self, frame: Frame) -> bytes:
        """Return the bytes of one whole frame, ready to be written or put into a message."""
        ...

    def decode_client(self, payload: bytes) -> Any:
        """Return the `ClientFrame` that payload holds (without a length header).

        Raises:
            Malformed: not a valid message; `rid` names the request if it could be found.
            TooDeep: nested beyond anything honest; close the connection.
            UnknownType: carries a code that is not of a message that clients send.
        """
        ...

    def decode_server(self, payload: bytes) -> Any:
        """Return the `ServerFrame` that payload holds; raises as `decode_client`."""
        ...


def peek(payload: bytes) -> tuple[int, int]:
    """Return (code, rid) of a MessagePack frame without decoding it, 0 for what is not there.

    Reads at most the first two elements of the array, so it is safe on anything.
    """
    at = 1 if payload and 0x91 <= payload[0] <= 0x9F else 3 if payload[:1] == b"\xdc" else 0
    if not at or len(payload) <= at or payload[at] > 0x7F:
        return 0, 0
    return payload[at], _peek_uint(payload, at + 1)


def _peek_uint(payload: bytes, at: int) -> int:
    kind = payload[at] if at < len(payload) else 0
    if kind <= 0x7F:
        return kind
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(kind, 0)
    value = payload[at + 1 : at + 1 + width]
    return int.from_bytes(value, "big") if width and len(value) == width else 0


class MsgpackCodec:
    """Arrays in MessagePack, each behind its four-byte header."""

    name = "msgpack"
    is_text = False

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_client = msgspec.msgpack.Decoder(ClientFrame).decode
        self._decode_server = msgspec.msgpack.Decoder(ServerFrame).decode

    def encode(self, frame: Frame) -> bytes:
        return join_frame(self._encode(frame))

    def decode_client(self, payload: bytes) -> Any:
        try:
            return self._decode_client(payload)
        except (ValueError, RecursionError) as exc:
            raise self._explain(payload, exc, _CLIENT_CODES) from None

    def decode_server(self, payload: bytes) -> Any:
        try:
            return self._decode_server(payload)
        except (ValueError, RecursionError) as exc:
            raise self._explain(payload, exc, _SERVER_CODES) from None

    @staticmethod
    def _explain(payload: bytes, exc: Exception, known: frozenset[int]) -> Malformed:
        # msgspec's errors are ValueErrors; so is the UnicodeDecodeError of bad UTF-8.
        code, rid = peek(payload)
        if isinstance(exc, RecursionError):
            return TooDeep("nested too deeply")
        if code and code not in known:
            return UnknownType("unknown message type", rid)
        return Malformed(_shape_of(exc), rid if code in _RID_CODES else 0)


class JsonCodec:
    """Objects in JSON text: a debug aid, several times slower than MessagePack."""

    name = "json"
    is_text = True

    def __init__(self) -> None:
        self._twins = TwinSet(NAMES)
        self._encode = msgspec.json.Encoder().encode
        self._decode_client = msgspec.json.Decoder(self._twins.union(CLIENT_FRAMES)).decode
        self._decode_server = msgspec.json.Decoder(self._twins.union(SERVER_FRAMES)).decode
        self._client_names = frozenset(NAMES[cls] for cls in CLIENT_FRAMES)
        self._server_names = frozenset(NAMES[cls] for cls in SERVER_FRAMES)

    def encode(self, frame: Frame) -> bytes:
        return self._encode(self._twins.to_twin(frame))

    def decode_client(self, payload: bytes) -> Any:
        try:
            return self._twins.from_twin(self._decode_client(payload))
        except (ValueError, RecursionError) as exc:
            raise self._explain(payload, exc, self._client_names) from None

    def decode_server(self, payload: bytes) -> Any:
        try:
            return self._twins.from_twin(self._decode_server(payload))
        except (ValueError, RecursionError) as exc:
            raise self._explain(payload, exc, self._server_names) from None

    @staticmethod
    def _explain(payload: bytes, exc: Exception, known: frozenset[str]) -> Malformed:
        if isinstance(exc, RecursionError):
            return TooDeep("nested too deeply")
        try:
            name = _JSON_NAME.decode(payload).t
        except (ValueError, RecursionError):
            return Malformed("not a JSON message")
        if name not in known:
            return UnknownType("unknown message type", _json_rid(payload))
        return Malformed(_shape_of(exc), _json_rid(payload))


class _JsonName(msgspec.Struct):
    t: str


class _JsonRid(msgspec.Struct):
    rid: ReplyRid


_JSON_NAME: Final = msgspec.json.Decoder(_JsonName)
_JSON_RID: Final = msgspec.json.Decoder(_JsonRid)


def _json_rid(payload: bytes) -> int:
    try:
        return _JSON_RID.decode(payload).rid
    except (ValueError, RecursionError):
        return 0


def _shape_of(exc: Exception) -> str:
    """Return a short reason that names the field but never quotes what was sent.

    msgspec's validation messages hold types, bounds and paths only, except "Invalid value 'x'"
    for the name of a message; other errors might quote too.
    """
    text = str(exc)
    if not isinstance(exc, msgspec.ValidationError) or text.startswith("Invalid value"):
        return "not a valid message"
    return text[:128]


MSGPACK: Final[Codec] = MsgpackCodec()
JSON: Final[Codec] = JsonCodec()
