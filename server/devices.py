"""Devices on their way into the store: gathered, so that a storm of them costs few writes."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from protocol.codes import Code
from protocol.envelopes import DevicePush
from storage.devices import touch_devices
from storage.errors import StorageError
from storage.rows import DeviceTouch, DeviceTouched

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

log = logging.getLogger("parlance.devices")

AT_ONCE: Final = 500
"""Devices of one write: it must not keep messages waiting for more than some milliseconds."""


class DeviceBook:
    """Owns the devices that have come anew, or with another sign-in, and are not stored yet.

    While one write is under way, the next ones gather.

    Bounded by the sessions that are open: each adds one device. If a write fails, its devices are
    registered at their next sign-in.

    Attributes:
        signed_out: called with a user one of whose sign-ins has just ended; set by the doors.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._new: list[tuple[Session, DeviceTouch]] = []
        self._writing = False
        self.signed_out: Callable[[int], None] = lambda user: None

    def add(self, session: "Session", touch: DeviceTouch) -> None:
        """Have the device of a session that has just signed in stored."""
        self._new.append((session, touch))
        if not self._writing:
            self._writing = True
            self._core.spawn(self._write())

    async def _write(self) -> None:
        try:
            while self._new:
                part, self._new = self._new[:AT_ONCE], self._new[AT_ONCE:]
                await self._store(part)
        finally:
            self._writing = False

    async def _store(self, part: "list[tuple[Session, DeviceTouch]]") -> None:
        sessions = {(touch.user, touch.device): session for session, touch in part}
        touches = [touch for _, touch in part]
        most = self._core.policy.devices

        def publish(told: list[DeviceTouched]) -> None:
            for item in told:
                if item.row is not None:
                    self._core.hub.publish((item.user,), DevicePush(item.rev, item.row))
                else:
                    # Several came at once, and each saw room for one more.
                    session = sessions[item.user, item.device]
                    session.bye(Code.SIZE_LIMIT, "too many devices")

        try:
            await self._core.store.change(
                sorted({touch.user for touch in touches}),
                lambda tx: touch_devices(tx, touches, most),
                publish=publish,
            )
        except StorageError as exc:
            log.warning("devices.unregistered", extra={"devices": len(part), "reason": str(exc)})
