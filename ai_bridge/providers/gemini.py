"""Google's Gemini dialect.

Source: ai.google.dev/api/generate-content and ai.google.dev/gemini-api/docs/function-calling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.providers.base import CallSink, HttpRequest, ModelCall, ToolDef
from ai_bridge.providers.decoder import EventDecoder
from ai_bridge.providers.failures import failure_of, malformed
from ai_bridge.providers.lenient import UNREADABLE, error_object, figure, read_event
from ai_bridge.providers.request import (
    Side,
    args_object,
    post,
    sampling_of,
    sides_of,
    split_system,
    stops_of,
)
from ai_bridge.providers.services import Traits, base_url_of, traits_of
from ai_bridge.secrets import Secret
from ai_bridge.types import Image, Role, Usage, UsageSource
from protocol.codes import EndReason


class _FunctionCall(Struct):
    id: str | None = None
    name: str | None = None
    args: dict[str, Any] | None = None


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _FunctionCall | None = None


class _Content(Struct):
    parts: list[_Part] | None = None


class _Candidate(Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class _Usage(Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None


class _Chunk(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    response_id: str | None = None
    error: Any = None


_chunks = msgspec.json.Decoder(_Chunk)
_bodies = msgspec.json.Decoder(list[msgspec.Raw])

_MAX_SEED = 2**31 - 1
"""It is an int32 there; OpenAI's callers may bring more."""

_FINISH = {
    "STOP": EndReason.STOP,
    "MAX_TOKENS": EndReason.LENGTH,
    "SAFETY": EndReason.FILTERED,
    "RECITATION": EndReason.FILTERED,
    "LANGUAGE": EndReason.FILTERED,
    "BLOCKLIST": EndReason.FILTERED,
    "PROHIBITED_CONTENT": EndReason.FILTERED,
    "SPII": EndReason.FILTERED,
    "IMAGE_SAFETY": EndReason.FILTERED,
}
"""Anything else (OTHER, MALFORMED_FUNCTION_CALL, ...) is an answer that went wrong."""


class Gemini:
    """Builds requests and decodes answers of one configured service."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self._base_url = base_url_of(config)

    def build(self, call: ModelCall, key: Secret) -> HttpRequest:
        model = quote(call.model.removeprefix("models/"), safe="")
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        url = f"{self._base_url}/models/{model}:{method}"
        return post(url, self._config, call, self._body(call), key_headers(key))

    def _body(self, call: ModelCall) -> dict[str, Any]:
        traits = traits_of(self._config, call.model)
        system, talk = split_system(call.messages)
        body: dict[str, Any] = {
            "contents": [
                {"role": "model" if side.model else "user", "parts": _parts(side, traits)}
                for side in sides_of(talk)
            ]
        }
        if system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
        if call.tools:
            body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in call.tools]}]
            if call.tool_choice != "auto":
                body["toolConfig"] = {"functionCallingConfig": _choice(call.tool_choice)}
        if settings := _settings(call, traits):
            body["generationConfig"] = settings
        return body

    def decoder(self, out: CallSink) -> GeminiDecoder:
        return GeminiDecoder(out)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
        return failure_of(status, headers, error_object(body))


def key_headers(key: Secret) -> dict[str, str]:
    """Return the header with the key, if one is needed; never the `key` of the URL."""
    return {"x-goog-api-key": key.reveal()} if key else {}


def _settings(call: ModelCall, traits: Traits) -> dict[str, Any]:
    sampling = sampling_of(call, traits)
    settings: dict[str, Any] = {}
    if "temperature" in sampling:
        settings["temperature"] = sampling["temperature"]
    if "top_p" in sampling:
        settings["topP"] = sampling["top_p"]
    if call.request.params.max_tokens is not None:
        settings["maxOutputTokens"] = call.request.params.max_tokens
    if stops := stops_of(call, traits):
        settings["stopSequences"] = stops
    settings.update(_wishes(call, traits))
    if traits.ask_reasoning:
        settings["thinkingConfig"] = {"includeThoughts": True}
    return settings


def _wishes(call: ModelCall, traits: Traits) -> dict[str, Any]:
    params = call.request.params
    wishes: dict[str, Any] = {}
    if params.seed is not None and traits.seed_field:
        wishes["seed"] = params.seed & _MAX_SEED
    if traits.penalties:
        if params.frequency_penalty is not None:
            wishes["frequencyPenalty"] = params.frequency_penalty
        if params.presence_penalty is not None:
            wishes["presencePenalty"] = params.presence_penalty
    if call.format is not None:
        wishes["responseMimeType"] = "application/json"
        if call.format.kind == "schema":
            wishes["responseJsonSchema"] = call.format.schema
    return wishes


def _choice(choice: str) -> dict[str, Any]:
    if choice == "none":
        return {"mode": "NONE"}
    if choice == "required":
        return {"mode": "ANY"}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


def _parts(side: Side, traits: Traits) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for message in side.messages:
        if message.role is Role.TOOL:
            answer = {"name": message.name or "tool", "response": {"result": message.text}}
            parts.append({"functionResponse": answer})
            continue
        parts.extend(map(_picture, message.images))
        if message.text.strip():
            parts.append({"text": message.text})
        for number, call in enumerate(message.calls):
            part: dict[str, Any] = {"functionCall": {"name": call.name, "args": args_object(call)}}
            if traits.call_signature and number == 0:  # only the first of parallel calls has one
                part["thoughtSignature"] = traits.call_signature
            parts.append(part)
    parts.sort(key=lambda part: "functionResponse" not in part)
    return parts


def _picture(image: Image) -> dict[str, Any]:
    return {"inlineData": {"mimeType": image.media, "data": image.data}}


def _tool(tool: ToolDef) -> dict[str, Any]:
    # `parameters` would take a dialect of its own, which knows no empty object.
    return {
        "name": tool.name,
        "description": tool.description,
        "parametersJsonSchema": tool.schema,
    }


class GeminiDecoder(EventDecoder):
    """One answer in Gemini's dialect.

    `finishReason` may come with every chunk, so an answer is complete only where the body ends.
    """

    def _take(self, data: bytes) -> None:
        chunk = read_event(data, _chunks)
        if chunk.error is not None:
            raise failure_of(0, {}, chunk.error if isinstance(chunk.error, dict) else {})
        self._response_id = chunk.response_id or self._response_id
        if chunk.usage_metadata is not None:
            self._usage = _usage(chunk.usage_metadata)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._finish = EndReason.FILTERED
        for candidate in (chunk.candidates or ())[:1]:
            for part in (candidate.content and candidate.content.parts) or ():
                self._take_part(part)
            if candidate.finish_reason and candidate.finish_reason != "FINISH_REASON_UNSPECIFIED":
                self._finish = _FINISH.get(candidate.finish_reason, EndReason.ERROR)

    def _take_body(self, body: bytes) -> None:
        """Understand a body; without `alt=sse` a stream is one list of chunks."""
        if not body.startswith(b"["):
            self._take(body)
            return
        try:
            chunks = _bodies.decode(body)
        except UNREADABLE:
            raise malformed() from None
        for chunk in chunks:
            self._take(bytes(chunk))

    def _take_part(self, part: _Part) -> None:
        if part.function_call is not None:
            call = part.function_call
            self._calls.add(object(), call.id, call.name, call.args)
        elif part.thought:
            self._think(part.text)
        else:
            self._say(part.text)


def _usage(usage: _Usage) -> Usage:
    thoughts = figure(usage.thoughts_token_count)
    return Usage(
        prompt=figure(usage.prompt_token_count) + figure(usage.tool_use_prompt_token_count),
        completion=figure(usage.candidates_token_count) + thoughts,
        source=UsageSource.PROVIDER,
        cached=figure(usage.cached_content_token_count),
        reasoning=thoughts,
    )
