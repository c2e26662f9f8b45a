"""Values that enter and leave the bridge. None of them knows a socket, a store or a vendor."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from msgspec import Struct

from protocol.codes import Code, EndReason

MAX_ERROR_CHARS = 500


class Role(StrEnum):
    """Who speaks, in the words that providers use."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class ChatMessage(Struct, frozen=True):
    """One message of a talk.

    Set `name` only where several people or personas talk in one conversation: the model is then
    shown "name: text". An assistant message with another name than the persona's own is told to
    the model as somebody else's words.
    """

    role: Role
    text: str
    name: str | None = None


class PersonaSpec(Struct, frozen=True):
    """Who answers. `prompt` reaches the model whole; it is never cut to fit."""

    id: int
    name: str
    prompt: str = ""


class GenParams(Struct, frozen=True, kw_only=True):
    """Wishes about one answer; None leaves the choice to the configuration or the provider.

    `history` is the number of earlier messages that the model is shown (0: only the question).
    """

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    history: int | None = None


class TurnRequest(Struct, frozen=True, kw_only=True):
    """Everything needed to answer once.

    `history` is oldest first and ends with the question. `turn_id` is unique among the turns of
    this process. `request_id` travels to the provider in a header, so that both logs meet.
    `lang` is the person's language setting ("zh", "en-GB"); the demo partner uses it when the
    question itself does not tell.
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


class UsageSource(IntEnum):
    PROVIDER = 0
    ESTIMATED = 1


class Usage(Struct, frozen=True):
    """Tokens that were paid for. A provider's explicit 0 is a figure, not a gap."""

    prompt: int = 0
    completion: int = 0
    source: UsageSource = UsageSource.ESTIMATED


class Outcome(Struct, frozen=True, kw_only=True):
    """How a turn ended; made exactly once per turn.

    `code` and `error` are set when reason is ERROR, FILTERED or INTERRUPTED. `error` is safe to
    show and to log (no prompt, key or address), at most 500 characters, and says what to do.
    `retry_ms`: -1 asking again will not help, else the wait that is advised.
    `ttft_ms` (to the first visible text; -1 if there was none) and `duration_ms` count from the
    moment the turn left the queue. `attempts` counts calls of a provider.
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


class ModelInfo(Struct, frozen=True, kw_only=True):
    """A model that may be named in `GenParams.model`; the id "*" stands for any name.

    `demo`: the built-in offline partner.
    """

    id: str
    provider: str
    window_tokens: int
    default: bool = False
    demo: bool = False
