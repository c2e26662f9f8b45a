"""From persona and history to the messages of one request, within the model's window.

Order: the persona's prompt (whole), then as much history as fits, newest first, then the
question. The stable part comes first, which keeps the prompt caches of providers warm.
"""

from __future__ import annotations

from msgspec import Struct, structs

from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.tokens import PER_MESSAGE_TOKENS, estimate_tokens
from ai_bridge.types import ChatMessage, PersonaSpec, Role, TurnRequest
from protocol.codes import Code

MARGIN = 0.05
"""Of the window, for what the estimate misses."""
OVERSIZED_SHARE = 0.5
"""A message that would take more of the room for history than this is cut in the middle."""
MIN_ROOM_TOKENS = 64
MAX_NAME_CHARS = 64
CUT_MARK = "\n[...]\n"


class Context(Struct, frozen=True):
    """What is sent, and the estimate of what it costs."""

    messages: tuple[ChatMessage, ...]
    tokens: int


def build_context(
    request: TurnRequest, *, window_tokens: int, answer_tokens: int, history_messages: int
) -> Context:
    """Fit the turn into the window.

    Looks only at as many messages as fit, so a talk of ten thousand costs no more than a short
    one.

    Args:
        window_tokens: all that the model takes, answer included.
        answer_tokens: what is kept free for the answer (the turn's max_tokens wins).
        history_messages: earlier messages to show if the turn does not say.

    Raises:
        ProviderFailure: CONTEXT_TOO_LONG, the persona's prompt leaves no room for a question.
    """
    reserved = min(request.params.max_tokens or answer_tokens, window_tokens // 2)
    budget = int(window_tokens * (1 - MARGIN)) - reserved
    system = _system_message(request)
    used = _cost(system) if system is not None else 0
    room = budget - used
    if room < MIN_ROOM_TOKENS:
        raise _prompt_too_long()
    wanted = request.params.history
    earlier = history_messages if wanted is None else max(0, wanted)
    history = _fit_history(request, earlier, room)
    messages = (system, *history) if system is not None else history
    return Context(messages, used + sum(_cost(message) for message in history))


def _fit_history(request: TurnRequest, earlier: int, room: int) -> tuple[ChatMessage, ...]:
    """Return the newest messages that fit, oldest first; the question is always among them."""
    oversized = max(MIN_ROOM_TOKENS, int(room * OVERSIZED_SHARE))
    kept: list[ChatMessage] = []
    for position in range(len(request.history) - 1, -1, -1):
        if len(kept) > earlier:
            break
        message = _as_told(request.history[position], request.persona)
        if not message.text:
            continue
        limit = room if not kept else min(oversized, room)
        if _cost(message) > limit:
            if kept and room < oversized:
                break
            message = structs.replace(message, text=cut_middle(message.text, limit))
        room -= _cost(message)
        kept.append(message)
    return tuple(reversed(kept))


def _system_message(request: TurnRequest) -> ChatMessage | None:
    persona = request.persona
    prompt = persona.prompt.strip()
    if not prompt and persona.name:
        prompt = f"You are {persona.name}."
    if any(message.name for message in request.history):
        rule = (
            "Several people talk in this conversation. Each of their messages begins with the "
            f"speaker's name. You are {persona.name or 'the assistant'}: answer only as "
            "yourself, without a name in front."
        )
        prompt = f"{prompt}\n\n{rule}" if prompt else rule
    return ChatMessage(Role.SYSTEM, prompt) if prompt else None


def _as_told(message: ChatMessage, persona: PersonaSpec) -> ChatMessage:
    """Return the message as the model is shown it: with its speaker's name if that matters."""
    name = message.name
    if message.role is Role.ASSISTANT and (name is None or name == persona.name):
        return ChatMessage(Role.ASSISTANT, message.text)
    if name is None:
        return message
    # Names are written by people: no line break that could pass for another speaker.
    shown = " ".join(name.split())[:MAX_NAME_CHARS]
    return ChatMessage(Role.USER, f"{shown}: {message.text}")


def _cost(message: ChatMessage) -> int:
    return PER_MESSAGE_TOKENS + estimate_tokens(message.text)


def cut_middle(text: str, limit_tokens: int) -> str:
    """Keep head and tail of a text so that it costs about `limit_tokens` at most.

    The head gets two thirds: it says what the text is, the tail what is asked of it.
    """
    limit = max(1, limit_tokens - PER_MESSAGE_TOKENS - estimate_tokens(CUT_MARK))
    cost = estimate_tokens(text)
    keep = len(text)
    result = text
    while cost > limit and keep > 2:
        # Chinese and Latin parts cost differently, so what is kept may cost more than its share.
        keep = min(keep - 1, int(keep * limit / cost * 0.98))
        head = max(1, keep * 2 // 3)
        tail = max(1, keep - head)
        result = text[:head] + CUT_MARK + text[-tail:]
        cost = estimate_tokens(text[:head]) + estimate_tokens(text[-tail:])
    return result


def _prompt_too_long() -> ProviderFailure:
    return ProviderFailure(
        "prompt_too_long",
        "This persona's prompt fills the whole window of its model. "
        "Shorten the prompt or choose a model with a larger window.",
        remedy=Remedy.FAIL,
        code=Code.CONTEXT_TOO_LONG,
    )
