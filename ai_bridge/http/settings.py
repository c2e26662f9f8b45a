"""Settings of the bridge when it runs alone: a TOML file, keys from the environment, personas."""

from __future__ import annotations

import hmac
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from ai_bridge.config import BridgeConfig
from ai_bridge.secrets import Secret
from ai_bridge.speech import SpeechConfig

T = TypeVar("T")

KEYS_VARIABLE: Final = "PARLANCE_BRIDGE_KEYS"
MIN_KEY_CHARS: Final = 16
MAX_FILE_BYTES: Final = 1024 * 1024


class SettingsError(Exception):
    """The settings cannot be used; the text says what to change, and never quotes a secret."""


class StandalonePersona(Struct):
    """One JSON file: `id` is the name of its model. Fields that are not here are left alone."""

    id: Annotated[str, Meta(pattern="^[A-Za-z0-9_.:-]{1,64}$")]
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    prompt: Annotated[str, Meta(max_length=64_000)]
    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


def read_config(path: Path | None, env: Mapping[str, str] = os.environ) -> BridgeConfig:
    """Return what a TOML file says; its names are those of `ai_bridge.config`.

    A key written as "env:NAME" comes from the environment. Without a file the bridge looks for
    keys and a local Ollama itself.

    Raises:
        SettingsError: the file cannot be used.
    """
    if path is None:
        return BridgeConfig(detect=True)
    values = _values(path)
    values.pop("speech", None)
    return _convert(path, values, BridgeConfig, env)


def read_speech(path: Path | None, env: Mapping[str, str] = os.environ) -> SpeechConfig:
    """Return what the table `speech` of the same file says; its names are those of
    `ai_bridge.speech.SpeechConfig`.

    Raises:
        SettingsError: it cannot be used.
    """
    if path is None:
        return SpeechConfig()
    return _convert(path, _values(path).get("speech", {}), SpeechConfig, env)


def _values(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path).decode())
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None


def _convert(path: Path, values: Any, kind: type[T], env: Mapping[str, str]) -> T:
    def secret(wanted: type, value: Any) -> Any:
        if wanted is not Secret or not isinstance(value, str):
            raise ValueError("expected text")
        name = value.removeprefix("env:")
        if name == value:
            return Secret(value)
        if not env.get(name):
            raise ValueError(f"the environment has no {name}")
        return Secret(env[name])

    try:
        return msgspec.convert(values, kind, dec_hook=secret)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None


def read_personas(folder: Path | None) -> dict[str, StandalonePersona]:
    """Return the personas of a folder's *.json files, by id.

    Raises:
        SettingsError: a file cannot be used, or two have one id.
    """
    found: dict[str, StandalonePersona] = {}
    if folder is None:
        return found
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    decode = msgspec.json.Decoder(StandalonePersona).decode
    for path in sorted(folder.glob("*.json")):
        try:
            persona = decode(_read(path))
        except (msgspec.DecodeError, ValueError) as error:
            raise SettingsError(f"{path}: {error}") from None
        if persona.id in found:
            raise SettingsError(f"{path}: another persona has the id {persona.id!r}")
        found[persona.id] = persona
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


class Keys:
    """The keys that callers may use, each with a number of its own for fairness.

    Args:
        text: keys between commas.

    Raises:
        SettingsError: a key is too short to be safe.
    """

    def __init__(self, text: str) -> None:
        keys = [key.strip() for key in text.split(",") if key.strip()]
        if any(len(key) < MIN_KEY_CHARS for key in keys):
            raise SettingsError(
                f"{KEYS_VARIABLE}: a key needs {MIN_KEY_CHARS} characters or more; make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
            )
        self._keys = [key.encode() for key in keys]

    def __len__(self) -> int:
        return len(self._keys)

    def number_of(self, key: str) -> int:
        """Return the number of a key from 1, 0 when it is unknown. Takes the same time for all."""
        given = key.encode("utf-8", "replace")
        number = 0
        for position, known in enumerate(self._keys, 1):
            if hmac.compare_digest(given, known):
                number = position
        return number
