"""What /v1 takes and gives, for the document: bodies there are read and written by hand."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ai_bridge.http.openai_shapes import (
    MAX_MESSAGES,
    MAX_PARTS,
    Call,
    ModelRow,
    Name,
    Part,
    StreamOptions,
)

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
Recording = Annotated[str, Meta(extra_json_schema={"contentMediaType": "application/octet-stream"})]
Stop = Annotated[str, Meta(max_length=256)]


class TalkMessage(Struct):
    """One message: `system` and `developer` are added to the persona's prompt."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[Call], Meta(max_length=MAX_PARTS)] | None = None
    tool_call_id: str | None = None


class CompletionBody(Struct):
    """A request as OpenAI's; what is not named here has no effect or is refused.

    `metadata.conversation_id` continues a stored conversation.
    """

    model: Name
    messages: Annotated[list[TalkMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    metadata: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=64)] | None = (
        None
    )


class Spoken(Struct):
    """`content` is null where the answer calls tools; `reasoning_content` are its thoughts."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[dict[str, Any]] = []


class Choice(Struct):
    index: int
    message: Spoken
    logprobs: None
    finish_reason: str


class CachedTokens(Struct):
    cached_tokens: int


class ReasoningTokens(Struct):
    reasoning_tokens: int


class CompletionUsage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class CompletionView(Struct):
    """One whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class ModelListView(Struct):
    """Personas, then models of the providers."""

    object: Literal["list"]
    data: list[ModelRow]


class TranscriptionForm(Struct):
    """`file` is the recording; `response_format` is json, text or verbose_json."""

    file: Recording
    model: str
    language: str = ""
    prompt: str = ""
    response_format: Literal["json", "text", "verbose_json"] = "json"


class Seconds(Struct):
    type: Literal["duration"]
    seconds: int


class TranscriptionView(Struct, omit_defaults=True):
    """`task`, `language` and `duration` only in verbose_json."""

    text: str
    usage: Seconds
    task: str = ""
    language: str = ""
    duration: float = 0.0


class OpenAiError(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiRefusal(Struct):
    """Why a request of /v1 was not answered; its number is in the header X-Request-ID."""

    error: OpenAiError


class ChatAnswer(Struct):
    """An answer in three fields."""

    success: Literal[True]
    response: str
    usage: "PlainUsage"


class PlainUsage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatRefusal(Struct):
    success: Literal[False]
    error: str
