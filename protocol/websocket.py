"""WebSocket frames (RFC 6455) without I/O: bytes in, messages out; messages in, bytes out.

The decoder serves both roles. It is strict: no extension is ever negotiated, so every reserved
bit, opcode and close code is an error, and text is refused at its first bad octet. Between
messages it holds no buffer at all, because most of ten thousand connections are idle.
The HTTP upgrade that comes before the frames is in `protocol.handshake`.
"""

from codecs import utf_8_decode
from collections.abc import Callable
from struct import Struct
from typing import Final

from protocol.codes import Code
from protocol.errors import ProtocolError

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

CLOSE_NORMAL: Final = 1000
CLOSE_GOING_AWAY: Final = 1001
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_UNSUPPORTED_DATA: Final = 1003
CLOSE_NO_STATUS: Final = 1005
"""Stands for a close frame without a code; never sent itself (§7.4.1)."""
CLOSE_INVALID_DATA: Final = 1007
CLOSE_POLICY_VIOLATION: Final = 1008
CLOSE_MESSAGE_TOO_BIG: Final = 1009
CLOSE_INTERNAL_ERROR: Final = 1011
CLOSE_SERVICE_RESTART: Final = 1012
CLOSE_TRY_AGAIN_LATER: Final = 1013

MAX_CONTROL_BYTES: Final = 125
MAX_EMPTY_FRAGMENTS: Final = 1024
"""Empty fragments cost no memory but work, and no size limit ever stops them: this one does."""

Event = tuple[int, bytes]
"""(opcode, payload) of a whole message or control frame; a tuple because nothing is cheaper.

The opcode is TEXT, BINARY, CLOSE, PING or PONG. The payload of TEXT is valid UTF-8, that of
CLOSE is valid as well (see `parse_close`).
"""

Masker = Callable[[bytes, bytes], bytes]
"""XOR of data with a four-byte mask, repeated; masking and unmasking are the same."""

_FIN: Final = 0x80
_MASKED: Final = 0x80
_OPCODE: Final = 0x0F
_RESERVED_BITS: Final = 0x70
_FIRST_CONTROL: Final = _FIN | CLOSE
_LONE_FRAME: Final = Struct(">HII").unpack_from
_SMALL_MASKED_BINARY: Final = (_FIN | BINARY) << 8 | _MASKED - 6  # plus the size of all of it

# IANA's registry, without 1004 (reserved) and 1005, 1006, 1015 (never on the wire).
_REGISTERED_CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

_CODES: Final = {
    CLOSE_INVALID_DATA: Code.MALFORMED,
    CLOSE_POLICY_VIOLATION: Code.POLICY,
    CLOSE_MESSAGE_TOO_BIG: Code.TOO_LARGE,
}


class WebSocketError(ProtocolError):
    """The peer broke RFC 6455 or a limit: send a close frame with `close_code` and hang up.

    Attributes:
        close_code: 1002, 1007, 1008 or 1009.
    """

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(reason, _CODES.get(close_code, Code.FRAMING))
        self.close_code = close_code


def apply_mask(data: bytes, mask: bytes) -> bytes:
    """XOR in pure Python: correct everywhere, five times slower than a C routine at 100 bytes."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return mixed.to_bytes(size, "little")


class _Unfinished:
    """What has to be remembered from one read to the next, when a read ends amid something."""

    __slots__ = ("held", "opcode", "body", "tail", "empty_fragments", "fin", "left", "mask")

    def __init__(self) -> None:
        self.held = b""  # start of a frame header or control frame, at most 130 bytes
        self.opcode = 0  # of the open message; 0 when none is open
        self.body = bytearray()  # the open message, unmasked
        self.tail = b""  # of TEXT: the last character's octets as long as some are missing
        self.empty_fragments = 0
        self.fin = False  # of the open data frame, as `left` and `mask`
        self.left = 0  # payload bytes still to come; 0 when no data frame is open
        self.mask = b""  # rotated to where the next payload byte stands


_ENDED: Final = _Unfinished()  # in place of a state: nothing is read any more


class WebSocketDecoder:
    """Cuts messages and control frames out of what one peer sends.

    A broken stream sets `error` instead of raising, so that what came whole before the bad
    bytes is not lost: handle what `feed` returned, then look at `error`. After an error or a
    close frame, everything else is ignored.

    Attributes:
        max_message_bytes: largest message accepted, whole or summed over its fragments; at
            least 125; may be changed at any time. A frame header that announces more is an
            error at once, before any of the payload is held.
        error: why the connection must be closed, or None.
    """

    __slots__ = ("max_message_bytes", "error", "_mask_bit", "_unmask", "_unfinished")

    def __init__(
        self, max_message_bytes: int, *, require_mask: bool = True, unmask: Masker = apply_mask
    ) -> None:
        """Servers require masks (§5.1); a client passes False and thereby refuses them."""
        if max_message_bytes < MAX_CONTROL_BYTES:
            raise ValueError(f"max_message_bytes below {MAX_CONTROL_BYTES}")
        self.max_message_bytes = max_message_bytes
        self.error: WebSocketError | None = None
        self._mask_bit = _MASKED if require_mask else 0
        self._unmask = unmask
        self._unfinished: _Unfinished | None = None

    @property
    def ended(self) -> bool:
        """True after a close frame or an error: nothing more will come out."""
        return self._unfinished is _ENDED

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an unfinished message or frame that are being held."""
        state = self._unfinished
        return 0 if state is None else len(state.held) + len(state.body)

    def lone_frame(self, data: bytes) -> bytes | None:
        """Return the payload when data is one message with one small PWP frame, and nothing else.

        By far the commonest read of a server, so it has a short way past `feed`: the header of
        the frame inside is compared while it is still masked. None: feed data.
        """
        size = len(data)
        if 10 < size < 132 and self._unfinished is None and self._mask_bit:
            start, mask, masked_length = _LONE_FRAME(data)
            if start == _SMALL_MASKED_BINARY + size and mask ^ masked_length == size - 10:
                return self._unmask(data[10:], data[2:6])
        return None

    def feed(self, data: bytes) -> list[Event]:
        """Return the messages and control frames that data completes, in wire order.

        The work is linear in the bytes fed, however they are cut.
        """
        events: list[Event] = []
        if self._unfinished is not _ENDED:
            try:
                self._cut(data, events)
            except WebSocketError as exc:
                # Without its traceback, which would keep this call's frames and data alive.
                self.error = exc.with_traceback(None)
                self._unfinished = _ENDED
        return events

    def _cut(self, data: bytes, events: list[Event]) -> None:
        at = 0
        state = self._unfinished
        if state is not None:
            if state.left:
                at = self._take_payload(state, data, 0, events)
            else:
                data = state.held + data
                state.held = b""
                if not state.opcode:
                    self._unfinished = None
        size = len(data)
        while at < size:
            # The commonest shape: small, whole, masked and binary.
            if self._unfinished is None and data[at] == _FIN | BINARY and size - at > 5:
                end = at + 6 + (data[at + 1] ^ _MASKED)
                if end <= size and end - at < 132 and self._mask_bit:
                    events.append((BINARY, self._unmask(data[at + 6 : end], data[at + 2 : at + 6])))
                    at = end
                    continue
            at = self._take_frame(data, at, events)

    def _take_frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Read the frame that begins at `at`; return where the next one begins."""
        size = len(data)
        if size - at < 2:
            return self._hold(data, at)
        first = data[at]
        length = data[at + 1] ^ self._mask_bit
        state = self._unfinished
        if first != _FIN | BINARY or length > 127 or state is not None:
            self._check_start(first, length, state is not None and state.opcode != 0)
        start = at + 2
        if length > 125:
            start = at + (4 if length == 126 else 10)
            if size < start:
                return self._hold(data, at)
            length = _wide_length(data[at + 2 : start])
        if first < _FIRST_CONTROL:
            held = 0 if state is None else len(state.body)
            if held + length > self.max_message_bytes:
                raise WebSocketError(CLOSE_MESSAGE_TOO_BIG, "message too big")
        mask = b""
        if self._mask_bit:
            mask = data[start : start + 4]
            start += 4
            if size < start:
                return self._hold(data, at)
        end = start + length
        if end <= size and first > _FIN:  # whole, and not the end of a fragmented message
            payload = data[start:end]
            self._finish(first & _OPCODE, self._unmask(payload, mask) if mask else payload, events)
            return size if first == _FIN | CLOSE else end
        if first >= _FIRST_CONTROL:
            return self._hold(data, at)
        state = self._open_frame(first, length, mask)
        return self._take_payload(state, data, start, events)

    def _finish(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        """Check and report a frame that came whole and is a whole message."""
        if opcode == TEXT:
            _check_text(b"", payload, last=True)
        elif opcode == CLOSE:
            parse_close(payload)
            self._unfinished = _ENDED  # §5.5.1: nothing that follows is read
        events.append((opcode, payload))

    def _check_start(self, first: int, length: int, continued: bool) -> None:
        """Check the first two bytes of a frame; `length` is the second without its mask bit."""
        opcode = first & _OPCODE
        if first & _RESERVED_BITS:
            fault = "reserved bits"
        elif 2 < opcode < 8 or opcode > PONG:
            fault = "reserved opcode"
        elif length > 127:
            fault = "masked frame" if not self._mask_bit else "unmasked frame"
        elif opcode >= CLOSE:
            if first & _FIN and length <= MAX_CONTROL_BYTES:
                return
            fault = "control frame too long" if first & _FIN else "fragmented control frame"
        elif continued == (opcode == 0):
            return
        else:
            fault = "message inside a message" if continued else "nothing to continue"
        raise WebSocketError(CLOSE_PROTOCOL_ERROR, fault)

    def _hold(self, data: bytes, at: int) -> int:
        """Keep the unfinished header or control frame that begins at `at` for the next read."""
        if self._unfinished is None:
            self._unfinished = _Unfinished()
        self._unfinished.held = data[at:]
        return len(data)

    def _open_frame(self, first: int, length: int, mask: bytes) -> _Unfinished:
        """Note a data frame's header as the one whose payload comes next."""
        state = self._unfinished
        if state is None:
            state = self._unfinished = _Unfinished()
        state.opcode = first & _OPCODE or state.opcode
        state.fin = first & _FIN != 0
        state.left = length
        state.mask = mask
        if not length and not state.fin:
            state.empty_fragments += 1
            if state.empty_fragments > MAX_EMPTY_FRAGMENTS:
                raise WebSocketError(CLOSE_POLICY_VIOLATION, "too many empty fragments")
        return state

    def _take_payload(self, state: _Unfinished, data: bytes, at: int, events: list[Event]) -> int:
        """Read what there is of the open data frame's payload; return where it ends."""
        piece = data[at : at + state.left]
        taken = len(piece)
        state.left -= taken
        if state.mask:
            piece = self._unmask(piece, state.mask)
            turn = taken & 3
            state.mask = state.mask[turn:] + state.mask[:turn]
        last = state.fin and not state.left
        if state.opcode == TEXT:
            state.tail = _check_text(state.tail, piece, last)
        state.body += piece
        if last:
            events.append((state.opcode, bytes(state.body)))
            self._unfinished = None
        return at + taken


def _wide_length(field: bytes) -> int:
    """Return the length in a field of 2 or 8 bytes, which must need that field (§5.2)."""
    length = int.from_bytes(field, "big")
    if length > 0x7FFF_FFFF_FFFF_FFFF:
        raise WebSocketError(CLOSE_PROTOCOL_ERROR, "length with its top bit set")
    if length <= (125 if len(field) == 2 else 0xFFFF):
        raise WebSocketError(CLOSE_PROTOCOL_ERROR, "length not minimal")
    return length


def _check_text(tail: bytes, piece: bytes, last: bool) -> bytes:
    """Check that text goes on as UTF-8 after `tail`; return the octets of a cut character."""
    if not tail and piece.isascii():
        return b""
    octets = tail + piece
    try:
        used = utf_8_decode(octets, "strict", last)[1]
    except UnicodeDecodeError:
        used = -1
    tail = octets[used:]
    # CPython waits for the third octet of a surrogate (ED A0..BF xx); the second decides.
    if used < 0 or (len(tail) == 2 and tail[0] == 0xED and tail[1] > 0x9F):
        # Raised here, because a chained UnicodeDecodeError would carry what a person wrote.
        raise WebSocketError(CLOSE_INVALID_DATA, "text is not UTF-8")
    return tail


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return the (code, reason) of a close frame; 1005 and "" when it has none.

    Raises:
        WebSocketError: 1002 for a code that may not be sent, 1007 for a reason not in UTF-8.
    """
    if not payload:
        return CLOSE_NO_STATUS, ""
    if len(payload) == 1:
        raise WebSocketError(CLOSE_PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if code not in _REGISTERED_CLOSE_CODES and not 3000 <= code <= 4999:
        raise WebSocketError(CLOSE_PROTOCOL_ERROR, "close code that may not be sent")
    _check_text(b"", payload[2:], last=True)
    return code, payload[2:].decode()


_SMALL_BINARY_HEADERS: Final = tuple(bytes((_FIN | BINARY, n)) for n in range(126))


def binary_header(length: int) -> bytes:
    """Return what a server puts before `length` bytes to make them one binary message.

    Join it with the frames it carries in one write; nothing is copied for it.
    """
    if length < 126:
        return _SMALL_BINARY_HEADERS[length]
    if length < 0x1_0000:
        return b"\x82\x7e" + length.to_bytes(2, "big")
    return b"\x82\x7f" + length.to_bytes(8, "big")


def encode_frame(
    opcode: int,
    payload: bytes,
    *,
    mask: bytes | None = None,
    fin: bool = True,
    masker: Masker = apply_mask,
) -> bytes:
    """Return one frame. The caller answers for sense: UTF-8 in text, a legal close payload.

    Args:
        opcode: TEXT, BINARY, CLOSE, PING, PONG, or 0 to continue a message.
        payload: at most 125 bytes in a control frame.
        mask: four unpredictable bytes, new for every frame, from a client; None from a server.
        fin: False when fragments follow.
        masker: a faster routine than `apply_mask`, if there is one.
    """
    length = len(payload)
    if opcode >= CLOSE and (length > MAX_CONTROL_BYTES or not fin):
        raise ValueError("control frames are short and whole")
    first = opcode | _FIN if fin else opcode
    mask_bit = 0 if mask is None else _MASKED
    if length < 126:
        header = bytes((first, mask_bit | length))
    elif length < 0x1_0000:
        header = bytes((first, mask_bit | 126)) + length.to_bytes(2, "big")
    else:
        header = bytes((first, mask_bit | 127)) + length.to_bytes(8, "big")
    if mask is None:
        return header + payload
    return header + mask + masker(payload, mask)


def encode_close(code: int, reason: str = "", *, mask: bytes | None = None) -> bytes:
    """Return a close frame; 1005 gives one without a code, which is also how to answer one.

    A reason of more than 123 octets is cut between two characters.
    """
    if code == CLOSE_NO_STATUS:
        return encode_frame(CLOSE, b"", mask=mask)
    if code not in _REGISTERED_CLOSE_CODES and not 3000 <= code <= 4999:
        raise ValueError("close code that may not be sent")
    octets = reason.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + octets, mask=mask)
