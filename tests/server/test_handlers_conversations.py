"""Making, changing and leaving conversations, and who may do what."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from protocol.codes import Code, ConvKind, MsgKind, Role
from protocol.envelopes import (
    Changed,
    ConvChange,
    ConvCreate,
    ConvDrop,
    ConvGet,
    ConvInfo,
    ConvList,
    ConvPush,
    Err,
    Gen,
    History,
    Mark,
    MemberAdd,
    MemberDrop,
    MemberPush,
    Members,
    MemberSet,
    MsgPush,
    MyChange,
    MyConvPush,
    Receipt,
    Send,
    SyncRequest,
    WatchRequest,
)
from protocol.rows import ConvSet, GenOpt, Head, MySet
from server.handlers.conversations import FLAG_ADMINS_INVITE
from tests.server.harness import Peer, Person, Server, cid, fresh_sync, serving, watching


class Group(NamedTuple):
    """A group with one of each role, and somebody outside."""

    server: Server
    conv: int
    people: dict[str, Person]
    peers: dict[str, Peer]


ROLES = ("owner", "admin", "member", "outsider")


async def group_of(server: Server) -> Group:
    """Make a group: dan is a second plain member."""
    names = [*ROLES, "dan"]
    people = dict(zip(names, await server.people(" ".join(names)), strict=True))
    peers = {name: await server.connect(person) for name, person in people.items()}
    members = [people[name] for name in ("admin", "member", "dan")]
    conv = (await peers["owner"].create(ConvKind.GROUP, *members, title="room")).row.id or 0
    await peers["owner"].ask(MemberSet, conv, people["admin"].id, int(Role.ADMIN), 0)
    await peers["owner"].send_text(conv, "welcome")
    for peer in peers.values():
        await peer.settled()
    return Group(server, conv, people, peers)


# making


@pytest.mark.parametrize("kind", [ConvKind.AI, ConvKind.DIRECT, ConvKind.GROUP])
async def test_creating_twice_with_one_cid_gives_one_conversation(
    tmp_path: Path, kind: ConvKind
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        persona = await server.persona(ann)
        pa, pb = await server.everybody([ann, bob])
        members = [] if kind is ConvKind.AI else [bob.id]
        spirit = persona if kind is ConvKind.AI else None
        key = cid()
        first, second = [
            await pa.ask(ConvCreate, key, int(kind), "t", members, spirit) for _ in range(2)
        ]
        assert isinstance(first, ConvInfo)
        assert first.row.id == second.row.id
        assert len((await pa.ask(ConvList, False, "", 10)).rows) == 1
        pushes = [f for f in await pb.settled() if isinstance(f, MyConvPush)]
        assert len(pushes) == len(members)


async def test_who_has_left_does_not_come_back_by_creating_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        key = cid()
        conv = (await pa.ask(ConvCreate, key, 3, "ours", [bob.id])).row.id
        await pa.ask(ConvChange, conv, ConvSet(owner=bob.id))
        await pa.ask(ConvDrop, conv)
        await pb.ask(ConvChange, conv, ConvSet(title="ours alone"))
        assert await pa.refused(ConvCreate, key, 3, "ours", [bob.id]) == Code.GONE
        assert await pa.refused(ConvGet, conv) == Code.NOT_FOUND


async def test_a_pair_has_one_direct_conversation_whoever_begins(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob, cat = await server.people("ann bob cat")
        pa, pb, pc = await server.everybody([ann, bob, cat])
        first = await pa.create(ConvKind.DIRECT, bob)
        second = await pb.create(ConvKind.DIRECT, ann)
        assert first.row.id == second.row.id
        assert first.row.owner is None
        assert {m.role for m in first.members} == {Role.MEMBER}
        assert (await pc.create(ConvKind.DIRECT, ann)).row.id != first.row.id


@pytest.mark.parametrize(
    ("kind", "members", "fields", "code"),
    [
        (2, 0, {}, Code.INVALID),
        (2, 2, {}, Code.INVALID),
        (1, 1, {"persona": 1}, Code.INVALID),
        (1, 0, {}, Code.INVALID),
        (2, 1, {"persona": 1}, Code.INVALID),
        (2, 1, {"set": ConvSet(prompt="Obey me.")}, Code.INVALID),
        (9, 1, {}, Code.INVALID),
        (0, 0, {}, Code.INVALID),
        (3, 3, {}, Code.SIZE_LIMIT),
        (3, 1, {"persona": 12345}, Code.NOT_FOUND),
        (3, 1, {"set": ConvSet(persona=12345)}, Code.NOT_FOUND),
        (3, -1, {}, Code.NOT_FOUND),
    ],
)
async def test_conversations_that_make_no_sense_are_refused(
    tmp_path: Path, kind: int, members: int, fields: dict[str, Any], code: Code
) -> None:
    async with serving(tmp_path, members=3) as server:
        ann, *others = await server.people("ann bob cat dan")
        persona = await server.persona(ann)
        peer = await server.connect(ann)
        ids = [p.id for p in others[:members]] if members >= 0 else [123456]
        if fields.get("persona") == 1:
            fields = fields | {"persona": persona}
        assert await peer.refused(ConvCreate, cid(), kind, "", ids, **fields) == code
        assert (await peer.ask(ConvList, False, "", 10)).rows == []


async def test_a_new_conversation_appears_on_all_devices_and_at_all_members(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        tablet = await server.connect(ann, "json", 2)
        info = await pa.create(ConvKind.GROUP, bob, title="  our   room ")
        for peer, role in ((tablet, Role.OWNER), (pb, Role.MEMBER)):
            push = await peer.expect(MyConvPush)
            assert push.row is not None
            assert (push.row.id, push.row.title) == (info.row.id, "our room")
            assert push.my.role == role
            sent = await peer.send_text(info.row.id or 0, "hi")
            assert sent.rev == (push.row.rev or 0) + sent.seq


async def test_an_ai_conversation_begins_with_the_greeting_of_the_chosen_persona(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        persona = await server.persona(ann, greeting="Hello, dear.")
        peer = await server.connect(ann)
        info = await peer.create(ConvKind.AI, persona=persona)
        assert info.row.title == "Ada"
        push = await peer.expect(MsgPush)
        assert (push.text, push.kind, push.sender) == ("Hello, dear.", MsgKind.AI_REPLY, persona)
        page = await peer.ask(History, info.row.id, 0, True, 5)
        assert [m.text for m in page.msgs] == ["Hello, dear."]


# listing


async def test_the_list_is_paged_newest_activity_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        peer = await server.connect(ann)
        convs = [(await peer.create(ConvKind.GROUP, title=f"g{n}")).row.id for n in range(5)]
        await peer.send_text(convs[0] or 0)
        seen: list[int | None] = []
        cursor = ""
        while True:
            page = await peer.ask(ConvList, False, cursor, 2)
            assert [m.conv for m in page.mine] == [row.id for row in page.rows]
            seen += [row.id for row in page.rows]
            cursor = page.cursor
            if not cursor:
                break
        assert sorted(map(int, filter(None, seen))) == sorted(map(int, filter(None, convs)))
        assert len(seen) == 5
        assert await peer.refused(ConvList, False, "nonsense", 2) == Code.INVALID


async def test_archived_conversations_have_a_list_of_their_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        tablet = await server.connect(ann, number=2)
        await pa.ask(MyChange, conv, MySet(archived=True, remark="old\u202e", draft="to be"))
        push = await tablet.expect(MyConvPush)
        assert (push.my.archived, push.my.remark, push.my.draft) == (True, "old", "to be")
        assert (await pa.ask(ConvList, False, "", 10)).rows == []
        assert [r.id for r in (await pa.ask(ConvList, True, "", 10)).rows] == [conv]
        assert [r.id for r in (await pb.ask(ConvList, False, "", 10)).rows] == [conv]
        again = await pa.ask(MyChange, conv, MySet(archived=True))
        assert isinstance(again, Changed)
        assert again.rev == 0
        await pa.ask(MyChange, conv, MySet(archived=False, remark=""))
        assert [r.id for r in (await pa.ask(ConvList, False, "", 10)).rows] == [conv]


# who may do what

COMMANDS: dict[str, tuple[Any, dict[str, Code | None]]] = {
    "read": (
        lambda g: (History, g.conv, 0, True, 10),
        {"admin": None, "member": None, "outsider": Code.NOT_FOUND},
    ),
    "write": (
        lambda g: (Send, g.conv, cid(), 0, "hello"),
        {"admin": None, "member": None, "outsider": Code.NOT_FOUND},
    ),
    "list members": (
        lambda g: (Members, g.conv, "", 10),
        {"admin": None, "member": None, "outsider": Code.NOT_FOUND},
    ),
    "rename": (
        lambda g: (ConvChange, g.conv, ConvSet(title="new", notice="n", opt=GenOpt(model="m"))),
        {"admin": None, "member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "hand over": (
        lambda g: (ConvChange, g.conv, ConvSet(owner=g.people["dan"].id)),
        {"admin": Code.NOT_PERMITTED, "member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "delete": (
        lambda g: (ConvChange, g.conv, ConvSet(deleted=True)),
        {"admin": Code.NOT_PERMITTED, "member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "add": (
        lambda g: (MemberAdd, g.conv, [g.people["outsider"].id]),
        {"admin": None, "member": None, "outsider": Code.NOT_FOUND},
    ),
    "remove a member": (
        lambda g: (MemberDrop, g.conv, g.people["dan"].id),
        {"admin": None, "member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "remove an admin": (
        lambda g: (MemberDrop, g.conv, g.people["admin"].id),
        {"member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "remove the owner": (
        lambda g: (MemberDrop, g.conv, g.people["owner"].id),
        {
            "owner": Code.NOT_PERMITTED,
            "admin": Code.NOT_PERMITTED,
            "member": Code.NOT_PERMITTED,
            "outsider": Code.NOT_FOUND,
        },
    ),
    "promote": (
        lambda g: (MemberSet, g.conv, g.people["dan"].id, int(Role.ADMIN), 0),
        {"admin": Code.NOT_PERMITTED, "member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "mute": (
        lambda g: (MemberSet, g.conv, g.people["dan"].id, int(Role.MEMBER), 60_000),
        {"admin": None, "member": Code.NOT_PERMITTED, "outsider": Code.NOT_FOUND},
    ),
    "mute the owner": (
        lambda g: (MemberSet, g.conv, g.people["owner"].id, int(Role.OWNER), 60_000),
        {
            "admin": Code.NOT_PERMITTED,
            "member": Code.NOT_PERMITTED,
            "outsider": Code.NOT_FOUND,
        },
    ),
    "make an owner": (
        lambda g: (MemberSet, g.conv, g.people["dan"].id, int(Role.OWNER), 0),
        {"owner": Code.INVALID, "admin": Code.INVALID, "outsider": Code.NOT_FOUND},
    ),
    "remove a stranger": (
        lambda g: (MemberDrop, g.conv, g.people["outsider"].id),
        {"owner": Code.NOT_FOUND, "admin": Code.NOT_FOUND, "outsider": Code.NOT_FOUND},
    ),
}
"""What each command does for each role: None, it is done (owners may everything else)."""

MATRIX = [
    (command, role, expected.get(role))
    for command, (_, expected) in COMMANDS.items()
    for role in ROLES
    if role in expected or role == "owner"
]


@pytest.mark.parametrize(
    ("command", "role", "code"), MATRIX, ids=[f"{c}-{r}".replace(" ", "_") for c, r, _ in MATRIX]
)
async def test_roles(tmp_path: Path, command: str, role: str, code: Code | None) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        request = COMMANDS[command][0](group)
        before = await group.peers["owner"].ask(ConvGet, group.conv)
        reply = await group.peers[role].ask(*request)
        if code is None:
            assert not isinstance(reply, Err), reply
            return
        assert isinstance(reply, Err)
        assert reply.code == code
        after = await group.peers["owner"].ask(ConvGet, group.conv)
        assert after.row.rev == before.row.rev, "a refused command changes nothing"


async def test_a_muted_member_reads_and_does_not_write(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        dan, conv = group.peers["dan"], group.conv
        member = group.people["dan"].id
        await group.peers["admin"].ask(MemberSet, conv, member, int(Role.MEMBER), 60_000)
        assert await dan.refused(Send, conv, cid(), 0, "x") == Code.NOT_PERMITTED
        assert await dan.refused(Gen, conv, cid(), 1, 1) == Code.NOT_PERMITTED
        assert (await dan.ask(History, conv, 0, True, 10)).msgs
        later_ms = server.core.now_ms() + 61_000
        server.core.now_ms = lambda: later_ms  # type: ignore[method-assign]
        assert (await dan.send_text(conv)).seq == 2


async def test_a_group_may_leave_inviting_to_its_administrators(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        owner, conv = group.peers["owner"], group.conv
        await owner.ask(ConvChange, conv, ConvSet(flags=FLAG_ADMINS_INVITE))
        guest = group.people["outsider"].id
        assert await group.peers["member"].refused(MemberAdd, conv, [guest]) == Code.NOT_PERMITTED
        assert isinstance(await group.peers["admin"].ask(MemberAdd, conv, [guest]), Changed)


# what members see of changes: every revision once, none left out


async def test_all_changes_reach_every_member_without_a_gap(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        owner, conv, people = group.peers["owner"], group.conv, group.people
        watcher = group.peers["member"]
        start = (await watcher.ask(ConvGet, conv)).row.rev
        await owner.ask(ConvChange, conv, ConvSet(title="second"))
        await owner.ask(MemberAdd, conv, [people["outsider"].id])
        await owner.ask(MemberSet, conv, people["dan"].id, int(Role.ADMIN), 0)
        await owner.ask(MemberDrop, conv, people["outsider"].id)
        await owner.ask(ConvChange, conv, ConvSet(owner=people["admin"].id))
        await owner.send_text(conv, "no owner any more")
        await owner.ask(ConvChange, conv, ConvSet(title="second"))  # changes nothing
        await owner.ask(ConvDrop, conv)  # leaves
        frames = [
            f for f in await watcher.settled() if isinstance(f, ConvPush | MemberPush | MsgPush)
        ]
        end = (await watcher.ask(ConvGet, conv)).row.rev
        assert [f.rev for f in frames] == list(range(start + 1, end + 1))


async def test_a_handed_over_group_has_one_owner(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        owner, conv, people = group.peers["owner"], group.conv, group.people
        reply = await owner.ask(ConvChange, conv, ConvSet(owner=people["dan"].id))
        assert isinstance(reply, Changed)
        for source in ("cache", "store"):
            members = (await group.peers["dan"].ask(Members, conv, "", 10)).items
            if source == "cache":
                members = (await group.peers["dan"].ask(ConvGet, conv)).members
            roles = {m.user: m.role for m in members}
            assert roles[people["dan"].id] == Role.OWNER, source
            assert roles[people["owner"].id] == Role.ADMIN, source
        mine = (await group.peers["dan"].ask(ConvGet, conv)).my
        assert mine.role == Role.OWNER
        refused = await owner.refused(ConvChange, conv, ConvSet(deleted=True))
        assert refused == Code.NOT_PERMITTED
        assert await owner.refused(ConvChange, conv, ConvSet(owner=12345)) == Code.NOT_PERMITTED
        dan = group.peers["dan"]
        outsider = people["outsider"].id
        assert await dan.refused(ConvChange, conv, ConvSet(owner=outsider)) == Code.NOT_FOUND


# coming and going


async def test_who_is_removed_sees_nothing_more(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        dan, owner, conv = group.peers["dan"], group.peers["owner"], group.conv
        await dan.ask(WatchRequest, watching(conv))
        await owner.ask(MemberDrop, conv, group.people["dan"].id)
        push = await dan.expect(MyConvPush)
        assert (push.my.conv, push.my.role, push.my.left) == (conv, Role.GONE, True)
        await owner.send_text(conv, "behind the back")
        assert await dan.settled() == []
        assert list(server.core.hub.watchers_of(conv)) == []
        assert await dan.refused(Send, conv, cid(), 0, "x") == Code.NOT_FOUND
        assert await dan.refused(History, conv, 0, True, 5) == Code.NOT_FOUND
        assert (await dan.ask(ConvList, False, "", 10)).rows == []
        synced = await dan.ask(SyncRequest, fresh_sync(heads=[Head(conv, 1)]))
        assert synced.convs == []


async def test_who_comes_back_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        dan, owner, conv = group.peers["dan"], group.peers["owner"], group.conv
        left = await dan.ask(MemberDrop, conv, group.people["dan"].id)
        assert isinstance(left, Changed)
        await owner.send_text(conv, "meanwhile")
        await owner.ask(MemberAdd, conv, [group.people["dan"].id])
        push = await dan.expect(MyConvPush, lambda f: f.my.role == Role.MEMBER)
        assert push.row is not None
        texts = [m.text for m in (await dan.ask(History, conv, 0, True, 5)).msgs]
        assert texts == ["welcome", "meanwhile"]
        again = await owner.ask(MemberAdd, conv, [group.people["dan"].id])
        assert again.rev == 0
        sent = await owner.send_text(conv, "live")
        assert (await dan.expect(MsgPush)).rev == sent.rev


async def test_newcomers_learn_where_the_conversation_stands(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        owner, conv = group.peers["owner"], group.conv
        last = await owner.send_text(conv, "second")
        guest = group.people["outsider"].id
        added = await owner.ask(MemberAdd, conv, [guest])
        push = await group.peers["outsider"].expect(MyConvPush)
        assert push.row is not None
        assert (push.row.last_seq, push.row.updated) == (last.seq, last.ts)
        assert push.row.rev == added.rev == last.rev + 1


async def test_a_full_group_takes_nobody_more(tmp_path: Path) -> None:
    async with serving(tmp_path, members=3) as server:
        people = await server.people("ann bob cat dan")
        peer = await server.connect(people[0])
        conv = (await peer.create(ConvKind.GROUP, people[1])).row.id or 0
        ids = [p.id for p in people[2:]]
        assert await peer.refused(MemberAdd, conv, ids) == Code.SIZE_LIMIT
        assert len((await peer.ask(ConvGet, conv)).members) == 2
        assert isinstance(await peer.ask(MemberAdd, conv, ids[:1]), Changed)


async def test_members_are_paged(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        people = await server.people("ann bob cat dan eva")
        peer = await server.connect(people[0])
        conv = (await peer.create(ConvKind.GROUP, *people[1:])).row.id or 0
        seen, cursor = [], ""
        while True:
            page = await peer.ask(Members, conv, cursor, 2)
            seen += [m.user for m in page.items]
            cursor = page.cursor
            if not cursor:
                break
        assert sorted(seen) == sorted(p.id for p in people)


async def test_groups_only_take_and_lose_members(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob, cat = await server.people("ann bob cat")
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.DIRECT, bob)).row.id or 0
        assert await peer.refused(MemberAdd, conv, [cat.id]) == Code.NOT_PERMITTED
        assert await peer.refused(MemberDrop, conv, bob.id) == Code.NOT_PERMITTED
        assert await peer.refused(ConvChange, conv, ConvSet(title="x")) == Code.NOT_PERMITTED


# deleting


async def test_a_deleted_group_can_be_restored(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        group = await group_of(server)
        owner, member, conv = group.peers["owner"], group.peers["member"], group.conv
        assert isinstance(await owner.ask(ConvDrop, conv), Changed)
        assert (await member.expect(ConvPush)).row.deleted is True
        for peer in (owner, member):
            assert (await peer.ask(ConvList, False, "", 10)).rows == []
            assert await peer.refused(Send, conv, cid(), 0, "x") == Code.GONE
        archive = (await owner.ask(ConvList, True, "", 10)).rows
        assert [(r.id, r.deleted) for r in archive] == [(conv, True)]
        assert (await owner.ask(ConvDrop, conv)).rev == 0
        assert isinstance(await owner.ask(ConvChange, conv, ConvSet(deleted=False)), Changed)
        assert (await member.expect(ConvPush)).row.deleted is None
        assert (await member.send_text(conv, "back")).seq == 2
        assert [r.id for r in (await member.ask(ConvList, False, "", 10)).rows] == [conv]


async def test_a_deleted_conversation_asks_no_persona(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("ann")
        persona = await server.persona(ann)
        peer = await server.connect(ann)
        conv = (await peer.create(ConvKind.AI, persona=persona)).row.id or 0
        await peer.ask(Send, conv, cid(), 0, "hello")
        await peer.expect(MsgPush, lambda f: f.kind == MsgKind.AI_REPLY)
        await peer.ask(ConvDrop, conv)
        assert await peer.refused(Gen, conv, cid(), 2, 1) == Code.GONE


async def test_a_direct_conversation_is_put_away_and_comes_back_with_a_message(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.DIRECT, bob)).row.id or 0
        await pa.send_text(conv, "hello")
        await pa.settled()
        assert isinstance(await pa.ask(ConvDrop, conv), Changed)
        assert (await pa.expect(MyConvPush)).my.left is True
        assert (await pa.ask(ConvList, False, "", 10)).rows == []
        assert [r.id for r in (await pb.ask(ConvList, False, "", 10)).rows] == [conv]
        await pb.send_text(conv, "are you there?")
        back = await pa.expect(MyConvPush)
        assert back.my.left is None
        assert back.row is not None
        assert (await pa.expect(MsgPush)).text == "are you there?"
        assert [r.id for r in (await pa.ask(ConvList, False, "", 10)).rows] == [conv]


async def test_who_begins_anew_finds_the_old_direct_conversation(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa = await server.connect(ann)
        info = await pa.create(ConvKind.DIRECT, bob)
        await pa.ask(ConvDrop, info.row.id)
        again = await pa.create(ConvKind.DIRECT, bob)
        assert again.row.id == info.row.id
        assert again.my.left is None
        assert [r.id for r in (await pa.ask(ConvList, False, "", 10)).rows] == [info.row.id]


# read cursors


async def test_read_cursors_follow_to_other_devices_and_peers(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        for n in range(3):
            await pa.send_text(conv, str(n))
        tablet = await server.connect(bob, "ws", 2)
        await pa.settled()
        await pb.settled()
        await tablet.settled()
        pb.send(Mark(conv, 2, 3), Mark(conv, 1, 1))
        await pb.settled()
        server.advance(1)
        push = await tablet.expect(MyConvPush)
        assert (push.my.conv, push.my.read, push.my.recv) == (conv, 2, 3)
        receipt = await pa.expect(Receipt)
        assert [(r.user, r.read) for r in receipt.reads] == [(bob.id, 2)]
        pb.send(Mark(conv, 99, 99))
        await pb.settled()
        server.advance(1)
        assert (await tablet.expect(MyConvPush)).my.read == 3
        pb.send(Mark(conv, 1, 1))
        await pb.settled()
        server.advance(1)
        await server.idle()
        assert (await pb.ask(ConvGet, conv)).my.read == 3


async def test_what_one_has_sent_counts_as_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann, bob = await server.people("ann bob")
        pa, pb = await server.everybody([ann, bob])
        conv = (await pa.create(ConvKind.GROUP, bob)).row.id or 0
        await pb.send_text(conv)
        await pa.send_text(conv)
        server.advance(1)
        await server.idle()
        assert (await pa.ask(ConvGet, conv)).my.read == 2
        assert (await pb.ask(ConvGet, conv)).my.read == 1


async def test_a_greeting_names_the_one_it_greets(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        ann = await server.person("小红")
        persona = await server.persona(ann, "Ada", greeting="{{user}}，我是{{char}}。")
        peer = await server.connect(ann)
        await peer.create(ConvKind.AI, persona=persona)
        pushed = await peer.expect(MsgPush)
        assert pushed.text == "小红，我是Ada。"
