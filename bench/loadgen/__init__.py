"""Run the load generator: a C program of its own, built on first use, on a core of its own.

Python could not make enough load to bring the server to its limit. The program speaks PWP/1 over
TCP and WebSocket and checks what arrives; `loadgen.c` says what its modes do.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from protocol.codes import Code

SOURCES: Final = Path(__file__).parent
ASKED_TO_WAIT: Final = frozenset(
    {Code.RATE, Code.IN_FLIGHT, Code.OVERLOADED, Code.DRAINING, Code.BUSY}
)
"""Refusals with a wait: the generator sends the same message again. Expected under overload."""
GENERATOR_CORE: Final = 1
"""The server has core 0 to itself; what makes load shares the other one with the database."""


class LoadError(Exception):
    """The generator could not be built or did not finish; the text says why."""


class Progress(msgspec.Struct):
    """One line of the generator's progress.

    Attributes:
        phase: open, hold, settle, warm, measure, drain, check, done; or lost (one connection).
        elapsed_s: since the phase began.
        done: messages acknowledged, pings answered or tokens received so far.
    """

    phase: str
    ready: int = 0
    of: int = 0
    elapsed_s: float = 0
    done: int = 0
    why: str = ""
    bye: int = 0


class Latency(msgspec.Struct):
    """Quantiles in milliseconds, at most 2 % off; all 0 when nothing was measured."""

    count: int = 0
    mean_ms: float = 0
    p50_ms: float = 0
    p90_ms: float = 0
    p95_ms: float = 0
    p99_ms: float = 0
    p999_ms: float = 0
    max_ms: float = 0


class Result(msgspec.Struct):
    """What one run of the generator saw. Rates are of the measured time, counts of the whole run.

    Attributes:
        generator_cpu: share of its core that the generator used; near 1 it was the bottleneck.
        delivered, expected: pushes that arrived, and those that the acknowledged messages owe.
        unanswered: messages without an answer at the end.
        dups, holes, late: over all members' views of their conversations; late ones overtook.
        errors, byes: answers by error code; an AI answer that ended without one for the reason R
            counts as 900 + R, a status of HTTP as itself.
        send_lag: how late an open loop sent, because all senders were waiting.
        open_answers: AI answers under way from their first token on, on average.
        broken_answers: those that ended early or with another text than was sent.
        answers_by_message: those whose reader was too slow for the stream.
        token_age: from a token's writing by the provider to its arrival here.
        first_token: from the question to the first token; `first_token_age` is its last part.
    """

    mode: str
    connections: int
    websocket: int
    connected: int
    ready_at_end: int
    failed: int
    dropped: int
    reconnects: int
    open_s: float
    connects_per_s: float
    connect: Latency
    seconds: float
    generator_cpu: float
    acked_per_s: float
    delivered_per_s: float
    rounds_per_s: float
    check_sent: int
    check_pongs: int
    acked: int
    dup_acks: int
    delivered: int
    expected: int
    unanswered: int
    retries: int
    dups: int
    holes: int
    late: int
    resyncs: int
    goaways: int
    bad_frames: int
    other_frames: int
    reads: int
    writes: int
    bytes_in: int
    bytes_out: int
    closed_without_bye: int
    errors: dict[str, int]
    byes: dict[str, int]
    ack: Latency
    delivery: Latency
    last_member: Latency
    round_trip: Latency
    send_lag: Latency
    tokens_per_s: float
    deltas_per_s: float
    answers_per_s: float
    open_answers: float
    tokens: int
    answers: int
    broken_answers: int
    answers_by_message: int
    token_age: Latency
    first_token: Latency
    first_token_age: Latency

    def faults(self) -> list[str]:
        """Return what must never happen, in words; empty when all went well."""
        problems = {
            "connections failed": self.failed,
            "connections dropped": self.dropped,
            "duplicates": self.dups,
            "holes": self.holes,
            "unanswered messages": self.unanswered,
            "malformed frames": self.bad_frames,
            "pushes missing": max(0, self.expected - self.delivered),
            "pings unanswered": self.check_sent - self.check_pongs,
            "AI answers broken": self.broken_answers,
        }
        found = [f"{count:,} {what}" for what, count in problems.items() if count]
        for code, count in self.errors.items():
            if int(code) not in ASKED_TO_WAIT:
                found.append(f"{count:,} × err {code}")
        return found + [f"{count:,} × bye {code}" for code, count in self.byes.items()]


@dataclass(frozen=True)
class Room:
    """A conversation for the `send` mode: connection numbers, the first `senders` of them send."""

    conv: int
    members: Sequence[int]
    senders: int = 1


OnProgress = Callable[[Progress], None]


def build() -> Path:
    """Return the program, compiled from the sources as they are now.

    Raises:
        LoadError: no C compiler, or it failed.
    """
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parlance" / "loadgen"
    program = root / key
    if program.exists():
        return program
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    compiler = next((c for c in compilers if c and shutil.which(c)), None)
    if compiler is None:
        raise LoadError("no C compiler: install gcc or clang (Debian: apt install gcc), or set CC")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        fresh = Path(folder) / "loadgen"
        flags = ["-O2", "-std=gnu11", "-Wall"]
        command = [compiler, *flags, "-o", str(fresh), str(SOURCES / "loadgen.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoadError(f"{' '.join(command)} failed:\n{done.stderr}")
        fresh.rename(program)
    return program


def run(
    mode: str,
    port: int,
    *,
    tokens: Sequence[str] = (),
    rooms: Sequence[Room] = (),
    options: Mapping[str, object],
    on_progress: OnProgress | None = None,
    core: int = GENERATOR_CORE,
) -> Result:
    """Run the generator to its end and return what it saw; an interrupt ends it too.

    Args:
        options: its other command line options with `_` for `-`; True for a bare flag.

    Raises:
        LoadError: it could not be built, or failed.
    """
    command = [str(build()), "--mode", mode, "--port", str(port)]
    for name, value in options.items():
        if value is not False and value is not None:
            command.append("--" + name.replace("_", "-"))
            command += [] if value is True else [str(value)]
    with _input_files(tokens, rooms) as arguments:
        return _watch(command + arguments, on_progress, core)


@contextmanager
def _input_files(tokens: Sequence[str], rooms: Sequence[Room]) -> Iterator[list[str]]:
    # The directory is readable by its owner only: tokens are secrets, if only of a test server.
    with tempfile.TemporaryDirectory(prefix="parlance-loadgen-") as folder:
        token_file, plan_file = Path(folder) / "tokens", Path(folder) / "plan"
        token_file.write_text("".join(token + "\n" for token in tokens))
        plan_file.write_text(
            "".join(f"{r.conv} {r.senders} {' '.join(map(str, r.members))}\n" for r in rooms)
        )
        yield ["--tokens", str(token_file), "--plan", str(plan_file)]


def _watch(command: Sequence[str], on_progress: OnProgress | None, core: int) -> Result:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            if core in os.sched_getaffinity(0):
                os.sched_setaffinity(process.pid, {core})
            assert process.stdout is not None
            assert process.stderr is not None
            words = _follow(process.stderr, on_progress)
            text = process.stdout.read()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise LoadError("\n".join(words) or f"the generator ended with status {process.returncode}")
    return msgspec.json.decode(text, type=Result)


def _follow(lines: IO[str], on_progress: OnProgress | None) -> list[str]:
    """Report progress until the generator ends; return lines that are something else."""
    words = []
    for line in lines:
        try:
            progress = msgspec.convert(json.loads(line), Progress)
        except ValueError:
            words.append(line.rstrip())
            continue
        if on_progress is not None:
            on_progress(progress)
    return words


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as plain values, without latencies that were not measured."""
    values: dict[str, Any] = msgspec.to_builtins(result)
    return {
        name: value
        for name, value in values.items()
        if not (isinstance(value, dict) and value.get("count", 1) == 0)
    }
