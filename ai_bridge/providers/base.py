"""What a vendor is to the bridge: a pure translator, driven by a transport.

Decoders push: they call the sink while they are fed. No wake-up, queue or generator per event,
and every transport fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from ai_bridge.errors import ProviderFailure
from ai_bridge.secrets import Secret
from ai_bridge.types import ChatMessage, TurnRequest, Usage
from protocol.codes import EndReason


class ModelCall(Struct, frozen=True, kw_only=True):
    """One call of one model: what is sent, after the context was fitted to the window."""

    request: TurnRequest
    model: str
    messages: tuple[ChatMessage, ...]


class CallEnd(Struct, frozen=True):
    """A call that came to its proper end. `usage` is None when the provider told none."""

    finish: EndReason
    usage: Usage | None = None


class HttpRequest(Struct, frozen=True):
    """A POST. Headers hold the key: never log one."""

    url: str
    headers: dict[str, str]
    body: bytes


class CallSink(Protocol):
    """Takes the pieces of an answer.

    `text` and `reasoning` may raise AnswerFull; it passes through decoder and transport, whose
    exit closes the connection. `flush` follows each read that brought something.
    """

    def text(self, piece: str) -> None: ...
    def reasoning(self, piece: str) -> None: ...
    def flush(self) -> None: ...


class Decoder(Protocol):
    """Turns the body of one response into calls of a sink. Used once."""

    def feed(self, data: bytes) -> bool:
        """Take bytes, cut anywhere; return True when the answer is complete.

        Raises:
            ProviderFailure: the provider reports an error, or sends what nobody can read.
        """

    def eof(self) -> CallEnd:
        """The body is over (or `feed` said complete): tell how the call ended.

        Raises:
            ProviderFailure: the answer was cut off.
        """


class Provider(Protocol):
    """One vendor dialect. Pure: no I/O, no state between calls."""

    def build(self, call: ModelCall, key: Secret) -> HttpRequest: ...
    def decoder(self, out: CallSink) -> Decoder: ...

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
        """Explain a response other than 200, from its status and typed fields only."""


class Backend(Protocol):
    """Something that answers calls: a provider with its transport, or the demo partner."""

    async def stream(self, call: ModelCall, sink: CallSink) -> CallEnd:
        """Push the answer into the sink.

        Cancelling closes the upstream connection before the CancelledError leaves.

        Raises:
            ProviderFailure: it did not come to a proper end; the sink keeps what came before.
        """

    async def aclose(self) -> None:
        """Close idle connections; calls in flight must have ended."""
