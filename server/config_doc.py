"""The document of all settings, made from their definitions."""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import NODEFAULT, structs

from server.config import show
from server.config_sections import (
    AlertConfig,
    EmbeddingsConfig,
    KeyConfig,
    McpConfig,
    ModerationConfig,
    ProviderConfig,
    SpeechConfig,
    ToolListConfig,
)
from server.config_source import ENTRIES, describe, env_name, expected, section_types

_HEAD: Final = """# Settings

This file is written by `parlance config-doc` from `server/config_sections.py`; a test compares
them.

Settings come from three places; the later wins:

1. a file in TOML: `--config FILE`, else the file that `PARLANCE_CONFIG` names, else
   `./parlance.toml` when there is one;
2. the environment: `PARLANCE_<SECTION>_<KEY>`, such as `PARLANCE_SERVER_PORT=9000`. Lists are
   words between commas, or JSON; lists of tables are JSON;
3. flags: `--set section.key=value`, and `--host`, `--port`, `--data-dir`.

Unknown names are errors, in the file and in the environment. Only `PARLANCE_TEST_…`,
`PARLANCE_CI_…`, `PARLANCE_BENCH_…`, `PARLANCE_CHAT_…` and `PARLANCE_HYPOTHESIS_…` are left to
other programs. `parlance check-config` says what is wrong, `parlance show-config` what is in
effect and where it came from.

A *secret* is a text, or points at one: `env:NAME` is an environment variable, `file:PATH` a file
(a relative path counts from the folder of the configuration file). Secrets are never printed.

```toml
[server]
host = "0.0.0.0"
tls_cert = "/etc/parlance/chain.pem"
tls_key = "/etc/parlance/key.pem"

[storage]
url = "env:DATABASE_URL"

[[ai.providers]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
api_key = "file:/run/secrets/deepseek"
models = ["deepseek-chat"]
```
"""
_TABLES: Final = {
    "auth.keys": ("[[auth.keys]]", KeyConfig),
    "ai.providers": ("[[ai.providers]]", ProviderConfig),
    "ai.speech": ("[ai.speech]", SpeechConfig),
    "ai.moderation": ("[ai.moderation]", ModerationConfig),
    "ai.embeddings": ("[ai.embeddings]", EmbeddingsConfig),
    "ai.mcp": ("[[ai.mcp]]", McpConfig),
    "ai.tool_lists": ("[[ai.tool_lists]]", ToolListConfig),
    "metrics.alerts": ("[[metrics.alerts]]", AlertConfig),
}


def render() -> str:
    """Return docs/configuration.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.rstrip()
    for name, cls in section_types().items():
        yield ""
        yield f"## [{name}]"
        yield ""
        yield _first_line(cls)
        yield ""
        yield "| Key | Default | Takes | Meaning |"
        yield "|---|---|---|---|"
        for entry in ENTRIES.values():
            if entry.key.startswith(f"{name}."):
                key = entry.key.split(".", 1)[1]
                title, _ = _TABLES.get(entry.key, ("", None))
                default = "(below)" if title == f"[{entry.key}]" else show(entry.default)
                yield _row(key, default, entry.type, entry.about)
        for key, (title, table) in _TABLES.items():
            if key.startswith(f"{name}."):
                yield from _table(title, table)
    yield ""
    yield "## Environment variables"
    yield ""
    yield from (f"- `{env_name(key)}`" for key in ENTRIES)


def _table(title: str, cls: Any) -> Iterator[str]:
    yield ""
    yield f"### {title}"
    yield ""
    yield _first_line(cls)
    yield ""
    yield "| Key | Default | Takes | Meaning |"
    yield "|---|---|---|---|"
    for info in structs.fields(cls):
        if info.default is not NODEFAULT:
            default = show(info.default)
        elif info.default_factory is not NODEFAULT:
            default = show(info.default_factory())
        else:
            default = "(needed)"
        yield _row(info.name, default, info.type, describe(info.type))


def _row(key: str, default: str, annotation: Any, about: str) -> str:
    takes = expected(annotation).replace("`", "")
    return f"| `{key}` | `{default}` | {takes} | {about} |"


def _first_line(cls: type[object]) -> str:
    return (cls.__doc__ or "").splitlines()[0]
