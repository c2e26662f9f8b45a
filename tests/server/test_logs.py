"""Log lines: JSON, bounded, never in the way, never telling secrets."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.config import LogConfig, Secret
from server.logs import REQUEST_ID, Logs, install

log = logging.getLogger("parlance.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    level, raising = root.level, logging.raiseExceptions
    yield
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(False)


class Gate(io.StringIO):
    """A stream that takes nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        self.open.wait(10)
        return super().write(text)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def written(config: LogConfig, *events: tuple[int, str, dict[str, Any]]) -> list[dict[str, Any]]:
    stream = io.StringIO()
    logs = install(config, stream)
    for level, event, fields in events:
        log.log(level, event, extra=fields)
    logs.close()
    return lines_of(stream)


def test_every_line_is_json_with_its_fields() -> None:
    fields = {"turn": 1, "list": [1, b"\x01"], "odd": Path("a"), "text": "x" * 1000}
    (line,) = written(LogConfig(), (logging.INFO, "turn.failed", fields))
    assert line["event"] == "turn.failed"
    assert line["level"] == "info"
    assert line["logger"] == "parlance.test"
    assert line["ts"].endswith("Z")
    assert (line["turn"], line["list"], line["odd"]) == (1, [1, "01"], "a")
    assert len(line["text"]) == 501


def test_the_level_decides_what_is_written() -> None:
    events: list[tuple[int, str, dict[str, Any]]] = [(level, "e", {}) for level in (10, 20, 30, 40)]
    assert [line["level"] for line in written(LogConfig(level="warning"), *events)] == [
        "warning",
        "error",
    ]
    assert len(written(LogConfig(level="debug"), *events)) == 4


def test_the_request_id_stands_on_every_line_of_the_request() -> None:
    token = REQUEST_ID.set("abc")
    try:
        (line,) = written(LogConfig(), (20, "e", {}))
    finally:
        REQUEST_ID.reset(token)
    assert line["request_id"] == "abc"


def test_exceptions_tell_places_but_not_what_people_wrote() -> None:
    stream = io.StringIO()
    logs = install(LogConfig(), stream)
    try:
        int("what somebody wrote")
    except ValueError:
        log.exception("crashed")
    logs.close()
    (line,) = lines_of(stream)
    assert line["error"].startswith("ValueError at test_logs.py:")
    assert "somebody" not in stream.getvalue()


def test_causes_and_system_errors_are_told() -> None:
    stream = io.StringIO()
    logs = install(LogConfig(), stream)
    try:
        try:
            raise FileNotFoundError(2, "No such file", "a.db")
        except OSError as error:
            raise RuntimeError("geheim") from error
    except RuntimeError:
        log.exception("crashed")
    logs.close()
    (line,) = lines_of(stream)
    assert "No such file" in line["error"]
    assert "geheim" not in line["error"]


def test_a_secret_in_a_field_is_only_set() -> None:
    (line,) = written(LogConfig(), (20, "e", {"key": Secret("geheim")}))
    assert line["key"] == "(set)"


def test_a_stuck_stream_blocks_nobody_and_drops_are_counted_and_told() -> None:
    stream = Gate()
    logs = install(LogConfig(), stream, lines=5)
    for number in range(50):
        log.info("e", extra={"n": number})
    assert logs.dropped >= 44
    stream.open.set()
    deadline = threading.Event()
    for _ in range(200):
        if "log.dropped" in stream.getvalue():
            break
        deadline.wait(0.01)
    logs.close()
    told = [line for line in lines_of(stream) if line["event"] == "log.dropped"]
    assert sum(line["lines"] for line in told) == logs.dropped


def test_files_are_rotated_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "parlance.log"
    config = LogConfig(file=str(path), rotate_bytes=64 * 1024, rotate_keep=2)
    logs = install(config, io.StringIO())
    for number in range(1500):
        log.info("e", extra={"n": number, "pad": "x" * 100})
    logs.close()
    names = sorted(found.name for found in path.parent.iterdir())
    assert names == ["parlance.log", "parlance.log.1", "parlance.log.2"]
    for line in path.read_text().splitlines():
        assert json.loads(line)["event"] == "e"


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match="a"):
        install(LogConfig(file=str(tmp_path / "a" / "b.log")), io.StringIO())


def test_people_get_one_readable_line() -> None:
    stream = io.StringIO()
    logs = install(LogConfig(format="human"), stream)
    log.warning("slow\nreader", extra={"bytes": 5, "why": "a b"})
    logs.close()
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('warning slow reader bytes=5 why="a b"')


def test_other_libraries_are_heard_from_warnings_on() -> None:
    stream = io.StringIO()
    logs = install(LogConfig(), stream)
    logging.getLogger("aiohttp.server").info("quiet")
    logging.getLogger("aiohttp.server").warning("loud %s", "thing")
    logs.close()
    assert [line["event"] for line in lines_of(stream)] == ["loud thing"]


def test_closing_twice_is_harmless() -> None:
    logs: Logs = install(LogConfig(), io.StringIO())
    logs.close()
    logs.close()
    assert logs.dropped == 0
