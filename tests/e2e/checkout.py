"""This checkout as a newcomer has it, but with a server of the test behind the address it names."""

import re
import sys
from pathlib import Path
from typing import Final

from tests.e2e.harness import ROOT

ADDRESS: Final = "127.0.0.1:8420"
"""What the documents and the examples name."""

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def make_checkout(folder: Path, port: int) -> Path:
    """Return a folder that looks like the checkout; only the port in the examples is another."""
    for path in ROOT.iterdir():
        if path.name not in ("examples", ".venv", "data", "parlance.toml"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "examples").mkdir()
    for path in (ROOT / "examples").iterdir():
        if path.is_file():
            text = path.read_text("utf-8").replace(ADDRESS, f"127.0.0.1:{port}")
            (folder / "examples" / path.name).write_text(text, "utf-8")
    return folder


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    found = _FENCE.findall(page.read_text("utf-8"))
    return [text for name, text in found if name == language]


def command_with(page: Path, word: str) -> str:
    """Return the only shell block that names this."""
    (found,) = (text for text in blocks(page, "sh") if word in text)
    return found
