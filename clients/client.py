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
import logging
import random
import ssl
import time
from typing import Any, Final

import clients.events as ev
from clients.calls import Calls
from clients.errors import (
    ClientError,
    Disconnected,
    OutboxFull,
    RequestTimeout,
    ServerError,
    Stopped,
)
from clients.outbox import Outbox, Outgoing, Unsent, make_cid
from clients.reconnecting import Reconnecting, TokenSource
from clients.state import MemoryState, Saved, State, encode_saved
from clients.subscription import EVENTS_MAX, Subscription
from clients.timing import DEFAULT, Timing
from protocol.codec import MSGPACK, Codec
from protocol.codes import Code, MsgKind, TypingState
from protocol.envelopes import (
    Mark,
    Request,
    Send,
    Sent,
    SyncRequest,
    Typing,
    Watching,
    WatchRequest,
    Welcome,
)
from protocol.errors import ProtocolError
from protocol.frames import HEADER_BYTES
from protocol.rows import SendX, Watch
from protocol.text import clean_text

log = logging.getLogger("parlance.client")

IN_FLIGHT_MAX: Final = 24
"""Below the server's bound of 32, which would stop it reading and delay pings."""
REQUESTS_MAX: Final = 1000
"""Requests that wait for a connection, a free place or their answer; one more is refused."""


CHARACTER_BYTES: Final = 4
REST_BYTES: Final = 16 * 1024
"""All of a message but its text, unless it has much `meta`."""


class Client(Calls, Reconnecting):
    """A user's connection that mends itself. Made, started and closed on one event loop.

    Attributes:
        feeds, streams, questions: what is known (`clients.feeds`, `clients.streams`,
            `clients.questions`); read only.
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
        confirms: the user can be asked whether a tool may run (`events.ToolAsked`). Without a
            device that says so, the answer is no.
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
        confirms: bool = False,
        timing: Timing = DEFAULT,
        rng: random.Random | None = None,
    ) -> None:
        state = state or MemoryState()
        saved = state.load()
        super().__init__(
            url,
            token_source,
            device=device or saved.device,
            agent=agent,
            lang=lang,
            tls=tls,
            codec=codec,
            timing=timing,
            rng=rng or random.Random(),
            confirms=confirms,
        )
        self._state = state
        self._restored = saved.unsent
        self._outbox = Outbox(timing, self._rng)
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._asking = 0
        self._dirty = asyncio.Event()
        self._saving: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._marks: dict[int, int] = {}
        self._marks_due: float | None = None
        self._sync_at = 0.0
        self._sync_not_before = 0.0

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
            ProtocolError: the text can never be accepted (`protocol.text.clean_text`), or no
                frame can hold what `x` says.
            OutboxFull: see there.
            Stopped: the client was closed or gave up.
        """
        if self._stopped is not None:
            raise self._stopped
        # Cleaned here by the server's own rules, so that the view equals the store.
        unsent = Unsent(conv, cid or make_cid(), int(kind), clean_text(text), x, _now_ms())
        _check(unsent)
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
            ClientError: `REQUESTS_MAX` wait already.
            Stopped: the client was closed or gave up.
        """
        if self._asking >= REQUESTS_MAX:
            raise ClientError("too many requests wait already")
        self._asking += 1
        try:
            return await self._request(frame, timeout_s)
        finally:
            self._asking -= 1

    async def _request(self, frame: Request, timeout_s: float) -> Any:
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

    # what happens to the connection

    def on_welcome(self, f: Welcome) -> None:
        """Signed in; `synced` follows."""
        super().on_welcome(f)
        self._sync_at = self._next_sync()
        if self._watch is not self._watch_told:  # changed after the hello had left
            self._write(WatchRequest(self._pending.expect(lambda _: None), self._watch))

    def on_disconnected(self) -> None:
        """Nothing is in flight any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._outbox.connection_lost()

    def on_stopped(self, why: Stopped) -> None:
        """Wake whoever waits for an acknowledgement."""
        self._outbox.fail_all(why)

    def _next_sync(self) -> float:
        spread = 0.8 + 0.4 * self._rng.random()
        return float(self._loop.time()) + self._timing.sync_every_s * spread

    def on_caught_up(self) -> None:
        """A sync is complete."""
        for conv, read in self._marked.items():
            view = self.feeds.convs.get(conv)
            if view is not None and (view.my.read or 0) < read:
                self._marks[conv] = max(read, self._marks.get(conv, 0))
                self._marks_due = self._loop.time()
        if self.link is not ev.Link.ONLINE and self._signed_in.is_set():
            self._set_link(ev.Link.ONLINE)

    def on_sync_failed(self, error: Exception) -> None:
        """The server refused a sync: ask again a little later."""
        self.feeds.abandon_sync()
        self.feeds.want_sync()
        retry_ms = error.retry_ms if isinstance(error, ServerError) else 0
        self._sync_not_before = self._loop.time() + max(retry_ms / 1000, self._timing.backoff_s)

    # timers: one handle for whatever is due first

    def frames_received(self, frames: list[Any]) -> None:
        """Called by the connection."""
        super().frames_received(frames)
        self._pump()

    def frame_refused(self) -> None:
        """Called by the connection."""
        super().frame_refused()
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
        now = self._loop.time()
        if not self._beat(now):
            return
        if now >= self._sync_at:
            self._sync_at = self._next_sync()
            self.feeds.want_sync()
        if self._marks_due is not None and now >= self._marks_due:
            self._write_marks()
        self._pump()

    # writing

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

        frame = _frame_of(self._pending.expect(settle), entry.unsent)
        if self._is_too_large(frame):
            self._pending.forget(frame.rid)
            advice = "Send it in several parts."
            settle(ServerError(Code.SIZE_LIMIT, "too large for this server", -1, advice))
        else:
            self._write(frame)

    def _is_too_large(self, frame: Send) -> bool:
        """The server would end the connection, this time and each time after."""
        most = self.limits.frame
        if not most or len(frame.text) * CHARACTER_BYTES + REST_BYTES <= most:
            return False
        return len(self._codec.encode(frame)) - HEADER_BYTES > most

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
            said = (outcome.code, outcome.reason, outcome.detail)
            self._emit([ev.SendFailed(unsent.conv, unsent.cid, unsent.text, unsent.x, *said)])

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
                reason = exc.strerror or type(exc).__name__
                log.error("client.state_unsaved", extra={"reason": reason})
                self._emit([ev.StateUnsaved(reason)])
            for entry in entries:
                entry.saved = True
            self._pump()


def _frame_of(rid: int, unsent: Unsent) -> Send:
    return Send(rid, unsent.conv, unsent.cid, unsent.kind, unsent.text, unsent.x)


def _check(unsent: Unsent) -> None:
    """Refuse what no frame can hold: it could neither leave the outbox nor be saved.

    Raises:
        ProtocolError: a field is not what the protocol allows.
    """
    try:
        frame = MSGPACK.encode(_frame_of(1, unsent))
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError("a field of the message cannot be sent", Code.INVALID) from None
    MSGPACK.decode_client(frame[HEADER_BYTES:])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["Client", "OutboxFull", "ServerError", "Stopped", "TokenSource"]
