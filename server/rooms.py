"""Groups with personas: who speaks, one at a time (docs/architecture.md, rooms).

Whoever is mentioned has a turn stored with the message that calls it. Where the group is lively,
others are picked a moment after people stop writing. An answer begins when the one before it is
stored, so that each persona reads what the others said.
"""

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Final

from ai_bridge.errors import BridgeError
from ai_bridge.group import MAX_ANSWERS, TurnTaker, Voice, mentioned
from protocol.codes import Code, TalkMode
from protocol.rows import GenOpt
from server.directory import Conversation
from storage.errors import StorageError
from storage.rows import NewTurn, TurnRow
from storage.turns import create_turn

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.rooms")

DEBOUNCE_S: Final = 1.2
"""Quiet time before personas that nobody called are picked."""
MAX_WAITING: Final = 8
"""Called answers that wait in one room; beyond it they end as busy."""
MAX_ROOMS: Final = 10_000
"""Rooms remembered; of idle ones the longest unused are forgotten."""
HEARD_CHARS: Final = 4_000


class Room:
    """One group's floor and who is to speak.

    Attributes:
        holder: stream whose answer is being made, 0 when the floor is free.
        waiting: called answers that have a turn and wait for the floor.
        chosen: personas that are to speak next and have no turn yet.
        payer, ask, opt, round: for the next turn: who is charged, what it answers, how it is
            asked, and how many answers among personas went before it.
        last, spoke: who spoke last, and when each persona did, counted in answers.
    """

    __slots__ = (
        "answers",
        "ask",
        "chosen",
        "heard",
        "holder",
        "last",
        "opt",
        "payer",
        "round",
        "spoke",
        "timer",
        "waiting",
    )

    def __init__(self) -> None:
        self.holder = 0
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.chosen: deque[int] = deque()
        self.payer = 0
        self.ask = 0
        self.opt: GenOpt | None = None
        self.round = 0
        self.last = 0
        self.answers = 0
        self.spoke: dict[int, int] = {}
        self.heard = ""
        self.timer: asyncio.TimerHandle | asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return not (self.holder or self.waiting or self.chosen or self.timer)

    def hush(self) -> None:
        """Drop what has not begun and was not called for."""
        self.chosen.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Rooms:
    """Owns the floors of this process's groups.

    Attributes:
        taker, debounce_s: may be changed at any time.
        picked, chained, refused: answers begun uncalled, answers among personas, answers that
            found too many waiting.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.taker = TurnTaker(random.Random())
        self.debounce_s = DEBOUNCE_S
        self._rooms: dict[int, Room] = {}
        self.picked = 0
        self.chained = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def voices(self, entry: Conversation) -> list[Voice]:
        """Return the personas of a group; whoever is in it may talk with all of them."""
        ids = dict.fromkeys((entry.row.persona or 0, *(entry.row.personas or ())))
        known = (self._core.personas.get(persona) for persona in ids)
        return [
            Voice(row.id or 0, row.name or "", self._core.cards.talk(row.id or 0))
            for row in known
            if row is not None and not row.deleted
        ]

    def called(self, entry: Conversation, text: str, ids: list[int] | None) -> list[int]:
        """Return which personas of the group a message calls, in order."""
        return mentioned(self.voices(entry), text, ids or ())

    def heard(
        self,
        entry: Conversation,
        user: int,
        seq: int,
        text: str,
        ids: list[int] | None,
        begun: int,
        opt: GenOpt | None,
    ) -> None:
        """A person wrote something: it goes before all that has not begun.

        Args:
            begun: the persona whose turn was stored with the message, 0 if it called nobody.
        """
        voices = self.voices(entry)
        if not voices:
            return
        room = self._room(entry.id)
        waited = room.timer is not None
        room.hush()
        room.payer, room.ask, room.opt, room.round = user, seq, opt, 0
        mode = TalkMode(entry.row.talk or 0)
        if begun:
            others = [persona for persona in mentioned(voices, text, ids or ()) if persona != begun]
            room.chosen.extend(others[: MAX_ANSWERS - 1])
            self._core.spawn(self._ask_talk(voices))
        elif mode is not TalkMode.CALLED:
            room.heard = (f"{room.heard}\n{text}" if waited else text)[-HEARD_CHARS:]
            room.timer = self._core.loop.call_later(self.debounce_s, self._be_quiet, entry.id)

    async def enter(self, conv: int, sid: int) -> None:
        """Wait for the floor; whoever was let in or called off must `leave`.

        Raises:
            BridgeError: BUSY, too many wait in this room already.
        """
        room = self._room(conv)
        if room.holder in (0, sid):
            room.holder = sid
            return
        if len(room.waiting) >= MAX_WAITING:
            self.refused += 1
            text = "Many answers are waiting in this conversation. Ask again when some are done."
            raise BridgeError(Code.BUSY, text, 5000)
        future = room.waiting[sid] = self._core.loop.create_future()
        await future

    def call_off(self, conv: int, sid: int) -> None:
        """A waiting answer is not wanted any more: its `enter` returns at once."""
        room = self._rooms.get(conv)
        future = room.waiting.pop(sid, None) if room is not None else None
        if future is not None:
            future.set_result(None)

    def leave(self, entry: Conversation, sid: int, persona: int, said: str, seq: int) -> None:
        """An answer is over: the next one may begin.

        Args:
            said: its text if it came to a good end, else "": nobody answers broken words.
        """
        room = self._rooms.get(entry.id)
        if room is None or room.holder != sid:
            return
        room.holder = 0
        if said:
            room.answers += 1
            room.spoke[persona] = room.answers
            room.last = persona
        if room.waiting:
            room.holder = following = next(iter(room.waiting))
            room.waiting.pop(following).set_result(None)
        elif room.chosen:
            self._begin_next(entry, room)
        elif said and seq:
            self._follow(entry, room, persona, said, seq)

    def _follow(self, entry: Conversation, room: Room, speaker: int, said: str, seq: int) -> None:
        mode = TalkMode(entry.row.talk or 0)
        voices = self.voices(entry)
        persona = self.taker.follow(voices, mode, said, speaker=speaker, round=room.round)
        if persona:
            room.round += 1
            room.ask = seq
            room.chosen.append(persona)
            self.chained += 1
            self._begin_next(entry, room)

    def _be_quiet(self, conv: int) -> None:
        """People have stopped writing."""
        self._rooms[conv].timer = self._core.spawn(self._pick(conv))

    async def _pick(self, conv: int) -> None:
        """Let whoever feels like it answer. Cancelled when a person writes."""
        room = self._rooms[conv]
        entry = self._core.directory.peek(conv)
        if entry is not None:
            await self._ask_talk(self.voices(entry))
            entry = self._core.directory.peek(conv)
        room.timer = None
        if entry is None or entry.row.deleted:
            return
        mode = TalkMode(entry.row.talk or 0)
        voices = self.voices(entry)
        picks = self.taker.answer(voices, mode, room.heard, last=room.last, spoke=room.spoke)
        self.picked += len(picks)
        room.chosen.extend(picks)
        if not room.holder and not room.waiting:
            self._begin_next(entry, room)

    async def _ask_talk(self, voices: list[Voice]) -> None:
        try:
            await self._core.cards.ask_talk(voice.id for voice in voices)
        except StorageError as exc:
            log.warning("room.cards_unread", extra={"reason": str(exc)})

    def _begin_next(self, entry: Conversation, room: Room) -> None:
        if room.chosen:
            new = self._core.turns.new(entry.tenant, room.payer, room.chosen.popleft())
            room.holder = new.sid
            self._core.spawn(self._begin(entry, new, room.ask, room.opt))

    async def _begin(self, entry: Conversation, new: NewTurn, ask: int, opt: GenOpt | None) -> None:
        """Store a turn and start it; the floor is its own already."""
        core = self._core
        cid = b"roomturn" + new.sid.to_bytes(8, "big")

        def publish(result: tuple[TurnRow, bool]) -> None:
            core.turns.begin(core.directory.peek(entry.id) or entry, new, ask, opt)

        try:
            await core.store.change(
                (), lambda tx: create_turn(tx, new, entry.id, ask, cid), publish=publish
            )
        except StorageError as exc:
            log.warning("room.turn_lost", extra={"conv": entry.id, "reason": str(exc)})
            self.leave(entry, new.sid, new.persona, "", 0)

    def _room(self, conv: int) -> Room:
        room = self._rooms.pop(conv, None)
        if room is None:
            room = Room()
            if len(self._rooms) >= MAX_ROOMS:
                self._forget_idle()
        self._rooms[conv] = room  # used last, forgotten last
        return room

    def _forget_idle(self) -> None:
        idle = [conv for conv, room in self._rooms.items() if room.idle]
        for conv in idle[: MAX_ROOMS // 10]:
            del self._rooms[conv]
