"""Rolling summaries of long talks, made in the background and never waited for.

A summary is kept per conversation and persona. It tells of all messages above its floor, so who
may see less of the conversation than that is not shown it; the next one is then made from the
higher floor, which everybody may see.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from ai_bridge.background import About
from ai_bridge.errors import BridgeError
from ai_bridge.summary import clean_summary, count_to_fold, fold_request, message_cost
from ai_bridge.types import ChatMessage, Role, TurnRequest
from protocol.codes import MsgKind
from protocol.rows import Msg
from storage.branches import as_chosen
from storage.errors import StorageError
from storage.ids import new_id
from storage.messages import history
from storage.ops import Op
from storage.people import get_users
from storage.store import Store
from storage.summaries import StoredSummary, conversation_rev, get_summary, save_summary

log = logging.getLogger("parlance.summaries")

Ask = Callable[[TurnRequest], Awaitable[str]]
"""Make one answer and return its text; raises when there is none."""

PAGE_ROWS: Final = 200
MAX_JOBS: Final = 4
CALLS_PER_JOB: Final = 4
"""A long talk is caught up with over several turns; each job does this much."""
PAUSE_S: Final = 30.0
MAX_PAUSE_S: Final = 3_600.0
MAX_PAUSED: Final = 10_000


class SummaryNeed(Struct, frozen=True, kw_only=True):
    """Who talks where, and how much of it a request can show.

    `floor`: the asker sees the messages above it only. `budget_tokens`, `shown`: what a request
    may cost, and how many earlier messages it shows at most.
    """

    conv: int
    persona: int
    tenant: int
    user: int
    budget_tokens: int
    shown: int
    floor: int = 0
    model: str | None = None


class SummaryStats(Struct):
    """Totals. `refused`: no place for another job; `waiting`: still pausing after a failure;
    `outdated`: a message changed while its summary was made, so that was thrown away."""

    started: int = 0
    folded: int = 0
    failed: int = 0
    refused: int = 0
    waiting: int = 0
    outdated: int = 0


class _Unread(NamedTuple):
    """What no summary tells of yet, as it is at revision `rev`."""

    base: StoredSummary
    rows: list[Msg]
    more: bool
    rev: int


class Summaries:
    """Owns the jobs that write summaries: one per conversation and persona, `max_jobs` in all.

    A failure harms nothing: the old summary stays, and the next turn after a pause tries again.

    Args:
        ask: makes the model's answer.
        spawn: runs a job as a task that somebody owns.
        persona_name: what a persona is called, "" if it is unknown.
        clock: seconds, monotonic.
        refused: tells what moderation refused, which is left out.
    """

    def __init__(
        self,
        store: Store,
        ask: Ask,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        persona_name: Callable[[int], str],
        *,
        clock: Callable[[], float] = time.monotonic,
        max_jobs: int = MAX_JOBS,
        refused: Callable[[str], bool] = lambda text: False,
    ) -> None:
        self._store = store
        self._ask = ask
        self._spawn = spawn
        self._persona_name = persona_name
        self._clock = clock
        self._max_jobs = max_jobs
        self._refused = refused
        self._jobs: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._paused: OrderedDict[tuple[int, int], tuple[int, float]] = OrderedDict()
        self.stats = SummaryStats()

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return len(self._jobs)

    def consider(self, need: SummaryNeed) -> bool:
        """Have the talk looked at and, if it has grown too long, folded; return if that began.

        Cheap and never waits; for the end of each turn.
        """
        key = (need.conv, need.persona)
        if key in self._jobs:
            return False
        if self._clock() < self._paused.get(key, (0, 0.0))[1]:
            self.stats.waiting += 1
            return False
        if len(self._jobs) >= self._max_jobs:
            self.stats.refused += 1
            return False
        self.stats.started += 1
        self._jobs[key] = self._spawn(self._work(key, need))
        return True

    async def close(self) -> None:
        """End the jobs under way; what they had not stored is made again another time."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    # the job

    async def _work(self, key: tuple[int, int], need: SummaryNeed) -> None:
        try:
            for _ in range(CALLS_PER_JOB):
                if not await self._fold_once(need):
                    break
        except (BridgeError, StorageError, EmptySummary) as error:
            self._pause(key, type(error).__name__)
        except Exception:
            log.exception("summary.crashed", extra={"conv": need.conv})
            self._pause(key, "crash")
        else:
            self._paused.pop(key, None)
        finally:
            self._jobs.pop(key, None)

    def _pause(self, key: tuple[int, int], reason: str) -> None:
        self.stats.failed += 1
        failures = self._paused.pop(key, (0, 0.0))[0] + 1
        pause_s = min(MAX_PAUSE_S, PAUSE_S * 2 ** min(failures - 1, 16))
        self._paused[key] = (failures, self._clock() + pause_s)
        while len(self._paused) > MAX_PAUSED:
            self._paused.popitem(last=False)
        log.warning("summary.failed", extra={"conv": key[0], "persona": key[1], "reason": reason})

    async def _fold_once(self, need: SummaryNeed) -> bool:
        """Fold once; return whether there may be more to fold."""
        unread = await self._store.read(_unread(need), snapshot=True)
        costs = [message_cost(text) for text in map(_text_of, unread.rows)]
        count = count_to_fold(
            costs, more=unread.more, budget_tokens=need.budget_tokens, shown=need.shown
        )
        if not count:
            return False
        folded = unread.rows[:count]
        text = await self._told(need, unread.base.text, folded)
        summary = StoredSummary(
            need.conv, need.persona, unread.base.floor_seq, folded[-1].seq, text
        )
        saved = await self._store.change(
            (need.conv,), lambda tx: save_summary(tx, summary, unread.rev)
        )
        if not saved:
            self.stats.outdated += 1
            return True
        self.stats.folded += 1
        return unread.more

    async def _told(self, need: SummaryNeed, previous: str, rows: list[Msg]) -> str:
        """Return the notes on what was said, "" only when nothing was.

        Raises:
            BridgeError: no answer.
            EmptySummary: nothing in it.
        """
        said = [row for row in as_chosen(rows) if _text_of(row)]
        spoken = await self._spoken([row for row in said if not self._refused(row.text)])
        if not spoken:
            return previous
        about = About(
            turn_id=new_id(),
            tenant=need.tenant,
            user=need.user,
            conv=need.conv,
            persona=need.persona,
        )
        request = fold_request(previous, spoken, about, need.model)
        text = clean_summary(await self._ask(request))
        if not text:
            raise EmptySummary
        return text

    async def _spoken(self, rows: Sequence[Msg]) -> list[ChatMessage]:
        people = {row.sender for row in rows if row.kind != MsgKind.AI_REPLY}
        users = await self._store.read(get_users(sorted(people))) if people else []
        names = {user.id: user.nick or user.name or "" for user in users}
        spoken: list[ChatMessage] = []
        for row in rows:
            if row.kind == MsgKind.AI_REPLY:
                name = self._persona_name(row.sender) or "Assistant"
                spoken.append(ChatMessage(Role.ASSISTANT, row.text, name))
            else:
                spoken.append(ChatMessage(Role.USER, row.text, names.get(row.sender) or "User"))
        return spoken


class EmptySummary(Exception):
    """The model answered with nothing."""


def _unread(need: SummaryNeed) -> Op[_Unread]:
    """Return the page behind the summary, or behind the floor if that tells of too much."""
    summary = yield from get_summary(need.conv, need.persona, need.floor)
    if summary is None:
        summary = StoredSummary(need.conv, need.persona, need.floor, need.floor, "")
    rev = yield from conversation_rev(need.conv)
    rows, more = yield from history(need.conv, summary.upto_seq, False, PAGE_ROWS, need.floor)
    return _Unread(summary, rows, more, rev)


def _text_of(row: Msg) -> str:
    """Return what a model is shown of a message, "" for nothing."""
    if row.kind == MsgKind.SYSTEM or (row.x is not None and row.x.off):
        return ""
    return row.text
