"""POST /api/v1/chat: one question or a talk, answered in a body of three fields.

Two bodies, told apart by their fields:

    {"message", "model"?, "provider"?, "conversation_id"?, "stream"?}
    {"persona_id", "messages", "conversation_id"?, "stream"?}

`model` is a persona (its slug or `persona:<id>`) or a model of the providers, which the everyday
assistant then speaks with. The answer is {"success": true, "response": "...", "usage": {...}}, or
{"success": false, "error": "..."} with the status of the failure. With `stream`, server-sent
events: {"delta": "..."} as often as needed, then {"success": ...} and `[DONE]`.
"""

from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from ai_bridge.http.answers import answer
from ai_bridge.http.bodies import read_body
from ai_bridge.http.openai_shapes import (
    DONE,
    MAX_HISTORY,
    MAX_MESSAGES,
    Ask,
    Message,
    Name,
    split_messages,
)
from ai_bridge.http.pictures import check_pictures
from ai_bridge.http.problems import Problem, headers_of, unknown_model
from ai_bridge.turn import Turn
from ai_bridge.types import ChatMessage, GenParams, Outcome, Role, Usage
from protocol.codes import StreamPart
from server.http.asking import Asking
from server.http.callers import CALLERS, HttpCaller
from server.http.context import note_wait
from server.http.openai_routes import ASKING, door, dress_for
from server.http.openai_views import ChatAnswer, ChatRefusal
from server.http.personas import PREFIX, Target
from server.http.typed import Api, Media
from server.logs import REQUEST_ID

ERRORS: Final = (404, 409, 410, 502)
EXAMPLE: Final = {"message": "你好", "model": "nova"}
EVERYDAY: Final = "nova"
"""Slug of the persona that answers when none is named."""
_MAX_TEXT: Final = 32_000

_encode: Final = msgspec.json.Encoder().encode


class ChatBody(Struct):
    """Both bodies."""

    message: Annotated[str, Meta(min_length=1, max_length=_MAX_TEXT)] | None = None
    model: Name | None = None
    provider: Annotated[str, Meta(max_length=64)] | None = None
    persona_id: int | Name | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    conversation_id: int | Annotated[str, Meta(max_length=32)] | None = None
    stream: bool | None = None


DECODER: Final = msgspec.json.Decoder(ChatBody)


class SimpleChat:
    """Writes one answer in this route's own shape, with the spaces that its users compare."""

    def head(self) -> bytes:
        return b""

    def delta(self, part: StreamPart, text: str) -> bytes:
        name = b"delta" if part is StreamPart.ANSWER else b"reasoning"
        return b'data: {"' + name + b'": ' + _encode(text) + b"}\n\n"

    def end(self, outcome: Outcome) -> bytes:
        return b'data: {"success": true, "usage": ' + _usage(outcome.usage) + b"}\n\n" + DONE

    def failure(self, problem: Problem) -> bytes:
        return b"data: " + failure_bytes(problem) + b"\n\n"

    def whole(self, turn: Turn, outcome: Outcome) -> bytes:
        return b"".join(
            (
                b'{"success": true, "response": ', _encode(turn.text()),
                b', "usage": ', _usage(outcome.usage), b"}",
            )
        )  # fmt: skip


def _usage(usage: Usage) -> bytes:
    figures = (usage.prompt, usage.completion, usage.prompt + usage.completion)
    return b'{"prompt_tokens": %d, "completion_tokens": %d, "total_tokens": %d}' % figures


def failure_bytes(problem: Problem) -> bytes:
    """Return the answer to a request that failed."""
    return b'{"success": false, "error": ' + _encode(problem.message) + b"}"


def chat_response(problem: Problem) -> web.Response:
    """Return a failure as this route tells it."""
    return web.Response(
        status=problem.status,
        reason="Client Closed Request" if problem.status == 499 else None,
        body=failure_bytes(problem),
        content_type="application/json",
        headers=headers_of(problem),
    )


async def chat(request: web.Request, caller: HttpCaller) -> web.StreamResponse:
    """Answer one request of this route.

    Raises:
        Problem: it cannot be answered.
    """
    note_wait()
    body = await read_body(request, DECODER)
    asking = request.app[ASKING]
    target = _target(asking, caller, body)
    ask = _ask(body)
    await check_pictures(ask.history)
    prepared = asking.prepare(caller, target, ask, REQUEST_ID.get())
    with asking.pictures.holding(ask.history):
        return await answer(
            request, prepared.begin, asking.pulse, SimpleChat(), dress_for(request),
            stream=bool(body.stream),
        )  # fmt: skip


def _ask(body: ChatBody) -> Ask:
    if (body.message is None) is (body.messages is None):
        text = "Send either `message`, or `messages` with `persona_id`."
        raise Problem(400, text, code="invalid_request")
    if body.messages is not None:
        system, history = split_messages(body.messages)
    else:
        system, history = "", (ChatMessage(Role.USER, body.message or ""),)
    return Ask(
        model="",
        system=system,
        history=history,
        params=GenParams(history=min(MAX_HISTORY, len(history))),
        conversation="" if body.conversation_id is None else str(body.conversation_id),
    )


def _target(asking: Asking, caller: HttpCaller, body: ChatBody) -> Target:
    """Return who answers; in a conversation without any name, the conversation's own persona."""
    names = asking.names
    named = body.persona_id if body.persona_id is not None else body.model
    if named is None and not body.provider:
        if body.conversation_id is not None:
            return Target("", None)
        named = EVERYDAY
    if body.persona_id is not None and str(named).isdecimal():
        named = f"{PREFIX}{named}"
    if not body.provider and (persona := names.persona(caller, str(named))) is not None:
        return Target(str(named), persona)
    if body.persona_id is not None:
        raise unknown_model(str(named))
    model = names.served(body.provider or "", body.model or "")
    everyday = names.persona(caller, EVERYDAY)
    if model is None or everyday is None:
        raise unknown_model("/".join(part for part in (body.provider, body.model) if part))
    shown = None if body.conversation_id is not None else everyday
    return Target(model, shown, model, body.provider or "")


@door(chat_response)
async def _chat(request: web.Request) -> web.StreamResponse:
    return await chat(request, await request.app[CALLERS].of(request))


api = Api("chat")
api.raw(
    "POST",
    "/api/v1/chat",
    "Ask one question or send a talk, and get the answer in three fields",
    _chat,
    who=HttpCaller,
    body=ChatBody,
    answers={200: (ChatAnswer, Media("text/event-stream")), 499: ChatRefusal},
    refusal=ChatRefusal,
    errors=ERRORS,
    example=EXAMPLE,
)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `openai_routes.install`."""
    return api.routes()
