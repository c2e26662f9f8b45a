"""The client: one signed-in user on one device, over whatever connections come and go.

    async with Client("parlance://127.0.0.1:8420", account.token) as client:
        await client.wait_online()
        sent = await client.send(conv, "hello")      # stored on the server when this returns
        async for event in client.events(): ...

Guarantees. A message given to `send` or `post` reaches the server exactly once and in the order
of its conversation, whatever happens to connections in between (and to this process, with a
`FileState`). Once `Link.ONLINE`, the views hold everything that was missed. Answers that were
running go on where they were.
"""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import clients.events as ev
from clients.address import parse_address
from clients.calls import Calls
from clients.connection import Connection, open_connection
from clients.dispatch import Dispatch
from clients.errors import (
    Disconnected,
    OutboxFull,
    RequestTimeout,
    ServerError,
    SignInFailed,
    Stopped,
)
from clients.outbox import Outbox, Outgoing, Unsent, make_cid
from clients.state import MemoryState, Saved, State, encode_saved
from clients.subscription import EVENTS_MAX, Subscription
from clients.timing import DEFAULT, Backoff, Heartbeat, Pulse, Timing
from protocol.codec import MSGPACK, Codec
from protocol.codes import AuthMethod, Caps, Code, MsgKind, TypingState
from protocol.envelopes import (
    Auth,
    Bye,
    GoAway,
    Hello,
    Mark,
    Ping,
    Request,
    Send,
    Sent,
    SyncRequest,
    Typing,
    Watching,
    WatchRequest,
    Welcome,
)
from protocol.rows import Limits, SendX, Watch
from protocol.text import clean_text

log = logging.getLogger("parlance.client")

TokenSource = Callable[[bool], Awaitable[str]]
"""Returns a token; True asks for a new one because the last was refused or is about to expire.

It may raise `SignInFailed`, which stops the client, or OSError, which is retried.
"""

CAPS: Final = Caps.AI_DELTAS | Caps.PRESENCE | Caps.RECEIPTS
IN_FLIGHT_MAX: Final = 24
"""Below the server's bound of 32, which would stop it reading and delay pings."""
HELLO_HEADS_BYTES: Final = 512 * 1024


class Client(Calls, Dispatch):
    """A user's connection that mends itself. Made, started and closed on one event loop.

    Attributes:
        feeds, streams: what is known (`clients.feeds`, `clients.streams`); read only.
        user, tenant: who is signed in; 0 before the first sign-in.
        limits: what the server accepts, from its `welcome`.
        link: state of the connection.
        connects: sign-ins so far.

    Args:
        url: see `clients.address`.
        token_source: called before every sign-in.
        state: keeps the device id and the outbox; in memory by default.
        device: 16 bytes that override the state's device id.
        agent: name and platform shown in the user's list of devices, as "name/platform".
        codec: of WebSocket connections.
        timing, rng: for tests.
    """

    def __init__(
        self,
        url: str,
        token_source: TokenSource,
        *,
        state: State | None = None,
        device: bytes | None = None,
        agent: str = "Parlance SDK/python",
        lang: str = "",
        tls: ssl.SSLContext | None = None,
        codec: Codec = MSGPACK,
        timing: Timing = DEFAULT,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__()
        self.address = parse_address(url)
        self._token_source = token_source
        self._state = state or MemoryState()
        saved = self._state.load()
        self.device = device or saved.device
        self._agent = agent[:64]
        self._lang = lang[:16]
        self._tls = tls
        self._codec = codec
        self._timing = timing
        self._rng = rng or random.Random()
        self._backoff = Backoff(timing, self._rng)
        self._outbox = Outbox(timing, self._rng)
        self._restored = saved.unsent
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._watch = Watch([], [])
        self._conn: Connection | None = None
        self._pulse: Heartbeat | None = None
        self._lost: asyncio.Future[str] | None = None
        self._signed_in = asyncio.Event()
        self._retry_now = asyncio.Event()
        self._dirty = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None
        self._welcome_timer: asyncio.TimerHandle | None = None
        self._marks: dict[int, int] = {}
        self._marks_due: float | None = None
        self._sync_at = 0.0
        self._sync_not_before = 0.0
        self._leave_at: float | None = None
        self._leave_latest = 0.0
        self._renew = False
        self._bye: Bye | None = None
        self._stopped: Stopped | None = None
        self.user = 0
        self.tenant = 0
        self.limits = Limits()
        self.link = ev.Link.CONNECTING
        self.connects = 0

    # life

    async def start(self) -> None:
        """Begin to connect; returns at once. Messages left unsent by an earlier run go first."""
        self._loop = asyncio.get_running_loop()
        self._outbox.restore(self._restored, lambda unsent: self._outgoing(unsent, saved=True))
        self._restored = []
        self._spawn(self._run())
        if self._state.durable:
            self._spawn(self._keep_saving())

    async def close(self) -> None:
        """Leave, save what is unsent, and end every subscription. The client cannot start again."""
        self._stop(Stopped("closed"))
        connection = self._conn
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # `_ended` logs what failed
        if connection is not None:
            await connection.wait_closed()
        if self._state.durable:
            if self._saving is not None:
                await asyncio.wait([self._saving])
            await asyncio.to_thread(self._state.save, self._encode_state())
        self._state.close()

    async def __aenter__(self) -> "Client":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def wait_online(self, timeout_s: float | None = None) -> None:
        """Return when everything that was missed is here.

        Raises:
            Stopped: the client gave up; the reason says what to do.
            TimeoutError: not within timeout_s.
        """
        async with asyncio.timeout(timeout_s):
            with self.events() as events:
                if self.link is ev.Link.ONLINE:
                    return
                if self._stopped is not None:
                    raise self._stopped
                async for event in events:
                    if isinstance(event, ev.LinkChanged) and event.link is ev.Link.ONLINE:
                        return
        raise self._ended_by() or Stopped("closed")

    def retry_now(self) -> None:
        """Do not wait any longer for the next attempt: somebody looks at the screen."""
        self._retry_now.set()

    def events(self, limit: int = EVENTS_MAX) -> Subscription:
        """Return the events from now on, for one reader."""
        subscription = self._subscribe(limit)
        if self._stopped is not None:
            subscription.close()
        return subscription

    # sending

    def post(
        self,
        conv: int,
        text: str,
        *,
        kind: int = MsgKind.TEXT,
        x: SendX | None = None,
        cid: bytes | None = None,
    ) -> Outgoing:
        """Put a message into the outbox and return it; the rest happens by itself.

        Raises:
            ProtocolError: the text can never be accepted (`protocol.text.clean_text`).
            OutboxFull: see there.
            Stopped: the client was closed or gave up.
        """
        if self._stopped is not None:
            raise self._stopped
        # Cleaned here by the server's own rules, so that the view equals the store.
        unsent = Unsent(conv, cid or make_cid(), int(kind), clean_text(text), x, _now_ms())
        entry = self._outgoing(unsent, saved=not self._state.durable)
        self._outbox.add(entry)
        self._dirty.set()
        self._emit([ev.SendQueued(conv, unsent.cid, unsent.text)])
        self._pump()
        return entry

    async def send(
        self,
        conv: int,
        text: str,
        *,
        kind: int = MsgKind.TEXT,
        x: SendX | None = None,
        cid: bytes | None = None,
    ) -> Sent:
        """Send a message and return once the server has stored it, however long that takes.

        Cancelling the wait leaves the message in the outbox.

        Raises:
            ServerError: refused for good; it is not stored.
        """
        entry = self.post(conv, text, kind=kind, x=x, cid=cid)
        return await asyncio.shield(entry.acknowledged)

    @property
    def unsent(self) -> list[Outgoing]:
        """Messages that the server has not acknowledged."""
        return self._outbox.entries()

    def mark(self, conv: int, read: int) -> None:
        """Move the read cursor forward; told to the server within a second."""
        if read > max(self._marks.get(conv, 0), self._marked.get(conv, 0)):
            self._marks[conv] = read
            if self._marks_due is None:
                self._marks_due = self._loop.time() + self._timing.mark_s
            self._arm()

    def typing(self, conv: int, state: TypingState = TypingState.TEXT) -> None:
        """Tell the others that the user writes; call it at most once in 4 s. Never stored."""
        if self._signed_in.is_set():
            self._write(Typing(conv, int(state)))

    # requests

    async def request(self, frame: Request, timeout_s: float = 30.0) -> Any:
        """Send a request and return its reply.

        Waits for a connection, repeats the request when one is lost or the server says "later",
        until timeout_s is over. Cancelling it leaves the outcome unknown.

        Raises:
            ServerError: refused; "later" only if the time does not suffice for it.
            RequestTimeout: no answer in time; the outcome is unknown.
            Stopped: the client was closed or gave up.
        """
        deadline = self._loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        return await self._ask(frame)
                    except Disconnected:
                        continue
                    except ServerError as error:
                        wait_s = error.retry_ms / 1000
                        if wait_s < 0 or self._loop.time() + wait_s >= deadline:
                            raise
                        await asyncio.sleep(max(wait_s, 0.1))
        except TimeoutError:
            raise RequestTimeout(f"no answer in {timeout_s:g} s") from None

    async def _ask(self, frame: Request) -> Any:
        async with self._slots:
            await self._until_signed_in()
            frame.rid, future = self._pending.future()
            try:
                self._write(frame)
                return await future
            finally:
                self._pending.forget(frame.rid)

    async def _until_signed_in(self) -> None:
        while True:
            stopped = self._ended_by()
            if stopped is not None:
                raise stopped
            if self._signed_in.is_set():
                return
            await self._signed_in.wait()

    async def watch(self, convs: list[int], users: list[int] | None = None) -> Watching | None:
        """Follow typing, presence and AI text of these; restored on every connection.

        Returns at once with None while there is no connection. At most 16 conversations.
        """
        self._watch = Watch(list(convs), list(users or []))
        if not self._signed_in.is_set():
            return None
        reply: Watching = await self.request(WatchRequest(0, self._watch))
        return reply

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
        connection.send(
            Hello(
                ver=0,
                method=int(AuthMethod.JWT),
                secret=token,
                device=self.device,
                client=self._agent,
                caps=int(CAPS),
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.feeds.abandon_sync()
        self._outbox.connection_lost()
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
        if self._welcome_timer is not None:
            self._welcome_timer.cancel()
        self.user, self.tenant, self.limits = f.user, f.tenant, f.limits
        self.connects += 1
        self._renew = False
        self._backoff.connected(now)
        interval_s = min(float(f.hb), self._timing.heartbeat_s)
        self._pulse = Heartbeat(interval_s, self._timing.pong_s, now, self._rng.random())
        self._sync_at = now + self._timing.sync_every_s * (0.8 + 0.4 * self._rng.random())
        self._set_link(ev.Link.CATCHING_UP)
        self._signed_in.set()

    def on_caught_up(self) -> None:
        """A sync is complete."""
        for conv, read in self._marked.items():
            view = self.feeds.convs.get(conv)
            if view is not None and (view.my.read or 0) < read:
                self._marks[conv] = read
                self._marks_due = self._loop.time()
        if self.link is not ev.Link.ONLINE and self._signed_in.is_set():
            self._set_link(ev.Link.ONLINE)

    def on_sync_failed(self, error: Exception) -> None:
        """The server refused a sync: ask again a little later."""
        self.feeds.abandon_sync()
        self.feeds.want_sync()
        retry_ms = error.retry_ms if isinstance(error, ServerError) else 0
        self._sync_not_before = self._loop.time() + max(retry_ms / 1000, self._timing.backoff_s)

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
        self._arm()

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

    # timers: one handle for whatever is due first

    def frames_received(self, frames: list[Any]) -> None:
        """Called by the connection."""
        super().frames_received(frames)
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent now and set the timer for the rest."""
        if self._conn is None or not self._signed_in.is_set():
            return
        now = self._loop.time()
        if self.link is ev.Link.ONLINE:
            for entry in self._outbox.ready(now):
                self._write_unsent(entry)
        for wanted in self._take_wanted():
            self._write_open(wanted)
        due = self.feeds.due()
        if due is not None and due <= now >= self._sync_not_before:
            self._write_sync()
        self._arm()

    def _arm(self) -> None:
        if self._pulse is None:
            return
        dues = [self._pulse.due, self._sync_at]
        sync_due = self.feeds.due()
        if sync_due is not None:
            dues.append(max(sync_due, self._sync_not_before))
        if self.link is ev.Link.ONLINE and (send_due := self._outbox.due()) is not None:
            dues.append(send_due)
        dues += [due for due in (self._marks_due, self._leave_at) if due is not None]
        due = min(dues)
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._conn is None or self._pulse is None:
            return
        now = self._loop.time()
        pulse = self._pulse.check(now)
        if pulse is Pulse.DEAD:
            self._conn.abort("the server does not answer")
            return
        if pulse is Pulse.PING:
            self._conn.send(Ping(self.connects))
        if now >= self._sync_at:
            self._sync_at = now + self._timing.sync_every_s * (0.8 + 0.4 * self._rng.random())
            self.feeds.want_sync()
        if self._marks_due is not None and now >= self._marks_due:
            self._write_marks()
        if self._leave_at is not None and now >= self._leave_at:
            self._leave(now)
        self._pump()

    def _leave(self, now: float) -> None:
        busy = len(self._pending) > 0 or bool(self.streams.running)
        if busy and now < self._leave_latest:
            self._leave_at = min(now + 0.1, self._leave_latest)
        elif self._conn is not None:
            self._conn.close()
            self.connection_lost("the server asked us to reconnect")

    # writing

    def _write(self, frame: Any) -> None:
        if self._conn is not None:
            self._conn.send(frame)
            if self._pulse is not None:
                self._pulse.sent(self._loop.time())

    def _write_sync(self) -> None:
        sync = self.feeds.begin_sync(self.streams.positions())
        self._write(SyncRequest(self._pending.expect(self._sync_answered), sync))

    def _write_marks(self) -> None:
        marks, self._marks = self._marks, {}
        self._marks_due = None
        for conv, read in marks.items():
            self._marked[conv] = read
            self._write(Mark(conv, read, read))

    def _write_unsent(self, entry: Outgoing) -> None:
        def settle(outcome: Any) -> None:
            self._send_answered(entry, outcome)

        unsent = entry.unsent
        rid = self._pending.expect(settle)
        self._write(Send(rid, unsent.conv, unsent.cid, unsent.kind, unsent.text, unsent.x))

    def _send_answered(self, entry: Outgoing, outcome: Any) -> None:
        if isinstance(outcome, Sent):
            self._outbox.settled(entry, outcome)
            self._dirty.set()
            self._acknowledged(entry.unsent, outcome)
        elif isinstance(outcome, ServerError):
            # An answer that cannot be had now (6xx) is the user's to ask for again.
            if outcome.retry_ms >= 0 and outcome.code < Code.MODEL_UNAVAILABLE:
                self._outbox.put_off(entry, outcome.retry_ms, self._loop.time())
                return
            unsent = entry.unsent
            self._outbox.refused(entry, outcome)
            self._dirty.set()
            self._emit([ev.SendFailed(unsent.conv, unsent.cid, outcome.code, outcome.reason)])

    # the rest

    def _outgoing(self, unsent: Unsent, saved: bool) -> Outgoing:
        return Outgoing(unsent, saved, self._loop.create_future())

    def _encode_state(self) -> bytes:
        return encode_saved(Saved(self.device, [entry.unsent for entry in self._outbox.entries()]))

    async def _keep_saving(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            entries = self._outbox.entries()
            # Shielded, so that `close` can wait for a write that it must not overtake.
            self._saving = self._loop.run_in_executor(None, self._state.save, self._encode_state())
            try:
                await asyncio.shield(self._saving)
            except OSError as exc:
                # A full disk must not keep people from talking.
                log.error("client.state_unsaved", extra={"reason": exc.strerror})
            for entry in entries:
                entry.saved = True
            self._pump()

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
        self._outbox.fail_all(why)
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["Client", "OutboxFull", "ServerError", "Stopped", "TokenSource"]
