"""Which tools there are, who may use them, and what became of their calls."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct, field, structs

from ai_bridge.errors import BridgeError
from ai_bridge.providers.base import ToolDef
from ai_bridge.tokens import estimate_tokens
from ai_bridge.tools.schema import MAX_DESCRIPTION_CHARS, BadSchema, Dialect, normalise
from protocol.codes import Code

log = logging.getLogger("parlance.ai")

MAX_TOOLS = 500
MAX_ALLOW_LISTS = 20_000
MAX_OFFERED = 64
"""Tools told to a model at once: beyond that services refuse, and models choose badly."""
MAX_NORMALISED = 2_000
RESULT_BYTES = 16 * 1024
TIMEOUT_S = 20.0

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}\Z")
"""What all dialects take: Gemini wants a letter or an underscore first."""


class Effect(StrEnum):
    READ = "read"
    WRITE = "write"
    """Changes something outside: run at most once, and never after foreign text was read
    unless somebody confirmed it."""


class ToolContext(Struct, frozen=True):
    """For whom a tool runs."""

    turn_id: int
    tenant: int
    user: int
    conv: int
    persona: int
    lang: str = ""


class ToolError(Exception):
    """A tool could not do what was asked. The text goes to the model: no address, no key.

    Attributes:
        reason: constant word for the counters.
    """

    def __init__(self, text: str, reason: str = "failed") -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason


Handler = Callable[[dict[str, Any], ToolContext], Awaitable[str]]
"""Does the work and returns what the model is told. It is cancelled at its deadline."""


class ToolSpec(Struct, frozen=True, kw_only=True):
    """One tool. `schema` is JSON Schema of its arguments, as its author wrote it.

    `trusted` says that its output is made here; all other output may hold somebody's
    instructions and taints the turn. `source` groups tools that come and go together.
    """

    name: str
    description: str
    handler: Handler
    schema: dict[str, Any] = {}
    effect: Effect = Effect.READ
    timeout_s: float = TIMEOUT_S
    result_bytes: int = RESULT_BYTES
    trusted: bool = False
    source: str = ""


class ToolStats(Struct):
    """Counters since the start.

    `called`: handlers started; of them `done`, and `failed` by reason, also those that `timed_out`.
    `refused`: calls of the model that never ran; `dropped`: tools that were not offered, and
    calls beyond a bound.
    """

    called: int = 0
    done: int = 0
    timed_out: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        return structs.asdict(self)


class ToolSet:
    """The tools of one turn, by name. Immutable.

    `closed`: they were used, and the model must answer without calling one again.
    """

    def __init__(
        self, registry: ToolRegistry, specs: Iterable[ToolSpec], *, closed: bool = False
    ) -> None:
        self.closed = closed
        self._registry = registry
        self._specs = {spec.name: spec for spec in specs}

    def __bool__(self) -> bool:
        return bool(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    @property
    def names(self) -> list[str]:
        return list(self._specs)

    def get(self, name: str) -> ToolSpec | None:
        return self._specs.get(name)

    def close(self) -> ToolSet:
        """Return the same tools for a last call."""
        return ToolSet(self._registry, self._specs.values(), closed=True)

    def defs(self, dialect: Dialect) -> tuple[ToolDef, ...]:
        """Return what a provider of this dialect is told; tools that it would refuse are out."""
        defs = (self._registry.definition(spec, dialect) for spec in self._specs.values())
        return tuple(found for found in defs if found is not None)


class ToolRegistry:
    """All tools of the process. Lives on the event loop's thread.

    A persona's list wins over its tenant's; without either a turn gets the default tools. A
    tenant's list also bounds its personas'. Lists hold names of tools, or sources (`mcp:weather`)
    for all that comes from there.

    Args:
        defaults: the list of turns without one of their own.
    """

    def __init__(self, defaults: Iterable[str] = ()) -> None:
        self.stats = ToolStats()
        self._defaults = frozenset(defaults)
        self._specs: dict[str, ToolSpec] = {}
        self._allowed: dict[tuple[int, int], frozenset[str]] = {}
        self._normalised: OrderedDict[tuple[str, Dialect], ToolDef | None] = OrderedDict()

    # --- tools -------------------------------------------------------------------------------

    def add(self, spec: ToolSpec) -> bool:
        """Take a tool; False (counted, logged) if its name is bad or taken, or no place is left."""
        reason = self.refusal(spec) or ("name_taken" if spec.name in self._specs else "")
        if reason:
            self._drop(spec.name, reason)
            return False
        self._specs[spec.name] = spec
        return True

    def refusal(self, spec: ToolSpec) -> str:
        """Return why `replace_source` would not take a tool; empty if it would."""
        if not NAME.match(spec.name):
            return "bad_name"
        taken = self._specs.get(spec.name)
        if taken is not None and (not spec.source or taken.source != spec.source):
            return "name_taken"
        return "too_many" if taken is None and len(self._specs) >= MAX_TOOLS else ""

    def replace_source(self, source: str, specs: Iterable[ToolSpec]) -> int:
        """Put these tools in the place of all that came from `source`; return how many stayed."""
        for name in [name for name, spec in self._specs.items() if spec.source == source]:
            del self._specs[name]
            for dialect in Dialect:
                self._normalised.pop((name, dialect), None)
        return sum(self.add(structs.replace(spec, source=source)) for spec in specs)

    def all(self) -> list[ToolSpec]:
        return list(self._specs.values())

    # --- who may use what --------------------------------------------------------------------

    def allow(self, tenant: int, names: Iterable[str] | None, persona: int = 0) -> None:
        """Set the list of a tenant, or of one of its personas; None removes it.

        Names that no tool has (yet) are kept: servers come and go.

        Raises:
            BridgeError: SIZE_LIMIT, too many lists.
        """
        key = (tenant, persona)
        if names is None:
            self._allowed.pop(key, None)
            return
        if key not in self._allowed and len(self._allowed) >= MAX_ALLOW_LISTS:
            raise BridgeError(Code.SIZE_LIMIT, "Too many tool lists. Remove some of them first.")
        self._allowed[key] = frozenset(names)

    def tools_for(self, tenant: int, persona: int) -> ToolSet:
        """Return the tools that a turn may use, in the order of their registration."""
        by_tenant = self._allowed.get((tenant, 0))
        by_persona = self._allowed.get((tenant, persona)) if persona else None
        lists = [one for one in (by_persona, by_tenant) if one is not None] or [self._defaults]
        specs = [
            spec
            for spec in self._specs.values()
            if all(spec.name in names or spec.source in names for names in lists)
        ]
        for spec in specs[MAX_OFFERED:]:
            self._drop(spec.name, "too_many_offered")
        return ToolSet(self, specs[:MAX_OFFERED])

    # --- definitions -------------------------------------------------------------------------

    def definition(self, spec: ToolSpec, dialect: Dialect) -> ToolDef | None:
        """Return the tool as this dialect takes it, None (counted once) if it cannot."""
        key = (spec.name, dialect)
        if self._specs.get(spec.name) is not spec:
            return self._define(spec, dialect)  # replaced while the turn runs
        if key not in self._normalised:
            self._normalised[key] = self._define(spec, dialect)
            if len(self._normalised) > MAX_NORMALISED:
                self._normalised.popitem(last=False)
        return self._normalised[key]

    def _define(self, spec: ToolSpec, dialect: Dialect) -> ToolDef | None:
        try:
            schema = normalise(spec.schema, dialect)
        except BadSchema as bad:
            self._drop(spec.name, bad.reason)
            return None
        return ToolDef(spec.name, spec.description.strip()[:MAX_DESCRIPTION_CHARS], schema)

    def _drop(self, name: str, reason: str) -> None:
        self.stats.dropped[reason] += 1
        log.warning("tool.dropped", extra={"tool": name[:64], "reason": reason})


DIALECTS: Final = {
    "openai_chat": Dialect.OPENAI,
    "openai_responses": Dialect.RESPONSES,
    "anthropic": Dialect.ANTHROPIC,
    "gemini": Dialect.GEMINI,
    "demo": Dialect.OPENAI,
}
"""Dialect of each `ProviderConfig.kind`."""


def schema_problems(schema: dict[str, Any]) -> dict[Dialect, str]:
    """Return why a tool with this schema cannot be told in a dialect; empty if it can in all."""
    problems = {}
    for dialect in dict.fromkeys(DIALECTS.values()):
        try:
            normalise(schema, dialect)
        except BadSchema as bad:
            problems[dialect] = bad.reason
    return problems


def definition_tokens(offered: tuple[ToolDef, ...]) -> int:
    """Return the estimate of what telling a model these tools costs."""
    return estimate_tokens(msgspec.json.encode(offered).decode()) if offered else 0


def safe_name(name: str) -> str:
    """Return a name that every dialect takes; different names stay different."""
    if NAME.match(name):
        return name
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain if plain[:1].isalpha() or plain[:1] == '_' else '_' + plain}"[:55] + "_" + mark
