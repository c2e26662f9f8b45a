"""Plain counters of the hot path; `/metrics` reads them when asked."""

from collections import Counter
from typing import Final

from ai_bridge.stats import Histogram

TRANSPORTS: Final = ("tcp", "ws", "http")
REQUEST_BOUNDS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip


class Stats:
    """Totals since the start, and what is open now.

    Attributes:
        messages: messages committed and pushed.
        errors: `err` replies by code; closes: `bye` by code.
        refused_rate: requests refused because the connection was over its rate.
        orphans: AI answers that a dead process had left, taken up by this one.
        refused_http: HTTP connections refused because too many were open.
        idle_closed_http: idle HTTP connections closed to make room for others.
        request_seconds: from a request on a socket to its answer, for what is answered after a
            read or a commit; in steps of a millisecond.
        http_seconds: from an HTTP request to its answer, without those that wait for a model.
        http_failed: HTTP answers with a status of 500 and more.
    """

    def __init__(self) -> None:
        self.connections: dict[str, int] = dict.fromkeys(TRANSPORTS, 0)
        self.accepted: dict[str, int] = dict.fromkeys(TRANSPORTS, 0)
        self.messages = 0
        self.sign_ins = 0
        self.refused_rate = 0
        self.refused_http = 0
        self.idle_closed_http = 0
        self.orphans = 0
        self.request_seconds = Histogram(REQUEST_BOUNDS_S)
        self.http_seconds = Histogram(REQUEST_BOUNDS_S)
        self.http_failed = 0
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
