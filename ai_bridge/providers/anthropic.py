"""Anthropic's messages dialect.

Source: platform.claude.com/docs/en/api/messages, .../build-with-claude/streaming and
.../build-with-claude/prompt-caching.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.providers.base import CallSink, HttpRequest, ModelCall
from ai_bridge.providers.decoder import EventDecoder
from ai_bridge.providers.failures import failure_of
from ai_bridge.providers.lenient import error_object, figure, read_event
from ai_bridge.providers.request import (
    Side,
    args_object,
    post,
    sampling_of,
    sides_of,
    split_system,
    stops_of,
)
from ai_bridge.providers.services import base_url_of, traits_of
from ai_bridge.secrets import Secret
from ai_bridge.types import ChatMessage, Image, Role, Usage, UsageSource
from protocol.codes import EndReason

VERSION = "2023-06-01"
ANSWER_TOKENS = 4096
"""`max_tokens` must be sent; this if the turn does not say (every model takes as much)."""

_CACHE = {"type": "ephemeral"}
_BOUNDS = {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
_BAD_ID = re.compile(r"[^A-Za-z0-9_-]")


class _Block(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class _Delta(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(Struct):
    id: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Event(_Message):
    """Any event; a body without streaming is a `_Message` whose type is "message"."""

    type: str | None = None
    message: _Message | None = None
    index: int | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)

# What is not here ends an answer as it should: end_turn, stop_sequence, tool_use, pause_turn.
_FINISH = {
    "max_tokens": EndReason.LENGTH,
    "model_context_window_exceeded": EndReason.LENGTH,
    "refusal": EndReason.FILTERED,
}


class Anthropic:
    """Builds requests and decodes answers of one configured service."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self._url = base_url_of(config) + "/messages"

    def build(self, call: ModelCall, key: Secret) -> HttpRequest:
        return post(self._url, self._config, call, self._body(call), key_headers(key))

    def _body(self, call: ModelCall) -> dict[str, Any]:
        traits = traits_of(self._config, call.model)
        system, talk = split_system(call.messages)
        params = call.request.params
        body: dict[str, Any] = {
            "model": call.model,
            "max_tokens": ANSWER_TOKENS if params.max_tokens is None else params.max_tokens,
            "messages": _sides(talk),
            "stream": call.stream,
        }
        if system:
            body["system"] = _system(system)
        if call.tools:
            body["tools"] = _tools(call, cached=not system)
            if choice := _choice(call):
                body["tool_choice"] = choice
        if call.format is not None:
            schema = _closed(call.format.schema)
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        sampling = sampling_of(call, traits)
        if "temperature" in sampling:
            body["temperature"] = min(1.0, sampling["temperature"])
        elif "top_p" in sampling:  # newer models refuse both at once
            body["top_p"] = sampling["top_p"]
        if stops := stops_of(call, traits):
            body["stop_sequences"] = stops
        return body

    def decoder(self, out: CallSink) -> AnthropicDecoder:
        return AnthropicDecoder(out)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
        return failure_of(status, headers, error_object(body))


def key_headers(key: Secret) -> dict[str, str]:
    """Return the version of the dialect and the key, if one is needed."""
    headers = {"anthropic-version": VERSION}
    if key:
        headers["x-api-key"] = key.reveal()
    return headers


def _system(texts: list[str]) -> list[dict[str, Any]]:
    """Mark the end of what stays the same from turn to turn, and of all that leads the talk.

    Tools come before the system prompt in the service's cache, so the first mark covers both.
    """
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    blocks[0]["cache_control"] = _CACHE
    blocks[-1]["cache_control"] = _CACHE
    return blocks


def _tools(call: ModelCall, *, cached: bool) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
        for tool in call.tools
    ]
    if cached:
        tools[-1]["cache_control"] = _CACHE
    return tools


def _choice(call: ModelCall) -> dict[str, Any]:
    """Return the choice among the tools, {} for the model's own.

    "none" leaves the tools in place: a talk with calls in it is refused without them.
    """
    if call.tool_choice == "none":
        return {"type": "none"}
    choice: dict[str, Any] = {"type": "auto"}
    if call.tool_choice == "required":
        choice = {"type": "any"}
    elif call.tool_choice != "auto":
        choice = {"type": "tool", "name": call.tool_choice}
    if not call.parallel_calls:
        choice["disable_parallel_tool_use"] = True
    return choice if len(choice) > 1 or choice["type"] != "auto" else {}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a normalised schema as answers can be held to: no open object, no bounds.

    Source: .../build-with-claude/structured-outputs, "JSON Schema limitations".
    """
    result = {name: value for name, value in schema.items() if name not in _BOUNDS}
    if "properties" in schema:
        parts = schema["properties"].items()
        result["properties"] = {name: _closed(part) for name, part in parts}
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = _closed(schema["items"])
    if "anyOf" in schema:
        result["anyOf"] = [_closed(part) for part in schema["anyOf"]]
    return result


def _sides(talk: tuple[ChatMessage, ...]) -> list[dict[str, Any]]:
    sides: list[dict[str, Any]] = [
        {"role": "assistant" if side.model else "user", "content": _blocks(side)}
        for side in sides_of(talk)
    ]
    last = sides[-1] if sides else None
    if last is not None and last["role"] == "assistant":
        _strip_end(last["content"])
    return sides


def _strip_end(blocks: list[dict[str, Any]]) -> None:
    """An answer that is to be continued must not end in white space."""
    if blocks[-1]["type"] == "text":
        blocks[-1]["text"] = blocks[-1]["text"].rstrip()


def _blocks(side: Side) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for message in side.messages:
        if message.role is Role.TOOL:
            blocks.append(
                {
                    "type": "tool_result",
                    "tool_use_id": _tool_id(message.call_id),
                    "content": message.text,
                }
            )
        # Pictures first: the service reads a question about them better behind them.
        blocks.extend({"type": "image", "source": _source(image)} for image in message.images)
        if message.role is not Role.TOOL and message.text.strip():
            blocks.append({"type": "text", "text": message.text})
        for call in message.calls:
            block = {"type": "tool_use", "id": _tool_id(call.id), "name": call.name}
            blocks.append({**block, "input": args_object(call)})
    # Results come first in what follows a call, whatever else was said in the meantime.
    blocks.sort(key=lambda block: block["type"] != "tool_result")
    return blocks


def _source(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media, "data": image.data}


def _tool_id(call_id: str) -> str:
    """Return an id that the service takes; one that another service made may hold other signs."""
    return _BAD_ID.sub("_", call_id)


class AnthropicDecoder(EventDecoder):
    """One answer in the messages dialect; it ends with `message_stop`."""

    def __init__(self, out: CallSink) -> None:
        super().__init__(out)
        self._figures = _Usage()

    def _take(self, data: bytes) -> None:
        event = read_event(data, _events)
        kind = event.type
        if kind == "content_block_delta":
            self._take_delta(event.index, event.delta or _Delta())
        elif kind == "content_block_start":
            self._take_block(event.index, event.content_block or _Block())
        elif kind == "message_start":
            self._take_message(event.message or _Message())
        elif kind == "message_delta":
            self._note(event.usage)
            self._note_stop((event.delta or _Delta()).stop_reason)
        elif kind == "message_stop":
            self._done = True
        elif event.error is not None or kind == "error":
            raise failure_of(0, {}, event.error if isinstance(event.error, dict) else {})
        elif kind == "message":
            self._take_message(event)
            self._done = True

    def _take_message(self, message: _Message) -> None:
        self._response_id = message.id or self._response_id
        self._note(message.usage)
        for index, block in enumerate(message.content or ()):
            self._take_block(index, block)
        self._note_stop(message.stop_reason)

    def _take_block(self, index: int | None, block: _Block) -> None:
        if block.type == "tool_use":
            # The empty object at the start of a stream stands for what the deltas will bring.
            self._calls.add(index, block.id, block.name, block.input or None)
        else:
            self._think(block.thinking)
            self._say(block.text)

    def _take_delta(self, index: int | None, delta: _Delta) -> None:
        if delta.type == "text_delta":
            self._say(delta.text)
        elif delta.type == "thinking_delta":
            self._think(delta.thinking)
        elif delta.type == "input_json_delta":
            self._calls.add(index, None, None, delta.partial_json)

    def _note_stop(self, reason: str | None) -> None:
        if reason:
            self._finish = _FINISH.get(reason, EndReason.STOP)

    def _note(self, usage: _Usage | None) -> None:
        """Keep the last word on each figure: the input comes first, the output at the end."""
        if usage is None:
            return
        for name in usage.__struct_fields__:
            if (value := getattr(usage, name)) is not None:
                setattr(self._figures, name, value)
        kept = self._figures
        cached = figure(kept.cache_read_input_tokens)
        written = figure(kept.cache_creation_input_tokens)
        self._usage = Usage(
            prompt=figure(kept.input_tokens) + cached + written,
            completion=figure(kept.output_tokens),
            source=UsageSource.PROVIDER,
            cached=cached,
        )
