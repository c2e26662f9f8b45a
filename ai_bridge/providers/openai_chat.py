"""The OpenAI chat dialect, as spoken by OpenAI, DeepSeek, Ollama, vLLM, OpenRouter and others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ai_bridge.config import ProviderConfig
from ai_bridge.errors import ProviderFailure
from ai_bridge.providers.base import CallEnd, CallSink, HttpRequest, ModelCall
from ai_bridge.providers.failures import failure_of, malformed, truncated
from ai_bridge.providers.think import ThinkSplitter
from ai_bridge.secrets import Secret
from ai_bridge.transport.sse import MAX_EVENT_BYTES, EventTooLarge, SseParser
from ai_bridge.types import ChatMessage, Role, Usage, UsageSource
from protocol.codes import EndReason


class _Delta(Struct):
    """What a chunk adds; a whole `message` of a body without streaming has the same fields."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode

_FINISH = {
    "length": EndReason.LENGTH,
    "max_tokens": EndReason.LENGTH,
    "content_filter": EndReason.FILTERED,
    "error": EndReason.ERROR,
}


class OpenAIChat:
    """Builds requests and decodes answers of one configured service."""

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self._url = config.base_url.rstrip("/") + "/chat/completions"

    def build(self, call: ModelCall, key: Secret) -> HttpRequest:
        config = self._config
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            **config.headers,
        }
        if key:
            headers["authorization"] = f"Bearer {key.reveal()}"
        if call.request.request_id:
            headers["x-request-id"] = call.request.request_id
        return HttpRequest(self._url, headers, _encode(self._body(call)))

    def _body(self, call: ModelCall) -> dict[str, Any]:
        quirks = self._config.quirks
        params = call.request.params
        body: dict[str, Any] = {
            "model": call.model,
            "messages": [self._message(message) for message in call.messages],
            "stream": True,
        }
        if quirks.include_usage:
            body["stream_options"] = {"include_usage": True}
        if params.max_tokens is not None:
            body[quirks.max_tokens_field] = params.max_tokens
        if quirks.sampling and params.temperature is not None:
            body["temperature"] = params.temperature
        if quirks.sampling and params.top_p is not None:
            body["top_p"] = params.top_p
        return body

    def _message(self, message: ChatMessage) -> dict[str, str]:
        role = message.role.value
        if message.role is Role.SYSTEM:
            role = self._config.quirks.system_role
        return {"role": role, "content": message.text}

    def decoder(self, out: CallSink) -> ChatDecoder:
        return ChatDecoder(out, self._config)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
        return failure_of(status, headers, _error_object(body))


class ChatDecoder:
    """One answer: an event stream, or the single JSON body that some services send instead."""

    def __init__(self, out: CallSink, config: ProviderConfig) -> None:
        self._out = out
        self._body: bytearray | None = None
        self._sniffed = False
        self._sse = SseParser(self._on_data)
        self._reasoning_field = config.quirks.reasoning_field
        self._text = _HalfCarrier()
        self._thoughts = _HalfCarrier()
        self._think = ThinkSplitter(out.text, out.reasoning) if config.quirks.think_tags else None
        self._finish: EndReason | None = None
        self._usage: Usage | None = None
        self._done = False

    def feed(self, data: bytes) -> bool:
        if not self._sniffed:
            data = self._sniff(data)
        if self._body is not None:
            self._body += data
            if len(self._body) > MAX_EVENT_BYTES:
                raise EventTooLarge
            return False
        try:
            self._sse.feed(data)
        finally:
            self._out.flush()
        return self._done

    def eof(self) -> CallEnd:
        if self._body is not None:
            self._on_data(bytes(self._body))
        elif not self._done:
            self._sse.eof()
        if self._think is not None:
            self._think.eof()
        self._out.flush()
        if self._finish is EndReason.ERROR:
            raise truncated()
        if self._finish is None and not self._done:
            raise truncated()
        return CallEnd(self._finish or EndReason.STOP, self._usage)

    def _sniff(self, data: bytes) -> bytes:
        start = data.lstrip()
        if start:
            self._sniffed = True
            if start.startswith(b"{"):
                self._body = bytearray()
        return data

    def _on_data(self, data: bytes) -> None:
        if data.startswith(b"{"):
            self._take(_read_chunk(data))
        elif data.strip() == b"[DONE]":
            self._done = True
        elif data.lstrip().startswith(b"{"):
            self._take(_read_chunk(data.strip()))
        # Anything else (empty data, "ping") keeps the connection alive and says nothing.

    def _take(self, chunk: _Chunk) -> None:
        if chunk.error is not None:
            error = chunk.error if isinstance(chunk.error, dict) else {}
            raise failure_of(0, {}, error)
        if chunk.usage is not None:
            self._usage = Usage(
                prompt=chunk.usage.prompt_tokens or 0,
                completion=chunk.usage.completion_tokens or 0,
                source=UsageSource.PROVIDER,
            )
        for choice in (chunk.choices or ())[:1]:  # we never ask for more than one
            delta = choice.delta or choice.message
            if delta is not None:
                self._take_delta(delta)
            if choice.finish_reason:
                self._finish = _FINISH.get(choice.finish_reason, EndReason.STOP)

    def _take_delta(self, delta: _Delta) -> None:
        thoughts = self._thoughts.join(self._thoughts_of(delta))
        if thoughts:
            self._out.reasoning(thoughts)
        text = self._text.join(delta.content or delta.refusal)
        if text:
            if self._think is not None:
                self._think.feed(text)
            else:
                self._out.text(text)

    def _thoughts_of(self, delta: _Delta) -> str | None:
        if self._reasoning_field:
            value = getattr(delta, self._reasoning_field, None)
            return value if isinstance(value, str) else None
        return delta.reasoning_content or delta.reasoning or delta.thinking


class _HalfCarrier:
    """Joins characters beyond U+FFFF whose halves arrive in two deltas as two JSON escapes."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def join(self, piece: str | None) -> str:
        """Return the whole characters; a first half at the end waits for the next piece."""
        if not piece:
            return ""
        if not self._half and piece.isascii():
            return piece
        text = self._half + piece
        self._half = ""
        if "\ud800" <= text[-1] <= "\udbff":
            self._half = text[-1]
            text = text[:-1]
        try:
            text.encode()
        except UnicodeEncodeError:
            # Joins pairs; a half without its partner means nothing and is dropped.
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        return text


def _read_chunk(data: bytes) -> _Chunk:
    try:
        return _decode_chunk(data)
    except msgspec.MsgspecError:
        return _read_odd_chunk(data)


def _read_odd_chunk(data: bytes) -> _Chunk:
    """Read what the strict decoder refuses: lone surrogates, fields of unexpected types.

    Raises:
        ProviderFailure: this is no JSON object at all.
    """
    try:
        value = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise malformed() from None
    if not isinstance(value, dict):
        raise malformed()
    choices = value.get("choices")
    usage = value.get("usage")
    return _Chunk(
        choices=[
            _odd_choice(choice)
            for choice in (choices if isinstance(choices, list) else [])
            if isinstance(choice, dict)
        ],
        usage=_odd_usage(usage) if isinstance(usage, dict) else None,
        error=value.get("error"),
    )


def _odd_choice(choice: dict[str, Any]) -> _Choice:
    delta = choice.get("delta") or choice.get("message")
    fields = delta if isinstance(delta, dict) else {}
    texts = {name: fields.get(name) for name in _Delta.__struct_fields__}
    finish = choice.get("finish_reason")
    return _Choice(
        delta=_Delta(**{name: text for name, text in texts.items() if isinstance(text, str)}),
        finish_reason=finish if isinstance(finish, str) else None,
    )


def _odd_usage(usage: dict[str, Any]) -> _Usage:
    def figure(name: str) -> int:
        value = usage.get(name)
        return int(value) if isinstance(value, (int, float)) and 0 <= value < 2**53 else 0

    return _Usage(figure("prompt_tokens"), figure("completion_tokens"))


def _error_object(body: bytes) -> dict[str, Any]:
    """Return the typed error of a body, {} when it has none that we know."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    if isinstance(value, list) and value:
        value = value[0]  # Gemini's compatible endpoint wraps it in a list
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else {}
