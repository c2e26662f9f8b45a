"""Many people do everything at once; every connection sees every revision once, in order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from zlib import crc32

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
    History,
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
    StreamDelta,
    StreamEnd,
    Synced,
    SyncRequest,
    Welcome,
)
from protocol.rows import ConvSet, Head, MsgX, MySet, StreamPos
from server.config_sections import AiConfig
from tests.server.harness import (
    TRANSPORTS,
    Peer,
    Person,
    Server,
    cid,
    fresh_sync,
    serving,
    watching,
)

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


class Listener:
    """A device that watches one conversation and loses its connection again and again."""

    def __init__(self, server: Server, person: Person, number: int, conv: int) -> None:
        self.server = server
        self.person = person
        self.number = number
        self.conv = conv
        self.rng = random.Random(number)
        self.known = 0
        self.texts: dict[int, bytes] = {}
        self.answers: dict[int, bytes] = {}
        self.whole = 0
        self.peer: Peer | None = None

    async def connect(self) -> None:
        """Come back and name what has been heard of the running answers."""
        peer = self.peer = await self.server.dial(self.rng.choice(TRANSPORTS))
        have = [StreamPos(sid, self.conv, 0, 0, len(text)) for sid, text in self.texts.items()]
        sync = fresh_sync(
            heads=[Head(self.conv, self.known)] if self.known else [], streams=have[-16:]
        )
        watch = watching(self.conv)
        peer.send(peer.hello(self.person, self.number, sync=sync, watch=watch))
        await peer.expect(Welcome)
        synced = await peer.expect(Synced)
        for delta in synced.convs:
            for msg in delta.msgs:
                self.keep(msg.x, msg.text)
            self.known = delta.rev

    def keep(self, x: MsgX | None, text: str) -> None:
        """Take a stored answer."""
        if x is not None and x.sid:
            self.answers[x.sid] = text.encode()
            self.texts.pop(x.sid, None)

    def take(self, frame: Any) -> None:
        """Take what a watcher is sent."""
        if isinstance(frame, StreamDelta) and frame.part == 0:
            text = self.texts.get(frame.sid, b"")
            assert frame.off <= len(text), "a hole in the text"
            self.texts[frame.sid] = text[: frame.off] + frame.text.encode()
        elif isinstance(frame, StreamEnd) and frame.rev:
            assert frame.rev == self.known + 1
            self.known = frame.rev
            text = self.texts.pop(frame.sid)
            assert (len(text), crc32(text)) == (frame.total, frame.crc)
            self.answers[frame.sid] = text
            self.whole += 1
        elif isinstance(frame, MsgPush) and frame.rev > self.known:
            assert frame.rev == self.known + 1
            self.known = frame.rev
            self.keep(frame.x, frame.text)

    async def listen(self, wanted: int) -> None:
        """Hear so many answers to their end, over any number of connections."""
        await self.connect()
        while len(self.answers) < wanted:
            assert self.peer is not None
            if self.rng.random() < 0.1:
                self.peer.reset()
                await self.connect()
            while self.peer.inbox:
                self.take(self.peer.inbox.popleft())
            if len(self.answers) < wanted:
                assert await self.peer.read()


async def test_answers_are_heard_whole_over_lost_connections(tmp_path: Path) -> None:
    ai = AiConfig(detect=False, demo_words_per_s=600, user_running=4, user_queued=50)
    async with serving(tmp_path, ai=ai) as server:
        ann = await server.person("ann")
        persona = await server.persona(ann)
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        listeners = [Listener(server, ann, number, conv) for number in range(2, 8)]
        questions = ["Tell me a story", "给我讲个故事", "Who are you?", "What is 7 * 6?"]
        tasks = [asyncio.ensure_future(item.listen(len(questions))) for item in listeners]
        for question in questions:
            await peer.send_text(conv, question)
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
        page = await peer.ask(History, conv, 0, True, 50)
        stored = {m.x.sid: m.text.encode() for m in page.msgs if m.x is not None and m.x.sid}
        assert len(stored) == len(questions)
        for item in listeners:
            assert item.answers == stored
        assert sum(item.whole for item in listeners) > len(listeners)
