"""The OpenAI chat dialect, as spoken by OpenAI, DeepSeek, Ollama, vLLM, OpenRouter and others.

Source: platform.openai.com/docs/api-reference/chat; what differs is in services.py.
"""

from __future__ import annotations

import hashlib
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
from ai_bridge.providers.request import (
    choice_of,
    data_url,
    post,
    sampling_of,
    stops_of,
    tools_of,
)
from ai_bridge.providers.services import Traits, base_url_of, traits_of
from ai_bridge.providers.think import ThinkSplitter
from ai_bridge.secrets import Secret
from ai_bridge.types import AnswerFormat, ChatMessage, Role, ToolCall, Usage, UsageSource
from protocol.codes import EndReason


class _Function(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(Struct):
    """A piece of a content that comes as a list (Mistral's reasoning models)."""

    text: str | None = None
    thinking: str | list[_Part] | None = None


class _Delta(Struct):
    """What a chunk adds; a whole `message` of a body without streaming has the same fields."""

    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct):
    cached_tokens: int | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's own name."""
    cached_tokens: int | None = None
    """Moonshot's own name."""


class _Chunk(Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_chunks = msgspec.json.Decoder(_Chunk)

# What is not here ends an answer as it should: stop, tool_calls, function_call, eos, ...
_FINISH = {
    "length": EndReason.LENGTH,
    "max_tokens": EndReason.LENGTH,
    "model_length": EndReason.LENGTH,
    "model_context_window_exceeded": EndReason.LENGTH,
    "content_filter": EndReason.FILTERED,
    "sensitive": EndReason.FILTERED,
    "error": EndReason.ERROR,
    "abort": EndReason.ERROR,
    "network_error": EndReason.ERROR,
    "insufficient_system_resource": EndReason.ERROR,
}


class OpenAIChat:
    """Builds requests and decodes answers of one configured service."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self._url = base_url_of(config) + "/chat/completions"
        self._traits = traits_of(config)

    def build(self, call: ModelCall, key: Secret) -> HttpRequest:
        return post(self._url, self._config, call, self._body(call), bearer(key))

    def _body(self, call: ModelCall) -> dict[str, Any]:
        traits = traits_of(self._config, call.model)
        body: dict[str, Any] = {
            "model": call.model,
            "messages": [_message(message, traits) for message in call.messages],
            "stream": call.stream,
        }
        if call.stream and traits.include_usage:
            body["stream_options"] = {"include_usage": True}
        if call.request.params.max_tokens is not None:
            body[traits.max_tokens_field] = call.request.params.max_tokens
        body.update(sampling_of(call, traits))
        body.update(_wishes(call, traits))
        if stops := stops_of(call, traits):
            body["stop"] = stops
        if tools := tools_of(call, traits):
            body["tools"] = [_tool(tool, traits) for tool in tools]
            choice = choice_of(call, traits)
            if choice in ("none", "required"):
                body["tool_choice"] = choice
            elif choice != "auto":
                body["tool_choice"] = {"type": "function", "function": {"name": choice}}
            if not call.parallel_calls and traits.one_call:
                body["parallel_tool_calls"] = False
        return body

    def decoder(self, out: CallSink) -> ChatDecoder:
        return ChatDecoder(out, self._traits)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
        return failure_of(status, headers, error_object(body))


def bearer(key: Secret) -> dict[str, str]:
    """Return the header with the key, or none where no key is needed."""
    return {"authorization": f"Bearer {key.reveal()}"} if key else {}


def _wishes(call: ModelCall, traits: Traits) -> dict[str, Any]:
    """Return what was wished besides; what the service does not know is left out."""
    params = call.request.params
    wishes: dict[str, Any] = {}
    if params.seed is not None and traits.seed_field:
        wishes[traits.seed_field] = params.seed
    if traits.sampling and traits.penalties:
        if params.frequency_penalty is not None:
            wishes["frequency_penalty"] = params.frequency_penalty
        if params.presence_penalty is not None:
            wishes["presence_penalty"] = params.presence_penalty
    if call.format is not None:
        wishes["response_format"] = _format(call.format)
    return wishes


def _format(wanted: AnswerFormat) -> dict[str, Any]:
    if wanted.kind == "object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": named_schema(wanted)}


def named_schema(wanted: AnswerFormat) -> dict[str, Any]:
    """Return a schema as both of OpenAI's dialects have it."""
    told: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
    return {**told, "description": wanted.description} if wanted.description else told


def _message(message: ChatMessage, traits: Traits) -> dict[str, Any]:
    if message.role is Role.TOOL:
        return {
            "role": "tool",
            "tool_call_id": _tool_id(message.call_id, traits),
            "content": message.text,
        }
    role = traits.system_role if message.role is Role.SYSTEM else message.role.value
    if message.images:
        return {"role": role, "content": _parts(message)}
    if not message.calls:
        return {"role": role, "content": message.text}
    return {
        "role": role,
        "content": message.text or None,
        "tool_calls": [_sent_call(call, traits) for call in message.calls],
    }


def _parts(message: ChatMessage) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if message.text:
        parts.append({"type": "text", "text": message.text})
    for image in message.images:
        told = {"url": data_url(image)}
        if image.detail:
            told["detail"] = image.detail
        parts.append({"type": "image_url", "image_url": told})
    return parts


def _sent_call(call: ToolCall, traits: Traits) -> dict[str, Any]:
    return {
        "id": _tool_id(call.id, traits),
        "type": "function",
        "function": {"name": call.name, "arguments": call.args},
    }


def _tool_id(call_id: str, traits: Traits) -> str:
    """Return the id in the form that the service insists on; equal ids stay equal."""
    size = traits.tool_id_chars
    if size == 0 or (len(call_id) == size and call_id.isascii() and call_id.isalnum()):
        return call_id
    return hashlib.blake2s(call_id.encode()).hexdigest()[:size]


def _tool(tool: ToolDef, traits: Traits) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.schema,
    }
    if tool.strict and traits.strict_tools:
        function["strict"] = True
    return {"type": "function", "function": function}


class ChatDecoder(EventDecoder):
    """One answer in the chat dialect; it ends with `finish_reason`, or at least `[DONE]`."""

    def __init__(self, out: CallSink, traits: Traits) -> None:
        super().__init__(out)
        self._reasoning_field = traits.reasoning_field
        self._splitter = ThinkSplitter(out.text, out.reasoning) if traits.think_tags else None

    def _take(self, data: bytes) -> None:
        chunk = read_event(data, _chunks)
        if chunk.error is not None:
            raise failure_of(0, {}, chunk.error if isinstance(chunk.error, dict) else {})
        if chunk.id:
            self._response_id = chunk.id
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        for choice in (chunk.choices or ())[:1]:  # we never ask for more than one
            delta = choice.delta or choice.message
            if delta is not None:
                self._take_delta(delta)
            if choice.finish_reason:
                self._finish = _FINISH.get(choice.finish_reason, EndReason.STOP)

    def _take_delta(self, delta: _Delta) -> None:
        self._think(self._thoughts_of(delta))
        if isinstance(delta.content, list):
            self._take_parts(delta.content)
        else:
            self._say(delta.content or delta.refusal)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._take_call(call)
        if delta.function_call is not None:  # the form before tools, still used by old servers
            function = delta.function_call
            self._calls.add("function_call", None, function.name, function.arguments)

    def _take_parts(self, parts: list[_Part]) -> None:
        for part in parts:
            if isinstance(part.thinking, list):
                for thought in part.thinking:
                    self._think(thought.text)
            else:
                self._think(part.thinking)
            self._say(part.text)

    def _take_call(self, call: _Call) -> None:
        """Add a piece of a call: by index, else by id, else to the call that came last."""
        function = call.function or _Function()
        key: Hashable = call.index
        if key is None:
            key = call.id or None
        if key is None and function.name:
            key = ("name", function.name)
        self._calls.part(key, call.id, function.name)
        self._calls.add(key, call.id, function.name, function.arguments)

    def _thoughts_of(self, delta: _Delta) -> str | None:
        if self._reasoning_field:
            value = getattr(delta, self._reasoning_field, None)
            return value if isinstance(value, str) else None
        return delta.reasoning_content or delta.reasoning or delta.thinking

    def _say(self, piece: str | None) -> None:
        text = self._text.join(piece)
        if not text:
            return
        if self._splitter is not None:
            self._splitter.feed(text)
        else:
            self._out.text(text)

    def _end_text(self) -> None:
        if self._splitter is not None:
            self._splitter.eof()


def _usage(usage: _Usage) -> Usage:
    prompt_details = usage.prompt_tokens_details
    cached = prompt_details.cached_tokens if prompt_details is not None else None
    if cached is None:
        cached = usage.prompt_cache_hit_tokens
    if cached is None:
        cached = usage.cached_tokens
    completion_details = usage.completion_tokens_details
    reasoning = completion_details.reasoning_tokens if completion_details is not None else None
    return Usage(
        prompt=figure(usage.prompt_tokens),
        completion=figure(usage.completion_tokens),
        source=UsageSource.PROVIDER,
        cached=figure(cached),
        reasoning=figure(reasoning),
    )
