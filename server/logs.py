"""Log lines: a constant event name plus fields, as JSON or for people, written by a thread.

The event loop only puts records into a bounded queue. When the writer cannot keep up (a full
disk, a stuck pipe), lines are dropped and counted, and a line says so later.
"""

import logging
import os
import queue
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias

import msgspec

from server.config_sections import LogConfig

REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Id of the request being served; every line written meanwhile carries it."""

QUEUE_LINES: Final = 10_000
_MAX_FIELD_CHARS: Final = 500
_STANDARD: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "request_id", "taskName"}
)
_OURS: Final = ("server.", "storage.", "ai_bridge.", "protocol.")
_COLOURS: Final = {"debug": "2", "info": "36", "warning": "33", "error": "31"}


Lines: TypeAlias = "queue.SimpleQueue[logging.LogRecord | None]"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a caller gave as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _level(record: logging.LogRecord) -> str:
    return "error" if record.levelno >= logging.ERROR else record.levelname.lower()


def _plain(value: object) -> object:
    """What JSON cannot say is said as text; long texts are cut."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_FIELD_CHARS else value[:_MAX_FIELD_CHARS] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return value[:64].hex()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:50]]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in list(value.items())[:50]}
    return _plain(str(value))


def trace(exc: BaseException, with_texts: bool) -> str:
    """Return an exception's kind and places.

    The text of an exception may quote what a person wrote (a database's error does), so it is
    left out unless it is one of ours, comes from the system, or with_texts is set.
    """
    chain = traceback.TracebackException.from_exception(exc, limit=30, lookup_lines=False)
    lines: list[str] = []
    current: traceback.TracebackException | None = chain
    error: BaseException | None = exc
    while current is not None and error is not None:
        module = type(error).__module__ + "."
        shown = with_texts or module.startswith(_OURS) or isinstance(error, OSError)
        text = f": {str(error)[:_MAX_FIELD_CHARS]}" if shown else ""
        places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in current.stack]
        lines.append(f"{type(error).__qualname__}{text} at " + " < ".join(reversed(places)))
        if current.__cause__ is not None:
            current, error = current.__cause__, error.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            current, error = current.__context__, error.__context__
        else:
            break
    return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ts, level, event, logger, request_id, then the fields."""

    def __init__(self, with_texts: bool = False) -> None:
        super().__init__()
        self._with_texts = with_texts
        self._encoder = msgspec.json.Encoder()

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "ts": f"{seconds}.{int(record.msecs):03d}Z",
            "level": _level(record),
            "event": str(record.msg)[:_MAX_FIELD_CHARS],
            "logger": record.name,
        }
        request_id = getattr(record, "request_id", "")
        if request_id:
            line["request_id"] = request_id
        for name, value in fields_of(record).items():
            line.setdefault(name, _plain(value))
        if record.exc_info and record.exc_info[1]:
            line["error"] = trace(record.exc_info[1], self._with_texts)
        return self._encoder.encode(line).decode()


class HumanFormatter(logging.Formatter):
    """One line per event for a terminal: time, level, event, fields."""

    def __init__(self, colour: bool, with_texts: bool = False) -> None:
        super().__init__()
        self._colour = colour
        self._with_texts = with_texts

    def format(self, record: logging.LogRecord) -> str:
        level = _level(record)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = fields_of(record)
        request_id = getattr(record, "request_id", "")
        if request_id:
            fields["request_id"] = request_id
        words = " ".join(f"{name}={_word(value)}" for name, value in fields.items())
        shown = f"\x1b[{_COLOURS[level]}m{level:<7}\x1b[0m" if self._colour else f"{level:<7}"
        event = " ".join(str(record.msg)[:_MAX_FIELD_CHARS].splitlines())
        text = f"{clock} {shown} {event} {words}".rstrip()
        if record.exc_info and record.exc_info[1]:
            text += "\n" + trace(record.exc_info[1], self._with_texts)
        return text


def _word(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, str) and plain.isprintable() and plain and " " not in plain:
        return plain
    return msgspec.json.encode(plain).decode()


class _Funnel(QueueHandler):
    """Puts records into the bounded queue; never waits, never raises."""

    def __init__(self, lines: Lines, bound: int) -> None:
        super().__init__(lines)
        self.lines = lines
        self.dropped = 0
        self._bound = bound

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # The text is made now, because arguments may change; the rest is the thread's work.
        if record.args:
            record.msg = record.getMessage()
            record.args = None
        record.request_id = REQUEST_ID.get()
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        # A queue with a bound of its own takes a lock and wakes its reader in Python: six times as
        # long. Only the loop's thread writes much, so a line or two above the bound is the worst.
        if self.lines.qsize() < self._bound:
            self.lines.put(record)
        else:
            self.dropped += 1


class _Writer(QueueListener):
    """The thread that writes; tells about dropped lines once it has caught up."""

    def __init__(self, funnel: _Funnel, *handlers: logging.Handler) -> None:
        super().__init__(funnel.lines, *handlers)
        self.lines = funnel.lines
        self._funnel = funnel
        self._told = 0

    def handle(self, record: logging.LogRecord) -> None:
        super().handle(record)
        dropped = self._funnel.dropped - self._told
        if dropped and self.lines.empty():
            self._told += dropped
            attributes = {"name": "parlance.logs", "msg": "log.dropped", "lines": dropped}
            level = {"levelno": logging.WARNING, "levelname": "WARNING"}
            super().handle(logging.makeLogRecord(attributes | level))


class Logs:
    """The installed logging; `close` writes what waits and takes it down again."""

    def __init__(self, funnel: _Funnel, writer: _Writer, handlers: list[logging.Handler]) -> None:
        self._funnel = funnel
        self._writer = writer
        self._handlers = handlers
        self._closed = False

    @property
    def dropped(self) -> int:
        """Lines that were not written because the queue was full."""
        return self._funnel.dropped

    def close(self) -> None:
        """Write what waits, then close files; harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        logging.getLogger().removeHandler(self._funnel)
        _stop(self._writer)
        for handler in self._handlers:
            handler.close()


def _stop(writer: _Writer) -> None:
    """Stop the thread; one that is stuck for good is a daemon and dies with the process."""
    thread = writer._thread
    if thread is not None and thread.is_alive():
        writer.lines.put(None)
        thread.join(timeout=5)


def install(config: LogConfig, stream: TextIO | None = None, lines: int = QUEUE_LINES) -> Logs:
    """Route all logging through one writer thread; call once per process.

    Args:
        stream: where lines go; standard error without it.
        lines: bound of the queue.

    Raises:
        OSError: the log file cannot be opened.
    """
    stream = sys.stderr if stream is None else stream
    with_texts = config.level == "debug"
    handlers: list[logging.Handler] = [_stream_handler(config, stream, with_texts)]
    if config.file:
        handlers.append(_file_handler(config, with_texts))
    funnel = _Funnel(queue.SimpleQueue(), lines)
    writer = _Writer(funnel, *handlers)
    root = logging.getLogger()
    root.addHandler(funnel)
    root.setLevel(logging.WARNING)
    logging.getLogger("parlance").setLevel(config.level.upper())
    logging.captureWarnings(True)
    # Nobody looks at these, and finding the caller walks the stack (Logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # A full disk must not fill the terminal with tracebacks of the logging itself.
    logging.raiseExceptions = with_texts
    writer.start()
    return Logs(funnel, writer, handlers)


def _stream_handler(config: LogConfig, stream: TextIO, with_texts: bool) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    terminal = stream.isatty()
    if config.format == "human" or (config.format == "auto" and terminal):
        colour = terminal and "NO_COLOR" not in os.environ
        handler.setFormatter(HumanFormatter(colour, with_texts))
    else:
        handler.setFormatter(JsonFormatter(with_texts))
    return handler


def _file_handler(config: LogConfig, with_texts: bool) -> logging.Handler:
    path = Path(config.file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        path, maxBytes=config.rotate_bytes, backupCount=config.rotate_keep, encoding="utf-8"
    )
    handler.setFormatter(JsonFormatter(with_texts))
    return handler
