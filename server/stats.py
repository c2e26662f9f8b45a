"""Plain counters of the hot path; `/metrics` reads them when asked."""

from collections import Counter
from typing import Final

TRANSPORTS: Final = ("tcp", "ws", "http")


class Stats:
    """Totals since the start, and what is open now.

    Attributes:
        messages: messages committed and pushed.
        errors: `err` replies by code; closes: `bye` by code.
        refused_rate: requests refused because the connection was over its rate.
        orphans: AI answers that a dead process had left, taken up by this one.
        refused_http: HTTP connections refused because too many were open.
    """

    def __init__(self) -> None:
        self.connections: dict[str, int] = dict.fromkeys(TRANSPORTS, 0)
        self.accepted: dict[str, int] = dict.fromkeys(TRANSPORTS, 0)
        self.messages = 0
        self.sign_ins = 0
        self.refused_rate = 0
        self.refused_http = 0
        self.orphans = 0
        self.errors: Counter[int] = Counter()
        self.closes: Counter[int] = Counter()

    def opened(self, transport: str) -> None:
        """A connection speaks this transport."""
        self.connections[transport] += 1
        self.accepted[transport] += 1

    def closed(self, transport: str) -> None:
        """It is gone."""
        self.connections[transport] -= 1

    def error(self, code: int) -> None:
        """A request was refused."""
        self.errors[int(code)] += 1

    def closed_by_us(self, code: int) -> None:
        """A connection was ended with `bye`."""
        self.closes[int(code)] += 1
