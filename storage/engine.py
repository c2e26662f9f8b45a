"""What the store and the batcher need of an engine."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from storage.dialect import Dialect
from storage.ops import Op

T = TypeVar("T")


class Engine(Protocol):
    """One database. All methods are called on the loop and never block it."""

    dialect: Dialect
    name: str
    version: str
    durable: bool

    async def open(self) -> None:
        """Connect and check; nothing is left open when this raises.

        Raises:
            OpenFailed, NotDurable: with one line on what to do.
        """

    async def transact(self, make: Callable[[], Op[T]]) -> T:
        """Run an operation in one durable transaction; transactions run one after another.

        Whatever is raised, the transaction is rolled back, unless it is OutcomeUnknown. A
        cancelled call may still commit.

        Raises:
            Duplicate: a unique key is taken.
            StoreUnavailable: worth repeating (connection lost, deadlock, lock timeout, busy).
            OutcomeUnknown: the reply to COMMIT was lost.
            StatementFailed: any other refusal of the engine.
        """

    async def read(self, op: Op[T], *, snapshot: bool) -> T:
        """Run a reading operation; with snapshot, all its statements see one moment.

        Cancellation leaves nothing behind.

        Raises:
            StoreUnavailable: the database cannot be reached, or too many reads wait.
        """

    async def check(self) -> str:
        """Return "" if the database answers, else the reason in one line."""

    async def close(self) -> None:
        """Close everything; waiting reads fail with StoreUnavailable."""

    @property
    def statements(self) -> int:
        """How many statements have been sent for transactions."""
