"""What a client keeps between two starts: its device id and the messages not yet acknowledged."""

import fcntl
import os
import secrets
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from clients.errors import StateInUse
from clients.outbox import Unsent


class Saved(Struct):
    """Contents of a state.

    Attributes:
        device: 16 random bytes that name this installation; the server keeps one connection each.
        unsent: messages without an acknowledgement.
    """

    device: bytes
    unsent: list[Unsent] = []


class State(Protocol):
    """Where a client keeps what must outlive it.

    Attributes:
        durable: False when `save` needs not be waited for before a message is sent.
    """

    durable: bool

    def load(self) -> Saved:
        """Return what was saved last; a fresh device id the first time."""
        ...

    def save(self, encoded: bytes) -> None:
        """Keep an encoded `Saved`. Called from a worker thread, never twice at once."""
        ...

    def close(self) -> None:
        """Let go of whatever is held."""
        ...


class MemoryState:
    """Nothing outlives the process; every start is a new device."""

    durable = False

    def __init__(self) -> None:
        self._saved = Saved(secrets.token_bytes(16))

    def load(self) -> Saved:
        """Return the device id of this process."""
        return self._saved

    def save(self, encoded: bytes) -> None:
        """Keep it in memory, for another client of the same process."""
        self._saved = decode_saved(encoded)

    def close(self) -> None:
        """Nothing to let go of."""


class FileState:
    """One file, replaced whole on every change and readable by its owner only.

    A message is on disk before it is sent for the first time, so a process that dies between
    "send" and the acknowledgement sends it again at its next start, under the same cid.
    A file that cannot be read is set aside and begun anew.

    Raises:
        StateInUse: another process holds the file.
    """

    durable = True

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise StateInUse(f"{self._path} is used by another running client") from None

    def load(self) -> Saved:
        """Read the file; write a first one with a fresh device id if there is none."""
        try:
            saved = decode_saved(self._path.read_bytes())
            if len(saved.device) == 16:
                return saved
        except FileNotFoundError:
            pass
        except msgspec.DecodeError:
            self._path.replace(self._path.with_suffix(".broken"))
        saved = Saved(secrets.token_bytes(16))
        self.save(encode_saved(saved))
        return saved

    def save(self, encoded: bytes) -> None:
        """Replace the file; what it holds is on disk when this returns."""
        write_private(self._path, encoded)

    def close(self) -> None:
        """Let other processes use the file."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def encode_saved(saved: Saved) -> bytes:
    """Return the bytes that `State.save` takes."""
    return msgspec.json.encode(saved)


def decode_saved(encoded: bytes) -> Saved:
    """Return what `encode_saved` was given."""
    return msgspec.json.decode(encoded, type=Saved)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by new content that only its owner can read; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
