"""What an OpenAI request says of tools and of the answer's form: read, checked, bounded.

Source: platform.openai.com/docs/guides/function-calling and .../structured-outputs.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from ai_bridge.http.bodies import wrong_field
from ai_bridge.http.problems import Problem
from ai_bridge.tokens import estimate_tokens
from ai_bridge.tools.schema import (
    MAX_DESCRIPTION_CHARS,
    BadSchema,
    Dialect,
    normalise,
    subschemas,
)
from ai_bridge.types import AnswerFormat, CallerTool, CallerTools

MAX_TOOLS: Final = 128
"""What OpenAI itself takes."""
MAX_TOOLS_BYTES: Final = 256 * 1024
MAX_SCHEMAS: Final = 2_000
"""Subschemas of all tools together; to go through them takes 10 ms."""
MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Of an answer's form."""

_is_name: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch
_CHOICES: Final = ("auto", "none", "required")


class FunctionDef(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: str
    function: FunctionDef | None = None


class Named(Struct):
    name: str


class Choice(Struct):
    """`tool_choice` as an object."""

    type: str
    function: Named | None = None


class JsonSchema(Struct):
    name: str = ""
    description: str | None = None
    schema: Raw = Raw()
    strict: bool | None = None


class Format(Struct):
    """`response_format`."""

    type: str = "text"
    json_schema: JsonSchema | None = None


_tools: Final = msgspec.json.Decoder(list[Tool])
_schema: Final = msgspec.json.Decoder(dict[str, Any])


def read_tools(raw: Raw, choice: str | Choice | None, parallel: bool | None) -> CallerTools | None:
    """Return the tools that the caller runs himself, None without any.

    Raises:
        Problem: 400, a tool that no model can be told of; to leave it out would surprise him.
    """
    data = bytes(raw).strip()
    if data in (b"", b"null", b"[]"):
        if choice not in (None, "none", "auto"):
            raise unsupported("`tool_choice` needs `tools` to choose from.", "tool_choice")
        return None
    if len(data) > MAX_TOOLS_BYTES:
        raise unsupported(f"`tools` may take {MAX_TOOLS_BYTES} bytes: offer fewer.", "tools")
    try:
        given = _tools.decode(data)
    except msgspec.ValidationError as error:
        raise wrong_field(str(error), "tools") from None
    if len(given) > MAX_TOOLS:
        raise unsupported(f"Offer {MAX_TOOLS} tools at most.", "tools")
    tools: list[CallerTool] = []
    left = MAX_SCHEMAS
    for position, tool in enumerate(given):
        tools.append(_read_tool(tool, f"tools[{position}]"))
        left -= sum(1 for _ in subschemas(tools[-1].schema))
        if left < 0:
            raise unsupported("The tools' parameters are too large: offer fewer.", "tools")
    names = {tool.name for tool in tools}
    if len(names) < len(tools):
        raise unsupported("Two tools have the same name.", "tools")
    tokens = estimate_tokens(data.decode("utf-8", "replace"))
    return CallerTools(tuple(tools), _read_choice(choice, names), parallel is not False, tokens)


def _read_tool(tool: Tool, param: str) -> CallerTool:
    function = tool.function
    if tool.type != "function" or function is None:
        raise unsupported("Only tools of the type `function` can be passed through.", param)
    if not _is_name(function.name) or function.name in _CHOICES:
        text = "A tool's name is 1 to 64 letters, digits, _ or -, and not auto, none or required."
        raise unsupported(text, f"{param}.function.name")
    strict = bool(function.strict)
    try:
        schema = normalise(function.parameters, Dialect.OPENAI_STRICT if strict else Dialect.OPENAI)
    except BadSchema as bad:
        text = f"The parameters of {function.name} cannot be told to a model ({bad.reason})."
        raise unsupported(text, f"{param}.function.parameters") from None
    description = (function.description or "").strip()[:MAX_DESCRIPTION_CHARS]
    return CallerTool(function.name, description, schema, strict)


def _read_choice(choice: str | Choice | None, names: set[str]) -> str:
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice in _CHOICES:
            return choice
    elif choice.type == "function" and choice.function is not None:
        if choice.function.name in names:
            return choice.function.name
        raise unsupported("`tool_choice` names a tool that is not among `tools`.", "tool_choice")
    text = 'Set tool_choice to "auto", "none", "required", or name a function.'
    raise unsupported(text, "tool_choice")


def read_format(given: Format | None) -> AnswerFormat | None:
    """Return the form that the answer must have, None for plain text.

    Raises:
        Problem: 400, an unknown type or no usable schema.
    """
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return AnswerFormat()
    told = given.json_schema
    if given.type != "json_schema" or told is None:
        text = "Set response_format.type to text, json_object, or json_schema with its schema."
        raise unsupported(text, "response_format")
    data = bytes(told.schema)
    param = "response_format.json_schema"
    if not _is_name(told.name):
        raise unsupported("Its name is 1 to 64 letters, digits, _ or -.", f"{param}.name")
    if not data or len(data) > MAX_SCHEMA_BYTES:
        text = f"The schema must be there, with {MAX_SCHEMA_BYTES} bytes at most."
        raise unsupported(text, f"{param}.schema")
    try:
        schema = _schema.decode(data)
    except msgspec.ValidationError as error:
        raise wrong_field(str(error), f"{param}.schema") from None
    tokens = estimate_tokens(data.decode("utf-8", "replace"))
    description = (told.description or "")[:MAX_DESCRIPTION_CHARS]
    return AnswerFormat("schema", told.name, description, schema, bool(told.strict), tokens)


def unsupported(text: str, param: str) -> Problem:
    """Return the refusal of what cannot be passed on."""
    return Problem(400, text, code="unsupported_parameter", param=param)
