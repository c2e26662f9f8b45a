"""Many people do everything at once; every connection sees every revision once, in order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.codes import ConvKind
from protocol.envelopes import (
    ConvChange,
    ConvCreate,
    ConvDrop,
    ConvPush,
    DevicePush,
    Edit,
    Get,
    Mark,
    MemberAdd,
    MemberDrop,
    MemberPush,
    MsgPush,
    MyChange,
    MyConvPush,
    PersonaPush,
    ProfilePush,
    Recall,
    Receipt,
    Reply,
    Send,
    Sent,
    Skip,
    Synced,
    SyncRequest,
    Welcome,
)
from protocol.rows import ConvSet, Head, MySet
from tests.server.harness import TRANSPORTS, Peer, Person, Server, cid, fresh_sync, serving

PEOPLE = 8
STEPS = 40


class View:
    """One device's idea of the world, kept by the client rules of docs/protocol.md §4."""

    def __init__(self, server: Server, person: Person, number: int, rng: random.Random) -> None:
        self.server = server
        self.person = person
        self.number = number
        self.rng = rng
        self.revs: dict[int, int] = {}
        self.msgs: dict[int, dict[int, tuple[str, int]]] = {}
        self.me_rev = 0
        self.since = 0
        self.peer: Peer | None = None
        self.pending: dict[int, tuple[int, str]] = {}

    async def connect(self) -> None:
        """Come (back) with what is known."""
        peer = await self.server.dial(self.rng.choice(TRANSPORTS))
        heads = [Head(conv, rev) for conv, rev in self.revs.items()]
        sync = fresh_sync(me_rev=self.me_rev, since=self.since, heads=heads)
        peer.send(peer.hello(self.person, self.number, sync=sync))
        assert isinstance(await peer.next(), Welcome)
        self.take_synced(await peer.next())
        self.peer = peer
        self.pending.clear()

    def take_synced(self, synced: Any) -> None:
        """Apply a catch-up."""
        assert isinstance(synced, Synced), synced
        assert not synced.more
        self.me_rev, self.since = synced.me_rev, synced.now
        for item in synced.me:
            self.take_mine(item)
        for delta in synced.convs:
            if delta.gap:
                self.msgs[delta.conv] = {}
            for msg in delta.msgs:
                self.msgs.setdefault(delta.conv, {})[msg.seq] = (msg.text, msg.rev)
            self.revs[delta.conv] = delta.rev

    def take_mine(self, item: Any) -> None:
        """Apply an item of one's own feed."""
        if not isinstance(item, MyConvPush) or not item.my.conv:
            return
        if not item.my.role:
            self.revs.pop(item.my.conv, None)
            self.msgs.pop(item.my.conv, None)

    def take(self, frame: Any) -> None:
        """Apply one frame; a revision that is left out is an error."""
        if isinstance(frame, MyConvPush | PersonaPush | ProfilePush | DevicePush):
            if frame.rev > self.me_rev:
                assert frame.rev == self.me_rev + 1, ("own feed", self.me_rev, frame)
                self.me_rev = frame.rev
            self.take_mine(frame)
            if isinstance(frame, MyConvPush) and frame.row and frame.my.role and frame.my.conv:
                self.revs.setdefault(frame.my.conv, frame.row.rev or 0)
            return
        if isinstance(frame, MsgPush):
            self.advance(frame.conv, frame.rev, frame.seq, frame.text)
        elif isinstance(frame, Sent):
            conv, text = self.pending.pop(frame.rid)
            if not frame.dup:
                self.advance(conv, frame.rev, frame.seq, text)
        elif isinstance(frame, ConvPush | MemberPush):
            self.advance(frame.conv, frame.rev)
        elif isinstance(frame, Skip):
            self.advance(frame.feed, frame.rev)
        else:
            assert isinstance(frame, Reply | Receipt), frame

    def advance(self, conv: int, rev: int, seq: int = 0, text: str = "") -> None:
        """Take a revision of a conversation."""
        known = self.revs.get(conv)
        if known is None or rev <= known:
            return
        assert rev == known + 1, ("hole", self.person.name, conv, known, rev)
        self.revs[conv] = rev
        if seq:
            self.msgs.setdefault(conv, {})[seq] = (text, rev)

    async def ask(self, request: Any, *args: Any) -> None:
        """Send a request; take everything up to its answer."""
        peer = self.peer
        assert peer is not None
        rid = peer.rid()
        peer.send(request(rid, *args))
        while True:
            while peer.inbox:
                frame = peer.inbox.popleft()
                self.take(frame)
                if isinstance(frame, Reply) and frame.rid == rid:
                    return
            assert await peer.read()

    # what people do

    async def act(self, everybody: list[Person]) -> None:
        """Do one thing at random."""
        assert self.peer is not None
        if not self.revs or self.rng.random() < 0.05:
            members = [p.id for p in self.rng.sample(everybody, 4)]
            await self.ask(ConvCreate, cid(), int(ConvKind.GROUP), "", members)
            return
        conv = self.rng.choice(sorted(self.revs))
        actions: list[tuple[int, Callable[[int], Awaitable[None]]]] = [
            (10, self.send_some),
            (3, self.change_some),
            (2, lambda c: self.ask(MemberAdd, c, [self.rng.choice(everybody).id])),
            (2, lambda c: self.ask(MemberDrop, c, self.rng.choice(everybody).id)),
            (1, lambda c: self.ask(ConvChange, c, ConvSet(title=f"t{self.rng.random()}"))),
            (1, lambda c: self.ask(MyChange, c, MySet(pinned=self.rng.random() < 0.5))),
            (1, self.mark),
            (1, self.drop),
            (2, self.reconnect),
        ]
        weights = [weight for weight, _ in actions]
        action = self.rng.choices([action for _, action in actions], weights)[0]
        await action(conv)

    async def send_some(self, conv: int) -> None:
        """Send a few messages in one write, and wait for them."""
        peer = self.peer
        assert peer is not None
        for _ in range(self.rng.randint(1, 4)):
            rid = peer.rid()
            text = f"{self.person.name} {rid}"
            self.pending[rid] = (conv, text)
            peer.send(Send(rid, conv, cid(), 0, text))
        while self.pending:
            while peer.inbox:
                frame = peer.inbox.popleft()
                if isinstance(frame, Reply) and not isinstance(frame, Sent):
                    self.pending.pop(frame.rid, None)  # refused: not a member any more
                    continue
                self.take(frame)
            if self.pending:
                assert await peer.read()

    async def change_some(self, conv: int) -> None:
        """Edit or take back a message, one's own or not."""
        seqs = sorted(self.msgs.get(conv, {}))
        if not seqs:
            return
        seq = self.rng.choice(seqs)
        if self.rng.random() < 0.7:
            await self.ask(Edit, conv, seq, f"edited {self.rng.random()}", 0)
        else:
            await self.ask(Recall, conv, seq)

    async def mark(self, conv: int) -> None:
        """Read something."""
        assert self.peer is not None
        self.peer.send(Mark(conv, self.rng.randint(0, 50), 0))
        self.server.core.marks.flush()

    async def drop(self, conv: int) -> None:
        """Leave or delete it, rarely."""
        if self.rng.random() < 0.3:
            await self.ask(ConvDrop, conv)

    async def reconnect(self, conv: int) -> None:
        """Lose the connection, and some frames with it."""
        assert self.peer is not None
        if self.rng.random() < 0.5:
            self.peer.reset()
        await self.connect()

    # the end

    async def check(self) -> None:
        """Compare with the store, through the same connection."""
        peer = self.peer
        assert peer is not None
        for frame in await peer.settled():
            self.take(frame)
        heads = [Head(conv, rev) for conv, rev in self.revs.items()]
        synced = await peer.ask(
            SyncRequest, fresh_sync(me_rev=self.me_rev, since=self.since, heads=heads)
        )
        assert synced.convs == [], "pushes had told everything"
        assert synced.me_rev == self.me_rev
        for conv, msgs in self.msgs.items():
            if not msgs:
                continue
            wanted = sorted(msgs)
            for at in range(0, len(wanted), 100):
                page = await peer.ask(Get, conv, wanted[at : at + 100])
                stored = {m.seq: (m.text, m.rev) for m in page.msgs}
                assert stored == {seq: msgs[seq] for seq in wanted[at : at + 100]}


@pytest.mark.parametrize("seed", range(4))
async def test_every_connection_sees_every_revision_once_and_in_order(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    async with serving(tmp_path) as server:
        people = await server.people(" ".join(f"user{n}" for n in range(PEOPLE)))
        views = [
            View(server, person, number, random.Random(rng.random()))
            for person in people
            for number in (1, 2)
        ]
        for view in views:
            await view.connect()

        async def live(view: View) -> None:
            for _ in range(STEPS):
                await view.act(people)

        await asyncio.gather(*[live(view) for view in views])
        await server.idle()
        for view in views:
            await view.check()
        assert sum(len(view.revs) for view in views) > PEOPLE
        assert server.core.stats.messages > 100
