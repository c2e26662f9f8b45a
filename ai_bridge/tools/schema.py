"""JSON Schema of a tool, made fit for one provider dialect.

A provider refuses the whole request for one schema that it cannot read, so what cannot be made
fit raises `BadSchema` and only that tool is left out. A normalised schema may say less than the
original (a bound, a format, a pattern is lost), never something else: arguments are checked
against the original (`arguments.py`).

Rules, as documented by the services in 2025 and 2026: OpenAI "Function calling" and "Structured
outputs" (strict: every property required, `additionalProperties: false`), Anthropic "Tool use"
(`input_schema` is an object, property keys match `[a-zA-Z0-9_.-]{1,64}`), Gemini "Function
calling" (what both its `parameters`, a subset of OpenAPI 3.0, and its `parametersJsonSchema`
take: one type, no null, enums of non-empty strings, few formats, `anyOf` alone, plain names).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

Schema = dict[str, Any]

MAX_DEPTH = 8
"""Levels of nesting that are kept; strict mode allows ten. Deeper parts lose their inside."""
MAX_NODES = 400
"""Subschemas of one tool after all references are written out."""
MAX_ENUM = 250
MAX_DESCRIPTION_CHARS = 1_000
MAX_REF_HOPS = 16

_PROPERTY = re.compile(r"[a-zA-Z0-9_.\-]{1,64}\Z")
_GEMINI_PROPERTY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}\Z")
_TYPES = ("object", "array", "string", "integer", "number", "boolean")
_GEMINI_FORMATS = {
    "string": {"date-time"},
    "number": {"float", "double"},
    "integer": {"int32", "int64"},
}
_NUMBER_BOUNDS = ("minimum", "maximum")
_COUNT_BOUNDS = {"array": ("minItems", "maxItems"), "string": ("minLength", "maxLength")}


class Dialect(StrEnum):
    OPENAI = "openai"
    OPENAI_STRICT = "openai_strict"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


class BadSchema(ValueError):
    """A tool's schema cannot be told to this provider. `reason` is a constant word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def normalise(schema: object, dialect: Dialect) -> Schema:
    """Return the schema of a tool's arguments as `dialect` accepts it.

    The result is an object with `properties` and shares nothing mutable with the original.

    Raises:
        BadSchema: not_an_object, bad_ref, bad_property, too_large, bad_schema.
    """
    if schema is None or schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise BadSchema("not_an_object")
    return _Normaliser(schema, dialect).top()


class _Normaliser:
    """One run over one schema. Counts nodes, so that references cannot explode."""

    def __init__(self, root: Schema, dialect: Dialect) -> None:
        self._root = root
        self._dialect = dialect
        self._strict = dialect is Dialect.OPENAI_STRICT
        self._gemini = dialect is Dialect.GEMINI
        self._names = _GEMINI_PROPERTY if self._gemini else _PROPERTY
        self._nodes = 0

    def top(self) -> Schema:
        schema = self._flat(self._root, ())[0]
        variants = _variants(schema)
        if variants:
            schema = self._merged_variants(schema, variants)
        if "object" not in _types_of(schema, default="object"):
            raise BadSchema("not_an_object")
        result = self._object(schema, (), 0)
        _describe(result, schema)
        return _without_nullable(result) if self._gemini else result

    # --- one subschema -----------------------------------------------------------------------

    def _node(self, raw: object, trail: tuple[str, ...], depth: int) -> Schema:
        """Return a typed schema for one value."""
        self._count()
        if raw is True or raw is None:
            raw = {}
        if not isinstance(raw, dict):
            raise BadSchema("bad_schema")
        schema, trail = self._flat(raw, trail)
        variants = _variants(schema)
        if variants and "enum" not in schema and depth < MAX_DEPTH:
            return self._union(schema, variants, trail, depth + 1)
        types = _types_of(schema, default="")
        nullable = "null" in types or schema.get("nullable") is True
        real = [name for name in types if name != "null"]
        if len(real) > 1 and depth < MAX_DEPTH:
            parts = [{**schema, "type": name} for name in real]
            parts += [{"type": "null"}] if nullable else []
            return self._union({"description": schema.get("description")}, parts, trail, depth + 1)
        kind = real[0] if real else "string"
        result = self._typed(kind, schema, trail, depth)
        _describe(result, schema)
        return self._nullable(result) if nullable else result

    def _typed(self, kind: str, schema: Schema, trail: tuple[str, ...], depth: int) -> Schema:
        if kind == "object":
            return self._inner_object(schema, trail, depth)
        if kind == "array":
            return self._array(schema, trail, depth)
        result: Schema = {"type": kind}
        self._enum(result, kind, schema)
        if kind in ("integer", "number"):
            _copy_numbers(result, schema)
        elif kind == "string" and not self._gemini and not self._strict:
            _copy_counts(result, schema, kind)
        self._format(result, kind, schema)
        return result

    def _inner_object(self, schema: Schema, trail: tuple[str, ...], depth: int) -> Schema:
        if depth >= MAX_DEPTH:
            schema = {key: schema[key] for key in ("description",) if key in schema}
        result = self._object(schema, trail, depth)
        closed = self._strict and schema.get("additionalProperties") is False
        if (self._gemini or self._strict) and not result["properties"] and not closed:
            # Gemini refuses an object without properties below the top, strict mode an open one;
            # arguments.py reads the text back into an object.
            return {"type": "string", "description": "A JSON object, as text."}
        return result

    def _object(self, schema: Schema, trail: tuple[str, ...], depth: int) -> Schema:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        wanted = _strings(schema.get("required"))
        result: Schema = {"type": "object", "properties": {}}
        for name, raw in properties.items():
            if raw is False:
                continue
            if not isinstance(name, str) or not self._names.match(name):
                if name in wanted:
                    raise BadSchema("bad_property")
                continue
            value = self._node(raw, trail, depth + 1)
            if self._strict and name not in wanted:
                value = self._nullable(value)
            result["properties"][name] = value
        kept = result["properties"]
        required = list(kept) if self._strict else [name for name in wanted if name in kept]
        if required or self._strict:
            result["required"] = required
        self._additional(result, schema, trail, depth)
        return result

    def _additional(
        self, result: Schema, schema: Schema, trail: tuple[str, ...], depth: int
    ) -> None:
        extra = schema.get("additionalProperties")
        if self._strict:
            result["additionalProperties"] = False
        elif self._gemini:
            return
        elif isinstance(extra, bool):
            result["additionalProperties"] = extra
        elif isinstance(extra, dict) and depth < MAX_DEPTH:
            result["additionalProperties"] = self._node(extra, trail, depth + 1)

    def _array(self, schema: Schema, trail: tuple[str, ...], depth: int) -> Schema:
        result: Schema = {"type": "array"}
        items = schema.get("items")
        tuples = schema.get("prefixItems") or (items if isinstance(items, list) else None)
        if depth >= MAX_DEPTH:
            result["items"] = {"type": "string"}
        elif isinstance(tuples, list) and tuples:
            result["items"] = self._union({}, tuples, trail, depth + 1)
        else:
            result["items"] = self._node(items if items is not False else None, trail, depth + 1)
        _copy_counts(result, schema, "array")
        return result

    def _union(
        self, schema: Schema, variants: Sequence[object], trail: tuple[str, ...], depth: int
    ) -> Schema:
        """Return `anyOf` of the variants, or the only one that is not null."""
        nullable = any(_is_null(variant) for variant in variants)
        found: list[Schema] = []
        for variant in variants:
            if _is_null(variant) or variant is False:
                continue
            part = self._node(variant, trail, depth)
            nullable = nullable or _accepts_null(part)
            part = _without_null(part)
            for option in part.get("anyOf", [part]):
                if option not in found:
                    found.append(option)
        if not found:
            result: Schema = {"type": "string"}
        elif len(found) == 1:
            result = dict(found[0])
        else:
            result = {"anyOf": found}
        if "anyOf" not in result or not self._gemini:
            _describe(result, schema)
        return self._nullable(result) if nullable else result

    # --- keywords ----------------------------------------------------------------------------

    def _nullable(self, schema: Schema) -> Schema:
        if _accepts_null(schema):
            return schema
        if self._gemini:
            if "anyOf" in schema:  # it must stand alone, so each option carries the mark
                return {"anyOf": [{**option, "nullable": True} for option in schema["anyOf"]]}
            return {**schema, "nullable": True}
        if "anyOf" in schema:
            return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
        if schema["type"] in ("object", "array"):
            result: Schema = {"anyOf": [schema, {"type": "null"}]}
            return result
        result = {**schema, "type": [schema["type"], "null"]}
        if "enum" in result:
            result["enum"] = [*result["enum"], None]
        return result

    def _enum(self, result: Schema, kind: str, schema: Schema) -> None:
        values = schema.get("enum")
        if "const" in schema:
            values = [schema["const"]]
        if not isinstance(values, list):
            return
        fitting = _distinct(value for value in values if _is_of(value, kind))
        if self._gemini and kind != "string":  # it takes enums of texts only
            shown = ", ".join(map(str, fitting[:20]))
            result["description"] = f"One of {shown}."
            return
        if self._gemini:
            fitting = [value for value in fitting if value]
        if 0 < len(fitting) <= MAX_ENUM:
            result["enum"] = fitting

    def _format(self, result: Schema, kind: str, schema: Schema) -> None:
        name = schema.get("format")
        if not isinstance(name, str) or "enum" in result or self._strict:
            return
        if not self._gemini or name in _GEMINI_FORMATS.get(kind, ()):
            result["format"] = name

    # --- references and combinations ---------------------------------------------------------

    def _flat(self, schema: Schema, trail: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """Return the schema with its reference and its `allOf` written out."""
        for _ in range(MAX_REF_HOPS):
            if not isinstance(schema.get("$ref"), str):
                break
            schema, trail = self._followed(schema, trail)
        parts = schema.get("allOf")
        if not isinstance(parts, list):
            return schema, trail
        result = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            self._count()
            if isinstance(part, dict):
                flat, trail = self._flat(part, trail)
                result = _merged(result, flat)
        return result, trail

    def _followed(self, schema: Schema, trail: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        self._count()
        pointer = schema["$ref"]
        target = follow(self._root, pointer)
        if pointer in trail:
            # A schema that contains itself: once is enough, inside only the type is told.
            target = {key: target[key] for key in ("type", "description") if key in target}
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**target, **beside}, (*trail, pointer)

    def _merged_variants(self, schema: Schema, variants: list[object]) -> Schema:
        """Return one object that takes what any variant takes: the top may not have `anyOf`."""
        found = {name: [value] for name, value in _mapping(schema.get("properties")).items()}
        common: set[str] | None = None
        for raw in variants:
            if not isinstance(raw, dict):
                continue
            variant = self._flat(raw, ())[0]
            for name, value in _mapping(variant.get("properties")).items():
                options = found.setdefault(name, [])
                if value not in options:
                    options.append(value)
            needed = set(_strings(variant.get("required")))
            common = needed if common is None else common & needed
        required = [*_strings(schema.get("required")), *sorted(common or ())]
        properties = {
            name: options[0] if len(options) == 1 else {"anyOf": options}
            for name, options in found.items()
        }
        rest = {key: schema[key] for key in ("description",) if key in schema}
        return {**rest, "properties": properties, "required": _distinct(required)}

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise BadSchema("too_large")


def follow(root: Schema, pointer: str) -> Schema:
    """Return what a local reference (`#/...`, RFC 6901) points at; nothing is ever fetched.

    Raises:
        BadSchema: bad_ref.
    """
    node: Any = root
    steps = pointer[1:].split("/")[1:] if pointer.startswith("#") else [""]
    for step in steps:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            raise BadSchema("bad_ref")
    if not isinstance(node, dict) or not pointer.startswith("#"):
        raise BadSchema("bad_ref")
    return node


def _variants(schema: Schema) -> list[object]:
    for key in ("anyOf", "oneOf"):
        variants = schema.get(key)
        if isinstance(variants, list) and variants:
            return variants
    return []


def _types_of(schema: Schema, default: str) -> list[str]:
    """Return the types that a schema names or implies."""
    declared = schema.get("type")
    names = declared if isinstance(declared, list) else [declared]
    known = [name for name in names if name == "null" or name in _TYPES]
    if known:
        return _distinct(known)
    if isinstance(declared, str):
        raise BadSchema("bad_schema")
    if "properties" in schema or "additionalProperties" in schema:
        return ["object"]
    if "items" in schema or "prefixItems" in schema:
        return ["array"]
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values:
        kinds = [*_TYPES, "null"]
        return _distinct(next(k for k in kinds if _is_of(value, k)) for value in values)
    return [default] if default else []


def _is_of(value: object, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "array": list, "object": dict}[kind])


def _is_null(variant: object) -> bool:
    return isinstance(variant, dict) and variant.get("type") == "null"


def _accepts_null(schema: Schema) -> bool:
    if schema.get("nullable") is True or "null" in schema.get("type", ()):
        return True
    return any(_accepts_null(option) for option in schema.get("anyOf", ()))


def _without_null(schema: Schema) -> Schema:
    """Return the schema without its leave to be null (the union gets it once)."""
    result = {key: value for key, value in schema.items() if key != "nullable"}
    if isinstance(result.get("type"), list):
        result["type"] = next(name for name in result["type"] if name != "null")
        if "enum" in result:
            result["enum"] = [value for value in result["enum"] if value is not None]
    if "anyOf" in result:
        options = [_without_null(option) for option in result["anyOf"] if not _is_null(option)]
        result["anyOf"] = options
        if len(options) == 1:
            return {**options[0], **{k: v for k, v in result.items() if k != "anyOf"}}
    return result


def _merged(left: Schema, right: Schema) -> Schema:
    """Return what holds where both hold, as far as one plain object can say it."""
    result = {**right, **left}
    if "properties" in left or "properties" in right:
        result["properties"] = {
            **_mapping(right.get("properties")),
            **_mapping(left.get("properties")),
        }
    if "required" in left or "required" in right:
        result["required"] = _distinct(
            [*_strings(left.get("required")), *_strings(right.get("required"))]
        )
    return result


def _without_nullable(schema: Schema) -> Schema:
    """Say without null what may be null: it may be left out, and is null then (arguments.py)."""
    result = {key: value for key, value in schema.items() if key != "nullable"}
    if "properties" in schema:
        parts = schema["properties"]
        result["properties"] = {name: _without_nullable(one) for name, one in parts.items()}
        needed = [name for name in schema.get("required", ()) if not _accepts_null(parts[name])]
        result.pop("required", None)
        if needed:
            result["required"] = needed
    if "items" in schema:
        result["items"] = _without_nullable(schema["items"])
    if "anyOf" in schema:
        result["anyOf"] = _distinct(_without_nullable(one) for one in schema["anyOf"])
        if len(result["anyOf"]) == 1:
            return {**result["anyOf"][0]}
    return result


def _mapping(value: object) -> Schema:
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _distinct(values: Any) -> list[Any]:
    """Return each value once, in order. 1, 1.0 and true are not the same here."""
    seen: dict[str, Any] = {}
    for value in values:
        seen.setdefault(f"{type(value).__name__}:{value!r}", value)
    return list(seen.values())


def _describe(result: Schema, schema: Schema) -> None:
    text = schema.get("description")
    if isinstance(text, str) and text.strip():
        told = f"{text.strip()} {result.get('description', '')}"
        result["description"] = told.strip()[:MAX_DESCRIPTION_CHARS]


def _copy_numbers(result: Schema, schema: Schema) -> None:
    for key in _NUMBER_BOUNDS:
        value = schema.get(key)
        finite = not isinstance(value, float) or math.isfinite(value)
        if finite and _is_of(value, "number"):
            result[key] = value


def _copy_counts(result: Schema, schema: Schema, kind: str) -> None:
    for key in _COUNT_BOUNDS[kind]:
        value = schema.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            result[key] = value


def subschemas(schema: Schema) -> Iterator[Schema]:
    """Yield a normalised schema and every schema in it."""
    yield schema
    children = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    children += [schema[key] for key in ("items", "additionalProperties")
                 if isinstance(schema.get(key), dict)]  # fmt: skip
    for child in children:
        yield from subschemas(child)
