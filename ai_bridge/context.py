"""From persona and history to the messages of one request, within the model's window.

Order: the platform's rules, the persona's prompt and its constant lore; the summary of what came
before; the history; background (memories and found lore, as data); the persona's instructions
behind the history; the question with what tools said to it. What changes least comes first, which
keeps the prompt caches of providers warm.
"""

from __future__ import annotations

from itertools import islice

from msgspec import Struct

from ai_bridge.cutting import CUT_MARK, cut_middle
from ai_bridge.errors import ProviderFailure, Remedy
from ai_bridge.fences import background_message, summary_message
from ai_bridge.history import fit_history, fit_question, split_question
from ai_bridge.macros import fill_macros
from ai_bridge.tokens import message_tokens
from ai_bridge.types import ChatMessage, PersonaSpec, Role, TurnRequest
from protocol.codes import Code

__all__ = ["CUT_MARK", "Context", "build_context", "cut_middle", "prompt_budget"]

MARGIN = 0.05
"""Of the window, for what the estimate misses."""
MIN_ROOM_TOKENS = 64
LOOKED_AT_FOR_NAMES = 32
"""Where several people talk, one of the newest messages has a name."""

MAX_SUMMARY_TOKENS = 1_200
MAX_MEMORY_TOKENS = 600
# Shares of the room beside the system prompt; most of it belongs to the talk itself.
EXAMPLES_SHARE = 0.2
LORE_SHARE = 0.25
INSTRUCTIONS_SHARE = 0.25
SUMMARY_SHARE = 0.15
MEMORY_SHARE = 0.1

ROOM_RULE = (
    "Several people talk in this conversation. Each of their messages begins with the "
    "speaker's name. You are {name}: answer only as yourself, without a name in front."
)
EXAMPLES_RULE = "This is how {name} talks, in examples that never took place:"


class Context(Struct, frozen=True):
    """What is sent, and the estimate of what it costs.

    `raw_tokens` is the estimate before the model's learnt ratio: what `TokenRatios.learn` wants
    beside the provider's own figure.
    """

    messages: tuple[ChatMessage, ...]
    tokens: int
    raw_tokens: int = 0


def prompt_budget(window_tokens: int, answer_tokens: int, persona: PersonaSpec) -> int:
    """Return how many tokens a request to a model of this window may have, answer set aside."""
    window = min(window_tokens, persona.window_tokens or window_tokens)
    return int(window * (1 - MARGIN)) - min(answer_tokens, window // 2)


def build_context(
    request: TurnRequest,
    *,
    window_tokens: int,
    answer_tokens: int,
    history_messages: int,
    rules: str = "",
    tool_tokens: int = 0,
    ratio: float = 1.0,
) -> Context:
    """Fit the turn into the window.

    Looks only at as many messages as fit, so a talk of ten thousand costs no more than a short
    one.

    Args:
        window_tokens: all that the model takes, answer included.
        answer_tokens: what is kept free for the answer (the turn's max_tokens wins).
        history_messages: earlier messages to show if the turn does not say.
        rules: what the platform demands of every persona; first, and never cut.
        tool_tokens: what the descriptions of the offered tools cost.
        ratio: what estimates are multiplied by for this model (`TokenRatios.get`).

    Raises:
        ProviderFailure: CONTEXT_TOO_LONG, the persona's prompt leaves no room for a question.
    """
    reserved = request.params.max_tokens or answer_tokens
    budget = int(prompt_budget(window_tokens, reserved, request.persona) / ratio) - tool_tokens
    system = _system_message(request, rules, budget)
    used = message_tokens(system) if system is not None else 0
    if budget - used < MIN_ROOM_TOKENS:
        raise _prompt_too_long()
    wanted = request.params.history
    earlier = history_messages if wanted is None else max(0, wanted)
    talk, talk_tokens = _talk(request, earlier, budget - used)
    messages = (system, *talk) if system is not None else tuple(talk)
    raw = used + talk_tokens
    return Context(messages, round(raw * ratio), raw)


def _talk(request: TurnRequest, earlier: int, room: int) -> tuple[list[ChatMessage], int]:
    """Return everything behind the system prompt, and what it costs."""
    persona = request.persona
    end, question = split_question(request.history, persona)
    summary = summary_message(request.summary, min(MAX_SUMMARY_TOKENS, int(room * SUMMARY_SHARE)))
    background = background_message(
        request.memories,
        _found_lore(request),
        min(MAX_MEMORY_TOKENS, int(room * MEMORY_SHARE)),
        int(room * LORE_SHARE),
    )
    behind, among = _instructions(persona, room)
    fixed = [one for one in (summary, background, behind, among) if one is not None]
    spent = sum(map(message_tokens, fixed))
    if room - spent < MIN_ROOM_TOKENS:
        summary = background = behind = among = None
        spent = 0
    asked = fit_question(question, room - spent) if question else []
    spent += sum(map(message_tokens, asked))
    if spent > room and any(message.images for message in asked):
        raise _too_many_pictures()
    shown, cost = fit_history(request.history, end, earlier, persona, room - spent)
    if among is not None:
        shown.insert(_place(shown, persona.depth), among)
    before = [summary] if summary is not None else []
    after = [one for one in (background, behind) if one is not None]
    return [*before, *shown, *after, *asked], spent + cost


# the system prompt


def _system_message(request: TurnRequest, rules: str, budget: int) -> ChatMessage | None:
    """Return rules, prompt and constant lore; what does not fit beside a talk is left out."""
    persona = request.persona
    prompt = _filled(persona.prompt, persona)
    if not prompt and persona.name:
        prompt = f"You are {persona.name}."
    newest = islice(reversed(request.history), LOOKED_AT_FOR_NAMES)
    several = any(one.name and one.role is not Role.TOOL for one in newest)
    rule = ROOM_RULE.format(name=persona.name or "the assistant") if several else ""
    must = _joined(rules.strip(), prompt, rule)
    room = budget - message_tokens(ChatMessage(Role.SYSTEM, must))
    before, after = _constant_lore(persona, int(room * LORE_SHARE))
    examples = _examples(persona, int(room * EXAMPLES_SHARE))
    text = _joined(rules.strip(), before, prompt, after, examples, rule)
    return ChatMessage(Role.SYSTEM, text) if text else None


def _constant_lore(persona: PersonaSpec, cap_tokens: int) -> tuple[str, str]:
    """Return what stands in front of the prompt and what behind it."""
    before: list[str] = []
    after: list[str] = []
    for entry in persona.lore.constants if persona.lore is not None else ():
        text = _filled(entry.content, persona)
        cap_tokens -= message_tokens(ChatMessage(Role.SYSTEM, text))
        if cap_tokens < 0:
            break
        (before if entry.before else after).append(text)
    return _joined(*before), _joined(*after)


def _examples(persona: PersonaSpec, cap_tokens: int) -> str:
    text = _filled(persona.examples, persona)
    if not text:
        return ""
    text = EXAMPLES_RULE.format(name=persona.name or "the assistant") + "\n" + text
    return text if message_tokens(ChatMessage(Role.SYSTEM, text)) <= cap_tokens else ""


# what the persona's owner adds to the talk


def _instructions(persona: PersonaSpec, room: int) -> tuple[ChatMessage | None, ChatMessage | None]:
    """Return the instructions that stand behind the history, and those that stand among it."""
    behind = _filled(persona.post_history, persona)
    among = _filled(persona.depth_prompt, persona)
    if persona.depth <= 1:
        behind, among = _joined(among, behind), ""
    cap = int(room * INSTRUCTIONS_SHARE)
    return _instruction(behind, cap), _instruction(among, cap)


def _instruction(text: str, cap_tokens: int) -> ChatMessage | None:
    if not text or cap_tokens < MIN_ROOM_TOKENS // 2:
        return None
    return ChatMessage(Role.SYSTEM, cut_middle(text, cap_tokens))


def _place(shown: list[ChatMessage], depth: int) -> int:
    """Return where an instruction goes that `depth` messages follow, the question among them."""
    place = max(0, len(shown) - (depth - 1))
    while 0 < place < len(shown) and shown[place].role is Role.TOOL:
        place -= 1
    return place


def _found_lore(request: TurnRequest) -> list[str]:
    persona = request.persona
    book = persona.lore
    if book is None:
        return []
    said = (one.text for one in reversed(request.history) if one.role is not Role.TOOL)
    found = book.found_in(list(islice(said, book.depth)))
    return [text for entry in found if (text := _filled(entry.content, persona))]


def _filled(text: str, persona: PersonaSpec) -> str:
    return fill_macros(text, persona.nickname or persona.name, persona.user_name).strip()


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _too_many_pictures() -> ProviderFailure:
    return ProviderFailure(
        "too_many_pictures",
        "The pictures of the last message fill the whole window of the model. "
        "Send fewer of them, or choose a model with a larger window.",
        remedy=Remedy.FAIL,
        code=Code.CONTEXT_TOO_LONG,
    )


def _prompt_too_long() -> ProviderFailure:
    return ProviderFailure(
        "prompt_too_long",
        "This persona's prompt fills the whole window of its model. "
        "Shorten the prompt or choose a model with a larger window.",
        remedy=Remedy.FAIL,
        code=Code.CONTEXT_TOO_LONG,
    )
