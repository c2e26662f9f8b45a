"""What the kernel knows about a process: memory, processor time, which core it may use."""

import contextlib
import os
from pathlib import Path
from typing import Final

SERVER_CORE: Final = 0
OTHER_CORE: Final = 1
"""For the database server and whatever makes load."""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def can_pin() -> bool:
    """Tell whether this machine has both cores; otherwise nothing is pinned."""
    return {SERVER_CORE, OTHER_CORE} <= set(range(os.cpu_count() or 1))


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process, and those it starts later, on one core."""
    if not can_pin():
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


def rss_bytes(pid: int) -> int:
    """Return the memory of a process that is resident now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, all threads, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def core_busy_s(core: int) -> float:
    """Return how long a core has been busy, whoever used it."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            idle, waiting_for_disk = int(ticks[3]), int(ticks[4])
            return (sum(map(int, ticks[:8])) - idle - waiting_for_disk) / _TICKS_PER_S
    return 0.0
