"""The settings of a server: gathered, checked, and explained.

A file in TOML, then `PARLANCE_<SECTION>_<KEY>` in the environment, then flags; the later wins.
Unknown names are errors, so a slip of the pen is never ignored (docs/configuration.md).
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from msgspec import structs

from ai_bridge.secrets import Secret
from server.config_check import Problem, check, is_loopback
from server.config_sections import (
    AiConfig,
    AuthConfig,
    Config,
    KeyConfig,
    LimitsConfig,
    LogConfig,
    MessagesConfig,
    MetricsConfig,
    ProviderConfig,
    Section,
    ServerConfig,
    StorageConfig,
    WebSocketConfig,
)
from server.config_source import (
    ENTRIES,
    Given,
    convert,
    find_file,
    read_env,
    read_file,
    section_types,
)

__all__ = [
    "AiConfig",
    "AuthConfig",
    "Config",
    "ConfigError",
    "KeyConfig",
    "LimitsConfig",
    "Loaded",
    "LogConfig",
    "MessagesConfig",
    "MetricsConfig",
    "Problem",
    "ProviderConfig",
    "Secret",
    "ServerConfig",
    "Setting",
    "StorageConfig",
    "WebSocketConfig",
    "check",
    "data_dir",
    "explain",
    "gather",
    "is_loopback",
    "load",
    "parse_overrides",
    "storage_url",
]


class ConfigError(Exception):
    """The settings cannot be used.

    Attributes:
        problems: one line each, naming the key, what was expected and the nearest known key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Loaded(NamedTuple):
    """Settings, and where those that are not defaults came from."""

    config: Config
    sources: Mapping[str, str]
    path: Path | None


class Setting(NamedTuple):
    """One effective setting, fit to be shown."""

    key: str
    value: str
    source: str


def load(
    path: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Return the settings of a server that may start.

    Args:
        path: the file; without it `PARLANCE_CONFIG`, then ./parlance.toml when there is one.
        env: the environment; without it the process's own.
        overrides: `section.key` to value, text being read as in the environment.

    Raises:
        ConfigError: with everything that is wrong, not only the first thing.
    """
    loaded = gather(path, env, overrides)
    fatal = [str(problem) for problem in check(loaded.config) if problem.fatal]
    if fatal:
        raise ConfigError(fatal)
    return loaded.config


def gather(
    path: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Loaded:
    """Return settings that are each correct, though they may not go together (see `check`).

    Raises:
        ConfigError: as `load`.
    """
    env = os.environ if env is None else env
    problems: list[str] = []
    file, asked = find_file(Path(path) if path is not None else None, env)
    given: list[Given] = []
    if file is not None:
        if asked and not file.is_file():
            problems.append(f"there is no configuration file {file}")
        else:
            given += read_file(file, problems)
    given += read_env(env, problems)
    given += [Given(key, value, "a flag") for key, value in (overrides or {}).items()]
    values, sources = convert(given, file, env, problems)
    if problems:
        raise ConfigError(problems)
    sections = {name: cls(**values[name]) for name, cls in section_types().items()}
    return Loaded(structs.replace(Config(), **sections), sources, file)


def parse_overrides(words: Iterable[str]) -> dict[str, object]:
    """Return overrides from flags such as `limits.rate=50`.

    Raises:
        ConfigError: a flag is not of this shape.
    """
    found: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or "." not in key:
            raise ConfigError([f"--set {key}: expected section.key=value, as in limits.rate=50"])
        found[key.strip()] = value
    return found


def explain(loaded: Loaded) -> list[Setting]:
    """Return every setting with its effective value and where it came from; no secrets."""
    return [
        Setting(key, show(_value(loaded.config, key)), loaded.sources.get(key, "default"))
        for key in ENTRIES
    ]


def _value(config: Config, key: str) -> object:
    section, name = key.split(".", 1)
    value: object = getattr(getattr(config, section), name)
    return value


def show(value: object) -> str:
    """Write a value as in the configuration file; a secret only as set or not."""
    match value:
        case Secret():
            return repr(value)
        case None:
            return "(not set)"
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ", ".join(show(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {show(item)}" for key, item in value.items()) + "}"
        case Section():
            return show(structs.asdict(value))
        case _:
            return str(value)


def data_dir(config: Config) -> Path:
    """Return the folder for everything that the server keeps, made when missing.

    Raises:
        OSError: it cannot be made.
    """
    path = Path(config.server.data_dir).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def storage_url(config: Config) -> str:
    """Return the address of the database, which may hold a password: never log it."""
    url = config.storage.url.reveal()
    if url:
        return url
    path = Path(config.server.data_dir).expanduser().resolve() / "parlance.db"
    return f"sqlite:///{quote(str(path))}"
