"""Make the virtual environment .venv and install what setup.cfg names, with visible progress.

usage: bootstrap.py runtime|test|dev

The checkout itself is not installed: programs and tests run from it. When done, a stamp file per
set is touched (.venv/.stamp-SET), which the Makefile compares with setup.cfg. A larger set holds
the smaller ones, so their stamps are touched too. Needs nothing but the standard library.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
SETS = ("runtime", "test", "dev")
MIN_VERSION = (3, 11)
CONNECTION_HINT = "Is the network there? Run the same command again: what was fetched is kept."


def read_requirements(chosen: str) -> list[str]:
    """Return the requirement lines of one set."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = split_lines(config["options"]["install_requires"])
    return lines if chosen == "runtime" else lines + read_extra(config, chosen)


def read_extra(config: configparser.ConfigParser, name: str) -> list[str]:
    """Return the lines of an extra, with those of the other extras of ours that it names."""
    ours = re.compile(re.escape(config["metadata"]["name"]) + r"\[(\w+)\]")
    lines = []
    for line in split_lines(config["options.extras_require"][name]):
        other = ours.fullmatch(line)
        lines += [line] if other is None else read_extra(config, other[1])
    return lines


def split_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def venv_python() -> Path:
    return VENV / "bin" / "python"


def venv_works() -> bool:
    """Tell whether .venv holds a Python that starts, is new enough, and has pip."""
    check = f"import sys, pip; sys.exit(sys.version_info < {MIN_VERSION})"
    try:
        done = subprocess.run([venv_python(), "-c", check], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def make_venv() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Creating {VENV.name} with Python {version} …", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nOn Debian and Ubuntu: apt install python3-venv")


def install(requirements: list[str]) -> None:
    """Run pip; show one line that moves on a terminal, and pip's own words only if it fails."""
    command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--no-input", "--prefer-binary", "--progress-bar", "off", *requirements]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    lines: list[str] = []
    with process.stdout as output:
        for line in output:
            lines.append(line)
            show_progress(line)
    if process.wait():
        sys.exit("\n" + "".join(lines[-25:]) + f"\nInstalling failed. {CONNECTION_HINT}")


def show_progress(line: str) -> None:
    words = line.split()
    if sys.stdout.isatty() and words and words[0] in ("Collecting", "Downloading", "Installing"):
        what = words[1].rsplit("/", 1)[-1] if len(words) > 1 else ""
        print(f"\r\x1b[K  {words[0].lower()} {what[:60]}", end="", flush=True)


def main(words: list[str]) -> None:
    if len(words) != 1 or words[0] not in SETS:
        sys.exit(__doc__)
    if sys.version_info < MIN_VERSION:
        sys.exit("Parlance needs Python 3.11 or newer.")
    chosen = words[0]
    started_s = time.monotonic()
    if not venv_works():
        make_venv()
    requirements = read_requirements(chosen)
    print(f"Installing {len(requirements)} packages into {VENV.name} ({chosen}) …", flush=True)
    install(requirements)
    for name in SETS[: SETS.index(chosen) + 1]:
        (VENV / f".stamp-{name}").touch()
    end = "\r\x1b[K" if sys.stdout.isatty() else ""
    print(f"{end}Installed in {time.monotonic() - started_s:.0f} s.", flush=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    main(sys.argv[1:])
