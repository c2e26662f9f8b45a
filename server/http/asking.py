"""Answers for programs: from a checked request to a turn of the bridge, or of a conversation.

Without a conversation the history is the request's own and only a record is kept
(`server.turn_records`). With one, the last message is sent in it as on the socket, so
everybody sees it and the answer; history and settings are then the conversation's.
"""

import hashlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from ai_bridge.errors import BridgeError
from ai_bridge.http.answers import Begin, Cancel, Pulse
from ai_bridge.http.openai_shapes import Ask
from ai_bridge.http.pictures import PictureRoom
from ai_bridge.http.problems import Problem, problem_of, problem_of_refusal, unknown_model
from ai_bridge.run import QueueWatcher, TurnWatcher
from ai_bridge.turn import Turn
from ai_bridge.types import (
    GenParams,
    Outcome,
    PersonaSpec,
    Priority,
    Role,
    TurnRequest,
)
from protocol.codes import Code, MsgKind
from protocol.envelopes import Send
from protocol.rows import GenOpt, SendX
from server.errors import not_found
from server.handlers.messages import submit
from server.http.callers import HttpCaller
from server.http.following import Follower, HttpSender
from server.http.personas import ModelNames, Target
from server.metrics import Figure
from server.throttle import Allowance
from server.turn_records import TurnRecords
from server.turn_requests import Extra
from server.turns import end_row

if TYPE_CHECKING:
    from server.core import Core

MAX_ID: Final = 2**53 - 1


class Prepared(Struct, frozen=True):
    """A request whose turn can begin: its id and what begins it."""

    turn_id: int
    begin: Begin


class Recorded:
    """Watches a turn for its record, and passes everything on."""

    __slots__ = ("_inner", "_records", "turn_changed", "turn_started")

    def __init__(self, inner: TurnWatcher, records: TurnRecords) -> None:
        self._inner = inner
        self._records = records
        # Bound here, so that passing on costs no call of its own.
        self.turn_started = inner.turn_started
        self.turn_changed = inner.turn_changed

    def turn_queued(self, turn: Turn, place: int) -> None:
        if isinstance(self._inner, QueueWatcher):
            self._inner.turn_queued(turn, place)

    def turn_ended(self, turn: Turn, outcome: Outcome) -> None:
        self._records.end(end_row(turn.id, outcome))
        self._inner.turn_ended(turn, outcome)


class Asking:
    """Begins turns for HTTP callers. Owns the records, the pulse and the names of models.

    A person may ask as often as on one connection of the socket; a key as often as it likes, the
    bridge's queue is fair among tenants and keys.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.records = core.records
        self.names = ModelNames(core)
        self.pulse = Pulse(core.loop)
        self.pictures = PictureRoom()
        self._cards = core.cards
        self.rates = Allowance(core.policy.rate, core.policy.burst, core.clock)

    def prepare(
        self, caller: HttpCaller, target: Target, ask: Ask, request_id: str, repeat_key: str = ""
    ) -> Prepared:
        """Return what will answer this request.

        Args:
            repeat_key: the client's own name for the request: in a conversation, a repeat with
                the same key finds the message that was stored and its answer.

        Raises:
            Problem: 400, it cannot be answered as it was asked; 429, the person asks too often.
        """
        wait_s = 0.0 if caller.key else self.rates.admit(caller.user)
        if wait_s:
            text = "You ask too often. Wait a moment and ask again."
            raise problem_of(Code.RATE, text, int(wait_s * 1000) + 1)
        if ask.conversation:
            return self._in_conversation(caller, target, ask, repeat_key)
        persona = target.persona.id if target.persona is not None else 0
        new = self._core.turns.new(caller.tenant, caller.user, persona or 0)
        turn_id = new.sid

        async def begin(watcher: TurnWatcher) -> Cancel:
            self.records.admit()
            speaker = caller.named(ask.user)
            request = await self._request(turn_id, speaker, target, ask, request_id)
            try:
                self._core.bridge.submit(request, Recorded(watcher, self.records))
            except BridgeError as refusal:
                if target.persona is None and refusal.code is Code.MODEL_UNAVAILABLE:
                    raise unknown_model(target.name) from None
                raise problem_of_refusal(refusal) from None
            self.records.begin(new)
            return lambda: self._core.bridge.cancel(turn_id)

        return Prepared(turn_id, begin)

    async def _request(
        self, turn_id: int, caller: HttpCaller, target: Target, ask: Ask, request_id: str
    ) -> TurnRequest:
        persona = target.persona
        spec = PersonaSpec(0, "", ask.system)
        if persona is not None:
            # Added to, never replaced: the persona stays who its owner made it.
            spec = await self._cards.spec(persona.id or 0, persona, "", ask.system)
        return TurnRequest(
            turn_id=turn_id,
            tenant=caller.tenant,
            user=caller.user,
            conv=0,
            persona=spec,
            history=ask.history,
            params=_params(target, ask.params),
            request_id=request_id,
            priority=Priority.FACADE,
            caller_tools=ask.tools,
        )

    def figures(self) -> Iterator[Figure]:
        """Yield what the metrics page shows of this."""
        yield Figure("gauge", "http_answers", "Answers over HTTP under way.", len(self.pulse))
        waiting, lost = len(self.records), self.records.lost
        yield Figure("gauge", "http_records_waiting", "Records of answers to be stored.", waiting)
        yield Figure("counter", "http_records_lost", "Records that were not stored.", lost)
        held, refused = self.pictures.held, self.pictures.refused
        yield Figure("gauge", "http_picture_bytes", "Pictures of requests under way.", held)
        text = "Requests refused because pictures took all their room."
        yield Figure("counter", "http_pictures_refused", text, refused)

    # conversations

    def _in_conversation(
        self, caller: HttpCaller, target: Target, ask: Ask, repeat_key: str
    ) -> Prepared:
        conv = _conversation_id(ask.conversation)
        _refuse_in_conversation(caller, ask)
        cid = secrets.token_bytes(16)
        if repeat_key:
            cid = hashlib.blake2b(repeat_key.encode(), digest_size=16).digest()
        params = ask.params
        opt = GenOpt(
            model=target.setting,
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
        )
        x = SendX(persona=target.persona.id if target.persona else None, opt=opt)
        frame = Send(0, conv, cid, int(MsgKind.TEXT), ask.history[-1].text, x)

        async def begin(watcher: TurnWatcher) -> Cancel:
            sid = await self._send(caller, frame, Extra(ask.system, params.stop))
            follower = Follower(self._core, self.pulse, sid, watcher)
            return follower.stop

        return Prepared(self._core.new_id(), begin)

    async def _send(self, caller: HttpCaller, frame: Send, extra: Extra) -> int:
        """Store a message of the caller's; return the answer that it asks for."""
        core = self._core
        entry = await core.directory.require(frame.conv, caller)
        sender = HttpSender(core, caller)
        submit(core, entry, sender, None, frame, extra)
        sent = await sender.acknowledged()
        if not sent.sid:
            raise Problem(400, "No persona answers in this conversation.", code="no_persona")
        return sent.sid


def _params(target: Target, asked: GenParams) -> GenParams:
    """Return the request's wishes; what it leaves open is the persona's choice."""
    opt = target.persona.opt if target.persona is not None else None
    if opt is None:
        return structs.replace(asked, model=target.model, provider=target.provider)
    return structs.replace(
        asked,
        model=target.model or opt.model,
        provider=target.provider,
        temperature=opt.temperature if asked.temperature is None else asked.temperature,
        top_p=opt.top_p if asked.top_p is None else asked.top_p,
        max_tokens=opt.max_tokens if asked.max_tokens is None else asked.max_tokens,
    )


def _conversation_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:17]) <= MAX_ID):
        raise not_found("conversation")
    return int(text[:17])


def _refuse_in_conversation(caller: HttpCaller, ask: Ask) -> None:
    if caller.key:
        text = (
            "A key belongs to nobody's conversations. Sign the person in with a key of the scope "
            "'exchange' (POST /api/v1/auth/exchange) and use that token."
        )
        raise Problem(403, text, code="insufficient_permissions", param="metadata")
    if ask.history[-1].role is not Role.USER:
        raise _not_there("The last message must be the user's: it is sent.", "messages")
    if ask.history[-1].images:
        text = "Pictures are not kept in conversations yet: leave out the conversation or them."
        raise _not_there(text, "messages")
    if ask.tools is not None:
        text = (
            "In a stored conversation the persona's own tools are used: leave tools out, or "
            "leave out the conversation and send the whole talk as messages."
        )
        raise _not_there(text, "tools")
    if ask.params.format is not None:
        text = (
            "What everybody in a conversation reads is plain text: leave response_format out, or "
            "leave out the conversation and send the whole talk as messages."
        )
        raise _not_there(text, "response_format")


def _not_there(text: str, param: str) -> Problem:
    return Problem(400, text, code="unsupported_in_conversation", param=param)
