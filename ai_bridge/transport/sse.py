"""Server-sent events out of bytes, without I/O (WHATWG HTML, section 9.2).

Lines are cut as bytes and decoded whole, so a character that arrives in two reads stays one.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Bound of one event: providers send images and long thoughts in one line of several MB."""

_BOM = b"\xef\xbb\xbf"


OnData = Callable[[bytes], None]


class EventTooLarge(Exception):
    """One event exceeds the bound; the parser is dead."""


class SseParser:
    """Cuts a body into events and hands each event's data to `on_data`.

    That is given with each call and not kept: who owns a parser would else be in a circle with it,
    and what an ended answer held would wait for the garbage collector.

    Tolerates a missing space after `data:`, CRLF, a missing blank line at the end. Comments and
    fields other than data are dropped.
    """

    __slots__ = ("_data", "_data_bytes", "_first", "_max_bytes", "_rest")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_event_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._first = True

    def feed(self, data: bytes, on_data: OnData) -> None:
        """Take bytes cut anywhere; calls `on_data` for each event that they complete.

        Raises:
            EventTooLarge: as soon as an unfinished event passes the bound.
        """
        if self._is_plain(data):
            self._first = False
            for event in data[6:-2].split(b"\n\ndata: "):
                on_data(event)
            return
        end = data.rfind(b"\n")
        if end < 0:
            self._rest += data
            self._check(len(self._rest))
            return
        whole = data[:end]
        if self._rest:
            whole = bytes(self._rest) + whole
            self._rest.clear()
        self._rest += data[end + 1 :]
        for line in whole.split(b"\n"):
            self._line(line, on_data)
        self._check(len(self._rest))

    def _is_plain(self, data: bytes) -> bool:
        """Tell whether data is whole events of one line each: what nearly every read brings."""
        return (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2 * data.count(b"\n\ndata: ") + 2
            and b"\r" not in data  # one belongs to the end of its line
            and not (self._rest or self._data)
            and len(data) <= self._max_bytes
        )

    def eof(self, on_data: OnData) -> None:
        """The body is over: hand out an event that no blank line closed."""
        if self._rest:
            line = bytes(self._rest)
            self._rest.clear()
            self._line(line, on_data)
        self._dispatch(on_data)

    def _line(self, line: bytes, on_data: OnData) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if line.endswith(b"\r"):
            line = line[:-1]
        if not line:
            self._dispatch(on_data)
        elif line.startswith(b"data:"):
            start = 6 if line[5:6] == b" " else 5
            self._data.append(line[start:])
            self._data_bytes += len(line)
            self._check(0)
        elif line == b"data":
            self._data.append(b"")

    def _dispatch(self, on_data: OnData) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            self._data.clear()
            self._data_bytes = 0
            on_data(data)

    def _check(self, unfinished_bytes: int) -> None:
        if self._data_bytes + unfinished_bytes > self._max_bytes:
            raise EventTooLarge
