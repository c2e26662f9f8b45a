"""One user's view of everything, kept true by revisions (docs/protocol.md §4 and §5). No I/O.

Every feed has a revision that rises by one per change. What arrives in order is applied, what was
seen is dropped, what is early is held; a gap that stays is closed by a `sync`. So whatever is
lost, repeated or reordered on the way, the view ends equal to the store.
"""

from collections.abc import Iterable
from typing import Final

from clients.events import (
    ConvChanged,
    ConvGone,
    ConvReset,
    DevicesChanged,
    Event,
    Forgotten,
    MessageAdded,
    MessageChanged,
    PersonaChanged,
    ProfileChanged,
    ReadSeen,
)
from clients.views import ConvView, StampedRow
from protocol.envelopes import (
    ConvInfo,
    ConvPage,
    ConvPush,
    DevicePush,
    MemberPush,
    MsgPush,
    MyConvPush,
    PersonaPush,
    ProfilePush,
    Receipt,
    Skip,
    Synced,
)
from protocol.rows import Conv, ConvDelta, Device, Head, Msg, Persona, StreamPos, Sync, User

HELD_MAX: Final = 64
HOLD_S: Final = 0.5
HEADS_MAX: Final = 1000
BUDGET_BYTES: Final = 256 * 1024
UNKNOWN: Final = -1
ME: Final = 0

FeedItem = (
    MsgPush | ConvPush | MemberPush | Skip | MyConvPush | PersonaPush | ProfilePush | DevicePush
)


def feed_of(item: FeedItem) -> int:
    """Return the feed an item belongs to; 0 is the user's own."""
    if isinstance(item, MsgPush | ConvPush | MemberPush):
        return item.conv
    return item.feed if isinstance(item, Skip) else ME


class Cursor:
    """How far one feed is known, and what came too early.

    Attributes:
        known: last revision applied without a hole; UNKNOWN before the first sync.
        held: at most `HELD_MAX` early items by revision.
        due: when the gap must be closed by a sync; None without a gap.
        dropped: items not held because there were too many; a sync brings their effect.
    """

    __slots__ = ("asked", "dropped", "due", "held", "known")

    def __init__(self, known: int) -> None:
        self.known = known
        self.held: dict[int, FeedItem] = {}
        self.due: float | None = None
        self.dropped = 0
        self.asked = 0

    def offer(self, item: FeedItem, now: float) -> list[FeedItem]:
        """Return what can be applied now: nothing, or the item and what waited for it."""
        rev = item.rev
        if rev <= self.known:
            return []
        if rev == self.known + 1 and self.known != UNKNOWN:
            self.known = rev
            if not self.held:
                return [item]
            return [item, *self._drain(now)]
        if len(self.held) >= HELD_MAX and rev not in self.held:
            self.dropped += 1
            self.due = now
            return []
        self.held[rev] = item
        if self.known == UNKNOWN:
            self.due = now
        elif self.due is None:
            self.due = now + HOLD_S
        return []

    def jump(self, rev: int, now: float) -> list[FeedItem]:
        """A snapshot of revision `rev` was taken over; return the held items that follow it."""
        self.known = max(self.known, rev)
        for early in [early for early in self.held if early <= self.known]:
            del self.held[early]
        return self._drain(now)

    def unanswered(self, now: float) -> None:
        """A sync had nothing newer: what was held before it was asked for has no meaning."""
        for rev in [rev for rev in self.held if rev <= self.asked]:
            del self.held[rev]
        self.due = now + HOLD_S if self.held else None

    def _drain(self, now: float) -> list[FeedItem]:
        ready = []
        while (item := self.held.pop(self.known + 1, None)) is not None:
            self.known += 1
            ready.append(item)
        self.due = now + HOLD_S if self.held else None
        return ready


class Feeds:
    """All feeds of one signed-in user and the rows that they keep true.

    Times are seconds of any one monotonic clock. Methods that take what the server sent return
    the events that follow from it, in order.

    Attributes:
        convs: conversations by id.
        personas, devices, profile: from the user's own feed.
        epoch: which store the revisions belong to; 0 before the first sync.
        user: who is signed in; 0 before the first sign-in.
    """

    def __init__(self) -> None:
        self.convs: dict[int, ConvView] = {}
        self.personas: dict[int, StampedRow[Persona]] = {}
        self.devices: dict[bytes, StampedRow[Device]] = {}
        self.profile: StampedRow[User] | None = None
        self.epoch = 0
        self.user = 0
        self._since = 0
        self._cursors: dict[int, Cursor] = {ME: Cursor(0)}
        self._asked: dict[int, int] | None = None
        self._catching_up = False
        self._wanted = False
        self._gapped: set[int] = set()

    # what is known

    def known(self, feed: int) -> int:
        """Return the last revision of a feed applied without a hole; -1 when unknown."""
        cursor = self._cursors.get(feed)
        return UNKNOWN if cursor is None else cursor.known

    @property
    def held(self) -> int:
        """Items that wait for an earlier one, over all feeds."""
        return sum(len(cursor.held) for cursor in self._cursors.values())

    @property
    def syncing(self) -> bool:
        """True from `begin_sync` until its last part was taken over."""
        return self._asked is not None or self._catching_up

    # syncs

    def due(self) -> float | None:
        """Return when `begin_sync` must be called if nothing else arrives; None for never."""
        if self._asked is not None:
            return None
        if self._wanted or self._catching_up:
            return 0.0
        if not self._gapped:
            return None
        found = {f: c.due for f in self._gapped if (c := self._cursors.get(f)) is not None}
        dues = {feed: due for feed, due in found.items() if due is not None}
        self._gapped = set(dues)
        return min(dues.values(), default=None)

    def want_sync(self) -> None:
        """Ask for a sync although no gap is known: the server dropped pushes, or time passed."""
        self._wanted = True

    def begin_sync(self, streams: Iterable[StreamPos] = (), budget: int = BUDGET_BYTES) -> Sync:
        """Return the question to send; the next `finish_sync` takes its answer."""
        self._wanted = False
        by_need = sorted(
            (conv for conv in self.convs if conv in self._cursors),
            key=lambda conv: (not self._cursors[conv].held, -self.convs[conv].updated),
        )
        strangers = [f for f, c in self._cursors.items() if f != ME and f not in self.convs]
        feeds = (*strangers, *by_need)[:HEADS_MAX]
        asked = {feed: max(0, self._cursors[feed].known) for feed in feeds}
        asked[ME] = self._cursors[ME].known
        for feed in asked:
            cursor = self._cursors[feed]
            cursor.asked = max(cursor.held, default=0)
        self._asked = asked
        heads = [Head(feed, asked[feed]) for feed in feeds]
        # With heads and since 0, only what is listed would come: the rest of a first answer that
        # did not fit is asked for as what changed since the beginning.
        since = self._since or (1 if self._catching_up else 0)
        return Sync(asked[ME], since, heads, list(streams)[:16], budget)

    def abandon_sync(self) -> None:
        """The answer will not come: the connection is gone or the request failed."""
        self._asked = None
        self._catching_up = False

    def finish_sync(self, synced: Synced, now: float) -> list[Event]:
        """Take over the answer to the last `begin_sync`; call it again while `due()` is 0."""
        asked, self._asked = self._asked, None
        if asked is None:
            return []
        replaced = self.epoch not in (0, synced.epoch)
        self.epoch = synced.epoch
        if replaced or synced.me_rev < asked[ME]:
            return self._forget()
        self._catching_up = synced.more
        out: list[Event] = []
        for item in synced.me:
            self._apply(item, now, out)
        self._jump(ME, self._cursors[ME], synced.me_rev, now, out)
        answered = {ME}
        for delta in synced.convs:
            answered.add(delta.conv)
            self._take_delta(delta, asked.get(delta.conv, 0), now, out)
        if not synced.more:
            self._since = synced.now
            self._settle([feed for feed in asked if feed not in answered], now)
        return out

    def _settle(self, unanswered: list[int], now: float) -> None:
        for feed in unanswered:
            cursor = self._cursors.get(feed)
            if cursor is None:
                continue
            cursor.unanswered(now)
            if cursor.due is not None:
                self._gapped.add(feed)
            if cursor.known == UNKNOWN and not cursor.held:
                del self._cursors[feed]

    def _forget(self) -> list[Event]:
        """Drop every row and revision: they belong to a store that is no more."""
        self.convs.clear()
        self.personas.clear()
        self.devices.clear()
        self.profile = None
        self._cursors = {ME: Cursor(0)}
        self._gapped.clear()
        self._since = 0
        self._catching_up = False
        self._wanted = True
        return [Forgotten()]

    def _take_delta(self, delta: ConvDelta, asked: int, now: float, out: list[Event]) -> None:
        cursor = self._cursors.setdefault(delta.conv, Cursor(UNKNOWN))
        view = self._view(delta.conv)
        if delta.rev < asked:  # the store was restored from a backup
            cursor.known = UNKNOWN
            view.forget_rows()
            out.append(ConvReset(delta.conv))
        elif delta.gap and delta.rev >= cursor.known and view.seqs:
            view.forget_messages()
            out.append(ConvReset(delta.conv))
        for msg in delta.msgs:
            self._put(delta.conv, view, msg, out)
        if delta.row is not None:
            view.put_row(delta.row, delta.rev)
        if delta.gap:
            view.replace_members(delta.members, delta.rev)
        else:
            view.members_whole = view.members_whole or not asked
            for member in delta.members:
                view.put_member(member, delta.rev)
        view.put_reads(delta.reads)
        out.append(ConvChanged(delta.conv))
        self._jump(delta.conv, cursor, delta.rev, now, out)

    # pushes and replies

    def push(self, item: FeedItem, now: float) -> list[Event]:
        """Take an item of a feed: a push, or what an acknowledgement stands for."""
        feed = feed_of(item)
        cursor = self._cursors.get(feed)
        if cursor is None:
            cursor = self._cursors[feed] = Cursor(UNKNOWN)
        out: list[Event] = []
        ready = cursor.offer(item, now)
        if cursor.due is not None:
            self._gapped.add(feed)
        self._apply_all(ready, now, out)
        return out

    def add_messages(self, conv: int, msgs: Iterable[Msg]) -> list[Event]:
        """Take rows that were read apart from the feed, such as a page of history."""
        out: list[Event] = []
        view = self._view(conv)
        for msg in msgs:
            self._put(conv, view, msg, out)
        return out

    def add_info(self, info: ConvInfo, now: float) -> list[Event]:
        """Take a conversation as it was answered; an unknown feed starts there."""
        conv = info.row.id
        if conv is None:
            return []
        view = self._view(conv)
        view.put_my(info.my, 0)
        out: list[Event] = []
        self._start(conv, info.row, now, out)
        for member in info.members:
            view.put_member(member, 0)
        out.append(ConvChanged(conv))
        return out

    def add_list(self, page: ConvPage, now: float) -> list[Event]:
        """Take a page of the list of conversations; unknown feeds start there."""
        out: list[Event] = []
        for my in page.mine:
            if my.conv is not None:
                self._view(my.conv).put_my(my, 0)
        for row in page.rows:
            if row.id is not None:
                self._start(row.id, row, now, out)
                out.append(ConvChanged(row.id))
        return out

    def add_receipt(self, receipt: Receipt) -> list[Event]:
        """Take read cursors of others; they only grow."""
        view = self.convs.get(receipt.conv)
        if view is None:
            return []
        view.put_reads(receipt.reads)
        return [ReadSeen(receipt.conv)]

    def trim(self, conv: int, keep: int) -> None:
        """Let go of all but the newest `keep` messages; `Client.history` brings them back."""
        view = self.convs.get(conv)
        if view is not None:
            gone = view.seqs[: max(0, len(view.seqs) - keep)]
            del view.seqs[: len(gone)]
            for seq in gone:
                del view.messages[seq]

    # applying

    def _apply_all(self, items: Iterable[FeedItem], now: float, out: list[Event]) -> None:
        for item in items:
            self._apply(item, now, out)

    def _apply(self, item: FeedItem, now: float, out: list[Event]) -> None:
        if isinstance(item, MsgPush):
            msg = Msg(item.seq, item.rev, item.ts, item.sender, item.kind, item.text, item.x)
            self._put(item.conv, self._view(item.conv), msg, out)
        elif isinstance(item, ConvPush):
            if self._view(item.conv).put_row(item.row, item.rev):
                out.append(ConvChanged(item.conv))
        elif isinstance(item, MemberPush):
            if self._view(item.conv).put_member(item.m, item.rev):
                out.append(ConvChanged(item.conv))
        elif isinstance(item, MyConvPush):
            self._apply_my(item, now, out)
        elif not isinstance(item, Skip):
            self._apply_own(item, out)

    def _apply_my(self, item: MyConvPush, now: float, out: list[Event]) -> None:
        conv = item.my.conv or (item.row.id if item.row is not None else None)
        if conv is None:
            return
        view = self._view(conv)
        was_gone = view.role_gone
        view.put_my(item.my, item.rev)
        if view.role_gone:
            # Nothing is pushed from here on: coming back starts the feed anew.
            self._cursors.pop(conv, None)
            if not was_gone:
                out.append(ConvGone(conv))
            return
        if item.row is not None:
            self._start(conv, item.row, now, out)
        out.append(ConvChanged(conv))

    def _start(self, conv: int, row: Conv, now: float, out: list[Event]) -> None:
        """Take a row; a feed that was unknown begins at its revision."""
        rev = row.rev or 0
        cursor = self._cursors.get(conv)
        view = self._view(conv)
        if cursor is not None and cursor.known != UNKNOWN:
            view.put_row(row, rev)
            return
        if cursor is None:
            cursor = self._cursors[conv] = Cursor(UNKNOWN)
        # What is held from an earlier stay may have changed since, and nobody said so.
        view.forget_messages()
        view.forget_members()
        view.begun_seq = row.last_seq or 0
        view.put_row(row, rev)
        self._jump(conv, cursor, rev, now, out)

    def _jump(self, feed: int, cursor: Cursor, rev: int, now: float, out: list[Event]) -> None:
        ready = cursor.jump(rev, now)
        if cursor.due is not None:
            self._gapped.add(feed)
        self._apply_all(ready, now, out)

    def _apply_own(self, item: PersonaPush | ProfilePush | DevicePush, out: list[Event]) -> None:
        if isinstance(item, PersonaPush):
            key = item.p.id or 0
            held = self.personas.get(key)
            if held is None or item.rev > held.rev:
                self.personas[key] = StampedRow(item.rev, item.p)
                out.append(PersonaChanged(item.p))
        elif isinstance(item, ProfilePush):
            if self.profile is None or item.rev > self.profile.rev:
                self.profile = StampedRow(item.rev, item.u)
                out.append(ProfileChanged(item.u))
        else:
            device = item.d.device or b""
            known = self.devices.get(device)
            if known is None or item.rev > known.rev:
                self.devices[device] = StampedRow(item.rev, item.d)
                out.append(DevicesChanged())

    def _view(self, conv: int) -> ConvView:
        view = self.convs.get(conv)
        if view is None:
            view = self.convs[conv] = ConvView(conv)
        return view

    def _put(self, conv: int, view: ConvView, msg: Msg, out: list[Event]) -> None:
        if msg.sender == self.user:
            view.own_seq = max(view.own_seq, msg.seq)
        before = view.messages.get(msg.seq)
        if before is None:
            view.put_message(msg)
            out.append(MessageAdded(conv, msg))
        elif msg.rev >= before.rev and msg != before:
            view.put_message(msg)
            out.append(MessageChanged(conv, msg))
