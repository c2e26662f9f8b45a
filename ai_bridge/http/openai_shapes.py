"""`/v1/chat/completions` and `/v1/models` as OpenAI describes them: requests read, answers written.

Source: platform.openai.com/docs/api-reference/chat. Pure: no socket, no turn is started here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ai_bridge.http.problems import Problem, error_object
from ai_bridge.turn import Turn
from ai_bridge.types import ChatMessage, GenParams, Outcome, Role, ToolCall, Usage
from protocol.codes import EndReason, StreamPart

MAX_MESSAGES: Final = 4_096
MAX_HISTORY: Final = 1_000
"""Of the request's messages, how many the model is shown at most; fewer if its window is full."""

MAX_PARTS: Final = 256
"""Pieces, and calls of tools, of one message."""

Name = Annotated[str, Meta(max_length=256)]


class Part(Struct):
    """One piece of a message's content."""

    type: str
    text: str | None = None


class Function(Struct):
    name: str
    arguments: str = ""


class Call(Struct):
    """A tool call that an earlier answer made."""

    id: str
    function: Function


class Message(Struct):
    """One message of the request."""

    role: str
    content: str | Annotated[list[Part], Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[Call], Meta(max_length=MAX_PARTS)] | None = None
    tool_call_id: str | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None


class Format(Struct):
    type: str = "text"


class ChatBody(Struct):
    """The request. Fields that are not here have no effect, as with names unknown to the vendor."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    stop: (
        Annotated[str, Meta(max_length=256)]
        | Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    metadata: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=64)] | None = (
        None
    )
    tools: Raw = Raw()
    functions: Raw = Raw()
    response_format: Format | None = None


DECODER: Final = msgspec.json.Decoder(ChatBody)


class Ask(Struct, frozen=True):
    """A request after it was checked.

    `system` joins its system messages; `history` is everything else. `params` names no model.
    `user` is who the caller asks for, in the caller's own words.
    """

    model: str
    system: str
    history: tuple[ChatMessage, ...]
    params: GenParams
    stream: bool = False
    include_usage: bool = False
    user: str = ""
    conversation: str = ""


def read_ask(body: ChatBody) -> Ask:
    """Return what a request means.

    Raises:
        Problem: 400, it asks for what cannot be given here.
    """
    _refuse_unsupported(body)
    system, history = split_messages(body.messages)
    options = body.stream_options
    stop = body.stop
    return Ask(
        model=body.model,
        system=system,
        history=history,
        params=GenParams(
            temperature=body.temperature,
            top_p=body.top_p,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
            history=min(MAX_HISTORY, len(history)),
        ),
        stream=bool(body.stream),
        include_usage=bool(options is not None and options.include_usage),
        user=body.user or "",
        conversation=str((body.metadata or {}).get("conversation_id", "")),
    )


def _refuse_unsupported(body: ChatBody) -> None:
    if body.n not in (None, 1):
        raise _unsupported(
            "Only one answer at a time can be made: leave n out or set it to 1.", "n"
        )
    if _says_something(body.tools):
        raise _unsupported("Tools cannot be passed through here: leave tools out.", "tools")
    if _says_something(body.functions):
        raise _unsupported("Functions cannot be passed through: leave them out.", "functions")
    if body.response_format is not None and body.response_format.type != "text":
        text = "Answers are plain text: leave response_format out and ask for JSON in the prompt."
        raise _unsupported(text, "response_format")


def _says_something(raw: Raw) -> bool:
    """Tell whether a field is more than null or an empty list; it is not read any further."""
    return bytes(raw).strip() not in (b"", b"null", b"[]")


def _unsupported(text: str, param: str) -> Problem:
    return Problem(400, text, code="unsupported_parameter", param=param)


def split_messages(messages: Iterable[Message]) -> tuple[str, tuple[ChatMessage, ...]]:
    """Return the instructions, joined, and the talk.

    Raises:
        Problem: 400, an unknown role, content that is no text, or nothing to answer.
    """
    system: list[str] = []
    history: list[ChatMessage] = []
    for position, message in enumerate(messages):
        text = _text_of(message, position)
        match message.role:
            case "system" | "developer":
                system.append(text)
            case "user":
                history.append(ChatMessage(Role.USER, text))
            case "assistant":
                calls = tuple(
                    ToolCall(call.id, call.function.name, call.function.arguments)
                    for call in message.tool_calls or ()
                )
                history.append(ChatMessage(Role.ASSISTANT, text, calls=calls))
            case "tool" | "function":
                call_id = message.tool_call_id or ""
                history.append(ChatMessage(Role.TOOL, text, message.name, call_id=call_id))
            case _:
                text = "A role is system, developer, user, assistant or tool."
                raise Problem(400, text, code="invalid_value", param=f"messages[{position}].role")
    if not any(message.text for message in history):
        raise Problem(
            400, "Send at least one message with text to answer.", code="invalid_value",
            param="messages",
        )  # fmt: skip
    return "\n\n".join(part for part in system if part.strip()), tuple(history)


def _text_of(message: Message, position: int) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    texts = []
    for part in content or ():
        if part.type not in ("text", "refusal") or part.text is None:
            raise Problem(
                400,
                "Only text can be read here: pictures, sound and files are not taken yet.",
                code="unsupported_content",
                param=f"messages[{position}].content",
            )
        texts.append(part.text)
    return "\n".join(texts)


# answers

_encode: Final = msgspec.json.Encoder().encode
_FINISH: Final = {EndReason.LENGTH: "length", EndReason.FILTERED: "content_filter"}
DONE: Final = b"data: [DONE]\n\n"


def finish_reason(outcome: Outcome) -> str:
    """Return the vendor's word for how an answer ended."""
    return _FINISH.get(outcome.reason, "stop")


def usage_bytes(usage: Usage) -> bytes:
    """Return the usage object."""
    return _encode(
        {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        }
    )


class Completion:
    """Writes one answer as OpenAI does, whole or in chunks.

    A chunk is a constant head, the new text and a constant tail, so it costs little more than
    copying. Thoughts go out as `reasoning_content`, the field that DeepSeek
    introduced and clients know.
    """

    def __init__(self, turn_id: int, model: str, created_s: int, include_usage: bool) -> None:
        self._id = b'"id":"chatcmpl-%d",' % turn_id
        self._made = b',"created":%d,"model":' % created_s + _encode(model)
        self._include_usage = include_usage
        self._head = (
            b"data: {"
            + self._id
            + b'"object":"chat.completion.chunk"'
            + self._made
            + b',"choices":'
        )
        self._open = self._head + b'[{"index":0,"delta":{'
        usage = b',"usage":null' if include_usage else b""
        self._close = b'},"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"

    def head(self) -> bytes:
        """Return the first chunk, which only says who speaks."""
        return self._open + b'"role":"assistant","content":""' + self._close

    def delta(self, part: StreamPart, text: str) -> bytes:
        """Return a chunk with more text."""
        field = b'"content":' if part is StreamPart.ANSWER else b'"reasoning_content":'
        return self._open + field + _encode(text) + self._close

    def end(self, outcome: Outcome) -> bytes:
        """Return the last chunk, the usage chunk if it was asked for, and the end mark."""
        reason = finish_reason(outcome).encode()
        usage = b',"usage":null' if self._include_usage else b""
        last = b'},"logprobs":null,"finish_reason":"' + reason + b'"}]' + usage + b"}\n\n"
        figures = b""
        if self._include_usage:
            figures = self._head + b'[],"usage":' + usage_bytes(outcome.usage) + b"}\n\n"
        return self._open + last + figures + DONE

    def failure(self, problem: Problem) -> bytes:
        """Return what ends a stream that had begun."""
        return b'data: {"error":' + _encode(error_object(problem)) + b"}\n\n"

    def whole(self, turn: Turn, outcome: Outcome) -> bytes:
        """Return the single body of an answer without streaming."""
        thoughts = b""
        if turn.size(StreamPart.REASONING):
            thoughts = b',"reasoning_content":' + _encode(turn.text(StreamPart.REASONING))
        return b"".join(
            (
                b"{", self._id, b'"object":"chat.completion"', self._made,
                b',"choices":[{"index":0,"message":{"role":"assistant","content":',
                _encode(turn.text()), thoughts, b',"refusal":null},"logprobs":null,',
                b'"finish_reason":"', finish_reason(outcome).encode(), b'"}],"usage":',
                usage_bytes(outcome.usage), b"}",
            )
        )  # fmt: skip


class ModelRow(Struct):
    """One entry of the list of models."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


def model_list(rows: Iterable[ModelRow]) -> bytes:
    """Return the body of `GET /v1/models`."""
    return _encode({"object": "list", "data": list(rows)})
