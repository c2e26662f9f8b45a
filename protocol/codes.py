"""Numbers on the wire: error and close codes, capability bits, enumerations.

Numbers are never reused and never change their meaning (docs/protocol.md, evolution).
"""

from enum import IntEnum, IntFlag


class Code(IntEnum):
    """Why a request failed (`err`) or a connection ends (`bye`)."""

    # protocol
    FRAMING = 100
    MALFORMED = 101
    UNKNOWN_TYPE = 102
    TOO_LARGE = 103
    WRONG_STATE = 104
    VERSION = 105
    POLICY = 106
    # authentication; all of them close
    BAD_CREDENTIALS = 200
    EXPIRED = 201
    REVOKED = 202
    REPLACED = 203
    TICKET_INVALID = 204
    # permanent
    NOT_FOUND = 300
    NOT_PERMITTED = 301
    BLOCKED = 302
    INVALID = 310
    STALE = 311
    TOO_LATE = 312
    GONE = 314
    # retry later
    RATE = 400
    QUOTA = 401
    IN_FLIGHT = 402
    SIZE_LIMIT = 403
    # transient; the outcome of the request is unknown
    INTERNAL = 500
    TIMEOUT = 501
    OVERLOADED = 502
    DRAINING = 503
    SLOW_CONSUMER = 504
    # AI
    MODEL_UNAVAILABLE = 600
    REFUSED = 601
    CONTEXT_TOO_LONG = 602
    BUSY = 603

    @property
    def default_retry_ms(self) -> int:
        """What `retry` says unless the sender knows better: -1 never, 0 now, n after n ms."""
        if self in _RETRY_NOW:
            return 0
        if self is not Code.SIZE_LIMIT and (400 <= self < 600 or self in _LATER):
            return 1000
        return -1


_RETRY_NOW = frozenset({Code.DRAINING, Code.SLOW_CONSUMER, Code.EXPIRED})
_LATER = frozenset({Code.MODEL_UNAVAILABLE, Code.BUSY})

WEBSOCKET_CLOSE_BASE = 4000
"""A WebSocket connection closes with this plus the code of its `bye`."""


class Caps(IntFlag):
    """Capability bits negotiated in `hello` and `welcome`."""

    ZSTD = 1
    DICTIONARY = 2
    AI_DELTAS = 4
    PRESENCE = 8
    RECEIPTS = 16
    CONFIRM = 32
    """Somebody sits there who can be asked whether a tool may run."""


class AuthMethod(IntEnum):
    """How `hello` and `auth` prove who is there."""

    JWT = 1
    TICKET = 2


class ConvKind(IntEnum):
    AI = 1
    DIRECT = 2
    GROUP = 3


class MsgKind(IntEnum):
    TEXT = 0
    IMAGE = 1
    FILE = 2
    VOICE = 3
    VIDEO = 4
    SYSTEM = 5
    AI_REPLY = 6
    CARD = 7


class Role(IntEnum):
    GONE = 0
    MEMBER = 1
    ADMIN = 2
    OWNER = 3


class Scope(IntEnum):
    """Who may use a persona."""

    PRIVATE = 0
    TENANT = 1
    PUBLIC = 2


class UserKind(IntEnum):
    PERSON = 0
    GUEST = 1
    SERVICE = 2


class GenMode(IntEnum):
    REPLY = 1
    REGENERATE = 2
    CONTINUE = 3


class TalkMode(IntEnum):
    """How eager the personas of a group are."""

    CALLED = 0
    """Only who is mentioned answers."""
    LIVELY = 1
    """Also who is named, and else whoever feels like it."""
    ALWAYS = 2
    """As LIVELY, and somebody always answers a person."""


class StreamState(IntEnum):
    QUEUED = 0
    RUNNING = 1
    DONE = 2


class StreamPart(IntEnum):
    ANSWER = 0
    REASONING = 1
    TOOLS = 2


class EndReason(IntEnum):
    """Why an AI stream ended; also `MsgX.finish` of the stored answer."""

    STOP = 0
    LENGTH = 1
    CANCELLED = 2
    FILTERED = 3
    ERROR = 4
    INTERRUPTED = 5


class Settled(IntEnum):
    """What became of the question whether a tool may run (`tool_settled.state`)."""

    NO = 0
    YES = 1
    EXPIRED = 2
    """Nobody answered in time: it does not run."""
    WITHDRAWN = 3
    """The answer that wanted it was stopped."""


class AiMode(IntEnum):
    """`SendX.ai`: whether a persona answers this message."""

    AUTO = 0
    NONE = 1


class TypingState(IntEnum):
    STOP = 0
    TEXT = 1
    VOICE = 2


class PresenceState(IntEnum):
    OFFLINE = 0
    ONLINE = 1
    AWAY = 2


class NoticeKind(IntEnum):
    AUTH_EXPIRING = 1
    MAINTENANCE = 2
    ANNOUNCEMENT = 3


class TextFormat(IntEnum):
    PLAIN = 0
    MARKDOWN = 1
