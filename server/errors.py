"""The one error that services raise, and how every other exception becomes a reply."""

from typing import NamedTuple

from ai_bridge.errors import BridgeError
from protocol.codes import Code
from protocol.errors import ProtocolError
from storage.errors import StorageError


class ServiceError(Exception):
    """A request that cannot be served, for a reason the caller may know.

    Args:
        reason: short constant text for programs' logs.
        detail: what a person may do about it; shown to the user.
        retry_ms: -1 never, 0 now, n after n milliseconds; the code's default when None.
    """

    def __init__(
        self, code: Code, reason: str, detail: str | None = None, retry_ms: int | None = None
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.retry_ms = code.default_retry_ms if retry_ms is None else retry_ms


class Failure(NamedTuple):
    """What a caller is told, on every door."""

    code: Code
    reason: str
    detail: str | None
    retry_ms: int


INTERNAL = Failure(Code.INTERNAL, "internal error", None, Code.INTERNAL.default_retry_ms)


def explain(exc: BaseException) -> Failure | None:
    """Return what to tell the caller, or None for an exception nobody foresaw."""
    if isinstance(exc, ServiceError):
        return Failure(exc.code, exc.reason, exc.detail, exc.retry_ms)
    if isinstance(exc, ProtocolError):
        return Failure(exc.code, exc.reason, None, exc.code.default_retry_ms)
    if isinstance(exc, StorageError | BridgeError):
        retry_ms = getattr(exc, "retry_ms", None)
        if retry_ms is None:
            retry_ms = exc.code.default_retry_ms
        return Failure(Code(exc.code), str(exc)[:128], None, int(retry_ms))
    return None


def not_found(what: str) -> ServiceError:
    """Unknown and forbidden look the same, so that ids cannot be guessed."""
    return ServiceError(Code.NOT_FOUND, f"{what} not found")


def invalid(reason: str, detail: str | None = None) -> ServiceError:
    """An argument that can never be accepted."""
    return ServiceError(Code.INVALID, reason, detail)


def not_permitted(reason: str) -> ServiceError:
    """Visible, but not for this caller to do."""
    return ServiceError(Code.NOT_PERMITTED, reason)
