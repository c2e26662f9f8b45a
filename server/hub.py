"""Who is connected, and the fan-out of pushes to them."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from protocol.codec import MSGPACK
from protocol.envelopes import Frame

if TYPE_CHECKING:
    from server.session import Session


class Encoded:
    """One frame on its way to many: encoded at most once in each encoding.

    Attributes:
        encodes: how often any frame was encoded for a fan-out (a counter for tests and metrics).
    """

    __slots__ = ("_binary", "_frame", "_texts")
    encodes = 0

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._binary: bytes | None = None
        self._texts: dict[str, bytes] | None = None

    def bytes_for(self, session: "Session") -> bytes:
        """Return the wire bytes in the encoding of this session."""
        if session.codec is MSGPACK:
            if self._binary is None:
                Encoded.encodes += 1
                self._binary = MSGPACK.encode(self._frame)
            return self._binary
        codec = session.codec  # all of one name encode alike
        if self._texts is None:
            self._texts = {}
        text = self._texts.get(codec.name)
        if text is None:
            Encoded.encodes += 1
            text = self._texts[codec.name] = codec.encode(self._frame)
        return text


class Hub:
    """Owns the index from users to their signed-in sessions, and from conversations to watchers.

    User ids come from one number space over all tenants, so a user id is enough as the key.

    Attributes:
        pushes: frames put into outboxes by fan-out.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[Session, ...]] = {}
        self._watchers: dict[int, set[Session]] = {}
        self.pushes = 0
        self.size = 0
        self.on_presence: Callable[[int, bool], None] = lambda user, online: None

    def sessions_of(self, user: int) -> "tuple[Session, ...]":
        """Return the user's sessions; empty when offline."""
        return self._sessions.get(user, ())

    def __iter__(self) -> "Iterator[Session]":
        for sessions in list(self._sessions.values()):
            yield from sessions

    def attach(self, session: "Session") -> None:
        """Route the user's pushes to session as well.

        One that it replaces stays attached until it is closed: the newcomer may yet fail.
        """
        others = self._sessions.get(session.user, ())
        self._sessions[session.user] = (*others, session)
        self.size += 1
        if not others:
            self.on_presence(session.user, True)

    def replaced_by(self, session: "Session") -> "list[Session]":
        """Return the other sessions on the same device."""
        others = self._sessions.get(session.user, ())
        return [s for s in others if s.device == session.device and s is not session]

    def detach(self, session: "Session") -> None:
        """Forget session. Safe to call for one that was never attached."""
        self.watch(session, ())
        others = self._sessions.get(session.user, ())
        left = tuple(s for s in others if s is not session)
        if len(left) == len(others):
            return
        self.size -= 1
        if left:
            self._sessions[session.user] = left
        else:
            del self._sessions[session.user]
            self.on_presence(session.user, False)

    def watch(self, session: "Session", convs: tuple[int, ...]) -> None:
        """Make convs the conversations whose passing events this session wants."""
        for conv in session.watched:
            watchers = self._watchers.get(conv)
            if watchers is not None:
                watchers.discard(session)
                if not watchers:
                    del self._watchers[conv]
        session.watched = convs
        for conv in convs:
            self._watchers.setdefault(conv, set()).add(session)

    def watchers_of(self, conv: int) -> "Iterable[Session]":
        """Return the sessions watching a conversation."""
        return self._watchers.get(conv, ())

    def publish(
        self,
        users: Iterable[int],
        frame: Frame,
        skip: "Session | None" = None,
        caps: int = 0,
    ) -> None:
        """Put a feed push into the outbox of every session of users.

        Each encoding is made once, whatever the number of receivers.

        Args:
            skip: a session that learns of it in another way (the sender's, by its reply).
            caps: capability bits a session must have to get it.
        """
        by_user = self._sessions
        encoded = Encoded(frame)
        binary: bytes | None = None
        pushes = 0
        for user in users:
            sessions = by_user.get(user)
            if sessions is None:
                continue
            for session in sessions:
                if session is skip or session.caps & caps != caps:
                    continue
                pushes += 1
                if session.codec is MSGPACK:
                    if binary is None:
                        binary = encoded.bytes_for(session)
                    session.outbox.push(binary)
                else:
                    session.outbox.push(encoded.bytes_for(session))
        self.pushes += pushes

    def signal(
        self, sessions: "Iterable[Session]", key: object, frame: Frame, caps: int = 0
    ) -> None:
        """Send a passing event (last value per key) to sessions."""
        encoded = Encoded(frame)
        for session in sessions:
            if session.caps & caps == caps:
                session.outbox.signal(key, encoded.bytes_for(session))
