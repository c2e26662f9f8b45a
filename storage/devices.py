"""Devices that users sign in with."""

from __future__ import annotations

from typing import Final

from protocol.rows import Device
from storage.errors import LimitReached, NotFound
from storage.ops import Op, Row, Statement
from storage.writes import Tx

_DEVICE_COLUMNS: Final = "device, name, platform, seen, revoked_at, rev"
"""`revoked_at`: 0, when it was dropped, or minus that once it has signed in again."""
_MAX_DEVICES: Final = 1_000


def _device(row: Row) -> Device:
    """Build a device from `_DEVICE_COLUMNS`; a dropped one has no fields but its id."""
    if row[4] > 0:
        return Device(device=bytes(row[0]))
    return Device(device=bytes(row[0]), name=row[1] or None, platform=row[2] or None, seen=row[3])


def touch_device(
    tx: Tx,
    user: int,
    device: bytes,
    name: str,
    platform: str,
    max_devices: int = 0,
) -> Op[tuple[Device, int] | None]:
    """Note that a device was seen; return it and the rev if other devices should hear of it.

    That is when it is new, came back after being dropped, or changed its name; else None.
    Tokens from before it was dropped stay void.

    Raises:
        LimitReached: it is new and max_devices (0: no bound) are signed in.
    """
    rows = yield Statement(
        f"SELECT {_DEVICE_COLUMNS} FROM device WHERE user = ? AND device = ?", (user, device)
    )
    known = rows[0] if rows else None
    if known is not None and known[1:3] == (name, platform) and known[4] <= 0:
        yield Statement(
            "UPDATE device SET seen = ? WHERE user = ? AND device = ?", (tx.ts, user, device)
        )
        return None
    if max_devices and (known is None or known[4] > 0):
        counted = yield Statement(
            "SELECT COUNT(*) FROM device WHERE user = ? AND revoked_at <= 0", (user,)
        )
        if counted[0][0] >= max_devices:
            raise LimitReached("too many devices")
    rev = tx.bump(user)
    if known is None:
        columns = ("user", "device", "name", "platform", "created", "seen", "revoked_at", "rev")
        row = (user, device, name, platform, tx.ts, tx.ts, 0, rev)
        yield tx.dialect.insert("device", columns, [row])
    else:
        yield Statement(
            "UPDATE device SET name = ?, platform = ?, seen = ?, revoked_at = ?, rev = ?"
            " WHERE user = ? AND device = ?",
            (name, platform, tx.ts, -abs(known[4]), rev, user, device),
        )
    return _device((device, name, platform, tx.ts, 0, rev)), rev


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
