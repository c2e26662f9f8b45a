"""/v1/…: what programs written for OpenAI's API call. A model is a persona of this server.

Who may: a person's token, or an API key with the scope `chat` (`server.http.callers`). Models of
the providers, named `provider/model`, need the scope `models` as well.

System messages are added to the persona's prompt. `metadata.conversation_id`, or the header
X-Conversation-ID, continues a stored conversation: its last message is sent in it, its history
and prompt hold; system messages and stop words of the request are added for this answer only.
The header Idempotency-Key then makes a repeat harmless.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ai_bridge.http.answers import answer
from ai_bridge.http.bodies import read_body
from ai_bridge.http.openai_shapes import (
    DECODER,
    Completion,
    ModelRow,
    model_list,
    read_ask,
)
from ai_bridge.http.pictures import check_pictures
from ai_bridge.http.problems import Problem, openai_response, problem_of, unknown_model
from protocol.codes import Code
from server.errors import explain
from server.http.asking import Asking
from server.http.bodies import json_response
from server.http.callers import CALLERS, Callers, HttpCaller
from server.http.context import note_wait
from server.http.middleware import add_cors, route_of, seal
from server.http.openai_views import (
    CompletionBody,
    CompletionView,
    ModelListView,
    OpenAiRefusal,
)
from server.http.typed import Api, Media
from server.logs import REQUEST_ID

if TYPE_CHECKING:
    from server.http.context import HttpParts

log = logging.getLogger("parlance.http")

ASKING: Final = web.AppKey("asking", Asking)
CONVERSATION_HEADER: Final = "X-Conversation-ID"
_MAX_KEY_CHARS: Final = 256

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem_from(exc: Exception) -> Problem | None:
    """Return what to tell a program, None for an exception nobody foresaw."""
    if isinstance(exc, Problem):
        return exc
    failure = explain(exc)
    if failure is None:
        return None
    text = failure.detail or f"{failure.reason.capitalize()}."
    return problem_of(failure.code, text, failure.retry_ms)


def dress_for(request: web.Request) -> Callable[[web.StreamResponse], None]:
    """Return what puts on a stream the headers that others get from the middleware."""

    def dress(response: web.StreamResponse) -> None:
        seal(response, REQUEST_ID.get())
        add_cors(request, response)

    return dress


def door(respond: Callable[[Problem], web.Response]) -> Callable[[Handler], Handler]:
    """Answer everything that goes wrong in one shape."""

    def guard(handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except web.HTTPException:
                raise
            except Exception as exc:
                problem = problem_from(exc)
                if problem is None:
                    log.exception("http.crashed", extra={"route": route_of(request)})
                    text = "This is our fault. If it stays, tell the operator the X-Request-ID."
                    problem = problem_of(Code.INTERNAL, text)
                return respond(problem)

        return answer

    return guard


@door(openai_response)
async def _completions(request: web.Request) -> web.StreamResponse:
    """`model` is a persona. With `stream`, chunks as OpenAI's, then `[DONE]`."""
    note_wait()
    caller = await request.app[CALLERS].of(request)
    body = await read_body(request, DECODER)
    if CONVERSATION_HEADER in request.headers:
        body.metadata = {"conversation_id": request.headers[CONVERSATION_HEADER]}
    ask = read_ask(body)
    await check_pictures(ask.history)
    asking = request.app[ASKING]
    target = asking.names.find(caller, ask.model)
    repeat_key = request.headers.get("Idempotency-Key", "")[:_MAX_KEY_CHARS]
    prepared = asking.prepare(caller, target, ask, REQUEST_ID.get(), repeat_key)
    completion = Completion(prepared.turn_id, ask.model, int(time.time()), ask.include_usage)
    with asking.pictures.holding(ask.history):
        return await answer(
            request, prepared.begin, asking.pulse, completion, dress_for(request),
            stream=ask.stream,
        )  # fmt: skip


@door(openai_response)
async def _models(request: web.Request) -> web.StreamResponse:
    caller = await request.app[CALLERS].of(request)
    rows = await request.app[ASKING].names.listing(caller)
    return web.Response(
        body=model_list(rows),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@door(openai_response)
async def _model(request: web.Request) -> web.StreamResponse:
    caller = await request.app[CALLERS].of(request)
    name = request.match_info["name"]
    names = request.app[ASKING].names
    target = names.find(caller, name)
    if target.persona is not None:
        return json_response(names.row(target.persona))
    if target.model is None:
        raise unknown_model(name)
    return json_response(ModelRow(name, 0, target.provider or "route"))


api = Api("openai")
api.raw(
    "POST", "/v1/chat/completions", "Ask a persona for an answer, as OpenAI's clients do",
    _completions, who=HttpCaller, body=CompletionBody, refusal=OpenAiRefusal,
    answers={200: (CompletionView, Media("text/event-stream")), 499: OpenAiRefusal},
    errors=(404, 409, 410, 502),
    headers={
        CONVERSATION_HEADER: "The stored conversation to go on with.",
        "Idempotency-Key": "In a conversation: your own name for this request.",
    },
    example={"model": "nova", "messages": [{"role": "user", "content": "你好"}]},
)  # fmt: skip
api.raw(
    "GET", "/v1/models", "List the personas and models that one may ask",
    _models, who=HttpCaller, body=None, refusal=OpenAiRefusal, answers={200: ModelListView},
)  # fmt: skip
api.raw(
    "GET", "/v1/models/{name:.+}", "Tell of one of them",
    _model, who=HttpCaller, body=None, refusal=OpenAiRefusal, answers={200: ModelRow},
)  # fmt: skip


def install(app: web.Application, parts: "HttpParts") -> None:
    """Make what the routes of this file and others share."""
    core = parts.core
    asking = app[ASKING] = Asking(core)
    app[CALLERS] = Callers(parts.accounts, parts.clock, core.now_ms)

    async def load(_: web.Application) -> None:
        await asking.names.load()

    app.on_startup.append(load)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file; the application needs `install`."""
    return api.routes()
