"""A server of one user's feeds in memory: what `clients.feeds` must always end up equal to."""

from __future__ import annotations

import copy
import random
from typing import Any

from protocol import envelopes as e
from protocol.rows import Conv, ConvDelta, Member, Msg, MsgX, MyConv, Sync

ME = 1
GAP_ROWS = 6
NEWEST = 4
DELTAS_PER_ANSWER = 3


class ModelConv:
    """One conversation: a head, rows that remember the revision that changed them last."""

    def __init__(self, conv: int) -> None:
        self.id = conv
        self.rev = 0
        self.seq = 0
        self.messages: dict[int, Msg] = {}
        self.title = ""
        self.row_rev = 0
        self.members: dict[int, tuple[int, int]] = {ME: (1, 0)}
        self.inside = True
        self.archived = False
        self.my_rev = 0

    def row(self) -> Conv:
        return Conv(id=self.id, title=self.title, rev=self.rev, last_seq=self.seq, updated=self.rev)

    def my(self) -> MyConv:
        role = 1 if self.inside else 0
        return MyConv(conv=self.id, role=role, left=not self.inside, archived=self.archived)

    def bump(self) -> int:
        self.rev += 1
        return self.rev


class ModelServer:
    """Commits changes and says what would be pushed for each; answers syncs from one snapshot."""

    def __init__(self) -> None:
        self.epoch = 1
        self.now = 1_000_000
        self.me_rev = 0
        self.convs: dict[int, ModelConv] = {}
        self.cids: dict[bytes, tuple[int, int]] = {}

    # changes; each returns the pushes to the user, in order

    def create(self) -> list[Any]:
        conv = ModelConv(len(self.convs) + 1)
        self.convs[conv.id] = conv
        conv.members[ME] = (1, conv.bump())
        conv.row_rev = conv.rev
        return [self._my(conv, with_row=True)]

    def send(self, conv: ModelConv, sender: int, text: str, cid: bytes) -> tuple[e.Sent, list[Any]]:
        if cid in self.cids:
            at, seq = self.cids[cid]
            return e.Sent(1, at, seq, 0, self.convs[at].messages[seq].ts, True), []
        rev = conv.bump()
        conv.seq += 1
        self.now += 1
        x = MsgX(cid=cid) if sender == ME else None
        msg = Msg(conv.seq, rev, self.now, sender, 0, text, x)
        conv.messages[conv.seq] = msg
        self.cids[cid] = (conv.id, conv.seq)
        return e.Sent(1, conv.id, conv.seq, rev, self.now, False), [_push(conv.id, msg)]

    def edit(self, conv: ModelConv, seq: int, text: str) -> list[Any]:
        old = conv.messages[seq]
        msg = Msg(seq, conv.bump(), old.ts, old.sender, old.kind, text, old.x)
        conv.messages[seq] = msg
        return [_push(conv.id, msg)]

    def skip(self, conv: ModelConv) -> list[Any]:
        return [e.Skip(conv.id, conv.bump())]

    def rename(self, conv: ModelConv, title: str) -> list[Any]:
        conv.title = title
        conv.row_rev = conv.bump()
        return [e.ConvPush(conv.id, conv.rev, conv.row())]

    def set_member(self, conv: ModelConv, user: int, role: int) -> list[Any]:
        rev = conv.bump()
        conv.members[user] = (role, rev)
        return [e.MemberPush(conv.id, rev, Member(user=user, role=role))]

    def archive(self, conv: ModelConv) -> list[Any]:
        conv.archived = not conv.archived
        return [self._my(conv)]

    def remove_me(self, conv: ModelConv) -> list[Any]:
        conv.inside = False
        pushes = self.set_member(conv, ME, 0)
        return [*pushes, self._my(conv)]

    def readd_me(self, conv: ModelConv) -> list[Any]:
        conv.inside = True
        pushes = self.set_member(conv, ME, 1)
        return [*pushes, self._my(conv, with_row=True)]

    def restored_from(self, backup: ModelServer) -> ModelServer:
        """Return the server after its store was replaced by a backup."""
        restored = copy.deepcopy(backup)
        restored.epoch = self.epoch + 1
        restored.now = self.now
        return restored

    def _my(self, conv: ModelConv, with_row: bool = False) -> e.MyConvPush:
        self.me_rev += 1
        conv.my_rev = self.me_rev
        return e.MyConvPush(self.me_rev, conv.my(), conv.row() if with_row else None)

    # reads

    def sync(self, q: Sync) -> e.Synced:
        known = {head.conv: head.rev for head in q.heads}
        everything = q.since == 0 and not known
        deltas = []
        for conv in sorted(self.convs.values(), key=lambda c: -c.rev):
            if not conv.inside:
                continue
            if conv.id in known:
                if known[conv.id] != conv.rev:
                    deltas.append(self._delta(conv, known[conv.id]))
            elif everything or q.since:
                deltas.append(self._delta(conv, -1))
        more = len(deltas) > DELTAS_PER_ANSWER
        me = sorted(
            (
                e.MyConvPush(conv.my_rev, conv.my(), conv.row() if conv.inside else None)
                for conv in self.convs.values()
                if conv.my_rev > q.me_rev
            ),
            key=lambda item: item.rev,
        )
        now, answer = self.now, deltas[:DELTAS_PER_ANSWER]
        return e.Synced(0, self.epoch, self.me_rev, list(me), answer, [], more, now)

    def _delta(self, conv: ModelConv, known: int) -> ConvDelta:
        changed = [msg for msg in conv.messages.values() if msg.rev > known]
        gap = known < 0 or known > conv.rev or len(changed) > GAP_ROWS
        if gap:
            changed = sorted(conv.messages.values(), key=lambda msg: msg.seq)[-NEWEST:]
        members = [
            Member(user=user, role=role)
            for user, (role, rev) in conv.members.items()
            if gap or rev > known
        ]
        row = conv.row() if gap or conv.row_rev > known else None
        return ConvDelta(conv.id, conv.rev, gap, changed, members, [], row)

    def page(self, conv: ModelConv, before: int, limit: int) -> list[Msg]:
        """Return up to `limit` messages below `before`, the newest of them."""
        found = [msg for seq, msg in sorted(conv.messages.items()) if seq < before]
        return found[-limit:]


def _push(conv: int, msg: Msg) -> e.MsgPush:
    return e.MsgPush(conv, msg.rev, msg.seq, msg.ts, msg.sender, msg.kind, msg.text, msg.x)


def random_change(server: ModelServer, rng: random.Random, step: int) -> list[Any]:
    """Make one change that the user did not make on this device; return its pushes."""
    insiders = [conv for conv in server.convs.values() if conv.inside]
    if not insiders or (len(server.convs) < 6 and rng.random() < 0.05):
        return server.create()
    conv = rng.choice(insiders)
    chance = rng.random()
    if chance < 0.5:
        return server.send(conv, 2, f"other {step}", step.to_bytes(16, "big"))[1]
    if chance < 0.65 and conv.seq:
        return server.edit(conv, rng.randint(1, conv.seq), f"edited {step}")
    if chance < 0.72:
        return server.rename(conv, f"title {step}")
    if chance < 0.8:
        return server.set_member(conv, rng.randint(2, 6), rng.randint(0, 2))
    if chance < 0.85:
        return server.skip(conv)
    if chance < 0.92:
        return server.archive(conv)
    outside = [other for other in server.convs.values() if not other.inside]
    if outside:
        return server.readd_me(rng.choice(outside))
    return server.remove_me(conv)
