"""`/v1/chat/completions` and `/v1/models` as OpenAI describes them: requests read, answers written.

Source: platform.openai.com/docs/api-reference/chat. Pure: no socket, no turn is started here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ai_bridge.http.openai_tools import (
    Choice,
    Format,
    read_format,
    read_tools,
    unsupported,
)
from ai_bridge.http.pictures import MAX_PICTURES, ImageUrl, read_picture
from ai_bridge.http.problems import Problem, error_object
from ai_bridge.turn import Turn
from ai_bridge.types import (
    CallerTools,
    ChatMessage,
    GenParams,
    Image,
    Outcome,
    Role,
    ToolCall,
    Usage,
)
from protocol.codes import EndReason, StreamPart

MAX_MESSAGES: Final = 4_096
MAX_HISTORY: Final = 1_000
"""Of the request's messages, how many the model is shown at most; fewer if its window is full."""

MAX_TEXT_CHARS: Final = 4 * 1024 * 1024
"""About a million tokens; no window that is configured today holds more."""
MAX_PARTS: Final = 256
"""Pieces, and calls of tools, of one message."""

Name = Annotated[str, Meta(max_length=256)]


class Part(Struct):
    """One piece of a message's content."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


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


class ChatBody(Struct):
    """The request. Fields that are not here have no effect, as with names unknown to the vendor.

    The last ones are read only to refuse what they ask for.
    """

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
    seed: int | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    tools: Raw = Raw()
    tool_choice: str | Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    functions: Raw = Raw()
    logit_bias: Raw = Raw()
    logprobs: bool | None = None
    modalities: list[str] | None = None
    audio: Raw = Raw()
    web_search_options: Raw = Raw()


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
    tools: CallerTools | None = None
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
            seed=body.seed,
            frequency_penalty=body.frequency_penalty or None,
            presence_penalty=body.presence_penalty or None,
            format=read_format(body.response_format),
        ),
        tools=read_tools(body.tools, body.tool_choice, body.parallel_tool_calls),
        stream=bool(body.stream),
        include_usage=bool(options is not None and options.include_usage),
        user=body.user or "",
        conversation=str((body.metadata or {}).get("conversation_id", "")),
    )


def _refuse_unsupported(body: ChatBody) -> None:
    if body.n not in (None, 1):
        raise unsupported("Only one answer at a time can be made: leave n out or set it to 1.", "n")
    if _says_something(body.functions):
        raise unsupported("Functions became tools: send them as `tools`.", "functions")
    if _says_something(body.logit_bias):
        text = "Token numbers mean something else at every AI service: leave logit_bias out."
        raise unsupported(text, "logit_bias")
    if body.logprobs:
        raise unsupported("Probabilities of tokens are not told: leave logprobs out.", "logprobs")
    if any(kind != "text" for kind in body.modalities or ()) or _says_something(body.audio):
        raise unsupported("Answers are text: leave modalities and audio out.", "modalities")
    if bytes(body.web_search_options).strip() not in (b"", b"null"):
        text = "Nothing is searched on the web here: leave web_search_options out."
        raise unsupported(text, "web_search_options")


def _says_something(raw: Raw) -> bool:
    """Tell whether a field is more than null or empty; it is not read any further."""
    return bytes(raw).strip() not in (b"", b"null", b"[]", b"{}")


def split_messages(messages: Iterable[Message]) -> tuple[str, tuple[ChatMessage, ...]]:
    """Return the instructions, joined, and the talk. `check_pictures` looks at its pictures.

    Raises:
        Problem: 400, an unknown role, content that cannot be read, or nothing to answer; 413.
    """
    system: list[str] = []
    history: list[ChatMessage] = []
    names: dict[str, str] = {}
    for position, message in enumerate(messages):
        text, images = _content_of(message, f"messages[{position}]")
        match message.role:
            case "system" | "developer":
                system.append(text)
            case "user":
                history.append(ChatMessage(Role.USER, text, images=images))
            case "assistant":
                calls = tuple(
                    ToolCall(call.id, call.function.name, call.function.arguments)
                    for call in message.tool_calls or ()
                )
                names.update((call.id, call.name) for call in calls)
                history.append(ChatMessage(Role.ASSISTANT, text, calls=calls))
            case "tool" | "function":
                call_id = message.tool_call_id or ""
                name = message.name or names.get(call_id)
                history.append(ChatMessage(Role.TOOL, text, name, call_id=call_id))
            case _:
                text = "A role is system, developer, user, assistant or tool."
                raise Problem(400, text, code="invalid_value", param=f"messages[{position}].role")
    _check_amounts(system, history)
    return "\n\n".join(part for part in system if part.strip()), tuple(history)


def _check_amounts(system: list[str], history: list[ChatMessage]) -> None:
    if not any(message.text or message.images for message in history):
        raise Problem(
            400, "Send at least one message with text to answer.", code="invalid_value",
            param="messages",
        )  # fmt: skip
    if sum(len(message.images) for message in history) > MAX_PICTURES:
        text = f"Send {MAX_PICTURES} pictures at most, earlier messages included."
        raise Problem(400, text, code="too_many_images", param="messages")
    chars = sum(map(len, system))
    chars += sum(len(one.text) + sum(len(c.args) for c in one.calls) for one in history)
    if chars > MAX_TEXT_CHARS:
        text = f"Send at most {MAX_TEXT_CHARS} characters of text."
        raise Problem(413, text, code="request_too_large", param="messages")


def _content_of(message: Message, param: str) -> tuple[str, tuple[Image, ...]]:
    content = message.content
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    images: list[Image] = []
    for position, part in enumerate(content or ()):
        where = f"{param}.content[{position}]"
        if part.type == "image_url" and part.image_url is not None and message.role == "user":
            given = part.image_url
            images.append(read_picture(ImageUrl(given) if isinstance(given, str) else given, where))
        elif part.type in ("text", "refusal") and part.text is not None:
            texts.append(part.text)
        else:
            text = "Only text can be read here, and in messages of the user pictures (image_url)."
            raise Problem(400, text, code="unsupported_content", param=where)
    return "\n".join(texts), tuple(images)


# answers

_encode: Final = msgspec.json.Encoder().encode
_FINISH: Final = {EndReason.LENGTH: "length", EndReason.FILTERED: "content_filter"}
DONE: Final = b"data: [DONE]\n\n"


def finish_reason(outcome: Outcome) -> str:
    """Return the vendor's word for how an answer ended."""
    if outcome.calls and outcome.reason is EndReason.STOP:
        return "tool_calls"
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


def _call_object(call: ToolCall, args: str) -> dict[str, object]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": args},
    }


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
        """Return the calls, the last chunk, the usage chunk if asked for, and the end mark."""
        reason = finish_reason(outcome).encode()
        usage = b',"usage":null' if self._include_usage else b""
        last = b'},"logprobs":null,"finish_reason":"' + reason + b'"}]' + usage + b"}\n\n"
        figures = b""
        if self._include_usage:
            figures = self._head + b'[],"usage":' + usage_bytes(outcome.usage) + b"}\n\n"
        return self._calls(outcome.calls) + self._open + last + figures + DONE

    def _calls(self, calls: Iterable[ToolCall]) -> bytes:
        """Return the calls as deltas: id and name first, then the arguments in one piece."""
        deltas: list[dict[str, object]] = []
        for index, call in enumerate(calls):
            deltas.append({"index": index, **_call_object(call, "")})
            deltas.append({"index": index, "function": {"arguments": call.args}})
        head = self._open + b'"tool_calls":'
        return b"".join(head + _encode([delta]) + self._close for delta in deltas)

    def failure(self, problem: Problem) -> bytes:
        """Return what ends a stream that had begun."""
        return b'data: {"error":' + _encode(error_object(problem)) + b"}\n\n"

    def whole(self, turn: Turn, outcome: Outcome) -> bytes:
        """Return the single body of an answer without streaming."""
        thoughts = b""
        if turn.size(StreamPart.REASONING):
            thoughts = b',"reasoning_content":' + _encode(turn.text(StreamPart.REASONING))
        calls = b""
        if outcome.calls:
            whole = [_call_object(call, call.args) for call in outcome.calls]
            calls = b',"tool_calls":' + _encode(whole)
        text = turn.text()
        return b"".join(
            (
                b"{", self._id, b'"object":"chat.completion"', self._made,
                b',"choices":[{"index":0,"message":{"role":"assistant","content":',
                _encode(text if text or not outcome.calls else None), thoughts, calls,
                b',"refusal":null},"logprobs":null,',
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
