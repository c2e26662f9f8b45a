"""What the terminal client remembers between two starts: accounts, and where it was."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from clients.auth import Tokens
from clients.state import write_private

DEMO = "demo"


class Remembered(Struct):
    """One account of one server.

    Attributes:
        conv: conversation that was open last.
    """

    tokens: Tokens
    conv: int = 0


class _Accounts(Struct):
    accounts: dict[str, Remembered] = {}
    last: dict[str, str] = {}


class Home:
    """Files in the user's own folders, readable by the user only.

    Accounts with their tokens live in the configuration folder, the outbox and what was typed in
    the state folder (XDG base directories).
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        base = Path(environ.get("HOME") or Path.home())
        config = Path(environ.get("XDG_CONFIG_HOME") or base / ".config")
        state = Path(environ.get("XDG_STATE_HOME") or base / ".local" / "state")
        self._file = config / "parlance" / "accounts.json"
        self._state = state / "parlance"

    def account(self, url: str, user: str) -> Remembered | None:
        """Return a remembered account of a server; user is a name, or `DEMO`."""
        return self._load().accounts.get(_key(url, user))

    def last_user(self, url: str) -> str:
        """Return who signed in last by name on this server; "" when nobody did."""
        return self._load().last.get(url, "")

    def keep_tokens(self, url: str, user: str, tokens: Tokens) -> None:
        """Remember the tokens of an account."""
        held = self._load()
        entry = held.accounts.get(_key(url, user))
        if entry is not None and entry.tokens.user.id == tokens.user.id:
            entry.tokens = tokens
        else:
            held.accounts[_key(url, user)] = Remembered(tokens)
        if user != DEMO:
            held.last[url] = user
        self._save(held)

    def keep_conv(self, url: str, user: str, conv: int) -> None:
        """Remember which conversation is open."""
        held = self._load()
        entry = held.accounts.get(_key(url, user))
        if entry is not None and entry.conv != conv:
            entry.conv = conv
            self._save(held)

    def forget(self, url: str, user: str) -> None:
        """Forget an account: its tokens are no good any more."""
        held = self._load()
        if held.accounts.pop(_key(url, user), None) is not None:
            self._save(held)

    def state_file(self, url: str, user: str) -> Path:
        """Return where the outbox of an account is kept."""
        digest = hashlib.sha256(_key(url, user).encode()).hexdigest()[:16]
        return self._state / f"outbox-{digest}.json"

    def input_history(self) -> Path:
        """Return the file of what was typed; it exists and is private."""
        path = self._state / "typed"
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600, exist_ok=True)
        return path

    def _load(self) -> _Accounts:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Accounts)
        except FileNotFoundError:
            return _Accounts()
        except msgspec.DecodeError:
            self._file.replace(self._file.with_suffix(".broken"))
            return _Accounts()

    def _save(self, accounts: _Accounts) -> None:
        write_private(self._file, msgspec.json.format(msgspec.json.encode(accounts), indent=2))


def _key(url: str, user: str) -> str:
    return f"{user} {url}"
