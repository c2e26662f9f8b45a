"""Nothing crosses from one tenant to another: every request that a client can make, tried."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from protocol.codec import CLIENT_FRAMES
from protocol.codes import Code, ConvKind, Scope
from protocol.envelopes import (
    Auth,
    Bye,
    Cancel,
    Confirm,
    ConvChange,
    ConvCreate,
    ConvDrop,
    ConvGet,
    ConvInfo,
    ConvList,
    ConvPage,
    DeviceDrop,
    DeviceList,
    Devices,
    Edit,
    Err,
    Frame,
    Gen,
    Get,
    Hello,
    History,
    Mark,
    MemberAdd,
    MemberDrop,
    Members,
    MemberSet,
    MsgPush,
    MyChange,
    Open,
    PersonaDrop,
    PersonaGet,
    PersonaList,
    PersonaPage,
    PersonaSave,
    Pick,
    Ping,
    Pong,
    ProfileSet,
    Recall,
    Reply,
    Send,
    Sent,
    Synced,
    SyncRequest,
    Typing,
    Usage,
    UsageInfo,
    UserFind,
    UserGet,
    Users,
    Watching,
    WatchRequest,
)
from protocol.rows import ConvSet, Head, MySet, Persona, SendX, StreamPos, User
from tests.server.harness import (
    Peer,
    Person,
    Server,
    cid,
    device,
    fresh_sync,
    serving,
    watching,
)
from tests.server.model import Model

R = 7  # the request id of every attempt


class Stage(NamedTuple):
    """Tenant 1 with everything in it, and Eve of tenant 2 who knows every id."""

    server: Server
    ann: Person
    bob: Person
    pa: Peer
    pb: Peer
    eve: Person
    pe: Peer
    conv: int
    ai_conv: int
    persona: int
    running: int
    eve_conv: int
    eve_ai_conv: int
    eve_persona: int


NOT_FOUND = "300"
NOTHING = "no answer"
Outcome = str | Callable[[Any], bool]

ATTEMPTS: dict[type[Frame], list[tuple[Callable[[Stage], Frame], Outcome]]] = {
    Ping: [(lambda s: Ping(s.conv), lambda r: isinstance(r, Pong))],
    SyncRequest: [
        (
            lambda s: SyncRequest(
                R,
                fresh_sync(
                    heads=[Head(s.conv, 1), Head(s.ai_conv, 1), Head(s.eve_conv, 0)],
                    streams=[StreamPos(s.running, s.ai_conv, s.persona, 0, 0)],
                ),
            ),
            lambda r: isinstance(r, Synced) and len(r.convs) == 1 and r.streams == [],
        )
    ],
    WatchRequest: [
        (
            lambda s: WatchRequest(R, watching(s.conv, s.ai_conv, users=[s.ann.id, s.bob.id])),
            lambda r: isinstance(r, Watching) and r.pres == [] and r.streams == [],
        )
    ],
    Send: [
        (lambda s: Send(R, s.conv, cid(), 0, "hello"), NOT_FOUND),
        (lambda s: Send(R, s.ai_conv, cid(), 0, "hello"), NOT_FOUND),
        (
            lambda s: Send(R, s.eve_ai_conv, cid(), 0, "hello", SendX(persona=s.persona)),
            NOT_FOUND,
        ),
        (
            lambda s: Send(R, s.eve_conv, cid(), 0, "hey", SendX(mentions=[s.ann.id, s.persona])),
            lambda r: isinstance(r, Sent) and r.sid is None,
        ),
    ],
    Edit: [(lambda s: Edit(R, s.conv, 1, "changed", 0), NOT_FOUND)],
    Recall: [(lambda s: Recall(R, s.conv, 1), NOT_FOUND)],
    Mark: [(lambda s: Mark(s.conv, 1, 1), NOTHING)],
    Typing: [(lambda s: Typing(s.conv, 1), NOTHING)],
    History: [(lambda s: History(R, s.conv, 0, True, 50), NOT_FOUND)],
    Get: [(lambda s: Get(R, s.conv, [1, 2]), NOT_FOUND)],
    ConvCreate: [
        (lambda s: ConvCreate(R, cid(), 3, "", [s.ann.id]), NOT_FOUND),
        (lambda s: ConvCreate(R, cid(), 2, "", [s.ann.id]), NOT_FOUND),
        (lambda s: ConvCreate(R, cid(), 1, "", [], s.persona), NOT_FOUND),
        (lambda s: ConvCreate(R, cid(), 3, "", [], None, ConvSet(persona=s.persona)), NOT_FOUND),
        (
            lambda s: ConvCreate(R, cid(), 3, "", [], None, ConvSet(owner=s.ann.id)),
            lambda r: isinstance(r, ConvInfo) and len(r.members) == 1 and r.row.owner != 0,
        ),
    ],
    ConvGet: [(lambda s: ConvGet(R, s.conv), NOT_FOUND)],
    ConvList: [
        (
            lambda s: ConvList(R, False, f"9999999999999:{s.conv}", 100),
            lambda r: isinstance(r, ConvPage) and len(r.rows) == 2,
        )
    ],
    ConvChange: [
        (lambda s: ConvChange(R, s.conv, ConvSet(title="mine")), NOT_FOUND),
        (lambda s: ConvChange(R, s.eve_conv, ConvSet(persona=s.persona)), NOT_FOUND),
        (lambda s: ConvChange(R, s.eve_conv, ConvSet(owner=s.ann.id)), NOT_FOUND),
    ],
    MyChange: [(lambda s: MyChange(R, s.conv, MySet(pinned=True)), NOT_FOUND)],
    ConvDrop: [(lambda s: ConvDrop(R, s.conv), NOT_FOUND)],
    Members: [(lambda s: Members(R, s.conv, "", 100), NOT_FOUND)],
    MemberAdd: [
        (lambda s: MemberAdd(R, s.conv, [s.eve.id]), NOT_FOUND),
        (lambda s: MemberAdd(R, s.eve_conv, [s.ann.id]), NOT_FOUND),
    ],
    MemberDrop: [
        (lambda s: MemberDrop(R, s.conv, s.bob.id), NOT_FOUND),
        (lambda s: MemberDrop(R, s.eve_conv, s.bob.id), NOT_FOUND),
    ],
    MemberSet: [
        (lambda s: MemberSet(R, s.conv, s.bob.id, 2, 0), NOT_FOUND),
        (lambda s: MemberSet(R, s.eve_conv, s.bob.id, 2, 0), NOT_FOUND),
    ],
    PersonaSave: [(lambda s: PersonaSave(R, cid(), Persona(id=s.persona, name="Mine")), NOT_FOUND)],
    PersonaGet: [(lambda s: PersonaGet(R, s.persona), NOT_FOUND)],
    PersonaList: [
        (
            lambda s, scope=scope: PersonaList(R, scope, "", 100),  # type: ignore[misc]  # bound early
            lambda r: isinstance(r, PersonaPage) and all(p.name != "Ada" for p in r.items),
        )
        for scope in (0, 1, 2)
    ],
    PersonaDrop: [(lambda s: PersonaDrop(R, s.persona), NOT_FOUND)],
    Gen: [
        (lambda s: Gen(R, s.ai_conv, cid(), 2, 1), NOT_FOUND),
        (lambda s: Gen(R, s.eve_ai_conv, cid(), 1, 0, s.persona), NOT_FOUND),
    ],
    Pick: [(lambda s: Pick(R, s.ai_conv, 2), NOT_FOUND)],
    Cancel: [(lambda s: Cancel(R, s.running), NOT_FOUND)],
    Open: [(lambda s: Open(R, s.running, 0, 0), NOT_FOUND)],
    # A question that is open is tried in `test_confirmations`.
    Confirm: [(lambda s: Confirm(R, s.running, 1, True), NOT_FOUND)],
    Usage: [
        (
            lambda s: Usage(R),
            lambda r: isinstance(r, UsageInfo) and r.month.used_in == r.month.used_out == 0,
        )
    ],
    UserGet: [
        (
            lambda s: UserGet(R, [s.ann.id, s.bob.id]),
            lambda r: isinstance(r, Users) and r.items == [],
        )
    ],
    UserFind: [
        (lambda s: UserFind(R, "an", 100), lambda r: isinstance(r, Users) and r.items == [])
    ],
    ProfileSet: [(lambda s: ProfileSet(R, User(persona=s.persona)), NOT_FOUND)],
    DeviceList: [(lambda s: DeviceList(R), lambda r: isinstance(r, Devices) and len(r.items) == 1)],
    DeviceDrop: [(lambda s: DeviceDrop(R, device(5)), NOT_FOUND)],
}
"""What Eve tries, per request code, and what must come of it."""

ELSEWHERE = {Hello, Bye, Auth}
"""Sign-in and leaving carry no ids of others; tokens of others are tried in `test_session`."""


def test_every_request_is_tried() -> None:
    assert set(ATTEMPTS) == set(CLIENT_FRAMES) - ELSEWHERE


async def build(server: Server, model: Model) -> Stage:
    """Fill two tenants; an answer is running in the first."""
    ann, bob = await server.people("ann bob")
    eve = await server.person("eve", tenant=2)
    persona = await server.persona(ann)
    eve_persona = await server.persona(eve, "Mallory", Scope.PRIVATE)
    pa = await server.connect(ann, number=5)
    pb = await server.connect(bob)
    conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
    ai_conv = (await pa.create(ConvKind.AI, persona=persona)).row.id or 0
    pe = await server.connect(eve)
    eve_conv = (await pe.create(ConvKind.GROUP)).row.id or 0
    eve_ai_conv = (await pe.create(ConvKind.AI, persona=eve_persona)).row.id or 0
    await pa.send_text(conv, "a secret")
    await pa.ask(WatchRequest, watching(conv, ai_conv))
    sent = await pa.send_text(ai_conv, "another secret")
    (await model.call()).say("An answer that is")
    assert sent.sid is not None
    for peer in (pa, pb, pe):
        await peer.settled()
    return Stage(
        server, ann, bob, pa, pb, eve, pe, conv, ai_conv, persona, sent.sid, eve_conv,
        eve_ai_conv, eve_persona,
    )  # fmt: skip


@pytest.mark.parametrize("kind", list(ATTEMPTS), ids=lambda kind: kind.__name__)
async def test_ids_of_another_tenant_lead_nowhere(tmp_path: Path, kind: type[Frame]) -> None:
    async with Model() as model, serving(tmp_path, ai=model.config()) as server:
        stage = await build(server, model)
        for make, outcome in ATTEMPTS[kind]:
            stage.pe.send(make(stage))
            answers = [f for f in await stage.pe.settled() if isinstance(f, Reply | Pong)]
            if outcome == NOTHING:
                assert answers == []
                continue
            assert len(answers) == 1, answers
            if outcome == NOT_FOUND:
                assert isinstance(answers[0], Err)
                assert answers[0].code == Code.NOT_FOUND
            else:
                assert callable(outcome)
                assert outcome(answers[0]), answers[0]
        # What happens in the first tenant now reaches nobody of the second, and is unharmed.
        sent = await stage.pa.send_text(stage.conv, "still ours")
        assert sent.seq == 2
        server.advance(2)
        stage.pb.send(Typing(stage.conv, 1))
        (await model.call()).finish(" running.")
        answer = await stage.pb.expect(MsgPush)
        assert answer.text == "still ours"
        await stage.pa.expect(Frame, lambda f: type(f).__name__ in ("StreamEnd", "MsgPush"))
        seen = await stage.pe.settled()
        assert [f for f in seen if getattr(f, "conv", 0) in (stage.conv, stage.ai_conv)] == []
        info = await stage.pa.ask(ConvGet, stage.conv)
        assert (info.row.owner, len(info.members)) == (stage.ann.id, 2)


async def test_a_sync_of_nothing_but_strange_conversations_is_empty(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, eve = await server.people("ann eve")
        pa, pe = await server.everybody([ann, eve])
        conv = (await pa.create(ConvKind.GROUP)).row.id or 0
        reply = await pe.ask(SyncRequest, fresh_sync(heads=[Head(conv, 0)]))
        assert isinstance(reply, Synced)
        assert reply.convs == []


async def test_names_may_repeat_across_tenants(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        other = await server.person("ann", tenant=2)
        peer = await server.connect(ann)
        found = await peer.ask(UserFind, "ann", 10)
        assert [item.id for item in found.items] == [ann.id]
        assert other.id != ann.id


async def test_presence_of_another_tenant_is_not_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        bob = await server.person("bob")
        eve = await server.person("eve", tenant=2)
        pe = await server.connect(eve, watch=watching(users=[ann.id]))
        pb = await server.connect(bob, watch=watching(users=[ann.id]))
        await server.connect(ann)
        assert [type(f).__name__ for f in await pb.settled()] == ["Presence"]
        assert await pe.settled() == []
