"""What a model wrote as arguments, checked against the tool's own schema.

The check is our own and covers the keywords that say what an argument is (type, properties,
required, additionalProperties, enum, const, items, prefixItems, bounds, combinations, local
references). `pattern` and `format` are left to the tool: a pattern comes from whoever wrote the
tool, and Python's `re` can be made to run for minutes. The packages for this were weighed:
`jsonschema` runs such patterns and brings four more packages, `fastjsonschema` compiles foreign
schemas to Python source. Tests hold this check against `jsonschema`.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable
from typing import Any

from ai_bridge.tools.schema import BadSchema, follow

MAX_ARGS_BYTES = 64 * 1024
MAX_STEPS = 20_000
"""Comparisons of one check: hostile combinations multiply."""
MAX_DEPTH = 64

_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class BadArguments(ValueError):
    """The arguments do not fit. The text is for the model: what is wrong and where."""


def read_arguments(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call.

    What is nearly right is put right first, as the normal forms of schema.py need it: no text
    means no arguments; null for a property that may be left out is left out (strict mode makes
    models send it); one that is missing and may be null is null (Gemini is not told of null); an
    object or array written as JSON text is read.

    Raises:
        BadArguments: not a JSON object, or it does not fit `schema`.
    """
    if len(text) > MAX_ARGS_BYTES:
        raise BadArguments("The arguments are too long.")
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        raise BadArguments("The arguments are not valid JSON.") from None
    if not isinstance(value, dict):
        raise BadArguments("The arguments must be one JSON object.")
    check = _Check(schema)
    arguments: dict[str, Any] = check.righted(value, schema)
    problem = check.problem(arguments, schema, "arguments", 0)
    if problem:
        raise BadArguments(problem)
    return arguments


def problem_of(value: object, schema: dict[str, Any]) -> str:
    """Return what is wrong with a value, in words; empty if it fits."""
    return _Check(schema).problem(value, schema, "value", 0)


class _Check:
    """One check. Stops with a problem when it has taken too many steps."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._steps = 0

    # --- putting right -----------------------------------------------------------------------

    def righted(self, value: Any, rule: Any, depth: int = 0) -> Any:
        """Return the value with needless nulls left out and JSON texts read."""
        rule = self._target(rule)
        if depth > MAX_DEPTH:
            return value
        if isinstance(value, str) and self.problem(value, rule, "", depth):
            read = _unpacked(value)
            return value if self.problem(read, rule, "", depth) else read
        if isinstance(value, list):
            items = rule.get("items")
            return [self.righted(item, items, depth + 1) for item in value]
        properties = rule.get("properties")
        if not isinstance(value, dict) or not isinstance(properties, dict):
            return value
        needed = _texts(rule.get("required"))
        left_out = {
            name: None
            for name in needed
            if name not in value and name in properties
            if not self.problem(None, properties[name], "", depth)
        }
        return left_out | {
            name: self.righted(item, properties.get(name), depth + 1)
            for name, item in value.items()
            if item is not None
            or name in needed
            or not self.problem(None, properties.get(name, True), "", depth)
        }

    # --- checking ----------------------------------------------------------------------------

    def problem(self, value: object, schema: object, at: str, depth: int) -> str:
        """Return what is wrong with `value`, naming the place `at`."""
        self._steps += 1
        if self._steps > MAX_STEPS or depth > MAX_DEPTH:
            return f"{at} is too complex to check."
        if schema is True:
            return ""
        if schema is False:
            return f"{at} is not allowed."
        if not isinstance(schema, dict):
            return ""
        if "$ref" in schema:
            target = self._target(schema)
            if target is not schema and (wrong := self.problem(value, target, at, depth + 1)):
                return wrong
        return (
            self._of_type(value, schema, at)
            or _one_of_values(value, schema, at)
            or self._inside(value, schema, at, depth)
            or self._combined(value, schema, at, depth)
        )

    def _of_type(self, value: object, schema: dict[str, Any], at: str) -> str:
        declared = schema.get("type")
        names = declared if isinstance(declared, list) else [declared]
        known = [name for name in names if isinstance(name, str)]
        if not known or any(_has_type(value, name) for name in known):
            return ""
        if value is None and schema.get("nullable") is True:
            return ""
        return f"{at} must be of type {' or '.join(known)}."

    def _inside(self, value: object, schema: dict[str, Any], at: str, depth: int) -> str:
        if isinstance(value, dict):
            return self._object(value, schema, at, depth)
        if isinstance(value, list):
            return self._array(value, schema, at, depth)
        if isinstance(value, str):
            return _counted(len(value), schema, "minLength", "maxLength", at, "characters")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _bounded(value, schema, at)
        return ""

    def _object(self, value: dict[str, Any], schema: dict[str, Any], at: str, depth: int) -> str:
        for name in _texts(schema.get("required")):
            if name not in value:
                return f"{at}: {name} is missing."
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        patterns = "patternProperties" in schema
        extra = True if patterns else schema.get("additionalProperties", True)
        for name, item in value.items():
            rule = properties.get(name, extra)
            if rule is False:
                return f"{at}: {name} is not known."
            if wrong := self.problem(item, rule, f"{at}.{name}", depth + 1):
                return wrong
        return _counted(len(value), schema, "minProperties", "maxProperties", at, "properties")

    def _array(self, value: list[Any], schema: dict[str, Any], at: str, depth: int) -> str:
        first = schema.get("prefixItems")
        rest = schema.get("items", True)
        if isinstance(rest, list):  # the older spelling of prefixItems
            first, rest = rest, schema.get("additionalItems", True)
        first = first if isinstance(first, list) else []
        for number, item in enumerate(value):
            rule = first[number] if number < len(first) else rest
            if wrong := self.problem(item, rule, f"{at}[{number}]", depth + 1):
                return wrong
        return _counted(len(value), schema, "minItems", "maxItems", at, "items")

    def _combined(self, value: object, schema: dict[str, Any], at: str, depth: int) -> str:
        def fits(rule: object) -> bool:
            return not self.problem(value, rule, at, depth + 1)

        for rule in _listed(schema, "allOf"):
            if wrong := self.problem(value, rule, at, depth + 1):
                return wrong
        options = _listed(schema, "anyOf")
        if options and not any(fits(rule) for rule in options):
            return f"{at} fits none of the allowed forms."
        options = _listed(schema, "oneOf")
        if options and sum(fits(rule) for rule in options) != 1:
            return f"{at} must fit exactly one of the allowed forms."
        if "not" in schema and fits(schema["not"]):
            return f"{at} has a form that is not allowed."
        return ""

    def _target(self, schema: Any) -> dict[str, Any]:
        """Follow a reference one step; an unreadable one allows everything."""
        pointer = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            return schema if isinstance(schema, dict) else {}
        try:
            return follow(self._root, pointer)
        except BadSchema:
            return {}


def _unpacked(value: object) -> object:
    """Read an object or array that came as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _has_type(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _TYPES.get(name, (object,)))


def _one_of_values(value: object, schema: dict[str, Any], at: str) -> str:
    allowed = schema.get("enum")
    if "const" in schema:
        allowed = [schema["const"]]
    if not isinstance(allowed, list) or any(_same(value, one) for one in allowed):
        return ""
    shown = ", ".join(json.dumps(one, ensure_ascii=False) for one in allowed[:20])
    return f"{at} must be one of {shown}."


def _same(left: object, right: object) -> bool:
    """Compare as JSON does: true is not 1, 1.0 is."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return left == right


def _bounded(value: Any, schema: dict[str, Any], at: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{at} must be a finite number."
    for key, holds in _BOUNDS.items():
        bound = schema.get(key)
        if type(bound) in (int, float) and not holds(value, bound):
            return f"{at} breaks the bound {key} {bound}."
    return ""


def _counted(count: int, schema: dict[str, Any], least: str, most: str, at: str, what: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if isinstance(low, int) and count < low:
        return f"{at} needs at least {low} {what}."
    if isinstance(high, int) and count > high:
        return f"{at} may have at most {high} {what}."
    return ""


def _listed(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
