"""Who is online, for those who watch them (docs/protocol.md §9). Never stored."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from protocol.codes import Caps, PresenceState
from protocol.envelopes import Presence
from protocol.rows import Pres

if TYPE_CHECKING:
    from server.core import Core
    from server.session import Session

OFFLINE_AFTER_S: Final = 15.0
"""A short absence is nobody's business: reconnects would blink."""
SEEN_ROUND_MS: Final = 60_000


class PresenceBoard:
    """Owns who watches whom, and who left a moment ago."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._watchers: dict[int, set[Session]] = {}
        self._watched: dict[Session, tuple[int, ...]] = {}
        self._leaving: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        core.hub.on_presence = self._moved

    def watch(self, session: "Session", users: Iterable[int]) -> list[Pres]:
        """Make users the people this session hears about; return how they are now."""
        self.forget(session)
        wanted = tuple(dict.fromkeys(users))
        if not wanted:
            return []
        self._watched[session] = wanted
        for user in wanted:
            self._watchers.setdefault(user, set()).add(session)
        return [self._state(user) for user in wanted]

    def forget(self, session: "Session") -> None:
        """The session is gone or watches somebody else."""
        for user in self._watched.pop(session, ()):
            watchers = self._watchers.get(user)
            if watchers is not None:
                watchers.discard(session)
                if not watchers:
                    del self._watchers[user]
                    self._seen.pop(user, None)

    def sweep(self, now: float) -> None:
        """Announce those who stayed away. Called once a second."""
        gone = [user for user, left in self._leaving.items() if now - left >= OFFLINE_AFTER_S]
        for user in gone:
            del self._leaving[user]
            self._announce(user)

    def _moved(self, user: int, online: bool) -> None:
        if not online:
            self._core.personas.forget_user(user)
        if user not in self._watchers:
            return
        if online:
            if self._leaving.pop(user, None) is None:
                self._announce(user)
        else:
            self._leaving[user] = self._core.clock()
            self._seen[user] = self._core.now_ms() // SEEN_ROUND_MS * SEEN_ROUND_MS

    def _state(self, user: int) -> Pres:
        online = bool(self._core.hub.sessions_of(user)) or user in self._leaving
        if online:
            return Pres(user, int(PresenceState.ONLINE), 0)
        return Pres(user, int(PresenceState.OFFLINE), self._seen.get(user, 0))

    def _announce(self, user: int) -> None:
        watchers = self._watchers.get(user)
        if watchers:
            frame = Presence([self._state(user)])
            self._core.hub.signal(watchers, ("presence", user), frame, Caps.PRESENCE)
