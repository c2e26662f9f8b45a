"""Messages over HTTP: send, read, change, take back, and AI answers asked for anew.

A request to send is answered after the commit, with the row that everybody was pushed.
"""

from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from protocol.codes import GenMode, MsgKind
from protocol.envelopes import Edit, Gen, GenOk, Get, History, Page, Pick, Recall, Send
from protocol.rows import GenOpt, SendX
from protocol.types import Id, Limit, Text, U
from server.errors import not_found
from server.handlers.messages import submit
from server.http.answering import SAID, Said, WaitQuery, respond
from server.http.conversation_routes import ONE, Revision, conversation_of
from server.http.following import HttpSender
from server.http.serving import REPEAT_HEADER, admit, repeat_id, serve
from server.http.typed import Api, Call, Person, Reply
from server.http.views import MessageView, message_view
from storage.messages import get_messages

_MESSAGES: Final = ONE + "/messages"
_MESSAGE: Final = _MESSAGES + r"/{seq:\d{1,16}}"
_MAX_BODY: Final = 400 * 1024
"""32,000 characters, however they are escaped."""


class SendBody(Struct, kw_only=True):
    """`x`: what is quoted, who is mentioned, which persona is to answer; `ai` 1 in it: nobody."""

    text: Text
    kind: U = int(MsgKind.TEXT)
    x: SendX | None = None


class SendInBody(SendBody, kw_only=True):
    conversation_id: Id


class EditBody(Struct):
    """`base`: the `rev` that was changed; another one is refused with 409. 0: whichever it is."""

    text: Text
    base: U = 0
    x: SendX | None = None


class AnswerBody(Struct):
    """`mode`: 1 answer a message, 2 answer it once more, 3 continue an answer.

    `seq` is the message, 0 the newest. `persona` and `opt` are for this answer only.
    """

    mode: U = int(GenMode.REGENERATE)
    seq: U = 0
    persona: Id | None = None
    opt: GenOpt | None = None


class HistoryQuery(Struct):
    """Those before a number, or after one; with neither, the newest."""

    before: U = 0
    after: U | None = None
    limit: Limit = 50


class HistoryInQuery(Struct):
    conversation_id: Id
    before: U = 0
    after: U | None = None
    limit: Limit = 50


class MessagePage(Struct):
    """Oldest first; `more`: there are more on the side that was asked for."""

    messages: list[MessageView]
    more: bool


api = Api("messages")
_SENT: Final = {200: SAID, 201: SAID}


@api.route("POST", _MESSAGES, "Send a message", max_body=_MAX_BODY, answers=_SENT,
           headers=REPEAT_HEADER, errors=(410,), example={"text": "你好"})  # fmt: skip
async def _send(
    call: Call[Person, WaitQuery, SendBody],
) -> Reply[Said] | web.StreamResponse:
    """201 once it is stored; 200, it had been stored before under the same Idempotency-Key."""
    return await _say(call, conversation_of(call))


@api.route("POST", "/api/message/send", "Send a message", max_body=_MAX_BODY, answers=_SENT,
           headers=REPEAT_HEADER, errors=(404, 410),
           example={"conversation_id": 1, "text": "你好"})  # fmt: skip
async def _send_in(
    call: Call[Person, WaitQuery, SendInBody],
) -> Reply[Said] | web.StreamResponse:
    """As POST /api/v1/conversations/{id}/messages."""
    return await _say(call, call.body.conversation_id)


async def _say(call: Call[Person, WaitQuery, Any], conv: int) -> Reply[Said] | web.StreamResponse:
    admit(call, Send)
    core, who, body = call.core, call.who, call.body
    entry = await core.directory.require(conv, who)
    sender = HttpSender(core, who)
    frame = Send(0, conv, repeat_id(call), body.kind, body.text, body.x)
    submit(core, entry, sender, None, frame)
    sent = await sender.acknowledged()
    found = await core.store.read(get_messages(conv, [sent.seq], entry.floor(who.user)))
    if not found:
        raise not_found("message")
    said = Said(message_view(conv, found[0]), sent.sid or 0, sent.dup)
    return await respond(call, conv, said, 200 if sent.dup else 201)


@api.route("GET", _MESSAGES, "Read the history", polled=True)
async def _history(call: Call[Person, HistoryQuery, None]) -> MessagePage:
    return await _page(call, conversation_of(call))


@api.route("GET", "/api/message/list", "Read the history", errors=(404,), polled=True)
async def _history_in(call: Call[Person, HistoryInQuery, None]) -> MessagePage:
    """As GET /api/v1/conversations/{id}/messages."""
    return await _page(call, call.query.conversation_id)


async def _page(call: Call[Person, Any, None], conv: int) -> MessagePage:
    asked = call.query
    back = asked.after is None
    anchor = asked.before if back else asked.after
    page: Page = await serve(call, History(0, conv, anchor, back, asked.limit))
    return MessagePage([message_view(conv, msg) for msg in page.msgs], page.more)


@api.route("GET", _MESSAGE, "Get one message", polled=True)
async def _get(call: Call[Person, None, None]) -> MessageView:
    return await _one(call, conversation_of(call), _seq_of(call))


@api.route("GET", r"/api/message/{id:\d{1,16}-\d{1,16}}", "Get one message", polled=True)
async def _get_by_id(call: Call[Person, None, None]) -> MessageView:
    conv, _, seq = call.request.match_info["id"].partition("-")
    return await _one(call, int(conv), int(seq))


async def _one(call: Call[Person, Any, Any], conv: int, seq: int) -> MessageView:
    page: Page = await serve(call, Get(0, conv, [seq]))
    if not page.msgs:
        raise not_found("message")
    return message_view(conv, page.msgs[0])


@api.route(
    "PUT",
    _MESSAGE,
    "Edit one's own message",
    max_body=_MAX_BODY,
    errors=(409, 410),
    example={"text": "你好！"},
)
async def _edit(call: Call[Person, None, EditBody]) -> MessageView:
    conv, seq, body = conversation_of(call), _seq_of(call), call.body
    await serve(call, Edit(0, conv, seq, body.text, body.base, body.x))
    return await _one(call, conv, seq)


@api.route("DELETE", _MESSAGE, "Take a message back", errors=(409, 410))
async def _recall(call: Call[Person, None, None]) -> MessageView:
    """Its number stays, its text is gone."""
    conv, seq = conversation_of(call), _seq_of(call)
    await serve(call, Recall(0, conv, seq))
    return await _one(call, conv, seq)


@api.route("POST", _MESSAGE + "/pick", "Choose which of several answers counts", errors=(409, 410))
async def _pick(call: Call[Person, None, None]) -> Revision:
    changed = await serve(call, Pick(0, conversation_of(call), _seq_of(call)))
    return Revision(changed.rev)


@api.route("POST", ONE + "/answers", "Ask for an answer: again, once more, or further",
           answers={201: SAID}, headers=REPEAT_HEADER, errors=(409, 410),
           example={"mode": 2})  # fmt: skip
async def _answer(
    call: Call[Person, WaitQuery, AnswerBody],
) -> Reply[Said] | web.StreamResponse:
    conv, body = conversation_of(call), call.body
    frame = Gen(0, conv, repeat_id(call), body.mode, body.seq, body.persona, body.opt)
    begun: GenOk = await serve(call, frame)
    return await respond(call, conv, Said(turn=begun.sid), 201)


def _seq_of(call: Call[Any, Any, Any]) -> int:
    return call.number("message", "seq")


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return api.routes()
