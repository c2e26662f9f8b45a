"""A connection that mends itself: sign-in, signs of life, and coming back (docs/protocol.md §6)."""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import clients.events as ev
from clients.address import parse_address
from clients.connection import Connection, open_connection
from clients.dispatch import Dispatch
from clients.errors import RequestTimeout, ServerError, SignInFailed, Stopped
from clients.timing import Backoff, Heartbeat, Pulse, Timing
from protocol.codec import Codec
from protocol.codes import AuthMethod, Caps, Code
from protocol.envelopes import Auth, Bye, GoAway, Hello, Ping, Welcome
from protocol.rows import Limits, Watch

log = logging.getLogger("parlance.client")

TokenSource = Callable[[bool], Awaitable[str]]
"""Returns a token; True asks for a new one because the last was refused or is about to expire.

It may raise `SignInFailed`, which stops the client, or OSError, which is retried.
"""

CAPS: Final = int(Caps.AI_DELTAS | Caps.PRESENCE | Caps.RECEIPTS)
HELLO_HEADS_BYTES: Final = 512 * 1024


class Reconnecting(Dispatch):
    """The part of a client that keeps it connected.

    Attributes:
        device: 16 bytes that name this installation.
        user, tenant: who is signed in; 0 before the first sign-in.
        limits: what the server accepts, from its `welcome`.
        link: state of the connection.
        connects: sign-ins so far.
    """

    def __init__(
        self,
        url: str,
        token_source: TokenSource,
        *,
        device: bytes,
        agent: str,
        lang: str,
        tls: ssl.SSLContext | None,
        codec: Codec,
        timing: Timing,
        rng: random.Random,
        confirms: bool = False,
    ) -> None:
        super().__init__()
        self.address = parse_address(url)
        self.device = device
        self._token_source = token_source
        self._agent = agent[:64]
        self._lang = lang[:16]
        self._tls = tls
        self._codec = codec
        self._timing = timing
        self._confirms = confirms
        self._rng = rng
        self._backoff = Backoff(timing, rng)
        self._watch = self._watch_told = Watch([], [])
        self._conn: Connection | None = None
        self._pulse: Heartbeat | None = None
        self._lost: asyncio.Future[str] | None = None
        self._welcome_timer: asyncio.TimerHandle | None = None
        self._signed_in = asyncio.Event()
        self._retry_now = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leave_at: float | None = None
        self._leave_latest = 0.0
        self._renew = False
        self._bye: Bye | None = None
        self._stopped: Stopped | None = None
        self.tenant = 0
        self.limits = Limits()
        self.link = ev.Link.CONNECTING
        self.connects = 0

    async def request(self, frame: Any, timeout_s: float = 30.0) -> Any:
        """Send a request and return its reply."""
        raise NotImplementedError

    def on_disconnected(self) -> None:
        """The connection is gone; `request`s learn it next."""
        raise NotImplementedError

    def on_stopped(self, why: Stopped) -> None:
        """There will be no other connection."""
        raise NotImplementedError

    def retry_now(self) -> None:
        """Do not wait any longer for the next attempt: somebody looks at the screen."""
        self._retry_now.set()

    # connecting

    async def _run(self) -> None:
        while self._ended_by() is None:
            self._set_link(ev.Link.CONNECTING)
            reason = await self._live_once()
            if self._ended_by() is not None:
                return
            wait_s = self._backoff.wait_s(self._loop.time())
            code = self._bye.code if self._bye is not None else 0
            self._set_link(ev.Link.OFFLINE, wait_s, reason, code)
            self._retry_now.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retry_now.wait(), wait_s)

    async def _live_once(self) -> str:
        """Connect, sign in and stay until the connection is lost; return why."""
        self._bye = None
        try:
            token = await self._token_source(self._renew)
            connection = await open_connection(
                self.address,
                self,
                tls=self._tls,
                codec=self._codec,
                timeout_s=self._timing.connect_s,
            )
        except SignInFailed as exc:
            self._stop(Stopped(exc.reason, exc.code))
            return exc.reason
        except OSError as exc:
            return exc.strerror or str(exc) or type(exc).__name__
        self._conn = connection
        self._lost = self._loop.create_future()
        try:
            self._say_hello(connection, token)
            self._welcome_timer = self._loop.call_later(
                self._timing.welcome_s, connection.abort, "the server did not answer the sign-in"
            )
            return await self._lost
        finally:
            if self._welcome_timer is not None:
                self._welcome_timer.cancel()
            connection.close()
            self._disconnected()

    def _say_hello(self, connection: Connection, token: str) -> None:
        self.feeds.abandon_sync()
        self.streams.reconnected()
        sync = self.feeds.begin_sync(self.streams.positions(), HELLO_HEADS_BYTES)
        self._watch_told = self._watch
        connection.send(
            Hello(
                ver=0,
                method=int(AuthMethod.JWT),
                secret=token,
                device=self.device,
                client=self._agent,
                caps=CAPS | (int(Caps.CONFIRM) if self._confirms else 0),
                hb=int(self._timing.heartbeat_s) or 1,
                max_frame=1024 * 1024,
                lang=self._lang,
                sync=sync,
                watch=self._watch if self._watch.convs or self._watch.users else None,
            )
        )

    def _disconnected(self) -> None:
        self._conn = None
        self._pulse = None
        self._leave_at = None
        self._signed_in.clear()
        self.feeds.abandon_sync()
        self.on_disconnected()
        self._pending.connection_lost()

    def connection_lost(self, reason: str) -> None:
        """Called by the connection."""
        if self._lost is not None and not self._lost.done():
            said = self._bye.reason if self._bye is not None else ""
            self._lost.set_result(said or reason)

    # what the connection brings; the rest is in Dispatch

    def bytes_came(self) -> None:
        """Any bytes are a sign of life."""
        if self._pulse is not None:
            self._pulse.received()

    def on_welcome(self, f: Welcome) -> None:
        """Signed in; `synced` follows."""
        now = self._loop.time()
        self._emit(self.questions.reconnected())
        if self._welcome_timer is not None:
            self._welcome_timer.cancel()
        self.feeds.user, self.tenant, self.limits = f.user, f.tenant, f.limits
        self.connects += 1
        self._renew = False
        self._backoff.connected(now)
        interval_s = min(float(f.hb), self._timing.heartbeat_s)
        self._pulse = Heartbeat(interval_s, self._timing.pong_s, now, self._rng.random())
        self._set_link(ev.Link.CATCHING_UP)
        self._signed_in.set()

    def on_bye(self, f: Bye) -> None:
        """The server ends the connection and says when to come back."""
        self._bye = f
        unwelcome = f.code in (Code.BAD_CREDENTIALS, Code.EXPIRED)
        if f.retry >= 0 or (unwelcome and not self._renew):
            self._backoff.told(f.retry, f.spread_ms)
            self._renew = unwelcome
        else:
            self._stop(Stopped(f.reason, f.code))
        if self._conn is not None:
            self._conn.close()
        self.connection_lost(f.reason)

    def on_goaway(self, f: GoAway) -> None:
        """The server asks us to leave soon: do, once nothing is under way here."""
        now = self._loop.time()
        self._leave_at = now + self._rng.random() * f.spread_ms / 1000
        self._leave_latest = self._leave_at + f.drain_ms / 1000
        self._backoff.told(0, 0)

    def on_token_expiring(self) -> None:
        """The token ends in two minutes: renew it in place."""
        self._spawn(self._renew_token())

    async def _renew_token(self) -> None:
        try:
            token = await self._token_source(True)
            await self.request(Auth(0, int(AuthMethod.JWT), token))
        except (OSError, SignInFailed, ServerError, RequestTimeout, Stopped) as exc:
            # The server will end the connection; what follows then decides.
            log.info("client.renewal_failed", extra={"reason": type(exc).__name__})

    def _beat(self, now: float) -> bool:
        """Ping if it is time; False when the connection is dead."""
        if self._conn is None or self._pulse is None:
            return False
        pulse = self._pulse.check(now)
        if pulse is Pulse.DEAD:
            self._conn.abort("the server does not answer")
            return False
        if pulse is Pulse.PING:
            self._conn.send(Ping(self.connects))
        if self._leave_at is not None and now >= self._leave_at:
            self._leave(now)
        return self._conn is not None

    def _leave(self, now: float) -> None:
        busy = len(self._pending) > 0 or bool(self.streams.running)
        if busy and now < self._leave_latest:
            self._leave_at = min(now + 0.1, self._leave_latest)
        elif self._conn is not None:
            self._conn.close()
            self.connection_lost("the server asked us to reconnect")

    # the rest

    def _write(self, frame: Any) -> None:
        if self._conn is not None:
            self._conn.send(frame)
            if self._pulse is not None:
                self._pulse.sent(self._loop.time())

    def _set_link(
        self, link: ev.Link, retry_s: float = 0.0, reason: str = "", code: int = 0
    ) -> None:
        if link is not self.link or link is ev.Link.OFFLINE:
            self.link = link
            self._emit([ev.LinkChanged(link, retry_s, reason, code)])

    def _ended_by(self) -> Stopped | None:
        return self._stopped

    def _stop(self, why: Stopped) -> None:
        """Give up for good: nobody waits in vain."""
        if self._stopped is not None:
            return
        self._stopped = why
        if self._conn is not None:
            if self._signed_in.is_set():
                self._conn.send(Bye(0, "leaving"))
            self._conn.close()
        self.connection_lost(why.reason)
        self._set_link(ev.Link.STOPPED, 0.0, why.reason, why.code)
        self.on_stopped(why)
        self._signed_in.set()  # wakes requests, which then see that it is over
        self._close_subscriptions()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("client.task_failed", exc_info=exc)
            self._stop(Stopped(f"internal error: {type(exc).__name__}"))
