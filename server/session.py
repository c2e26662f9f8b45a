"""One peer that speaks PWP, whatever carries its bytes (docs/protocol.md, flow control).

A session is fed whole payloads by its connection, checks state, rates and slots, and hands
requests to the router's handlers. It never awaits: work that does runs in tasks that the core
owns, and their replies come back through `settle`.
"""

import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from protocol.codec import Codec
from protocol.codes import WEBSOCKET_CLOSE_BASE, Code
from protocol.envelopes import Bye, Err, Frame, GoAway, Hello, Notice, Reply, Resync
from protocol.errors import FrameError, Malformed, ProtocolError, TooDeep
from protocol.states import State, next_state
from server.errors import INTERNAL, Failure, explain
from server.outbox import Flusher, Join, Outbox

if TYPE_CHECKING:
    from server.core import Core

log = logging.getLogger("parlance.session")

TURN_FRAMES: Final = 64
"""Frames handled for one connection before others get their turn."""
MALFORMED_ALLOWED: Final = 2
_WORKING: Final = (State.OPEN, State.DRAINING)
MOVE_AFTER_S: Final = (12 * 3600.0, 24 * 3600.0)
"""Age at which a connection is asked to reconnect, so that a node never collects them all."""
MOVE_WITHIN_MS: Final = 600_000
CLOSE_GRACE_S: Final = 5.0
EXPIRY_NOTICE_S: Final = 120.0
PROBE_S: Final = 15.0
"""How long a silent WebSocket peer has to answer a protocol-level ping."""


class Carrier(Protocol):
    """What a session needs from the connection that carries it.

    Attributes:
        transport_name: "tcp" or "ws", for metrics.
        address: the peer's IP address.
    """

    @property
    def transport_name(self) -> str: ...
    @property
    def address(self) -> str: ...

    def signed_in(self) -> None:
        """The peer is known now: take frames of full size from it."""

    def pause_reading(self) -> None:
        """Stop taking bytes from the peer."""

    def resume_reading(self) -> None:
        """Take bytes again."""

    def ping(self) -> bool:
        """Ask for a sign of life below PWP; False when this transport has none."""

    def shut(self, code: int, reason: str) -> None:
        """Close in the transport's way, after what was written has gone out."""

    def abort(self) -> None:
        """Drop the connection now."""


class Session:
    """State of one connection from its first message to its end.

    Attributes:
        user, tenant, device: who this is; 0 and empty before sign-in.
        family: the sign-in that its token belongs to; 0 for a token that stands alone.
        lang: the language its interface has, as a tag like "zh-CN".
        watched: conversations whose passing events and AI text it wants.
        caps: negotiated capability bits.
        only_user: nobody else may sign in here; 0 for no such rule.
        whole_answers: an answer is sent once more, whole, when it has ended.
        last_rx: loop time of the last bytes from the peer.
        inflight: requests whose work has not ended.

    Args:
        now: loop time.
        hello_due: loop time at which `hello` must be complete.
    """

    __slots__ = (
        "_bad_frames",
        "_byte_tokens",
        "_carrier",
        "_core",
        "_excess_since",
        "_leave_at",
        "_misses",
        "_misses_at",
        "_noticed",
        "_reading",
        "_ready",
        "_resuming",
        "_stash",
        "_throttled",
        "_tokens",
        "caps",
        "codec",
        "device",
        "expires",
        "family",
        "heartbeat_s",
        "id",
        "inflight",
        "lang",
        "last_rx",
        "only_user",
        "outbox",
        "state",
        "stranger",
        "tenant",
        "typing_at",
        "user",
        "watched",
        "whole_answers",
    )

    def __init__(
        self,
        core: "Core",
        carrier: Carrier,
        codec: Codec,
        make_outbox: Callable[[Callable[[str], None], Callable[[], bytes]], Outbox],
        now: float,
        hello_due: float,
    ) -> None:
        self._core = core
        self._carrier = carrier
        self.codec = codec
        self.outbox = make_outbox(self._slow, self._encode_resync)
        self.state = State.NEW
        self.id = 0
        self.user = 0
        self.tenant = 0
        self.device = b""
        self.family = 0
        self.lang = ""
        self.caps = 0
        self.watched: tuple[int, ...] = ()
        self.only_user = 0
        self.whole_answers = False
        self.heartbeat_s = core.policy.heartbeat_s
        self.expires = 0.0
        self.last_rx = now
        self.inflight = 0
        self.typing_at = 0.0
        self.stranger = True
        self._stash: deque[bytes] | None = None
        self._ready = False
        self._resuming = False
        self._reading = True
        self._throttled = False
        self._tokens = core.policy.burst
        self._byte_tokens = core.policy.bytes_burst
        self._excess_since = 0.0
        self._bad_frames = 0
        self._misses = 0
        self._misses_at = 0.0
        self._noticed = False
        self._leave_at = now + random.uniform(*MOVE_AFTER_S)
        core.wheel.add(self, hello_due)
        core.stats.opened(carrier.transport_name)

    @property
    def transport_name(self) -> str:
        """ "tcp" or "ws"."""
        return self._carrier.transport_name

    @property
    def address(self) -> str:
        """The peer's IP address."""
        return self._carrier.address

    # bytes in

    def receive(self, payloads: Sequence[bytes], size: int) -> None:
        """Handle whole payloads that arrived together, and write the answers at once.

        Args:
            size: bytes read for them, which the byte allowance is charged.
        """
        self._charge(size)
        outbox = self.outbox
        outbox.corked = True
        self._process(payloads)
        outbox.corked = False
        outbox.flush()

    def receive_one(self, payload: bytes, size: int) -> None:
        """Handle the only payload of a read: `receive` without its loop, for the common case."""
        self._charge(size)
        if self._ready and self._stash is None:
            reply = self._handle(payload)
            if reply is not None:
                self.outbox.answer(reply)
        else:
            self._process((payload,))

    def _charge(self, size: int) -> None:
        """Note that bytes came, and take them out of the allowances refilled since the last."""
        core = self._core
        policy = core.policy
        now = core.clock()
        elapsed = now - self.last_rx
        self.last_rx = now
        tokens = self._tokens + elapsed * policy.rate
        self._tokens = tokens if tokens < policy.burst else policy.burst
        left = self._byte_tokens + elapsed * policy.bytes_per_s
        self._byte_tokens = left = (
            left if left < policy.bytes_burst else policy.bytes_burst
        ) - size
        if left < 0:
            self._throttle(-left / policy.bytes_per_s)

    def _process(self, payloads: Sequence[bytes]) -> None:
        many = len(payloads) > TURN_FRAMES and self.state is not State.NEW
        if self._stash is not None or many:
            self._stash_all(payloads)
            if not self._ready:
                return
            payloads = self._take_stash()
        for at, payload in enumerate(payloads):
            if not self._ready and self.state is not State.NEW:
                if self.state is not State.CLOSED:
                    self._stash_all(payloads[at:], first=True)
                return
            reply = self._handle(payload)
            if reply is not None:
                self.outbox.reply(reply)

    def _handle(self, payload: bytes) -> bytes | None:
        """Return the encoded reply when there is one at once."""
        try:
            frame = self.codec.decode_client(payload)
        except Malformed as exc:
            self._refuse_malformed(exc)
            return None
        if not self._ready:
            self._handshake(frame)
            return None
        core = self._core
        handler = core.handlers.get(type(frame))
        if handler is None:
            self.bye(Code.WRONG_STATE, "not now")
            return None
        self._tokens -= handler.weight
        if self._tokens < 0 and not self._within_rate(frame):
            return None
        handler.count += 1
        try:
            reply = handler.start(core, self, frame)
        except Exception as exc:
            self.fail(getattr(frame, "rid", 0), exc)
            return None
        return None if reply is None else self.codec.encode(reply)

    def _handshake(self, frame: Any) -> None:
        if type(frame) is not Hello:
            try:
                next_state(self.state, type(frame))
            except ProtocolError as exc:
                self.bye(exc.code, "hello comes first")
            else:
                self.hang_up()
            return
        self.state = State.ATTACHING
        core = self._core
        if not core.gate.enter(lambda: core.sign_in(self, frame)):
            spread_ms = core.gate.spread_ms
            self.bye(Code.OVERLOADED, "too many sign-ins", 1000, spread_ms)

    def opened(self) -> None:
        """Sign-in is complete: requests are handled from now on, stashed ones first."""
        self.state = State.OPEN
        self._carrier.signed_in()
        self._update_ready()

    # stash: payloads that must wait for a slot, for sign-in, or for their turn

    def _stash_all(self, payloads: Sequence[bytes], first: bool = False) -> None:
        if self._stash is None:
            self._stash = deque(payloads)
        elif first:
            self._stash.extendleft(reversed(payloads))
        else:
            self._stash.extend(payloads)
        self._update_reading()
        self._resume_soon()

    def _resume_soon(self) -> None:
        """Go on with the stash in the next tick: once, however many ask for it."""
        if self._ready and self._stash is not None and not self._resuming:
            self._resuming = True
            self._core.loop.call_soon(self._resume_stash)

    def _take_stash(self) -> list[bytes]:
        stash = self._stash
        if stash is None:
            return []
        taken = [stash.popleft() for _ in range(min(TURN_FRAMES, len(stash)))]
        if not stash:
            self._stash = None
        return taken

    def _resume_stash(self) -> None:
        self._resuming = False
        if not self._ready or self._stash is None:
            self._update_reading()
            return
        taken = self._take_stash()
        rest, self._stash = self._stash, None
        self.outbox.corked = True
        self._process(taken)
        self.outbox.corked = False
        self.outbox.flush()
        if rest:
            self._stash_all(rest)
        self._update_reading()

    def _update_ready(self) -> None:
        self._ready = (
            self.state in _WORKING
            and not self._throttled
            and self.inflight < self._core.policy.inflight
        )
        self._resume_soon()
        self._update_reading()

    def _update_reading(self) -> None:
        wanted = self._stash is None and not self._throttled
        if wanted == self._reading or self.state is State.CLOSED:
            return
        self._reading = wanted
        if wanted:
            self.last_rx = self._core.clock()
            self._carrier.resume_reading()
        else:
            self._carrier.pause_reading()

    # rates

    def _within_rate(self, frame: Any) -> bool:
        """Slow the peer down; False when this frame was refused."""
        policy = self._core.policy
        now = self._core.clock()
        wait_s = -self._tokens / policy.rate
        if not self._excess_since:
            self._excess_since = now
        elif now - self._excess_since > policy.rate_close_s:
            self.bye(Code.RATE, "rate")
            return False
        self._throttle(wait_s)
        if wait_s <= policy.rate_pause_s:
            return True
        self._tokens += self._core.handlers[type(frame)].weight
        self._core.stats.refused_rate += 1
        rid = getattr(frame, "rid", None)  # 0 on the JSON door when the client chose none
        if rid is not None:
            self._send_err(rid, Failure(Code.RATE, "rate", None, int(wait_s * 1000)))
        return False

    def _throttle(self, wait_s: float) -> None:
        if self._throttled or self.state is State.CLOSED:
            return
        self._throttled = True
        self._core.loop.call_later(min(wait_s, self._core.policy.rate_pause_s), self._unthrottle)
        self._update_ready()

    def _unthrottle(self) -> None:
        self._throttled = False
        if self.state is State.CLOSED:
            return
        policy = self._core.policy
        now = self._core.clock()
        elapsed = now - self.last_rx
        self.last_rx = now
        self._tokens = min(policy.burst, self._tokens + elapsed * policy.rate)
        self._byte_tokens = min(
            policy.bytes_burst, self._byte_tokens + elapsed * policy.bytes_per_s
        )
        if self._stash is None:
            # It waits for its answers: merely fast. Who sends on and on is in excess all the time.
            self._excess_since = 0.0
        self._update_ready()

    # work that takes longer than a call

    def hold_slot(self) -> None:
        """A request goes on after its handler has returned."""
        self.inflight += 1
        if self.inflight >= self._core.policy.inflight:
            self._update_ready()

    def free_slot(self) -> None:
        """That request's work has ended, whatever became of it."""
        self.inflight -= 1
        if not self._ready and self.state in _WORKING:
            self._update_ready()

    async def serve(self, rid: int, work: Awaitable[Reply | None]) -> None:
        """Await a handler's work and send its reply or its error."""
        core = self._core
        began = core.loop.time()
        try:
            reply = await work
        except Exception as exc:
            self.fail(rid, exc)
        else:
            if reply is not None:
                self.reply(reply)
        finally:
            core.stats.request_seconds.note(core.loop.time() - began)
            self.free_slot()

    # frames out

    def reply(self, frame: Frame) -> None:
        """Send a frame that is never dropped."""
        self.outbox.reply(self.codec.encode(frame))

    def fail(self, rid: int, exc: Exception) -> None:
        """Answer request rid with what went wrong."""
        failure = explain(exc)
        if failure is None:
            log.error("request.crashed", exc_info=exc, extra={"session": self.id})
            failure = INTERNAL
        if failure.code != Code.NOT_FOUND or self.missed():
            self._send_err(rid, failure)

    def _send_err(self, rid: int, failure: Failure) -> None:
        self._core.stats.error(failure.code)
        self.reply(Err(rid, int(failure.code), failure.reason, failure.retry_ms, failure.detail))

    def missed(self) -> bool:
        """Count an id that is unknown to the peer; False when it was one too many, and the end."""
        now = self._core.clock()
        if now - self._misses_at > 60:
            self._misses_at, self._misses = now, 0
        self._misses += 1
        if self._misses <= self._core.policy.lookups_per_min:
            return True
        self.bye(Code.RATE, "too many unknown ids")
        return False

    def _refuse_malformed(self, exc: Malformed) -> None:
        if self.state is State.NEW or isinstance(exc, TooDeep):
            self.bye(exc.code, exc.reason)
            return
        if exc.code == Code.MALFORMED:
            self._bad_frames += 1
            if self._bad_frames > MALFORMED_ALLOWED:
                self.bye(exc.code, exc.reason)
                return
        self._tokens -= 1
        if self._tokens < 0:
            self._throttle(-self._tokens / self._core.policy.rate)
        self._send_err(exc.rid, Failure(exc.code, exc.reason, None, -1))

    def _encode_resync(self) -> bytes:
        return self.codec.encode(Resync([]))

    def _slow(self, reason: str) -> None:
        log.info("session.slow", extra={"session": self.id, "reason": reason})
        self._core.stats.error(Code.SLOW_CONSUMER)
        self._closed(Code.SLOW_CONSUMER)
        self._carrier.abort()

    # the end

    def go_away(self, code: Code, reason: str, drain_ms: int, spread_ms: int) -> None:
        """Ask the peer to move to another connection soon."""
        if self.state is State.OPEN:
            self.state = State.DRAINING
            self.reply(GoAway(int(code), reason, drain_ms, spread_ms))

    def protocol_error(self, exc: ProtocolError | FrameError) -> None:
        """The byte stream is broken."""
        self.bye(exc.code, exc.reason)

    def bye(self, code: Code, reason: str, retry_ms: int | None = None, spread_ms: int = 0) -> None:
        """Tell the peer why, then close. Nothing is handled afterwards."""
        if self.state is State.CLOSED:
            return
        retry = code.default_retry_ms if retry_ms is None else retry_ms
        self.outbox.reply(self.codec.encode(Bye(int(code), reason[:128], retry, spread_ms)))
        self._core.stats.closed_by_us(code)
        self._closed(code)
        self._carrier.shut(WEBSOCKET_CLOSE_BASE + int(code), reason)
        self._core.loop.call_later(CLOSE_GRACE_S, self._carrier.abort)

    def hang_up(self) -> None:
        """The peer said `bye`: close without an answer."""
        if self.state is not State.CLOSED:
            self._closed(None)
            self._carrier.shut(1000, "bye")

    def lost(self) -> None:
        """The connection is gone. Called once by the carrier, also after `bye`."""
        self._closed(None)

    def _closed(self, code: Code | None) -> None:
        if self.state is State.CLOSED:
            return
        core = self._core
        was_open = self.state in _WORKING
        self.state = State.CLOSED
        self._ready = False
        self._stash = None
        self.outbox.close()
        if self.stranger:
            self.stranger = False
            core.strangers.leave(self._carrier.address)
        core.streams.forget(self)
        core.presence.forget(self)
        core.hub.detach(self)
        core.stats.closed(self._carrier.transport_name)
        if was_open:
            log.info(
                "session.closed",
                extra={"session": self.id, "user": self.user, "code": int(code or 0)},
            )

    # deadlines

    def check(self, now: float) -> float | None:
        """Act on the deadlines of this session (see `heartbeat.Timed`)."""
        if self.state is State.CLOSED:
            return None
        if self.state in (State.NEW, State.ATTACHING):
            self.bye(Code.POLICY, "hello is late", 1000)
            return None
        if self.expires and now >= self.expires:
            self.bye(Code.EXPIRED, "token expired")
            return None
        if now >= self._leave_at:
            self._leave_at = math.inf
            self.go_away(Code.DRAINING, "time to move", MOVE_WITHIN_MS, MOVE_WITHIN_MS // 2)
        if not self._reading:
            self.last_rx = now
        silent_at = self.last_rx + 2.5 * self.heartbeat_s
        if now >= silent_at:
            # Browsers throttle the timers of hidden tabs to one a minute: ask below PWP first.
            if now >= silent_at + PROBE_S or not self._carrier.ping():
                self.bye(Code.TIMEOUT, "silent", 0)
                return None
            return silent_at + PROBE_S
        return self._next_due(now, silent_at)

    def _next_due(self, now: float, silent_at: float) -> float:
        due = max(silent_at, now + 1)
        if self.expires:
            if not self._noticed and now >= self.expires - EXPIRY_NOTICE_S:
                self._noticed = True
                self.reply(Notice(1, "sign-in expires soon", self._core.now_ms() + 120_000))
            notice_at = self.expires if self._noticed else self.expires - EXPIRY_NOTICE_S
            due = min(due, max(notice_at, now + 1))
        return due

    def renew(self, expires: float) -> None:
        """The token was renewed: loop time at which the new one ends."""
        self.expires = expires
        self._noticed = False


def make_outbox_factory(
    transport: Any, join: Join, flusher: Flusher
) -> Callable[[Callable[[str], None], Callable[[], bytes]], Outbox]:
    """Return what builds a session's outbox on this transport."""
    return lambda on_slow, resync: Outbox(transport, join, flusher, on_slow, resync)
