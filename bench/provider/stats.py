"""The figures of the fake service."""

from __future__ import annotations

import socket
from typing import Any

from msgspec import Struct


class Stats(Struct):
    """`connections` and the rest are totals; `open_connections` and `streaming` are now.

    `aborted` counts streams that ended early, whoever broke them; `finished` also answers without
    a stream; `events` and `tokens` those of streams and bodies that the player sent.
    `aborted_late_tokens` were sent after the client had closed its end, as the kernel knows it
    (`aborted_late_max`: the most that one stream sent).
    """

    connections: int = 0
    open_connections: int = 0
    requests: int = 0
    streaming: int = 0
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    events: int = 0
    tokens: int = 0
    aborted_late_tokens: int = 0
    aborted_late_max: int = 0


class Abort(Struct, frozen=True):
    """A stream that its client left. `at_s`: time.monotonic when this service saw it.

    `lag_ms`: the age of the client's last sign of life by then, which is its closing unless the
    close was a reset; exact to the kernel's clock tick of some milliseconds.
    """

    model: str
    tokens: int
    late_tokens: int
    lag_ms: int
    at_s: float


def tcp_last_words(sock: Any) -> tuple[int, int]:
    """Return the bytes that the client took, and the age in ms of the last segment from it.

    From Linux' struct tcp_info: tcpi_bytes_acked and tcpi_last_ack_recv. (-1, 0) elsewhere.
    """
    try:
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    except (OSError, AttributeError):
        return -1, 0
    if len(info) < 128:
        return -1, 0
    acked = int.from_bytes(info[120:128], "little")
    return acked, int.from_bytes(info[56:60], "little")
