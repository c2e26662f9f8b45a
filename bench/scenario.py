"""What all scenarios share: their options, the place they run in, how they end."""

import argparse
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import loadgen
from bench.fixture import STORES, ServerFailed, ServerUnderTest, Setup, place, serving
from bench.processes import OTHER_CORE, can_pin
from bench.report import RESULTS, Report, console
from bench.seed import Group, Seeded, seed

EXIT_BROKEN: Final = 1


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every scenario has."""
    words = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--store", choices=STORES, default="sqlite", help="default: sqlite")
    words.add_argument(
        "--profile",
        action="store_true",
        help="run the server under pyinstrument (slower) and save its report beside the result",
    )
    words.add_argument("--results", type=Path, default=RESULTS, help="default: bench/results")
    words.add_argument(
        "--data-parent",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="folder for the data; must be on a real disk to mean anything",
    )
    return words


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the options that shape the figures."""
    hidden = ("results", "data_parent")
    return {name: value for name, value in vars(args).items() if name not in hidden}


class Scenario:
    """One run: options, report, and servers to measure."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.args = args
        self.report = Report(name, settings_of(args), args.data_parent)
        self._profiles = 0

    @contextmanager
    def server(
        self, users: int, groups: Sequence[Group] = (), **overrides: Mapping[str, object]
    ) -> Iterator[tuple[ServerUnderTest, Seeded]]:
        """Run a server on a fresh database with users and groups in it."""
        setup = Setup(self.args.store, overrides, self._profile(), self.args.data_parent)
        with place(setup) as where:
            seeded = seed(where.url, users, groups)
            with serving(where, seeded.users[-1]) as server:
                yield server, seeded

    def _profile(self) -> Path | None:
        if not self.args.profile:
            return None
        self._profiles += 1
        folder: Path = self.args.results
        folder.mkdir(parents=True, exist_ok=True)
        name = f"profile-{self.report.scenario}-{self.args.store}-{self._profiles}.txt"
        self.report.note(f"the server ran under pyinstrument: slower; see {name}")
        return folder / name


def main(name: str, args: argparse.Namespace, measure: Callable[[Scenario], None]) -> int:
    """Run a scenario, print and save what it found; return the exit status.

    Figures below their targets are no failure; whatever broke is.
    """
    if can_pin():
        os.sched_setaffinity(0, {OTHER_CORE})
    else:
        console.print("[yellow]fewer than two cores: nothing is pinned, figures mean little[/]")
    # Ended from outside is ended like from the keyboard: servers and folders are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenario = Scenario(name, args)
    try:
        loadgen.build()
        measure(scenario)
    except (ServerFailed, loadgen.LoadError) as error:
        scenario.report.faults.append(str(error))
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    scenario.report.show()
    scenario.report.save(args.results)
    return EXIT_BROKEN if scenario.report.faults else 0
