"""Where a running server listens: noted in its data folder, for the commands beside it.

The settings alone do not tell: a port can be given to `serve` only, or be chosen by the system.
"""

import contextlib
from pathlib import Path
from typing import Final, NamedTuple

NAME: Final = "listening"
_MAX_CHARS: Final = 300


class Address(NamedTuple):
    """`host` as it was asked for, which may stand for every address of the machine."""

    host: str
    port: int


def note_address(folder: Path, address: Address) -> None:
    """Write down where this server listens, in the place of whoever did before.

    Raises:
        OSError: it cannot be written.
    """
    draft = folder / f"{NAME}.{address.port}"
    draft.write_text(f"{address.host} {address.port}\n", encoding="utf-8")
    draft.replace(folder / NAME)


def drop_address(folder: Path, address: Address) -> None:
    """Take the note away, unless another server has written its own meanwhile."""
    with contextlib.suppress(OSError):
        if noted_address(folder) == address:
            (folder / NAME).unlink()


def noted_address(folder: Path) -> Address | None:
    """Return where a server of this folder listens, or did before it was killed; None: unknown."""
    try:
        with (folder / NAME).open(encoding="utf-8") as file:
            host, port = file.read(_MAX_CHARS).split()
        found = Address(host, int(port))
    except (OSError, ValueError):
        return None
    return found if 0 < found.port < 65_536 else None
