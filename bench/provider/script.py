"""What the fake service does, read from the model's name.

A name is a list of words: `tokens=50,rate=30,first=0.5` or `status=429,retry_after=1` or
`lang=zh,split=1`. Words that stand alone switch something on: `no_done`, `json`. A word with a
dash and a value is a response header: `status=429,x-ratelimit-reset-requests=6m0s`. The word
`fake` means nothing, so that plain `fake` is the ordinary case. The same words work in every
dialect; `python -m bench.provider --help` lists them.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import Struct

CHINESE = "今天的风很轻云也很淡我们慢慢地走在河边说着小时候的事"
LOOP_WORDS = ("and", "then", "the", "wheel", "went", "round", "again")
NEVER = -1
ON = "true"
"""What a word that stands alone is worth where a text is wanted."""
DEFAULT_ARGS = '{"query":"weather 天气"}'


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer"""

    tokens: int = 20
    """Pieces of text."""
    rate: float = 0.0
    """Tokens per second, 0: all at once. A JSON body takes as long as its stream would."""
    lang: str = "en"
    """zh: Chinese."""
    stamp: bool = False
    """Each token is the time it was sent: CLOCK_MONOTONIC in microseconds, the lowest 32 bits as
    8 hexadecimal digits, and a space."""
    think: int = 0
    """Reasoning tokens before the answer, in the dialect's own shape."""
    tags: bool = False
    """Put the thoughts into the text between <think> tags instead."""
    think_field: str = ""
    """Chat: the delta's field (reasoning_content). Responses: reasoning_text instead of a
    summary."""
    prompt: int = 7
    """Prompt tokens that the usage tells, the cached ones included."""
    cached: int = 0
    """Prompt tokens read from the provider's cache."""
    dim: int = 64
    """Length of an embedding, unless the request wants another."""
    seconds: float = 3.0
    """Length of a transcribed recording."""


class Calls(Answer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tool calls, until the request brings the results"""

    tool: str = ""
    """Call the tool of this name; alone: the first one that the request offers."""
    args: str = DEFAULT_ARGS
    """JSON text of the arguments; $n is replaced by the round, from 1."""
    calls: int = 1
    """Calls side by side."""
    rounds: int = 1
    """Call so many times after one question, then answer in text; -1: without end."""
    before: int = 0
    """Tokens of text before the calls. Positions count on through the pieces of arguments."""
    call_no_index: bool = False
    """Chat: deltas without an index."""
    call_no_id: bool = False
    """Calls without an id."""
    call_dict: bool = False
    """Chat: the arguments are an object, in one delta."""
    call_whole: bool = False
    """The arguments come in one piece."""


class Delays(Calls, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delays and signs of life"""

    head: float = 0.0
    """Seconds before the head of the response."""
    first: float = 0.0
    """Seconds before the first byte of the body; the head is sent at once."""
    linger: float = 0.0
    """Seconds before the body ends after its last event."""
    comments: float = 0.0
    """A keep-alive comment every so many seconds; in a JSON body an empty line."""
    pings: float = 0.0
    """The dialect's own sign of life every so many seconds (Anthropic: ping events)."""


class Oddities(Delays, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forms that a client has to put up with"""

    no_done: bool = False
    """Without the last event (chat: [DONE], Anthropic: message_stop)."""
    no_usage: bool = False
    """Without token figures."""
    null_choices: bool = False
    """Chat: the usage chunk has null instead of no choices."""
    azure: bool = False
    """Chat: begin with Azure's chunk without choices, with the filter's results."""
    no_space: bool = False
    """No space after "data:"."""
    crlf: bool = False
    """Lines end with CR LF."""
    json: bool = False
    """A JSON body although a stream was wanted."""
    split: int = 0
    """Bytes per write, each in a segment of its own: cuts characters."""
    surrogate: bool = False
    """The last character is an emoji whose two halves come in two events."""
    huge: int = 0
    """Bytes of one single event after the tokens."""
    loop: bool = False
    """Say the same seven words over and over."""


class Behaviour(Oddities, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults. Positions count tokens from 0; -1 never"""

    failures: int = NEVER
    """Only the first n requests of this model meet its faults; later ones are answered."""
    status: int = 200
    """Answer with an error of this status, in the dialect's shape."""
    code: str = ""
    """The error's code (OpenAI), type (Anthropic) or reason (Gemini) instead of the usual one.
    context_length_exceeded and content_filter are told as each dialect tells them. A number in
    an error event of the chat dialect stays one."""
    quota: bool = False
    """The 429 means no credit left, not too fast."""
    body: str = ""
    """Form of the error's body: list (wrapped in one), text (error is a string), html, empty."""
    retry_after: str = ""
    """The header: seconds, or date+5 for an HTTP date 5 seconds from now."""
    retry_after_ms: str = ""
    """The header, in milliseconds."""
    retry_delay: str = ""
    """Gemini: RetryInfo in the error's details, like 34s."""
    limits: str = ""
    """Rate limit headers as they are seen: openai, anthropic, azure (-1 and 0), openrouter."""
    headers: dict[str, str] = {}
    """Filled by words with a dash. Values: date+5, rfc3339+5, epoch+5, epochms+5 are times."""
    finish: str = ""
    """Why the answer ends: stop, length, content_filter, tool_calls, failed, or any other word."""
    blocked: bool = False
    """The filter refuses the prompt within a 200: no text at all."""
    silent: bool = False
    """Take the request and answer nothing at all."""
    stale: bool = False
    """Close the connection when it brings its second request."""
    empty: bool = False
    """A body without a byte."""
    reset: int = NEVER
    """Reset the connection before this token; 0: before the head."""
    close: int = NEVER
    """Close the connection before this token, in the middle of the body."""
    stall: int = NEVER
    """Send nothing more from this token on."""
    error: int = NEVER
    """An error event instead of this token, and the end."""
    garbage: int = NEVER
    """JSON that is cut off before this token."""
    no_finish: bool = False
    """Without the event that tells why the answer ended."""


@lru_cache(maxsize=1024)
def parse_model(model: str) -> Behaviour:
    """Read a model name.

    Raises:
        ValueError: an unknown word or a bad figure.
    """
    values: dict[str, object] = {}
    headers: dict[str, str] = {}
    for word in _split_words(model):
        name, _, value = word.strip().partition("=")
        if "-" in name and value:
            headers[name.lower()] = value
        elif name and name != "fake":
            values[name] = value if value else ON
    try:
        return msgspec.convert({**values, "headers": headers}, Behaviour, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _split_words(model: str) -> list[str]:
    """Cut at commas, but not within the braces and brackets of arguments."""
    words = [""]
    depth = 0
    for letter in model:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth <= 0:
            words.append("")
        else:
            words[-1] += letter
    return words


def healthy(behaviour: Behaviour) -> Behaviour:
    """Return the same answer without faults, oddities and delays."""
    return Behaviour(**{name: getattr(behaviour, name) for name in Calls.__struct_fields__})


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
