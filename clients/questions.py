"""Questions whether a tool may run that the user has not answered yet (docs/protocol.md §8)."""

from typing import Final

from clients.events import Event, ToolAsked, ToolSettled
from protocol import envelopes as e
from protocol.codes import Settled

QUESTIONS_MAX: Final = 64
"""Far above what a server asks one user at once; the oldest goes first."""


class Questions:
    """The open questions, oldest first. Methods return the events that follow."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], ToolAsked] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def open(self) -> list[ToolAsked]:
        """Return what is being asked, oldest first."""
        return list(self._open.values())

    def asked(self, f: e.ToolAsk) -> list[Event]:
        """Take `tool_ask`, also a repeated one."""
        key = (f.sid, f.call)
        if key in self._open:
            return []
        asked = ToolAsked(f.sid, f.conv, f.call, f.name, f.args, f.left, f.until)
        self._open[key] = asked
        out: list[Event] = [asked]
        if len(self._open) > QUESTIONS_MAX:
            out += self._forget(next(iter(self._open.values())))
        return out

    def settled(self, f: e.ToolSettled) -> list[Event]:
        """Take `tool_settled`; a question that is not known says nothing to anybody."""
        asked = self._open.pop((f.sid, f.call), None)
        if asked is None:
            return []
        outcome = Settled(f.state) if f.state in set(Settled) else None
        return [ToolSettled(f.sid, f.call, asked.name, outcome)]

    def stream_ended(self, sid: int) -> list[Event]:
        """An answer that is over asks nothing any more."""
        return self._forget(*(asked for asked in self.open if asked.sid == sid))

    def reconnected(self) -> list[Event]:
        """The server tells a new connection all that is still open."""
        return self._forget(*self.open)

    def _forget(self, *gone: ToolAsked) -> list[Event]:
        for asked in gone:
            del self._open[asked.sid, asked.call]
        return [ToolSettled(asked.sid, asked.call, asked.name, None) for asked in gone]
