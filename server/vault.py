"""Keys of AI services at rest: sealed with AES-256-GCM, so that a dump of the database tells none.

The name of what is sealed is authenticated with it: a value copied to another row does not open.
A sealed value names the master key that opens it, so that keys can be replaced one after another.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ai_bridge.secrets import Secret
from server.secrets import create_once, read_private

KEY_FILE: Final = "master.key"
KEY_BYTES: Final = 32
_FORMAT: Final = b"\x01"
_KID_BYTES: Final = 4
_NONCE_BYTES: Final = 12


class VaultError(ValueError):
    """A value does not open, or a master key is none; the text says what to do."""


class Vault:
    """Seals and opens short texts.

    Args:
        keys: master keys of 32 bytes; the first one seals, all of them open.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a vault needs a key")
        self._ciphers = {_kid(key): AESGCM(key) for key in keys}
        self._kid = _kid(keys[0])

    def seal(self, name: str, text: Secret) -> bytes:
        """Return a text sealed under a name."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._kid].encrypt(nonce, text.reveal().encode(), name.encode())
        return _FORMAT + self._kid + nonce + sealed

    def open(self, name: str, sealed: bytes) -> Secret:
        """Return what was sealed under this name.

        Raises:
            VaultError: no key opens it, or it was not sealed under this name.
        """
        kid = sealed[1 : 1 + _KID_BYTES]
        cipher = self._ciphers.get(kid) if sealed[:1] == _FORMAT else None
        if cipher is None:
            raise VaultError(
                f"the key of {name} was sealed with another master key; "
                "add that one to server.old_master_keys, or set the key anew"
            )
        rest = sealed[1 + _KID_BYTES :]
        try:
            text = cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            raise VaultError(f"the key of {name} is damaged; set it anew") from None
        return Secret(text.decode())

    def is_current(self, sealed: bytes) -> bool:
        """Tell whether the first master key has sealed this."""
        return sealed[:1] == _FORMAT and sealed[1 : 1 + _KID_BYTES] == self._kid


def _kid(key: bytes) -> bytes:
    return hashlib.sha256(b"parlance master key" + key).digest()[:_KID_BYTES]


def parse_master_key(text: str) -> bytes:
    """Read a master key: 32 bytes in base64 or hexadecimal.

    Raises:
        VaultError: it is neither.
    """
    cleaned = text.strip()
    for decode in (bytes.fromhex, _from_base64):
        try:
            key = decode(cleaned)
        except ValueError:
            continue
        if len(key) == KEY_BYTES:
            return key
    raise VaultError(
        "a master key is 32 random bytes in base64 or hexadecimal; "
        "make one with: openssl rand -base64 32"
    )


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def make_vault(master_key: Secret, old: Sequence[Secret], data_dir: Path) -> Vault:
    """Return the vault of this server; without a configured key one is kept in data_dir.

    Reads files: call it at start, not on the loop.

    Raises:
        VaultError: a key cannot be used.
        OSError: the key file cannot be read or written.
    """
    if master_key:
        first = parse_master_key(master_key.reveal())
    else:
        path = data_dir / KEY_FILE
        create_once(path, lambda: base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
        first = parse_master_key(read_private(path).decode("ascii", "replace"))
    return Vault([first, *(parse_master_key(key.reveal()) for key in old)])
