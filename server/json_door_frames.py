"""What a client of the JSON door may send, from text to Structs (docs/json-door.md).

Each message is an object whose `type` names it. Fields that nobody knows are ignored, also
`user_id`: who it is says the token. Ids may be numbers or text.
"""

import base64
import re
from hashlib import blake2b
from secrets import token_bytes
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from protocol.codes import Caps, Code
from protocol.envelopes import Auth, Cancel, Frame, Hello, Ping
from protocol.errors import Malformed
from protocol.types import MAX_INT, MAX_RID, S64, S128, S4096, S16000, Limit, Text, U
from server.errors import not_found

PICTURE_BYTES: Final = 400 * 1024
"""Largest message: one persona whose picture of 256 KiB is written in base64."""
HEARTBEAT_S: Final = 30
JWT: Final = 1
_MAX_FRAME: Final = 1 << 20

AnyId = Annotated[str, Meta(max_length=64)] | U | None
_match_data_url: Final = re.compile(r"data:[^,]{0,100};base64,(.*)", re.DOTALL).fullmatch


class DoorRequest(Frame, array_like=False, tag_field="type", kw_only=True):
    """Base of all. `request_id` comes back in the answer, `client_id` makes a repeat harmless."""

    rid: Annotated[int, Meta(ge=0, le=MAX_RID)] = field(default=0, name="request_id")
    client_id: S128 = ""

    @property
    def cid(self) -> bytes:
        """The idempotency key: the same for the same `client_id`."""
        if not self.client_id:
            return token_bytes(16)
        return blake2b(self.client_id.encode(), digest_size=16, person=b"json-door").digest()


class DoorAuth(DoorRequest, tag="auth"):
    """Who it is; later, a newer token."""

    token: S4096


class DoorChat(DoorRequest, tag="chat"):
    """Something to say. Without a conversation: the newest one with that persona."""

    content: Text = ""
    message: Text = ""
    text: Text = ""
    persona_id: AnyId = None
    conversation_id: AnyId = None


class PersonaConfig(Struct, gc=False):
    """A persona as a client describes it. `avatar` is a picture in base64, or a data URL."""

    name: S64
    prompt: S16000 = ""
    avatar: str | None = None


class DoorPersonaCreate(DoorRequest, tag="persona_create"):
    persona_config: PersonaConfig


class DoorPersonaSelect(DoorRequest, tag="persona_select"):
    persona_id: AnyId = None


class DoorPersonaDelete(DoorRequest, tag="persona_delete"):
    persona_id: AnyId = None


class DoorPersonaList(DoorRequest, tag="persona_list"):
    cursor: S128 = ""


class DoorHistory(DoorRequest, tag="history_request"):
    """Without a conversation: the newest one, with that persona if one is named."""

    conversation_id: AnyId = None
    persona_id: AnyId = None
    before: AnyId = None
    limit: Limit = 20


class DoorStop(DoorRequest, tag="chat_stop"):
    stream_id: AnyId = None


class DoorPing(DoorRequest, tag="ping"):
    pass


class DoorHeartbeat(DoorRequest, tag="heartbeat"):
    pass


SERVED: Final = (
    DoorChat,
    DoorPersonaCreate,
    DoorPersonaSelect,
    DoorPersonaDelete,
    DoorPersonaList,
    DoorHistory,
)
_Any = (
    DoorAuth
    | DoorChat
    | DoorPersonaCreate
    | DoorPersonaSelect
    | DoorPersonaDelete
    | DoorPersonaList
    | DoorHistory
    | DoorStop
    | DoorPing
    | DoorHeartbeat
)
_TYPES: Final = tuple(
    str(cls.__struct_config__.tag) for cls in (*SERVED, DoorAuth, DoorStop, DoorPing, DoorHeartbeat)
)


class _Kind(Struct):
    """What can be read of a message that is not valid."""

    type: str
    request_id: Any = 0


_decode: Final = msgspec.json.Decoder(_Any).decode
_decode_kind: Final = msgspec.json.Decoder(_Kind).decode


class Reader:
    """Reads what one connection sends: its first message says who it is.

    Args:
        device: what its device is called; two connections of one name replace each other.
        frame_bytes: largest message without a picture.
    """

    __slots__ = ("_device", "_frame_bytes", "_greeted")

    def __init__(self, device: str, frame_bytes: int) -> None:
        self._device = device
        self._frame_bytes = frame_bytes
        self._greeted = False

    def read(self, payload: bytes) -> Any:
        """Return a message of the protocol, or one of `SERVED`.

        Raises:
            Malformed: it is no message. Never with a code that closes, once signed in.
        """
        try:
            given = _decode(payload)
        except (ValueError, RecursionError) as exc:
            if not self._greeted:
                raise _no_auth() from None
            raise _explain(payload, exc) from None
        if isinstance(given, DoorAuth):
            return self._auth(given)
        if not self._greeted:
            raise _no_auth()
        if len(payload) > self._frame_bytes and not isinstance(given, DoorPersonaCreate):
            raise Malformed("message too large", given.rid, Code.TOO_LARGE)
        if isinstance(given, DoorPing | DoorHeartbeat):
            return Ping(given.rid)
        if isinstance(given, DoorStop):
            return Cancel(given.rid, _number(given.stream_id))
        return given

    def _auth(self, given: DoorAuth) -> Hello | Auth:
        if self._greeted:
            return Auth(given.rid, JWT, given.token)
        self._greeted = True
        return Hello(
            ver=0,
            method=JWT,
            secret=given.token,
            device=device_key(self._device),
            client="json/" + self._device[:16],
            caps=int(Caps.AI_DELTAS),
            hb=HEARTBEAT_S,
            max_frame=_MAX_FRAME,
            lang="",
        )


def device_key(name: str) -> bytes:
    """Return the id of the device of this name."""
    return blake2b(name.encode(), digest_size=16, person=b"json-door").digest()


def auth_message(token: str) -> bytes:
    """Return the message that a token in a header stands for."""
    return msgspec.json.encode({"type": "auth", "token": token})


def id_of(given: str | int | None, what: str) -> int:
    """Return an id that a client wrote, 0 for none.

    Raises:
        ServiceError: NOT_FOUND, nothing can have this id.
    """
    if not given:
        return 0
    found = _number(given)
    if not found:
        raise not_found(what)
    return found


def _number(given: str | int | None) -> int:
    if isinstance(given, int):
        return given
    if given and given.isascii() and given.isdecimal() and len(given) <= 16:
        return min(int(given), MAX_INT)
    return 0


def picture_of(avatar: str) -> bytes | None:
    """Return the bytes of a picture in base64, None if it is not base64."""
    url = _match_data_url(avatar)
    try:
        return base64.b64decode(url[1] if url else avatar, validate=True)
    except ValueError:  # binascii.Error is one, and so is text that is not ASCII
        return None


def _no_auth() -> Malformed:
    return Malformed('send {"type":"auth","token":"..."} first', code=Code.WRONG_STATE)


def _where(why: str) -> str:
    """Say where JSON breaks, in better words than those of msgspec where it has none."""
    if "truncated" in why:  # said of a lone surrogate, too, which JSON.stringify writes
        return "it ends early, or has half of a surrogate pair"
    if "recursion" in why:
        return "it is nested too deeply"
    return why.removeprefix("JSON is malformed: ")


def _explain(payload: bytes, exc: Exception) -> Malformed:
    """Say what is wrong. `INVALID` and `UNKNOWN_TYPE` never close a connection."""
    try:
        kind = _decode_kind(payload)
    except msgspec.ValidationError:
        return Malformed("not a JSON object with a type", code=Code.INVALID)
    except (ValueError, RecursionError) as why:
        return Malformed(f"not valid JSON: {_where(str(why))}"[:128], code=Code.INVALID)
    rid = kind.request_id
    rid = rid if isinstance(rid, int) and 0 <= rid <= MAX_RID else 0
    if kind.type not in _TYPES:
        return Malformed("unknown type", rid, Code.UNKNOWN_TYPE)
    reason = str(exc) if isinstance(exc, msgspec.ValidationError) else "not a valid message"
    return Malformed(reason[:128], rid, Code.INVALID)
