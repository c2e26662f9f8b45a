"""Sign of life, renewal of the token, catching up, watching, leaving."""

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from protocol.envelopes import (
    Auth,
    Authed,
    Bye,
    Ping,
    Pong,
    Synced,
    SyncRequest,
    Watching,
    WatchRequest,
)
from protocol.errors import ProtocolError
from protocol.rows import StreamPos, Sync, Watch
from protocol.states import State
from server.errors import not_found
from server.router import Caller, Router
from server.streams import position
from storage.people import users_of_tenant
from storage.sync import sync as read_changes

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

MAX_BUDGET_BYTES: Final = 512 * 1024
"""Largest answer to a sync, whatever it asks for."""


def register(router: Router) -> None:
    """Add this subject's rows to the table."""
    router.direct(Ping, ping, 0.1)
    router.direct(Bye, bye, 0)
    router.direct(Auth, renew, 5)
    router.direct(WatchRequest, watch, 1)
    router.serve(SyncRequest, sync, 2)


def ping(core: "Core", session: "Session", f: Ping) -> Pong:
    """Answer a sign of life."""
    return Pong(f.n, core.now_ms())


def bye(core: "Core", session: "Session", f: Bye) -> None:
    """The client leaves."""
    session.hang_up()


def renew(core: "Core", session: "Session", f: Auth) -> None:
    """Take a newer token of the same user in place; one that would not sign in ends it all."""
    session.hold_slot()
    core.spawn(session.serve(f.rid, _renew(core, session, f)))


async def _renew(core: "Core", session: "Session", f: Auth) -> Authed | None:
    try:
        return Authed(f.rid, await core.renew(session, f.method, f.secret))
    except ProtocolError as exc:
        session.bye(exc.code, exc.reason)
        return None


def watch(core: "Core", session: "Session", f: WatchRequest) -> None:
    """Replace what the session watches."""
    session.hold_slot()
    core.spawn(session.serve(f.rid, _watch(core, session, f)))


async def _watch(core: "Core", session: "Session", f: WatchRequest) -> Watching:
    return await apply_watch(core, session, f.w, f.rid)


async def apply_watch(
    core: "Core", session: "Session", wanted: Watch, rid: int, known: list[StreamPos] | None = None
) -> Watching:
    """Watch what of `wanted` the user may see; the rest is left out silently.

    That is conversations the user is in, and people of the same tenant.
    """
    convs: list[int] = []
    for conv in dict.fromkeys(wanted.convs):
        entry = core.directory.get(conv) or await core.directory.fetch(conv)
        if entry is not None and entry.tenant == session.tenant and session.user in entry.members:
            convs.append(conv)
    people = await core.store.read(users_of_tenant(session.tenant, wanted.users))
    if session.state is State.CLOSED:
        raise not_found("session")  # nothing would ever take it off the lists again
    core.hub.watch(session, tuple(convs))
    core.streams.follow(session, known or ())
    presences = core.presence.watch(session, [user.id or 0 for user in people])
    return Watching(rid, presences, core.streams.positions(session, convs))


async def sync(core: "Core", caller: Caller, f: SyncRequest) -> Synced:
    """Return everything that changed since the caller's heads, from one snapshot."""
    return await catch_up(core, caller, f.q, f.rid)


async def catch_up(
    core: "Core", caller: Caller, q: Sync, rid: int, room_bytes: int = MAX_BUDGET_BYTES
) -> Synced:
    """Read the changes for `q` and the running streams of the conversations in it.

    Args:
        room_bytes: what the client takes at once, if that is less than the budget it asks for.
    """
    q = replace(q, budget=min(q.budget, room_bytes, MAX_BUDGET_BYTES))
    found = await core.store.read(
        read_changes(caller.user, caller.tenant, q, max_convs=50), snapshot=True
    )
    convs = {delta.conv for delta in found.convs} | {head.conv for head in q.heads}
    running: list[StreamPos] = []
    for conv in convs:
        streams = core.streams.of(conv)
        entry = core.directory.peek(conv) if streams else None
        if entry is not None and caller.user in entry.members:
            running += map(position, streams)
    return Synced(
        rid,
        core.store.epoch,
        found.me_rev,
        found.me,
        found.convs,
        running,
        found.more,
        core.now_ms(),
    )
