"""What storage takes and returns beside the wire's own rows and entities (protocol.rows)."""

from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from protocol.envelopes import UserFeedItem
from protocol.rows import Conv, ConvDelta, ConvSet, Device, Member, MyConv, Persona, User


class Head(NamedTuple):
    """How far a feed is; `last_seq` is 0 for a user's feed."""

    rev: int
    last_seq: int


# conversations


class MemberRow(Struct, frozen=True, gc=False):
    """What checks and fan-out need of one member; role is never 0 here."""

    user: int
    role: int
    nick: str
    joined: int
    joined_seq: int
    min_seq: int
    mute_until: int
    read: int
    recv: int
    left: bool
    archived: bool

    @property
    def floor(self) -> int:
        """Messages up to this number are hidden from the member."""
        return max(self.joined_seq, self.min_seq)


class ConvRecord(Struct, frozen=True):
    """One conversation with its present members."""

    row: Conv
    tenant: int
    creator: int
    members: list[MemberRow]


class NewConversation(Struct, frozen=True):
    """A conversation to create; `members` may or may not name the creator."""

    id: int
    tenant: int
    kind: int
    creator: int
    cid: bytes
    title: str
    members: list[int]
    persona: int = 0
    set: ConvSet | None = None


class CreatedConversation(Struct, frozen=True):
    """What a create left: `my` holds each touched member's view and the rev of that user's feed.

    With `existing`, nothing was created; `my` then holds the creator, with rev 0 unless the
    conversation came back into the creator's list.
    """

    record: ConvRecord
    my: dict[int, tuple[MyConv, int]]
    existing: bool


class AddedMember(Struct, frozen=True):
    member: Member
    rev: int
    my: MyConv
    my_rev: int


class DroppedMember(Struct, frozen=True):
    """A member that left or was removed; both roles are 0. Revs are 0 if nothing changed."""

    member: Member
    rev: int
    my: MyConv
    my_rev: int


class MarkRow(NamedTuple):
    """How far a member has read and received. `silent`: own sends, which tell nobody."""

    conv: int
    user: int
    read: int
    recv: int
    silent: bool = False


# turns


class TurnStatus(IntEnum):
    """State of an AI turn; everything from DONE on is final."""

    QUEUED = 0
    RUNNING = 1
    DONE = 2
    CANCELLED = 3
    FAILED = 4
    INTERRUPTED = 5


class NewTurn(Struct, frozen=True, gc=False):
    """A turn that starts with the message it answers (its cid is the message's)."""

    sid: int
    tenant: int
    user: int
    persona: int
    mode: int = 1
    node: str = ""
    lease_until: int = 0
    model: str = ""


class EndTurn(Struct, frozen=True, gc=False):
    """The final state of a turn. A turn that is final already keeps its first end."""

    sid: int
    status: int
    reason: int
    provider: str = ""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    usage_source: str = ""
    ttft_ms: int = 0
    duration_ms: int = 0
    error_code: str = ""
    error_message: str = ""
    cost_micro: int = 0


class TurnCheckpoint(NamedTuple):
    """Proof of life of a running turn; `partial` None keeps what is stored.

    The rest is what it used so far, by estimate: all that is known if the process dies.
    """

    sid: int
    lease_until: int
    partial: str | None = None
    provider: str = ""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_micro: int = 0


class TurnRow(Struct, frozen=True, gc=False):
    """One turn as stored; times are 0 until they happened."""

    sid: int
    tenant: int
    conv: int
    ask_seq: int
    user: int
    persona: int
    cid: bytes
    mode: int
    status: int
    reason: int
    lease_until: int
    node: str
    attempts: int
    provider: str
    model: str
    tokens_in: int
    tokens_out: int
    cost_micro: int
    usage_source: str
    ttft_ms: int
    duration_ms: int
    error_code: str
    error_message: str
    partial: str
    answer_seq: int
    created: int
    started: int
    finished: int


# sync


class SyncResult(Struct, frozen=True):
    """One answer to a `Sync`; `more` asks the client to come again with the new heads."""

    me_rev: int
    me: list[UserFeedItem]
    convs: list[ConvDelta]
    more: bool


# people


class LoginState(Struct, frozen=True):
    """What a handshake must know.

    `device_known`: it is signed in, not dropped. `device_revoked_at`: when it was last dropped,
    also if it is signed in again since; tokens up to then are void on it. `device_seen`: when it
    was last noted to be here, ms. `device_family`: the sign-in that it came with the last time, 0
    for none. `family_lives`: the sign-in that was asked for has not ended.
    """

    user: User
    tenant: int
    disabled: bool
    token_epoch: int
    device_known: bool
    device_revoked_at: int
    device_seen: int
    device_count: int
    device_family: int
    family_lives: bool


class Account(Struct, frozen=True, gc=False):
    """One user, as an administrator sees it."""

    id: int
    name: str
    nick: str
    kind: int
    created: int
    disabled: bool


class DeviceTouch(NamedTuple):
    """A device that signs in, with what it calls itself; family: its sign-in, 0 for none."""

    user: int
    device: bytes
    name: str
    platform: str
    family: int = 0


class DeviceTouched(NamedTuple):
    """A device that others should hear of; row None when it was refused."""

    user: int
    device: bytes
    row: Device | None
    rev: int


class SignedOut(NamedTuple):
    """Devices that were signed out, with their revs, and the sign-ins that ended with that."""

    devices: list[tuple[Device, int]]
    families: set[int]


class Credentials(Struct, frozen=True):
    user: int
    password_hash: str
    disabled: bool
    token_epoch: int


class Tenant(Struct, frozen=True, gc=False):
    id: int
    slug: str
    name: str
    created: int


class RefreshUse(Struct, frozen=True, gc=False):
    """A refresh token that was just spent."""

    user: int
    device: bytes
    tenant: int
    token_epoch: int
    family: int


class ApiKey(Struct, frozen=True):
    id: int
    tenant: int
    name: str
    scopes: list[str]
    created: int
    revoked: int
    last_used: int


class Avatar(Struct, frozen=True, gc=False):
    id: int
    tenant: int
    owner: int
    mime: str
    data: bytes


class StoredPersona(Struct, frozen=True):
    """A persona with what the wire does not show."""

    row: Persona
    tenant: int
    slug: str


# operation


class DeadLetter(Struct, frozen=True, gc=False):
    """A write that the engine refused, or that was still waiting at shutdown.

    `payload` is ASCII JSON; `kind` is "append" (can be replayed) or "change:…" (for the record).
    """

    id: int
    created: int
    kind: str
    reason: str
    payload: str
    replayed_at: int = 0


class StoreHealth(Struct, frozen=True):
    """`oldest_ms` is how long the oldest waiting write has waited."""

    ok: bool
    engine: str
    version: str
    durable: bool
    queue_rows: int
    queue_bytes: int
    oldest_ms: int
    detail: str = ""


class StoreOptions(Struct, frozen=True):
    """How a store is opened. `readers` 0 means 2 threads (SQLite) or 8 connections (MySQL)."""

    url: str
    batch_rows: int = 512
    batch_bytes: int = 4 << 20
    queue_rows: int = 20_000
    queue_bytes: int = 64 << 20
    readers: int = 0
    queue_reads: int = 4_096
    migrate: bool = True
    allow_weak_durability: bool = False
    dead_letter_dir: str | None = None
