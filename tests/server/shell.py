"""The command line, run within the test's own process."""

from pathlib import Path

import pytest

from server.__main__ import app, put_first
from server.commands.context import command_line


class Shell:
    """Runs commands on one data folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def run(self, *words: str, code: int = 0) -> str:
        """Run one command; return what it printed."""
        # A port that nobody listens on: the commands look whether a server is running.
        base = ["--data-dir", str(self.folder), "--set", "server.port=1"]
        self._capsys.readouterr()
        done = command_line(app, put_first([*words, *base]))
        out, err = self._capsys.readouterr()
        assert done == code, out + err
        return out + err
