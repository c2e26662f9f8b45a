"""What is answered, before a dialect gives it a shape."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from bench.provider.script import ON, Behaviour, answer_text, token

PLAIN: Final = 0
PACED: Final = 1
TOKEN: Final = 2
"""Kinds of events: sent at once; sent at the token rate; the same and counted as a position."""

Piece = tuple[int, bytes]
FAKE_KEY = "sk-secret-0123456789abcdef"
FAKE_PROMPT = "secret-prompt: who am I?"
"""Both stand in the text of every error; no person may ever see them."""
ARGUMENT_CHARS = 6
"""Characters of arguments per event."""


class Said(Struct, frozen=True, kw_only=True):
    """An answer that a test writes itself. `calls` are pairs of tool name and JSON text."""

    text: str = ""
    thoughts: str = ""
    calls: tuple[tuple[str, str], ...] = ()


class Call(Struct, frozen=True):
    """A tool call; `id` without the prefix that each dialect has."""

    id: str
    name: str
    args: str

    def pieces(self) -> list[str]:
        """Return the arguments as they are streamed."""
        size = ARGUMENT_CHARS
        return [self.args[at : at + size] for at in range(0, len(self.args), size)]

    def parsed(self) -> dict[str, Any] | None:
        """Return the arguments as an object, None when they are none."""
        try:
            value = json.loads(self.args)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


class Talk(Struct, frozen=True, kw_only=True):
    """What a request says, whatever its dialect.

    `results` are the rounds of tool results after the last text of the person; `tools` the names
    of the tools offered.
    """

    question: str = ""
    results: int = 0
    tools: tuple[str, ...] = ()


class Reply(Struct, frozen=True, kw_only=True):
    """One answer. `said` is text that was given; without it the behaviour's tokens are said."""

    id: str
    model: str
    created: int
    behaviour: Behaviour
    thoughts: tuple[str, ...] = ()
    said: tuple[str, ...] | None = None
    calls: tuple[Call, ...] = ()
    text_tokens: int = 0

    @property
    def text(self) -> str:
        body = answer_text(self.behaviour) if self.said is None else "".join(self.said)
        return "".join(self.preface()) + body

    @property
    def finish(self) -> str:
        """Return the finish in OpenAI's words."""
        if self.behaviour.blocked:
            return "content_filter"
        return self.behaviour.finish or ("tool_calls" if self.calls else "stop")

    @property
    def positions(self) -> int:
        """Return the number of TOKEN events of its stream."""
        return self.text_tokens + sum(len(self.argument_pieces(call)) for call in self.calls)

    @property
    def reasoning(self) -> int:
        return self.behaviour.think if self.behaviour.tags else len(self.thoughts)

    @property
    def completion(self) -> int:
        return self.positions + self.reasoning

    def argument_pieces(self, call: Call) -> list[str]:
        whole = self.behaviour.call_whole or self.behaviour.call_dict
        return [call.args] if whole else call.pieces()

    def preface(self) -> list[str]:
        """Return the thoughts that stand in the text itself."""
        behaviour = self.behaviour
        if not (behaviour.tags and behaviour.think):
            return []
        return ["<th", "ink>\n", *_hums(behaviour.think), "</thi", "nk>\n\n"]

    def spoken(self) -> Iterator[Piece]:
        """Yield the text's events as (kind, JSON string literal)."""
        for piece in self.preface():
            yield PACED, literal(piece)
        if self.said is not None:
            for piece in self.said:
                yield TOKEN, literal(piece)
            return
        behaviour = self.behaviour
        if behaviour.stamp:
            for _ in range(behaviour.tokens):
                yield TOKEN, b'"%08x "' % (time.monotonic_ns() // 1000 & 0xFFFFFFFF)
        elif behaviour.loop or behaviour.lang != "en":
            for number in range(behaviour.tokens):
                yield TOKEN, literal(token(behaviour, number))
        else:
            for number in range(behaviour.tokens):
                yield TOKEN, b'"word%d "' % number
        if behaviour.surrogate:
            yield PLAIN, b'"\\ud83d"'
            yield PLAIN, b'"\\ude00"'
        if behaviour.huge:
            yield PLAIN, b'"' + b"x" * behaviour.huge + b'"'


def literal(text: str) -> bytes:
    """Return a JSON string as services write it: UTF-8, not escapes."""
    return json.dumps(text, ensure_ascii=False).encode()


def compact(value: object) -> bytes:
    """Return JSON without blanks, UTF-8, not escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def compose(behaviour: Behaviour, model: str, talk: Talk, said: Said | None) -> Reply:
    """Make the answer to a request: what a test gave, a tool call, or text."""
    number = f"{next(_numbers):012x}"
    thoughts = () if behaviour.tags or behaviour.blocked else tuple(_hums(behaviour.think))
    pieces: tuple[str, ...] | None = None
    wanted: tuple[tuple[str, str], ...] = ()
    if said is not None:
        pieces, wanted = tuple(_cut(said.text)), said.calls
        thoughts = tuple(_cut(said.thoughts)) or thoughts
    elif behaviour.blocked:
        pieces = ()
    elif wanted := _calls(behaviour, talk):
        pieces = tuple(token(behaviour, at) for at in range(behaviour.before))
    return Reply(
        id=number,
        model=model,
        created=int(time.time()),
        behaviour=behaviour,
        thoughts=thoughts,
        said=pieces,
        calls=tuple(Call(f"{number}{at:02x}", *call) for at, call in enumerate(wanted)),
        text_tokens=behaviour.tokens if pieces is None else len(pieces),
    )


def _calls(behaviour: Behaviour, talk: Talk) -> tuple[tuple[str, str], ...]:
    """Return the calls that this round makes, none when it is time for text."""
    name = behaviour.tool
    if name == ON:
        name = talk.tools[0] if talk.tools else ""
    if not name or 0 <= behaviour.rounds <= talk.results:
        return ()
    return ((name, behaviour.args.replace("$n", str(talk.results + 1))),) * behaviour.calls


def _hums(count: int) -> list[str]:
    return [f"hmm{number} " for number in range(count)]


def _cut(text: str) -> list[str]:
    """Cut a text into pieces of a token's size."""
    return re.findall(r"\S{1,6}\s*|\s+", text)


_numbers = itertools.count(1)
