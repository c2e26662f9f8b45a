"""What the request builders of all dialects share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from ai_bridge.config import ProviderConfig
from ai_bridge.providers.base import HttpRequest, ModelCall, ToolDef
from ai_bridge.providers.lenient import UNREADABLE
from ai_bridge.providers.services import Traits
from ai_bridge.types import ChatMessage, Image, Role, ToolCall

_encode = msgspec.json.Encoder().encode

OPENER = "…"
"""Said in the person's place where a service wants a talk to begin with the person."""


def post(
    url: str,
    config: ProviderConfig,
    call: ModelCall,
    body: dict[str, Any],
    key_headers: dict[str, str],
) -> HttpRequest:
    """Make the request. The key is in a header and nowhere else: URLs are logged by proxies."""
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if call.stream else "application/json",
        **own_headers(config),
        **key_headers,
    }
    if call.request.request_id:
        headers["x-request-id"] = call.request.request_id
    return HttpRequest(url, headers, _encode(body))


def own_headers(config: ProviderConfig) -> dict[str, str]:
    """Return the configured headers, in the lower case in which the dialects name theirs."""
    return {name.lower(): value for name, value in config.headers.items()}


def sampling_of(call: ModelCall, traits: Traits) -> dict[str, float]:
    """Return temperature and top_p as far as they are wished and the service takes them."""
    params = call.request.params
    wishes = {"temperature": params.temperature, "top_p": params.top_p}
    if not traits.sampling:
        return {}
    return {name: value for name, value in wishes.items() if value is not None}


def stops_of(call: ModelCall, traits: Traits) -> list[str]:
    """Return the stop sequences that the service takes; the first ones are the ones that count."""
    return [stop for stop in call.request.params.stop if stop.strip()][: traits.max_stop]


def tools_of(call: ModelCall, traits: Traits) -> tuple[ToolDef, ...]:
    """Return the tools to tell of: none in a last call if the service knows no choice "none"."""
    if call.tool_choice == "none" and not traits.tool_choice_none:
        return ()
    return call.tools


def choice_of(call: ModelCall, traits: Traits) -> str:
    """Return the choice among the tools that the service is told; "auto" need not be said."""
    return call.tool_choice if traits.tool_choice_none else "auto"


def split_system(messages: tuple[ChatMessage, ...]) -> tuple[list[str], tuple[ChatMessage, ...]]:
    """Return the texts of the leading system messages, and the talk that follows them.

    A system message within the talk stays there: in the dialects whose talk has only two sides
    it is told in the person's part.
    """
    roles = [message.role for message in messages]
    size = next((at for at, role in enumerate(roles) if role is not Role.SYSTEM), len(roles))
    return [one.text for one in messages[:size] if one.text.strip()], messages[size:]


class Side(Struct):
    """Messages of one side without another in between; `model` tells whose they are."""

    model: bool
    messages: list[ChatMessage]


def sides_of(talk: tuple[ChatMessage, ...]) -> Iterator[Side]:
    """Return the talk by turns, person and model alternating, beginning with the person."""
    side = Side(False, [])
    for message in talk:
        if not _says_something(message):
            continue  # services refuse empty parts
        model = message.role is Role.ASSISTANT
        if model is not side.model:
            yield side if side.messages else Side(False, [ChatMessage(Role.USER, OPENER)])
            side = Side(model, [])
        side.messages.append(message)
    if side.messages:
        yield side


def _says_something(message: ChatMessage) -> bool:
    return bool(
        message.text.strip() or message.images or message.calls or message.role is Role.TOOL
    )


def data_url(image: Image) -> str:
    """Return where the picture is: its own address, or one that holds its bytes (RFC 2397)."""
    return image.url or f"data:{image.media};base64,{image.data}"


def args_object(call: ToolCall) -> dict[str, Any]:
    """Return the arguments as an object; what the model wrote wrongly is shown as it is."""
    try:
        value = msgspec.json.decode(call.args)
    except UNREADABLE:
        value = None
    return value if isinstance(value, dict) else {"invalid_arguments": call.args}
