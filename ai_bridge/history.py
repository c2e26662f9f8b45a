"""Which messages of a talk a model is shown: the question always, then the newest that fit.

A call of a tool and its answers are one thing: shown together or not at all, because providers
refuse a request with one half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import structs

from ai_bridge.cutting import cut_middle
from ai_bridge.macros import one_line
from ai_bridge.tokens import PER_MESSAGE_TOKENS, message_tokens
from ai_bridge.types import ChatMessage, PersonaSpec, Role

OVERSIZED_SHARE = 0.5
"""A message that would take more of the room for history than this is cut in the middle."""
MIN_MESSAGE_TOKENS = 24
"""Nothing is cut to less; what does not fit even so is left out."""
MIN_CUT_TOKENS = 64
MAX_TAIL = 1_000
"""Messages of tools after the question that are looked at. The loop of tools makes fewer; a
program that runs its own tools may bring hundreds."""

Group = tuple[ChatMessage, ...]


def split_question(history: Sequence[ChatMessage], persona: PersonaSpec) -> tuple[int, list[Group]]:
    """Return how many messages are earlier ones, and the question with what tools said to it.

    The question is the last message that somebody else said. Where the talk does not end with a
    question and tools, its last message takes the place.
    """
    newest = len(history)
    for position in range(newest - 1, max(-1, newest - 1 - MAX_TAIL), -1):
        message = history[position]
        if message.role is Role.TOOL or message.calls:
            continue
        shown = as_told(message, persona)
        if shown.role is not Role.USER and position < newest - 1:
            break
        if not shown.text and not shown.images:
            continue
        answers = list(_groups(history, newest, position + 1, persona))
        return position, [(shown,), *reversed(answers)]
    return newest, []


def fit_question(groups: list[Group], room: int) -> list[ChatMessage]:
    """Return the question and what tools said to it, cut so that all cost `room` at most.

    What is short stays whole; if even the cut ones are too many, the oldest answers of tools go.
    """
    groups = list(groups)
    while True:
        messages = [message for group in groups for message in group]
        costs = [message_tokens(message) for message in messages]
        if sum(costs) <= room:
            return messages
        share = _fair_share(costs, room)
        if share >= MIN_MESSAGE_TOKENS or len(groups) == 1:
            messages = [_cut(message, share) for message in messages]
            if sum(map(message_tokens, messages)) <= room or len(groups) == 1:
                return messages
        del groups[1]


def fit_history(
    history: Sequence[ChatMessage], end: int, wanted: int, persona: PersonaSpec, room: int
) -> tuple[list[ChatMessage], int]:
    """Return the newest messages before `end` that fit, oldest first, and what they cost.

    Looks only at as many as fit, so a talk of ten thousand costs no more than a short one.

    Args:
        wanted: the most to show; a call with its answers counts once.
        room: tokens.
    """
    oversized = max(MIN_CUT_TOKENS, int(room * OVERSIZED_SHARE))
    left = room
    kept: list[ChatMessage] = []
    for number, group in enumerate(_groups(history, end, 0, persona)):
        if number >= wanted:
            break
        cost = message_tokens(group[0]) if len(group) == 1 else sum(map(message_tokens, group))
        if cost > min(oversized, left):
            if left < oversized:
                break
            group = tuple(fit_question([group], oversized))
            cost = sum(map(message_tokens, group))
            if cost > oversized:
                break
        left -= cost
        kept += reversed(group)
    kept.reverse()
    return kept, room - left


def as_told(message: ChatMessage, persona: PersonaSpec) -> ChatMessage:
    """Return the message as the model is shown it: with its speaker's name if that matters."""
    name = message.name
    if name is None or message.role is Role.TOOL:
        return message
    if message.role is Role.ASSISTANT and name == persona.name:
        return structs.replace(message, name=None)
    # Names are written by people: no line break that could pass for another speaker.
    said = message.text or message.images
    told = f"{one_line(name)}: {message.text}" if said else ""
    return ChatMessage(Role.USER, told, images=message.images)


def _groups(
    history: Sequence[ChatMessage], end: int, start: int, persona: PersonaSpec
) -> Iterator[Group]:
    """Yield what belongs together, newest first; halves and empty messages are left out."""
    answers: list[ChatMessage] = []
    for position in range(end - 1, start - 1, -1):
        message = history[position]
        if message.role is Role.TOOL:
            answers.append(message)
            continue
        if message.name is not None:
            message = as_told(message, persona)
        if message.calls:
            whole = {call.id for call in message.calls} == {one.call_id for one in answers}
            if whole and len(answers) == len(message.calls):
                yield (message, *reversed(answers))
            elif message.text:
                yield (ChatMessage(message.role, message.text),)
        elif message.text or message.images:
            yield (message,)
        if answers:
            answers = []


def _fair_share(costs: Sequence[int], room: int) -> int:
    """Return the most that each may cost when the small ones leave their rest to the large."""
    left = room
    for number, cost in enumerate(sorted(costs)):
        share = left // (len(costs) - number)
        if cost > share:
            return share
        left -= cost
    return room


def _cut(message: ChatMessage, limit: int) -> ChatMessage:
    cost = message_tokens(message)
    if cost <= limit or not message.text:
        return message
    rest = message_tokens(structs.replace(message, text=""))
    text = cut_middle(message.text, limit - rest + PER_MESSAGE_TOKENS)
    return structs.replace(message, text=text)
