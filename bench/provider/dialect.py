"""What a dialect is to the fake service: shapes, without pace, faults or sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from msgspec import Struct

from bench.provider.reply import FAKE_KEY, FAKE_PROMPT, Piece, Reply, Talk
from bench.provider.script import Behaviour


class Failure(Struct, frozen=True, kw_only=True):
    """An error that is to be told. `code` is what the script wants, empty: the usual one."""

    status: int
    code: str = ""
    quota: bool = False
    retry_delay: str = ""
    message: str = ""

    @classmethod
    def of(cls, behaviour: Behaviour, status: int | None = None) -> Failure:
        """Describe the error of a script; `status` where the script's own is none."""
        return cls(
            status=behaviour.status if status is None else status,
            code=behaviour.code,
            quota=behaviour.quota,
            retry_delay=behaviour.retry_delay,
        )

    def text(self, begin: str) -> str:
        """Return a text as services write them: with the key and the prompt in it."""
        return self.message or f"{begin} secret-text: key {FAKE_KEY}, prompt {FAKE_PROMPT!r}"


class Dialect(Protocol):
    """One vendor's wire format.

    `stream` yields whole SSE events; `done` of the behaviour's words about them (no_finish,
    no_usage, no_done) is the dialect's own business, everything else is not.
    """

    name: str

    def read(self, body: dict[str, Any]) -> Talk: ...
    def stream(self, reply: Reply) -> Iterator[Piece]: ...
    def whole(self, reply: Reply) -> dict[str, Any]: ...
    def error(self, failure: Failure) -> dict[str, Any]: ...
    def error_event(self, failure: Failure) -> bytes: ...
    def ping(self) -> bytes: ...


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, or a list of typed parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text", "") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list, whatever else was sent."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
