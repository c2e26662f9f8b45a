"""Server programs for tests: found on this machine, or unpacked from the distribution's packages.

Nothing is installed into the host. On Debian, apt resolves and verifies a package with all it
needs (signed index, hashes) in a private state directory; the files are unpacked side by side and
started through their own dynamic loader with their own libraries. So MySQL from the unstable suite
runs on an older Debian, and no root rights are needed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["mysql", "mariadb", "redis"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TITLES: dict[Kind, str] = {"mysql": "MySQL", "mariadb": "MariaDB", "redis": "Redis"}


class ServerUnavailable(Exception):
    """This machine cannot run the server; the text says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """Where a server program comes from.

    Attributes:
        package: the package that holds it.
        binary: its path below the unpacked root.
        commands: names to look for on PATH where packages cannot be unpacked.
        suite: release to take it from; empty for the host's own.
    """

    package: str
    binary: str
    commands: tuple[str, ...]
    suite: str = ""


RECIPES: dict[Kind, Recipe] = {
    # MySQL stands only in Debian's unstable suite.
    "mysql": Recipe("mysql-server-core", "usr/sbin/mysqld", ("mysqld",), suite="sid"),
    "mariadb": Recipe("mariadb-server-core", "usr/sbin/mariadbd", ("mariadbd",)),
    # `redis-server` is another name of the program in redis-tools, which pulls in far less.
    "redis": Recipe("redis-tools", "usr/bin/redis-check-rdb", ("redis-server", "valkey-server")),
}

# Packages that the dependency lists name (for maintainer scripts and Perl helpers) but that the
# server itself never loads.
_NEEDLESS = re.compile(
    r"^(perl.*|libperl.*|libgdbm.*|libdb5.*|openssl-provider-legacy|libc-gconv-modules-extra"
    r"|gcc-.*-base|adduser|passwd|debconf|dpkg|tar|usrmerge|init-system-helpers|sysvinit-utils"
    r"|lsb-base|lib(pam|audit|semanage|sepol).*|.*-common)$"
)
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Program:
    """One runnable server program.

    Attributes:
        prefix: words before the program's own options.
        root: the unpacked tree; None when the program belongs to the host.
        version: changes whenever the program does.
    """

    prefix: tuple[str, ...]
    root: Path | None
    version: str


def announce(text: str) -> None:
    """Print one progress line at once; standard output stays for results."""
    print(f"[servers] {text}", file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """Return the directory for programs and throw-away data; created if missing.

    PARLANCE_TEST_SERVERS_DIR names another. Root uses /var/tmp, because the server itself runs as
    an unprivileged user who could not enter root's home.
    """
    if chosen := os.environ.get("PARLANCE_TEST_SERVERS_DIR"):
        path = Path(chosen).absolute()
    elif os.geteuid() == 0:
        path = Path("/var/tmp/parlance-test-servers")
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        path /= "parlance-test-servers"
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ServerUnavailable(f"{path} is not a directory that only this user can write")
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock NAME of the cache directory, against threads and other processes."""
    path = cache_dir() / "locks" / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_program(kind: Kind) -> Program:
    """Return the server program of this kind, unpacking it first if needed (tens of seconds).

    Safe to call from several processes at once.

    Raises:
        ServerUnavailable: with the reason and the way out.
    """
    recipe = RECIPES[kind]
    root = cache_dir() / "programs" / f"{kind}-{os.uname().machine}"
    with locked(f"program-{kind}"):
        if not (root / ".complete").exists():
            if not _can_unpack():
                return _find_on_path(kind, "packages can be unpacked only on Debian, with apt-get")
            try:
                _unpack(recipe, root)
            except (OSError, subprocess.SubprocessError) as error:
                return _find_on_path(kind, f"unpacking {recipe.package} failed: {_reason(error)}")
    return _unpacked_program(recipe, root)


def _can_unpack() -> bool:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return False
    return re.search(r"^ID=\"?debian\"?$", text, re.MULTILINE) is not None


def _find_on_path(kind: Kind, why_not: str) -> Program:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    for command in RECIPES[kind].commands:
        if found := shutil.which(command, path=path):
            version = subprocess.run(
                [found, "--version"], capture_output=True, text=True, check=False
            ).stdout.strip()
            if kind == "mysql" and "MariaDB" in version:
                continue  # some distributions name MariaDB's server mysqld
            return Program((found,), None, version)
    raise ServerUnavailable(
        f"{TITLES[kind]}: {why_not}; no {' or '.join(RECIPES[kind].commands)} on PATH; "
        f"set PARLANCE_TEST_{kind.upper()}_URL to use a server of your own"
    )


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr or error).strip().splitlines()
        return lines[-1] if lines else "no reason given"
    return str(error)


def _unpacked_program(recipe: Recipe, root: Path) -> Program:
    version, binary = (root / ".complete").read_text().strip(), root / recipe.binary
    loaders = sorted(
        found for top in ("usr/lib*", "lib*") for found in root.glob(f"{top}/**/ld-linux*.so.*")
    )
    if not loaders:
        raise ServerUnavailable(f"{root} holds no dynamic loader; delete it and try again")
    folders = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    folders += [root / "usr/lib/mysql/private"]
    libraries = ":".join(str(folder) for folder in folders if folder.is_dir())
    # Redis decides by the name it was called by which of its programs to be.
    name = binary.with_name("redis-server") if recipe.package == "redis-tools" else binary
    loader = (str(loaders[0]), "--library-path", libraries, "--argv0", str(name))
    return Program((*loader, str(binary)), root, version)


def _unpack(recipe: Recipe, root: Path) -> None:
    announce(f"fetching {recipe.package} ({recipe.suite or 'this release'}) …")
    started_s = time.monotonic()
    state, fresh = root.with_name(root.name + ".apt"), root.with_name(root.name + ".new")
    for path in (state, fresh, root):
        shutil.rmtree(path, ignore_errors=True)
    archives = state / "cache/archives"
    for path in (state / "lists/partial", archives / "partial", state / "preferences.d", fresh):
        path.mkdir(parents=True)
    environment = _write_apt_state(state, recipe)
    _apt(environment, "-qq", "update")
    listing = _apt(environment, "-qq", "-s", "install", recipe.package)
    packages = re.findall(r"^Inst (\S+) \((\S+)", listing, re.MULTILINE)
    wanted = [name for name, _ in packages if not _NEEDLESS.match(name)]
    _apt(environment, "-qq", "download", *wanted, cwd=archives)
    debs = sorted(archives.glob("*.deb"))
    size_mb = sum(deb.stat().st_size for deb in debs) / 1e6
    for deb in debs:
        subprocess.run(["dpkg", "-x", deb, fresh], check=True, capture_output=True, text=True)
    for folder in ("doc", "man", "locale", "info", "lintian", "bash-completion"):
        shutil.rmtree(fresh / "usr/share" / folder, ignore_errors=True)
    (fresh / ".complete").write_text(f"{recipe.package} {dict(packages)[recipe.package]}\n")
    fresh.rename(root)
    shutil.rmtree(state)
    took_s = time.monotonic() - started_s
    announce(f"{recipe.package} is there: {len(debs)} packages, {size_mb:.0f} MB, {took_s:.0f} s")


def _write_apt_state(state: Path, recipe: Recipe) -> dict[str, str]:
    """Write a private apt configuration; return the environment that selects it."""
    (state / "status").touch()  # nothing counts as installed, so apt lists every dependency
    lines = [
        f'Dir::State "{state}";',
        f'Dir::State::status "{state}/status";',
        f'Dir::State::lists "{state}/lists";',
        f'Dir::Cache "{state}/cache";',
        'APT::Install-Recommends "false";',
        'APT::Sandbox::User "";',
        'Acquire::Languages "none";',
        'Acquire::Retries "3";',
        # A frozen mirror's index may be past its date; signatures and hashes are still checked.
        'Acquire::Check-Valid-Until "false";',
    ]
    if recipe.suite:
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        source = f"deb {signed}{_mirror()} {recipe.suite} main\n"
        (state / "sources.list").write_text(source)
        lines += [
            f'Dir::Etc::sourcelist "{state}/sources.list";',
            'Dir::Etc::sourceparts "-";',
            f'Dir::Etc::preferencesparts "{state}/preferences.d";',
        ]
    (state / "apt.conf").write_text("\n".join(lines) + "\n")
    return {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C.UTF-8"}


def _mirror() -> str:
    """Return the address of the host's own archive, whatever the form of its source files."""
    targets = _apt(
        dict(os.environ),
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    )
    for line in targets.splitlines():
        address, release, component = line.rsplit(" ", 2)
        if component == "main" and "security" not in release and "updates" not in release:
            return address
    raise OSError("apt knows no archive of this release")


def _apt(environment: dict[str, str], *words: str, cwd: Path | None = None) -> str:
    command = ["apt-get", *words]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=cwd, timeout=600
    ).stdout
