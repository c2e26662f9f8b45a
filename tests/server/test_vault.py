"""Keys at rest: sealed under a name, opened by any known master key, and never shown."""

import base64
import os
from pathlib import Path

import pytest

from ai_bridge.secrets import Secret
from server.vault import KEY_BYTES, KEY_FILE, Vault, VaultError, make_vault, parse_master_key

NAME = "provider/openai"
KEY = Secret("sk-密钥-0123")


def fresh() -> bytes:
    return os.urandom(KEY_BYTES)


def test_what_is_sealed_opens_and_does_not_show() -> None:
    vault = Vault([fresh()])
    sealed = vault.seal(NAME, KEY)
    assert vault.open(NAME, sealed) == KEY
    assert KEY.reveal().encode() not in sealed
    assert vault.seal(NAME, KEY) != sealed, "each sealing is its own"


def test_a_value_opens_under_its_own_name_only() -> None:
    vault = Vault([fresh()])
    sealed = vault.seal(NAME, KEY)
    with pytest.raises(VaultError, match="provider/other is damaged"):
        vault.open("provider/other", sealed)


@pytest.mark.parametrize("at", range(0, 60, 5))
def test_a_changed_byte_is_noticed(at: int) -> None:
    vault = Vault([fresh()])
    sealed = bytearray(vault.seal(NAME, Secret("x" * 40)))
    sealed[at] ^= 1
    with pytest.raises(VaultError):
        vault.open(NAME, bytes(sealed))


@pytest.mark.parametrize("size", [0, 1, 5, 16, 20])
def test_a_cut_value_is_refused(size: int) -> None:
    vault = Vault([fresh()])
    with pytest.raises(VaultError):
        vault.open(NAME, vault.seal(NAME, KEY)[:size])


def test_a_new_master_key_seals_while_the_old_one_still_opens() -> None:
    old, new = fresh(), fresh()
    before = Vault([old]).seal(NAME, KEY)
    both = Vault([new, old])
    assert both.open(NAME, before) == KEY
    assert not both.is_current(before)
    after = both.seal(NAME, KEY)
    assert both.is_current(after)
    with pytest.raises(VaultError, match="old_master_keys"):
        Vault([new]).open(NAME, before)
    assert Vault([new]).open(NAME, after) == KEY


def test_a_master_key_is_read_from_base64_and_hexadecimal_only() -> None:
    key = fresh()
    assert parse_master_key(base64.b64encode(key).decode() + "\n") == key
    assert parse_master_key(key.hex()) == key
    for text in ("", "password", "ab" * 16, base64.b64encode(b"short").decode()):
        with pytest.raises(VaultError, match="openssl rand"):
            parse_master_key(text)


def test_without_a_configured_key_one_is_kept_for_the_owner_alone(tmp_path: Path) -> None:
    sealed = make_vault(Secret(), [], tmp_path).seal(NAME, KEY)
    path = tmp_path / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert make_vault(Secret(), [], tmp_path).open(NAME, sealed) == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("nonsense")
    with pytest.raises(VaultError):
        make_vault(Secret(), [], tmp_path)


def test_a_configured_key_leaves_the_folder_alone(tmp_path: Path) -> None:
    old = Secret(fresh().hex())
    sealed = make_vault(old, [], tmp_path).seal(NAME, KEY)
    new = Secret(base64.b64encode(fresh()).decode())
    assert make_vault(new, [old], tmp_path).open(NAME, sealed) == KEY
    assert list(tmp_path.iterdir()) == []
