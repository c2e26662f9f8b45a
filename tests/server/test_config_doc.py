"""docs/configuration.md says what the code says."""

from pathlib import Path

from server.config_doc import render
from server.config_source import ENTRIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(), "run: parlance config-doc"


def test_every_setting_says_what_it_is_for() -> None:
    assert [key for key, entry in ENTRIES.items() if not entry.about] == []
