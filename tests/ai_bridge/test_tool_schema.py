"""Tool schemas are made fit for each provider dialect, or their tool is left out."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_bridge.tools.arguments import BadArguments, problem_of, read_arguments
from ai_bridge.tools.schema import (
    MAX_DEPTH,
    MAX_NODES,
    BadSchema,
    Dialect,
    normalise,
    subschemas,
)

# --- the rules of each dialect, written down apart from the code that keeps them ---------------

PROPERTY = re.compile(r"[a-zA-Z0-9_.\-]{1,64}\Z")
PLAIN = {"object", "array", "string", "integer", "number", "boolean"}
TOP_FORBIDDEN = {"anyOf", "allOf", "oneOf", "enum", "not", "$ref", "$defs"}
GEMINI_KEYS = {
    "type", "description", "enum", "format", "items", "properties", "required",
    "minItems", "maxItems", "minimum", "maximum", "anyOf",
}  # fmt: skip
OPENAI_KEYS = GEMINI_KEYS | {"additionalProperties", "minLength", "maxLength"}
STRICT_KEYS = OPENAI_KEYS - {"format", "minLength", "maxLength"}


def violations(schema: dict[str, Any], dialect: Dialect) -> list[str]:
    """Return the rules that a normalised schema breaks."""
    found = []
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
        found.append("the top is no object with properties")
    if TOP_FORBIDDEN & schema.keys():
        found.append("a combination at the top")
    for node in subschemas(schema):
        found += _violations_of_node(node, dialect)
    return found


def _violations_of_node(node: dict[str, Any], dialect: Dialect) -> list[str]:
    found = []
    allowed = {Dialect.GEMINI: GEMINI_KEYS, Dialect.OPENAI_STRICT: STRICT_KEYS}
    if extra := node.keys() - allowed.get(dialect, OPENAI_KEYS):
        found.append(f"unknown keywords {extra}")
    types = node.get("type")
    names = types if isinstance(types, list) else [types]
    known = PLAIN if dialect is Dialect.GEMINI else PLAIN | {"null"}
    if "anyOf" not in node and not set(names) & known:
        found.append(f"no type in {node}")
    if "anyOf" in node and len(node["anyOf"]) < 2:
        found.append("anyOf of one")
    if "array" in names and not isinstance(node.get("items"), dict):
        found.append("an array without items")
    if "enum" in node and not node["enum"]:
        found.append("an empty enum")
    if "object" in names:
        found += _violations_of_object(node, dialect)
    if dialect is Dialect.GEMINI:
        found += _violations_of_gemini(node)
    return found


def _violations_of_object(node: dict[str, Any], dialect: Dialect) -> list[str]:
    found = []
    properties = node.get("properties")
    if not isinstance(properties, dict):
        return ["an object without properties"]
    if not all(PROPERTY.match(name) for name in properties):
        found.append("a bad property name")
    if not set(node.get("required", ())) <= properties.keys():
        found.append("required names an unknown property")
    if dialect is Dialect.OPENAI_STRICT:
        if node.get("additionalProperties") is not False:
            found.append("strict: open object")
        if set(node.get("required", ())) != properties.keys():
            found.append("strict: an optional property")
    return found


def _violations_of_gemini(node: dict[str, Any]) -> list[str]:
    found = []
    if isinstance(node.get("type"), list):
        found.append("gemini: several types")
    if not all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) for name in node.get("properties", ())):
        found.append("gemini: a bad property name")
    if "anyOf" in node and len(node) > 1:
        found.append("gemini: anyOf beside others")
    if "enum" in node and not all(isinstance(one, str) and one for one in node["enum"]):
        found.append("gemini: enum of something else than texts")
    formats = {
        "string": ["date-time"],
        "number": ["float", "double"],
        "integer": ["int32", "int64"],
    }
    if "format" in node and node["format"] not in formats[node["type"]]:
        found.append("gemini: format")
    return found


# --- hostile and ordinary schemas ---------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["a", "b", "c"])
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)


JSON = st.recursive(SCALARS | st.floats(allow_nan=False), _nested, max_leaves=6)
NAMES = st.sampled_from(["a", "b", "名字", "city", "x y", "p.q", ""])
TYPES = st.sampled_from([*sorted(PLAIN), "null"])


def _schema_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keywords = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3),
        "properties": st.dictionaries(NAMES, inner, max_size=3),
        "required": st.lists(NAMES, max_size=3),
        "items": inner | st.lists(inner, max_size=2),
        "prefixItems": st.lists(inner, max_size=2),
        "additionalProperties": st.booleans() | inner,
        "anyOf": st.lists(inner, max_size=3),
        "oneOf": st.lists(inner, max_size=3),
        "allOf": st.lists(inner, max_size=3),
        "not": inner,
        "enum": st.lists(SCALARS, max_size=4),
        "const": JSON,
        "format": st.sampled_from(["date-time", "uuid", "int32", "float", "email"]),
        "minimum": JSON,
        "minLength": JSON,
        "maxItems": JSON,
        "description": JSON,
        "nullable": st.booleans(),
        "default": JSON,
        "pattern": st.just("(a+)+$"),
        "$ref": st.sampled_from(["#", "#/properties/a", "#/$defs/n", "#/nowhere", "http://h/s"]),
        "$defs": st.dictionaries(st.just("n"), inner, max_size=1),
    }  # fmt: skip
    return st.fixed_dictionaries({}, optional=keywords)


SCHEMAS = st.recursive(st.booleans() | _schema_of(st.just({})), _schema_of, max_leaves=8)
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@given(schema=SCHEMAS | JSON, dialect=st.sampled_from(list(Dialect)))
@RELAXED
def test_whatever_comes_is_made_fit_or_refused(schema: Any, dialect: Dialect) -> None:
    before = json.dumps(schema, sort_keys=True)
    try:
        result = normalise(schema, dialect)
    except BadSchema:
        return
    assert violations(result, dialect) == []
    assert sum(1 for _ in subschemas(result)) <= 2 * MAX_NODES
    assert json.dumps(schema, sort_keys=True) == before
    json.dumps(result, allow_nan=False)


@given(schema=SCHEMAS, dialect=st.sampled_from(list(Dialect)))
@RELAXED
def test_a_fit_schema_stays_fit(schema: Any, dialect: Dialect) -> None:
    try:
        once = normalise(schema, dialect)
    except BadSchema:
        return
    assert violations(normalise(once, dialect), dialect) == []


def _plain_schema(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c"])
    return st.one_of(
        st.fixed_dictionaries({
            "type": st.just("object"),
            "properties": st.dictionaries(names, inner, max_size=3),
            "required": st.lists(names, max_size=2, unique=True),
        }, optional={"additionalProperties": st.booleans()}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner},
                              optional={"maxItems": st.integers(0, 3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    )  # fmt: skip


LEAVES = st.one_of(
    st.fixed_dictionaries({"type": TYPES}),
    st.fixed_dictionaries({"type": st.lists(TYPES, min_size=1, max_size=2, unique=True)}),
    st.fixed_dictionaries({"enum": st.lists(JSON, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"const": JSON}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(-2, 2)}),
    st.fixed_dictionaries({"type": st.just("number"), "exclusiveMaximum": st.integers(-2, 2)}),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 3)}),
    st.fixed_dictionaries({"$ref": st.just("#/$defs/n")}),
)
CHECKED = st.recursive(LEAVES, _plain_schema, max_leaves=6)
VALUES = st.recursive(SCALARS | st.sampled_from([0.0, 1.0, 1.5]), _nested, max_leaves=5)


@given(schema=CHECKED, value=VALUES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_check_of_arguments_agrees_with_the_reference_package(schema: Any, value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = {**schema, "$defs": {"n": {"type": ["integer", "null"]}}}
    reference = jsonschema.Draft202012Validator(schema)
    assert (problem_of(value, schema) == "") == reference.is_valid(value)


@given(schema=CHECKED, value=VALUES)
@RELAXED
def test_what_the_model_may_send_by_the_original_is_not_forbidden_by_the_normal_form(
    schema: Any, value: Any
) -> None:
    """Only strict mode and Gemini may say less (open objects become texts there)."""
    whole = {
        "type": "object",
        "properties": {"v": schema},
        "required": ["v"],
        "$defs": {"n": {"type": ["integer", "null"]}},
    }
    if "not" in json.dumps(schema) or "allOf" in json.dumps(schema):
        return  # cannot be told in the plain form; the original decides
    if problem_of({"v": value}, whole):
        return
    told = normalise(whole, Dialect.OPENAI)
    untyped = [node for node in subschemas(told) if node == {"type": "string"}]
    if not untyped:  # "anything" is told as a text
        assert problem_of({"v": value}, told) == ""


# --- cases --------------------------------------------------------------------------------------


def test_references_are_written_out_and_one_that_contains_itself_ends() -> None:
    schema = {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "$defs": {
            "node": {
                "type": "object",
                "description": "A node",
                "properties": {"name": {"type": "string"}, "child": {"$ref": "#/$defs/node"}},
            }
        },
    }
    root = normalise(schema, Dialect.ANTHROPIC)["properties"]["root"]
    assert root["description"] == "A node"
    assert root["properties"]["name"] == {"type": "string"}
    assert root["properties"]["child"]["properties"] == {}


def test_references_that_multiply_are_refused() -> None:
    defs = {
        f"d{n}": {
            "type": "object",
            "properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "abcdefgh"},
        }
        for n in range(7)
    }
    defs["d7"] = {"type": "string"}
    with pytest.raises(BadSchema, match="too_large"):
        normalise({"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": defs},
                  Dialect.OPENAI)  # fmt: skip


@pytest.mark.parametrize("keyword", ["anyOf", "items", "properties"])
def test_deep_schemas_end_at_the_bound(keyword: str) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        if keyword == "properties":
            schema = {"properties": {"a": schema}}
        else:
            schema = {keyword: schema if keyword == "items" else [schema, {"type": "integer"}]}
    for dialect in Dialect:
        result = normalise({"properties": {"top": schema}}, dialect)
        assert violations(result, dialect) == []
        assert sum(1 for _ in subschemas(result)) <= 4 * MAX_DEPTH


def test_endless_sums_are_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        schema = {"allOf": [schema, {"type": "string"}]}
    with pytest.raises(BadSchema, match="too_large"):
        normalise({"properties": {"a": schema}}, Dialect.OPENAI)


def test_a_choice_of_objects_at_the_top_becomes_one_object() -> None:
    schema = {
        "oneOf": [
            {"type": "object", "properties": {"id": {"type": "integer"}, "x": {"type": "string"}},
             "required": ["id", "x"]},
            {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        ]
    }  # fmt: skip
    result = normalise(schema, Dialect.OPENAI)
    assert result["required"] == ["id"]
    assert result["properties"]["id"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def test_strict_mode_requires_everything_and_lets_the_optional_be_null() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "format": "uuid"},
            "unit": {"enum": ["c", "f"]},
            "more": {"type": "object"},
        },
        "required": ["city"],
    }
    result = normalise(schema, Dialect.OPENAI_STRICT)
    assert result["required"] == ["city", "unit", "more"]
    assert result["properties"]["city"] == {"type": "string"}
    assert result["properties"]["unit"] == {"type": ["string", "null"], "enum": ["c", "f", None]}
    assert result["properties"]["more"]["type"] == ["string", "null"]  # told as JSON text
    sent = '{"city": "北京", "unit": null, "more": "{\\"a\\": 1}"}'
    assert read_arguments(sent, schema) == {"city": "北京", "more": {"a": 1}}


def test_gemini_is_told_one_type_no_null_and_only_formats_it_knows() -> None:
    schema = {
        "type": "object",
        "properties": {
            "day": {"type": ["string", "null"], "format": "date"},
            "at": {"type": "string", "format": "date-time"},
            "level": {"enum": [1, 2], "description": "How loud."},
            "user-id": {"type": "string"},
        },
        "required": ["day", "at"],
    }
    result = normalise(schema, Dialect.GEMINI)
    properties = result["properties"]
    assert result["required"] == ["at"]
    assert read_arguments('{"at": "now"}', schema) == {"at": "now", "day": None}
    assert properties["day"] == {"type": "string"}
    assert "user-id" not in properties
    assert properties["at"] == {"type": "string", "format": "date-time"}
    assert properties["level"] == {"type": "integer", "description": "How loud. One of 1, 2."}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ([], "not_an_object"),
        ({"type": "string"}, "not_an_object"),
        ({"$ref": "https://example.com/schema"}, "bad_ref"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, "bad_ref"),
        ({"properties": {"名": {"type": "string"}}, "required": ["名"]}, "bad_property"),
        ({"properties": {"a": 5}}, "bad_schema"),
        ({"properties": {"a": {"type": "file"}}}, "bad_schema"),
    ],
)
def test_what_cannot_be_told_names_its_reason(schema: object, reason: str) -> None:
    with pytest.raises(BadSchema) as bad:
        normalise(schema, Dialect.OPENAI)
    assert bad.value.reason == reason


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ("[1]", "one JSON object"),
        ("[" * 100_000, "too long"),
        ("[" * 50_000, "not valid JSON"),
        ("{}", "city is missing"),
        ('{"city": 5}', "arguments.city must be of type string"),
        ('{"city": "x", "unit": "k"}', 'must be one of "c", "f"'),
        ('{"city": "x", "zip": 1}', "zip is not known"),
        ('{"city": ""}', "at least 1 characters"),
        ('{"city": "x", "days": [1, 2.5]}', "arguments.days[1] must be of type integer"),
        ('{"city": "x", "days": [1e999]}', "must be of type integer"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(text: str, problem: str) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "unit": {"enum": ["c", "f"]},
            "days": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    with pytest.raises(BadArguments) as bad:
        read_arguments(text, schema)
    assert problem in str(bad.value)


def test_a_schema_that_multiplies_the_work_of_the_check_is_stopped() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(30):
        schema = {"anyOf": [{"not": schema}, schema]}
    assert "too complex" in problem_of("x", {"allOf": [schema]}) or problem_of("x", schema) != ""
