"""The OpenAI responses dialect. Nothing is kept at the service: each call sends its whole talk.

Source: platform.openai.com/docs/api-reference/responses and .../responses-streaming.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.providers.base import CallSink, HttpRequest, ModelCall, ToolDef
from ai_bridge.providers.decoder import EventDecoder
from ai_bridge.providers.failures import failure_of
from ai_bridge.providers.lenient import error_object, figure, read_event
from ai_bridge.providers.openai_chat import bearer, named_schema
from ai_bridge.providers.request import (
    choice_of,
    data_url,
    post,
    sampling_of,
    split_system,
    tools_of,
)
from ai_bridge.providers.services import Traits, base_url_of, traits_of
from ai_bridge.secrets import Secret
from ai_bridge.types import AnswerFormat, ChatMessage, Role, ToolCall, Usage, UsageSource
from protocol.codes import EndReason

MIN_OUTPUT_TOKENS = 16
"""The service refuses a smaller `max_output_tokens`."""


class _Content(Struct):
    """A part of a message, of a summary or of the thoughts."""

    text: str | None = None
    refusal: str | None = None


class _Item(Struct):
    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    content: list[_Content] | None = None
    summary: list[_Content] | None = None


class _InputDetails(Struct):
    cached_tokens: int | None = None


class _OutputDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Incomplete(Struct):
    reason: str | None = None


class _Response(Struct):
    id: str | None = None
    status: str | None = None
    output: list[_Item] | None = None
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None


class _Event(_Response):
    """Any event; a body without streaming is a `_Response` with `object` in place of `type`."""

    type: str | None = None
    object: str | None = None
    response: _Response | None = None
    item: _Item | None = None
    delta: str | None = None
    arguments: str | None = None
    item_id: str | None = None
    output_index: int | None = None
    summary_index: int | None = None
    code: Any = None
    message: Any = None


_events = msgspec.json.Decoder(_Event)

_INCOMPLETE = {"max_output_tokens": EndReason.LENGTH, "content_filter": EndReason.FILTERED}
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


class OpenAIResponses:
    """Builds requests and decodes answers of one configured service."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self._url = base_url_of(config) + "/responses"

    def build(self, call: ModelCall, key: Secret) -> HttpRequest:
        return post(self._url, self._config, call, self._body(call), bearer(key))

    def _body(self, call: ModelCall) -> dict[str, Any]:
        traits = traits_of(self._config, call.model)
        system, talk = split_system(call.messages)
        body: dict[str, Any] = {
            "model": call.model,
            "input": [item for message in talk for item in _items(message, traits)],
            "stream": call.stream,
            "store": False,
        }
        if system:
            body["instructions"] = "\n\n".join(system)
        if call.request.params.max_tokens is not None:
            body["max_output_tokens"] = max(MIN_OUTPUT_TOKENS, call.request.params.max_tokens)
        body.update(sampling_of(call, traits))
        if traits.ask_reasoning:
            body["reasoning"] = {"summary": "auto"}
        if tools := tools_of(call, traits):
            body["tools"] = [_tool(tool, traits) for tool in tools]
            choice = choice_of(call, traits)
            if choice in ("none", "required"):
                body["tool_choice"] = choice
            elif choice != "auto":
                body["tool_choice"] = {"type": "function", "name": choice}
            if not call.parallel_calls and traits.one_call:
                body["parallel_tool_calls"] = False
        if call.format is not None:
            body["text"] = {"format": _format(call.format)}
        return body

    def decoder(self, out: CallSink) -> ResponsesDecoder:
        return ResponsesDecoder(out)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
        return failure_of(status, headers, error_object(body))


def _items(message: ChatMessage, traits: Traits) -> list[dict[str, Any]]:
    if message.role is Role.TOOL:
        output = {"type": "function_call_output", "call_id": message.call_id}
        return [{**output, "output": message.text}]
    role = traits.system_role if message.role is Role.SYSTEM else message.role.value
    said = {"type": "message", "role": role, "content": _content(message)}
    speaks = bool(message.text or message.images)
    return [*([said] if speaks else []), *(_sent_call(call) for call in message.calls)]


def _content(message: ChatMessage) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.text
    parts: list[dict[str, Any]] = []
    if message.text:
        parts.append({"type": "input_text", "text": message.text})
    for image in message.images:
        detail = image.detail or "auto"
        parts.append({"type": "input_image", "image_url": data_url(image), "detail": detail})
    return parts


def _format(wanted: AnswerFormat) -> dict[str, Any]:
    if wanted.kind == "object":
        return {"type": "json_object"}
    return {"type": "json_schema", **named_schema(wanted)}


def _sent_call(call: ToolCall) -> dict[str, Any]:
    # Without the item's own id: with it the service wants the thoughts that led to the call.
    return {
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.args,
    }


def _tool(tool: ToolDef, traits: Traits) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.schema,
        "strict": tool.strict and traits.strict_tools,  # must be said: true is the default
    }


class ResponsesDecoder(EventDecoder):
    """One answer in the responses dialect.

    It ends with `response.completed`, `.incomplete` or `.failed`, and with nothing else.
    """

    def __init__(self, out: CallSink) -> None:
        super().__init__(out)
        self._said = False
        self._thought = False

    def _take(self, data: bytes) -> None:
        event = read_event(data, _events)
        kind = event.type or ""
        if kind == "response.output_text.delta" or kind == "response.refusal.delta":
            self._said = True
            self._say(event.delta)
        elif kind.startswith("response.reasoning"):
            self._take_thoughts(kind, event)
        elif kind.startswith(("response.function_call_arguments.", "response.output_item.")):
            self._take_call(kind, event)
        elif kind in _TERMINAL:
            self._end_with(event.response or event, kind.removeprefix("response."))
        elif kind == "error" or (not kind and event.error is not None):
            plain = {"code": event.code, "message": event.message}
            raise _reported(plain if event.error is None else event.error)
        elif event.response is not None:
            self._response_id = event.response.id or self._response_id
        elif event.object == "response":
            self._end_with(event, event.status or "completed")

    def _take_thoughts(self, kind: str, event: _Event) -> None:
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            self._thought = True
            self._think(event.delta)
        elif kind == "response.reasoning_summary_part.added" and event.summary_index:
            self._think("\n\n")

    def _take_call(self, kind: str, event: _Event) -> None:
        item = event.item
        key: Hashable = event.output_index
        if key is None:
            key = event.item_id or (item.id if item is not None else None)
        if kind == "response.function_call_arguments.delta":
            self._calls.add(key, None, None, event.delta)
        elif kind == "response.function_call_arguments.done":
            self._calls.replace_args(key, event.arguments)
        elif item is not None and item.type == "function_call":
            self._calls.add(key, item.call_id, item.name, None)
            self._calls.replace_args(key, item.arguments)

    def _end_with(self, response: _Response, status: str) -> None:
        """Understand the whole answer: its state and figures, and what no event told before."""
        self._response_id = response.id or self._response_id
        if response.usage is not None:
            self._usage = _usage(response.usage)
        if status == "failed" or response.error is not None:
            raise _reported(response.error)
        if status == "incomplete":
            reason = (response.incomplete_details or _Incomplete()).reason
            self._finish = _INCOMPLETE.get(reason or "", EndReason.LENGTH)
        elif status == "completed":
            self._finish = EndReason.STOP
        else:  # cancelled, or still in progress: that is no end
            self._finish = EndReason.ERROR
        told = bool(self._calls)
        for position, item in enumerate(response.output or ()):
            if item.type != "function_call":
                self._take_message(item)
            elif not told:
                self._calls.add(position, item.call_id, item.name, item.arguments)
        self._done = True

    def _take_message(self, item: _Item) -> None:
        if item.type == "message" and not self._said:
            for part in item.content or ():
                self._say(part.text or part.refusal)
        elif item.type == "reasoning" and not self._thought:
            parts = item.summary or item.content or ()
            self._think("\n\n".join(part.text for part in parts if part.text))


def _reported(error: object) -> ProviderFailure:
    return failure_of(0, {}, error if isinstance(error, dict) else {})


def _usage(usage: _Usage) -> Usage:
    read = usage.input_tokens_details or _InputDetails()
    written = usage.output_tokens_details or _OutputDetails()
    return Usage(
        prompt=figure(usage.input_tokens),
        completion=figure(usage.output_tokens),
        source=UsageSource.PROVIDER,
        cached=figure(read.cached_tokens),
        reasoning=figure(written.reasoning_tokens),
    )
