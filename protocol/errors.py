"""Exceptions of the wire protocol. Each carries the numbered code that the peer is told."""

from protocol.codes import Code


class ProtocolError(Exception):
    """The peer broke a rule of the protocol, or asks for what it cannot have.

    Attributes:
        code: number sent in `err` or `bye` (docs/protocol.md, error codes).
        reason: short constant text for logs; never holds what a person wrote.
    """

    code: Code = Code.FRAMING

    def __init__(self, reason: str, code: Code | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        if code is not None:
            self.code = code


class FrameError(ProtocolError):
    """The byte stream cannot be cut into frames any more: close the connection."""

    code = Code.FRAMING


class FrameTooLarge(FrameError):
    """A header announces more bytes than this side accepts."""

    code = Code.TOO_LARGE


class Malformed(ProtocolError):
    """A whole frame arrived whose payload is not the message it claims to be.

    Attributes:
        rid: request id found in the payload, 0 when there is none to be found.
    """

    code = Code.MALFORMED

    def __init__(self, reason: str, rid: int = 0, code: Code | None = None) -> None:
        super().__init__(reason, code)
        self.rid = rid


class TooDeep(Malformed):
    """A payload nested so deeply that it can only be an attack: close the connection."""


class UnknownType(Malformed):
    """A well-formed frame of a message code this side does not know."""

    code = Code.UNKNOWN_TYPE
