"""What can go wrong, with the number the peer is told and an advice for the person who asked."""

from __future__ import annotations

from enum import Enum

from ai_bridge.types import MAX_ERROR_CHARS
from protocol.codes import Code


class BridgeError(Exception):
    """The bridge refuses a turn at once; nothing was started and no watcher will be called.

    Attributes:
        code: number for the peer.
        retry_ms: -1 asking again will not help, else the wait that is advised.
        text: safe to show and to log; says what to do.
    """

    def __init__(self, code: Code, text: str, retry_ms: int = -1) -> None:
        super().__init__(text)
        self.code = code
        self.text = text[:MAX_ERROR_CHARS]
        self.retry_ms = retry_ms


class Remedy(Enum):
    """What the engine may do about a failed attempt while nothing is visible yet."""

    RETRY = "retry"
    """Another provider, else the same one again after a pause."""
    NEXT = "next"
    """Another provider; the same one would answer the same."""
    SHRINK = "shrink"
    """Once more with a shorter history."""
    FAIL = "fail"
    """No provider will do better: tell the person."""


class ProviderFailure(Exception):
    """One attempt at a provider failed.

    Built from the status and typed fields only, never from the text a provider or a library
    wrote: such texts quote keys, prompts and addresses.

    Attributes:
        remedy: what may be done before anything is visible.
        code: number for the peer if nothing helps.
        text: advice for the person who asked.
        kind: short constant word for logs and counters ("rate_limited", "connect", ...).
        status: HTTP status, 0 when there was none.
        retry_after_s: how long the provider asked to be left alone, None when it did not say.
    """

    def __init__(
        self,
        kind: str,
        text: str,
        *,
        remedy: Remedy = Remedy.RETRY,
        code: Code = Code.MODEL_UNAVAILABLE,
        status: int = 0,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.text = text[:MAX_ERROR_CHARS]
        self.remedy = remedy
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s


class AnswerFull(Exception):
    """The answer reached its bound: stop reading, keep what is there, end with LENGTH."""
