"""Who used the processors while something was measured."""

import time
from typing import Final

from bench import loadgen
from bench.processes import SERVER_CORE, core_busy_s, cpu_s
from bench.report import Bar, Report

OTHERS_SHARE: Final = 0.08
"""Of the server's core; the kernel's own work stays below it."""


class Shares:
    """Who used the processors while the generator measured, as shares of one core.

    Attributes:
        others: what other programs took of the server's core; the figures suffer by it.
    """

    def __init__(self, bar: Bar, server_pid: int, database_pid: int | None = None) -> None:
        self._bar = bar
        self._server_pid = server_pid
        self._database_pid = database_pid
        self._first: tuple[float, ...] = ()
        self.server = 0.0
        self.database = 0.0
        self.others = 0.0

    def follow(self, progress: loadgen.Progress) -> None:
        """Take a reading with each line of the generator."""
        self._bar.follow(progress)
        if progress.phase != "measure":
            return
        database_s = cpu_s(self._database_pid) if self._database_pid else 0.0
        server_s, busy_s = cpu_s(self._server_pid), core_busy_s(SERVER_CORE)
        now = (time.monotonic(), server_s, database_s, busy_s)
        if not self._first:
            self._first = now
        elif now[0] > self._first[0]:
            seconds = now[0] - self._first[0]
            self.server = (now[1] - self._first[1]) / seconds
            self.database = (now[2] - self._first[2]) / seconds
            self.others = max(0.0, (now[3] - self._first[3]) / seconds - self.server)

    def add_to(self, report: Report, name: str) -> None:
        """Report the shares; remark when the machine was not ours alone."""
        report.add(f"CPU of the server, {name}", self.server * 100, "%")
        if self._database_pid:
            report.add(f"CPU of the database, {name}", self.database * 100, "%")
        if self.others > OTHERS_SHARE:
            report.note(f"{name}: other programs took {self.others:.0%} of the server's core")
