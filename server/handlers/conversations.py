"""Making, listing and changing conversations, and who is in them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ai_bridge.macros import fill_macros
from protocol.codes import Code, ConvKind, MsgKind, Role, TalkMode
from protocol.envelopes import (
    Changed,
    ConvChange,
    ConvCreate,
    ConvDrop,
    ConvGet,
    ConvInfo,
    ConvList,
    ConvPage,
    ConvPush,
    MemberAdd,
    MemberDrop,
    MemberPage,
    MemberPush,
    Members,
    MemberSet,
    MyChange,
    MyConvPush,
)
from protocol.rows import Conv, ConvSet, Member, MyConv, Persona
from protocol.text import clean_name, clean_text
from server.delivery import Announcement, publish_change
from server.directory import Conversation, member_row
from server.errors import ServiceError, invalid, not_found, not_permitted
from server.router import Caller, Router
from storage.conversations import (
    change_conversation,
    create_conversation,
    drop_conversation,
    get_conversation,
    list_conversations,
)
from storage.members import (
    add_members,
    change_mine,
    drop_member,
    hide_member,
    member_page,
    set_member,
)
from storage.ops import Op
from storage.people import users_of_tenant
from storage.rows import (
    AddedMember,
    CreatedConversation,
    DroppedMember,
    NewConversation,
)
from storage.writes import Tx

if TYPE_CHECKING:
    from server.core import Core

FLAG_ADMINS_INVITE = 2
"""Conv.flags: only administrators add members."""
SHOWN_MEMBERS = 200
PAGE_BYTES = 384 * 1024
"""Prompts and notices of one page; a frame holds at most 1 MiB."""


def register(router: Router) -> None:
    """Add this subject's rows to the table."""
    router.serve(ConvCreate, create, 5)
    router.serve(ConvGet, get, 1)
    router.serve(ConvList, list_page, 2)
    router.serve(ConvChange, change, 1)
    router.serve(MyChange, change_my_view, 1)
    router.serve(ConvDrop, drop, 1)
    router.serve(Members, list_members, 2)
    router.serve(MemberAdd, add, 5)
    router.serve(MemberDrop, remove, 1)
    router.serve(MemberSet, set_role, 1)


# making and reading


async def create(core: "Core", caller: Caller, f: ConvCreate) -> ConvInfo:
    """Create a conversation, or return the one this cid (or pair of people) already has."""
    persona = _persona_for(core, caller, f)
    others = [user for user in dict.fromkeys(f.members) if user != caller.user]
    if f.kind == ConvKind.DIRECT and len(others) != 1:
        raise invalid("members", "A direct conversation has exactly one other person.")
    if f.kind == ConvKind.AI and others:
        raise invalid("members", "An AI conversation is one person's; make a group instead.")
    if f.kind not in set(ConvKind):
        raise invalid("kind")
    if len(others) >= core.policy.members:
        raise ServiceError(Code.SIZE_LIMIT, "too many members")
    if others and len(await core.store.read(users_of_tenant(caller.tenant, others))) != len(others):
        raise not_found("user")
    change_set = None if f.set is None else _clean_set(f.set)
    if change_set is not None and f.kind == ConvKind.DIRECT:
        raise invalid("set", "A direct conversation has no settings for both.")
    if change_set is not None:
        _check_personas(core, caller, ConvKind(f.kind), change_set)
    new = NewConversation(
        id=core.new_id(),
        tenant=caller.tenant,
        kind=f.kind,
        creator=caller.user,
        cid=f.cid,
        title=_title(core, f, persona),
        members=[caller.user, *others],
        persona=(persona.id if persona else None) or 0,
        set=change_set,
    )
    if persona is not None and "{{" in (persona.greeting or ""):
        persona = replace(persona, greeting=await _greeting(core, caller, persona))
    feeds = (caller.user, *others)
    created = await core.store.change(
        feeds,
        lambda tx: create_conversation(tx, new),
        publish=lambda created: _publish_created(core, created, persona),
    )
    my = created.my[caller.user][0] if caller.user in created.my else None
    if my is None or not my.role:
        raise ServiceError(Code.GONE, "left", "You have left the conversation that this made.")
    members = [_member(m.user, m.role, m.nick, m.joined) for m in created.record.members]
    return ConvInfo(f.rid, created.record.row, my, members[:SHOWN_MEMBERS])


async def _greeting(core: "Core", caller: Caller, persona: Persona) -> str:
    """Return the greeting of a card with the names put in."""
    people = await core.store.read(users_of_tenant(caller.tenant, [caller.user]))
    name = (people[0].nick or people[0].name or "") if people else ""
    return fill_macros(persona.greeting or "", persona.name or "", name)


def _persona_for(core: "Core", caller: Caller, f: ConvCreate) -> Persona | None:
    wanted = f.persona or (core.personas.choice(caller.user) if f.kind == ConvKind.AI else 0)
    if not wanted:
        if f.kind == ConvKind.AI:
            raise invalid("persona", "Choose a persona for an AI conversation.")
        return None
    if f.kind == ConvKind.DIRECT:
        raise invalid("persona", "A direct conversation has no persona.")
    return core.personas.require(caller, wanted)


def _title(core: "Core", f: ConvCreate, persona: Persona | None) -> str:
    if f.title.strip():
        return clean_name(f.title, 128)
    if f.kind == ConvKind.DIRECT:
        return ""
    return (persona.name if persona and f.kind == ConvKind.AI else None) or core.default_title


def _publish_created(core: "Core", created: CreatedConversation, persona: Persona | None) -> None:
    record = created.record
    core.directory.changed(record.row.id or 0)
    entry = core.directory.put(record)
    for user, (my, rev) in created.my.items():
        if rev:
            core.hub.publish((user,), MyConvPush(rev, my, record.row))
    if created.existing or persona is None or entry.kind is not ConvKind.AI:
        return
    if persona.greeting:
        core.store.submit(
            Announcement(core, entry, persona.id or 0, MsgKind.AI_REPLY, persona.greeting)
        )


async def get(core: "Core", caller: Caller, f: ConvGet) -> ConvInfo:
    """Return a conversation, one's own view of it and its first members."""
    entry = await core.directory.require(f.conv, caller)
    found = await core.store.read(get_conversation(entry.id, caller.user))
    if found is None:
        raise not_found("conversation")
    members = [_member(m.user, m.role, m.nick, m.joined) for m in entry.members.values()]
    return ConvInfo(f.rid, found[0], found[1], members[:SHOWN_MEMBERS])


async def list_page(core: "Core", caller: Caller, f: ConvList) -> ConvPage:
    """Return a page of conversations, most recently active first."""
    limit = f.limit
    while True:
        rows, mine, cursor = await core.store.read(
            list_conversations(caller.user, f.archived, f.cursor, limit)
        )
        limit = len(rows) // 2
        if not limit or sum(map(_size, rows)) <= PAGE_BYTES:
            return ConvPage(f.rid, rows, mine, cursor)


def _size(row: Conv) -> int:
    return sum(len(text.encode()) for text in (row.prompt, row.notice) if text)


async def list_members(core: "Core", caller: Caller, f: Members) -> MemberPage:
    """Return a page of members."""
    entry = await core.directory.require(f.conv, caller)
    items, cursor = await core.store.read(member_page(entry.id, f.cursor, f.limit))
    return MemberPage(f.rid, items, cursor)


# changing


async def change(core: "Core", caller: Caller, f: ConvChange) -> Changed:
    """Change a conversation for everybody; `deleted` false brings a deleted one back."""
    entry = await core.directory.require(f.conv, caller)
    wanted = _clean_set(f.set)
    if entry.kind is ConvKind.DIRECT:
        return await _change_direct(core, caller, entry, f.rid, wanted)
    role = entry.members[caller.user].role
    if role < Role.ADMIN:
        raise not_permitted("administrators only")
    if (wanted.owner or wanted.deleted is not None) and role < Role.OWNER:
        raise not_permitted("owner only")
    _check_personas(core, caller, entry.kind, wanted, entry.row.personas or ())
    if wanted.owner and wanted.owner != caller.user:
        return await _hand_over(core, caller, entry, f.rid, wanted)
    _, rev = await core.store.change(
        (entry.id,),
        lambda tx: change_conversation(tx, entry.id, wanted),
        publish=lambda result: _publish_row(core, entry, *result),
    )
    return Changed(f.rid, entry.id, rev, core.now_ms())


class _HandedOver(NamedTuple):
    """What a change of owner did: both members, then the conversation, each with its revision."""

    members: list[tuple[Member, int]]
    row: Conv
    rev: int


async def _hand_over(
    core: "Core", caller: Caller, entry: Conversation, rid: int, wanted: ConvSet
) -> Changed:
    """Change the conversation and its owner; the former one stays as an administrator."""
    old, new = caller.user, wanted.owner or 0
    if new not in entry.members:
        raise not_found("member")

    def make(tx: Tx) -> Op[_HandedOver]:
        owner = yield from set_member(tx, entry.id, new, Role.OWNER, None)
        former = yield from set_member(tx, entry.id, old, Role.ADMIN, None)
        row, rev = yield from change_conversation(tx, entry.id, wanted)
        return _HandedOver([owner, former], row, rev)

    def publish(done: _HandedOver) -> None:
        for member, rev in done.members:
            _publish_member(core, entry, member, rev)
        _publish_row(core, entry, done.row, done.rev)

    done = await core.store.change((entry.id,), make, publish=publish)
    return Changed(rid, entry.id, done.rev, core.now_ms())


async def _change_direct(
    core: "Core", caller: Caller, entry: Conversation, rid: int, wanted: ConvSet
) -> Changed:
    given = {name for name in ConvSet.__struct_fields__ if getattr(wanted, name) is not None}
    if given != {"deleted"}:
        raise not_permitted("a direct conversation has no settings for both")
    rev = await _hide(core, caller.user, entry, bool(wanted.deleted))
    return Changed(rid, 0, rev, core.now_ms())


def _publish_row(core: "Core", entry: Conversation, row: Conv, rev: int) -> None:
    core.directory.set_row(entry.id, row)
    if rev:
        now = core.directory.peek(entry.id) or entry
        publish_change(core, now, ConvPush(entry.id, rev, row), rev)


async def change_my_view(core: "Core", caller: Caller, f: MyChange) -> Changed:
    """Change one's own view: muted, pinned, archived, remark, draft."""
    entry = await core.directory.require(f.conv, caller)
    wanted = f.set
    if wanted.remark:
        wanted.remark = clean_name(wanted.remark, 64)
    if wanted.draft:
        wanted.draft = clean_text(wanted.draft, 4000)
    _, rev = await core.store.change(
        (caller.user,),
        lambda tx: change_mine(tx, entry.id, caller.user, wanted),
        publish=lambda result: _publish_mine(core, caller.user, *result),
    )
    return Changed(f.rid, 0, rev, core.now_ms())


def _publish_mine(core: "Core", user: int, my: MyConv, rev: int) -> None:
    if rev:
        core.hub.publish((user,), MyConvPush(rev, my))


async def drop(core: "Core", caller: Caller, f: ConvDrop) -> Changed:
    """Delete (owner; can be restored), leave (other members of a group), or put away (direct)."""
    entry = await core.directory.require(f.conv, caller)
    if entry.kind is ConvKind.DIRECT:
        rev = await _hide(core, caller.user, entry, True)
        return Changed(f.rid, 0, rev, core.now_ms())
    if entry.members[caller.user].role < Role.OWNER:
        rev = await _drop_member(core, entry, caller.user)
        return Changed(f.rid, entry.id, rev, core.now_ms())
    _, rev = await core.store.change(
        (entry.id,),
        lambda tx: drop_conversation(tx, entry.id),
        publish=lambda result: _publish_row(core, entry, *result),
    )
    return Changed(f.rid, entry.id, rev, core.now_ms())


async def _hide(core: "Core", user: int, entry: Conversation, left: bool) -> int:
    def publish(result: tuple[MyConv, int]) -> None:
        now = core.directory.changed(entry.id)
        member = (now or entry).members.get(user)
        if now is not None and member is not None:
            now.put_member(replace(member, left=left))
        my, rev = result
        if rev:
            core.hub.publish((user,), MyConvPush(rev, my, entry.row))

    _, rev = await core.store.change(
        (user,), lambda tx: hide_member(tx, entry.id, user, left), publish=publish
    )
    return rev


async def unhide(core: "Core", entry: Conversation) -> None:
    """Bring a direct conversation back for those who had put it away: something new was said."""
    for user in list(entry.hidden):
        await _hide(core, user, entry, False)


# members


async def add(core: "Core", caller: Caller, f: MemberAdd) -> Changed:
    """Add people to a group; those who are in it already are left alone."""
    entry = await core.directory.require(f.conv, caller)
    if entry.kind is not ConvKind.GROUP:
        raise not_permitted("only groups take members")
    if (entry.row.flags or 0) & FLAG_ADMINS_INVITE:
        _require_role(entry, caller, Role.ADMIN)
    users = list(dict.fromkeys(f.users))
    if len(await core.store.read(users_of_tenant(caller.tenant, users))) != len(users):
        raise not_found("user")

    def publish(added: list[AddedMember]) -> None:
        for item in added:
            _publish_member(core, entry, item.member, item.rev, item.my)
            row = (core.directory.peek(entry.id) or entry).row
            core.hub.publish((item.member.user or 0,), MyConvPush(item.my_rev, item.my, row))

    added = await core.store.change(
        (entry.id, *users),
        lambda tx: add_members(tx, entry.id, users, core.policy.members),
        publish=publish,
    )
    return Changed(f.rid, entry.id, added[-1].rev if added else 0, core.now_ms())


async def remove(core: "Core", caller: Caller, f: MemberDrop) -> Changed:
    """Leave a group, or remove somebody of lower role from it."""
    entry = await core.directory.require(f.conv, caller)
    if entry.kind is not ConvKind.GROUP:
        raise not_permitted("only groups lose members")
    target = entry.members.get(f.user)
    if target is None:
        raise not_found("member")
    if f.user != caller.user:
        _require_role(entry, caller, Role.ADMIN)
        if target.role >= entry.members[caller.user].role:
            raise not_permitted("role")
    elif target.role == Role.OWNER:
        raise not_permitted("hand the group over or delete it first")
    rev = await _drop_member(core, entry, f.user)
    return Changed(f.rid, entry.id, rev, core.now_ms())


async def _drop_member(core: "Core", entry: Conversation, user: int) -> int:
    def publish(dropped: DroppedMember) -> None:
        if not dropped.rev:
            return
        _publish_member(core, entry, dropped.member, dropped.rev)
        core.hub.publish((user,), MyConvPush(dropped.my_rev, dropped.my))
        for session in core.hub.sessions_of(user):
            core.hub.watch(session, tuple(c for c in session.watched if c != entry.id))

    dropped = await core.store.change(
        (entry.id, user), lambda tx: drop_member(tx, entry.id, user), publish=publish
    )
    return dropped.rev


async def set_role(core: "Core", caller: Caller, f: MemberSet) -> Changed:
    """Set a member's role (owner only) and mute time (administrators)."""
    entry = await core.directory.require(f.conv, caller)
    target = entry.members.get(f.user)
    if target is None:
        raise not_found("member")
    mine = entry.members[caller.user].role
    if f.role not in (Role.MEMBER, Role.ADMIN) and f.role != target.role:
        raise invalid("role")
    if f.role != target.role and mine < Role.OWNER:
        raise not_permitted("owner only")
    if mine < Role.ADMIN or (target.role >= mine and f.user != caller.user):
        raise not_permitted("role")
    if target.role == Role.OWNER and f.role != Role.OWNER:
        raise not_permitted("hand the group over instead")
    mute_until = core.now_ms() + f.mute_ms if f.mute_ms else 0
    _, rev = await core.store.change(
        (entry.id,),
        lambda tx: set_member(tx, entry.id, f.user, f.role, mute_until),
        publish=lambda result: _publish_member(core, entry, *result),
    )
    return Changed(f.rid, entry.id, rev, core.now_ms())


def _publish_member(
    core: "Core", entry: Conversation, member: Member, rev: int, my: MyConv | None = None
) -> None:
    user = member.user or 0
    before = (core.directory.peek(entry.id) or entry).members.get(user)
    row = member_row(member, before)
    if my is not None:
        # A newcomer's floor stands in the own view only; without it hidden history would show.
        row = replace(row, joined_seq=my.joined_seq or 0, min_seq=my.min_seq or 0)
    core.directory.set_members(entry.id, [row])
    if rev:
        now = core.directory.peek(entry.id) or entry
        publish_change(core, now, MemberPush(entry.id, rev, member), rev)


def _require_role(entry: Conversation, caller: Caller, role: Role) -> None:
    if entry.members[caller.user].role < role:
        raise not_permitted("administrators only")


# cleaning


def _check_personas(
    core: "Core", caller: Caller, kind: ConvKind, wanted: ConvSet, known: Sequence[int] = ()
) -> None:
    """Refuse personas that caller may not use; those of a room already stay."""
    if kind is not ConvKind.GROUP and (wanted.personas or wanted.talk):
        raise invalid("personas", "Only a group has several personas.")
    if wanted.talk is not None and wanted.talk not in set(TalkMode):
        raise invalid("talk")
    if wanted.personas is not None:
        wanted.personas = list(dict.fromkeys(wanted.personas))
    added = [persona for persona in wanted.personas or () if persona not in known]
    for persona in (wanted.persona, *added):
        if persona:
            core.personas.require(caller, persona)


def _clean_set(wanted: ConvSet) -> ConvSet:
    if wanted.title:
        wanted.title = clean_name(wanted.title, 128)
    if wanted.notice:
        wanted.notice = clean_text(wanted.notice, 2000)
    if wanted.prompt:
        wanted.prompt = clean_text(wanted.prompt, 16_000)
    return wanted


def _member(user: int, role: int, nick: str, joined: int) -> Member:
    return Member(user=user, role=role, nick=nick or None, joined=joined)
