"""What a request demands of whoever answers it, in the words of one provider's dialect.

A wish without effect harms nobody and is left out where it is unknown (`providers/`); a demand
that cannot be met would surprise the caller. So a provider that cannot meet it is passed over, and
the request is refused when nobody is left.
"""

from __future__ import annotations

from msgspec import Struct, structs

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.providers.base import ToolDef
from ai_bridge.providers.services import Traits, traits_of
from ai_bridge.tools.registry import DIALECTS, NAME
from ai_bridge.tools.schema import BadSchema, Dialect, normalise
from ai_bridge.types import AnswerFormat, CallerTool, CallerTools, TurnRequest
from protocol.codes import Code

UNSUPPORTED = "unsupported"
"""Kind of the failure: it says nothing about the provider's health."""


class Demands(Struct, frozen=True):
    """What one call brings with it, as its provider takes it; `tokens` is what telling it costs."""

    tools: tuple[ToolDef, ...] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    format: AnswerFormat | None = None
    tokens: int = 0


NOTHING = Demands()


def demands_of(request: TurnRequest, config: ProviderConfig, model: str) -> Demands:
    """Return what a request demands of a provider's model.

    Raises:
        ProviderFailure: unsupported, it cannot be met there; the text says what to change.
    """
    caller, wanted = request.caller_tools, request.params.format
    if any(image.url for message in request.history for image in message.images):
        _check_addresses(config, traits_of(config, model))
    if caller is None and wanted is None:
        return NOTHING
    dialect = DIALECTS[config.kind]
    return Demands(
        tools=_told_tools(caller, dialect) if caller is not None else (),
        tool_choice=caller.choice if caller is not None else "auto",
        parallel_calls=caller is None or caller.parallel,
        format=_told_format(wanted, config, model) if wanted is not None else None,
        tokens=(caller.tokens if caller is not None else 0) + (wanted.tokens if wanted else 0),
    )


def _told_tools(caller: CallerTools, dialect: Dialect) -> tuple[ToolDef, ...]:
    """Return the tools; their schemas were normalised for the other dialects when they came."""
    if dialect is not Dialect.GEMINI:
        return tuple(
            ToolDef(one.name, one.description, one.schema, one.strict) for one in caller.tools
        )
    return tuple(map(_for_gemini, caller.tools))


def _for_gemini(tool: CallerTool) -> ToolDef:
    try:
        schema = normalise(tool.schema, Dialect.GEMINI)
    except BadSchema:
        schema = None
    if schema is None or not NAME.match(tool.name):
        raise _unsupported(
            f"This model cannot be told of the tool {tool.name}: Gemini wants names of letters, "
            "digits and _ that begin with a letter. Rename it, or choose another model."
        )
    return ToolDef(tool.name, tool.description, schema)


def _told_format(wanted: AnswerFormat, config: ProviderConfig, model: str) -> AnswerFormat:
    known = traits_of(config, model).answer_format
    if config.kind == "demo" or known == "none":
        raise _unsupported(
            "This model cannot be held to JSON: leave response_format out and ask for JSON in the "
            "prompt, or choose another model."
        )
    if wanted.kind == "object" and config.kind == "anthropic":
        raise _unsupported(
            "This model takes JSON by a schema only: send response_format json_schema."
        )
    if wanted.kind == "object" or config.kind in ("openai_chat", "openai_responses"):
        if wanted.kind == "schema" and known == "object":
            raise _unsupported(
                "This model takes no JSON schema: send response_format json_object and describe "
                "the fields in the prompt, or choose another model."
            )
        return wanted
    try:
        return structs.replace(wanted, schema=normalise(wanted.schema, DIALECTS[config.kind]))
    except BadSchema as bad:
        text = f"This model cannot be told the schema of response_format ({bad.reason})."
        raise _unsupported(text) from None


def _check_addresses(config: ProviderConfig, traits: Traits) -> None:
    if config.kind == "gemini" or not traits.image_urls:
        raise _unsupported(
            "This model takes no addresses of pictures: send their bytes, as "
            "`data:image/png;base64,...`, or choose another model."
        )


def _unsupported(text: str) -> ProviderFailure:
    return ProviderFailure(UNSUPPORTED, text, remedy=Remedy.NEXT, code=Code.INVALID)
