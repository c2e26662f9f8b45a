"""Devices that users sign in with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from protocol.rows import Device
from storage.errors import NotFound
from storage.ops import Op, Row, Statement, in_list
from storage.rows import DeviceTouch, DeviceTouched, SignedOut
from storage.writes import Tx

_DEVICE_COLUMNS: Final = "d.device, d.name, d.platform, d.seen, d.revoked_at, d.rev"
"""`revoked_at`: 0, when it was dropped, or minus that once it has signed in again."""
_FAMILY_COLUMNS: Final = ("user", "device", "family")
_MAX_DEVICES: Final = 1_000


def _device(row: Row) -> Device:
    """Build a device from `_DEVICE_COLUMNS`; a dropped one has no fields but its id."""
    if row[4] > 0:
        return Device(device=bytes(row[0]))
    return Device(device=bytes(row[0]), name=row[1] or None, platform=row[2] or None, seen=row[3])


def touch_devices(
    tx: Tx, touches: Sequence[DeviceTouch], max_devices: int = 0
) -> Op[list[DeviceTouched]]:
    """Note that devices were seen, with a few statements whatever their number.

    Others should hear of one that is new, came back after being dropped, or changed its name.
    Tokens from before it was dropped stay void. A new one of a user with max_devices (0: no
    bound) signed in is refused and not stored. A device named twice counts once. Which sign-in
    each came with is kept.
    """
    wanted = {(touch.user, touch.device): touch for touch in touches}
    if not wanted:
        return []
    rows = yield tx.dialect.select(
        "m.user, m.device, m.name, m.platform, m.created, m.revoked_at",
        "device",
        ("user", "device"),
        wanted,
    )
    known = {(row[0], bytes(row[1])): row[2:] for row in rows}
    signed_in = (yield from _count_devices(key[0] for key in wanted)) if max_devices else {}
    told: list[DeviceTouched] = []
    families: list[Row] = []
    seen: list[Row] = []
    written: list[Row] = []
    for (user, device), touch in wanted.items():
        name, platform, created, revoked_at = known.get((user, device), ("", "", tx.ts, None))
        here = revoked_at is not None and revoked_at <= 0
        if not here and max_devices:
            if signed_in.get(user, 0) >= max_devices:
                told.append(DeviceTouched(user, device, None, 0))
                continue
            signed_in[user] = signed_in.get(user, 0) + 1
        if touch.family:
            families.append((user, device, touch.family))
        if here and (name, platform) == (touch.name, touch.platform):
            seen.append((user, device, tx.ts))
            continue
        rev = tx.bump(user)
        gone = -abs(revoked_at or 0)
        written.append((user, device, touch.name, touch.platform, created, tx.ts, gone, rev))
        row = _device((device, touch.name, touch.platform, tx.ts, 0, rev))
        told.append(DeviceTouched(user, device, row, rev))
    if seen:
        yield tx.dialect.update("device", ("user", "device", "seen"), seen, keys=2)
    if written:
        columns = ("user", "device", "name", "platform", "created", "seen", "revoked_at", "rev")
        yield tx.dialect.upsert("device", columns, written, keys=2)
    if families:
        yield tx.dialect.upsert("device_family", _FAMILY_COLUMNS, families, keys=2)
    return told


def note_device(tx: Tx, user: int, device: bytes, family: int) -> Op[None]:
    """Note that a known device is here, and with which sign-in it goes on, 0 for none."""
    yield tx.dialect.update("device", ("user", "device", "seen"), [(user, device, tx.ts)], keys=2)
    if family:
        yield tx.dialect.upsert("device_family", _FAMILY_COLUMNS, [(user, device, family)], keys=2)


def _count_devices(users: Iterable[int]) -> Op[dict[int, int]]:
    marks, args = in_list(sorted(set(users)))
    rows = yield Statement(
        f"SELECT user, COUNT(*) FROM device WHERE user IN ({marks}) AND revoked_at <= 0"
        " GROUP BY user",
        args,
    )
    return {row[0]: row[1] for row in rows}


def devices(user: int) -> Op[list[tuple[Device, int]]]:
    """Return user's devices that were not dropped, most recently seen first.

    Each with the sign-in that it came with the last time, 0 for none.
    """
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS}, f.family FROM device AS d LEFT JOIN device_family AS f"
        " ON f.user = d.user AND f.device = d.device WHERE d.user = ? AND d.revoked_at <= 0"
        " ORDER BY d.seen DESC LIMIT ?",
        (user, _MAX_DEVICES),
    )
    return [(_device(row), row[6] or 0) for row in rows]


def changed_devices(user: int, rev: int, limit: int) -> Op[list[tuple[int, Device]]]:
    """Return devices changed after rev, with their revs; dropped ones have only their id."""
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device AS d WHERE d.user = ? AND d.rev > ?"
        " ORDER BY d.rev LIMIT ?",
        (user, rev, limit),
    )
    return [(row[5], _device(row)) for row in rows]


def drop_device(tx: Tx, user: int, device: bytes, families: Iterable[int] = ()) -> Op[SignedOut]:
    """Sign a device out for good, and with it the sign-in that it came with.

    The refresh tokens of both go, and every other device that came with this sign-in is signed
    out too. Again: nothing.

    Args:
        families: sign-ins that it is connected with at present.

    Raises:
        NotFound: no such device.
    """
    rows = yield Statement(
        "SELECT d.revoked_at, f.family FROM device AS d LEFT JOIN device_family AS f"
        " ON f.user = d.user AND f.device = d.device WHERE d.user = ? AND d.device = ?",
        (user, device),
    )
    if not rows:
        raise NotFound("no such device")
    revoked_at, family = rows[0]
    ended = {*families, family or 0} - {0}
    gone = {device} if revoked_at <= 0 else set()
    if ended:
        gone |= yield from _end_families(user, ended)
    if not gone:
        return SignedOut([], ended)
    dropped = [(user, one, tx.ts, tx.bump(user)) for one in sorted(gone)]
    yield tx.dialect.update("device", ("user", "device", "revoked_at", "rev"), dropped, keys=2)
    marks, args = in_list(sorted(gone))
    for table in ("refresh_token", "device_family"):
        yield Statement(
            f"DELETE FROM {table} WHERE user = ? AND device IN ({marks})", (user, *args)
        )
    return SignedOut([(Device(device=row[1]), row[3]) for row in dropped], ended)


def _end_families(user: int, families: Iterable[int]) -> Op[set[bytes]]:
    """Delete the refresh tokens of sign-ins; return the devices that came with them."""
    marks, args = in_list(sorted(families))
    yield Statement(f"DELETE FROM refresh_token WHERE family IN ({marks})", args)
    rows = yield Statement(
        "SELECT d.device FROM device_family AS f JOIN device AS d"
        f" ON d.user = f.user AND d.device = f.device WHERE f.user = ? AND f.family IN ({marks})"
        " AND d.revoked_at <= 0",
        (user, *args),
    )
    return {bytes(row[0]) for row in rows}
