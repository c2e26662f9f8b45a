"""What people and logs are told of tools while a turn runs."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class ToolState(StrEnum):
    RUNNING = "running"
    CONFIRM = "confirm"
    """Waits for somebody's yes."""
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


class ToolEvent(Struct, frozen=True):
    """One step of one call. `reason` is a constant word where the state is FAILED or REFUSED."""

    call_id: str
    name: str
    state: ToolState
    reason: str = ""

    def line(self) -> str:
        """Return the line of the stream's part "tools": state, name, reason."""
        return f"{self.state.value} {self.name} {self.reason}".rstrip() + "\n"
