"""An answer in a conversation for a request that waits for it, whole or as server-sent events.

The answer is the conversation's: a request that ends early stops nothing.
"""

import asyncio
from typing import Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from ai_bridge.http.answers import Cancel, WholeAnswer, answer_streaming
from ai_bridge.http.problems import Problem
from ai_bridge.run import TurnWatcher
from ai_bridge.turn import Turn
from ai_bridge.types import Outcome
from protocol.codes import StreamPart
from server.http.context import note_wait
from server.http.following import Follower
from server.http.openai_routes import ASKING, dress_for
from server.http.typed import Call, Media, Person, Reply
from server.http.views import MessageView, TurnView, message_view, turn_view
from storage.messages import get_messages
from storage.turns import get_turn

_encode: Final = msgspec.json.Encoder().encode


class WaitQuery(Struct):
    """`wait=answer`: the request is answered when the AI has; `Accept: text/event-stream` tells
    its words as they come."""

    wait: Literal["", "answer"] = ""


class Said(Struct, omit_defaults=True):
    """What a request in a conversation did.

    `message` was stored; `repeated`, it had been stored before under the same Idempotency-Key.
    `turn` is the AI answer that it asks for, missing when nobody answers. Who waited is told the
    `answer`, missing when there is none, and the `record` of the turn, which says why.
    """

    message: MessageView | None = None
    turn: int = 0
    repeated: bool = False
    answer: MessageView | None = None
    record: TurnView | None = None


EVENTS: Final = Media(
    "text/event-stream",
    "Events: `message` (what was stored, as in the JSON answer), `delta` and `reasoning`"
    " ({text}), then `end` ({turn, reason}) or `failed` ({turn, message}).",
)
SAID: Final = (Said, EVENTS)


class _Events:
    """Writes one answer as events."""

    def __init__(self, said: Said) -> None:
        self._said = said

    def head(self) -> bytes:
        return _event("message", self._said)

    def delta(self, part: StreamPart, text: str) -> bytes:
        return _event("delta" if part is StreamPart.ANSWER else "reasoning", {"text": text})

    def end(self, outcome: Outcome) -> bytes:
        reason = outcome.reason.name.lower()
        return _event("end", {"turn": self._said.turn, "reason": reason})

    def failure(self, problem: Problem) -> bytes:
        return _event("failed", {"turn": self._said.turn, "message": problem.message})

    def whole(self, turn: Turn, outcome: Outcome) -> bytes:
        return _encode(self._said)


def _event(name: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(value))


async def respond(
    call: Call[Person, WaitQuery, Any], conv: int, said: Said, status: int
) -> Reply[Said] | web.StreamResponse:
    """Return what was done, after the answer where the request waits for it.

    An answer that fails before its first word is told as JSON, also where events are wanted.
    """
    streamed = "text/event-stream" in call.request.headers.get("Accept", "")
    if not said.turn or not (streamed or call.query.wait):
        return Reply(said, status)
    note_wait()
    core, pulse = call.core, call.request.app[ASKING].pulse

    async def begin(watcher: TurnWatcher) -> Cancel:
        return Follower(core, pulse, said.turn, watcher).leave

    if streamed:
        try:
            dress = dress_for(call.request)
            return await answer_streaming(call.request, begin, pulse, _Events(said), dress)
        except Problem:
            pass  # nothing was sent yet: the record says what happened
    else:
        await _ended(call.request, begin)
    return Reply(await _with_record(call, conv, said), status)


async def _ended(request: web.Request, begin: Any) -> None:
    watcher = WholeAnswer(request, asyncio.get_running_loop())
    pulse = request.app[ASKING].pulse
    leave = watcher.cancel = await begin(watcher)
    pulse.add(watcher)
    try:
        await watcher.ended
    finally:
        pulse.discard(watcher)
        leave()


async def _with_record(call: Call[Person, WaitQuery, Any], conv: int, said: Said) -> Said:
    core = call.core
    row = await core.store.read(get_turn(said.turn))
    if row is None:
        return said
    said.record = turn_view(row)
    if row.answer_seq:
        entry = await core.directory.require(conv, call.who)
        found = await core.store.read(
            get_messages(conv, [row.answer_seq], entry.floor(call.who.user))
        )
        said.answer = message_view(conv, found[0]) if found else None
    return said
