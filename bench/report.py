"""What a scenario found: a table for people, a JSON file with machine, commit and command."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import loadgen

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = Path(__file__).parent / "results"
_FSYNC_ROUNDS: Final = 50
# Rich takes 80 columns where there is no terminal, which breaks the tables.
console: Final = Console(width=None if sys.stdout.isatty() else 110)


@dataclass(frozen=True)
class Figure:
    """One measured value, and what it should be."""

    name: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["more", "less"] = "more"

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "more" else self.value <= self.target


class Report:
    """Collects figures of one run of a scenario."""

    def __init__(self, scenario: str, settings: dict[str, object], data_parent: Path) -> None:
        self.scenario = scenario
        self.settings = settings
        self.figures: list[Figure] = []
        self.faults: list[str] = []
        self.raw: dict[str, Any] = {}
        self._machine = machine(data_parent)
        if self._machine["filesystem"] in ("tmpfs", "ramfs"):
            self.note("the data is in memory, where durability costs nothing: see --data-parent")

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        target: float | None = None,
        better: Literal["more", "less"] = "more",
    ) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, round(value, 3), unit, target, better))

    def load(self, name: str, result: loadgen.Result) -> None:
        """Keep all that the generator said, and whatever went wrong as faults."""
        self.raw[name] = loadgen.as_json(result)
        self.faults += [f"{name}: {fault}" for fault in result.faults()]
        if result.retries:
            self.note(f"{name}: {result.retries:,} sends were told to wait (err {result.errors})")
        if result.generator_cpu > 0.9:
            self.note(f"{name}: the generator was busy {result.generator_cpu:.0%} of the time")

    def note(self, text: str) -> None:
        """Keep a remark that explains figures but is no fault."""
        self.raw.setdefault("notes", []).append(text)

    def show(self) -> None:
        """Print the table."""
        table = Table(title=f"{self.scenario}  {_shown(self.settings)}", title_justify="left")
        for heading in ("figure", "measured", "target", ""):
            table.add_column(heading, justify="left" if heading in ("figure", "") else "right")
        for one in self.figures:
            sign = "≥" if one.better == "more" else "≤"
            target = "" if one.target is None else f"{sign} {_number(one.target)} {one.unit}"
            verdict = {None: "", True: "[green]met[/]", False: "[yellow]NOT met[/]"}[one.is_met]
            table.add_row(one.name, f"{_number(one.value)} {one.unit}", target, verdict)
        console.print(table)
        for note in self.raw.get("notes", ()):
            console.print(f"note: {note}")
        for fault in self.faults:
            console.print(f"[red]BROKEN[/] {fault}")

    def save(self, folder: Path) -> Path:
        """Write the JSON file and return its name."""
        now = datetime.datetime.now(datetime.UTC)
        folder.mkdir(parents=True, exist_ok=True)
        words = [now.strftime("%Y%m%d-%H%M%S"), self.scenario]
        words += [str(self.settings[name]) for name in ("store",) if name in self.settings]
        path = folder / ("-".join(words) + ".json")
        content = {
            "scenario": self.scenario,
            "date": now.isoformat(timespec="seconds"),
            "commit": commit(),
            "command": " ".join(["python -m", f"bench.{self.scenario}", *sys.argv[1:]]),
            "settings": self.settings,
            "machine": self._machine,
            "figures": [asdict(one) | {"met": one.is_met} for one in self.figures],
            "faults": self.faults,
            "raw": self.raw,
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        console.print(f"saved: {os.path.relpath(path)}\n")
        return path


def _shown(settings: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in settings.items() if value not in (None, "")
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def commit() -> str:
    """Return the commit of the checkout, with a + when files differ from it."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine(data_parent: Path) -> dict[str, object]:
    """Return what the figures depend on, and nothing that names the machine."""
    facts = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
    )
    cpu = next((v.strip() for k, v in facts.items() if k.strip() == "model name"), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_mib": memory >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": _filesystem(data_parent),
        "fsync_ms": round(_fsync_ms(data_parent), 3),
        "load_before": os.getloadavg()[0],
    }


def _filesystem(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(at, kind) for at, kind in mounts if folder.resolve().is_relative_to(at)]
    return max(above, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def _fsync_ms(parent: Path) -> float:
    """Return the median time of writing 4 KiB durably where the data will be."""
    path = parent / f".bench-fsync-{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        times = []
        for _ in range(_FSYNC_ROUNDS):
            os.write(fd, bytes(4096))
            began_s = time.perf_counter()
            os.fdatasync(fd)
            times.append(time.perf_counter() - began_s)
        return sorted(times)[len(times) // 2] * 1000
    finally:
        os.close(fd)
        path.unlink()


class Bar:
    """A progress bar over the steps of a scenario and the phases of the generator."""

    def __init__(self, steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<58}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=steps)
        self._step = ""

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """Begin the next step."""
        if self._step:
            self._progress.advance(self._task)
        self._step = text
        if console.is_terminal:
            self._progress.update(self._task, description=text)
        else:
            console.print(f"… {text}")

    def follow(self, progress: loadgen.Progress) -> None:
        """Show what the generator is doing."""
        if progress.phase == "lost":
            self._progress.console.print(f"lost a connection: {progress.why} bye {progress.bye}")
            return
        state = f"{progress.phase} {progress.ready:,}/{progress.of:,}"
        self._progress.update(self._task, description=f"{self._step}: {state}")
