"""Compare what clients hold with what is stored, row by row."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec import Struct

from protocol.rows import Msg
from storage.messages import history
from storage.ops import Op, Statement
from storage.store import Store, StoreOptions

PAGE_ROWS: Final = 500


class Ack(NamedTuple):
    """What a client was told about one message of its own."""

    conv: int
    cid: bytes
    seq: int


class Shown(Struct, frozen=True):
    """The part of a row that every member must see alike."""

    seq: int
    rev: int
    ts: int
    sender: int
    kind: int
    text: str
    edited: int
    recalled: int


def shown(msg: Msg) -> Shown:
    """Return what members must agree on."""
    edited = (msg.x.edited or 0) if msg.x else 0
    recalled = (msg.x.recalled or 0) if msg.x else 0
    return Shown(msg.seq, msg.rev, msg.ts, msg.sender, msg.kind, msg.text, edited, recalled)


class View(NamedTuple):
    """What a client held of one conversation: the revision, the numbers in order, the rows."""

    rev: int
    seqs: list[int]
    messages: Mapping[int, Shown]


@dataclass
class Seen:
    """What one client saw and did until the end.

    Attributes:
        counts: what happened how often; some of it must not happen (`bench.smoke`).
        connects: sign-ins.
        views: by conversation.
    """

    user: int
    acks: list[Ack] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    connects: int = 0
    views: dict[int, View] = field(default_factory=dict)


@dataclass
class Stored:
    """One conversation read from the store directly.

    Attributes:
        cids: seq by (sender, cid).
    """

    rows: list[Shown]
    last_seq: int
    rev: int
    cids: dict[tuple[int, bytes], int]


@dataclass
class Verdict:
    """Differences found, by kind, with the first ones in words."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def differ(self, kind: str, where: str) -> None:
        """Note one difference."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= 5:
            self.examples.append(f"{kind}: {where}")


async def read_store(url: str, convs: Iterable[int]) -> tuple[dict[int, Stored], int]:
    """Return conversations as stored, and how many AI turns are not over."""
    store = await Store.open(StoreOptions(url=url, migrate=False))
    try:
        found = {conv: await _read_conversation(store, conv) for conv in convs}
        return found, await store.read(_unfinished_turns())
    finally:
        await store.close(5)


async def _read_conversation(store: Store, conv: int) -> Stored:
    rows: list[Shown] = []
    more = True
    while more:
        anchor = rows[-1].seq if rows else 0
        page, more = await store.read(history(conv, anchor, False, PAGE_ROWS, 0))
        rows += map(shown, page)
    last_seq, rev, cids = await store.read(_heads_and_cids(conv))
    return Stored(rows, last_seq, rev, cids)


def _heads_and_cids(conv: int) -> Op[tuple[int, int, dict[tuple[int, bytes], int]]]:
    heads = yield Statement("SELECT last_seq, rev FROM feed WHERE id = ?", (conv,))
    rows = yield Statement("SELECT sender, cid, seq FROM message WHERE conv = ?", (conv,))
    return heads[0][0], heads[0][1], {(row[0], bytes(row[1])): row[2] for row in rows}


def _unfinished_turns() -> Op[int]:
    rows = yield Statement("SELECT COUNT(*) FROM ai_turn WHERE status < 2", ())
    return int(rows[0][0])


def check_stored(conv: int, stored: Stored, verdict: Verdict) -> None:
    """The store itself: numbers without holes, revisions within the feed's and used once."""
    seqs = [row.seq for row in stored.rows]
    if seqs != list(range(1, stored.last_seq + 1)):
        verdict.differ("store holes", f"conversation {conv} has {len(seqs)} of {stored.last_seq}")
    revs = [row.rev for row in stored.rows]
    if len(set(revs)) != len(revs) or max(revs, default=0) > stored.rev:
        verdict.differ("store revisions", f"conversation {conv}")


def check_seen(who: str, seen: Seen, stored: Mapping[int, Stored], out: Verdict) -> int:
    """All that one client held and was told; return how many rows were compared."""
    check_acks(seen.user, seen.acks, stored, out)
    counts = seen.counts
    refused = sum(counts[name] for name in counts if name.startswith("refused "))
    if counts["sent"] != len(seen.acks) + refused:
        told = f"{len(seen.acks)} acknowledged and {refused} refused"
        out.differ("neither stored nor refused", f"{who} sent {counts['sent']}, {told}")
    rows = 0
    for conv, view in seen.views.items():
        if view.seqs != sorted(view.messages):
            out.differ("order", f"{who} in {conv}")
        if view.rev != stored[conv].rev:
            behind = f"{who} knows {conv} to {view.rev} of {stored[conv].rev}"
            out.differ("revisions missed", behind)
        rows += check_view(who, conv, view.messages, stored[conv], out)
    return rows


def check_view(who: str, conv: int, view: Mapping[int, Shown], stored: Stored, out: Verdict) -> int:
    """One client's view of one conversation; return how many rows were compared."""
    there = {row.seq: row for row in stored.rows}
    for seq in there.keys() - view.keys():
        out.differ("holes", f"{who} lacks {conv}/{seq}")
    for seq in view.keys() - there.keys():
        out.differ("not stored", f"{who} shows {conv}/{seq}")
    for seq in there.keys() & view.keys():
        mine, kept = view[seq], there[seq]
        if mine != kept:
            names = [n for n in Shown.__struct_fields__ if getattr(mine, n) != getattr(kept, n)]
            out.differ("rows differ", f"{who} at {conv}/{seq} in {', '.join(names)}")
    return len(view)


def check_acks(user: int, acks: Iterable[Ack], stored: Mapping[int, Stored], out: Verdict) -> int:
    """Everything acknowledged is stored once, where the client was told; return how many."""
    count = 0
    for ack in acks:
        count += 1
        found = stored[ack.conv].cids.get((user, ack.cid))
        if found is None:
            out.differ("acknowledged but lost", f"{ack.conv}/{ack.seq} of user {user}")
        elif found != ack.seq:
            out.differ("acknowledged elsewhere", f"{ack.conv}/{ack.seq} is stored as {found}")
    return count
