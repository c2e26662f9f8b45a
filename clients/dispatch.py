"""What each message of the server does to a client's views, and which events follow."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import clients.events as ev
from clients.errors import Disconnected
from clients.feeds import Feeds
from clients.outbox import Unsent
from clients.pending import Pending
from clients.questions import Questions
from clients.streams import OpenWanted, Streams
from clients.subscription import Subscription
from protocol import envelopes as e
from protocol.codes import NoticeKind
from protocol.rows import MsgX, SendX

log = logging.getLogger("parlance.client")

Listener = Callable[[ev.Event], None]


class Dispatch:
    """The part of a client that takes frames in. Does no I/O by itself.

    Attributes:
        feeds, streams, questions: what is known.
    """

    def __init__(self) -> None:
        self.feeds = Feeds()
        self.streams = Streams()
        self.questions = Questions()
        self._pending = Pending()
        self._marked: dict[int, int] = {}
        self._subscriptions: list[Subscription] = []
        self._listeners: list[Listener] = []
        self._loop: Any = None

    @property
    def user(self) -> int:
        """Who is signed in; 0 before the first sign-in."""
        return self.feeds.user

    # events

    def add_listener(self, listener: Listener) -> None:
        """Call `listener` with every event at once; it must be quick and must not raise."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop calling it."""
        self._listeners.remove(listener)

    def _subscribe(self, limit: int) -> Subscription:
        subscription = Subscription(self._subscriptions.remove, limit)
        self._subscriptions.append(subscription)
        return subscription

    def _close_subscriptions(self) -> None:
        for subscription in list(self._subscriptions):
            subscription.close()

    def _emit(self, events: list[ev.Event]) -> None:
        if not events:
            return
        for subscription in self._subscriptions:
            subscription.put(events)
        for listener in list(self._listeners):
            for event in events:
                try:
                    listener(event)
                except Exception:
                    log.exception("client.listener_failed")

    # frames

    def frames_received(self, frames: list[Any]) -> None:
        """Take what came in one read."""
        self.bytes_came()
        for frame in frames:
            handler = _HANDLERS.get(type(frame))
            if handler is not None:
                handler(self, frame)
            if isinstance(frame, e.Reply) and frame.rid:
                self._pending.answered(frame)

    def frame_refused(self) -> None:
        """A message could not be understood, so a sync must bring its effect."""
        self.feeds.want_sync()

    def bytes_came(self) -> None:
        """Any bytes are a sign of life."""

    def on_welcome(self, f: e.Welcome) -> None:
        """Signed in."""
        raise NotImplementedError

    def on_bye(self, f: e.Bye) -> None:
        """The server ends the connection."""
        raise NotImplementedError

    def on_goaway(self, f: e.GoAway) -> None:
        """The server asks us to leave."""
        raise NotImplementedError

    def on_token_expiring(self) -> None:
        """The token ends soon."""
        raise NotImplementedError

    def on_caught_up(self) -> None:
        """A sync is complete."""
        raise NotImplementedError

    def on_sync_failed(self, error: Exception) -> None:
        """A sync was refused."""
        raise NotImplementedError

    def _write(self, frame: Any) -> None:
        raise NotImplementedError

    # feeds

    def _now(self) -> float:
        return float(self._loop.time())

    def _take(self, events: Iterable[ev.Event]) -> None:
        """Emit events of the feeds, and end the streams whose message is there now."""
        out: list[ev.Event] = []
        for event in events:
            out.append(event)
            if isinstance(event, ev.MessageAdded | ev.MessageChanged) and event.msg.x is not None:
                out += self.streams.stored(event.conv, event.msg)
        self._emit(out)

    def _on_item(self, f: Any) -> None:
        self._take(self.feeds.push(f, self._now()))

    def _on_synced(self, f: e.Synced) -> None:
        if not f.rid:
            self._sync_answered(f)

    def _sync_answered(self, outcome: Any) -> None:
        if isinstance(outcome, Disconnected):
            return  # the next hello asks again
        if not isinstance(outcome, e.Synced):
            self.on_sync_failed(outcome)
            return
        self._take(self.feeds.finish_sync(outcome, self._now()))
        self._emit(self.streams.resume(outcome.streams))
        if not self.feeds.syncing and self.feeds.due() != 0.0:
            self.on_caught_up()

    def _on_resync(self, f: e.Resync) -> None:
        self.feeds.want_sync()

    def _acknowledged(self, unsent: Unsent, sent: e.Sent) -> None:
        """Our own message is stored; unless repeated, `sent` stands for its push."""
        if not sent.dup:
            push = e.MsgPush(
                sent.conv,
                sent.rev,
                sent.seq,
                sent.ts,
                self.user,
                unsent.kind,
                unsent.text,
                _stored_x(unsent.x, unsent.cid),
            )
            self._take(self.feeds.push(push, self._now()))
        self._emit([ev.SendDone(sent.conv, unsent.cid, sent.seq, sent.sid or 0)])

    def _on_page(self, f: e.Page) -> None:
        self._take(self.feeds.add_messages(f.conv, f.msgs))

    def _on_conv_info(self, f: e.ConvInfo) -> None:
        self._take(self.feeds.add_info(f, self._now()))

    def _on_conv_page(self, f: e.ConvPage) -> None:
        self._take(self.feeds.add_list(f, self._now()))

    # streams

    def _take_wanted(self) -> list[OpenWanted]:
        wanted, self.streams.wanted = self.streams.wanted, []
        return wanted

    def _write_open(self, wanted: OpenWanted) -> None:
        def settle(outcome: Any) -> None:
            # The reply itself is taken by its handler.
            if isinstance(outcome, Exception):
                self.streams.open_failed(wanted)

        rid = self._pending.expect(settle)
        self._write(e.Open(rid, wanted.sid, wanted.part, wanted.off))

    def _on_opened(self, f: e.Opened) -> None:
        self._emit(self.streams.opened(f))

    def _on_stream_start(self, f: e.StreamStart) -> None:
        self._emit(self.streams.start(f))

    def _on_stream_queued(self, f: e.StreamQueued) -> None:
        self._emit(self.streams.queued(f))

    def _on_stream_delta(self, f: e.StreamDelta) -> None:
        self._emit(self.streams.delta(f))

    def _on_stream_end(self, f: e.StreamEnd) -> None:
        events, push, missing = self.streams.end(f)
        events = [*self.questions.stream_ended(f.sid), *events]
        if push is not None:
            self._take(self.feeds.push(push, self._now()))
        if missing and self.feeds.known(f.conv) < f.rev:
            self._fetch(f)
        self._emit(events)

    def _fetch(self, f: e.StreamEnd) -> None:
        """Get a message whose end did not suffice; its revision counts once the row is here."""

        def settle(outcome: Any) -> None:
            if isinstance(outcome, Disconnected):
                return  # the next hello asks for it
            rows = outcome.msgs if isinstance(outcome, e.Page) else []
            if any(msg.seq == f.seq and msg.rev >= f.rev for msg in rows):
                self._take(self.feeds.push(e.Skip(f.conv, f.rev), self._now()))
            else:
                self.feeds.want_sync()

        self._write(e.Get(self._pending.expect(settle), f.conv, [f.seq]))

    def _on_tool_ask(self, f: e.ToolAsk) -> None:
        self._emit(self.questions.asked(f))

    def _on_tool_settled(self, f: e.ToolSettled) -> None:
        self._emit(self.questions.settled(f))

    def _on_watching(self, f: e.Watching) -> None:
        if f.pres:
            self._emit([ev.PresenceSeen(tuple(f.pres))])
        self._emit(self.streams.join(f.streams))

    # passing things

    def _on_typing(self, f: e.TypingAt) -> None:
        self._emit([ev.TypingSeen(f.conv, f.user, f.state)])

    def _on_presence(self, f: e.Presence) -> None:
        self._emit([ev.PresenceSeen(tuple(f.items))])

    def _on_receipt(self, f: e.Receipt) -> None:
        self._emit(self.feeds.add_receipt(f))

    def _on_notice(self, f: e.Notice) -> None:
        if f.kind == NoticeKind.AUTH_EXPIRING:
            self.on_token_expiring()
        self._emit([ev.NoticeSeen(f.kind, f.text, f.expires or 0)])


def _stored_x(x: SendX | None, cid: bytes) -> MsgX:
    """Return what the server stores of the options of a `send`."""
    if x is None:
        return MsgX(cid=cid)
    return MsgX(
        cid=cid,
        quote=x.quote,
        fwd_conv=x.fwd_conv,
        fwd_seq=x.fwd_seq,
        mentions=x.mentions,
        fmt=x.fmt,
        meta=x.meta,
    )


_HANDLERS: Final[dict[type[Any], Callable[[Any, Any], None]]] = {
    e.Welcome: lambda client, f: client.on_welcome(f),
    e.Bye: lambda client, f: client.on_bye(f),
    e.GoAway: lambda client, f: client.on_goaway(f),
    e.Synced: Dispatch._on_synced,
    e.Resync: Dispatch._on_resync,
    e.MsgPush: Dispatch._on_item,
    e.ConvPush: Dispatch._on_item,
    e.MemberPush: Dispatch._on_item,
    e.MyConvPush: Dispatch._on_item,
    e.PersonaPush: Dispatch._on_item,
    e.ProfilePush: Dispatch._on_item,
    e.DevicePush: Dispatch._on_item,
    e.Skip: Dispatch._on_item,
    e.Page: Dispatch._on_page,
    e.ConvInfo: Dispatch._on_conv_info,
    e.ConvPage: Dispatch._on_conv_page,
    e.Opened: Dispatch._on_opened,
    e.StreamStart: Dispatch._on_stream_start,
    e.StreamQueued: Dispatch._on_stream_queued,
    e.StreamDelta: Dispatch._on_stream_delta,
    e.StreamEnd: Dispatch._on_stream_end,
    e.ToolAsk: Dispatch._on_tool_ask,
    e.ToolSettled: Dispatch._on_tool_settled,
    e.Watching: Dispatch._on_watching,
    e.TypingAt: Dispatch._on_typing,
    e.Presence: Dispatch._on_presence,
    e.Receipt: Dispatch._on_receipt,
    e.Notice: Dispatch._on_notice,
}
