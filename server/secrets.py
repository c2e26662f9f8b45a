"""Secrets in files: where settings point at them, and those that a server makes for itself."""

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ai_bridge.secrets import Secret

_MAX_SECRET_FILE_BYTES: Final = 64 * 1024


def resolve_secret(text: str, env: Mapping[str, str], folder: Path) -> Secret:
    """Return the secret that text is, or that it points at: `env:NAME` or `file:path`.

    A relative path counts from folder. One line end at the end of a file is cut off.

    Raises:
        ValueError: what it points at is missing or cannot be read; says so without the content.
    """
    if text.startswith("env:"):
        name = text[4:]
        if name not in env:
            raise ValueError(f"the environment variable {name} is not set")
        return Secret(env[name])
    if text.startswith("file:"):
        return Secret(_read_secret_file(folder / Path(text[5:]).expanduser()))
    return Secret(text)


def create_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a file that only its owner may read, if there is none yet.

    Whoever comes first wins; a half-written file is never seen.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def read_private(path: Path) -> bytes:
    """Return the content of a file of secrets, and take it away from everybody but its owner.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path.read_bytes()


def _read_secret_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SECRET_FILE_BYTES + 1)
        if len(content) > _MAX_SECRET_FILE_BYTES:
            raise ValueError(f"{path} is too large for a secret")
        return content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
