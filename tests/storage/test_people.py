"""Users, sign-in, devices, personas and turns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from protocol.rows import Device, GenOpt, Persona, User
from storage import accounts, devices, people, personas, turns
from storage.errors import Exists, Invalid, NotFound
from storage.ids import new_id
from storage.ops import Op, Statement
from storage.rows import (
    Account,
    DeviceTouch,
    EndTurn,
    NewTurn,
    SignedOut,
    TurnCheckpoint,
    TurnStatus,
)
from tests.storage.world import World, cid
from tests.support.turns import turns_of


def token(number: int) -> bytes:
    return number.to_bytes(32, "big")


def one(statement: Statement) -> Op[None]:
    yield statement


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Zoë-1", "ZOË-1"),
        ("wide-1", "ＷＩＤＥ－１"),
        ("straße-1", "STRASSE-1"),
        ("用户-1", "用户－１"),
        ("ﬁne-1", "FINE-1"),
    ],
)
async def test_names_are_unique_whatever_their_case_and_width(
    world: World, first: str, second: str
) -> None:
    user = await world.user(first)
    with pytest.raises(Exists):
        await world.user(second)
    found = await world.store.read(people.user_by_name(1, second))
    assert found is not None
    assert (found.id, found.name) == (user, first)
    other = await world.user(second, tenant=77)
    assert other != user, "tenants do not see each other's names"


async def test_two_of_the_same_name_in_one_batch_make_one_user(world: World) -> None:
    results = await asyncio.gather(world.user("racer"), world.user("RACER"), return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["Exists", "int"]


async def test_users_are_found_by_the_beginning_of_name_or_nick(world: World) -> None:
    tenant = new_id()
    change = world.store.change
    made = []
    for name, nick in (("Search-Ann", ""), ("other", "SEARCH-nick"), ("搜索者", ""), ("100%", "")):
        make = partial(accounts.create_user, tenant=tenant, name=name, nick=nick, id=new_id())
        made.append((await change((), make)).id)
    find = partial(people.find_users, tenant, limit=10)
    assert [u.id for u in await world.store.read(find(query="search-"))] == made[:2]
    assert [u.id for u in await world.store.read(find(query="搜"))] == [made[2]]
    assert [u.id for u in await world.store.read(find(query="100%"))] == [made[3]]
    assert await world.store.read(find(query="%")) == []
    assert await world.store.read(find(query="_")) == []
    assert await world.store.read(find(query="")) == []
    await change((), partial(accounts.set_disabled, user=made[0] or 0, disabled=True))
    assert [u.id for u in await world.store.read(find(query="search-"))] == [made[1]]
    ids = [made[1] or 0, made[0] or 0, 5]
    assert [u.id for u in await world.store.read(people.get_users(ids))] == made[:2]
    assert await world.store.read(people.users_of_tenant(1, ids)) == []


async def test_a_profile_changes_with_a_revision(world: World) -> None:
    ann = await world.user()
    given = User(nick="Annie 😀", bio="b", avatar=5, persona=9, name="ignored")
    user, rev = await world.store.change([ann], partial(people.set_profile, user=ann, given=given))
    assert (user.nick, user.bio, user.avatar, user.persona, rev) == ("Annie 😀", "b", 5, 9, 1)
    assert user.name != "ignored"
    _, rev = await world.store.change([ann], partial(people.set_profile, user=ann, given=given))
    assert rev == 0
    user, _ = await world.store.change(
        [ann], partial(people.set_profile, user=ann, given=User(persona=0, nick=""))
    )
    assert (user.persona, user.nick, user.bio) == (None, None, "b")


async def test_passwords_and_what_makes_tokens_void(world: World) -> None:
    ann, name = new_id(), f"pw-{new_id()}"
    change, read = world.store.change, world.store.read
    make = partial(accounts.create_user, tenant=1, name=name, password_hash="h1", id=ann)
    await change((), make)
    found = await read(accounts.credentials(1, name.upper()))
    assert found is not None
    assert (found.user, found.password_hash, found.disabled, found.token_epoch) == (
        ann,
        "h1",
        False,
        0,
    )
    await change((), partial(accounts.set_password, user=ann, password_hash="h2"))
    await change((), partial(accounts.set_password, user=ann, password_hash="h3", revoke=False))
    await change((), partial(accounts.set_disabled, user=ann, disabled=True))
    found = await read(accounts.credentials(1, name))
    assert found is not None
    assert (found.password_hash, found.disabled, found.token_epoch) == ("h3", True, 2)
    assert await read(accounts.credentials(1, "nobody")) is None


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        (partial(accounts.set_password, password_hash="h"), True),
        (partial(accounts.set_password, password_hash="h", revoke=False), False),
        (partial(accounts.set_disabled, disabled=True), True),
        (partial(accounts.set_disabled, disabled=False), True),
    ],
)
async def test_a_new_password_or_a_lock_ends_every_sign_in_of_its_user_only(
    world: World, change: partial[Op[None]], ends: bool
) -> None:
    ann, bob = await world.users(2)
    base = new_id() << 8
    for number, user, device in ((0, ann, 1), (1, ann, 2), (2, bob, 1)):
        add = partial(accounts.add_refresh, user=user, device=cid(device), expires=2**50)
        await world.store.change((), partial(add, hash=token(base + number)))
    await world.store.change((), partial(change, user=ann))
    if ends:  # let in again: only what the change deleted is missing
        unlock = Statement("UPDATE user SET disabled = 0 WHERE id = ?", (ann,))
        await world.store.change((), lambda tx: one(unlock))

    async def works(number: int) -> bool:
        use = partial(accounts.use_refresh, expires=2**50, hash=token(base + number))
        new = partial(use, new_hash=token(base + number + 100))
        return await world.store.change((), new) is not None

    assert [await works(number) for number in range(3)] == [not ends, not ends, True]


async def test_accounts_are_listed_by_page_disabled_ones_too(world: World) -> None:
    tenant, names = new_id(), ["anna", "Ärzte", "bert", "小明", "小红"]
    users = {name: new_id() for name in names}
    for name, id_ in users.items():
        make = partial(accounts.create_user, tenant=tenant, name=name, nick="N", id=id_)
        await world.store.change((), make)
    disable = partial(accounts.set_disabled, user=users["bert"], disabled=True)
    await world.store.change((), disable)
    read = world.store.read
    found: list[Account] = []
    while page := await read(accounts.list_accounts(tenant, found[-1].name if found else "", 2)):
        assert len(page) <= 2
        found += page
    assert {a.id for a in found} == set(users.values())
    assert [a.name for a in found if a.disabled] == ["bert"]
    assert (found[0].name, found[0].nick, found[0].kind) == ("anna", "N", 0)
    begin = await read(accounts.list_accounts(tenant, "", 9, "小"))
    assert {a.name for a in begin} == {"小明", "小红"}
    assert await read(accounts.list_accounts(tenant, begin[-1].name, 9, "小")) == []
    assert [a.name for a in await read(accounts.list_accounts(tenant, "", 9, "ANN"))] == ["anna"]
    one = await read(accounts.get_account(tenant, users["bert"]))
    assert one is not None and (one.name, one.disabled) == ("bert", True)  # noqa: PT018
    assert await read(accounts.get_account(tenant + 1, users["bert"])) is None


async def test_devices_come_go_and_come_back(world: World) -> None:
    ann = await world.user()
    change, read = world.store.change, world.store.read
    phone = DeviceTouch(ann, cid(1), "phone", "ios")
    touch = partial(devices.touch_devices, touches=[phone, phone], max_devices=1)
    (made,) = await change([ann], touch)
    assert made.row is not None
    assert (made.row.name, made.rev) == ("phone", 1)
    assert await change([ann], touch) == [], "nothing that others need to hear"
    other = DeviceTouch(ann, cid(2), "other", "ios")
    (refused,) = await change([ann], partial(touch, touches=[phone, other]))
    assert (refused.device, refused.row) == (cid(2), None)
    state = await read(accounts.login_state(ann, cid(1)))
    assert state is not None
    assert (state.tenant, state.device_known, state.device_revoked_at, state.device_count) == (
        1,
        True,
        0,
        1,
    )
    drop = partial(devices.drop_device, user=ann, device=cid(1))
    assert await change([ann], drop) == ([(Device(device=cid(1)), 2)], set())
    assert await change([ann], drop) == ([], set())
    state = await read(accounts.login_state(ann, cid(1)))
    assert state is not None
    dropped_at = state.device_revoked_at
    assert (state.device_known, dropped_at > 0, state.device_count) == (False, True, 0)
    assert await read(devices.devices(ann)) == []
    (again,) = await change([ann], touch)
    assert again.row is not None
    assert [(d.name, f) for d, f in await read(devices.devices(ann))] == [("phone", 0)]
    assert await change([ann], touch) == []
    state = await read(accounts.login_state(ann, cid(1)))
    assert state is not None
    assert (state.device_known, state.device_count) == (True, 1)
    assert state.device_revoked_at == dropped_at, "tokens from before stay void"
    assert await change([ann], drop) == ([(Device(device=cid(1)), 4)], set())
    with pytest.raises(NotFound):
        await change([ann], partial(devices.drop_device, user=ann, device=cid(3)))
    assert await read(accounts.login_state(5, cid(1))) is None


class Browsers:
    """Sign-ins of one user, each used by some devices."""

    def __init__(self, world: World, user: int) -> None:
        self.world = world
        self.user = user
        self._base = new_id() << 8
        self._last: dict[int, bytes] = {}

    async def sign_in(self, *numbers: int) -> int:
        """Make a sign-in that these devices come with; return its family."""
        family = new_id()
        self._last[family] = token(self._base + len(self._last))
        add = partial(accounts.add_refresh, user=self.user, device=bytes(16), expires=2**50)
        await self.world.store.change((), partial(add, hash=self._last[family], family=family))
        for number in numbers:
            await self.come(family, number)
        return family

    async def come(self, family: int, number: int) -> None:
        touch = DeviceTouch(self.user, cid(number), "web", "linux", family)
        await self.world.store.change(
            [self.user], partial(devices.touch_devices, touches=[touch], max_devices=9)
        )

    async def renew(self, family: int) -> bool:
        """Spend the refresh token of a sign-in for the next one."""
        spent, new = self._last[family], token(new_id() << 8)
        use = partial(accounts.use_refresh, hash=spent, new_hash=new, expires=2**50)
        found = await self.world.store.change((), use)
        if found is None:
            return False
        assert found.family == family
        self._last[family] = new
        return True

    async def lives(self, family: int) -> bool:
        state = await self.world.store.read(accounts.login_state(self.user, cid(1), family))
        assert state is not None
        return state.family_lives

    async def drop(self, number: int, families: Sequence[int] = ()) -> SignedOut:
        drop = partial(devices.drop_device, user=self.user, device=cid(number), families=families)
        return await self.world.store.change([self.user], drop)

    async def listed(self) -> dict[bytes, int]:
        found = await self.world.store.read(devices.devices(self.user))
        return {device.device or b"": family for device, family in found}


async def test_signing_a_device_out_ends_the_sign_in_that_it_shares_with_others(
    world: World,
) -> None:
    ann, bob = await world.users(2)
    anns, bobs = Browsers(world, ann), Browsers(world, bob)
    lost = await anns.sign_in(1, 2, 3)
    kept = await anns.sign_in(4)
    others = await bobs.sign_in(1)
    for _ in range(3):
        assert await anns.renew(lost)
    assert await anns.listed() == {cid(1): lost, cid(2): lost, cid(3): lost, cid(4): kept}
    out = await anns.drop(2)
    assert out.families == {lost}
    assert out.devices == [(Device(device=cid(n)), 4 + n) for n in (1, 2, 3)]
    assert not await anns.lives(lost)
    assert not await anns.renew(lost)
    assert await anns.listed() == {cid(4): kept}
    assert await anns.lives(kept)
    assert await anns.renew(kept)
    assert await bobs.lives(others)
    assert await bobs.renew(others)
    state = await world.store.read(accounts.login_state(ann, cid(3), lost))
    assert state is not None
    assert (state.device_known, state.device_family, state.device_count) == (False, 0, 1)
    assert await anns.drop(1) == ([], set())


async def test_a_device_goes_with_the_sign_in_that_it_came_with_the_last_time(
    world: World,
) -> None:
    ann = await world.user()
    browsers = Browsers(world, ann)
    first, second, third = [await browsers.sign_in(number) for number in (1, 2, 3)]
    await browsers.come(second, 1)
    note = partial(devices.note_device, user=ann, device=cid(3), family=second)
    await world.store.change((), note)
    # A token that names no sign-in leaves the one that is known.
    await browsers.come(0, 1)
    assert await browsers.listed() == {cid(n): second for n in (1, 2, 3)}
    out = await browsers.drop(3)
    assert out.families == {second}
    assert [await browsers.lives(family) for family in (first, second, third)] == [
        True,
        False,
        True,
    ]
    assert await browsers.listed() == {}
    await browsers.come(first, 1)
    assert await browsers.listed() == {cid(1): first}


async def test_a_sign_in_that_a_device_is_connected_with_ends_before_it_is_noted(
    world: World,
) -> None:
    ann = await world.user()
    browsers = Browsers(world, ann)
    noted, present = await browsers.sign_in(1), await browsers.sign_in()
    out = await browsers.drop(1, [0, present])
    assert out.families == {noted, present}
    assert [await browsers.lives(family) for family in (noted, present)] == [False, False]
    late = await browsers.sign_in()
    assert (await browsers.drop(1, [late])).families == {late}, "though it was dropped before"
    assert not await browsers.renew(late)


async def test_a_device_that_is_refused_for_its_number_is_not_noted(world: World) -> None:
    ann = await world.user()
    touches = [DeviceTouch(ann, cid(n), "web", "", 5) for n in (1, 2)]
    await world.store.change([ann], partial(devices.touch_devices, touches=touches, max_devices=1))
    states = [await world.store.read(accounts.login_state(ann, cid(n))) for n in (1, 2)]
    assert [state.device_family for state in states if state is not None] == [5, 0]


async def test_a_refresh_token_works_once_and_its_theft_ends_the_family(world: World) -> None:
    ann = await world.user()
    change = world.store.change
    base = new_id() << 8
    use = accounts.use_refresh
    await change(
        (), partial(accounts.add_refresh, hash=token(base), user=ann, device=cid(1), expires=2**50)
    )
    step = partial(use, hash=token(base), new_hash=token(base + 1), expires=2**50)
    first = await change((), step)
    assert first is not None
    assert (first.user, first.device, first.tenant) == (ann, cid(1), 1)
    assert await change((), step) == first, "a repeat with the same successor"

    async def spend(old: int, new: int) -> bool:
        step = partial(use, hash=token(base + old), new_hash=token(base + new), expires=2**50)
        return await change((), step) is not None

    assert await spend(1, 2)
    assert not await spend(0, 9), "spent before: somebody stole it"
    assert not await spend(2, 3), "the whole family is gone"


async def test_refresh_tokens_expire_are_dropped_and_purged(world: World) -> None:
    ann = await world.user()
    change = world.store.change
    base = new_id() << 8
    add = partial(accounts.add_refresh, user=ann, device=cid(1))
    await change((), partial(add, hash=token(base), expires=1))
    await change((), partial(add, hash=token(base + 1), expires=2**50))
    use = partial(accounts.use_refresh, new_hash=token(base + 8), expires=9)
    assert await change((), partial(use, hash=token(base))) is None
    assert await change((), accounts.purge_refresh) >= 1
    await change((), partial(accounts.drop_refresh, hash=token(base + 1)))
    assert await change((), partial(use, hash=token(base + 1))) is None


async def test_api_keys(world: World) -> None:
    change, read = world.store.change, world.store.read
    tenant, key_hash = new_id(), token(new_id())
    add = partial(accounts.add_api_key, tenant=tenant, hash=key_hash, name="ci", scopes=["send"])
    key = await change((), add)
    assert await change((), add) == key
    assert await read(accounts.api_key_by_hash(key_hash)) == key
    assert await read(accounts.list_api_keys(tenant)) == [key]
    assert await read(accounts.list_api_keys(tenant, after=key.id)) == []
    await change((), partial(accounts.touch_api_keys, ids=[key.id]))
    with pytest.raises(NotFound):
        await change((), partial(accounts.revoke_api_key, tenant=1, id=key.id))
    revoked = await change((), partial(accounts.revoke_api_key, tenant=tenant, id=key.id))
    assert revoked.revoked > 0
    found = await read(accounts.api_key_by_hash(key_hash))
    assert found is not None
    assert (found.revoked, found.last_used > 0) == (revoked.revoked, True)


async def test_tenants_and_avatars(world: World) -> None:
    change, read = world.store.change, world.store.read
    slug, id_ = f"t{new_id()}", new_id()
    make = partial(people.create_tenant, slug=slug, name="租户", id=id_)
    tenant = await change((), make)
    assert await change((), make) == tenant
    with pytest.raises(Exists):
        await change((), partial(people.create_tenant, slug=slug, name="x"))
    assert await read(people.tenant_by_slug(slug)) == tenant
    listed = await read(people.list_tenants())
    assert {"default", slug} <= {t.slug for t in listed}
    after = await read(people.list_tenants(limit=1, after=id_ - 1))
    assert [t.slug for t in after] == [slug]
    renamed = await change((), partial(people.rename_tenant, slug=slug, name="新名"))
    assert await read(people.tenant_by_slug(slug)) == renamed
    assert (renamed.id, renamed.slug, renamed.name) == (id_, slug, "新名")
    with pytest.raises(NotFound):
        await change((), partial(people.rename_tenant, slug=f"{slug}-", name="x"))
    data = bytes(range(256)) * 1_024
    avatar = await change(
        (), partial(people.add_avatar, tenant=1, owner=5, mime="image/png", data=data)
    )
    found = await read(people.get_avatar(avatar))
    assert found is not None
    assert (found.data, found.mime) == (data, "image/png")
    with pytest.raises(Invalid):
        await change((), partial(people.add_avatar, tenant=1, owner=5, mime="x", data=data + b"x"))
    assert await read(people.get_avatar(5)) is None


# personas


async def test_a_persona_is_created_once_changed_and_dropped(world: World) -> None:
    ann, bob = await world.users(2)
    change, read = world.store.change, world.store.read
    given = Persona(
        name="Дед 🎅", prompt="p", greeting="hi", tags=["a", "b"], opt=GenOpt(model="m"), scope=1
    )
    save = partial(personas.save_persona, tenant=1, owner=ann, id=None, cid=cid(1), given=given)
    made, rev = await change([ann], save)
    assert (made.name, made.tags, made.opt, made.scope, made.owner, rev) == (
        "Дед 🎅",
        ["a", "b"],
        GenOpt(model="m"),
        1,
        ann,
        1,
    )
    assert await change([ann], save) == (made, 0)
    id_ = made.id or 0
    update = partial(save, id=id_, given=Persona(prompt="new"))
    changed, rev = await change([ann], update)
    assert (changed.prompt, changed.name, changed.tags, rev) == ("new", "Дед 🎅", ["a", "b"], 2)
    assert (await change([ann], update))[1] == 0
    with pytest.raises(NotFound):
        await change([bob], partial(update, owner=bob))
    (stored,) = await read(personas.get_personas([id_, 5]))
    assert (stored.row, stored.tenant) == (changed, 1)
    assert [p.id for p in (await read(personas.list_personas(1, bob, 1, "", 100)))[0]].count(id_)
    assert (await read(personas.list_personas(2, bob, 1, "", 100)))[0] == []
    dropped, rev = await change([ann], partial(personas.drop_persona, id=id_, owner=ann))
    assert (dropped.deleted, rev) == (True, 3)
    assert (await change([ann], partial(personas.drop_persona, id=id_, owner=ann)))[1] == 0
    assert (await read(personas.list_personas(1, ann, 0, "", 100)))[0] == []
    with pytest.raises(NotFound):
        await change([ann], update)


async def test_builtin_personas_keep_their_id_and_private_ones_their_privacy(
    world: World,
) -> None:
    ann, bob = await world.users(2)
    change, read = world.store.change, world.store.read
    slug = f"b{new_id()}"
    upsert = partial(personas.upsert_builtin, slug=slug)
    first = await change((), partial(upsert, given=Persona(name=slug, prompt="1")))
    second = await change((), partial(upsert, given=Persona(name=slug, prompt="2")))
    assert (second.id, second.prompt, second.scope) == (first.id, "2", 2)

    async def offered() -> bool:
        page, _ = await read(personas.list_personas(1, bob, 2, "", 100))
        return first.id in [p.id for p in page]

    assert await offered()
    hide = partial(personas.set_builtin_deleted, slug=slug)
    await change((), partial(hide, deleted=True))
    assert not await offered()
    await change((), partial(hide, deleted=False))
    assert await offered()
    await change((), partial(personas.set_persona_created, id=first.id or 0, created_ms=5))
    assert [p.row.created for p in await read(personas.get_personas([first.id or 0]))] == [5]
    own = partial(personas.save_persona, tenant=1, owner=ann, id=None)
    for number in range(3):
        given = Persona(name=f"{slug}-{number}", prompt="x")
        await change([ann], partial(own, cid=cid(), given=given))
    page, cursor = await read(personas.list_personas(1, ann, 0, "", 2))
    rest, end = await read(personas.list_personas(1, ann, 0, cursor, 2))
    assert [p.name for p in page + rest] == [f"{slug}-{n}" for n in range(3)]
    assert end == ""
    assert (await read(personas.list_personas(1, bob, 0, "", 9)))[0] == []
    everything = await read(personas.all_personas())
    assert {first.id} | {p.id for p in page} <= {p.row.id for p in everything}
    assert next(p.slug for p in everything if p.row.id == first.id) == slug


# turns


async def test_a_turn_runs_is_found_when_orphaned_and_ends_once(world: World) -> None:
    ann = await world.user()
    conv, sid = await world.conv([ann]), new_id()
    change, read = world.store.change, world.store.read
    new = NewTurn(sid, 1, ann, 7, mode=2, node="n1", lease_until=1_000)
    create = partial(turns.create_turn, turn=new, conv=conv, ask_seq=3, cid=cid(1))
    turn, fresh = await change((), create)
    assert (turn.sid, turn.mode, turn.ask_seq, fresh) == (sid, 2, 3, True)
    other = NewTurn(new_id(), 1, ann, 7)
    again, fresh = await change((), partial(create, turn=other))
    assert (again, fresh) == (turn, False)
    step = TurnCheckpoint(sid, 5_000, "部分 partial", "demo", "m")
    await change((), partial(turns.checkpoint_turns, turns=[step]))
    await change((), partial(turns.checkpoint_turns, turns=[TurnCheckpoint(sid, 6_000)]))
    now = await read(turns.get_turn(sid))
    assert now is not None
    assert (now.status, now.node, now.lease_until, now.partial) == (
        TurnStatus.RUNNING,
        "n1",
        6_000,
        "部分 partial",
    )

    async def orphans(node: str, now_ms: int) -> list[int]:
        return [t.sid for t in await read(turns.orphan_turns(node, now_ms, 100))]

    assert sid in await orphans("n1", 0)
    assert sid in await orphans("n9", 6_001)
    assert sid not in await orphans("n9", 6_000)
    failed = EndTurn(sid, TurnStatus.FAILED, 4, error_message="e" * 900)
    await change((), partial(turns.end_turn, end=failed))
    await change((), partial(turns.end_turn, end=EndTurn(sid, TurnStatus.DONE, 0)))
    await change((), partial(turns.checkpoint_turns, turns=[step]))
    ended = await read(turns.get_turn(sid))
    assert ended is not None
    assert (ended.status, len(ended.error_message)) == (TurnStatus.FAILED, 500)
    assert sid not in await orphans("n1", 2**50)
    assert await read(turns.get_turn(other.sid)) is None
    assert await read(turns.get_turn(5)) is None


async def test_an_orphan_is_claimed_by_one_process_only_and_each_try_is_counted(
    world: World,
) -> None:
    ann = await world.user()
    conv = await world.conv([ann])
    new = NewTurn(new_id(), 1, ann, 7, node="n1", lease_until=1_000)
    await world.submit(conv, ann, new_turn=new)
    change, read = world.store.change, world.store.read
    (orphan,) = await read(turns.orphan_turns("n1", 0, 100))
    claim = partial(turns.claim_turn, turn=orphan, node="n2", lease_until=9_000)
    assert [await change((), claim) for _ in range(2)] == [True, False]
    now = await read(turns.get_turn(new.sid))
    assert now is not None
    assert (now.node, now.lease_until, now.attempts) == ("n2", 9_000, orphan.attempts + 1)
    await change((), partial(turns.end_turn, end=EndTurn(new.sid, TurnStatus.DONE, 0)))
    again = partial(turns.claim_turn, turn=now, node="n1", lease_until=9_001)
    assert not await change((), again)


async def test_checkpoints_of_many_turns_take_a_fixed_number_of_statements(world: World) -> None:
    ann = await world.user()
    conv = await world.conv([ann])
    sids = [new_id() for _ in range(40)]
    await asyncio.gather(
        *(world.submit(conv, ann, new_turn=NewTurn(sid, 1, ann, 7)) for sid in sids)
    )
    before = world.store.statements
    steps = [TurnCheckpoint(s, 9, "x" if n % 2 else None) for n, s in enumerate(sids)]
    await world.store.change((), partial(turns.checkpoint_turns, turns=steps))
    assert world.store.statements - before <= 5
    assert {t.lease_until for t in await world.store.read(turns_of(conv))} == {9}
