"""What can go wrong for a user of the client library."""

from protocol.codes import Code


class ClientError(Exception):
    """Base of all errors of the client library."""


class ServerError(ClientError):
    """The server refused a request.

    Attributes:
        code: number from `protocol.codes.Code`, or a newer one.
        retry_ms: -1 never, 0 now, n after n milliseconds.
        detail: what a person may do about it, in plain words; may be empty.
    """

    def __init__(
        self, code: int, reason: str, retry_ms: int = -1, detail: str | None = None
    ) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason
        self.retry_ms = retry_ms
        self.detail = detail or ""

    @property
    def outcome_unknown(self) -> bool:
        """True when the request may have taken effect; repeating it is safe."""
        return 500 <= self.code < 600


class Disconnected(ClientError):
    """The connection went away before an answer came: the outcome is unknown."""


class RequestTimeout(ClientError):
    """No answer within the time given: the outcome is unknown."""


class Stopped(ClientError):
    """The client has given up and will not reconnect by itself.

    Attributes:
        code: number of the server's `bye`, or 0.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class SignInFailed(ClientError):
    """The account service refused: wrong password, taken name, expired refresh token.

    Attributes:
        tag: the service's word for why, such as "name taken"; `reason` says it to people.
    """

    def __init__(self, reason: str, code: int = int(Code.BAD_CREDENTIALS), tag: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.tag = tag


class OutboxFull(ClientError):
    """Too many messages wait for the server; this one was not taken."""


class AddressError(ClientError, ValueError):
    """The URL is not one that this client can connect to."""


class StateInUse(ClientError):
    """Another program uses this state file: two clients cannot share one device id."""
