"""Who gets a push, and how often it is encoded."""

from typing import Any, cast

import pytest

from protocol.codec import JSON, MSGPACK, Codec
from protocol.codes import Caps
from protocol.envelopes import Skip, TypingAt
from server.hub import Encoded, Hub
from server.session import Session

FRAME = Skip(7, 8)


class Box:
    """An outbox that keeps what it is given."""

    def __init__(self) -> None:
        self.pushes: list[bytes] = []
        self.signals: list[tuple[object, bytes]] = []

    def push(self, frame: bytes) -> None:
        self.pushes.append(frame)

    def signal(self, key: object, frame: bytes) -> None:
        self.signals.append((key, frame))


class Peer:
    """What the hub sees of a session."""

    def __init__(self, user: int, device: bytes = b"a", codec: Codec = MSGPACK, caps: int = 0):
        self.user = user
        self.device = device
        self.codec = codec
        self.caps = caps
        self.watched: tuple[int, ...] = ()
        self.outbox = Box()

    @property
    def got(self) -> int:
        return len(self.outbox.pushes)


def as_session(peer: Peer) -> Session:
    return cast(Session, peer)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def moves(hub: Hub) -> list[tuple[int, bool]]:
    """Everything the hub says about coming and going."""
    seen: list[tuple[int, bool]] = []
    hub.on_presence = lambda user, online: seen.append((user, online))
    return seen


def attach(hub: Hub, *peers: Peer) -> None:
    for peer in peers:
        hub.attach(as_session(peer))


def publish(hub: Hub, *users: int, **options: Any) -> None:
    hub.publish(users, FRAME, **options)


def test_a_push_reaches_every_device_of_every_user_named(hub: Hub) -> None:
    first, second, other, stranger = Peer(1), Peer(1, b"b"), Peer(2), Peer(3)
    attach(hub, first, second, other, stranger)
    publish(hub, 1, 2, 99)
    assert [p.got for p in (first, second, other, stranger)] == [1, 1, 1, 0]
    assert hub.pushes == 3
    assert first.outbox.pushes == [MSGPACK.encode(FRAME)]


def test_a_push_is_encoded_once_per_encoding_whatever_the_number_of_receivers(hub: Hub) -> None:
    peers = [Peer(n, codec=JSON if n % 2 else MSGPACK) for n in range(1, 1001)]
    attach(hub, *peers)
    before = Encoded.encodes
    publish(hub, *range(1, 1001))
    assert Encoded.encodes - before == 2
    assert {p.outbox.pushes[0] for p in peers} == {MSGPACK.encode(FRAME), JSON.encode(FRAME)}


def test_nobody_connected_costs_no_encoding(hub: Hub) -> None:
    before = Encoded.encodes
    publish(hub, *range(1, 1001))
    assert Encoded.encodes == before


def test_the_sender_and_those_without_the_capability_are_left_out(hub: Hub) -> None:
    sender, able, unable = Peer(1, caps=4), Peer(1, b"b", caps=4 | 8), Peer(2, caps=8)
    attach(hub, sender, able, unable)
    publish(hub, 1, 2, skip=as_session(sender), caps=int(Caps.AI_DELTAS))
    assert [p.got for p in (sender, able, unable)] == [0, 1, 0]


def test_a_newcomer_on_the_same_device_stands_beside_the_old_one_until_that_leaves(
    hub: Hub, moves: list[tuple[int, bool]]
) -> None:
    old, new, other = Peer(1), Peer(1), Peer(1, b"b")
    attach(hub, old, other, new)
    assert hub.replaced_by(as_session(new)) == [as_session(old)]
    publish(hub, 1)
    hub.detach(as_session(old))
    publish(hub, 1)
    assert (old.got, new.got) == (1, 2)
    assert hub.replaced_by(as_session(new)) == []
    assert hub.size == 2
    assert moves == [(1, True)]


def test_users_come_with_their_first_connection_and_go_with_their_last(
    hub: Hub, moves: list[tuple[int, bool]]
) -> None:
    first, second = Peer(1), Peer(1, b"b")
    attach(hub, first, second)
    hub.detach(as_session(first))
    assert moves == [(1, True)]
    hub.detach(as_session(second))
    hub.detach(as_session(second))
    assert moves == [(1, True), (1, False)]
    assert (hub.size, list(hub), hub.sessions_of(1)) == (0, [], ())


def test_one_that_was_never_attached_can_be_detached(
    hub: Hub, moves: list[tuple[int, bool]]
) -> None:
    attach(hub, Peer(1))
    hub.detach(as_session(Peer(1)))
    hub.detach(as_session(Peer(2)))
    assert hub.size == 1
    assert moves == [(1, True)]


def test_watching_replaces_what_was_watched(hub: Hub) -> None:
    peer, other = Peer(1), Peer(2)
    hub.watch(as_session(peer), (10, 11))
    hub.watch(as_session(other), (11,))
    hub.watch(as_session(peer), (12,))
    assert list(hub.watchers_of(10)) == []
    assert list(hub.watchers_of(11)) == [as_session(other)]
    assert list(hub.watchers_of(12)) == [as_session(peer)]
    assert peer.watched == (12,)
    hub.detach(as_session(peer))
    hub.detach(as_session(other))
    assert hub._watchers == {}


def test_signals_carry_their_key_and_are_encoded_once(hub: Hub) -> None:
    peers = [Peer(n, caps=8) for n in range(1, 4)]
    deaf = Peer(4)
    before = Encoded.encodes
    frame = TypingAt(7, 1, 1)
    hub.signal([as_session(p) for p in (*peers, deaf)], "key", frame, int(Caps.PRESENCE))
    assert [p.outbox.signals for p in peers] == [[("key", MSGPACK.encode(frame))]] * 3
    assert deaf.outbox.signals == []
    assert Encoded.encodes - before == 1
