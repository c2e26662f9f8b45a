"""Gathering settings from the file, the environment and the command line into typed sections."""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
from msgspec import inspect, structs

from ai_bridge.secrets import Secret
from server.config_sections import Config, Section
from server.secrets import resolve_secret

ENV_PREFIX: Final = "PARLANCE_"
ENV_PATH: Final = "PARLANCE_CONFIG"
# Read by others: test suites, benches, continuous integration, the terminal chat.
_ENV_FOREIGN: Final = tuple(
    f"{ENV_PREFIX}{area}_" for area in ("TEST", "CI", "BENCH", "CHAT", "HYPOTHESIS")
)
DEFAULT_FILE: Final = "parlance.toml"


class Given(NamedTuple):
    """One value somebody gave, before it is checked."""

    key: str
    value: object
    source: str


class Entry(NamedTuple):
    """One setting that exists."""

    key: str
    type: Any
    default: object
    about: str


def _entries() -> Iterator[Entry]:
    for name, cls in section_types().items():
        for info in structs.fields(cls):
            default = (
                info.default
                if info.default_factory is msgspec.NODEFAULT
                else info.default_factory()
            )
            yield Entry(f"{name}.{info.name}", info.type, default, describe(info.type))


def section_types() -> dict[str, type[Section]]:
    """Return the sections by name, in the order of the file."""
    return {info.name: info.type for info in structs.fields(Config)}


def describe(annotation: Any) -> str:
    """Return what a field's annotation says it is for."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return ""


ENTRIES: Final[Mapping[str, Entry]] = {entry.key: entry for entry in _entries()}


def env_name(key: str) -> str:
    """Return the environment variable of a key: `server.port` is `PARLANCE_SERVER_PORT`."""
    return ENV_PREFIX + key.replace(".", "_").upper()


_BY_ENV: Final = {env_name(key): key for key in ENTRIES}


def find_file(path: Path | None, env: Mapping[str, str]) -> tuple[Path | None, bool]:
    """Return the configuration file, and whether somebody asked for exactly this one."""
    if path is not None:
        return path, True
    if env.get(ENV_PATH):
        return Path(env[ENV_PATH]).expanduser(), True
    default = Path(DEFAULT_FILE)
    return (default, False) if default.is_file() else (None, False)


def read_file(path: Path, problems: list[str]) -> Iterator[Given]:
    """Yield what a TOML file sets; what is wrong with it is added to problems."""
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: is not TOML: {error}")
        return
    for section, table in tables.items():
        if section not in section_types():
            hint = _nearest(section, section_types(), "[{}]")
            problems.append(f"[{section}] in {path}: no such section{hint}")
        elif not isinstance(table, dict):
            problems.append(f"{section} in {path}: expected a table, write [{section}] above it")
        else:
            for name, value in table.items():
                yield Given(f"{section}.{name}", value, str(path))


def read_env(env: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    """Yield what the environment sets; names that mean nothing are added to problems."""
    for name, value in env.items():
        if not name.startswith(ENV_PREFIX) or name == ENV_PATH or name.startswith(_ENV_FOREIGN):
            continue
        key = _BY_ENV.get(name)
        if key is None:
            hint = _nearest(name, _BY_ENV, "{}")
            problems.append(f"{name} in the environment: no such setting{hint}")
        else:
            yield Given(key, value, f"environment {name}")


def convert(
    given: Iterable[Given], file: Path | None, env: Mapping[str, str], problems: list[str]
) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """Return checked values by section and name, and where each came from; later ones win."""
    values: dict[str, dict[str, object]] = {name: {} for name in section_types()}
    sources: dict[str, str] = {}
    for one in given:
        entry = ENTRIES.get(one.key)
        if entry is None:
            hint = _nearest(one.key, ENTRIES, "{}")
            problems.append(f"{one.key} in {one.source}: no such setting{hint}")
            continue
        in_file = file is not None and one.source == str(file)
        folder = file.parent if file is not None and in_file else Path()
        try:
            value = _convert_one(entry, one.value, _secret_hook(env, folder))
        except ValueError as error:
            problems.append(f"{one.key} in {one.source}: {error}")
            continue
        section, name = one.key.split(".", 1)
        values[section][name] = value
        sources[one.key] = one.source
    return values, sources


def _secret_hook(env: Mapping[str, str], folder: Path) -> Callable[[type, object], object]:
    def decode(wanted: type, value: object) -> object:
        if wanted is Secret and isinstance(value, str):
            return resolve_secret(value, env, folder)
        if isinstance(value, Secret):
            return value
        raise ValueError("expected a text")

    return decode


# Values of these may hold secrets; a message tells the place of what is wrong in them instead.
_UNSHOWN: Final = (
    inspect.ListType,
    inspect.DictType,
    inspect.CustomType,
    inspect.StructType,
)


def _convert_one(entry: Entry, raw: object, hook: Callable[[type, object], object]) -> object:
    """Raises ValueError that says what was expected; never shows a secret."""
    kind = unwrap(inspect.type_info(entry.type))
    lenient = isinstance(raw, str)
    if isinstance(raw, str) and isinstance(
        kind, inspect.ListType | inspect.DictType | inspect.StructType
    ):
        raw = _parse_collection(raw, kind)
    if isinstance(raw, str) and isinstance(kind, inspect.LiteralType):
        raw = raw.lower()
    try:
        return cast(object, msgspec.convert(raw, entry.type, strict=not lenient, dec_hook=hook))
    except msgspec.ValidationError as error:
        plain = isinstance(kind, _UNSHOWN)
        got = "" if plain else f", got {raw!r}"
        detail = _explain_nested(str(error), entry.type) if plain else ""
        raise ValueError(detail or f"expected {expected(entry.type)}{got}") from None


def _parse_collection(text: str, kind: inspect.Type) -> object:
    """Environment and flags: JSON, or words between commas for a plain list."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return cast(object, msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise ValueError(f"expected JSON: {error}") from None
    if isinstance(kind, inspect.ListType) and isinstance(unwrap(kind.item_type), inspect.StrType):
        return [word.strip() for word in text.split(",") if word.strip()]
    raise ValueError("expected JSON")


def _explain_nested(message: str, annotation: Any) -> str:
    """Turn msgspec's words about a list or table into ours; values are never in them."""
    unknown = re.search(r"unknown field `([^`]*)`(?: - at `\$(.*)`)?", message)
    if unknown:
        names = [name for struct in _structs_in(annotation) for name in struct.__struct_fields__]
        return f"no such key {unknown[1]!r}{_nearest(unknown[1], names, '{}')}"
    where = re.search(r"(.*) - at `\$(.*)`$", message)
    if not where:
        return message.replace("Expected", "expected").replace("Object contains", "contains")
    return f"{where[1][0].lower()}{where[1][1:]} at {where[2]}"


def _structs_in(annotation: Any) -> list[type[msgspec.Struct]]:
    kind = unwrap(inspect.type_info(annotation))
    if isinstance(kind, inspect.ListType):
        kind = unwrap(kind.item_type)
    return [kind.cls] if isinstance(kind, inspect.StructType) else []


def unwrap(kind: inspect.Type) -> inspect.Type:
    """Return the type below its description."""
    return unwrap(kind.type) if isinstance(kind, inspect.Metadata) else kind


def expected(annotation: Any) -> str:
    """Say in words what values a field takes."""
    return _expected(inspect.type_info(annotation))


def _expected(given: inspect.Type) -> str:
    kind = unwrap(given)
    match kind:
        case inspect.UnionType():  # with None, for what is not set
            return _expected(next(one for one in kind.types if not _is_none(one)))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _range(kind)
        case inspect.FloatType():
            return "a number" + _range(kind)
        case inspect.LiteralType():
            return "one of " + ", ".join(str(value) for value in kind.values)
        case inspect.StrType(max_length=int(longest)):
            return f"a text of at most {longest} characters"
        case inspect.ListType():
            inner = unwrap(kind.item_type)
            return (
                "a list of tables" if isinstance(inner, inspect.StructType) else "a list of texts"
            )
        case inspect.DictType() | inspect.StructType():
            return "a table"
        case inspect.CustomType():
            return "a text, or `env:NAME`, or `file:path`"
        case _:
            return "a text"


def _is_none(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.NoneType)


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.gt is not None:
        return f" above {kind.gt:g}" + (f" and at most {kind.le}" if kind.le is not None else "")
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    return f" of at least {kind.ge}" if kind.ge is not None else ""


def _nearest(word: str, known: Iterable[str], shape: str) -> str:
    names = list(known)
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if "." in word:
        # The right name in the wrong section says more than a similar spelling.
        tail = word.split(".", 1)[1]
        found = [name for name in names if name.split(".", 1)[-1] == tail][:1] or found
    return f"; did you mean {shape.format(found[0])}?" if found else ""
