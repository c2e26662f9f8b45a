"""What a model is asked: persona, history, summary and memories of one turn, read and joined."""

from typing import TYPE_CHECKING, Final, NamedTuple

from ai_bridge.context import prompt_budget
from ai_bridge.speaker import stops_for
from ai_bridge.turn import Turn
from ai_bridge.types import ChatMessage, GenParams, Recall, Role, TurnRequest
from protocol.codes import ConvKind, GenMode, MsgKind
from protocol.rows import GenOpt, Msg, User
from server.directory import Conversation
from server.summaries import SummaryNeed
from storage.branches import as_chosen
from storage.memories import PairState, pair_state
from storage.messages import history
from storage.ops import Op
from storage.people import get_users
from storage.rows import NewTurn
from storage.summaries import StoredSummary, get_summary

if TYPE_CHECKING:
    from server.core import Core

MIN_ROWS: Final = 40
PARTNER_ROWS: Final = 100
"""What the demo partner looks at: it remembers more than a model is shown."""
MAX_ROWS: Final = 1000
GO_ON: Final = "(Please continue where you stopped.)"


class Extra(NamedTuple):
    """What a request adds to the one turn that it asks for: instructions and stop words."""

    system: str = ""
    stop: tuple[str, ...] = ()


NO_EXTRA: Final = Extra()


class Wish(NamedTuple):
    """A stored turn that is to be asked: where, which, about which message, and how."""

    entry: Conversation
    turn: NewTurn
    ask: int
    opt: GenOpt | None
    extra: Extra = NO_EXTRA


class TurnRequests:
    """Builds requests. Holds nothing; what it reads is cached by others or is fresh."""

    def __init__(self, core: "Core") -> None:
        self._core = core

    async def build(self, wish: Wish) -> TurnRequest:
        """Return the request of a turn.

        Raises:
            StorageError: the store cannot be read.
        """
        core, entry, new = self._core, wish.entry, wish.turn
        row = core.personas.get(new.persona)
        opt = _merged(wish.opt, entry.row.opt, row.opt if row else None)
        found = await core.store.read(_read_talk(wish, self._rows_for(opt), core.config.ai.memory))
        summary, rows, people = found.summary, found.rows, found.people
        asker = people.get(new.user)
        user_name = "" if asker is None else asker.nick or asker.name or ""
        added = "\n\n".join(p for p in (entry.row.prompt, wish.extra.system) if p)
        persona = await core.cards.spec(new.persona, row, user_name, added)
        # What was told in private is not for the ears of a room.
        room = entry.id if len(entry.members) > 1 else 0
        off = found.pair is not None and found.pair.off
        others = self._others(wish, people)
        memories: tuple[str, ...] = ()
        if found.pair is not None:
            memories = await core.memories.recall(
                new.user, new.persona, _question(rows), only_conv=room, state=found.pair
            )
        return TurnRequest(
            turn_id=new.sid,
            tenant=new.tenant,
            user=new.user,
            conv=entry.id,
            persona=persona,
            history=tuple(self._spoken(wish, rows, people)),
            params=GenParams(
                model=opt.model,
                temperature=opt.temperature,
                top_p=opt.top_p,
                max_tokens=opt.max_tokens,
                stop=(*wish.extra.stop, *stops_for(others)),
                history=opt.history,
            ),
            request_id=f"turn-{new.sid}",
            lang=next((s.lang for s in core.hub.sessions_of(new.user)), ""),
            summary="" if summary is None else summary.text,
            memories=memories,
            speakers=others,
            learn_seq=0 if off else _own_seq(wish, rows),
            recall=Recall.NONE if off else Recall.HERE if room else Recall.ALL,
        )

    def summary_need(self, turn: Turn, floor: int) -> SummaryNeed:
        """Return what decides whether the talk of an answered turn has grown too long."""
        request = turn.request
        ai = self._core.config.ai
        window = min(
            (m.window_tokens for m in self._core.bridge.models()), default=ai.window_tokens
        )
        answer = request.params.max_tokens or ai.answer_tokens
        shown = request.params.history
        return SummaryNeed(
            conv=request.conv,
            persona=request.persona.id,
            tenant=request.tenant,
            user=request.user,
            floor=floor,
            model=request.params.model,
            budget_tokens=prompt_budget(window, answer, request.persona),
            shown=ai.history if shown is None else shown,
        )

    def _rows_for(self, opt: GenOpt) -> int:
        """Return how many messages to read: twice what is shown, as some are not to be shown."""
        ai = self._core.config.ai
        shown = ai.history if opt.history is None else opt.history
        least = MIN_ROWS if self._core.has_model else PARTNER_ROWS
        return min(max(least, 2 * shown), MAX_ROWS)

    def _spoken(self, wish: Wish, rows: list[Msg], people: dict[int, User]) -> list[ChatMessage]:
        alone = wish.entry.kind is ConvKind.AI and len(wish.entry.members) == 1
        spoken: list[ChatMessage] = []
        for row in rows:
            if not row.text or row.kind == MsgKind.SYSTEM:
                continue
            if row.kind == MsgKind.AI_REPLY:
                other = None if row.sender == wish.turn.persona else self._name_of(row.sender)
                spoken.append(ChatMessage(Role.ASSISTANT, row.text, other))
                continue
            user = None if alone else people.get(row.sender)
            name = None if user is None else user.nick or user.name
            spoken.append(ChatMessage(Role.USER, row.text, name))
        if wish.turn.mode == GenMode.CONTINUE:
            spoken.append(ChatMessage(Role.USER, GO_ON))
        return spoken

    def _name_of(self, persona: int) -> str | None:
        row = self._core.personas.get(persona)
        return row.name if row is not None else None

    def _others(self, wish: Wish, people: dict[int, User]) -> tuple[str, ...]:
        """Return who else speaks in a group: an answer must not speak for them."""
        if wish.entry.kind is not ConvKind.GROUP:
            return ()
        voices = self._core.rooms.voices(wish.entry)
        names = [voice.name for voice in voices if voice.id != wish.turn.persona]
        return (*names, *(user.nick or user.name or "" for user in people.values()))


class _Talk(NamedTuple):
    """What is read for a turn; `pair`: the state of the memories, None if none are wanted."""

    summary: StoredSummary | None
    rows: list[Msg]
    people: dict[int, User]
    pair: PairState | None


def _read_talk(wish: Wish, limit: int, memory: bool) -> Op[_Talk]:
    """Read all that a turn needs in one go: each way to the database and back costs its wait."""
    entry, new = wish.entry, wish.turn
    # The model sees no more than who asks: what it says could not be unsaid.
    floor = entry.floor(new.user)
    summary = yield from get_summary(entry.id, new.persona, floor)
    if summary is not None and 0 < wish.ask <= summary.upto_seq:
        summary = None  # an old question is asked again: the summary knows what came later
    if summary is not None:
        floor = max(floor, summary.upto_seq)
    rows = yield from _read_history(wish, limit, floor)
    speakers = {new.user}
    if entry.kind is not ConvKind.AI or len(entry.members) > 1:
        speakers |= {row.sender for row in rows if row.kind != MsgKind.AI_REPLY and row.sender}
    users = yield from get_users(sorted(speakers))
    pair = (yield from pair_state(new.user, new.persona)) if memory else None
    return _Talk(summary, rows, {user.id or 0: user for user in users}, pair)


def _read_history(wish: Wish, limit: int, floor: int) -> Op[list[Msg]]:
    mode = wish.turn.mode
    # In a group others have spoken since the question, and that matters to the answer.
    latest = wish.entry.kind is ConvKind.GROUP and mode == GenMode.REPLY
    before = 0 if latest else wish.ask + 1
    found, _ = yield from history(wish.entry.id, before, True, limit + 1, floor)
    rows = as_chosen(found)
    if mode == GenMode.REGENERATE:
        while rows and rows[-1].kind == MsgKind.AI_REPLY:
            rows.pop()
    return rows


def _own_seq(wish: Wish, rows: list[Msg]) -> int:
    """Return the number of the asker's own message that the model is shown last, 0 for none."""
    shown = [row for row in rows if row.text and row.kind != MsgKind.SYSTEM]
    if not shown or wish.turn.mode == GenMode.CONTINUE:
        return 0
    last = shown[-1]
    own = last.kind != MsgKind.AI_REPLY and last.sender == wish.turn.user
    return last.seq if own else 0


def _question(rows: list[Msg]) -> str:
    return next((row.text for row in reversed(rows) if row.kind != MsgKind.AI_REPLY), "")


def _merged(*options: GenOpt | None) -> GenOpt:
    """Return options where an earlier one wins, field by field."""
    merged = GenOpt()
    for name in GenOpt.__struct_fields__:
        for option in options:
            value = getattr(option, name) if option is not None else None
            if value is not None:
                setattr(merged, name, value)
                break
    return merged
