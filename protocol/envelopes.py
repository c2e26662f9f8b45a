"""Every message of the protocol, one Struct each; the tag is its code (docs/protocol.md §12).

Field order is the order on the wire and never changes; fields are appended with a default.
Codes not listed here (24-27, 33-36, 53-55, 73, 79-85, 89-90, 92-98, 101, 105, 109, 113)
are reserved for subjects that are not built yet.
"""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.rows import (
    Conv,
    ConvDelta,
    ConvSet,
    Device,
    GenOpt,
    Limits,
    Member,
    Msg,
    MsgX,
    MyConv,
    MySet,
    Persona,
    Pres,
    Read,
    SendX,
    StreamPos,
    Sync,
    Use,
    User,
    Watch,
)
from protocol.types import (
    S16,
    S64,
    S128,
    S512,
    S2000,
    S4096,
    AnyText,
    Bin16,
    I,
    Id,
    IdOrNone,
    Limit,
    Ms,
    ReplyRid,
    Rid,
    Text,
    U,
)


class Frame(Struct, array_like=True, gc=False):
    """Base of all messages: an array on the wire, its first element the code."""


class Request(Frame):
    """A message from a client that is answered; `rid` comes back in the reply."""

    rid: Rid


class Reply(Frame):
    """An answer; `rid` names the request, 0 when nobody asked."""

    rid: ReplyRid


# connection


class Hello(Frame, tag=1):
    ver: U
    method: U
    secret: S4096
    device: Bin16
    client: S64
    caps: U
    hb: U
    max_frame: U
    lang: S16
    sync: Sync | None = None
    watch: Watch | None = None


class Welcome(Frame, tag=2):
    ver: U
    session: Id
    user: Id
    tenant: Id
    ticket: S512
    ticket_ms: U
    hb: U
    now: Ms
    epoch: U
    caps: U
    limits: Limits
    dict: U
    spec: U


class Auth(Request, tag=3):
    method: U
    secret: S4096


class Authed(Reply, tag=4):
    expires: Ms


class Ping(Frame, tag=5):
    n: U


class Pong(Frame, tag=6):
    n: U
    now: Ms


class GoAway(Frame, tag=7):
    code: U
    reason: S128
    drain_ms: U
    spread_ms: U


class Bye(Frame, tag=8):
    code: U
    reason: S128
    retry: I = -1
    spread_ms: U = 0


class Err(Reply, tag=9):
    code: U
    reason: S128
    retry: I
    detail: S512 | None = None


class Done(Reply, tag=10):
    pass


class Changed(Reply, tag=11):
    """A durable change was made; feed 0 is the caller's own. `rev` 0: nothing needed changing."""

    feed: U
    rev: U
    ts: Ms


class SyncRequest(Request, tag=12):
    q: Sync


class WatchRequest(Request, tag=14):
    w: Watch


class Watching(Reply, tag=15):
    pres: list[Pres]
    streams: list[StreamPos]


class Resync(Frame, tag=16):
    """Pushes were dropped: sync these feeds, or all of them when the list is empty."""

    feeds: Annotated[list[U], Meta(max_length=256)]


# messages


class Send(Request, tag=20):
    conv: Id
    cid: Bin16
    kind: U
    text: Text
    x: SendX | None = None


class Sent(Reply, tag=21):
    conv: Id
    seq: U
    rev: U
    ts: Ms
    dup: bool
    sid: Id | None = None


class Edit(Request, tag=22):
    conv: Id
    seq: U
    text: Text
    base: U
    x: SendX | None = None


class Recall(Request, tag=23):
    conv: Id
    seq: U


class Mark(Frame, tag=28):
    conv: Id
    read: U
    recv: U


class Typing(Frame, tag=29):
    conv: Id
    state: U


class History(Request, tag=30):
    conv: Id
    anchor: U
    back: bool
    limit: Limit


class Page(Reply, tag=31):
    conv: Id
    msgs: list[Msg]
    more: bool


class Get(Request, tag=32):
    conv: Id
    seqs: Annotated[list[U], Meta(min_length=1, max_length=100)]


# conversations


class ConvCreate(Request, tag=40):
    cid: Bin16
    kind: U
    title: S128
    members: Annotated[list[Id], Meta(max_length=200)]
    persona: Id | None = None
    set: ConvSet | None = None


class ConvInfo(Reply, tag=41):
    row: Conv
    my: MyConv
    members: list[Member]


class ConvGet(Request, tag=42):
    conv: Id


class ConvList(Request, tag=43):
    archived: bool
    cursor: S128
    limit: Limit


class ConvPage(Reply, tag=44):
    rows: list[Conv]
    mine: list[MyConv]
    cursor: S128


class ConvChange(Request, tag=45):
    conv: Id
    set: ConvSet


class MyChange(Request, tag=46):
    conv: Id
    set: MySet


class ConvDrop(Request, tag=47):
    conv: Id


class Members(Request, tag=48):
    conv: Id
    cursor: S128
    limit: Limit


class MemberPage(Reply, tag=49):
    items: list[Member]
    cursor: S128


class MemberAdd(Request, tag=50):
    conv: Id
    users: Annotated[list[Id], Meta(min_length=1, max_length=50)]


class MemberDrop(Request, tag=51):
    conv: Id
    user: Id


class MemberSet(Request, tag=52):
    conv: Id
    user: Id
    role: U
    mute_ms: U


# personas and AI


class PersonaSave(Request, tag=60):
    cid: Bin16
    p: Persona


class PersonaInfo(Reply, tag=61):
    p: Persona
    rev: U


class PersonaGet(Request, tag=62):
    persona: Id


class PersonaList(Request, tag=63):
    scope: U
    cursor: S128
    limit: Limit


class PersonaPage(Reply, tag=64):
    items: list[Persona]
    cursor: S128


class PersonaDrop(Request, tag=65):
    persona: Id


class Gen(Request, tag=66):
    conv: Id
    cid: Bin16
    mode: U
    seq: U
    persona: Id | None = None
    opt: GenOpt | None = None


class GenOk(Reply, tag=67):
    sid: Id
    state: U


class Cancel(Request, tag=68):
    sid: Id


class Open(Request, tag=69):
    sid: Id
    part: U
    off: U


class Pick(Request, tag=74):
    """Choose one of the answers that `gen` with mode 2 made of one another."""

    conv: Id
    seq: U


class Opened(Reply, tag=70):
    """Text of a stream from `off` on; `place` as in `StreamPos`."""

    sid: Id
    conv: Id
    state: U
    part: U
    off: U
    text: AnyText
    total: U
    place: U = 0


class Confirm(Request, tag=59):
    """Say whether a tool may run; `sid` and `call` name the question (`tool_ask`)."""

    sid: Id
    call: U
    yes: bool


class Usage(Request, tag=71):
    """Ask what one's own AI answers used."""


class UsageInfo(Reply, tag=72):
    today: Use
    month: Use


# people and devices


class UserGet(Request, tag=75):
    users: Annotated[list[Id], Meta(min_length=1, max_length=100)]


class Users(Reply, tag=76):
    items: list[User]
    cursor: S128


class UserFind(Request, tag=77):
    query: S128
    limit: Limit


class ProfileSet(Request, tag=78):
    set: User


class DeviceList(Request, tag=86):
    pass


class Devices(Reply, tag=87):
    items: list[Device]


class DeviceDrop(Request, tag=88):
    device: Bin16


# pushes


class MsgPush(Frame, tag=100):
    conv: Id
    rev: U
    seq: U
    ts: Ms
    sender: U
    kind: U
    text: AnyText
    x: MsgX | None = None


class ConvPush(Frame, tag=102):
    conv: Id
    rev: U
    row: Conv


class MemberPush(Frame, tag=103):
    conv: Id
    rev: U
    m: Member


class MyConvPush(Frame, tag=104):
    rev: U
    my: MyConv
    row: Conv | None = None


class PersonaPush(Frame, tag=106):
    rev: U
    p: Persona


class ProfilePush(Frame, tag=107):
    rev: U
    u: User


class DevicePush(Frame, tag=108):
    rev: U
    d: Device


class TypingAt(Frame, tag=110):
    conv: Id
    user: Id
    state: U


class Presence(Frame, tag=111):
    items: list[Pres]


class Receipt(Frame, tag=112):
    conv: Id
    reads: list[Read]


class StreamStart(Frame, tag=114):
    sid: Id
    conv: Id
    persona: IdOrNone
    ask: U
    ts: Ms
    state: U


class StreamDelta(Frame, tag=115):
    sid: Id
    part: U
    off: U
    text: AnyText


class StreamEnd(Frame, tag=116):
    sid: Id
    conv: Id
    reason: U
    rev: U
    seq: U
    ts: Ms
    total: U
    crc: U
    usage: Annotated[list[U], Meta(max_length=2)] | None = None
    code: U | None = None
    detail: S512 | None = None
    ask: U | None = None


class StreamQueued(Frame, tag=119):
    """A waiting stream moved up; `place` 1 is next, 0 says that it waits no more."""

    sid: Id
    conv: Id
    place: U


class ToolAsk(Frame, tag=120):
    """May this tool run? Goes to the devices of whoever asked for the answer.

    `call` tells the questions of a stream apart. `args` is the beginning of what the tool is given,
    as JSON text whose invisible characters are escaped; `left` counts the characters cut off.
    """

    sid: Id
    conv: Id
    call: U
    name: S64
    args: S2000
    left: U
    until: Ms


class ToolSettled(Frame, tag=121):
    """That question needs no answer any more."""

    sid: Id
    call: U
    state: U


class Notice(Frame, tag=117):
    kind: U
    text: AnyText
    expires: Ms | None = None


class Skip(Frame, tag=118):
    feed: U
    rev: U


UserFeedItem = MyConvPush | PersonaPush | ProfilePush | DevicePush


class Synced(Reply, tag=13):
    epoch: U
    me_rev: U
    me: list[UserFeedItem]
    convs: list[ConvDelta]
    streams: list[StreamPos]
    more: bool
    now: Ms


ClientFrame = (
    Hello
    | Auth
    | Ping
    | Bye
    | SyncRequest
    | WatchRequest
    | Send
    | Edit
    | Recall
    | Mark
    | Typing
    | History
    | Get
    | ConvCreate
    | ConvGet
    | ConvList
    | ConvChange
    | MyChange
    | ConvDrop
    | Members
    | MemberAdd
    | MemberDrop
    | MemberSet
    | PersonaSave
    | PersonaGet
    | PersonaList
    | PersonaDrop
    | Gen
    | Cancel
    | Pick
    | Open
    | Confirm
    | Usage
    | UserGet
    | UserFind
    | ProfileSet
    | DeviceList
    | DeviceDrop
)
"""What a client may send."""

ServerFrame = (
    Welcome
    | Authed
    | Pong
    | GoAway
    | Bye
    | Err
    | Done
    | Changed
    | Synced
    | Watching
    | Resync
    | Sent
    | Page
    | ConvInfo
    | ConvPage
    | MemberPage
    | PersonaInfo
    | PersonaPage
    | GenOk
    | Opened
    | UsageInfo
    | Users
    | Devices
    | MsgPush
    | ConvPush
    | MemberPush
    | MyConvPush
    | PersonaPush
    | ProfilePush
    | DevicePush
    | TypingAt
    | Presence
    | Receipt
    | StreamStart
    | StreamDelta
    | StreamEnd
    | StreamQueued
    | ToolAsk
    | ToolSettled
    | Notice
    | Skip
)
"""What a server may send."""
