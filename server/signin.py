"""From `hello` to `welcome` (docs/protocol.md §2 and the attach order of §5)."""

import logging
from typing import TYPE_CHECKING, Final

from protocol.codes import Caps, Code
from protocol.envelopes import Hello, Welcome
from protocol.errors import ProtocolError
from protocol.rows import Limits
from protocol.states import State
from protocol.text import clean_name
from protocol.types import MAX_TEXT
from protocol.vectors import SPEC_CRC
from server.auth import Claims
from server.errors import explain
from server.handlers.connection import apply_watch, catch_up
from storage.accounts import login_state
from storage.devices import note_device
from storage.rows import DeviceTouch, LoginState

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

log = logging.getLogger("parlance.signin")

VERSION: Final = 0
"""Minor version of PWP/1."""
BESIDE_ROWS_BYTES: Final = 8 * 1024
"""What a frame with an answer to a sync may hold beside its rows."""
MIN_ROOM_BYTES: Final = 16 * 1024
"""An answer to a sync takes this much even if the client announces smaller frames."""
SEEN_MS: Final = 3_600_000
"""A device is noted to be here at most this often, however often it connects."""
CAPS: Final = Caps.AI_DELTAS | Caps.PRESENCE | Caps.RECEIPTS | Caps.CONFIRM


async def sign_in(core: "Core", session: "Session", hello: Hello) -> None:
    """Verify who it is, route pushes here, read the snapshot, answer, go live."""
    try:
        known = await _identify(core, session, hello)
        if session.state is not State.ATTACHING:
            return
        await _attach(core, session, hello, known)
    except ProtocolError as exc:
        session.bye(exc.code, exc.reason)
    except Exception as exc:
        failure = explain(exc)
        if failure is None:
            log.exception("signin.crashed")
            session.bye(Code.INTERNAL, "internal error", 1000, 1000)
        else:
            session.bye(failure.code, failure.reason, failure.retry_ms, 1000)


async def _identify(core: "Core", session: "Session", hello: Hello) -> LoginState:
    claims = core.verify(hello.method, hello.secret)
    if session.only_user not in (0, claims.user):
        raise ProtocolError("token of somebody else", Code.BAD_CREDENTIALS)
    if not core.user_sign_ins.allow(claims.user):
        raise ProtocolError("too many sign-ins", Code.RATE)
    known = await _check(core, claims, hello.device)
    if not known.device_known and known.device_count >= core.policy.devices:
        raise ProtocolError("too many devices", Code.SIZE_LIMIT)
    session.user = claims.user
    session.tenant = claims.tenant
    session.device = hello.device
    session.family = claims.family
    session.lang = hello.lang
    session.expires = core.expiry(claims)
    return known


async def _check(core: "Core", claims: Claims, device: bytes) -> LoginState:
    """Return what is stored of a token's user.

    Raises:
        ProtocolError: the token does not hold (any more), or not on this device.
    """
    known = await core.store.read(login_state(claims.user, device, claims.family))
    if known is None or known.tenant != claims.tenant or known.disabled:
        raise ProtocolError("unknown user", Code.REVOKED)
    if claims.epoch is not None and claims.epoch < known.token_epoch:
        raise ProtocolError("signed out everywhere", Code.REVOKED)
    if claims.family and not known.family_lives:
        raise ProtocolError("signed out", Code.REVOKED)
    if claims.device and claims.device != device.hex():
        raise ProtocolError("token of another device", Code.BAD_CREDENTIALS)
    if known.device_revoked_at and claims.issued_ms <= known.device_revoked_at:
        raise ProtocolError("device signed out", Code.REVOKED)
    return known


async def renew(core: "Core", session: "Session", method: int, secret: str) -> int:
    """Take a newer token for a session; return its expiry in Unix milliseconds.

    Raises:
        ProtocolError: it would not sign this session in.
        StorageError: nobody knows; the old token goes on.
    """
    claims = core.verify(method, secret)
    if (claims.user, claims.tenant) != (session.user, session.tenant):
        raise ProtocolError("token of somebody else", Code.BAD_CREDENTIALS)
    known = await _check(core, claims, session.device)
    user, device, family = claims.user, session.device, claims.family
    session.family = family or session.family
    if _is_news(core, session, known):
        await core.store.change((), lambda tx: note_device(tx, user, device, family))
    session.renew(core.expiry(claims))
    return claims.expires_ms


async def _attach(core: "Core", session: "Session", hello: Hello, known: LoginState) -> None:
    limits = core.config.limits
    session.caps = int(hello.caps & CAPS)
    session.heartbeat_s = min(max(hello.hb, limits.heartbeat_min_s), limits.heartbeat_max_s)
    core.sessions += 1
    session.id = core.sessions
    # Route first, then hold, then read: pushes that race with the snapshot are kept.
    session.outbox.hold_pushes()
    if not core.hub.sessions_of(session.user):
        # Later changes are written through: what was read above may be older.
        core.personas.choose(session.user, known.user.persona or 0)
    core.hub.attach(session)
    try:
        synced = None
        if hello.sync is not None:
            room_bytes = max(hello.max_frame - BESIDE_ROWS_BYTES, MIN_ROOM_BYTES)
            synced = await catch_up(core, session, hello.sync, 0, room_bytes)
        watching = None
        if hello.watch is not None:
            streams = hello.sync.streams if hello.sync is not None else []
            watching = await apply_watch(core, session, hello.watch, 0, streams)
    except BaseException:
        core.hub.detach(session)
        raise
    if session.state is not State.ATTACHING:
        core.hub.detach(session)
        return
    session.reply(_welcome(core, session, hello))
    if synced is not None:
        session.reply(synced)
    if watching is not None and (watching.pres or watching.streams):
        session.reply(watching)
    core.confirmations.tell_open(session)
    session.stranger = False
    core.strangers.leave(session.address)
    core.stats.sign_ins += 1
    session.outbox.release_pushes()
    session.opened()
    for replaced in core.hub.replaced_by(session):
        replaced.bye(Code.REPLACED, "signed in again on this device", -1)
    if not known.device_known or _is_news(core, session, known):
        core.devices.add(session, device_of(session, hello))


def _is_news(core: "Core", session: "Session", known: LoginState) -> bool:
    """Whether what is stored of a known device is old: when it was here, or with which sign-in."""
    is_old = core.now_ms() - known.device_seen > SEEN_MS
    return is_old or session.family not in (0, known.device_family)


def _welcome(core: "Core", session: "Session", hello: Hello) -> Welcome:
    limits = core.config.limits
    return Welcome(
        ver=min(hello.ver, VERSION),
        session=session.id,
        user=session.user,
        tenant=session.tenant,
        ticket="",
        ticket_ms=0,
        hb=int(session.heartbeat_s),
        now=core.now_ms(),
        epoch=core.store.epoch,
        caps=session.caps,
        limits=Limits(
            frame=limits.frame_bytes,
            inflight=limits.inflight,
            rate=int(limits.rate),
            burst=int(limits.burst),
            bytes=int(limits.bytes_per_s),
            text=MAX_TEXT,
            members=limits.members,
            devices=limits.devices,
        ),
        dict=0,
        spec=SPEC_CRC,
    )


def device_of(session: "Session", hello: Hello) -> DeviceTouch:
    """Return what is stored of the device behind a session."""
    name, _, platform = hello.client.partition("/")
    shown = _shown(name, 64) or "device"
    return DeviceTouch(session.user, session.device, shown, _shown(platform, 16), session.family)


def _shown(text: str, max_code_points: int) -> str:
    """Return what a client calls itself, or nothing when that cannot be shown."""
    try:
        return clean_name(text, max_code_points)
    except ProtocolError:
        return ""
