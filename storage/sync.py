"""Catching up after an absence (docs/protocol.md §5).

One read in one snapshot: heads and rows of a feed come from the same moment. What is read grows
with what changed, never with the size of the account.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from protocol.envelopes import (
    DevicePush,
    MyConvPush,
    PersonaPush,
    ProfilePush,
    UserFeedItem,
)
from protocol.rows import ConvDelta, Member, Msg, Read, Sync
from storage.conv_rows import (
    MEMBER_COLUMNS,
    StoredConv,
    StoredMember,
    select_conversations,
    select_mine,
)
from storage.devices import changed_devices
from storage.messages import COLUMNS, message_from
from storage.ops import Op, Row, Statement, in_list
from storage.people import user_from
from storage.personas import changed_personas
from storage.rows import SyncResult

_SINCE_SLACK_MS: Final = 60_000
"""Clocks of several machines may differ by this much."""

_UNLISTED: Final = 50
"""At most this many conversations that the client did not name; older ones by `conv_list`."""

_RECEIPT_MEMBERS: Final = 50
"""Read marks of others are told in conversations of up to this many members."""

_ME_ITEMS: Final = 500
_ROWS_PER_STATEMENT: Final = 400
_CONVS_PER_STATEMENT: Final = 32

_M_COLUMNS: Final = ", ".join(f"m.{name}" for name in COLUMNS.split(", "))

_MIN_BUDGET: Final = 4_096
_ITEM_BYTES: Final = 60
_MSG_BYTES: Final = 48
_MEMBER_BYTES: Final = 40
_READ_BYTES: Final = 24
_CONV_BYTES: Final = 96


class _Wanted(NamedTuple):
    """One conversation to answer for: `known` is -1 if the client has nothing usable of it."""

    conv: StoredConv
    mine: StoredMember
    known: int

    @property
    def id(self) -> int:
        return self.mine.conv

    @property
    def rev(self) -> int:
        return self.conv.row.rev or 0


def sync(
    user: int,
    tenant: int,
    q: Sync,
    *,
    max_convs: int = _UNLISTED,
    row_limit: int = 200,
    newest: int = 30,
) -> Op[SyncResult]:
    """Answer a Sync for user. Run it with snapshot=True.

    Conversations come most recently active first, as many as `q.budget` bytes hold (always at
    least one), and `more` asks for the rest. A conversation with more than `row_limit` changed
    rows, or too large for the budget, comes as gap with its newest messages.

    Args:
        max_convs: most conversations beside those the client names.
        newest: messages of a conversation that comes as gap.
    """
    budget = max(q.budget, _MIN_BUDGET)
    rows = yield Statement("SELECT rev FROM feed WHERE id = ?", (user,))
    me_head = rows[0][0] if rows else 0
    known = {head.conv: head.rev for head in q.heads}
    fresh = q.me_rev == 0 or q.me_rev > me_head
    wanted = yield from _wanted_conversations(user, tenant, q, known, max_convs)
    me_budget = budget // 4
    writer = _Answer(budget - me_budget, first=not q.since and not q.heads)
    for part in _portions(wanted, row_limit):
        if writer.full:
            writer.leave_out()
            break
        yield from _answer_portion(writer, part, row_limit, newest)
    listed = {w.id for w in writer.answered if w.known < 0}
    me, me_rev = yield from _changed_me(user, 0 if fresh else q.me_rev, me_head, me_budget)
    told = {item.my.conv for item in me if isinstance(item, MyConvPush)}
    me += yield from _views(user, listed - told)
    return SyncResult(me_rev, me, writer.deltas, writer.cut or me_rev < me_head)


# which conversations


def _wanted_conversations(
    user: int, tenant: int, q: Sync, known: dict[int, int], max_convs: int
) -> Op[list[_Wanted]]:
    """Return what must be answered, most recently active first."""
    unlisted: Sequence[Row] = ()
    if q.since or not known:
        # The newest that were active after `since`, whether listed or not; those that are
        # listed must not crowd out the others.
        since = q.since - _SINCE_SLACK_MS if q.since else -1
        rows = yield Statement(
            "SELECT f.id FROM member AS m JOIN feed AS f ON f.id = m.conv"
            " JOIN conversation AS c ON c.id = m.conv"
            " WHERE m.user = ? AND m.role > 0 AND m.hidden = 0 AND c.deleted = 0"
            f"{'' if q.since else ' AND m.archived = 0'} AND f.updated > ?"
            " ORDER BY f.updated DESC, f.id DESC LIMIT ?",
            (user, since, max_convs + len(known)),
        )
        unlisted = [row for row in rows if row[0] not in known][:max_convs]
    newer: Sequence[Row] = ()
    if known:
        marks, args = in_list(known)
        newer = yield Statement(f"SELECT id, rev FROM feed WHERE id IN ({marks})", args)
    ids = [row[0] for row in newer if row[1] != known[row[0]]] + [row[0] for row in unlisted]
    if not ids:
        return []
    mine = yield from select_mine(user, ids)
    if not mine:
        return []
    convs = yield from select_conversations(conv for conv in ids if conv in mine)
    wanted = []
    for conv, stored in convs.items():
        if mine[conv].role and stored.tenant == tenant:
            rev = known.get(conv, -1)
            # A head above our own is from before a restore: nothing of it can be trusted.
            wanted.append(_Wanted(stored, mine[conv], rev if rev <= (stored.row.rev or 0) else -1))
    wanted.sort(key=lambda w: (w.conv.row.updated or 0, w.id), reverse=True)
    return wanted


def _portions(wanted: Sequence[_Wanted], row_limit: int) -> Iterable[list[_Wanted]]:
    """Cut into portions that read a bounded number of rows per statement."""
    part: list[_Wanted] = []
    rows = 0
    for item in wanted:
        # Each changed row took a revision, so the distance bounds their number.
        expected = row_limit if item.known < 0 else min(item.rev - item.known, row_limit)
        if part and (rows + expected > _ROWS_PER_STATEMENT or len(part) >= _CONVS_PER_STATEMENT):
            yield part
            part, rows = [], 0
        part.append(item)
        rows += expected
    if part:
        yield part


# what of them


class _Answer:
    """Collects deltas until the budget is used up.

    Args:
        first: a first visit. It has no later round for what does not fit: what is left out
            loads through `conv_list`.
    """

    def __init__(self, budget: int, *, first: bool) -> None:
        self._budget = budget
        self._left = budget
        self._first = first
        self.deltas: list[ConvDelta] = []
        self.answered: list[_Wanted] = []
        self.full = False
        self.cut = False

    def add(self, wanted: _Wanted, delta: ConvDelta) -> None:
        if self.full:
            self.leave_out()
            return
        size = _delta_bytes(delta)
        if size > self._left:
            if self.deltas:
                self.full = True
                self.leave_out()
                return
            # Alone too large: the newest messages that fit.
            delta = _shrink(wanted, delta, self._budget)
            size = _delta_bytes(delta)
        self._left -= size
        self.deltas.append(delta)
        self.answered.append(wanted)
        self.full = self._left <= 0

    def leave_out(self) -> None:
        """Note that something does not fit any more."""
        self.cut = not self._first


def _answer_portion(
    answer: _Answer, part: Sequence[_Wanted], row_limit: int, newest: int
) -> Op[None]:
    changed = yield from _changed_messages(part, row_limit)
    members = yield from _members(part, row_limit)
    gaps = [
        w
        for w in part
        if w.known < 0 or len(changed[w.id]) + len(members[w.id].changed) > row_limit
    ]
    latest = yield from _newest_messages(gaps, newest)
    in_gap = {w.id for w in gaps}
    for w in part:
        gap = w.id in in_gap
        mates = members[w.id]
        row = w.conv.row if gap or w.conv.row_rev > w.known else None
        answer.add(
            w,
            ConvDelta(
                w.id,
                w.rev,
                gap,
                latest[w.id] if gap else changed[w.id],
                mates.present if gap else mates.changed,
                mates.reads,
                row,
            ),
        )


def _changed_messages(part: Sequence[_Wanted], row_limit: int) -> Op[dict[int, list[Msg]]]:
    """Return rows with rev above what is known, by seq; more than the limit if there are more.

    New messages are among the last ones: each took a revision, so the distance bounds their
    number. Older ones that changed since are in `message_change`.
    """
    one = (
        f"SELECT conv, {COLUMNS} FROM message WHERE conv = ? AND seq > ? AND rev > ?"
        f" UNION ALL SELECT * FROM (SELECT m.conv, {_M_COLUMNS} FROM message_change AS c"
        " JOIN message AS m ON m.conv = c.conv AND m.seq = c.seq"
        " WHERE c.conv = ? AND c.rev > ? AND c.seq > ? ORDER BY c.rev LIMIT ?) AS t{i}"
    )
    picks: list[Sequence[int]] = []
    for w in part:
        if w.known >= 0:
            news = min(w.rev - w.known, row_limit + 1)
            floor = w.mine.floor
            first = max(floor, (w.conv.row.last_seq or 0) - news)
            picks.append((w.id, first, w.known, w.id, w.known, floor, row_limit + 1))
    return (yield from _read_each(one, picks, part))


def _newest_messages(part: Sequence[_Wanted], newest: int) -> Op[dict[int, list[Msg]]]:
    one = (
        f"SELECT * FROM (SELECT conv, {COLUMNS} FROM message WHERE conv = ? AND seq > ?"
        " ORDER BY seq DESC LIMIT ?) AS t{i}"
    )
    return (yield from _read_each(one, [(w.id, w.mine.floor, newest) for w in part], part))


def _read_each(
    one: str, picks: Sequence[Sequence[int]], part: Sequence[_Wanted]
) -> Op[dict[int, list[Msg]]]:
    """Read messages of several conversations with one statement, each with its own bounds."""
    found: dict[int, dict[int, Msg]] = {w.id: {} for w in part}
    if picks:
        sql = " UNION ALL ".join(one.replace("{i}", str(i)) for i in range(len(picks)))
        rows = yield Statement(sql, [value for args in picks for value in args])
        for row in rows:
            found[row[0]].setdefault(row[1], message_from(row[1:]))
    return {conv: [msgs[seq] for seq in sorted(msgs)] for conv, msgs in found.items()}


class _Mates(NamedTuple):
    """Members of one conversation: those that changed, those present, and their read marks."""

    changed: list[Member]
    present: list[Member]
    reads: list[Read]


def _members(part: Sequence[_Wanted], row_limit: int) -> Op[dict[int, _Mates]]:
    """Read members. Of a conversation with more than the limit only those that changed."""
    ids = [w.id for w in part]
    marks, args = in_list(ids)
    counted = yield Statement(
        f"SELECT conv, COUNT(*) FROM member WHERE conv IN ({marks}) AND role > 0 GROUP BY conv",
        args,
    )
    counts = {row[0]: row[1] for row in counted}
    small = [w for w in part if counts.get(w.id, 0) <= row_limit]
    rows: list[Row] = []
    if small:
        marks, args = in_list(w.id for w in small)
        rows += yield Statement(
            f"SELECT {MEMBER_COLUMNS} FROM member AS m WHERE m.conv IN ({marks})"
            " ORDER BY m.conv, m.user LIMIT 20000",
            args,
        )
    for w in part:
        if counts.get(w.id, 0) > row_limit and w.known >= 0:
            rows += yield Statement(
                f"SELECT {MEMBER_COLUMNS} FROM member AS m WHERE m.conv = ? AND m.rev > ?"
                " ORDER BY m.rev LIMIT ?",
                (w.id, w.known, row_limit + 1),
            )
    known = {w.id: w.known for w in part}
    mates = {w.id: _Mates([], [], []) for w in part}
    for row in rows:
        stored = StoredMember(row)
        mate = mates[stored.conv]
        if stored.rev > known[stored.conv]:
            mate.changed.append(stored.member())
        if stored.role and counts.get(stored.conv, 0) <= row_limit:
            mate.present.append(stored.member())
            if counts[stored.conv] <= _RECEIPT_MEMBERS:
                mate.reads.append(Read(stored.user, stored.read, stored.recv))
    return mates


# how large


def _text_bytes(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _msg_bytes(msg: Msg) -> int:
    extra = 0 if msg.x is None else len(msgspec.msgpack.encode(msg.x))
    return _MSG_BYTES + _text_bytes(msg.text) + extra


def _delta_bytes(delta: ConvDelta) -> int:
    size = sum(map(_msg_bytes, delta.msgs))
    size += len(delta.members) * _MEMBER_BYTES + len(delta.reads) * _READ_BYTES
    row = delta.row
    if row is not None:
        size += _CONV_BYTES + sum(map(_text_bytes, (row.title, row.notice, row.prompt)))
    return size + _CONV_BYTES


def _shrink(wanted: _Wanted, delta: ConvDelta, budget: int) -> ConvDelta:
    """Turn a delta into a gap with the newest messages that fit."""
    bare = ConvDelta(delta.conv, delta.rev, True, [], delta.members, delta.reads, wanted.conv.row)
    left = budget - _delta_bytes(bare)
    for msg in reversed(delta.msgs):
        left -= _msg_bytes(msg)
        if left < 0:
            break
        bare.msgs.insert(0, msg)
    return bare


# the user's own feed


def _changed_me(
    user: int, known: int, head: int, budget: int
) -> Op[tuple[list[UserFeedItem], int]]:
    """Return what changed in order of rev, and how far that is (head: everything).

    For a client that knows nothing the views of conversations are left out: it gets those of
    the conversations in this answer, and the others with `conv_list`.
    """
    if known == head and known:
        return [], head
    rows = yield Statement(
        "SELECT id, name, nick, avatar, bio, kind, persona, rev FROM user WHERE id = ? AND rev > ?",
        (user, known or -1),
    )
    items: list[UserFeedItem] = [ProfilePush(row[7], user_from(row)) for row in rows]
    personas = yield from changed_personas(user, known, _ME_ITEMS)
    items += [PersonaPush(persona.rev or 0, persona) for persona in personas]
    found = yield from changed_devices(user, known, _ME_ITEMS)
    items += [DevicePush(rev, device) for rev, device in found]
    views: Sequence[Row] = ()
    if known:
        views = yield Statement(
            f"SELECT {MEMBER_COLUMNS} FROM member AS m WHERE m.user = ? AND m.my_rev > ?"
            " ORDER BY m.my_rev LIMIT ?",
            (user, known, _ME_ITEMS),
        )
        items += [MyConvPush(m.my_rev, m.mine()) for m in map(StoredMember, views)]
    items.sort(key=lambda item: item.rev)
    full = max(len(personas), len(found), len(views)) >= _ME_ITEMS
    fitting = _fit_items(items, budget)
    if len(fitting) == len(items) and not full:
        return items, head
    # Every list was read in order of rev, so these are complete up to the last one's rev.
    return fitting, fitting[-1].rev


def _fit_items(items: Sequence[UserFeedItem], budget: int) -> list[UserFeedItem]:
    """Return the first items within the bounds, at least enough to get on (a rev above 0)."""
    fitting: list[UserFeedItem] = []
    for item in items[:_ME_ITEMS]:
        budget -= _ITEM_BYTES
        if isinstance(item, PersonaPush):
            budget -= _text_bytes(item.p.prompt) + _text_bytes(item.p.greeting)
        if budget < 0 and fitting and fitting[-1].rev:
            break
        fitting.append(item)
    return fitting


def _views(user: int, convs: Iterable[int]) -> Op[list[UserFeedItem]]:
    ids = sorted(convs)
    if not ids:
        return []
    mine = yield from select_mine(user, ids)
    return [MyConvPush(m.my_rev, m.mine()) for m in mine.values()]
