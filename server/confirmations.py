"""May this tool run? The question goes to the person whom an answer is for (docs/protocol.md §8).

`Confirmations.ask` is the bridge's `Confirm`: it is awaited by the turn whose model wants the
tool, and returns what the first of that person's devices says. Nobody answers for another.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ai_bridge.tools.registry import ToolContext
from ai_bridge.types import ToolCall
from protocol.codes import Caps, Code, Settled
from protocol.envelopes import Confirm, Frame, ToolAsk, ToolSettled
from protocol.states import State
from server.errors import ServiceError
from server.hub import Encoded
from server.streams import Stream

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

CONFIRM_S: Final = 60.0
"""How long a question stays open."""
MAX_OF_USER: Final = 8
MAX_OPEN: Final = 1_000
ARGS_CHARS: Final = 1_000
"""Most of a tool's arguments that is shown: what does not fit on a screen is not read."""

_CONFIRM: Final = int(Caps.CONFIRM)
_NOT_OPEN: Final = "This is settled already: answered, too late, or stopped."


class Question:
    """One open question: what is asked, of whom, and where the answer goes."""

    __slots__ = ("answer", "ask", "tenant", "until", "user")

    def __init__(
        self, tenant: int, user: int, ask: ToolAsk, until: float, answer: asyncio.Future[Settled]
    ) -> None:
        self.tenant = tenant
        self.user = user
        self.ask = ask
        self.until = until
        self.answer = answer

    def is_open(self, sid: int, tenant: int, user: int) -> bool:
        """Tell whether this person may still answer it."""
        asked = (self.ask.sid, self.tenant, self.user) == (sid, tenant, user)
        return asked and not self.answer.done()


class Confirmations:
    """Owns the open questions of this process: MAX_OPEN in all, MAX_OF_USER of one user.

    Attributes:
        outcomes: how questions ended, by the names of `Settled` in lower case; and why some were
            never asked, which is a no: "nobody" (no device can ask), "user_full", "full".
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._open: dict[int, Question] = {}
        self._asked: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    async def ask(self, call: ToolCall, context: ToolContext) -> bool:
        """Ask the person of a turn whether this call may run; True only if they said so.

        Cancelling it withdraws the question.
        """
        stream = self._core.streams.get(context.turn_id)
        # An answer to a program has no stream: nobody looks at it.
        reason = "nobody" if stream is None else self._unaskable(context.user)
        if stream is None or reason:
            self.outcomes[reason] += 1
            return False
        question = self._begin(stream, call, context)
        settled = Settled.WITHDRAWN
        try:
            settled = await question.answer
        finally:
            self._close(question, settled)
        return settled is Settled.YES

    def answer(self, tenant: int, user: int, f: Confirm) -> None:
        """Take a person's answer; the first one counts.

        Raises:
            ServiceError: NOT_FOUND, no such question is open for this person.
        """
        question = self._open.get(f.call)
        if question is None or not question.is_open(f.sid, tenant, user):
            raise ServiceError(Code.NOT_FOUND, "question not found", _NOT_OPEN)
        question.answer.set_result(Settled.YES if f.yes else Settled.NO)

    def tell_open(self, session: "Session") -> None:
        """Send a device that signs in what its user is being asked."""
        if session.caps & _CONFIRM and self._asked[session.user]:
            for question in self._open.values():
                if question.user == session.user and not question.answer.done():
                    session.reply(question.ask)

    def sweep(self, now: float) -> None:
        """End what nobody answered in time. Called once a second."""
        for question in self._open.values():
            if now >= question.until and not question.answer.done():
                question.answer.set_result(Settled.EXPIRED)

    def _unaskable(self, user: int) -> str:
        """Return why this user cannot be asked, "" if they can."""
        if not any(self._devices(user)):
            return "nobody"
        if self._asked[user] >= MAX_OF_USER:
            return "user_full"
        return "full" if len(self._open) >= MAX_OPEN else ""

    def _begin(self, stream: Stream, call: ToolCall, context: ToolContext) -> Question:
        core = self._core
        args, left = preview(call.args)
        number = core.new_id()
        until_ms = core.now_ms() + round(CONFIRM_S * 1000)
        ask = ToolAsk(stream.sid, stream.conv, number, call.name[:64], args, left, until_ms)
        until = core.clock() + CONFIRM_S
        question = Question(context.tenant, context.user, ask, until, core.loop.create_future())
        self._open[number] = question
        self._asked[question.user] += 1
        self._tell(question.user, ask)
        return question

    def _close(self, question: Question, settled: Settled) -> None:
        del self._open[question.ask.call]
        self._asked[question.user] -= 1
        if not self._asked[question.user]:
            del self._asked[question.user]
        self.outcomes[settled.name.lower()] += 1
        self._tell(question.user, ToolSettled(question.ask.sid, question.ask.call, int(settled)))

    def _tell(self, user: int, frame: Frame) -> None:
        # As replies, which are never dropped: there are few, and nothing would bring them back.
        encoded = Encoded(frame)
        for session in self._devices(user):
            session.outbox.reply(encoded.bytes_for(session))

    def _devices(self, user: int) -> "Iterator[Session]":
        """Yield the connections on which a user can be asked."""
        for session in self._core.hub.sessions_of(user):
            # One that signs in is told all that is open once it has its welcome.
            if session.caps & _CONFIRM and session.state is not State.ATTACHING:
                yield session


def preview(args: str) -> tuple[str, int]:
    """Return the beginning of a tool's arguments as they may be shown, and how much was cut.

    Characters that cannot be seen are escaped as in JSON, so that none can make the rest look
    like something else, and so that lone surrogates have a form at all.
    """
    with suppress(ValueError, RecursionError):  # not JSON: shown as it is
        args = json.dumps(json.loads(args), ensure_ascii=False)  # some models escape all Chinese
    pieces: list[str] = []
    room = ARGS_CHARS
    for char in args:
        piece = char if char.isprintable() else json.dumps(char)[1:-1]
        room -= len(piece)
        if room < 0:
            break
        pieces.append(piece)
    return "".join(pieces), len(args) - len(pieces)
