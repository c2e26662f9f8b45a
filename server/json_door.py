"""`/ws/{user id}`: one session in plain JSON messages (docs/json-door.md).

Everything but the words is that of `/ws`: the session with its limits, delivery, close codes.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from websockets.speedups import apply_mask

from protocol.errors import FrameError
from protocol.frames import BEFORE_WELCOME_BYTES
from protocol.handshake import Upgrade, accept_upgrade
from protocol.http_head import HttpError, Request
from protocol.types import MAX_INT
from protocol.websocket import TEXT, WebSocketDecoder, encode_frame
from server.json_door_codec import DoorCodec
from server.json_door_frames import PICTURE_BYTES, Reader, auth_message
from server.session import Session, make_outbox_factory
from server.websocket import PwpWebSocket

if TYPE_CHECKING:
    from server.core import Core
    from server.json_door_services import JsonDoor

PROTOCOL: Final = "parlance.json"
BEARER: Final = "bearer."
"""Begins the subprotocol that carries a token, for browsers, which send no other header."""
DEVICE: Final = "json"

_match_path: Final = re.compile(r"/ws/([0-9]{1,16})").fullmatch
_match_bearer: Final = re.compile(r"[Bb]earer +([!-~]{1,4096})").fullmatch
_match_device: Final = re.compile(r"[\w.-]{1,64}", re.ASCII).fullmatch


def join_told(frames: Sequence[bytes]) -> bytes:
    """Make one text message of each frame that has a translation."""
    return b"".join(encode_frame(TEXT, frame) for frame in frames if frame)


class JsonDoorWebSocket(PwpWebSocket):
    """One connection of the JSON door."""

    __slots__ = ("_device", "_door", "_token", "_user")

    def __init__(
        self,
        core: "Core",
        transport: asyncio.Transport,
        address: str,
        hello_due: float,
        door: "JsonDoor",
    ) -> None:
        super().__init__(core, transport, address, hello_due)
        self._door = door
        self._user = 0
        self._device = DEVICE
        self._token = ""

    def accept(self, request: Request) -> Upgrade:
        """Grant the upgrade; a token in a header is looked at when the session begins."""
        found = _match_path(request.path)
        self._user = int(found[1]) if found else 0
        if not 0 < self._user <= MAX_INT:
            raise HttpError(400, "the address is /ws/{your user id}")
        offered = request.fields.items("sec-websocket-protocol")
        spoken = (PROTOCOL,) if PROTOCOL in offered else ()
        upgrade = accept_upgrade(request, subprotocols=spoken, origins=self._core.origins)
        self._read_query(request.query)
        self._token = _token_of(request)
        return upgrade

    def _read_query(self, query: str) -> None:
        try:
            given = parse_qsl(query, keep_blank_values=True, max_num_fields=8)
        except ValueError:
            raise HttpError(400, "too much in the query") from None
        for name, value in given:
            if name != "device":
                # Addresses end up in logs and histories, and a token must not.
                raise HttpError(400, "only device may stand in the query, and never a token")
            if not _match_device(value):
                raise HttpError(400, "a device is up to 64 letters, digits, dots or dashes")
            self._device = value

    def upgraded(self, upgrade: Upgrade) -> None:
        """Begin the session, and sign in if the token is here already."""
        core = self._core
        self._decoder = WebSocketDecoder(2 * BEFORE_WELCOME_BYTES, unmask=apply_mask)
        self._session = session = Session(
            core,
            self,
            DoorCodec(self._door.translator, Reader(self._device, core.policy.frame_bytes)),
            make_outbox_factory(self._transport, join_told, core.flusher),
            core.clock(),
            self._hello_due,
        )
        session.only_user = self._user
        session.whole_answers = True
        if self._token:
            session.receive([auth_message(self._token)], len(self._token))
            self._token = ""

    def _cut(self, session: Session, message: bytes, payloads: list[bytes]) -> FrameError | None:
        # The reader refuses what is too large for its kind; the decoder, what is for any.
        payloads.append(message)
        return None

    def signed_in(self) -> None:
        """Take messages that may hold a picture."""
        if self._decoder is not None:
            self._decoder.max_message_bytes = max(PICTURE_BYTES, self._core.policy.frame_bytes)


def _token_of(request: Request) -> str:
    """Return the token of the Authorization field or the subprotocols; "" for none."""
    for value in request.fields.values("authorization"):
        found = _match_bearer(value)
        if found is not None:
            return found[1]
    for name in request.fields.items("sec-websocket-protocol"):
        if name.startswith(BEARER):
            return name.removeprefix(BEARER)
    return ""
