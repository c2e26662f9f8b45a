"""Devices that users sign in with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from protocol.rows import Device
from storage.errors import NotFound
from storage.ops import Op, Row, Statement, in_list
from storage.rows import DeviceTouch, DeviceTouched
from storage.writes import Tx

_DEVICE_COLUMNS: Final = "device, name, platform, seen, revoked_at, rev"
"""`revoked_at`: 0, when it was dropped, or minus that once it has signed in again."""
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
    bound) signed in is refused and not stored. A device named twice counts once.
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
    seen: list[Row] = []
    written: list[Row] = []
    for (user, device), touch in wanted.items():
        name, platform, created, revoked_at = known.get((user, device), ("", "", tx.ts, None))
        here = revoked_at is not None and revoked_at <= 0
        if here and (name, platform) == (touch.name, touch.platform):
            seen.append((user, device, tx.ts))
            continue
        if not here and max_devices:
            if signed_in.get(user, 0) >= max_devices:
                told.append(DeviceTouched(user, device, None, 0))
                continue
            signed_in[user] = signed_in.get(user, 0) + 1
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
    return told


def _count_devices(users: Iterable[int]) -> Op[dict[int, int]]:
    marks, args = in_list(sorted(set(users)))
    rows = yield Statement(
        f"SELECT user, COUNT(*) FROM device WHERE user IN ({marks}) AND revoked_at <= 0"
        " GROUP BY user",
        args,
    )
    return {row[0]: row[1] for row in rows}


def devices(user: int) -> Op[list[Device]]:
    """Return user's devices that were not dropped, most recently seen first."""
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND revoked_at <= 0"
        " ORDER BY seen DESC LIMIT ?",
        (user, _MAX_DEVICES),
    )
    return [_device(row) for row in rows]


def changed_devices(user: int, rev: int, limit: int) -> Op[list[tuple[int, Device]]]:
    """Return devices changed after rev, with their revs; dropped ones have only their id."""
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND rev > ? ORDER BY rev LIMIT ?",
        (user, rev, limit),
    )
    return [(row[5], _device(row)) for row in rows]


def drop_device(tx: Tx, user: int, device: bytes) -> Op[tuple[Device, int]]:
    """Sign a device out for good: its refresh tokens go too. Again: rev 0.

    Raises:
        NotFound: no such device.
    """
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND device = ?", (user, device)
    )
    if not rows:
        raise NotFound("no such device")
    if rows[0][4] > 0:
        return _device(rows[0]), 0
    rev = tx.bump(user)
    yield Statement(
        "UPDATE device SET revoked_at = ?, rev = ? WHERE user = ? AND device = ?",
        (tx.ts, rev, user, device),
    )
    yield Statement("DELETE FROM refresh_token WHERE user = ? AND device = ?", (user, device))
    return Device(device=device), rev
