"""Faults and odd forms, laid over the events of any dialect."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from bench.provider.dialect import Dialect, Failure
from bench.provider.reply import PACED, PLAIN, TOKEN, Piece, Reply, compact
from bench.provider.script import NEVER, Behaviour

GARBAGE = b'data: {"choices": [{"delta": \n\n'


class Fault(Enum):
    """What a player does instead of sending."""

    RESET = "reset"
    CLOSE = "close"
    STALL = "stall"


Step = Piece | Fault


def streamed(dialect: Dialect, reply: Reply) -> Iterator[Step]:
    """Return the steps of a stream; a plain one is the dialect's own, with nothing around it."""
    behaviour = reply.behaviour
    if behaviour.empty:
        return iter(())
    pieces: Iterator[Piece] = dialect.stream(reply)
    if behaviour.no_space or behaviour.crlf:
        pieces = ((kind, _reframed(event, behaviour)) for kind, event in pieces)
    if _positions(behaviour):
        return _struck(pieces, dialect, behaviour)
    return pieces


def whole(dialect: Dialect, reply: Reply) -> bytes:
    """Return the JSON body, or the error that stands in its place with a 200."""
    behaviour = reply.behaviour
    if behaviour.error != NEVER:
        return compact(dialect.error(Failure.of(behaviour, _error_status(behaviour))))
    return compact(dialect.whole(reply))


def parts(body: bytes, behaviour: Behaviour) -> list[Step]:
    """Return the steps that send a body, or a part of it and then the fault."""
    if behaviour.empty:
        return []
    if behaviour.garbage != NEVER:
        return [(PLAIN, body[: len(body) // 2])]
    for fault in _positions(behaviour).values():
        if isinstance(fault, Fault):
            return [(PLAIN, body[: len(body) // 2]), fault]
    return [(PLAIN, body)]


def _positions(behaviour: Behaviour) -> dict[int, Fault | str]:
    wanted: dict[int, Fault | str] = {
        behaviour.garbage: "garbage",
        behaviour.error: "error",
        behaviour.stall: Fault.STALL,
        behaviour.close: Fault.CLOSE,
        behaviour.reset: Fault.RESET,
    }
    wanted.pop(NEVER, None)
    return wanted


def _struck(pieces: Iterator[Piece], dialect: Dialect, behaviour: Behaviour) -> Iterator[Step]:
    """Yield the events until a fault strikes: right after the token before its position."""
    faults = _positions(behaviour)
    position = 0
    for kind, event in pieces:
        fault = faults.get(position) if position or kind == TOKEN else None
        if fault == "garbage":
            del faults[position]
            yield PLAIN, GARBAGE
        elif fault is not None:
            yield _strike(fault, dialect, behaviour)
            return
        yield kind, event
        position += kind == TOKEN
    if (fault := faults.get(position)) is not None:
        yield _strike(fault, dialect, behaviour)


def _strike(fault: Fault | str, dialect: Dialect, behaviour: Behaviour) -> Step:
    if isinstance(fault, Fault):
        return fault
    return PACED, dialect.error_event(Failure.of(behaviour, _error_status(behaviour)))


def _error_status(behaviour: Behaviour) -> int:
    """Return the status of an error that comes too late for the status line."""
    return behaviour.status if behaviour.status != 200 else 529


def _reframed(event: bytes, behaviour: Behaviour) -> bytes:
    lines = event.replace(b"\r\n", b"\n").split(b"\n")
    if behaviour.no_space:
        lines = [
            line.replace(b": ", b":", 1) if line.startswith((b"data: ", b"event: ")) else line
            for line in lines
        ]
    return (b"\r\n" if behaviour.crlf else b"\n").join(lines)
