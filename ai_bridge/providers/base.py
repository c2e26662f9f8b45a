"""What a vendor is to the bridge: a pure translator, driven by a transport.

Decoders push: they call the sink while they are fed. No wake-up, queue or generator per event,
and every transport fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from ai_bridge.errors import ProviderFailure
from ai_bridge.secrets import Secret
from ai_bridge.types import AnswerFormat, ChatMessage, ToolCall, TurnRequest, Usage
from protocol.codes import EndReason


class ToolDef(Struct, frozen=True):
    """A tool as the model is shown it; `schema` is JSON Schema of its arguments, normalised."""

    name: str
    description: str
    schema: dict[str, Any]
    strict: bool = False
    """The arguments must follow the schema to the letter, where the service can promise it."""


class ModelCall(Struct, frozen=True, kw_only=True):
    """One call of one model: what is sent, after the context was fitted to the window.

    `tool_choice` is auto, none, required, or the name of the one tool to call. With "none" the
    tools are there because earlier calls of them are in the talk, and the model must answer now;
    a service that knows no such wish is not told of them. Without `parallel_calls` the model is
    asked for one call at a time, where its service can be told so. `format` is one that the
    service takes (`ai_bridge.wishes`).
    """

    request: TurnRequest
    model: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolDef, ...] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    format: AnswerFormat | None = None
    stream: bool = True


class CallEnd(Struct, frozen=True):
    """A call that came to its proper end. `usage` is None when the provider told none.

    A model that wants tools run ends with STOP, after its calls went to the sink. `response_id`
    is the provider's own name for the answer.
    """

    finish: EndReason
    usage: Usage | None = None
    response_id: str = ""


class HttpRequest(Struct, frozen=True):
    """A POST. Headers hold the key: never log one."""

    url: str
    headers: dict[str, str]
    body: bytes


class CallSink(Protocol):
    """Takes the pieces of an answer.

    `text` and `reasoning` may raise AnswerFull; it passes through decoder and transport, whose
    exit closes the connection. `flush` follows each read that brought something. A tool call
    comes once and whole, when the model has finished writing it; until then `writing_call` tells
    that it is being written.
    """

    def text(self, piece: str) -> None: ...
    def reasoning(self, piece: str) -> None: ...
    def tool_call(self, call: ToolCall) -> None: ...
    def writing_call(self) -> None: ...
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


Classify = Callable[[int, Mapping[str, str], bytes], ProviderFailure]
OnHead = Callable[[Mapping[str, str]], None]


class Transport(Protocol):
    """Carries requests of one provider over connections of its own."""

    async def stream(
        self,
        request: HttpRequest,
        decoder: Decoder,
        classify: Classify,
        on_head: OnHead | None = None,
    ) -> CallEnd:
        """Send, feed the decoder while the body arrives, return how the call ended.

        Leaving it in any way but a return (cancelled, failure, full answer) closes the
        connection, so the provider stops working at once. A POST on a reused connection that
        died without a byte of an answer is repeated once.

        Args:
            on_head: told the headers (lower case names) of any answer, before its body.

        Raises:
            ProviderFailure: see `Decoder`, `classify`; or the connection failed.
        """

    async def aclose(self) -> None:
        """Close idle connections."""


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
