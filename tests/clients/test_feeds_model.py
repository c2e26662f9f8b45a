"""Thousands of random lives of a client: whatever the network does, its view ends equal to the
server's."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from clients.feeds import Feeds
from protocol import envelopes as e
from protocol.codes import Role
from tests.clients.model import ME, ModelServer, random_change

RUNS = 150
STEPS = 120


class Life:
    """One client and its server with a bad network between them, in steps of injected time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.server = ModelServer()
        self.backup = copy.deepcopy(self.server)
        self.feeds = Feeds()
        self.now = 0.0
        self.net: list[Any] = []
        self.answers: list[Any] = []
        self.outbox: dict[bytes, tuple[int, str]] = {}
        self.connect()

    def connect(self) -> None:
        """A new connection: everything on the way is lost, `hello` carries a sync."""
        self.net.clear()
        self.answers.clear()
        self.feeds.abandon_sync()
        self.answers.append(self.server.sync(self.feeds.begin_sync()))

    def step(self, number: int) -> None:
        rng = self.rng
        self.now += rng.random() * 0.3
        chance = rng.random()
        if chance < 0.45:
            self.net += random_change(self.server, rng, number + 1)
        elif chance < 0.6:
            self.send_own(number)
        elif chance < 0.63:
            self.connect()
        elif chance < 0.65:
            self.read_older()
        elif chance < 0.66:
            self.backup = copy.deepcopy(self.server)
        elif chance < 0.665:
            self.server = self.server.restored_from(self.backup)
            self.outbox.clear()
            self.connect()
        self.deliver()
        due = self.feeds.due()
        if due is not None and due <= self.now and rng.random() < 0.8:
            self.answers.append(self.server.sync(self.feeds.begin_sync()))

    def deliver(self) -> None:
        """Hand over some of what is on the way: reordered, repeated, or not at all."""
        rng = self.rng
        if rng.random() < 0.5:
            rng.shuffle(self.net)
        for frame in self.net[: rng.randint(0, len(self.net))]:
            self.net.remove(frame)
            if rng.random() < 0.85:
                self.feeds.push(frame, self.now)
                if rng.random() < 0.1:
                    self.feeds.push(frame, self.now)
        if self.answers and rng.random() < 0.7:
            self.feeds.finish_sync(self.answers.pop(0), self.now)

    def send_own(self, number: int) -> None:
        """Send, or send again what got no answer; the answer may be lost with its connection."""
        insiders = [conv for conv in self.server.convs.values() if conv.inside]
        if not insiders:
            return
        if not self.outbox or self.rng.random() < 0.5:
            cid = (1_000_000 + number).to_bytes(16, "big")
            self.outbox[cid] = (self.rng.choice(insiders).id, f"mine {number}")
        cid = next(iter(self.outbox))
        conv, text = self.outbox[cid]
        sent, pushes = self.server.send(self.server.convs[conv], ME, text, cid)
        if self.rng.random() < 0.2:
            self.connect()
            return
        del self.outbox[cid]
        if not sent.dup:
            self.net += pushes

    def read_older(self) -> None:
        views = [view for view in self.feeds.convs.values() if view.seqs]
        if views:
            view = self.rng.choice(views)
            conv = self.server.convs.get(view.conv)
            if conv is not None and conv.inside:
                page = self.server.page(conv, view.whole_from() or conv.seq + 1, 5)
                self.feeds.add_messages(view.conv, page)

    def settle(self) -> None:
        """A quiet network at last: everything due is asked and answered."""
        self.connect()
        for _ in range(50):
            while self.answers:
                self.feeds.finish_sync(self.answers.pop(0), self.now)
            if self.feeds.due() is None:
                return
            self.now += 1.0
            self.answers.append(self.server.sync(self.feeds.begin_sync()))
        raise AssertionError("the client never comes to rest")

    def load_history(self) -> None:
        for conv in self.server.convs.values():
            if conv.inside:
                self.feeds.add_messages(conv.id, self.server.page(conv, conv.seq + 1, 10_000))

    def check(self) -> None:
        """Compare the whole view with the server."""
        assert self.feeds.known(0) == self.server.me_rev
        assert self.feeds.held == 0
        for conv in self.server.convs.values():
            view = self.feeds.convs.get(conv.id)
            if not conv.inside:
                assert view is None or view.role_gone
                continue
            assert view is not None
            assert self.feeds.known(conv.id) == conv.rev
            assert view.seqs == sorted(view.messages)
            for seq, msg in view.messages.items():
                assert msg == conv.messages[seq]
            whole_from = view.whole_from()
            if whole_from:
                assert view.last_seq == conv.seq
                assert set(range(whole_from, conv.seq + 1)) <= set(view.seqs)
            else:
                assert conv.seq <= view.begun_seq, "what came since the feed began must be there"
            assert view.row.title == conv.title
            assert view.my.archived == conv.archived
            there = {user for user, (role, _) in conv.members.items() if role != Role.GONE}
            held = {member.user for member in view.present()}
            assert held == there if view.members_whole else held <= there


@pytest.mark.parametrize("block", range(14))
def test_view_equals_the_store_after_loss_reorder_repeats_and_reconnects(block: int) -> None:
    for seed in range(block * RUNS, (block + 1) * RUNS):
        life = Life(seed)
        for number in range(STEPS):
            life.step(number)
        life.settle()
        life.check()
        life.load_history()
        life.check()


def test_own_message_is_held_once_when_its_acknowledgement_was_lost() -> None:
    server, feeds = ModelServer(), Feeds()
    server.create()
    feeds.begin_sync()
    feeds.finish_sync(server.sync(_empty()), 0.0)
    conv = server.convs[1]
    server.send(conv, ME, "hello", bytes(16))  # the answer is lost with its connection
    feeds.finish_sync(server.sync(feeds.begin_sync()), 0.0)
    again, pushes = server.send(conv, ME, "hello", bytes(16))
    assert again.dup
    assert pushes == []
    assert [msg.text for msg in feeds.convs[1].messages.values()] == ["hello"]


def _empty() -> Any:
    return Feeds().begin_sync()


def test_answers_without_a_question_are_ignored() -> None:
    feeds = Feeds()
    assert feeds.finish_sync(e.Synced(0, 1, 5, [], [], [], False, 1), 0.0) == []
    assert feeds.known(0) == 0
