"""docs/configuration.md says what the code says."""

import re
from pathlib import Path

from server.config_doc import render
from server.config_source import ENTRIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(), "run: parlance config-doc"


def test_every_setting_is_read_somewhere() -> None:
    folder = Path(__file__).parents[2] / "server"
    sources = [path for path in folder.rglob("*.py") if path.name != "config_sections.py"]
    read = set(re.findall(r"\.(\w+)", "\n".join(path.read_text() for path in sources)))
    assert [key for key in ENTRIES if key.split(".")[1] not in read] == []


def test_every_setting_says_what_it_is_for() -> None:
    assert [key for key, entry in ENTRIES.items() if not entry.about] == []
