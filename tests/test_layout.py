"""The shape of the repository: packages, folders, and what must not be committed."""

from __future__ import annotations

import configparser
import glob
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ("server", "protocol", "storage", "ai_bridge", "clients")
PACKAGES = (*INSTALLED, "bench", "tests")
FOLDERS = {*PACKAGES, "docs", ".ci", "deploy", "examples"}
TEXT_SUFFIXES = {
    *(".py", ".md", ".toml", ".cfg", ".sh", ".sql", ".json", ".js", ".mjs", ".ts", ".html", ".css"),
    *(".yml", ".yaml", ".conf", ".service", ".txt", ""),
}


@cache
def project_files() -> tuple[Path, ...]:
    """Return what is or would be committed, relative to the root."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = (Path(name) for name in listing.split("\0") if name)
    return tuple(path for path in files if (ROOT / path).is_file())


def lines_matching(pattern: str) -> list[str]:
    """Return the places of all text files that match, as path:line."""
    searched = re.compile(pattern)
    return [
        f"{path}:{number}"
        for path in project_files()
        if path.suffix in TEXT_SUFFIXES
        for number, line in enumerate(
            (ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines(), 1
        )
        if searched.search(line)
    ]


NOT_INSTALLED = ("clients/web/sdk/test", "protocol/vectors")
"""What only tests read."""


def test_what_is_installed_has_every_file_of_the_packages() -> None:
    """A server that was installed, not checked out, needs its tables, personas and pages, too."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = settings["options.package_data"]
    installed: set[Path] = set()
    packages = [path.parent for path in project_files() if path.name == "__init__.py"]
    for folder in packages:
        name = ".".join(folder.parts)
        for pattern in (patterns["*"] + patterns.get(name, "")).split():
            found = glob.glob(pattern, root_dir=ROOT / folder, recursive=True)
            installed.update(folder / one for one in found)
    files = {path for path in project_files() if path.parts[0] in INSTALLED}
    plain = {
        path
        for path in files
        if path.suffix != ".py" and not path.as_posix().startswith(NOT_INSTALLED)
    }
    assert len(plain) > 100
    assert plain - installed == set()
    assert {Path(name, "py.typed") for name in INSTALLED} <= installed


@pytest.mark.parametrize("name", PACKAGES)
def test_package_comes_from_this_checkout(name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin == str(ROOT / name / "__init__.py")


def test_no_other_distribution_provides_our_names() -> None:
    providers = importlib.metadata.packages_distributions()
    strangers = {name: set(providers.get(name, ())) - {"parlance"} for name in PACKAGES}
    assert not any(strangers.values()), strangers


def test_only_the_five_packages_would_be_installed() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    include = config["options.packages.find"]["include"].split()
    assert sorted(include) == sorted([*INSTALLED, *(f"{name}.*" for name in INSTALLED)])


def test_only_known_folders_stand_at_the_top() -> None:
    folders = {path.parts[0] for path in project_files() if len(path.parts) > 1}
    assert folders <= FOLDERS


def test_every_python_folder_is_a_package() -> None:
    folders = {
        path.parent
        for path in project_files()
        if path.suffix == ".py" and path.parts[0] in PACKAGES
    }
    missing = [str(path) for path in sorted(folders) if not (ROOT / path / "__init__.py").exists()]
    assert missing == []


def test_module_names_say_what_is_inside() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    assert [str(path) for path in project_files() if path.name in vague] == []


# The words searched for are written in pieces, so that this file does not find itself.


def test_nothing_is_put_off_by_a_marker() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    found = lines_matching(rf"\b({'|'.join(words)})\b")
    # Other people's libraries are kept as they were published.
    assert [line for line in found if not line.startswith("clients/web/vendor/")] == []


def test_no_package_registry_host_is_named() -> None:
    hosts = (
        r"pypi\." + "org",
        r"python" + r"hosted\.org",
        r"deb\.debian\." + "org",
        r"security\.debian\." + "org",
        r"registry\.npmjs\." + "org",
        r"proxy\.golang\." + "org",
    )
    assert lines_matching("|".join(hosts)) == []


def test_no_path_of_one_machine_is_named() -> None:
    places = ("work", "root", "farm", "home/[a-z]+/(src|work|code|parlance)")
    assert lines_matching(rf"(?<![\w.$~}}/-])/({'|'.join(places)})/") == []
