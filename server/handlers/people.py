"""People and their devices."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol.codes import Code
from protocol.envelopes import (
    Changed,
    DeviceDrop,
    DeviceList,
    DevicePush,
    Devices,
    ProfilePush,
    ProfileSet,
    UserFind,
    UserGet,
    Users,
)
from protocol.rows import Device, User
from protocol.text import clean_name, clean_text
from server.errors import invalid
from server.router import Caller, Router
from storage.devices import devices, drop_device
from storage.people import find_users, set_profile, users_of_tenant
from storage.rows import SignedOut

if TYPE_CHECKING:
    from server.core import Core


def register(router: Router) -> None:
    """Add this subject's rows to the table."""
    router.serve(UserGet, get, 1)
    router.serve(UserFind, find, 5)
    router.serve(ProfileSet, set_own, 1)
    router.serve(DeviceList, list_devices, 1)
    router.serve(DeviceDrop, drop, 1)


async def get(core: "Core", caller: Caller, f: UserGet) -> Users:
    """Return people of the caller's tenant by id; those who do not exist are left out."""
    items = await core.store.read(users_of_tenant(caller.tenant, sorted(set(f.users))))
    return Users(f.rid, [shown_to(caller.user, item) for item in items], "")


async def find(core: "Core", caller: Caller, f: UserFind) -> Users:
    """Return people whose name or nickname begins with the query."""
    query = f.query.strip()
    if not query:
        raise invalid("query", "Say how the name begins.")
    items = await core.store.read(find_users(caller.tenant, query, f.limit))
    return Users(f.rid, [shown_to(caller.user, item) for item in items], "")


async def set_own(core: "Core", caller: Caller, f: ProfileSet) -> Changed:
    """Change one's own profile; `persona` is the choice that follows to every device."""
    wanted = f.set
    if wanted.nick:
        wanted.nick = clean_name(wanted.nick, 64)
    if wanted.bio:
        wanted.bio = clean_text(wanted.bio, 256)
    if wanted.name is not None or wanted.kind is not None:
        raise invalid("name", "The sign-in name cannot be changed.")
    if wanted.persona:
        core.personas.require(caller, wanted.persona)

    def publish(result: tuple[User, int]) -> None:
        user, rev = result
        core.personas.choose(caller.user, user.persona or 0)
        if rev:
            core.hub.publish((caller.user,), ProfilePush(rev, user))

    _, rev = await core.store.change(
        (caller.user,), lambda tx: set_profile(tx, caller.user, wanted), publish=publish
    )
    return Changed(f.rid, 0, rev, core.now_ms())


def shown_to(viewer: int, user: User) -> User:
    """Return what viewer may see of a user: the chosen persona is the user's own business."""
    if user.id == viewer or user.persona is None:
        return user
    return replace(user, persona=None)


async def list_devices(core: "Core", caller: Caller, f: DeviceList) -> Devices:
    """Return where one is signed in: one device of each sign-in, the caller's own first.

    Tabs of a browser share a sign-in. It is online when one of its devices is.
    """
    found = await core.store.read(devices(caller.user))
    found.sort(key=lambda item: item[0].device != caller.device)
    online = {session.device for session in core.hub.sessions_of(caller.user)}
    shown: dict[object, Device] = {}
    for item, family in found:
        first = shown.setdefault(family or item.device, item)
        first.online = first.online or item.device in online
        first.seen = max(first.seen or 0, item.seen or 0)
    return Devices(f.rid, list(shown.values()))


async def drop(core: "Core", caller: Caller, f: DeviceDrop) -> Changed:
    """Sign a device out for good, with the sign-in that it came with.

    Tokens of this sign-in stop working, also for renewal, and its connections close.
    """
    user, hub = caller.user, core.hub
    present = {session.family for session in hub.sessions_of(user) if session.device == f.device}

    def publish(out: SignedOut) -> None:
        gone = {f.device}
        for device, rev in out.devices:
            hub.publish((user,), DevicePush(rev, device))
            gone.add(device.device or b"")
        core.devices.signed_out(user)
        for session in hub.sessions_of(user):
            if session.device in gone or session.family in out.families:
                session.bye(Code.REVOKED, "device signed out")

    out = await core.store.change(
        (user,), lambda tx: drop_device(tx, user, f.device, present), publish=publish
    )
    return Changed(f.rid, 0, max((rev for _, rev in out.devices), default=0), core.now_ms())
