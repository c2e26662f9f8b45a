"""Why storage refuses or fails; each leaf carries its wire code."""

from typing import ClassVar

from protocol.codes import Code


class StorageError(Exception):
    """Base of everything that storage raises on purpose.

    The text is for logs: it never holds message text, names or credentials.
    """

    code: ClassVar[Code] = Code.INTERNAL


class NotFound(StorageError):
    """The thing does not exist, or the caller may not see it."""

    code = Code.NOT_FOUND


class NotPermitted(StorageError):
    """The caller sees the thing but may not do this to it."""

    code = Code.NOT_PERMITTED


class Invalid(StorageError):
    """An argument makes no sense."""

    code = Code.INVALID


class Exists(StorageError):
    """A name that must be unique is taken."""

    code = Code.INVALID


class Stale(StorageError):
    """The change was made against an older revision."""

    code = Code.STALE


class TooLate(StorageError):
    """The time window of the change is over."""

    code = Code.TOO_LATE


class Gone(StorageError):
    """The thing existed and was taken back."""

    code = Code.GONE


class LimitReached(StorageError):
    """A bound on stored things is reached."""

    code = Code.SIZE_LIMIT


class StoreOverloaded(StorageError):
    """The queue is full; nothing was stored. `retry_ms` comes from the measured drain rate."""

    code = Code.OVERLOADED

    def __init__(self, message: str, retry_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class StoreUnavailable(StorageError):
    """The engine cannot be reached or refused for now; nothing was stored."""

    code = Code.OVERLOADED


class OutcomeUnknown(StorageError):
    """The reply to a commit was lost; repeat with the same idempotency key."""

    code = Code.TIMEOUT


class Poison(StorageError):
    """The engine refuses this row whenever it is tried; it lies in the dead letters."""

    code = Code.INTERNAL


class OpenFailed(StorageError):
    """The store cannot be opened; the text says in one line what to do."""

    code = Code.INTERNAL


class NotDurable(OpenFailed):
    """The database acknowledges commits that it may lose; the text says which setting to change."""


# Raised by engines towards the batcher, never towards callers of Store.


class Duplicate(StorageError):
    """A unique key is taken. The transaction is rolled back."""

    code = Code.INTERNAL


class StatementFailed(StorageError):
    """The engine refused a statement for a reason that a repeat does not cure."""

    code = Code.INTERNAL


class FailedAfterWrite(StorageError):
    """One change of a batch raised after it had written: the batch is rolled back.

    Args:
        position: index of the change within its batch.
        error: what it raised, meant for its submitter.
    """

    def __init__(self, position: int, error: StorageError) -> None:
        super().__init__(f"change failed after its first write: {type(error).__name__}")
        self.position = position
        self.error = error
