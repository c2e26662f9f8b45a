"""Values that enter and leave the bridge. None of them knows a socket, a store or a vendor."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, Literal

from msgspec import Struct

from ai_bridge.lore import LoreBook
from protocol.codes import Code, EndReason

MAX_ERROR_CHARS = 500


class Role(StrEnum):
    """Who speaks, in the words that providers use."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ToolCall(Struct, frozen=True):
    """A model's wish to have a tool run.

    `args` is the JSON text as the model wrote it, perhaps not valid. `id` is never empty: the
    decoder makes one where the provider sends none.
    """

    id: str
    name: str
    args: str


class Image(Struct, frozen=True):
    """A picture in a message: `data` in base64 with its media type, or an https address.

    An address is for the AI service to fetch; nothing of ours ever opens it. `detail` is how
    closely to look (low, high, auto), where the service asks for that.
    """

    media: str = ""
    data: str = ""
    url: str = ""
    detail: str = ""


class ChatMessage(Struct, frozen=True):
    """One message of a talk.

    Set `name` only where several people or personas talk in one conversation: the model is then
    shown "name: text". An assistant message with another name than the persona's own is told to
    the model as somebody else's words.

    An assistant message may carry the tool `calls` it made; a TOOL message answers the one whose
    id is `call_id`, with the tool's name in `name`. Calls and their answers stay together.

    `images` belong to a person's message and are shown with its text or not at all.
    """

    role: Role
    text: str
    name: str | None = None
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    images: tuple[Image, ...] = ()


class PersonaSpec(Struct, frozen=True):
    """Who answers. `prompt` reaches the model whole; it is never cut to fit.

    All texts may hold the macros of character cards (macros.py): {{char}} stands for `nickname` or
    else `name`, {{user}} for `user_name`. `examples` shows how the persona talks, `post_history`
    instructs behind the history, `depth_prompt` among it, `depth` messages before its end.
    `window_tokens` is the most that a request may take where the model could take more; 0: no cap.
    """

    id: int
    name: str
    prompt: str = ""
    nickname: str = ""
    user_name: str = ""
    examples: str = ""
    post_history: str = ""
    depth_prompt: str = ""
    depth: int = 4
    lore: LoreBook | None = None
    window_tokens: int = 0


class AnswerFormat(Struct, frozen=True):
    """The whole answer is to be JSON: any object, or (kind "schema") one of this JSON Schema.

    `tokens` is the estimate of what telling it costs.
    """

    kind: Literal["object", "schema"] = "object"
    name: str = ""
    description: str = ""
    schema: dict[str, Any] = {}
    strict: bool = False
    tokens: int = 0


class GenParams(Struct, frozen=True, kw_only=True):
    """Wishes about one answer; None leaves the choice to the configuration or the provider.

    `history` is the number of earlier messages that the model is shown (0: only the question).
    `provider` pins the answer to one provider, `model` being its own name there: no other is
    asked, whatever happens. `seed` and the penalties are wishes that not every service knows and
    that have no effect there; `format` is a demand: who cannot meet it is not asked.
    """

    model: str | None = None
    provider: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    history: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    format: AnswerFormat | None = None


class CallerTool(Struct, frozen=True):
    """A tool that the caller runs. `schema` is JSON Schema of its arguments, as he wrote it."""

    name: str
    description: str = ""
    schema: dict[str, Any] = {}
    strict: bool = False


class CallerTools(Struct, frozen=True):
    """What a request may offer to the model in place of the tools of this server.

    `choice` is auto, none, required, or the name of the one tool to call. Without `parallel` the
    answer holds one call at most. `tokens` is the estimate of what telling them costs.
    """

    tools: tuple[CallerTool, ...]
    choice: str = "auto"
    parallel: bool = True
    tokens: int = 0


class Priority(IntEnum):
    """Who goes first at a provider: people, then programs, then work nobody waits for."""

    INTERACTIVE = 0
    FACADE = 1
    BACKGROUND = 2


class Recall(IntEnum):
    """Which memories of a person may be told in an answer."""

    ALL = 0
    HERE = 1
    """Those from this conversation: others listen."""
    NONE = 2
    """The person wants nothing remembered."""


class TurnRequest(Struct, frozen=True, kw_only=True):
    """Everything needed to answer once.

    `history` is oldest first and ends with the question. `turn_id` is unique among the turns of
    this process. `request_id` travels to the provider in a header, so that both logs meet.
    `lang` is the person's language setting ("zh", "en-GB"); the demo partner uses it when the
    question itself does not tell. `summary` tells what came before the history, `memories` what is
    known of the person: both are data to the model, never instructions. `speakers` are the others
    in a room: the answer must not begin to speak for them, nor with the persona's own name.
    `learn_seq` is the number of the message that the history ends with, if `user` wrote it and
    lets others learn from it; else 0. `recall` bounds what an engine may tell of what it knows of
    `user` by itself.
    With `caller_tools` no other tools are offered, and the turn ends when the model calls them.
    """

    turn_id: int
    tenant: int
    user: int
    conv: int
    persona: PersonaSpec
    history: tuple[ChatMessage, ...]
    params: GenParams = GenParams()
    request_id: str = ""
    lang: str = ""
    summary: str = ""
    memories: tuple[str, ...] = ()
    priority: Priority = Priority.INTERACTIVE
    speakers: tuple[str, ...] = ()
    learn_seq: int = 0
    recall: Recall = Recall.ALL
    caller_tools: CallerTools | None = None


class UsageSource(IntEnum):
    PROVIDER = 0
    ESTIMATED = 1


class Usage(Struct, frozen=True):
    """Tokens that were paid for. A provider's explicit 0 is a figure, not a gap.

    `cached` is a part of prompt (read from the provider's cache), `reasoning` one of completion.
    """

    prompt: int = 0
    completion: int = 0
    source: UsageSource = UsageSource.ESTIMATED
    cached: int = 0
    reasoning: int = 0


class Outcome(Struct, frozen=True, kw_only=True):
    """How a turn ended; made exactly once per turn.

    `code` and `error` are set when reason is ERROR, FILTERED or INTERRUPTED. `error` is safe to
    show and to log (no prompt, key or address), at most 500 characters, and says what to do.
    `cost_micro`: micro-dollars, 0 also where no price is known.
    `retry_ms`: -1 asking again will not help, else the wait that is advised.
    `ttft_ms` (to the first visible text; -1 if there was none) and `duration_ms` count from the
    moment the turn left the queue. `attempts` counts calls of a provider. `calls` are for the
    caller to run (`TurnRequest.caller_tools`).
    """

    reason: EndReason
    code: Code | None = None
    error: str = ""
    provider: str = ""
    model: str = ""
    usage: Usage = Usage()
    ttft_ms: int = -1
    duration_ms: int = 0
    attempts: int = 0
    retry_ms: int = -1
    cost_micro: int = 0
    calls: tuple[ToolCall, ...] = ()


class ModelInfo(Struct, frozen=True, kw_only=True):
    """A model that may be named in `GenParams.model`; the id "*" stands for any name.

    `demo`: the built-in offline partner.
    """

    id: str
    provider: str
    window_tokens: int
    default: bool = False
    demo: bool = False
