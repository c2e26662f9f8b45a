"""From message types to the functions that handle them.

Two kinds of handlers. A *direct* one is called on the spot, must not await and answers at once
or later through the session: only what every message passes through is worth that. A *served* one
is a coroutine that returns the reply; it runs as a task owned by the core and never sees a
session, only a `Caller`, so every other door can call it as well.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from protocol.envelopes import Frame, Reply

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session


class Caller(Protocol):
    """On whose behalf a request is handled; always from a verified token, never from a frame."""

    @property
    def user(self) -> int: ...
    @property
    def tenant(self) -> int: ...
    @property
    def device(self) -> bytes: ...


Direct = Callable[["Core", "Session", Any], Frame | None]
Served = Callable[["Core", Caller, Any], Awaitable[Reply]]


class Handler:
    """One row of the table.

    Attributes:
        start: begins handling; returns a reply that is ready at once, or None.
        weight: what the request costs of the caller's rate (docs/protocol.md, flow control).
        count: how often it was called.
    """

    __slots__ = ("count", "start", "weight")

    def __init__(self, start: Direct, weight: float) -> None:
        self.start = start
        self.weight = weight
        self.count = 0


class Router:
    """The table. Filled at start by `server.handlers`, read for every frame.

    Attributes:
        handlers: message type to its row.
        served: message type to the coroutine function, for doors without a session.
    """

    def __init__(self) -> None:
        self.handlers: Final[dict[type[Frame], Handler]] = {}
        self.served: Final[dict[type[Frame], Served]] = {}

    def direct(self, frame_type: type[Frame], handle: Direct, weight: float = 1.0) -> None:
        """Register a function that is called on the spot."""
        self.handlers[frame_type] = Handler(handle, weight)

    def serve(self, frame_type: type[Frame], handle: Served, weight: float = 1.0) -> None:
        """Register a coroutine function that runs as a task and returns the reply."""
        self.served[frame_type] = handle

        def start(core: "Core", session: "Session", frame: Any) -> None:
            session.hold_slot()
            core.spawn(session.serve(frame.rid, handle(core, session, frame)))

        self.handlers[frame_type] = Handler(start, weight)
