"""Rows (arrays) and entities (maps) that stand inside frames (docs/protocol.md §12).

Rows have a fixed shape; fields are only ever appended, with a default. Entities are sparse:
a field that is None is not sent, and "not sent" in a change means "leave as it is".
"""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.types import (
    S16,
    S32,
    S64,
    S128,
    S256,
    S2000,
    S4000,
    S16000,
    AnyText,
    Bin16,
    F,
    Id,
    IdOrNone,
    Ms,
    U,
)


class Row(Struct, array_like=True, gc=False):
    """Base of fixed-shape rows: an array on the wire."""


class Entity(Struct, omit_defaults=True, gc=False):
    """Base of sparse entities: a map on the wire, None meaning absent."""


# entities


class GenOpt(Entity):
    """How a model is asked. Unset fields fall back: call, conversation, persona, server."""

    model: S64 | None = None
    temperature: F | None = None
    top_p: F | None = None
    max_tokens: U | None = None
    history: U | None = None


class MsgX(Entity):
    """What only some messages carry."""

    cid: Bin16 | None = None
    quote: U | None = None
    fwd_conv: U | None = None
    fwd_seq: U | None = None
    mentions: Annotated[list[U], Meta(max_length=50)] | None = None
    fmt: U | None = None
    persona: Id | None = None
    sid: Id | None = None
    finish: U | None = None
    usage: Annotated[list[U], Meta(max_length=2)] | None = None
    edited: Ms | None = None
    recalled: Id | None = None
    pinned: bool | None = None
    meta: Annotated[dict[S64, S256], Meta(max_length=16)] | None = None
    ask: U | None = None
    alts: Annotated[list[U], Meta(max_length=16)] | None = None
    off: bool | None = None


class SendX(Entity):
    """Options of `send` and `edit`."""

    quote: U | None = None
    fwd_conv: U | None = None
    fwd_seq: U | None = None
    mentions: Annotated[list[U], Meta(max_length=50)] | None = None
    fmt: U | None = None
    persona: Id | None = None
    ai: U | None = None
    opt: GenOpt | None = None
    meta: Annotated[dict[S64, S256], Meta(max_length=16)] | None = None


class Conv(Entity):
    """A conversation as its members see it."""

    id: Id | None = None
    kind: U | None = None
    title: S128 | None = None
    avatar: U | None = None
    persona: Id | None = None
    owner: Id | None = None
    rev: U | None = None
    last_seq: U | None = None
    first_seq: U | None = None
    count: U | None = None
    notice: S2000 | None = None
    prompt: S16000 | None = None
    flags: U | None = None
    created: Ms | None = None
    updated: Ms | None = None
    opt: GenOpt | None = None
    deleted: bool | None = None
    personas: Annotated[list[Id], Meta(max_length=8)] | None = None
    talk: U | None = None


class ConvSet(Entity):
    """A change of a conversation; 0, "" or an empty list clears a field."""

    title: S128 | None = None
    avatar: U | None = None
    persona: U | None = None
    notice: S2000 | None = None
    prompt: S16000 | None = None
    flags: U | None = None
    owner: Id | None = None
    opt: GenOpt | None = None
    deleted: bool | None = None
    personas: Annotated[list[Id], Meta(max_length=8)] | None = None
    talk: U | None = None


class MyConv(Entity):
    """One member's own view of a conversation; belongs to the user's feed."""

    conv: Id | None = None
    role: U | None = None
    read: U | None = None
    recv: U | None = None
    min_seq: U | None = None
    joined_seq: U | None = None
    mentions: U | None = None
    mute_until: Ms | None = None
    pinned: bool | None = None
    archived: bool | None = None
    left: bool | None = None
    remark: S64 | None = None
    draft: S4000 | None = None


class MySet(Entity):
    """A change of one's own view of a conversation."""

    mute_until: Ms | None = None
    pinned: bool | None = None
    archived: bool | None = None
    remark: S64 | None = None
    draft: S4000 | None = None


class Member(Entity):
    user: Id | None = None
    role: U | None = None
    nick: S64 | None = None
    joined: Ms | None = None
    mute_until: Ms | None = None


class Persona(Entity):
    """A configured AI character. `prompt` is shown to its owner and administrators only."""

    id: Id | None = None
    name: S64 | None = None
    prompt: S16000 | None = None
    greeting: S2000 | None = None
    avatar: U | None = None
    tags: Annotated[list[S32], Meta(max_length=16)] | None = None
    opt: GenOpt | None = None
    scope: U | None = None
    owner: Id | None = None
    rev: U | None = None
    created: Ms | None = None
    updated: Ms | None = None
    deleted: bool | None = None


class User(Entity):
    """A person. `persona` (the current choice) is shown to the user only.

    In `profile_set`, persona 0 clears the choice.
    """

    id: Id | None = None
    name: S64 | None = None
    nick: S64 | None = None
    avatar: U | None = None
    bio: S256 | None = None
    kind: U | None = None
    persona: U | None = None


class Device(Entity):
    device: Bin16 | None = None
    name: S64 | None = None
    platform: S16 | None = None
    seen: Ms | None = None
    online: bool | None = None


class Limits(Entity):
    """What this server accepts, announced in `welcome`."""

    frame: U | None = None
    inflight: U | None = None
    rate: U | None = None
    burst: U | None = None
    bytes: U | None = None
    text: U | None = None
    members: U | None = None
    devices: U | None = None


# rows


class Head(Row):
    """How far a client knows one conversation feed."""

    conv: Id
    rev: U


class StreamPos(Row):
    """One running stream, and how much of one part of it somebody has.

    `place` is its place in the queue: 1 is next, 0 when it runs or nobody has told yet.
    """

    sid: Id
    conv: IdOrNone
    persona: IdOrNone
    part: U
    off: U
    place: U = 0


class Sync(Row):
    """Everything a returning client knows (docs/protocol.md §5)."""

    me_rev: U
    since: Ms
    heads: Annotated[list[Head], Meta(max_length=1000)]
    streams: Annotated[list[StreamPos], Meta(max_length=16)]
    budget: U


class Watch(Row):
    convs: Annotated[list[Id], Meta(max_length=16)]
    users: Annotated[list[Id], Meta(max_length=256)]


class Msg(Row):
    """One stored message; (conv, seq) is its id."""

    seq: U
    rev: U
    ts: Ms
    sender: U
    kind: U
    text: AnyText
    x: MsgX | None = None


class Read(Row):
    user: Id
    read: U
    recv: U


class ConvDelta(Row):
    """What changed in one conversation since a client's head; gap means "forget what you had"."""

    conv: Id
    rev: U
    gap: bool
    msgs: list[Msg]
    members: list[Member]
    reads: list[Read]
    row: Conv | None = None


class Use(Row):
    """What somebody's AI answers used in a day or month of UTC, money in micro-dollars.

    `quota` is what may be spent until `resets`, 0 without limit.
    """

    used_in: U
    used_out: U
    spent: U
    quota: U
    resets: Ms


class Pres(Row):
    user: Id
    state: U
    seen: Ms
