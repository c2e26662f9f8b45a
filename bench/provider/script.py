"""What the fake service does, read from the model's name.

A name is a list of words and figures: `tokens=50,rate=30,first=0.5` or `status=429,retry_after=1`
or `lang=zh,split=1`. Words that stand alone switch something on: `no_done`, `json`. The word
`fake` means nothing, so that plain `fake` is the ordinary case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum

import msgspec
from msgspec import Struct

CHINESE = "今天的风很轻云也很淡我们慢慢地走在河边说着小时候的事"
LOOP_WORDS = ("and", "then", "the", "wheel", "went", "round", "again")
NEVER = -1


class Behaviour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer. Positions count tokens from 0; NEVER switches a fault off."""

    tokens: int = 20
    rate: float = 0.0
    """Tokens per second, 0: all at once."""
    first: float = 0.0
    """Seconds before the first byte of the body; the head is sent at once."""
    lang: str = "en"
    think: int = 0
    """Reasoning tokens before the answer, in `reasoning_content`."""
    tags: bool = False
    """Put the thoughts into the content between <think> tags instead."""
    finish: str = "stop"
    failures: int = NEVER
    """Only the first n requests of this model meet its faults; later ones are answered."""

    status: int = 200
    code: str = ""
    retry_after: str = ""
    retry_after_ms: str = ""
    silent: bool = False
    """Take the request and answer nothing at all."""
    reset: int = NEVER
    close: int = NEVER
    stall: int = NEVER
    error: int = NEVER
    garbage: int = NEVER
    comments: float = 0.0
    """A keep-alive comment every so many seconds while nothing else is sent."""
    no_done: bool = False
    no_finish: bool = False
    no_usage: bool = False
    null_choices: bool = False
    no_space: bool = False
    linger: float = 0.0
    """Seconds before the body ends after [DONE]."""
    json: bool = False
    split: int = 0
    """Bytes per write, each in a segment of its own."""
    surrogate: bool = False
    huge: int = 0
    """Bytes of one single delta."""
    loop: bool = False
    """Say the same seven words over and over."""
    stale: bool = False
    """Close the connection when it brings its second request."""


class Fault(Enum):
    RESET = "reset"
    CLOSE = "close"
    STALL = "stall"


def parse_model(model: str) -> Behaviour:
    """Read a model name.

    Raises:
        ValueError: an unknown word or a bad figure.
    """
    values: dict[str, str] = {}
    for word in model.split(","):
        name, _, value = word.strip().partition("=")
        if name and name != "fake":
            values[name] = value if value else "true"
    try:
        return msgspec.convert(values, Behaviour, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def healthy(behaviour: Behaviour) -> Behaviour:
    """Return the same answer without its faults."""
    return Behaviour(
        tokens=behaviour.tokens, rate=behaviour.rate, lang=behaviour.lang, think=behaviour.think
    )


def token(behaviour: Behaviour, number: int) -> str:
    """Return the text of one token of the answer."""
    if behaviour.loop:
        return LOOP_WORDS[number % len(LOOP_WORDS)] + " "
    if behaviour.lang == "zh":
        return CHINESE[number % len(CHINESE)]
    return f"word{number} "


def answer_text(behaviour: Behaviour) -> str:
    """Return the whole answer that a stream without faults brings."""
    text = "".join(token(behaviour, number) for number in range(behaviour.tokens))
    if behaviour.surrogate:
        text += "😀"
    return text + "x" * behaviour.huge


def events(behaviour: Behaviour) -> Iterator[bytes | Fault]:
    """Yield the events of the stream, and the faults where they strike."""
    yield from _thoughts(behaviour)
    for number in range(behaviour.tokens):
        if (fault := _fault_at(behaviour, number)) is not None:
            yield fault
            return
        if number == behaviour.error:
            yield _event(behaviour, {"error": {"code": behaviour.code, "message": "secret-text"}})
            return
        if number == behaviour.garbage:
            yield b'data: {"choices": [{"delta": \n\n'
        yield _delta(behaviour, {"content": token(behaviour, number)})
    if (fault := _fault_at(behaviour, behaviour.tokens)) is not None:
        yield fault
        return
    yield from _odd_deltas(behaviour)
    yield from _ending(behaviour)


def _fault_at(behaviour: Behaviour, number: int) -> Fault | None:
    for position, fault in (
        (behaviour.reset, Fault.RESET),
        (behaviour.close, Fault.CLOSE),
        (behaviour.stall, Fault.STALL),
    ):
        if number == position:
            return fault
    return None


def _thoughts(behaviour: Behaviour) -> Iterator[bytes]:
    words = [f"hmm{number} " for number in range(behaviour.think)]
    if behaviour.tags and words:
        words = ["<th", "ink>\n", *words, "</thi", "nk>\n\n"]
    for word in words:
        yield _delta(behaviour, {"content" if behaviour.tags else "reasoning_content": word})


def _odd_deltas(behaviour: Behaviour) -> Iterator[bytes]:
    if behaviour.surrogate:
        for half in ("\\ud83d", "\\ude00"):
            yield b'data: {"choices":[{"delta":{"content":"' + half.encode() + b'"}}]}\n\n'
    if behaviour.huge:
        yield _delta(behaviour, {"content": "x" * behaviour.huge})


def _ending(behaviour: Behaviour) -> Iterator[bytes]:
    if not behaviour.no_finish:
        choice = {"index": 0, "delta": {}, "finish_reason": behaviour.finish}
        yield _event(behaviour, {"choices": [choice]})
    if not behaviour.no_usage:
        choices: list[object] | None = None if behaviour.null_choices else []
        yield _event(behaviour, {"choices": choices, "usage": usage(behaviour)})
    if not behaviour.no_done:
        yield b"data: [DONE]\n\n"


def usage(behaviour: Behaviour) -> dict[str, int]:
    completion = behaviour.tokens + behaviour.think
    return {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}


def _delta(behaviour: Behaviour, fields: dict[str, str]) -> bytes:
    return _event(behaviour, {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


def _event(behaviour: Behaviour, value: dict[str, object]) -> bytes:
    space = b"" if behaviour.no_space else b" "
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data:" + space + text.encode() + b"\n\n"


def whole_body(behaviour: Behaviour) -> bytes:
    """Return the single JSON body of an answer without streaming."""
    message = {"role": "assistant", "content": answer_text(behaviour)}
    choice = {"index": 0, "message": message, "finish_reason": behaviour.finish}
    return msgspec.json.encode({"choices": [choice], "usage": usage(behaviour)})
